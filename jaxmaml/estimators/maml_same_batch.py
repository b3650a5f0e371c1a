"""MAML by differentiation through the inner steps, i.e. with D_h = D_in, on shared linearisations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmaml import hvp, tree
from jaxmaml.estimators._outer import check, direction
from jaxmaml.inner import (
    ONE_STEP,
    InnerLoop,
    Point,
    Product,
    check_derivative,
    is_optax,
    pull_init,
    pull_step,
    start_of,
    update,
)
from jaxmaml.types import Episode, Loss, PyTree


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
    the inner gradient and the Hessian-vector product; `episode.hessian` is not used.

    With K inner steps, the gradient of f(w_K(w); D_o) through all of them. Then `inner.remat` decides: True
    keeps the parameters of each step alone and computes its gradient twice; False keeps each step's
    linearisation, in a program that grows with K.

    Other arguments, returns and errors as for `maml`.
    """
    if inner.remat and inner.steps > 1:

        def product(w: PyTree, u: PyTree) -> PyTree:
            return hvp.exact(loss, w, u, episode.inner)

        return direction(product, loss, params, episode, alpha, inner, learn_alpha)
    check(params, episode, alpha, learn_alpha)
    params = jax.tree.map(jnp.asarray, params)
    free, fixed = tree.partition(params, inner.mask)
    w, state = free, alpha.init(free) if is_optax(alpha) else ()
    path = []
    for _ in range(inner.steps):
        gradient, hessian = jax.linearize(lambda v: jax.grad(loss)(tree.combine(v, fixed), episode.inner), w)
        gradient, _ = tree.partition(gradient, tree.present(w))
        path.append((Point(w, state, gradient), hessian))
        w, state = update(w, state, gradient, alpha)
    back = start_of(jax.grad(loss)(tree.combine(w, fixed), episode.outer), path[-1][0], alpha, learn_alpha)
    for at, hessian in reversed(path):
        back = pull_step(_fixed_at_its_point(hessian), back, at, fixed, alpha)
    gradient = pull_init(back, free, alpha)
    check_derivative(gradient, loss, params, episode.inner, alpha, inner)
    return (gradient, back.alpha) if learn_alpha else gradient


def _fixed_at_its_point(hessian: Callable[[PyTree], PyTree]) -> Product:
    return lambda _, u: hessian(u)
