"""Hessian-vector products H v = hess f(w) v of loss(params, batch): exact, by differences, dense."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxmaml import tree
from jaxmaml.checks import check_positive
from jaxmaml.types import Loss, PyTree, Scalar


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
    vector = tree.combine(vector, jax.tree.map(jnp.zeros_like, params))
    norm = tree.norm(vector)
    zero = vanishes(norm)
    safe = jnp.where(zero, 1.0, norm)
    arc = jnp.where(zero, 1.0, jnp.asarray(delta, norm.dtype) * safe)
    shift = jax.tree.map(lambda v: (arc / safe).astype(v.dtype) * v, vector)
    with jax.default_matmul_precision("highest"):
        ahead, behind = (
            jax.grad(loss)(jax.tree.map(jnp.add, params, s), batch)
            for s in (shift, jax.tree.map(jnp.negative, shift))
        )
    factor = jnp.where(zero, 0.0, safe / (2 * arc))
    return jax.tree.map(lambda a, b: factor.astype(a.dtype) * (a - b), ahead, behind)


def vanishes(norm: jax.Array) -> jax.Array:
    """Whether a step of the order of 1/||v|| could overflow; H v is then taken as 0, its size is L ||v||."""
    info = jnp.finfo(norm.dtype)
    return norm < info.tiny / info.eps


def dense(loss: Loss, params: PyTree, vector: PyTree, batch: PyTree) -> PyTree:
    """H v by forming the d x d Hessian: O(d) gradients and O(d^2) memory, a reference for the others."""
    flat, unravel = ravel_pytree(params)
    hessian = jax.hessian(lambda w: loss(unravel(w), batch))(flat)
    return unravel(hessian @ ravel_pytree(vector)[0])
