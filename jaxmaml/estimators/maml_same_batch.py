"""MAML by differentiation through the inner step, i.e. with D_h = D_in, on one shared linearisation."""

import jax

from jaxmaml import tree
from jaxmaml.estimators._outer import check
from jaxmaml.inner import step
from jaxmaml.types import Episode, Loss, PyTree


def maml_same_batch(loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree) -> PyTree:
    """G = v - H(D_in) alpha v, the gradient of f(w - alpha grad f(w; D_in); D_o) in w.

    What practitioners' MAML computes. The two factors share D_in, which adds a bias of at most
    alpha^2 L sigma_h sigma_tilde / D_in over `maml` (docs/theory.md). One linearisation of grad f gives
    the inner gradient and the Hessian-vector product; `episode.hessian` is not used.

    Args, returns and errors as for `maml`.
    """
    check(params, episode, alpha)
    gradient, hessian = jax.linearize(lambda w: jax.grad(loss)(w, episode.inner), params)
    v = jax.grad(loss)(step(params, gradient, alpha), episode.outer)
    return jax.tree.map(lambda a, b: a - b, v, hessian(tree.scale(alpha, v)))
