"""Few of many, with and without replacement, at a cost that does not grow with the many."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.types import Array

GRAINS = 2**30
"""the weights of `cumulative` become whole numbers that add up to about this many."""


def codes(key: jax.Array, shape: tuple[int, ...], n: int | Array, first: int = 0) -> jax.Array:
    """Letters of a Lehmer code, for `distinct`: independent c_j, uniform on 0, ..., n - 1 - j up to n / 2^32,
    for j = first, first + 1, ... on the last axis.

    n is one number, or an array that broadcasts to shape[:-1]: a number for each selection.
    """
    choices = jnp.asarray(n, jnp.int32)[..., None] - first - jnp.arange(shape[-1], dtype=jnp.int32)
    return jax.random.randint(key, shape, 0, choices, jnp.int32)


def distinct(code: jax.Array) -> jax.Array:
    """The ordered selection with this Lehmer code: x_j is number c_j of those that x_0, ..., x_{j-1} leave.

    Codes and ordered selections of k out of n correspond one to one, so that uniform codes give uniform
    selections; x_j depends on c_0, ..., c_j only. From the right: x_{i+1}, ... select from what x_i = c_i
    leaves, hence those at or above c_i move up by one. k steps of vectors, where a permutation would sort n
    numbers.

    Args:
      code: integers, shape (..., k).

    Returns:
      The same shape and dtype.
    """
    k = code.shape[-1]
    x = jnp.moveaxis(code, -1, 0)
    position = jnp.arange(k).reshape(k, *[1] * (x.ndim - 1))

    def skip(step: jax.Array, x: jax.Array) -> jax.Array:
        i = k - 2 - step
        return x + ((position > i) & (x >= x[i])).astype(x.dtype)

    return jnp.moveaxis(jax.lax.fori_loop(0, k - 1, skip, x), 0, -1)


def disjoint(keys: jax.Array, n: Array, counts: Sequence[int]) -> list[jax.Array]:
    """Several selections from 0, ..., n - 1, without replacement within and among them.

    The first ones do not depend on the sizes of those that follow.

    Args:
      keys: shape (selections,), one for each.
      n: integers, any shape; sum(counts) <= n, which is not checked here.
      counts: the size of each selection.

    Returns:
      For each count an int32 array of shape (*n.shape, count).
    """
    ends = [0, *np.cumsum(counts).tolist()]
    letters = [
        codes(key, (*n.shape, count), n, first)
        for key, count, first in zip(keys, counts, ends[:-1], strict=True)
    ]
    return jnp.split(distinct(jnp.concatenate(letters, axis=-1)), ends[1:-1], axis=-1)


def cumulative(weights: np.ndarray) -> np.ndarray:
    """sum_{j <= i} n_j, int32, for `proportional`: n_j are the weights if these are whole and add up to less
    than 2^30, else 2^30 w_j / sum_j w_j, rounded, at least 1."""
    if weights.dtype.kind in "iu" and weights.sum(dtype=float) < GRAINS:
        whole = weights
    else:
        exact = weights.astype(float)
        exact = exact / exact.max()
        whole = np.maximum(np.rint(exact * (GRAINS / exact.sum())), 1)
    return np.cumsum(whole).astype(np.int32)


def proportional(key: jax.Array, shape: tuple[int, ...], upto: Array) -> jax.Array:
    """Independent i, int32, with probability n_i / sum_j n_j: log2 of their number steps for each."""
    upto = jnp.asarray(upto)
    mark = jax.random.randint(key, shape, 0, upto[-1], jnp.int32)
    return jnp.searchsorted(upto, mark, side="right").astype(jnp.int32)


def proportional_distinct(key: jax.Array, shape: tuple[int, ...], log_weights: Array) -> jax.Array:
    """Ordered selections, int32: each next one in proportion to the weights of those that are left.

    The places of the k largest log w_i + G_i with G_i standard Gumbel (Efraimidis, Spirakis 2006). Costs grow
    with the number of weights.
    """
    noise = jax.random.gumbel(key, (*shape[:-1], len(log_weights)), float, mode="high")
    return jax.lax.top_k(noise + log_weights, shape[-1])[1].astype(jnp.int32)
