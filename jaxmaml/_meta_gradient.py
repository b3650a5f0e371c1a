"""The mean of an estimator over a batch of tasks, and of the adapted losses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml import tree
from jaxmaml._inner_gradient import varying
from jaxmaml.checks import check_episode, check_params, check_weights, scalar, task_axis
from jaxmaml.estimators._adapted import adapted_loss, check_alpha, differentiable, without_aux
from jaxmaml.inner import ONE_STEP, adapt, check_derivative
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
    has_aux: bool = False,
    learn_alpha: bool = False,
    **kwargs: Any,
) -> PyTree:
    """G = (1/B) sum_i estimator(loss, params, episodes[i], alpha).

    The sum is taken in float32 at least and divided before it is rounded to the type of the parameters.
    Under `shard_map` it is the mean over the tasks of one device, also where the parameters are replicated.
    A task whose data are not finite makes the mean so; `finite_tasks` says which.

    Args:
      estimator: `maml`, `fo_maml`, `hf_maml`, `maml_same_batch` or one of your own.
      loss: loss(params, batch) -> scalar, mean over the batch; or (scalar, aux) with has_aux.
      params: any pytree of floating-point arrays.
      episodes: an `Episode` whose leaves have the task axis (B) first and the sample axis second.
      alpha: inner rate, a number or a pytree prefix of params; or an optax transformation.
      weights: p_i >= 0, shape (B,), e.g. the clients' numbers of samples; G is then
        sum_i p_i G_i / sum_i p_i. A task of weight 0 is left out, whatever is in it. None: equal weights.
      task_chunk: tasks that are vectorised together. Memory then grows with the chunk, not with B;
        None takes all of them at once. On an Explicit mesh every device then computes all chunks.
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
    has_aux: bool = False,
    learn_alpha: bool = False,
    **kwargs: Any,
) -> MetaGradient:
    """`meta_gradient` with F = (1/B) sum_i f(w_K; D_o), which costs nothing more, and what comes with it.

    With weights F is sum_i p_i f(w_K; D_o) / sum_i p_i. An estimator of your own that is no gradient of an
    adapted loss has the loss after `adapt` beside it, which costs an adaptation.

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
    of_each: tuple[Any, PyTree]
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
    has_aux: bool,
    learn_alpha: bool,
    with_value: bool,
    **kwargs: Any,
) -> MetaGradient:
    check_params(params)
    tasks = task_axis(episodes)
    if task_chunk is not None and not (isinstance(task_chunk, int | np.integer) and task_chunk > 0):
        raise ValueError(f"task_chunk = {task_chunk!r}; allowed: an integer >= 1, or None")
    if weights is not None:
        check_weights(weights, tasks)
        weights = jnp.asarray(weights)
    episodes = jax.tree.map(jnp.asarray, episodes)
    check_alpha(params, alpha, learn_alpha)
    loss = scalar(loss, has_aux)
    value = without_aux(loss, has_aux)
    params, alpha = differentiable(params, alpha, episodes)
    adapted: Any = getattr(estimator, "adapted", None)

    def F(params: PyTree, alpha: PyTree, episode: Episode) -> tuple[jax.Array, PyTree]:
        check_episode(episode)
        found = adapted_loss(adapted, loss, episode, has_aux, **kwargs)(params, alpha)
        return found if has_aux else (found, None)

    def together(some: Episode, _: None) -> _Sums:
        """One gradient of the sum: parameters that tasks share have one product over all their samples."""

        def total(params: PyTree, alpha: PyTree) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
            values, aux = jax.vmap(F, in_axes=(None, None, 0))(params, alpha, some)
            return jnp.sum(values, dtype=tree.wide(values.dtype)), (values, aux)

        (value, of_each), gradient = jax.value_and_grad(total, wanted, has_aux=True)(params, alpha)
        return _Sums(len(of_each[0]), gradient, value, of_each)

    def apart(some: Episode, p: jax.Array | None) -> _Sums:
        """A gradient a task, weighted and summed in a wider type."""
        if adapted is not None:
            of_each, gradient = jax.vmap(
                jax.value_and_grad(F, wanted, has_aux=True), in_axes=(None, None, 0)
            )(params, alpha, some)
        else:
            of_each, gradient = jax.vmap(own)(some)

        def total(x: jax.Array) -> jax.Array:
            if p is None:
                return jnp.sum(x, axis=0, dtype=tree.wide(x.dtype))
            x = x.astype(tree.wide(x.dtype))
            each = p.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            return jnp.sum(jnp.where(each > 0, each * x, 0), axis=0)

        count = jax.tree.leaves(gradient)[0].shape[0] if p is None else jnp.sum(p, dtype=tree.wide(p.dtype))
        return _Sums(count, jax.tree.map(total, gradient), jax.tree.map(total, of_each[0]), of_each)

    def own(episode: Episode) -> tuple[tuple[Any, PyTree], PyTree]:
        more = kwargs | ({"learn_alpha": True} if learn_alpha else {})
        gradient = estimator(value, params, episode, alpha=alpha, **more)
        if not with_value:
            return (None, None), gradient
        w = adapt(value, params, episode.inner, alpha, kwargs.get("inner", ONE_STEP))
        found = loss(w, episode.outer)
        return found if has_aux else (found, None), gradient

    wanted = (0, 1) if learn_alpha else 0
    like: PyTree = (params, alpha) if learn_alpha else params
    narrow = any(x.dtype != tree.wide(x.dtype) for x in jax.tree.leaves(like))
    # A sum over tasks gains where it is part of a matrix product; gradients in vectors are fused with theirs,
    # and half as fast together (results/benchmarks.md, the families of tasks).
    matrices = any(x.ndim > 1 for x in jax.tree.leaves(params))
    one = adapted is not None and weights is None and matrices and not narrow
    sums = together if one else apart
    found = _in_chunks(sums, episodes, weights, tasks if task_chunk is None else min(int(task_chunk), tasks))

    if adapted is None:
        like = jax.eval_shape(own, jax.tree.map(lambda x: x[0], episodes))[1]
    mean = jax.tree.map(
        lambda g, one: (g / found.weight).astype(jnp.result_type(one.dtype, float)), found.gradient, like
    )
    gradient, rates = mean if learn_alpha else (mean, None)
    inner = kwargs.get("inner", ONE_STEP)
    check_derivative(gradient, value, params, episodes.inner, alpha, inner, tasks=True)
    F_mean: Any = None if found.value is None else found.value / found.weight
    return MetaGradient(F_mean, gradient, rates, *found.of_each)


def _in_chunks(
    sums: Callable[[Episode, Any], _Sums], episodes: Episode, weights: jax.Array | None, width: int
) -> _Sums:
    """`sums` over all tasks, `width` of them at a time."""
    everything = (episodes, weights)
    tasks = jax.tree.leaves(episodes)[0].shape[0]
    if width == tasks:
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
