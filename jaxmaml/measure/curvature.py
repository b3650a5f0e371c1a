"""L: norms of Hessians by Lanczos's method (1950)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxmaml import hvp, tree
from jaxmaml.measure.estimates import Estimate
from jaxmaml.measure.survey import Survey, as_vector, batches_of, check_finite, chunks
from jaxmaml.types import PyTree


def measure_L(survey: Survey, key: jax.Array, iterations: int, tolerance: float) -> tuple[Estimate, int]:
    """L and the number of products."""
    norms, residuals = np.zeros((2, len(survey.points), survey.tasks))
    for p in range(len(survey.points)):
        for who, _ in chunks(survey, iterations):
            norms[p, who], residuals[p, who] = norms_of_hessians(survey, p, who, key, iterations, iterations)
    products, steps = norms.size * iterations, iterations
    for _ in range(3):
        p, i = divmod(int(np.argmax(norms + residuals)), survey.tasks)
        if residuals[p, i] <= tolerance * norms.max():
            break
        steps = min(2 * steps, survey.dim)
        (found,), (residuals[p, i],) = norms_of_hessians(survey, p, np.array([i]), key, steps, steps)
        norms[p, i] = max(norms[p, i], found)
        products += steps
    value, high = float(norms.max()), float((norms + residuals).max())
    p, i = divmod(int(norms.argmax()), survey.tasks)
    how = f"Lanczos, the largest of {norms.size} Hessians at point {p}, task {i}"
    if high > (1 + tolerance) * value:
        how += f"; not converged in {steps} steps: more iterations"
    return Estimate(value, value, high, "lower estimate", norms.size, how), products


def norms_of_hessians(
    survey: Survey, p: int, who: np.ndarray, key: jax.Array, steps: int, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """(||H_i(w)||, residual) for the tasks `who`, at a point."""
    at = jax.random.fold_in(key, p)
    T = tridiagonals(survey.loss, survey.full, who, survey.points[p], None, at, steps, room)
    check_finite("Hessian", p, who, T[0])
    return ritz(*(np.asarray(x)[:, :steps] for x in T))


@functools.partial(jax.jit, static_argnames="room")
def tridiagonals(
    loss: Partial,
    full: PyTree,
    who: jax.Array,
    w: PyTree,
    u: PyTree | None,
    key: jax.Array,
    steps: jax.Array,
    room: int,
) -> tuple[jax.Array, jax.Array]:
    """Of H_i(w), or of H_i(w) - H_i(u), for the tasks `who`: shape (c, room)."""
    flat, _ = as_vector(w)

    def one(batch: PyTree, task: jax.Array) -> tuple[jax.Array, jax.Array]:
        terms = [hessian_product(loss, x, batch) for x in (w, u) if x is not None]
        start = jax.random.normal(jax.random.fold_in(key, task), flat.shape, flat.dtype)
        return lanczos(lambda v: functools.reduce(jnp.subtract, [H(v) for H in terms]), start, steps, room)

    return jax.vmap(one)(batches_of(full, who), who)


def lanczos(
    product: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    steps: int | jax.Array,
    room: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The tridiagonal T = V^T A V of a symmetric A on the Krylov space of `start`, fully reorthogonalised.

    Args:
      product: v -> A v, both of shape (d,).
      start: the first direction, shape (d,).
      steps: k <= d, the dimension of the space and the number of products; may be traced if `room` is given.
      room: the most steps that there is room for; None: `steps`.

    Returns:
      The diagonal of T and the entries beside it, both of shape (room,), of which the first k count. The k-th
      entry beside it is outside T and tells what the space leaves out (`ritz`).
    """
    d, size = start.shape[0], int(steps) if room is None else room
    dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def away(basis: jax.Array, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = x - dot(dot(basis, x), basis)
        return x

    def step(j: jax.Array, carry: tuple) -> tuple:
        diagonal, beside, basis, v = carry
        basis = basis.at[j].set(v)
        x = product(v)
        a = dot(v, x)
        x = away(basis, x)
        # Once more at unit length: where the space is exhausted x is rounding, and any new direction will do.
        v = unit(away(basis, unit(x)))
        return diagonal.at[j].set(a), beside.at[j].set(tree.norm(x)), basis, v

    zeros = jnp.zeros(size, start.dtype)
    begin = (zeros, zeros, jnp.zeros((size, d), start.dtype), unit(start))
    diagonal, beside, *_ = jax.lax.fori_loop(0, steps, step, begin)
    return diagonal, beside


def ritz(diagonal: Any, beside: Any) -> tuple[np.ndarray, np.ndarray]:
    """(max |theta|, ||A y - theta y||) over the Ritz pairs of tridiagonals of `lanczos`, shape (..., k).

    max |theta| is at most ||A||, and an eigenvalue of A lies within the residual of theta. NumPy, on the
    host: LAPACK inside a sharded program can deadlock.
    """
    diagonal, beside = np.asarray(diagonal, float), np.asarray(beside, float)
    k = diagonal.shape[-1]
    T = np.zeros((*diagonal.shape, k))
    T[..., range(k), range(k)] = diagonal
    T[..., range(1, k), range(k - 1)] = beside[..., :-1]  # eigh reads the lower triangle alone
    values, vectors = np.linalg.eigh(T)
    top = np.argmax(np.abs(values), axis=-1)[..., None]
    last = np.take_along_axis(vectors[..., -1, :], top, -1)[..., 0]
    return np.abs(np.take_along_axis(values, top, -1))[..., 0], np.abs(beside[..., -1] * last)


def unit(x: jax.Array) -> jax.Array:
    norm = tree.norm(x)
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)


def hessian_product(loss: Partial, w: PyTree, batch: PyTree) -> Callable[[jax.Array], jax.Array]:
    """v -> H(w; batch) v on vectors."""
    _, unravel = as_vector(w)
    return lambda v: as_vector(hvp.exact(loss, w, unravel(v), batch))[0]
