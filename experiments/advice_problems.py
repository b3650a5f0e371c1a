"""Problems on which the right advice is known, or found by training; small, float64.

Most are sums of a parabola and a wave whose samples carry their own numbers,

    l(w; h, c, a, phi) = sum_j h_j (w_j - c_j)^2 / 2 + a_j cos(2 w_j + phi_j):

h that tasks share has no covariance with anything (FO-MAML does not stall), h that differs has one; samples
that differ in c are noise of gradients, those that differ in h of Hessians.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmaml import measure, models
from jaxmaml.measure import Problem
from jaxmaml.tasks import hf_blind


@dataclass(frozen=True)
class Case:
    """A problem as somebody would bring it, and what should come out."""

    make: Callable[[], Problem]
    known: str
    """the answer, in a phrase."""
    alpha: float
    """in force."""
    outer_steps: int
    """planned."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """what is not as by default, of tasks, D_in, D_h, D_o."""
    inner_steps: int = 1


def wave(w: jax.Array, batch: tuple[jax.Array, ...]) -> jax.Array:
    """The mean over samples of the loss above; leaves of batch have shape (samples, d)."""
    h, c, a, phi = batch
    return jnp.mean(jnp.sum(0.5 * h * jnp.square(w - c) + a * jnp.cos(2 * w + phi), axis=-1))


def waves(
    tasks: int,
    samples: int,
    h: tuple[float, float],
    *,
    d: int = 6,
    differ: float = 0.0,
    a: float = 0.0,
    noise: float = 0.0,
    noise_h: float = 0.0,
    start: float = 2.0,
    seed: int = 0,
) -> Problem:
    """Tasks whose h lie in this range, the same for all but for the share `differ`; c ~ N(h, 1), so that
    the two are correlated where h differs; noise is that of samples in c, noise_h relative in h."""
    rng = np.random.default_rng(seed)
    low, high = h
    shared = np.linspace(low, high, d)
    own = rng.uniform(low, high, (tasks, d))
    curvature = (1 - differ) * shared + differ * own
    centers = rng.standard_normal((tasks, d)) + 2 * differ * (curvature - curvature.mean(axis=0))
    spread = rng.standard_normal((2, tasks, samples, d))
    spread -= spread.mean(axis=2, keepdims=True) if samples > 1 else spread
    pools = (
        np.maximum(curvature[:, None] * (1 + noise_h * spread[0]), 0.0),
        centers[:, None] + noise * spread[1],
        np.full((tasks, samples, d), a),
        np.broadcast_to(rng.uniform(0, 2 * np.pi, (tasks, 1, d)), (tasks, samples, d)),
    )
    return measure.from_pools(wave, jnp.full(d, start), pools)


def optimum() -> Problem:
    """w0 is where grad F vanishes: two mirror images of each task around it."""
    made = waves(6, 1, (0.5, 2.0), differ=1.0, start=0.0)
    h, c, a, phi = (np.concatenate([x, x]) for x in made.full)
    c[6:] *= -1
    return measure.from_pools(wave, jnp.zeros(6), (h, c, a, phi))


def blind() -> Problem:
    return measure.from_family(hf_blind.make(), jnp.array([1.0]))


def sines(sizes: tuple[int, ...], activation: str, tasks: int = 8) -> Problem:
    """Sines of other phases and amplitudes, 40 samples each, and a network."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-3, 3, (tasks, 40, 1))
    phase, amplitude = rng.uniform(0, np.pi, (tasks, 1, 1)), rng.uniform(0.5, 2, (tasks, 1, 1))
    params, apply = models.split(models.MLP(sizes, activation, rngs=nnx.Rngs(0), param_dtype=jnp.float64))
    return measure.from_pools(models.squared_error(apply), params, (x, amplitude * np.sin(x + phase)))


def logistic(w: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    x, y = batch
    return jnp.mean(jax.nn.softplus(-y * (x @ w))) + 0.01 * jnp.sum(jnp.square(w))


def clients(tasks: int = 20) -> Problem:
    """Logistic regression of clients that differ in scale, position and rule."""
    rng = np.random.default_rng(2)
    d, samples = 5, 30
    scale, middle = rng.uniform(0.3, 2, (tasks, 1, 1)), rng.standard_normal((tasks, 1, d))
    x = scale * (rng.standard_normal((tasks, samples, d)) + middle)
    rule = np.ones(d) + 0.8 * rng.standard_normal((tasks, 1, d))
    y = np.sign(np.sum(x * rule, axis=2) + 0.3 * rng.standard_normal((tasks, samples)))
    return measure.from_pools(logistic, jnp.zeros(d), (x, y))


CASES = {
    "shared_hessians": Case(
        lambda: waves(12, 20, (0.5, 1.0), noise=2.0, start=4.0),
        "fo_maml does not stall, and goes further for the price",
        0.2,
        12,
        {"D_in": 2, "D_h": 2, "D_o": 2},
    ),
    "different_hessians": Case(
        lambda: waves(12, 20, (0.2, 2.0), differ=1.0, noise=0.2), "fo_maml stalls", 0.2, 400
    ),
    "cosine": Case(
        lambda: waves(8, 1, (1.0, 1.0), a=0.4, start=1.0), "fo_maml stalls, without noise", 0.2, 400
    ),
    "hf_blind": Case(blind, "the theorem's difference does not see what fo_maml misses", 1.0, 400),
    "one_task": Case(
        lambda: waves(1, 20, (0.5, 2.0), noise=0.5, start=3.0), "B = 1, no stall", 0.2, 200, {"tasks": 1}
    ),
    "few_tasks": Case(
        lambda: waves(6, 1, (0.2, 2.0), differ=1.0), "all six tasks in each step, exact", 0.2, 400
    ),
    "relu_network": Case(
        lambda: sines((1, 16, 1), "relu"),
        "kinks: nothing follows from rho",
        0.02,
        150,
        {"tasks": 8, "D_o": 20},
    ),
    "clients": Case(clients, "at most 20 clients", 0.3, 200),
    "large_alpha": Case(
        lambda: waves(12, 20, (1.6, 2.4), differ=0.3, noise=0.1), "alpha near 1/h = 0.5", 0.017, 200
    ),
    "few_samples": Case(
        lambda: waves(12, 20, (0.5, 2.0), differ=0.5, noise=2.0, noise_h=0.3),
        "samples limit alpha",
        0.5,
        200,
        {"D_in": 2, "D_h": 2},
    ),
    "deep_network": Case(
        lambda: sines((1, 12, 12, 12, 1), "tanh"), "far from its end", 0.05, 150, {"D_o": 20}
    ),
    "at_the_optimum": Case(optimum, "nothing to gain from steps; alpha alone", 0.2, 200),
}


def softmax(params: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    x, y = batch
    logits = x @ params
    chosen = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - chosen) + 0.005 * jnp.sum(jnp.square(params))


def digits() -> Problem:
    """Pairs of scikit-learn's digits, of 16 numbers a picture, two classes a task."""
    import sklearn.datasets

    data = sklearn.datasets.load_digits()
    pictures = data.images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16) / 16
    rng = np.random.default_rng(3)
    x, y = [], []
    for _ in range(16):
        pair = rng.choice(10, 2, replace=False)
        for label, digit in enumerate(pair):
            x.append(pictures[rng.choice(np.flatnonzero(data.target == digit), 20, replace=False)])
            y.append(np.full(20, label))
    return measure.from_pools(
        softmax, jnp.zeros((16, 2)), (np.reshape(x, (16, 40, 16)), np.reshape(y, (16, 40)))
    )


HELD_BACK = {
    "digits": Case(digits, "many pairs of classes, five pictures each", 0.5, 200, {"D_in": 10, "D_o": 20}),
    "two_inner_steps": Case(
        lambda: waves(10, 20, (0.2, 2.0), differ=1.0, noise=0.3, seed=5),
        "fo_maml stalls after two steps as well",
        0.1,
        300,
        inner_steps=2,
    ),
    "short_run": Case(
        lambda: waves(12, 20, (0.1, 1.0), differ=0.3, noise=0.3, start=6.0, seed=7),
        "twelve steps, from far away",
        0.2,
        12,
    ),
}
"""not looked at before the rules were settled."""
