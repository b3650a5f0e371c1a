"""sigma_tilde and sigma_h: the noise of a sample's gradient and Hessian."""

import functools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxmaml import tree
from jaxmaml.measure.curvature import hessian_product, lanczos, ritz
from jaxmaml.measure.estimates import Estimate
from jaxmaml.measure.survey import (
    FIRST_STEPS,
    Survey,
    as_vector,
    batches_of,
    check_finite,
    chunks,
    fitting,
    gradient_vector,
    largest_pairs,
    root_mean_square,
)
from jaxmaml.types import PyTree

FRESH = 16
"""how many times as many draws the later looks at the noise have as the first."""


def measure_noise(survey: Survey, key: jax.Array, samples: int, room: int | None) -> tuple[Estimate, int]:
    """sigma_tilde (room None) or sigma_h, with this many Lanczos steps, and the number of products."""
    steps = room or 0
    rough = min(FIRST_STEPS, steps)
    first, second, third = jax.random.split(key, 3)
    values = np.zeros((len(survey.points), survey.tasks))
    for p in range(len(survey.points)):
        for who, _ in chunks(survey, samples * (room or 2)):
            at = jax.random.fold_in(first, p * survey.tasks + int(who[0]))
            norms, _ = _draws(survey, p, who, at, samples, rough, room)
            values[p, who] = [root_mean_square(x) for x in norms]
    count, finalists = FRESH * samples, largest_pairs(values)
    again = [0.0]
    if len(finalists) > 1:
        keys = jax.random.split(second, len(finalists))
        again = [
            root_mean_square(_draws(survey, p, np.array([i]), at, count, rough, room)[0])
            for (p, i), at in zip(finalists, keys, strict=True)
        ]
    p, i = finalists[int(np.argmax(again))]
    norms, off = _draws(survey, p, np.array([i]), third, count, steps, room)
    if room is None:
        _check_unbiased(norms, off, f"at points[{p}], task {i}")
    how = f"{count} fresh draws at point {p}, task {i}, the largest of {values.size} in a first look"
    looks = len(finalists) if len(finalists) > 1 else 0
    products = 2 * (samples * values.size + count * looks) * rough + 2 * count * steps
    return _interval(norms[0], how), products


def _interval(norms: np.ndarray, how: str) -> Estimate:
    """The root of the mean square with its 95 % t interval."""
    n, largest = norms.size, float(norms.max())
    if largest == 0:
        return Estimate(0.0, 0.0, 0.0, "lower estimate", n, how)
    squares = (norms / largest) ** 2
    mean = float(squares.mean())
    # The normal quantile with the first correction of Student's law: 0.1 % off at n = 32, the least there is.
    half = (1.96 + (1.96**3 + 1.96) / (4 * (n - 1))) * float(squares.std(ddof=1)) / math.sqrt(n)
    share = 1 / (n * mean)
    if share > max(0.2, 8 / n):
        how += f"; heavy tail: one draw is {share:.0%} of the mean square, the interval is too short"
    low, value, high = (largest * math.sqrt(max(x, 0.0)) for x in (mean - half, mean, mean + half))
    return Estimate(value, low, high, "lower estimate", n, how)


def _check_unbiased(norms: np.ndarray, off: np.ndarray, where: str) -> None:
    """n |mean deviation|^2 / mean square is 1 on average; above 30 in 4 cases of 1e8 for one parameter."""
    ratio = float(np.linalg.norm(off)) / (root_mean_square(norms) or 1.0)
    if norms.size * ratio**2 > 30:
        warnings.warn(
            f"the mean gradient of {norms.size} samples {where} is off that of full by {ratio:.2f} of the "
            "noise of one: does sample draw from the tasks that who names, and is full large enough?",
            stacklevel=4,
        )


def _draws(
    survey: Survey, p: int, who: np.ndarray, key: jax.Array, count: int, steps: int, room: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """||deviations|| of `count` samples, (c, count), of Hessians or, with room None, of gradients.

    And of gradients the mean deviation, (c, d).
    """
    block = min(count, fitting(who.size * (room or 2) * survey.dim))
    norms: list[np.ndarray] = []
    off: Any = np.zeros(1)
    for j in range(-(-count // block)):
        at = jax.random.fold_in(key, j)
        arguments = (survey.loss, survey.sample, survey.full, who, survey.points[p], at, block)
        if room is None:
            found, mean = _gradient_noise(*arguments)
            off = off + np.asarray(mean, float)
            check_finite("gradient of a sample", p, who, found)
        else:
            T = _hessian_noise(*arguments, steps, room)
            check_finite("Hessian of a sample", p, who, T[0])
            found, _ = ritz(*(np.asarray(x)[..., :steps] for x in T))
        norms.append(np.asarray(found, float))
    return np.concatenate(norms, axis=1)[:, :count], off / len(norms)


def _samples(sample: Partial, who: jax.Array, key: jax.Array, count: int) -> PyTree:
    """`count` batches of one sample for each task, leaves (c, count, 1, ...)."""
    drawn = sample(key, jnp.repeat(jnp.asarray(who), count), 1)
    return jax.tree.map(lambda x: x.reshape(who.size, count, *x.shape[1:]), drawn)


@functools.partial(jax.jit, static_argnames="count")
def _gradient_noise(
    loss: Partial, sample: Partial, full: PyTree, who: jax.Array, w: PyTree, key: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """||grad f_i(w, theta) - grad f_i(w)||, shape (c, count), and the mean of these deviations, (c, d)."""

    def one(batch: PyTree, drawn: PyTree) -> tuple[jax.Array, jax.Array]:
        exact = gradient_vector(loss, w, batch)
        deviations = jax.vmap(lambda theta: gradient_vector(loss, w, theta) - exact)(drawn)
        return jax.vmap(tree.norm)(deviations), deviations.mean(axis=0)

    return jax.vmap(one)(batches_of(full, who), _samples(sample, who, key, count))


@functools.partial(jax.jit, static_argnames=("count", "room"))
def _hessian_noise(
    loss: Partial,
    sample: Partial,
    full: PyTree,
    who: jax.Array,
    w: PyTree,
    key: jax.Array,
    count: int,
    steps: jax.Array,
    room: int,
) -> tuple[jax.Array, jax.Array]:
    """Tridiagonals of hess f_i(w, theta) - H_i(w), shape (c, count, room)."""
    flat, _ = as_vector(w)
    draw, begin = jax.random.split(key)

    def one(batch: PyTree, drawn: PyTree, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        exact = hessian_product(loss, w, batch)

        def tridiagonal(theta: PyTree, start: jax.Array) -> tuple[jax.Array, jax.Array]:
            noisy = hessian_product(loss, w, theta)
            return lanczos(lambda v: noisy(v) - exact(v), start, steps, room)

        return jax.vmap(tridiagonal)(drawn, starts)

    starts = jax.random.normal(begin, (who.size, count, flat.size), flat.dtype)
    return jax.vmap(one)(batches_of(full, who), _samples(sample, who, draw, count), starts)
