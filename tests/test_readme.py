"""What the README promises: its code runs and learns, its files exist, its make targets too."""

import pathlib
import re
import warnings

import chex
import jax
import jax.numpy as jnp
from compilations import compilations

import jaxmaml
from jaxmaml.measure import UNITS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def code_of(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_readme_is_short_and_its_example_learns():
    assert len(README.splitlines()) <= 60
    (code,) = code_of("README.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    names = {}
    with compilations() as compiled:
        exec(code, names)
    assert compiled.count("jit(step)") == 1
    loss, w = names["loss"], names["w"]
    batches = names["Sinusoid"](support=10, hessian=10, query=10).episodes(jax.random.key(1), 100)

    def adapted(w):
        each = jax.vmap(
            lambda task: loss(jaxmaml.adapt(loss, w, task.inner, 0.01), task.outer),
        )
        return float(jnp.mean(each(batches)))

    start = {"a": jnp.ones((1, 40)), "b": jnp.linspace(-5, 5, 40), "c": jnp.zeros((40, 1))}
    assert adapted(w) < 0.8 * adapted(start)


def test_meta_gradients_page_runs_and_learns():
    code, inner_loops, own_loop = code_of("docs/meta-gradients.md")
    names = {}
    with compilations() as compiled:
        exec(code, names)
    assert compiled.count("jit(step)") == 1
    trained = names["params"]
    exec(inner_loops, names)
    assert names["rates"].shape == ()
    assert (names["adapted"]["a"] == trained["a"]).all()
    assert (names["adapted"]["b"] != trained["b"]).any()
    exec(own_loop, names)

    def unrolled(params, task):
        w = params
        for rate in (0.1, 0.05):
            support, query = (jax.tree.map(lambda x: x[task], b) for b in names["episodes"][::2])
            d = jax.grad(names["loss"])(w, support)
            w = {k: w[k] - rate * (d[k] + w[k] - params[k]) for k in w}
        return names["loss"](w, query)

    expected = jax.jit(jax.value_and_grad(lambda p: sum(unrolled(p, i) for i in range(16)) / 16))(trained)
    chex.assert_trees_all_close((names["value"], names["gradient"]), expected, rtol=1e-9)

    def adapted_loss(params):
        batch = {key: value[5] for key, value in names["episodes"].outer.items()}
        inner = {key: value[5] for key, value in names["episodes"].inner.items()}
        return names["loss"](jaxmaml.adapt(names["loss"], params, inner, 0.05), batch)

    start = {"a": jnp.ones((3, 32)) * jnp.linspace(-1, 1, 32), "b": jnp.zeros(32)}
    assert adapted_loss(names["params"]) < 0.7 * adapted_loss(start)


def test_example_of_the_measured_constants():
    code, *_ = code_of("docs/constants.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code, names)
    measured = names["measured"]
    assert measured.points == 8
    assert all(getattr(measured, name).value > 0 for name in UNITS)
    assert names["L"] == measured.L.value


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_code_that_the_docs_name_exists():
    places = [
        ROOT,
        ROOT / "jaxmaml",
        ROOT / "jaxmaml/theory",
        ROOT / "jaxmaml/estimators",
        ROOT / "experiments",
    ]
    places += [ROOT / "experiments/claims", ROOT / "tests"]
    for page in (ROOT / "docs").glob("*.md"):
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text()):
            assert any((place / name).exists() for place in places), f"{page.name}: {name}"
