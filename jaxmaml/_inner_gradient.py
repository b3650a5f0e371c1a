"""The gradient of an inner step, whose own derivative is chosen: the idea behind every estimator here.

    g = inner_gradient(loss, product):  g(w, D, D_h) = grad loss(w; D),
    dg/dw u = product(loss, w, u, D_h).

MAML, FO-MAML and HF-MAML are one objective, f(w_K(w); D_o), whose inner gradients have another derivative:
the exact Hessian, none, or a central difference (`jaxmaml.hvp`). Write any inner loop with g in the place of
`jax.grad(loss)` and differentiate it with `jax.grad`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jaxmaml import hvp, tree
from jaxmaml.checks import check_callable, check_mask, check_params, scalar
from jaxmaml.types import Loss, PyTree

Gradient = Callable[..., Any]
"""g(params, batch) or g(params, batch, hessian_batch)."""


def inner_gradient(
    loss: Loss,
    product: hvp.Product = hvp.exact,
    *,
    mask: PyTree = True,
    has_aux: bool = False,
    remat: bool = True,
) -> Gradient:
    """g(params, batch, hessian_batch=None) -> grad loss(params; batch), whose derivative is chosen.

    In params it is `product` on `hessian_batch` (None: on `batch`). In everything else, the batch and arrays
    that `loss` closes over (learned losses, labels, weight decay), it is exact.

    Args:
      loss: loss(params, batch) -> scalar, or (scalar, aux) with has_aux.
      product: product(loss, params, vector, batch) -> H vector: `hvp.exact` (MAML), `hvp.none` (FO-MAML),
        `hvp.difference(delta)` (HF-MAML) or one of your own. Where `loss` has derivative rules of its own
        (gradient reversal), `hvp.exact` is the transposed Jacobian of the gradient.
      mask: which parameters adapt, a bool or a pytree prefix of bools; the gradient has None for the others.
      has_aux: whether g returns (gradient, aux).
      remat: keep params alone for the way back and compute the product from them. False, with `hvp.exact`,
        keeps the linearisation of the gradient instead: one gradient less, more memory, differentiable in
        forward mode, and parameters that tasks share under `vmap` have one product over all tasks' samples.

    Raises (g):
      TypeError: parameters that are not floating point, or a loss that returns something else.
      ValueError: a loss that is no scalar, an empty params.
    """
    check_mask("mask", mask)
    check_callable("loss", loss, "loss(params, batch) -> scalar")
    check_callable("product", product, "jaxmaml.hvp.exact, none, difference(delta) or one of yours")

    def gradient(params: PyTree, batch: PyTree, hessian_batch: PyTree | None = None) -> Any:
        check_params(params)
        params = varying(jax.tree.map(jnp.asarray, params), (batch, hessian_batch))
        if product is hvp.exact and hessian_batch is None and not remat:
            return _gradient(scalar(loss, has_aux), params, batch, mask, has_aux)
        here = _Converted(loss, params, batch, mask, has_aux)
        there = here if hessian_batch is None else _Converted(loss, params, hessian_batch, mask, has_aux)
        if product is hvp.exact and not remat:
            return _linearised(here, there)(params, here.data, there.data)
        multiply, closed = there.multiplication(product, params)
        curved = (() if there is here else there.data, closed)
        return _by_product(here, there, multiply)(params, here.data, curved)

    return gradient


def _gradient(loss: Callable[..., Any], params: PyTree, batch: PyTree, mask: PyTree, has_aux: bool) -> Any:
    """grad loss of the adapting parameters, (grad, aux) with has_aux."""
    free, fixed = tree.partition(params, mask)
    return jax.grad(lambda v: loss(tree.combine(v, fixed), batch), has_aux=has_aux)(free)


def _convert(
    function: Callable[..., Any], *like: Any
) -> tuple[Callable[..., Any], jax.extend.core.Jaxpr, list[jax.Array]]:
    """(a function of the same arguments and of a list, its trace, the list): of what `function` closes over.

    A rule for reverse mode runs when the transformations around it are over: what it reads must be an
    argument. (`jax.closure_convert` leaves out what is not being differentiated, under `vmap` too early.)
    """
    traced, shape = jax.make_jaxpr(function, return_shape=True)(*like)
    structure = jax.tree.structure(shape)

    def call(*args: Any) -> Any:
        run = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(traced.jaxpr, args[-1]))
        return jax.tree.unflatten(structure, run(*jax.tree.leaves(args[:-1])))

    return call, traced.jaxpr, [_own(x) for x in traced.consts]


def _own(x: Any) -> jax.Array:
    """x as an array of JAX's own, of a type that is enabled.

    An array of NumPy, also one inside a tracer of `vmap`, is neither, and no argument of a rule. In a
    compiled program `jnp.copy` is no operation.
    """
    if not isinstance(x, jax.core.Tracer):
        return jnp.asarray(x)
    dtype = jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True)
    return jnp.copy(x) if dtype == x.dtype else jax.lax.convert_element_type(x, dtype)


class _Converted:
    """A loss on one batch, whose data are the batch and what the loss closes over."""

    def __init__(self, loss: Loss, params: PyTree, batch: PyTree, mask: PyTree, has_aux: bool):
        batch = jax.tree.map(_own, batch)
        self.call, jaxpr, closed = _convert(scalar(loss, has_aux), params, batch)
        self.data = (batch, closed)
        self.symmetric = not hvp.has_own_derivatives(jaxpr)
        self.mask, self.has_aux = mask, has_aux

    def loss(self, params: PyTree, data: tuple[PyTree, list]) -> jax.Array:
        return self.first(self.call(params, *data))

    def gradient(self, params: PyTree, data: tuple[PyTree, list]) -> Any:
        """As `_gradient`."""
        return _gradient(lambda p, d: self.call(p, *d), params, data, self.mask, self.has_aux)

    def first(self, found: Any) -> PyTree:
        """The value or gradient alone."""
        return found[0] if self.has_aux else found

    def multiplication(self, product: hvp.Product, params: PyTree) -> tuple[Callable[..., PyTree], list]:
        """multiply(w, u, data, closed) -> H u, for the u of the adapting parameters; and `closed`."""

        def multiply(w: PyTree, u: PyTree, data: tuple[PyTree, list]) -> PyTree:
            spread = tree.combine(u, jax.tree.map(lambda _: None, w))
            return product(lambda w, batch: self.loss(w, (batch, data[1])), w, spread, data[0])

        if product is hvp.exact and not self.symmetric:

            def transposed(w: PyTree, u: PyTree, data: tuple[PyTree, list], _: list) -> PyTree:
                return jax.vjp(lambda w: self.first(self.gradient(w, data)), w)[1](u)[0]

            return transposed, []
        if product in (hvp.exact, hvp.none):
            return lambda w, u, data, _: multiply(w, u, data), []
        call, _, closed = _convert(multiply, params, tree.partition(params, self.mask)[0], self.data)
        return call, closed


def _by_product(here: _Converted, there: _Converted, multiply: Callable[..., PyTree]) -> Callable:
    """g by a rule for reverse mode that keeps the arguments alone."""

    @jax.custom_vjp
    def call(w: PyTree, data: PyTree, _: PyTree) -> Any:
        return here.gradient(w, data)

    def forward(w: PyTree, data: PyTree, curved: PyTree) -> tuple[Any, Any]:
        moved, data = _perturbed(data), _values(data)
        w, curved = _values(w), _values(curved)
        return here.gradient(w, data), (w, data, curved, moved)

    def backward(kept: Any, cotangent: Any) -> tuple[PyTree, PyTree, None]:
        w, data, (elsewhere, closed), moved = kept
        cotangent = _instantiated(cotangent)
        back = multiply(w, here.first(cotangent), data if there is here else elsewhere, closed)
        if here.has_aux:
            _, pull = jax.vjp(lambda w: here.gradient(w, data)[1], w)
            back = jax.tree.map(jnp.add, back, pull(cotangent[1])[0])
        return back, _pulled(here, w, data, moved, cotangent), None

    call.defvjp(forward, backward, symbolic_zeros=True)
    return call


def _pulled(here: _Converted, w: PyTree, data: PyTree, moved: "_Static", cotangent: Any) -> PyTree:
    """The derivative in the batch and in what the loss closes over, where something asks for it."""
    leaves, structure = jax.tree.flatten(data)
    chosen = [i for i, yes in enumerate(moved.value) if yes]
    if not chosen:
        return None

    def of(some: list) -> Any:
        found = dict(zip(chosen, some, strict=True))
        return here.gradient(
            w, jax.tree.unflatten(structure, [found.get(i, x) for i, x in enumerate(leaves)])
        )

    (back,) = jax.vjp(of, [leaves[i] for i in chosen])[1](cotangent)
    pulled = dict(zip(chosen, back, strict=True))
    return jax.tree.unflatten(structure, [pulled.get(i) for i in range(len(leaves))])


def _linearised(here: _Converted, there: _Converted) -> Callable:
    """g with the exact Hessian of another batch, by a rule for forward mode, which JAX transposes."""

    @jax.custom_jvp
    def call(w: PyTree, data: PyTree, _: PyTree) -> Any:
        return here.gradient(w, data)

    def rule(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        w, data, curved = primals
        dw, moved, _ = (_instantiated(t) if _any(t) else None for t in tangents)
        out = call(w, data, curved)
        parts = []
        if dw is not None:
            change = jax.jvp(lambda w: there.first(there.gradient(w, curved)), (w,), (dw,))[1]
            if here.has_aux:
                change = change, jax.jvp(lambda w: here.gradient(w, data)[1], (w,), (dw,))[1]
            parts.append(change)
        if moved is not None:
            parts.append(jax.jvp(lambda d: here.gradient(w, d), (data,), (moved,))[1])
        total = parts[0] if parts else jax.tree.map(_zero, out)
        for more in parts[1:]:
            total = jax.tree.map(jnp.add, total, more)
        return out, total

    call.defjvp(rule, symbolic_zeros=True)
    return call


def varying(params: PyTree, like: PyTree) -> PyTree:
    """params, varying over the devices of a `shard_map` over which `like` varies.

    The gradient in replicated parameters is summed over devices; the inner gradient of a task is its own.
    """
    axes = frozenset[Any]().union(*(_axes(x) for x in jax.tree.leaves(like)))

    def one(x: jax.Array) -> jax.Array:
        new = tuple(axes - _axes(x))
        return jax.lax.pcast(x, new, to="varying") if new else x

    return jax.tree.map(one, params) if axes else params


def _axes(x: Any) -> frozenset[Any]:
    return jax.typeof(x).mat.varying


class _Static:
    """A value that is no array, among those that a rule keeps."""

    def __init__(self, value: tuple[bool, ...]):
        self.value = value


jax.tree_util.register_pytree_node(_Static, lambda s: ((), s.value), lambda value, _: _Static(value))


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _values(marked: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.value, marked)


def _perturbed(marked: PyTree) -> _Static:
    return _Static(tuple(x.perturbed for x in jax.tree.leaves(marked)))


def _any(tangent: PyTree) -> bool:
    return not all(map(_is_zero, jax.tree.leaves(tangent, is_leaf=_is_zero)))


def _instantiated(tangent: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x: jnp.zeros(x.aval.shape, x.aval.dtype) if _is_zero(x) else x, tangent, is_leaf=_is_zero
    )


def _zero(x: Any) -> Any:
    """The tangent 0 of x, whatever its type."""
    if jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(jnp.shape(x), jax.dtypes.float0)
