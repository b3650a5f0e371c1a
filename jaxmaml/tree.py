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
    """Global Euclidean norm ||x||, scaled by the largest entry so that no square under- or overflows.

    In float32 at least: the sum of many squares in 8 or 11 bits is none.
    """
    leaves = [x.astype(wide(x.dtype)) for x in map(jnp.asarray, jax.tree.leaves(tree))]
    largest = jnp.stack([jnp.max(jnp.abs(x), initial=0.0) for x in leaves]).max()
    safe = jnp.where(largest > 0, largest, 1.0)
    squares = [jnp.sum(jnp.square(x / safe.astype(x.dtype))) for x in leaves]
    return safe * jnp.sqrt(jnp.stack(squares).sum())


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
