"""Hessian-vector products H v = hess f(w) v of loss(params, batch): exact, by differences, dense, none.

Those with the signature of `Product` are what `inner_gradient` takes as the derivative of an inner gradient.
"""

import pathlib
import re
from collections.abc import Callable

import jax
import jax.extend
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxmaml import tree
from jaxmaml.checks import check_positive
from jaxmaml.types import Loss, PyTree, Scalar

Product = Callable[[Loss, PyTree, PyTree, PyTree], PyTree]
"""product(loss, params, vector, batch): an estimate of H(params; batch) vector, like params; `vector` may
have None in the place of leaves that are 0."""

DeltaRule = Callable[[jax.Array], jax.Array]
"""A rule delta(||v||), with the global norm over the whole pytree. One with a method `around(params)` depends
on the point too: the method gives the rule there."""


def exact(loss: Loss, params: PyTree, vector: PyTree, batch: PyTree) -> PyTree:
    """H v by forward-over-reverse differentiation, jvp of grad: O(1) gradients, no d x d matrix.

    Args:
      loss: loss(params, batch) -> scalar.
      params: pytree w (unit u).
      vector: pytree v like params; None in the place of leaves that are 0 saves their part of the work.
      batch: the batch of the Hessian.

    Returns:
      Pytree like params, in units of phi/u^2 times those of v.
    """
    moving, still = tree.partition(params, tree.present(vector))
    return jax.jvp(lambda w: jax.grad(loss)(tree.combine(w, still), batch), (moving,), (vector,))[1]


def central_difference(loss: Loss, params: PyTree, vector: PyTree, batch: PyTree, delta: Scalar) -> PyTree:
    """d = [grad f(w + delta v) - grad f(w - delta v)] / (2 delta), the Hessian-free product.

    Its truncation error is at most rho delta ||v||^2 / 2 (half of what the paper states, as summarised),
    and that constant is attained; see docs/theory.md. Both gradients use the same batch. The points are
    formed as w +- h v/||v|| with h = delta ||v||, so that a delta proportional to 1/||v|| is
    finite wherever h is; d = 0 where v = 0. Both gradients are computed with matrix products at the full
    precision of their type, whatever `jax.default_matmul_precision` says: GPUs round float32 to 11 bits
    by default, and the difference of two such gradients divided by delta is mostly rounding (docs/gpu.md).

    Args:
      delta: the step (unit u^2/phi when v is a gradient); ValueError unless finite and > 0.

    Other arguments and the result as for `exact`.
    """
    check_positive("delta", delta)
    if jnp.shape(delta):
        raise ValueError(f"delta of shape {jnp.shape(delta)}; allowed: a number")
    vector = tree.combine(vector, jax.tree.map(jnp.zeros_like, params))
    norm = tree.norm(vector)
    zero = vanishes(norm)
    safe = jnp.where(zero, 1.0, norm)
    arc = jnp.where(zero, 1.0, jnp.asarray(delta, norm.dtype) * safe)
    shift = jax.tree.map(lambda v: ((arc / safe) * v).astype(v.dtype), vector)
    with jax.default_matmul_precision("highest"):
        ahead, behind = (
            jax.grad(loss)(jax.tree.map(jnp.add, params, s), batch)
            for s in (shift, jax.tree.map(jnp.negative, shift))
        )
    factor = jnp.where(zero, 0.0, safe / (2 * arc))
    return jax.tree.map(lambda a, b: (factor * (a - b)).astype(a.dtype), ahead, behind)


def difference(delta: Scalar | DeltaRule) -> Product:
    """`central_difference` with this delta, a number or a rule delta(||v||), as a `Product`.

    A rule in which delta ||v|| is constant (`theorem_delta`, `float_optimal_delta`) does not depend on how
    the vector is scaled; what a number means does.
    """
    if not callable(delta):
        check_positive("delta", delta)

    def product(loss: Loss, params: PyTree, vector: PyTree, batch: PyTree) -> PyTree:
        if not callable(delta):
            return central_difference(loss, params, vector, batch, delta)
        norm = tree.norm(vector)
        moving, _ = tree.partition(params, tree.present(vector))
        rule = delta.around(moving) if hasattr(delta, "around") else delta
        step = rule(jnp.where(vanishes(norm), 1.0, norm))
        return central_difference(loss, params, vector, batch, step)

    return product


def none(loss: Loss, params: PyTree, vector: PyTree, batch: PyTree) -> PyTree:
    """0, the product that FO-MAML puts in the place of H v."""
    del loss, vector, batch
    return jax.tree.map(jnp.zeros_like, params)


def vanishes(norm: jax.Array) -> jax.Array:
    """Whether a step of the order of 1/||v|| could overflow; H v is then taken as 0, its size is L ||v||."""
    info = jnp.finfo(norm.dtype)
    return norm < info.tiny / info.eps


def dense(loss: Loss, params: PyTree, vector: PyTree, batch: PyTree) -> PyTree:
    """H v by forming the d x d Hessian: O(d) gradients and O(d^2) memory, a reference for the others."""
    flat, unravel = ravel_pytree(params)
    hessian = jax.hessian(lambda w: loss(unravel(w), batch))(flat)
    return unravel(hessian @ ravel_pytree(vector)[0])


def has_own_derivatives(jaxpr: jax.extend.core.Jaxpr) -> bool:
    """Whether a traced loss has custom derivative rules that are not JAX's own.

    The gradient that they give need not be the gradient of any function, nor its Jacobian symmetric. (With
    `stop_gradient` it is: what is held is held at every order.)
    """
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name.startswith("custom_vjp_call"):
            return True
        if name == "custom_jvp_call":
            if not _OF_JAX.search(eqn.params["call_jaxpr"].jaxpr.debug_info.func_src_info):
                return True
            continue
        for value in jax.tree.leaves(tuple(eqn.params.values())):
            inside = getattr(value, "jaxpr", value)
            if isinstance(inside, jax.extend.core.Jaxpr) and has_own_derivatives(inside):
                return True
    return False


_OF_JAX = re.compile(rf" at {re.escape(str(pathlib.Path(jax.__file__).parent))}[/\\]")
"""The file that a rule comes from lies in JAX, not in a package whose name only begins so."""
