"""MAML: the gradient of one task's adapted loss, with the Hessian on a batch of its own."""

import jax

from jaxmaml import hvp, tree
from jaxmaml.estimators._outer import outer_gradient
from jaxmaml.types import Episode, Loss, PyTree


def maml(loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree) -> PyTree:
    """G = v - H(D_h) alpha v,  v = grad f(w - alpha grad f(w; D_in); D_o).

    The Hessian H = hess f(w; D_h) is that of an independent batch, so that G is a product of
    independent factors, as the paper's algorithm has it (as summarised); the product is exact, jvp of grad.
    Differentiating through the inner step is `maml_same_batch`.

    Args:
      loss: loss(params, batch) -> scalar, mean over the batch.
      params: any pytree of floating-point arrays (unit u).
      episode: the three batches of one task, sample axis first.
      alpha: inner rate (unit u^2/phi), a number or a pytree prefix of params.

    Returns:
      Pytree like params, unit phi/u.

    Raises:
      ValueError: alpha negative or not finite, or an empty batch.
      TypeError: parameters that are not floating point.
    """
    v = outer_gradient(loss, params, episode, alpha)
    correction = hvp.exact(loss, params, tree.scale(alpha, v), episode.hessian)
    return jax.tree.map(lambda a, b: a - b, v, correction)
