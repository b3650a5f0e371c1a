"""The examples of docs/your-model.md run, are short, and give the right meta-gradient."""

import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxmaml

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/your-model.md").read_text()
EXAMPLES = re.findall(r"## A flax.(\w+) module\n\n```python\n(.*?)```", PAGE, re.DOTALL)


def test_both_are_there():
    assert [library for library, _ in EXAMPLES] == ["nnx", "linen"]


@pytest.mark.parametrize(("library", "code"), EXAMPLES, ids=[library for library, _ in EXAMPLES])
def test_example(library, code):
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    names = {}
    exec(code, names)
    params, episodes = names["params"], names["episodes"]

    def loss(p, batch):
        x, y = batch
        z = jnp.tanh(x @ p["body"]["kernel"] + p["body"]["bias"]) @ p["head"]["kernel"] + p["head"]["bias"]
        if library == "nnx":
            return jnp.mean((z - y) ** 2)
        return -jnp.mean(jnp.sum(jax.nn.one_hot(y, 5) * jax.nn.log_softmax(z), axis=1))

    def direction(episode):
        gradient = jax.grad(loss)
        adapted = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient(params, episode.inner))
        v = gradient(adapted, episode.outer)
        product = jax.jvp(lambda p: gradient(p, episode.hessian), (params,), (v,))[1]
        return jax.tree.map(lambda a, b: a - 0.1 * b, v, product)

    each = jax.jit(jax.vmap(direction))(episodes)
    expected = jax.tree.map(lambda g: g.mean(axis=0), each)
    # Parameters are float32; the linen example takes differences, with an error of delta^2 and eps / delta.
    chex.assert_trees_all_close(names["gradient"], expected, rtol=1e-4, atol=1e-5)


def test_inner_updates_of_optax():
    """The example asserts its own answers."""
    (code,) = re.findall(r"## Inner updates of optax\n.*?```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})


def test_unequal_clients():
    """The filled batches give the loss and gradient of all clients' own samples, each by its size."""
    (code,) = re.findall(r"## Unequal clients.*?```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)

    def alone(w, x, y):
        def loss(w):
            return jnp.mean((x @ w - y) ** 2)

        return loss(w - 0.1 * jax.grad(loss)(w))

    def mean(w):
        return sum(len(y) * alone(w, x, y) for x, y in names["clients"]) / sum(names["sizes"])

    value, gradient = jax.value_and_grad(mean)(jnp.zeros(4))
    found = names["found"]
    chex.assert_trees_all_close((found.value, found.gradient), (value, gradient), rtol=1e-5, atol=1e-6)


def test_tasks_on_several_devices():
    (code,) = re.findall(r"## Tasks on several devices.*?```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(
        re.findall(
            r"```python\n(.*?)params = ", (ROOT / "docs" / "meta-gradients.md").read_text(), re.DOTALL
        )[0],
        names,
    )
    exec(code, names)
    params = {"a": jnp.linspace(-1.0, 1.0, 96).reshape(3, 32), "b": jnp.linspace(1.0, 2.0, 32)}
    episodes = jaxmaml.Episode(*map(names["sample"], jax.random.split(jax.random.key(3), 3)))
    found = names["direction"](params, episodes)
    each = [
        jaxmaml.maml(names["loss"], params, jax.tree.map(lambda x, i=i: x[i], episodes), alpha=0.05)
        for i in range(16)
    ]
    assert len(found["a"].sharding.device_set) == 2
    chex.assert_trees_all_close(found, jax.tree.map(lambda *g: sum(g) / 16, *each), rtol=1e-10)
