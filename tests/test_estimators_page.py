"""docs/estimators.md: its code gives autodiff of plain loops, its table is what the estimators declare."""

import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml import estimators

PAGE = (pathlib.Path(__file__).parents[1] / "docs/estimators.md").read_text()


def test_examples_are_autodiff_of_plain_loops():
    rates_code, learned_code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(rates_code, names)
    loss, episodes, first = names["loss"], names["episodes"], names["found"]
    start = {"body": jnp.eye(3, 8), "head": jnp.linspace(-1.0, 1.0, 8)}
    rates = {"body": jnp.full((5, 3, 8), 0.05), "head": jnp.full(5, 0.1)}

    def with_rates(params, rates):
        def one(task):
            w = params
            for k in range(5):
                g = jax.grad(loss)(w, task.inner)
                w = {name: w[name] - rates[name][k] * g[name] for name in w}
            return loss(w, task.outer)

        return jax.vmap(one)(episodes).mean()

    exec(learned_code, names)
    second, given = names["learning"], names["everything"]

    def with_learned_loss(everything, alpha):
        def inner(w, batch):
            fit = jnp.tanh(batch[0] @ w["body"]) @ w["head"] - batch[1]
            size = jnp.sum(w["body"] ** 2) + jnp.sum(w["head"] ** 2)
            return (
                jnp.mean(jnp.log1p(jnp.exp(everything["slope"] * fit**2)))
                + jnp.exp(everything["log_decay"]) * size / 2
            )

        def one(task):
            w = everything["w"]
            for _ in range(3):
                w = jax.tree.map(lambda x, g: x - alpha * g, w, jax.grad(inner)(w, task.inner))
            return loss(w, task.outer)

        return jax.vmap(one)(episodes) @ jnp.array([1.0, 2.0, 1.0, 3.0]) / 7

    @jax.jit
    def plain(params, rates, everything):
        of_rates = jax.value_and_grad(with_rates, (0, 1))(params, rates)
        return of_rates, jax.value_and_grad(with_learned_loss, (0, 1))(everything, 0.1)

    for found, (value, gradient) in zip((first, second), plain(start, rates, given), strict=True):
        chex.assert_trees_all_close((found.value, found.gradient, found.rates), (value, *gradient), rtol=1e-9)
    assert abs(second.gradient["slope"]) > 1e-3
    assert abs(second.gradient["log_decay"]) > 1e-5
    chex.assert_trees_all_close(
        names["params"], jax.tree.map(lambda w, g: w - 0.01 * g, start, first.gradient), rtol=1e-12
    )


def test_table_is_what_is_declared():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*?) \| (.*?) \| \w+ \|$", PAGE, re.MULTILINE)
    assert {name for name, *_ in rows} == set(estimators.estimators())
    for name, objective, count in rows:
        formula = (
            re.search(r"\$(.*?)\$", count)[1].replace("2(", "2*(").replace("4(", "4*(").replace("3K", "3*K")
        )
        for K in (1, 7):
            assert eval(formula, {"K": K, "m": 5}) == estimators.gradients(name, K)
        same = objective.startswith("the same")
        assert same or objective.startswith(estimators.objective(name)), name
        if same:
            assert estimators.objective(name) == estimators.objective("maml")
    np.testing.assert_equal(len(rows), 7)
