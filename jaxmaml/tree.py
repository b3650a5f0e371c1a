"""The few pytree operations that optax.tree lacks."""

import jax
import jax.numpy as jnp

from jaxmaml.checks import check_prefix
from jaxmaml.types import PyTree


def scale(factor: PyTree, tree: PyTree) -> PyTree:
    """factor * tree, where `factor` is a number or a pytree prefix of `tree` (a number per subtree)."""
    return jax.tree.map(
        lambda a, subtree: jax.tree.map(lambda x: jnp.asarray(a, x.dtype) * x, subtree),
        factor,
        tree,
    )


def wide(dtype: jax.typing.DTypeLike) -> jax.typing.DTypeLike:
    """The type in which values of `dtype` are summed: float32, or wider where `dtype` is."""
    return jnp.promote_types(jnp.result_type(dtype, float), jnp.float32)


def norm(tree: PyTree) -> jax.Array:
    """Global Euclidean norm ||x||, scaled by a power of 2 so that no square under- or overflows.

    In float32 at least: the sum of many squares in 8 or 11 bits is none.
    """
    leaves = [x.astype(wide(x.dtype)) for x in map(jnp.asarray, jax.tree.leaves(tree))]
    largest = jnp.stack([jnp.max(jnp.abs(x), initial=0.0) for x in leaves]).max()
    up, down = _powers(largest)
    squares = [jnp.sum(jnp.square(x * up.astype(x.dtype))) for x in leaves]
    return down * jnp.sqrt(jnp.stack(squares).sum())


def _powers(largest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(2^-e, 2^e) with largest / 2^e about 1; both normal numbers, as processors may take others for 0.

    The inverse of `largest` itself is none of those where it is near to the largest number, and a division
    of many numbers by one is compiled as a product with its inverse.
    """
    info = jnp.finfo(largest.dtype)
    exponent = jnp.frexp(jax.lax.stop_gradient(largest))[1]
    exponent = jnp.clip(exponent, info.minexp + 2, info.maxexp - 3)
    one = jnp.ones((), largest.dtype)
    return jnp.ldexp(one, -exponent), jnp.ldexp(one, exponent)


def partition(tree: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
    """(where the mask is true, where it is false), each with None in the place of the other's leaves.

    mask: a bool or a pytree prefix of bools.
    """

    check_prefix("mask", mask, tree)

    def keep(wanted: bool) -> PyTree:
        return jax.tree.map(
            lambda m, subtree: jax.tree.map(lambda x: x if bool(m) is wanted else None, subtree), mask, tree
        )

    return keep(True), keep(False)


def combine(first: PyTree, second: PyTree) -> PyTree:
    """What `partition` took apart: the leaves of `first`, and where it has None those of `second`."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda x: x is None)


def present(tree: PyTree) -> PyTree:
    """The mask of the leaves that are not None."""
    return jax.tree.map(lambda x: x is not None, tree, is_leaf=lambda x: x is None)
