"""What every estimator begins with."""

import jax

from jaxmaml.checks import check_episode, check_nonnegative, check_params
from jaxmaml.inner import adapt
from jaxmaml.types import Episode, Loss, PyTree


def check(params: PyTree, episode: Episode, alpha: PyTree) -> None:
    check_params(params)
    check_episode(episode)
    check_nonnegative("alpha", alpha)


def outer_gradient(loss: Loss, params: PyTree, episode: Episode, alpha: PyTree) -> PyTree:
    """v = grad f(w - alpha grad f(w; D_in); D_o)."""
    check(params, episode, alpha)
    return jax.grad(loss)(adapt(loss, params, episode.inner, alpha), episode.outer)
