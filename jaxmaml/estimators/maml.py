"""MAML: the gradient of one task's adapted loss, with the Hessian on a batch of its own."""

from jaxmaml import hvp
from jaxmaml.estimators._adapted import gradient, through
from jaxmaml.inner import ONE_STEP, InnerLoop, descend
from jaxmaml.types import Episode, Loss, PyTree


def adapted(
    loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree, inner: InnerLoop = ONE_STEP
) -> PyTree:
    """w_K, whose derivative has the Hessians of D_h."""
    return descend(hvp.exact, loss, params, (episode.inner, episode.hessian), alpha, inner)


@through(adapted, gradients=lambda K: 3 * K + 1)
def maml(
    loss: Loss,
    params: PyTree,
    episode: Episode,
    *,
    alpha: PyTree,
    inner: InnerLoop = ONE_STEP,
    learn_alpha: bool = False,
) -> PyTree:
    """G = v - H(D_h) alpha v,  v = grad f(w - alpha grad f(w; D_in); D_o).

    The Hessian H = hess f(w; D_h) is that of an independent batch, so that G is a product of
    independent factors, as the paper's algorithm has it (as summarised); the product is exact, jvp of grad.
    Differentiating through the inner step is `maml_same_batch`. With K inner steps
    G = (I - alpha H(w_0)) ... (I - alpha H(w_{K-1})) v, all Hessians on D_h (`jaxmaml.inner`).

    Args:
      loss: loss(params, batch) -> scalar, mean over the batch.
      params: any pytree of floating-point arrays (unit u).
      episode: the three batches of one task, sample axis first.
      alpha: inner rate (unit u^2/phi), a number or a pytree prefix of params (a rate per subtree or, as an
        array like the parameter, per weight), with the axis of steps first with `inner.rate_per_step`;
        outside the theory also an optax transformation as inner update.
      inner: number of inner steps, and which parameters adapt.
      learn_alpha: return (G, dF/dalpha), the second like alpha (unit phi^2/u^2), to learn the rates as well.

    Returns:
      Pytree like params, unit phi/u.

    Raises:
      ValueError: alpha negative or not finite, or an empty batch.
      TypeError: parameters that are not floating point.
    """
    return gradient(adapted, loss, params, episode, alpha, learn_alpha, inner=inner)
