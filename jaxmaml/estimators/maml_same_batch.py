"""MAML by differentiation through the inner steps, i.e. with D_h = D_in, on shared linearisations."""

from jaxmaml import hvp
from jaxmaml.estimators._adapted import gradient, through
from jaxmaml.inner import ONE_STEP, InnerLoop, descend
from jaxmaml.types import Episode, Loss, PyTree


def adapted(
    loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree, inner: InnerLoop = ONE_STEP
) -> PyTree:
    """w_K, whose derivative is its own."""
    return descend(hvp.exact, loss, params, (episode.inner,), alpha, inner)


@through(adapted, gradients=lambda K: 3 * K + 1)
def maml_same_batch(
    loss: Loss,
    params: PyTree,
    episode: Episode,
    *,
    alpha: PyTree,
    inner: InnerLoop = ONE_STEP,
    learn_alpha: bool = False,
) -> PyTree:
    """G = v - H(D_in) alpha v, the gradient of f(w - alpha grad f(w; D_in); D_o) in w.

    What practitioners' MAML computes. The two factors share D_in, which adds a bias of at most
    alpha^2 L sigma_h sigma_tilde / D_in over `maml` (docs/theory.md). One linearisation of grad f gives
    the inner gradient and the Hessian-vector product (with several steps `inner.remat` decides);
    `episode.hessian` is not used. With K inner steps, the gradient of f(w_K(w); D_o) through all of them.

    Other arguments, returns and errors as for `maml`.
    """
    return gradient(adapted, loss, params, episode, alpha, learn_alpha, inner=inner)
