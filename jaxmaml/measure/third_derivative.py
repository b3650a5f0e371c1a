"""rho: norms of third derivatives, and of differences of Hessians between points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxmaml import hvp, tree
from jaxmaml.measure.curvature import ritz, tridiagonals, unit
from jaxmaml.measure.estimates import Estimate
from jaxmaml.measure.survey import (
    Survey,
    as_vector,
    batches_of,
    check_finite,
    chunks,
    gradient_vector,
    largest_pairs,
)
from jaxmaml.types import PyTree

ROUNDS = (3, 24)
"""rounds of the maximisation over u, v, x in the first look and in the second, 3 products with T each."""
ROUNDING = 128
"""in units of eps L, what is subtracted from differences of Hessians as an allowance for rounding."""


def measure_rho(
    survey: Survey, key: jax.Array, iterations: int, starts: int, L: float
) -> tuple[Estimate, int]:
    """rho from ||T_i(w)|| and from pairs of points, and the number of products."""
    local = np.zeros((len(survey.points), survey.tasks))

    def look(p: int, who: np.ndarray, at: jax.Array, rounds: int) -> None:
        found = _third_norms(survey.loss, survey.full, who, survey.points[p], at, starts, rounds)
        check_finite("third derivative", p, who, found)
        local[p, who] = np.maximum(local[p, who], found)

    short, long = ROUNDS
    first, second, third = jax.random.split(key, 3)
    for p in range(len(survey.points)):
        for who, _ in chunks(survey, 4 * starts):
            look(p, who, jax.random.fold_in(first, p), short)
    finalists = largest_pairs(local)
    for p, i in finalists:
        look(p, np.array([i]), jax.random.fold_in(second, p), long)
    pairs, cost = _pairs(survey, third, iterations, L)
    cost += 6 * starts * (short * local.size + long * len(finalists))
    p, i = divmod(int(local.argmax()), survey.tasks)
    value, how = float(local[p, i]), f"the largest of {local.size} third derivatives at point {p}, task {i}"
    if pairs.size and pairs.max() > value:
        p, i = divmod(int(pairs.argmax()), survey.tasks)
        value, how = float(pairs[p, i]), f"difference of Hessians between points {p} and {p + 1}, task {i}"
    return Estimate(value, value, value, "lower estimate", local.size + pairs.size, how), cost


def _pairs(survey: Survey, key: jax.Array, iterations: int, L: float) -> tuple[np.ndarray, int]:
    """||H_i(w) - H_i(w')|| / ||w - w'|| for consecutive points, less the rounding; shape (P - 1, n)."""
    ratios, products = np.zeros((len(survey.points) - 1, survey.tasks)), 0
    for p, (w, u) in enumerate(zip(survey.points[:-1], survey.points[1:], strict=True)):
        there, here = (np.asarray(as_vector(x)[0]) for x in (w, u))
        distance = float(np.linalg.norm(there - here))
        if distance == 0:
            continue
        rounding = ROUNDING * float(np.finfo(here.dtype).eps) * L
        at = jax.random.fold_in(key, p)
        for who, _ in chunks(survey, iterations):
            T = tridiagonals(survey.loss, survey.full, who, w, u, at, iterations, iterations)
            found, _ = ritz(*T)
            ratios[p, who] = np.maximum(found - rounding, 0) / distance
        products += 2 * iterations * survey.tasks
    return ratios, products


@functools.partial(jax.jit, static_argnames=("starts", "rounds"))
def _third_norms(
    loss: Partial, full: PyTree, who: jax.Array, w: PyTree, key: jax.Array, starts: int, rounds: int
) -> jax.Array:
    """Lower estimates of ||T_i(w)||, shape (c,). A round sets each of three directions to the best for the
    other two: the product with the last two takes the place of the oldest."""
    flat, unravel = as_vector(w)

    def one(batch: PyTree, task: jax.Array) -> jax.Array:
        def product(u: jax.Array, v: jax.Array) -> jax.Array:
            """T[u, v, .] = d/dt H(w + t u) v at t = 0."""
            moved = jax.jvp(lambda z: hvp.exact(loss, z, unravel(v), batch), (w,), (unravel(u),))
            return as_vector(moved[1])[0]

        def climb(directions: jax.Array) -> jax.Array:
            def improve(carry: tuple, _: None) -> tuple:
                old, new = carry
                best = product(old, new)
                return (new, unit(best)), tree.norm(best)

            start = directions[1], directions[0]
            return jnp.max(jax.lax.scan(improve, start, None, length=3 * rounds)[1])

        begin = jax.random.normal(jax.random.fold_in(key, task), (starts, 2, flat.size), flat.dtype)
        gradient = gradient_vector(loss, w, batch)
        begin = begin.at[0, 0].set(jnp.where(tree.norm(gradient) > 0, gradient, begin[0, 0]))
        return jnp.max(jax.vmap(climb)(jax.vmap(jax.vmap(unit))(begin)))

    return jax.vmap(one)(batches_of(full, who), who)
