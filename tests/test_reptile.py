"""Reptile against a loop in NumPy; with one step it is SGD on the tasks' mean loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmaml
from jaxmaml import Episode, InnerLoop, reptile

pytestmark = pytest.mark.recorded

RNG = np.random.default_rng(6)
W = {"one": RNG.standard_normal(1) + 2, "two": 3 * RNG.standard_normal(2)}
BATCHES = [(RNG.standard_normal((4, n, 3)), 2 * RNG.standard_normal((4, n))) for n in (5, 2, 6)]
EPISODES = Episode(*BATCHES)
RATES = {"one": 0.05, "two": 0.11}
VECTOR = np.array([0.05, 0.11, 0.11])
MASK = {"one": False, "two": True}
STEPS = 3
CALLS = {
    "rate": {"alpha": 0.07, "inner": InnerLoop(STEPS)},
    "rates": {"alpha": RATES, "inner": InnerLoop(STEPS)},
    "no rate": {"alpha": 0.0, "inner": InnerLoop(STEPS)},
    "mask": {"alpha": RATES, "inner": InnerLoop(STEPS, MASK)},
    "one step": {"alpha": 0.07},
    "optax": {"alpha": optax.sgd(0.07), "inner": InnerLoop(STEPS)},
}


def loss(w, batch):
    """Not quadratic."""
    x, y = batch
    return jnp.mean((x @ jnp.concatenate([w["one"], w["two"]]) - y) ** 2 + jnp.cos(w["one"][0] * w["two"][1]))


def slope(w, batch):
    x, y = batch
    found = 2 * (x * (x @ w - y)[:, None]).mean(axis=0)
    return found - np.sin(w[0] * w[2]) * np.array([w[2], 0.0, w[0]])


def loop(batch, rates, steps, free=1.0):
    """(the sum of the inner gradients, w_K)"""
    w, total = np.concatenate([W["one"], W["two"]]), 0.0
    for _ in range(steps):
        g = free * slope(w, batch)
        w, total = w - rates * g, total + g
    return total, w


@functools.cache
def found():
    @jax.jit
    def every(w, episodes):
        return {
            name: jaxmaml.meta_value_and_gradient(reptile, loss, w, episodes, **call)[:2]
            for name, call in CALLS.items()
        }

    each = every(W, EPISODES)
    return {name: (value, np.concatenate([g["one"], g["two"]])) for name, (value, g) in each.items()}


@pytest.mark.parametrize(
    ("name", "rates", "steps", "free"),
    [
        ("rate", 0.07, STEPS, 1.0),
        ("rates", VECTOR, STEPS, 1.0),
        ("no rate", 0.0, STEPS, 1.0),
        ("mask", VECTOR, STEPS, np.array([0.0, 1.0, 1.0])),
        ("one step", 0.07, 1, 1.0),
        ("optax", 0.07, STEPS, 1.0),
    ],
)
def test_equals_a_loop(name, rates, steps, free):
    """The sum of inner gradients, (w - w_K)/alpha; with an optax update w - w_K. The value is f(w_K; D_o)."""
    batches = [tuple(x[j] for x in EPISODES.inner) for j in range(4)]
    totals, ends = zip(*(loop(batch, rates, steps, free) for batch in batches), strict=True)
    w = np.concatenate([W["one"], W["two"]])
    value, direction = found()[name]
    expected = np.mean([w - end for end in ends] if name == "optax" else totals, axis=0)
    np.testing.assert_allclose(direction, expected, rtol=1e-11, atol=1e-13)
    values = [
        np.mean((EPISODES.outer[0][j] @ end - EPISODES.outer[1][j]) ** 2) + np.cos(end[0] * end[2])
        for j, end in enumerate(ends)
    ]
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-11)


def test_the_step_of_the_paper():
    """SGD with the rate epsilon alpha is w + epsilon (w_K - w), averaged over tasks."""
    epsilon, alpha = 0.3, 0.07
    ends = [loop(tuple(x[j] for x in EPISODES.inner), alpha, STEPS)[1] for j in range(4)]
    w = np.concatenate([W["one"], W["two"]])
    sgd = optax.sgd(epsilon * alpha)
    updates, _ = sgd.update(found()["rate"][1], sgd.init(w))
    np.testing.assert_allclose(w + updates, w + epsilon * (np.mean(ends, axis=0) - w), rtol=1e-12)


def test_one_step_is_sgd_on_the_mean_loss():
    def mean(w):
        return jnp.mean(jax.vmap(loss, (None, 0))(w, EPISODES.inner))

    g = jax.jit(jax.grad(mean))(W)
    np.testing.assert_allclose(found()["one step"][1], np.concatenate([g["one"], g["two"]]), rtol=1e-12)


def test_masked_parameters_on_two_devices():
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))

    @jax.jit
    def shared(w, episodes):
        return jaxmaml.meta_gradient(reptile, loss, w, episodes, mesh=mesh, **CALLS["mask"])

    g = shared(W, EPISODES)
    np.testing.assert_allclose(np.concatenate([g["one"], g["two"]]), found()["mask"][1], rtol=1e-12)


def test_there_are_no_rates_to_learn():
    with pytest.raises(
        TypeError, match="^reptile: got an unexpected keyword argument 'learn_alpha'; allowed: "
    ):
        jaxmaml.meta_gradient(reptile, loss, W, EPISODES, alpha=0.1, learn_alpha=True)
