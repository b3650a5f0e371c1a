"""The few pytree operations that optax.tree lacks."""

import jax
import jax.numpy as jnp

from jaxmaml.types import PyTree


def scale(factor: PyTree, tree: PyTree) -> PyTree:
    """factor * tree, where `factor` is a number or a pytree prefix of `tree` (a number per subtree)."""
    return jax.tree.map(
        lambda a, subtree: jax.tree.map(lambda x: jnp.asarray(a, x.dtype) * x, subtree),
        factor,
        tree,
    )


def norm(tree: PyTree) -> jax.Array:
    """Global Euclidean norm ||x||, scaled by the largest entry so that no square under- or overflows."""
    largest = jnp.stack([jnp.max(jnp.abs(x), initial=0.0) for x in jax.tree.leaves(tree)]).max()
    safe = jnp.where(largest > 0, largest, 1.0)
    squares = [jnp.sum(jnp.square(x / safe.astype(x.dtype))) for x in jax.tree.leaves(tree)]
    return safe * jnp.sqrt(jnp.stack(squares).sum())
