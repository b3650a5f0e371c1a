"""The inner loop: a few steps of a task's own.

    w_0 = w,   w_{k+1} = w_k - alpha g(w_k),   k < K,

or an optax update in the place of the rate. What g is decides on the meta-gradient: its value is
grad f(w_k; D_in), its derivative is the estimator's choice (`jaxmaml.inner_gradient`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmaml import hvp, tree
from jaxmaml._inner_gradient import inner_gradient, varying
from jaxmaml.checks import (
    check_batch,
    check_callable,
    check_mask,
    check_nonnegative,
    check_params,
    check_rates,
    check_step_count,
    check_steps_axis,
    concrete,
)
from jaxmaml.types import Loss, PyTree


@dataclass(frozen=True)
class InnerLoop:
    """How a task adapts, beyond its rate alpha."""

    steps: int = 1
    """K."""
    mask: PyTree = True
    """which parameters adapt, a bool or a pytree prefix of bools: {"body": False, "head": True} is ANIL
    (Raghu et al. 2020). The others keep their value in the inner loop and are still learned."""
    remat: bool = True
    """with several steps: keep the parameters of each step alone, one set a step, and compute its product
    with the Hessian from them. False keeps each step's linearisation: a gradient less a step, more memory."""
    batch_per_step: bool = False
    """whether D_in and D_h have a leading axis K, a batch for every step. False: all steps use the same."""
    rate_per_step: bool = False
    """whether alpha has a leading axis K, a rate for every step: shape (K,), or (K, *shape of the parameter)
    for a rate of every weight too. False: all steps use the same."""
    checkpoint_levels: int = 1
    """for many steps: with n levels of nested checkpoints about n K^(1/n) sets of parameters and optax states
    are kept at a time, not K, and every step is computed n - 1 times more (Griewank & Walther 2000)."""

    def __post_init__(self) -> None:
        check_step_count("InnerLoop.steps", self.steps)
        check_step_count("InnerLoop.checkpoint_levels", self.checkpoint_levels)
        check_mask("InnerLoop.mask", self.mask)

    def __hash__(self) -> int:
        """Of the values: a mask may be a dict, and a loop a static argument of jit."""
        leaves, structure = jax.tree.flatten(self.mask)
        numbers = (
            self.steps,
            self.remat,
            self.batch_per_step,
            self.rate_per_step,
            self.checkpoint_levels,
        )
        return hash((numbers, tuple(leaves), structure))


ONE_STEP = InnerLoop()
"""The inner loop of the theory."""


def adapt(loss: Loss, params: PyTree, batch: PyTree, alpha: PyTree, inner: InnerLoop = ONE_STEP) -> PyTree:
    """w_K, from w_{k+1} = w_k - alpha grad f(w_k; D_in) or an optax update.

    Args:
      loss: loss(params, batch) -> scalar.
      params: pytree w.
      batch: D_in, sample axis first (the axis of steps before it with `inner.batch_per_step`).
      alpha: inner rate, a number or a pytree prefix of params (a rate per subtree, or an array like the
        parameter: a rate per weight), with the axis of steps first with `inner.rate_per_step`; or an optax
        transformation, whose update is added.
      inner: number of steps and mask. The loop for evaluation may be another one.

    Raises:
      ValueError: alpha negative or not finite (known outside jit alone: a learned rate may pass 0 inside),
        rates that do not fit the parameters, or an empty batch.
      TypeError: parameters that are not floating point.
    """
    _check(loss, params, batch, alpha, inner)
    return descend(hvp.exact, loss, params, (batch,), alpha, replace(inner, remat=False))


def descend(
    product: hvp.Product,
    loss: Loss,
    params: PyTree,
    batches: tuple[PyTree] | tuple[PyTree, PyTree],
    alpha: PyTree,
    inner: InnerLoop,
) -> PyTree:
    """w_K, whose derivative has this product with the Hessian on the last of `batches`, D_in or D_in and D_h.

    The product of a single step is never computed anew from the parameters: there is no loop to keep
    something for.
    """
    check_inner(inner)
    if len(batches) == 2 and batches[1] is None:
        raise TypeError("episode.hessian = None; allowed: a batch; maml_same_batch takes that of inner")
    params = jax.tree.map(jnp.asarray, params)
    gradient = inner_gradient(loss, product, mask=inner.mask, remat=inner.remat and inner.steps > 1)
    free, fixed = tree.partition(params, inner.mask)
    # A scan would keep what an optax update computes on its way; its arguments are less.
    apply = update
    if inner.steps > 1 and is_optax(alpha):
        apply = jax.checkpoint(update, prevent_cse=False, static_argnums=3)

    def step(at: tuple[PyTree, PyTree], batches: tuple[PyTree, ...], alpha: PyTree) -> tuple[PyTree, PyTree]:
        w, state = at
        return apply(w, state, gradient(tree.combine(w, fixed), *batches), alpha)

    end, _ = repeat(step, (free, init(free, alpha)), batches, alpha, inner)
    return tree.combine(end, fixed)


def adapt_has_finite_derivative(
    loss: Loss, params: PyTree, batch: PyTree, alpha: PyTree, inner: InnerLoop = ONE_STEP
) -> PyTree:
    """Whether every inner update on this batch has a finite derivative: a bool for each leaf of params.

    The derivative is that of an optax update in its gradient. It need not exist where the gradient is zero:
    Adam with eps_root = 0, clipping by a norm; meta-gradients are NaN there. Works under jit and vmap. The
    answer is True where a mask keeps a leaf, and with a rate.

    Args and errors as for `adapt`.
    """
    _check(loss, params, batch, alpha, inner)
    params = jax.tree.map(jnp.asarray, params)
    free, fixed = tree.partition(params, inner.mask)
    gradient = inner_gradient(loss, mask=inner.mask, remat=False)

    def step(at: tuple[PyTree, PyTree, PyTree], batches: tuple[PyTree], alpha: PyTree) -> tuple:
        w, state, finite = at
        g = gradient(tree.combine(w, fixed), *batches)
        new, pull, state = jax.vjp(lambda g: update(w, state, g, alpha), g, has_aux=True)
        (back,) = pull(jax.tree.map(jnp.ones_like, new))
        return new, state, jax.tree.map(lambda yes, x: yes & jnp.isfinite(x).all(), finite, back)

    start = free, init(free, alpha), jax.tree.map(lambda _: jnp.array(True), free)
    *_, found = repeat(step, start, (batch,), alpha, inner)
    return tree.combine(found, jax.tree.map(lambda _: jnp.array(True), params))


def check_derivative(
    result: PyTree,
    loss: Loss,
    params: PyTree,
    batch: PyTree,
    alpha: PyTree,
    inner: InnerLoop,
    tasks: bool = False,
) -> None:
    """FloatingPointError if `result` is not finite since the inner optax update has no finite derivative.

    Outside jit only: a traced result has no value yet. tasks: whether the leaves of `batch` have a task axis.
    """
    leaves = jax.tree.leaves(result)
    known = [x for x in map(concrete, leaves) if x is not None]
    if not is_optax(alpha) or len(known) < len(leaves) or all(np.isfinite(x).all() for x in known):
        return

    def one(batch: PyTree) -> PyTree:
        return adapt_has_finite_derivative(loss, params, batch, alpha, inner)

    for path, finite in jax.tree_util.tree_leaves_with_path((jax.vmap(one) if tasks else one)(batch)):
        if not finite.all():
            where = f"params{jax.tree_util.keystr(path)}"
            where += f" for task {int(jnp.argmin(finite))}" if tasks else ""
            raise FloatingPointError(
                f"alpha: the derivative of this optax update is not finite at {where}, "
                "and the meta-gradient is NaN; allowed: an update that is differentiable at a zero gradient, "
                "e.g. optax.adam(..., eps_root=1e-8), and clipping by value instead of by norm"
            )


def is_optax(alpha: PyTree) -> bool:
    """Whether the inner update is an optax transformation, not a rate."""
    return isinstance(alpha, optax.GradientTransformation)


def check_alpha(
    alpha: PyTree, params: PyTree, learn_alpha: bool = False, inner: InnerLoop = ONE_STEP
) -> None:
    """Rates that fit the parameters and the steps, or an optax transformation."""
    check_inner(inner)
    if not is_optax(alpha):
        check_rates(alpha, params, inner.steps if inner.rate_per_step else None)
        check_nonnegative("alpha", alpha)
        return
    for name, given in (("learn_alpha", learn_alpha), ("inner.rate_per_step", inner.rate_per_step)):
        if given:
            raise ValueError(f"{name} = True with an optax transformation; allowed: with a rate or rates")


def _check(loss: Loss, params: PyTree, batch: PyTree, alpha: PyTree, inner: Any) -> None:
    check_callable("loss", loss, "loss(params, batch) -> scalar")
    check_params(params)
    check_batch("batch", batch)
    check_alpha(alpha, params, inner=inner)


def check_inner(inner: Any) -> None:
    if not isinstance(inner, InnerLoop):
        raise TypeError(f"inner = {inner!r}; allowed: jaxmaml.InnerLoop, e.g. InnerLoop(steps=5)")


def init(free: PyTree, alpha: PyTree) -> PyTree:
    """The state of the inner update before the first step."""
    return alpha.init(free) if is_optax(alpha) else ()


def update(w: PyTree, state: PyTree, gradient: PyTree, alpha: PyTree) -> tuple[PyTree, PyTree]:
    """One inner update of the adapting parameters, and the new state."""
    if is_optax(alpha):
        updates, state = alpha.update(gradient, state, w)
        return optax.apply_updates(w, updates), state
    return jax.tree.map(lambda w, s: w - s, w, tree.scale(alpha, gradient)), state


def repeat(
    step: Callable[..., Any], carry: Any, batches: tuple[PyTree, ...], alpha: PyTree, inner: InnerLoop
) -> Any:
    """`inner.steps` times carry = step(carry, batches, alpha), with the step's own where each has some.

    A single step is no loop: outside jit a scan of a new function compiles at every call; inside, XLA may
    share the work of a step that is no loop with what surrounds it.
    """
    carry = varying(carry, batches)
    if inner.batch_per_step:
        check_steps_axis(batches, inner.steps)
    own_batches = batches if inner.batch_per_step else None
    own_rates = jax.tree.map(jnp.asarray, alpha) if inner.rate_per_step else None

    def one(carry: Any, own: tuple[Any, Any]) -> Any:
        some, rates = own
        return step(carry, batches if some is None else some, alpha if rates is None else rates)

    own = own_batches, own_rates
    if inner.steps == 1:
        return one(carry, jax.tree.map(lambda x: x[0], own))
    return _nested(one, carry, own, inner.steps, inner.checkpoint_levels)


def _nested(step: Callable[..., Any], carry: Any, xs: Any, steps: int, levels: int) -> Any:
    """A scan in segments that are computed again on the way back, themselves made of segments."""

    def scan(piece: Callable[..., Any], carry: Any, xs: Any, length: int) -> Any:
        return jax.lax.scan(lambda c, x: (piece(c, x), None), carry, xs, length=length)[0]

    if levels == 1:
        return scan(step, carry, xs, steps)

    def piece(length: int) -> Callable:
        return jax.checkpoint(lambda c, x: _nested(step, c, x, length, levels - 1), prevent_cse=False)

    segments = math.ceil(steps ** (1 / levels))
    length = steps // segments
    whole = segments * length
    first = jax.tree.map(lambda x: x[:whole].reshape(segments, length, *x.shape[1:]), xs)
    carry = scan(piece(length), carry, first, segments)
    if whole == steps:
        return carry
    return piece(steps - whole)(carry, jax.tree.map(lambda x: x[whole:], xs))
