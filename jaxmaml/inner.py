"""The inner update, one gradient step on the task's own batch."""

import jax

from jaxmaml import tree
from jaxmaml.types import Loss, PyTree


def adapt(loss: Loss, params: PyTree, batch: PyTree, alpha: PyTree) -> PyTree:
    """w+ = w - alpha grad f(w; D_in).

    Args:
      loss: loss(params, batch) -> scalar.
      params: pytree w.
      batch: D_in, sample axis first.
      alpha: inner rate, a number or a pytree prefix of params (a rate per subtree).
    """
    gradient = jax.grad(loss)(params, batch)
    return step(params, gradient, alpha)


def step(params: PyTree, gradient: PyTree, alpha: PyTree) -> PyTree:
    """w - alpha g."""
    return jax.tree.map(lambda w, s: w - s, params, tree.scale(alpha, gradient))
