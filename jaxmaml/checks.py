"""One clear error for bad input, raised while tracing, before anything compiles."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.types import Episode, Loss, PyTree

MOST = 2**31 - 1
"""the largest count: in float32 mode JAX's integers have 32 bits."""
SEEDS = 2**32
"""how many seeds there are: in float32 mode a key has 32 bits of its seed, so that 2^32 would be 0 again."""


def concrete(value: Any) -> np.ndarray | None:
    """The value as an array, or None while it is traced (its range can then not be checked)."""
    if isinstance(value, jax.core.Tracer):
        return None
    return np.asarray(value)


def _real(name: str, value: Any, allowed: str) -> np.ndarray | None:
    """`concrete` of what must be real numbers: no text, None, complex or bool."""
    number = isinstance(value, int | float | np.ndarray | np.generic | jax.Array)
    if not number or not jnp.issubdtype(_dtype(value), np.number) or jnp.iscomplexobj(value):
        raise ValueError(f"{name} = {value!r}; allowed: {allowed}")
    return concrete(value)


def _dtype(value: Any) -> Any:
    """bool of Python is no int here; an int that no integer type holds is an object."""
    return value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype


def check_nonnegative(name: str, tree: PyTree) -> None:
    """Every leaf must be finite and >= 0."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = name + jax.tree_util.keystr(path)
        value = _real(where, leaf, "a number, finite and >= 0")
        if value is not None and not (np.all(np.isfinite(value)) and np.all(value >= 0)):
            raise ValueError(f"{where} = {leaf!r}; allowed: finite and >= 0")


def check_positive(name: str, value: Any, why: str = "") -> None:
    """A scale such as delta, rho or L must be finite and > 0."""
    allowed = f"finite and > 0{why}"
    number = _real(name, value, allowed)
    if number is not None and not (np.all(np.isfinite(number)) and np.all(number > 0)):
        raise ValueError(f"{name} = {value!r}; allowed: {allowed}")


def check_norms(name: str, value: Any) -> None:
    """At least one norm, none of them negative. Those of data that are not finite may be NaN."""
    number = _real(name, value, "numbers >= 0")
    if np.size(value) == 0 or (number is not None and np.any(number < 0)):
        raise ValueError(f"{name} = {value!r}; allowed: at least one number, all >= 0")


def check_step_count(name: str, value: Any, least: int = 1, most: int = MOST) -> None:
    """A count: an integer in a range."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        upper = f" and <= {most}" if whole and value > most else ""
        raise ValueError(f"{name} = {value!r}; allowed: an integer >= {least}{upper}")


def check_seed(name: str, value: Any) -> None:
    """An integer, one for each stream of random numbers: 0 <= seed < 2^32."""
    if isinstance(value, jax.core.Tracer):
        return
    known = value.item() if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0 else value
    check_step_count(name, known, 0, SEEDS - 1)


def check_prefix(name: str, prefix: PyTree, params: PyTree) -> PyTree:
    """`prefix` with a leaf for each leaf of params; it must be a pytree prefix of them."""
    try:
        return jax.tree.broadcast(prefix, params)
    except ValueError as error:
        raise ValueError(
            f"{name} = {prefix!r}; allowed: one value, or a pytree prefix of params, which has the structure "
            f"{jax.tree.structure(params)}"
        ) from error


def check_rates(alpha: PyTree, params: PyTree, steps: int | None = None) -> None:
    """Inner rates: numbers in a pytree prefix of params, or arrays of the shape of their parameter.

    steps: with the axis of so many steps first; None: without one.
    """
    lead = () if steps is None else (steps,)
    axis = "" if steps is None else f" with the axis of {steps} steps first"
    hint = " (for a rate a step: InnerLoop(rate_per_step=True))" if steps is None else ""
    wide = check_prefix("alpha", alpha, params)
    for (path, rate), part in zip(
        jax.tree_util.tree_leaves_with_path(wide), jax.tree.leaves(params), strict=True
    ):
        if not isinstance(rate, int | float | np.ndarray | np.generic | jax.Array):
            raise TypeError(f"alpha = {alpha!r}; allowed: numbers or an optax transformation")
        if jnp.shape(rate) not in (lead, (*lead, *jnp.shape(part))):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"alpha of shape {jnp.shape(rate)} for params{where} of shape {jnp.shape(part)}; allowed: a "
                f"number, or the shape of the parameter{axis}{hint}"
            )


def check_params(params: PyTree) -> None:
    """Parameters are differentiated, so every leaf must be a floating-point array."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError("params has no leaves; allowed: a pytree of floating-point arrays")
    _check_variables(params)
    for path, leaf in leaves:
        where = "params" + (jax.tree_util.keystr(path) or "(the whole of it)")
        if not isinstance(leaf, int | float | complex | np.ndarray | np.generic | jax.Array):
            hint = " (of an equinox module: eqx.partition(module, eqx.is_inexact_array))" * callable(leaf)
            raise TypeError(f"{where} is {type(leaf).__name__}; allowed: floating-point arrays{hint}")
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{where} has dtype {dtype}; allowed: floating point")


def _check_variables(params: PyTree) -> None:
    """Of flax.nnx's variables those alone that are learned: not running statistics, counts of draws."""
    nnx: Any = sys.modules.get("flax.nnx")  # imported by whoever has such variables
    if nnx is None:
        return

    def is_variable(x: Any) -> bool:
        return isinstance(x, nnx.Variable)

    for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_variable):
        if is_variable(leaf) and not isinstance(leaf, nnx.Param):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} is an nnx.{type(leaf).__name__}; allowed: nnx.Param, "
                "e.g. by jaxmaml.models.split(module) or nnx.split(module, nnx.Param, ...)"
            )


def check_estimator(estimator: Any, loss: Any, **kwargs: Any) -> None:
    """An estimator takes (loss, params, episode) and these keyword arguments."""
    check_callable("estimator", estimator, "one of jaxmaml.estimators, e.g. jaxmaml.maml, or one of yours")
    check_callable("loss", loss, "loss(params, batch) -> scalar")
    name = getattr(estimator, "__name__", "estimator")
    signature = inspect.signature(estimator)
    try:
        signature.bind(loss, None, None, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}: {error}; allowed: {', '.join(signature.parameters)}") from error


def check_callable(name: str, value: Any, allowed: str) -> None:
    if not callable(value):
        raise TypeError(f"{name} = {value!r}; allowed: {allowed}")


def scalar(loss: Loss, has_aux: bool = False) -> Callable[..., Any]:
    """The loss, which says what it returned where that is no scalar, or no (scalar, aux) with has_aux."""
    check_callable("loss", loss, "loss(params, batch) -> scalar")

    def checked(params: PyTree, batch: PyTree) -> Any:
        found = loss(params, batch)
        allowed = "(scalar, aux)" if has_aux else "a scalar, or (scalar, aux) with has_aux=True"
        if isinstance(found, tuple) != has_aux or (has_aux and len(found) != 2):
            raise TypeError(f"loss returned {type(found).__name__}; allowed: {allowed}")
        value = found[0] if has_aux else found
        if not isinstance(value, int | float | np.ndarray | np.generic | jax.Array):
            raise TypeError(f"loss returned {type(value).__name__}; allowed: {allowed}")
        if jnp.shape(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            kind = f"shape {jnp.shape(value)} and dtype {jnp.result_type(value)}"
            raise ValueError(f"loss returned a value of {kind}; allowed: {allowed}, floating point")
        return found

    return checked


def check_batch(name: str, batch: PyTree) -> None:
    """A batch has the sample axis first, and at least one sample."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        shape = jnp.shape(leaf)
        if shape and shape[0] == 0:
            where = name + jax.tree_util.keystr(path)
            raise ValueError(f"{where} has shape {shape}: the batch is empty; allowed: >= 1 sample")


def check_weights(weights: Any, tasks: int) -> None:
    """A number for each task, finite and >= 0, one of them > 0."""
    if np.shape(weights) != (tasks,):
        raise ValueError(f"weights of shape {np.shape(weights)}; allowed: one for each of {tasks} tasks")
    known = concrete(weights)
    if known is not None and known.dtype == bool:  # tasks that are left out, as by `finite_tasks`
        known = known.astype(int)
    known = known if known is None else _real("weights", known, "numbers, finite and >= 0")
    if known is not None and not (np.isfinite(known).all() and (known >= 0).all() and known.any()):
        raise ValueError(f"weights = {weights!r}; allowed: finite and >= 0, not all of them 0")


def check_steps_axis(batches: PyTree, steps: int) -> None:
    """Every leaf must have the axis of steps first."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batches):
        shape = jnp.shape(leaf)
        if shape[:1] != (steps,):
            where = ("inner", "hessian")[path[0].idx] + jax.tree_util.keystr(path[1:])
            raise ValueError(
                f"the {where} batch has shape {shape} with InnerLoop(steps={steps}, batch_per_step=True); "
                f"allowed: a leading axis of {steps}, a batch for every step"
            )


def check_mask(name: str, mask: PyTree) -> None:
    """A bool, or a pytree of bools of which one is true."""
    leaves = jax.tree.leaves(mask)
    if not all(isinstance(leaf, bool | np.bool_) for leaf in leaves) or not any(leaves):
        raise ValueError(f"{name} = {mask!r}; allowed: bools, at least one of them True")


def check_episode(episode: Episode) -> None:
    """Batches, that of the Hessian or None."""
    if not isinstance(episode, Episode):
        raise TypeError(
            f"episode is {type(episode).__name__}; allowed: jaxmaml.Episode(inner, hessian, outer)"
        )
    for name, batch in zip(episode._fields, episode, strict=True):
        if batch is None and name != "hessian":
            raise TypeError(f"episode.{name} = None; allowed: a batch")
        check_batch(f"episode.{name}", batch)


def task_axis(episodes: Episode) -> int:
    """B, the leading axis that every leaf of `episodes` must share."""
    if not isinstance(episodes, Episode):
        check_episode(episodes)
    sizes: dict[int, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(episodes):
        name = "episodes" + jax.tree_util.keystr(path)
        shape = jnp.shape(leaf)
        if not shape:
            raise ValueError(f"{name} is a scalar; allowed: leaves with a leading task axis")
        sizes.setdefault(shape[0], f"{name} {shape}")
    if len(sizes) > 1:
        raise ValueError(f"episodes differ in their task axis: {', '.join(sizes.values())}")
    if not sizes or 0 in sizes:
        raise ValueError("episodes hold no task; allowed: a leading task axis of at least 1")
    return next(iter(sizes))
