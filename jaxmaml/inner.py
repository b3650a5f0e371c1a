"""The inner loop: a few steps on the task's own batch, and the pull-back of a gradient through them.

    w_{k+1} = w_k - alpha grad f(w_k; D_in),  k < K,   w_0 = w;
    G = lambda_0,   lambda_K = grad f(w_K; D_o),   lambda_k = lambda_{k+1} - H(w_k) alpha lambda_{k+1}.

The product with H is the estimator's: exact, a difference, or none. Kept are the parameters w_k alone, one
set of adapting parameters a step; every product recomputes what it needs from them (rematerialisation).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmaml import tree
from jaxmaml.checks import check_mask, check_rates, check_step_count, concrete
from jaxmaml.types import Loss, PyTree

Product = Callable[[PyTree, PyTree], PyTree]
"""product(w, u): an estimate of H(w) u, like params. u has None where a mask keeps parameters."""


@dataclass(frozen=True)
class InnerLoop:
    """How a task adapts, beyond its rate alpha."""

    steps: int = 1
    """K; all steps use the same batch D_in, all their Hessians the same batch."""
    mask: PyTree = True
    """which parameters adapt, a bool or a pytree prefix of bools: {"body": False, "head": True} is ANIL
    (Raghu et al. 2020). The others keep their value in the inner loop and are still learned."""
    remat: bool = True
    """`maml_same_batch` with several steps only: compute each linearisation again instead of keeping it."""

    def __post_init__(self) -> None:
        check_step_count("InnerLoop.steps", self.steps)
        check_mask("InnerLoop.mask", self.mask)

    def __hash__(self) -> int:
        """Of the values: a mask may be a dict, and a loop a static argument of jit."""
        leaves, structure = jax.tree.flatten(self.mask)
        return hash((self.steps, tuple(leaves), structure, self.remat))


ONE_STEP = InnerLoop()
"""The inner loop of the theory."""


class Point(NamedTuple):
    """Where an inner step begins; of a whole path with a leading axis (K)."""

    w: PyTree
    """the adapting parameters of w_k; None for the others."""
    state: PyTree
    """the state of an optax update; () for a rate."""
    gradient: PyTree
    """their gradient at w_k, or None where no pull-back reads it."""


def adapt(loss: Loss, params: PyTree, batch: PyTree, alpha: PyTree, inner: InnerLoop = ONE_STEP) -> PyTree:
    """w_K, from w_{k+1} = w_k - alpha grad f(w_k; D_in) or an optax update.

    Args:
      loss: loss(params, batch) -> scalar.
      params: pytree w.
      batch: D_in, sample axis first.
      alpha: inner rate, a number or a pytree prefix of params (a rate per subtree); or an optax
        transformation, whose update is added.
      inner: number of steps and mask. The loop for evaluation may be another one.
    """
    if not is_optax(alpha):
        check_rates(alpha, params)
    return descend(loss, params, batch, alpha, inner)[0]


def descend(
    loss: Loss, params: PyTree, batch: PyTree, alpha: PyTree, inner: InnerLoop, keep: bool = False
) -> tuple[PyTree, Point]:
    """(w_K, the points w_0, ..., w_{K-1}), the latter with gradients if `keep`."""
    params = jax.tree.map(jnp.asarray, params)
    free, fixed = tree.partition(params, inner.mask)

    def step(at: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], Point]:
        w, state = at
        gradient = jax.grad(lambda v: loss(tree.combine(v, fixed), batch))(w)
        return update(w, state, gradient, alpha), Point(w, state, gradient if keep else None)

    state = alpha.init(free) if is_optax(alpha) else ()
    end, path = _repeat(step, (free, state), None, inner.steps)
    return tree.combine(end[0], fixed), path


def adapt_has_finite_derivative(
    loss: Loss, params: PyTree, batch: PyTree, alpha: PyTree, inner: InnerLoop = ONE_STEP
) -> PyTree:
    """Whether every inner update on this batch has a finite derivative: a bool for each leaf of params.

    The derivative is that of an optax update in its gradient. It need not exist where the gradient is zero:
    Adam with eps_root = 0, clipping by a norm; meta-gradients are NaN there. Works under jit and vmap. The
    answer is True where a mask keeps a leaf, and with a rate.

    Args as for `adapt`.
    """
    _, path = descend(loss, params, batch, alpha, inner, keep=True)

    def finite(at: Point) -> PyTree:
        _, pull = jax.vjp(lambda gradient: update(at.w, at.state, gradient, alpha)[0], at.gradient)
        (back,) = pull(jax.tree.map(jnp.ones_like, at.w))
        return jax.tree.map(lambda x: jnp.isfinite(x).all(), back)

    found = jax.tree.map(jnp.all, jax.vmap(finite)(path))
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


def update(w: PyTree, state: PyTree, gradient: PyTree, alpha: PyTree) -> tuple[PyTree, PyTree]:
    """One inner update of the adapting parameters, and the new state."""
    if is_optax(alpha):
        updates, state = alpha.update(gradient, state, w)
        return optax.apply_updates(w, updates), state
    return jax.tree.map(lambda w, s: w - s, w, tree.scale(alpha, gradient)), state


def pull_back(
    product: Product | None, end: PyTree, params: PyTree, path: Point, alpha: PyTree, inner: InnerLoop
) -> tuple[PyTree, PyTree]:
    """(G, dF/dalpha) of one task, from lambda_K = `end`.

    With a rate, lambda_k as above and dF/dalpha = -sum_k <lambda_{k+1}, grad f(w_k; D_in)> over the
    parameters of each rate; with an optax update, its own derivatives are taken by autodiff, and dF/dalpha
    is None.
    product = None leaves the Hessian out (first order).
    """
    _, fixed = tree.partition(params, inner.mask)
    first = jax.tree.map(lambda x: x[0], path)
    start = start_of(end, first, alpha, learn_alpha=path.gradient is not None and not is_optax(alpha))

    def step(carry: Pull, at: Point) -> tuple[Pull, None]:
        return pull_step(product, carry, at, fixed, alpha), None

    back, _ = _repeat(step, start, path, inner.steps, reverse=True)
    return pull_init(back, first.w, alpha), back.alpha


class Pull(NamedTuple):
    """What travels backwards."""

    adjoint: PyTree
    """lambda_k, like params."""
    state: PyTree
    """the adjoint of the floating-point part of an optax state."""
    alpha: PyTree
    """the sum so far of dF/dalpha, or None."""


def start_of(end: PyTree, at: Point, alpha: PyTree, learn_alpha: bool) -> Pull:
    """lambda_K, before any step is pulled back; `at` is one of the points."""
    floating, _ = tree.partition(at.state, jax.tree.map(_is_floating, at.state))
    rates = (
        jax.tree.map(lambda a: jnp.zeros_like(a, jnp.result_type(a, float)), alpha) if learn_alpha else None
    )
    return Pull(end, jax.tree.map(jnp.zeros_like, floating), rates)


def pull_step(product: Product | None, carry: Pull, at: Point, fixed: PyTree, alpha: PyTree) -> Pull:
    """lambda_k from lambda_{k+1}: the update's own derivative, then the product with the Hessian."""
    free = tree.present(at.w)
    ahead, kept = tree.partition(carry.adjoint, free)
    floating, counts = tree.partition(at.state, jax.tree.map(_is_floating, at.state))
    gradient = at.gradient if at.gradient is not None else at.w  # a rate's derivative in w does not read it

    def advance(w: PyTree, state: PyTree, g: PyTree, rate: PyTree) -> tuple[PyTree, PyTree]:
        new, after = update(w, tree.combine(state, counts), g, alpha if rate is None else rate)
        return new, tree.partition(after, jax.tree.map(_is_floating, after))[0]

    rate = (
        None
        if carry.alpha is None
        else jax.tree.map(lambda a, s: jnp.asarray(a, s.dtype), alpha, carry.alpha)
    )
    _, pull = jax.vjp(advance, at.w, floating, gradient, rate)
    back, state, through, rates = pull((ahead, carry.state))
    adjoint = tree.combine(back, kept)
    if product is not None:
        adjoint = jax.tree.map(jnp.add, adjoint, product(tree.combine(at.w, fixed), through))
    total = None if carry.alpha is None else jax.tree.map(jnp.add, carry.alpha, rates)
    return Pull(adjoint, state, total)


def pull_init(back: Pull, free: PyTree, alpha: PyTree) -> PyTree:
    """lambda_0 with the part of an optax state that is made of the parameters, as a proximal term has it."""
    if not is_optax(alpha):
        return back.adjoint

    def floating(w: PyTree) -> PyTree:
        state = alpha.init(w)
        return tree.partition(state, jax.tree.map(_is_floating, state))[0]

    (more,) = jax.vjp(floating, free)[1](back.state)
    ahead, kept = tree.partition(back.adjoint, tree.present(free))
    return tree.combine(jax.tree.map(jnp.add, ahead, more), kept)


def _repeat(step: Callable, carry: Any, xs: Any, steps: int, reverse: bool = False) -> tuple[Any, Any]:
    """`jax.lax.scan`, except that a single step is no loop.

    Outside jit a scan of a new function compiles at every call; inside, XLA may share the work of a step that
    is no loop with what surrounds it.
    """
    if steps > 1:
        return jax.lax.scan(step, carry, xs, length=steps, reverse=reverse)
    carry, out = step(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda x: x[None], out)


def is_optax(alpha: PyTree) -> bool:
    """Whether the inner update is an optax transformation, not a rate."""
    return isinstance(alpha, optax.GradientTransformation)


def _is_floating(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
