"""What the estimators share: each is the gradient in w of f(w_K(w); D_o), for its own derivative of w_K."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxmaml._inner_gradient import varying
from jaxmaml.checks import check_episode, check_params, scalar
from jaxmaml.inner import InnerLoop, check_alpha, check_derivative, is_optax
from jaxmaml.types import Adapted, Episode, Loss, PyTree

E = TypeVar("E", bound=Callable[..., Any])


def through(adapted: Adapted) -> Callable[[E], E]:
    """Mark an estimator as the gradient of f(adapted(w); D_o), for those who want the value of it as well."""

    def mark(estimator: E) -> E:
        estimator.adapted = adapted  # type: ignore[attr-defined]
        return estimator

    return mark


def adapted_loss(
    adapted: Adapted, loss: Loss, episode: Episode, has_aux: bool = False, **kwargs: Any
) -> Callable[[PyTree, PyTree], Any]:
    """(params, alpha) -> f(w_K; D_o), with has_aux what the loss returns beside it."""

    def of(params: PyTree, alpha: PyTree) -> Any:
        return loss(
            adapted(without_aux(loss, has_aux), params, episode, alpha=alpha, **kwargs), episode.outer
        )

    return of


def without_aux(loss: Callable[..., Any], has_aux: bool) -> Loss:
    """The value alone."""
    return (lambda params, batch: loss(params, batch)[0]) if has_aux else loss


def check(params: PyTree, episode: Episode, alpha: PyTree, learn_alpha: bool = False) -> None:
    check_params(params)
    check_episode(episode)
    check_alpha(alpha, params, learn_alpha)


def differentiable(params: PyTree, alpha: PyTree, episode: Episode) -> tuple[PyTree, PyTree]:
    """Both as arrays, rates of floating point; varying over devices as the episode does (`varying`)."""
    params = varying(jax.tree.map(jnp.asarray, params), episode)
    if is_optax(alpha):
        return params, alpha
    rates = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(a, float)), alpha)
    return params, varying(rates, episode)


def gradient(
    adapted: Adapted,
    loss: Loss,
    params: PyTree,
    episode: Episode,
    alpha: PyTree,
    inner: InnerLoop,
    learn_alpha: bool,
    **kwargs: Any,
) -> PyTree:
    """G, or (G, dF/dalpha) with learn_alpha, of one task."""
    check(params, episode, alpha, learn_alpha)
    F = adapted_loss(adapted, scalar(loss), episode, inner=inner, **kwargs)
    params, alpha = differentiable(params, alpha, episode)
    if learn_alpha:
        return jax.grad(F, argnums=(0, 1))(params, alpha)
    found = jax.grad(lambda p: F(p, alpha))(params)
    check_derivative(found, loss, params, episode.inner, alpha, inner)
    return found
