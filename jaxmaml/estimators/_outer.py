"""What the estimators share: the checks, and the gradient after adaptation pulled back to w."""

import jax

from jaxmaml.checks import check_episode, check_nonnegative, check_params, check_rates
from jaxmaml.inner import InnerLoop, Product, check_derivative, descend, is_optax, pull_back
from jaxmaml.types import Episode, Loss, PyTree


def check(params: PyTree, episode: Episode, alpha: PyTree, learn_alpha: bool = False) -> None:
    check_params(params)
    check_episode(episode)
    if not is_optax(alpha):
        check_rates(alpha, params)
        check_nonnegative("alpha", alpha)
    elif learn_alpha:
        raise ValueError("learn_alpha = True with an optax transformation; allowed: with a rate or rates")


def direction(
    product: Product | None,
    loss: Loss,
    params: PyTree,
    episode: Episode,
    alpha: PyTree,
    inner: InnerLoop,
    learn_alpha: bool,
) -> PyTree:
    """v = grad f(w_K; D_o) pulled back through the inner steps with this product for the Hessian.

    (G, dF/dalpha) if `learn_alpha`, else G.
    """
    check(params, episode, alpha, learn_alpha)
    keep = learn_alpha or is_optax(alpha)
    adapted, path = descend(loss, params, episode.inner, alpha, inner, keep)
    v = jax.grad(loss)(adapted, episode.outer)
    if product is None and not keep:
        return v
    gradient, rates = pull_back(product, v, params, path, alpha, inner)
    check_derivative(gradient, loss, params, episode.inner, alpha, inner)
    return (gradient, rates) if learn_alpha else gradient
