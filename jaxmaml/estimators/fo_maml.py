"""FO-MAML: the first-order approximation, which drops the Hessian."""

from jaxmaml import hvp
from jaxmaml.estimators._adapted import gradient, through
from jaxmaml.inner import ONE_STEP, InnerLoop, descend
from jaxmaml.types import Episode, Loss, PyTree


def adapted(
    loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree, inner: InnerLoop = ONE_STEP
) -> PyTree:
    """w_K, as if the inner gradients were constants."""
    return descend(hvp.none, loss, params, (episode.inner,), alpha, inner)


@through(adapted, gradients=lambda K: K + 1)
def fo_maml(
    loss: Loss,
    params: PyTree,
    episode: Episode,
    *,
    alpha: PyTree,
    inner: InnerLoop = ONE_STEP,
    learn_alpha: bool = False,
) -> PyTree:
    """G = v = grad f(w - alpha grad f(w; D_in); D_o).

    Its bias is alpha E_i[H_i v_i]: it stalls where the tasks' Hessians and adapted gradients are
    correlated (docs/theory.md). `episode.hessian` is not used.

    Args, returns and errors as for `maml`.
    """
    return gradient(adapted, loss, params, episode, alpha, learn_alpha, inner=inner)
