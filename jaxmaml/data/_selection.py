"""Few of many without replacement, at a cost that does not grow with the many."""

import jax
import jax.numpy as jnp


def codes(key: jax.Array, shape: tuple[int, ...], n: int, first: int = 0) -> jax.Array:
    """Letters of a Lehmer code, for `distinct`: independent c_j, uniform on 0, ..., n - 1 - j up to n / 2^32,
    for j = first, first + 1, ... on the last axis."""
    return jax.random.randint(key, shape, 0, n - first - jnp.arange(shape[-1]), jnp.int32)


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
