"""Kinks: derivatives of a task's loss that jump, so that no finite rho (or not even L) satisfies the
assumptions.

Along the segment w + t (w' - w) let phi(t) = <grad f_i, w' - w>, and phi'(t) its derivative as
differentiation gives it. The largest change of each between neighbours of a grid is followed into halves,
always into the half with more of it. Where phi (or phi') is Lipschitz the change falls by 2 a halving;
across a jump it stays. So nothing need be known of the model: ReLU, max-pooling and absolute values all
jump. Nothing is seen of kinks that no segment crosses.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxmaml.measure.estimates import Estimate
from jaxmaml.measure.survey import Survey, as_vector, batches_of, chunks, gradient_vector
from jaxmaml.types import PyTree

GRID = 16
"""intervals of the segment at first."""
HALVINGS = 14
PRODUCTS = GRID + 1 + 2 * HALVINGS
"""of a segment and a task: each component of its own in the halvings."""
LAST = 4
"""halvings over which a change must stay to be a jump: a Lipschitz function's falls by 2^4, a jump's by less
than half of that."""
ROUNDING = 1e3
"""in units of eps times the largest value: smaller changes are not looked at."""


def find_kink(survey: Survey) -> tuple[str, int]:
    """("" or the first kink found, in a phrase; the number of products)."""
    products = 0
    for p, (w, u) in enumerate(zip(survey.points[:-1], survey.points[1:], strict=True)):
        if all(map(np.array_equal, jax.tree.leaves(w), jax.tree.leaves(u))):
            continue
        jumps = np.zeros((2, survey.tasks), bool)
        for who, _ in chunks(survey, 2 * GRID):
            jumps[:, who] = _jumps(survey.loss, survey.full, who, w, u)
        products += survey.tasks * PRODUCTS
        if jumps.any():
            order, task = "first" if jumps[0].any() else "second", int(np.argmax(jumps.any(axis=0)))
            return f"the {order} derivative jumps between points {p} and {p + 1}, task {task}", products
    return "", products


def without_end(rho: Estimate, kink: str) -> Estimate:
    """rho of a loss with this kink, or none."""
    if not kink:
        return rho
    how = f"no finite rho holds, for {kink}; the value is what differentiation sees, {rho.how}"
    return dataclasses.replace(rho, high=math.inf, how=how)


@jax.jit
def _jumps(loss: Partial, full: PyTree, who: jax.Array, w: PyTree, u: PyTree) -> jax.Array:
    """Whether phi and phi' of each task jump, shape (2, c)."""
    (start, unravel), (end, _) = as_vector(w), as_vector(u)
    along = end - start

    def one(batch: PyTree) -> jax.Array:
        def phi(t: jax.Array) -> jax.Array:
            return gradient_vector(loss, unravel(start + t * along), batch) @ along

        def both(t: jax.Array) -> jax.Array:
            return jnp.stack(jax.jvp(phi, (t,), (jnp.ones_like(t),)))

        t = jnp.linspace(0, 1, GRID + 1, dtype=start.dtype)
        return jax.vmap(lambda k: _stays(both, t, jax.lax.map(both, t)[:, k], k))(jnp.arange(2))

    return jax.vmap(one)(batches_of(full, who)).T


def _stays(
    both: Callable[[jax.Array], jax.Array], t: jax.Array, values: jax.Array, k: jax.Array
) -> jax.Array:
    """Whether the largest change of component k does not fall with the halvings."""
    worst = jnp.argmax(jnp.abs(jnp.diff(values)))
    ends = (t[worst], t[worst + 1], values[worst], values[worst + 1])

    def halve(ends: tuple, _: None) -> tuple:
        a, b, at_a, at_b = ends
        middle = (a + b) / 2
        at_middle = both(middle)[k]
        left = jnp.abs(at_middle - at_a) >= jnp.abs(at_b - at_middle)
        ends = jax.tree.map(
            functools.partial(jnp.where, left), (a, middle, at_a, at_middle), (middle, b, at_middle, at_b)
        )
        return ends, jnp.abs(ends[3] - ends[2])

    changes: jax.Array = jax.lax.scan(halve, ends, None, length=HALVINGS)[1]
    noise = ROUNDING * jnp.finfo(values.dtype).eps * jnp.abs(values).max()
    return (changes[-1] > noise) & (changes[-1] > changes[-1 - LAST] * 2.0 ** (1 - LAST))
