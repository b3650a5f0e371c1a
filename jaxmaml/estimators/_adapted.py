"""What the estimators share, and what each declares of itself.

Most are the gradient in w of f(w_K(w); D_o), for their own derivative of w_K.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxmaml._inner_gradient import varying
from jaxmaml.checks import check_episode, check_params, scalar
from jaxmaml.inner import ONE_STEP, InnerLoop, check_alpha, check_derivative, is_optax
from jaxmaml.types import Adapted, Episode, Loss, PyTree

E = TypeVar("E", bound=Callable[..., Any])


STEPS = "the loss after inner steps"
"""F(w) = E f(w_K(w); D_o), the objective of MAML."""
PROXIMAL = "the loss after a proximal step"
"""E f(phi(w); D_o), phi(w) = argmin f(phi; D_in) + ||phi - w||^2 / (2 alpha), the objective of iMAML."""
NONE = "no function"
"""A direction that is no gradient, where there are several inner steps."""

Count = Callable[[int], int]
"""number of inner steps K -> gradients of a batch that one task costs, a product with a Hessian two."""


def through(adapted: Adapted, gradients: Count, objective: str = STEPS) -> Callable[[E], E]:
    """Mark an estimator as the gradient of f(adapted(w); D_o), for those who want the value of it as well."""

    def mark(estimator: E) -> E:
        estimator.adapted = adapted  # type: ignore[attr-defined]
        return beside(adapted, gradients, objective)(estimator)

    return mark


def beside(adaptation: Adapted, gradients: Count, objective: str) -> Callable[[E], E]:
    """Mark an estimator that computes its direction itself; the value beside it is f(adaptation(w); D_o).

    Of every estimator of this package it is declared how it adapts, what it costs, and its objective: biases
    are those of estimators with one objective.
    """

    def mark(estimator: E) -> E:
        declared = {"adaptation": adaptation, "gradients": gradients, "objective": objective}
        vars(estimator).update(declared)
        return estimator

    return mark


def of_adaptation(adapted: Adapted) -> Callable[..., PyTree]:
    """The estimator that differentiates f(adapted(w); D_o), for an inner loop of your own.

    Values, weights, chunks, devices and a learned rate in `meta_value_and_gradient` come with it.

    Args:
      adapted: adapted(loss, params, episode, *, alpha, ...) -> w_K, what `loss` takes on D_o. `params` is all
        that is learned: initial parameters, and numbers of the inner loss (a learned loss, weight decay).
    """

    def estimator(
        loss: Loss,
        params: PyTree,
        episode: Episode,
        *,
        alpha: PyTree,
        learn_alpha: bool = False,
        **kwargs: Any,
    ) -> PyTree:
        return gradient(adapted, loss, params, episode, alpha, learn_alpha, **kwargs)

    estimator.__name__, estimator.__doc__ = adapted.__name__, adapted.__doc__
    return through(adapted, lambda K: 3 * K + 1)(estimator)


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


def check(
    params: PyTree, episode: Episode, alpha: PyTree, learn_alpha: bool = False, inner: InnerLoop = ONE_STEP
) -> None:
    check_params(params)
    check_episode(episode)
    check_alpha(alpha, params, learn_alpha, inner)


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
    learn_alpha: bool,
    **kwargs: Any,
) -> PyTree:
    """G, or (G, dF/dalpha) with learn_alpha, of one task; kwargs are those of `adapted`, as `inner`."""
    inner = kwargs.get("inner", ONE_STEP)
    check(params, episode, alpha, learn_alpha, inner)
    F = adapted_loss(adapted, scalar(loss), episode, **kwargs)
    params, alpha = differentiable(params, alpha, episode)
    if learn_alpha:
        return jax.grad(F, argnums=(0, 1))(params, alpha)
    found = jax.grad(lambda p: F(p, alpha))(params)
    check_derivative(found, loss, params, episode.inner, alpha, inner)
    return found
