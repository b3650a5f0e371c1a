"""FO-MAML: the first-order approximation, which drops the Hessian."""

from jaxmaml.estimators._outer import direction
from jaxmaml.inner import ONE_STEP, InnerLoop
from jaxmaml.types import Episode, Loss, PyTree


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
    return direction(None, loss, params, episode, alpha, inner, learn_alpha)
