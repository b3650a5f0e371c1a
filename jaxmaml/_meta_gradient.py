"""The mean of an estimator over a batch of tasks, and of the adapted losses."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmaml import tree
from jaxmaml._inner_gradient import varying
from jaxmaml.checks import (
    check_episode,
    check_estimator,
    check_params,
    check_step_count,
    check_weights,
    scalar,
    task_axis,
)
from jaxmaml.estimators._adapted import adapted_loss, differentiable, without_aux
from jaxmaml.inner import ONE_STEP, InnerLoop, adapt, check_alpha, check_derivative, is_optax
from jaxmaml.types import Episode, Estimator, Loss, PyTree


class MetaGradient(NamedTuple):
    """What `meta_value_and_gradient` returns."""

    value: jax.Array
    """F, the mean over tasks of the loss after adaptation, f(w_K; D_o)."""
    gradient: PyTree
    """G, like params."""
    rates: PyTree
    """dF/dalpha, like alpha; None without learn_alpha."""
    task_values: jax.Array
    """f(w_K; D_o) of each task, shape (B,)."""
    aux: PyTree
    """what the loss returns beside its value, at w_K on D_o, with a task axis first; None without has_aux."""


def meta_gradient(
    estimator: Estimator,
    loss: Loss,
    params: PyTree,
    episodes: Episode,
    *,
    alpha: PyTree,
    weights: Any = None,
    task_chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    has_aux: bool = False,
    learn_alpha: bool = False,
    **kwargs: Any,
) -> PyTree:
    """G = (1/B) sum_i estimator(loss, params, episodes[i], alpha).

    The sum is taken in float32 at least and divided before it is rounded to the type of the parameters.
    Under `shard_map` it is the mean over the tasks of one device, also where the parameters are replicated.
    A task whose data are not finite makes the mean so; `finite_tasks` says which.

    Args:
      estimator: `maml`, `fo_maml`, `hf_maml`, `maml_same_batch`, `imaml`, `fo_b_maml`, `reptile`
        (docs/estimators.md), or one of your own.
      loss: loss(params, batch) -> scalar, mean over the batch; or (scalar, aux) with has_aux.
      params: any pytree of floating-point arrays.
      episodes: an `Episode` whose leaves have the task axis (B) first and the sample axis second.
      alpha: inner rate, a number or a pytree prefix of params (`maml`); or an optax transformation.
      weights: p_i >= 0, shape (B,), e.g. the clients' numbers of samples; G is then
        sum_i p_i G_i / sum_i p_i. A task of weight 0 is left out, whatever is in it. None: equal weights.
      task_chunk: tasks that are vectorised together. Memory then grows with the chunk, not with B;
        None takes all of them at once. On an Explicit mesh every device then computes all chunks.
      mesh: devices among which the tasks are shared out, e.g. jax.make_mesh((n,), ("tasks",)); where n does
        not divide B, some compute a task again and leave it out. Each computes the sum over its own tasks,
        task_chunk of them at a time. Call it under jit. None: where JAX places it.
      has_aux: whether loss returns (scalar, aux), as for `jax.grad`; aux is left out.
      learn_alpha: return the pair (G, dF/dalpha).
      **kwargs: passed to the estimator, e.g. delta for `hf_maml`, inner=InnerLoop(steps=5).

    Returns:
      Pytree like params; the pair (G, dF/dalpha) with learn_alpha.

    Raises:
      ValueError: task axes that differ, no task, an empty batch, task_chunk < 1, weights that do not fit.
      TypeError: parameters that are not floating point, a loss that returns no scalar, or no (scalar, aux).
      FloatingPointError: outside jit, where the mean is not finite because `alpha` is an optax update without
        a finite derivative at a zero gradient. Inside jit ask `adapt_has_finite_derivative`.
    """
    found = _over_tasks(
        estimator,
        loss,
        params,
        episodes,
        alpha=alpha,
        weights=weights,
        task_chunk=task_chunk,
        mesh=mesh,
        has_aux=has_aux,
        learn_alpha=learn_alpha,
        with_value=False,
        **kwargs,
    )
    return (found.gradient, found.rates) if learn_alpha else found.gradient


def meta_value_and_gradient(
    estimator: Estimator,
    loss: Loss,
    params: PyTree,
    episodes: Episode,
    *,
    alpha: PyTree,
    weights: Any = None,
    task_chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    has_aux: bool = False,
    learn_alpha: bool = False,
    **kwargs: Any,
) -> MetaGradient:
    """`meta_gradient` with F = (1/B) sum_i f(w_K; D_o), which costs nothing more, and what comes with it.

    With weights F is sum_i p_i f(w_K; D_o) / sum_i p_i. Beside an estimator that computes its direction
    itself (`fo_b_maml`, `reptile`) stands the loss after its own adaptation, beside one of yours that after
    `adapt`, which costs an adaptation.

    Args and errors as for `meta_gradient`.

    Returns:
      `MetaGradient`: value, gradient, rates, task_values, aux, whatever the arguments.
    """
    return _over_tasks(
        estimator,
        loss,
        params,
        episodes,
        alpha=alpha,
        weights=weights,
        task_chunk=task_chunk,
        mesh=mesh,
        has_aux=has_aux,
        learn_alpha=learn_alpha,
        with_value=True,
        **kwargs,
    )


def finite_tasks(
    estimator: Estimator,
    loss: Loss,
    params: PyTree,
    episodes: Episode,
    *,
    alpha: PyTree,
    has_aux: bool = False,
    **kwargs: Any,
) -> jax.Array:
    """Whether the estimator is finite on each task, shape (B,) of bools.

    For a mean that is not finite: `jnp.flatnonzero(~finite_tasks(...))` are the tasks to look at, and
    `weights=finite_tasks(...)` leaves them out. Works under jit.

    Args as for `meta_gradient`.
    """
    check_estimator(estimator, loss, alpha=alpha, **kwargs)
    task_axis(episodes)

    def one(episode: Episode) -> jax.Array:
        found = estimator(without_aux(loss, has_aux), params, episode, alpha=alpha, **kwargs)
        return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(found)]).all()

    return jax.vmap(one)(episodes)


class _Sums(NamedTuple):
    """Over some tasks."""

    weight: Any
    """sum_i p_i"""
    gradient: PyTree
    """sum_i p_i G_i, or the pair with dF/dalpha, in float32 or wider."""
    value: Any
    """sum_i p_i f(w_K; D_o), or None; likewise."""
    of_each: PyTree
    """(f(w_K; D_o), aux), with the task axis."""


def _over_tasks(
    estimator: Estimator,
    loss: Loss,
    params: PyTree,
    episodes: Episode,
    *,
    alpha: PyTree,
    weights: Any,
    task_chunk: int | None,
    mesh: jax.sharding.Mesh | None,
    has_aux: bool,
    learn_alpha: bool,
    with_value: bool,
    **kwargs: Any,
) -> MetaGradient:
    of = _Tasks(estimator, scalar(loss, has_aux), has_aux, learn_alpha, with_value, kwargs)
    check_estimator(estimator, loss, alpha=alpha, **of.arguments)
    check_params(params)
    tasks = task_axis(episodes)
    if task_chunk is not None:
        check_step_count("task_chunk", task_chunk)
    if not isinstance(mesh, jax.sharding.Mesh | None):
        raise TypeError(f"mesh = {mesh!r}; allowed: jax.sharding.Mesh, as of jax.make_mesh, or None")
    if weights is not None:
        check_weights(weights, tasks)
        weights = jnp.asarray(weights)
    episodes = jax.tree.map(jnp.asarray, episodes)
    check_alpha(alpha, params, learn_alpha, of.inner)
    params, alpha = differentiable(params, alpha, episodes)

    if mesh is None:
        found = of.sums(params, alpha, episodes, weights, task_chunk)
    else:
        found = _on_devices(mesh, of, params, alpha, episodes, weights, task_chunk)

    like = (params, alpha) if learn_alpha else params
    if of.adapted is None:
        first = jax.tree.map(lambda x: x[0], episodes)
        like = jax.eval_shape(lambda e: of.own(params, alpha, e)[1], first)
    mean = jax.tree.map(
        lambda g, one: (g / found.weight).astype(jnp.result_type(one.dtype, float)), found.gradient, like
    )
    gradient, rates = mean if learn_alpha else (mean, None)
    check_derivative(gradient, of.value, params, episodes.inner, alpha, of.inner, tasks=True)
    F_mean: Any = None if found.value is None else found.value / found.weight
    return MetaGradient(F_mean, gradient, rates, *found.of_each)


@dataclass(frozen=True)
class _Tasks:
    """An estimator and a loss over some tasks."""

    estimator: Estimator
    loss: Callable[..., Any]
    has_aux: bool
    learn_alpha: bool
    with_value: bool
    kwargs: dict[str, Any]
    copies: bool = False
    """whether weights are there only to leave out copies of tasks, which are finite where these are."""

    @property
    def adapted(self) -> Any:
        """w_K of an estimator that is the gradient of f(w_K; D_o); None for another one."""
        return getattr(self.estimator, "adapted", None)

    @property
    def value(self) -> Loss:
        return without_aux(self.loss, self.has_aux)

    @property
    def inner(self) -> InnerLoop:
        return self.kwargs.get("inner", ONE_STEP)

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the estimator, beside alpha."""
        return self.kwargs | ({"learn_alpha": True} if self.learn_alpha else {})

    @property
    def wanted(self) -> int | tuple[int, int]:
        """The arguments of F that are differentiated."""
        return (0, 1) if self.learn_alpha else 0

    def sums(
        self, params: PyTree, alpha: PyTree, episodes: Episode, weights: Any, task_chunk: int | None
    ) -> _Sums:
        like = (params, alpha) if self.learn_alpha else params
        narrow = any(x.dtype != tree.wide(x.dtype) for x in jax.tree.leaves(like))
        # A sum over tasks gains where it is part of a matrix product; gradients in vectors are fused with
        # theirs, and half as fast together (results/benchmarks.md, the families of tasks).
        matrices = any(x.ndim > 1 for x in jax.tree.leaves(params))
        equal = weights is None or self.copies
        one = self.adapted is not None and equal and matrices and not narrow
        of = functools.partial(self.together if one else self.apart, params, alpha)
        return _in_chunks(of, episodes, weights, task_chunk)

    def F(self, params: PyTree, alpha: PyTree, episode: Episode) -> tuple[jax.Array, PyTree]:
        """(f(w_K; D_o), aux)"""
        check_episode(episode)
        found = adapted_loss(self.adapted, self.loss, episode, self.has_aux, **self.kwargs)(params, alpha)
        return found if self.has_aux else (found, None)

    def together(self, params: PyTree, alpha: PyTree, some: Episode, p: jax.Array | None) -> _Sums:
        """One gradient of the sum: parameters that tasks share have one product over all their samples.

        A task of weight 0 has to be finite.
        """

        def total(params: PyTree, alpha: PyTree) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
            values, aux = jax.vmap(self.F, in_axes=(None, None, 0))(params, alpha, some)
            each = values if p is None else p.astype(values.dtype) * values
            return jnp.sum(each, dtype=tree.wide(values.dtype)), (values, aux)

        (value, of_each), gradient = jax.value_and_grad(total, self.wanted, has_aux=True)(params, alpha)
        return _Sums(_count(len(of_each[0]), p), gradient, value, of_each)

    def apart(self, params: PyTree, alpha: PyTree, some: Episode, p: jax.Array | None) -> _Sums:
        """A gradient a task, weighted and summed in a wider type."""
        each = jax.value_and_grad(self.F, self.wanted, has_aux=True) if self.adapted is not None else self.own
        of_each, gradient = jax.vmap(functools.partial(each, params, alpha))(some)

        def total(x: jax.Array) -> jax.Array:
            if p is None:
                return jnp.sum(x, axis=0, dtype=tree.wide(x.dtype))
            x = x.astype(tree.wide(x.dtype))
            each = p.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            return jnp.sum(jnp.where(each > 0, each * x, 0), axis=0)

        count = _count(jax.tree.leaves(gradient)[0].shape[0], p)
        return _Sums(count, jax.tree.map(total, gradient), jax.tree.map(total, of_each[0]), of_each)

    def own(self, params: PyTree, alpha: PyTree, episode: Episode) -> tuple[tuple[Any, PyTree], PyTree]:
        """((f(w_K; D_o), aux), G) of an estimator that computes its direction itself."""
        gradient = self.estimator(self.value, params, episode, alpha=alpha, **self.arguments)
        if not self.with_value:
            return (None, None), gradient
        if hasattr(self.estimator, "adaptation"):
            w = self.estimator.adaptation(self.value, params, episode, alpha=alpha, **self.kwargs)
        else:
            w = adapt(self.value, params, episode.inner, alpha, self.inner)
        found = self.loss(w, episode.outer)
        return found if self.has_aux else (found, None), gradient


def _count(tasks: int, p: jax.Array | None) -> Any:
    return tasks if p is None else jnp.sum(p, dtype=tree.wide(p.dtype))


def _on_devices(
    mesh: jax.sharding.Mesh,
    of: _Tasks,
    params: PyTree,
    alpha: PyTree,
    episodes: Episode,
    weights: Any,
    task_chunk: int | None,
) -> _Sums:
    """`of.sums` over each device's own tasks, and the sums of these."""
    axes = mesh.axis_names
    count = jax.tree.leaves(episodes)[0].shape[0]
    tasks, everywhere = jax.sharding.PartitionSpec(axes), jax.sharding.PartitionSpec()
    uneven = bool(count % mesh.size)
    if uneven:
        of = dataclasses.replace(of, copies=weights is None)

    def of_device(params: PyTree, rates: PyTree, episodes: Episode, weights: Any) -> _Sums:
        rates = alpha if is_optax(alpha) else rates
        if uneven:
            (episodes, p), own = share((episodes, weights), count, mesh)
            weights = jnp.where(own, jnp.ones(own.shape, jnp.float32) if p is None else p, 0)
        found = of.sums(*differentiable(params, rates, episodes), episodes, weights, task_chunk)
        weight, gradient, value = jax.lax.psum((found.weight, found.gradient, found.value), axes)
        return _Sums(weight, gradient, value, found.of_each)

    given = (params, None if is_optax(alpha) else alpha, episodes, weights)
    # Uneven tasks are on every device, and each takes its own: left to it, XLA would send them about.
    specs = (everywhere, everywhere, *[everywhere if uneven else tasks] * 2)
    if jax.sharding.AxisType.Explicit in mesh.axis_types:
        given = tuple(
            jax.tree.map(lambda x, to=to: jax.sharding.reshard(x, to), part)
            for part, to in zip(given, (jax.sharding.NamedSharding(mesh, s) for s in specs), strict=True)
        )
    found = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=specs,
        out_specs=_Sums(everywhere, everywhere, everywhere, tasks),
    )(*given)
    if not uneven:
        return found
    of_each = found.of_each
    if jax.sharding.AxisType.Explicit in mesh.axis_types:  # where they cannot be cut otherwise
        of_each = jax.sharding.reshard(of_each, jax.sharding.NamedSharding(mesh, everywhere))
    return found._replace(of_each=jax.tree.map(lambda x: x[:count], of_each))


def share(tasks: PyTree, count: int, mesh: jax.sharding.Mesh) -> tuple[PyTree, jax.Array]:
    """Inside `shard_map`: (those of `count` tasks that are this device's, which of them are no copies).

    All devices have as many; where `count` is not enough the last task is copied.
    """
    width = -(-count // mesh.size)
    place = jax.lax.axis_index(mesh.axis_names) * width + jnp.arange(width)
    return jax.tree.map(lambda x: x[jnp.minimum(place, count - 1)], tasks), place < count


def _in_chunks(
    sums: Callable[[Episode, Any], _Sums], episodes: Episode, weights: jax.Array | None, width: int | None
) -> _Sums:
    """`sums` over all tasks, `width` of them at a time."""
    everything = (episodes, weights)
    tasks = jax.tree.leaves(episodes)[0].shape[0]
    if width is None or width >= tasks:
        return sums(*everything)
    everything = jax.tree.map(_gathered, everything)
    whole = tasks - tasks % width
    chunks = jax.tree.map(
        lambda x: jnp.reshape(x[:whole], (whole // width, width, *jnp.shape(x)[1:])), everything
    )
    if whole < tasks:
        last = sums(*jax.tree.map(lambda x: x[whole:], everything))
        start, of_last = last[:3], [last.of_each]
    else:
        shapes = jax.eval_shape(sums, *jax.tree.map(lambda x: x[:width], everything))[:3]
        start, of_last = varying(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), episodes), []

    def step(total: PyTree, chunk: tuple[Episode, Any]) -> tuple[PyTree, PyTree]:
        found = sums(*chunk)
        return jax.tree.map(jnp.add, total, found[:3]), found.of_each

    total, of_each = jax.lax.scan(step, start, chunks)
    of_each = jax.tree.map(lambda x: jnp.reshape(x, (whole, *x.shape[2:])), of_each)
    return _Sums(*total, jax.tree.map(lambda *x: jnp.concatenate(x), of_each, *of_last))


def _gathered(x: Any) -> jax.Array:
    """x with all tasks on every device of an Explicit mesh, where a chunk cannot be cut from their shares."""
    spec = jax.typeof(x).sharding.spec
    if not spec or spec[0] is None:
        return x
    return jax.sharding.reshard(x, jax.sharding.PartitionSpec(None, *spec[1:]))
