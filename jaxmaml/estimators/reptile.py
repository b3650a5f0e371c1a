"""Reptile: towards the adapted parameters."""

import jax
import jax.numpy as jnp

from jaxmaml import hvp, tree
from jaxmaml._inner_gradient import inner_gradient
from jaxmaml.checks import scalar
from jaxmaml.estimators._adapted import NONE, beside, check, differentiable
from jaxmaml.inner import ONE_STEP, InnerLoop, descend, init, is_optax, repeat, update
from jaxmaml.types import Episode, Loss, PyTree


def adaptation(
    loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree, inner: InnerLoop = ONE_STEP
) -> PyTree:
    """w_K"""
    return descend(hvp.none, loss, params, (episode.inner,), alpha, inner)


@beside(adaptation, gradients=lambda K: K, objective=NONE)
def reptile(
    loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree, inner: InnerLoop = ONE_STEP
) -> PyTree:
    """G = grad f(w_0; D_in) + ... + grad f(w_{K-1}; D_in) = (w - w_K) / alpha,  unit phi/u.

    The sum of the inner gradients, which an optax transformation takes like any gradient: SGD with the rate
    epsilon alpha is the paper's w + epsilon (w_K - w). With one step it is SGD on the mean of the tasks'
    losses. With more it is the gradient of no function, and has no rates to learn. With rates per step
    it is the same sum; with an optax update as alpha it is w - w_K (unit u), and the outer rate is epsilon.
    Parameters that a mask keeps from adapting have G = 0, so that they are not learned. `episode.hessian` and
    `episode.outer` are not used, but for the value f(w_K; D_o) in `meta_value_and_gradient`.

    Arguments, returns and errors as for `maml`. Source: Nichol, Achiam, Schulman (2018), "On first-order
    meta-learning algorithms".
    """
    check(params, episode, alpha, inner=inner)
    params, alpha = differentiable(params, alpha, episode)
    free, fixed = tree.partition(params, inner.mask)
    gradient = inner_gradient(scalar(loss), hvp.none, mask=inner.mask)

    def step(at: tuple[PyTree, ...], batches: tuple[PyTree], alpha: PyTree) -> tuple[PyTree, ...]:
        w, state, total = at
        g = gradient(tree.combine(w, fixed), *batches)
        return *update(w, state, g, alpha), jax.tree.map(jnp.add, total, g)

    nothing = jax.tree.map(jnp.zeros_like, params)
    start = free, init(free, alpha), tree.partition(nothing, inner.mask)[0]
    end, _, total = repeat(step, start, (episode.inner,), alpha, inner)
    return tree.combine(jax.tree.map(jnp.subtract, free, end) if is_optax(alpha) else total, nothing)
