"""The mean of an estimator over a batch of tasks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml import tree
from jaxmaml.checks import check_params, scalar, task_axis
from jaxmaml.inner import ONE_STEP, check_derivative
from jaxmaml.inner_gradient import varying
from jaxmaml.types import Episode, Estimator, Loss, PyTree


def meta_gradient(
    estimator: Estimator,
    loss: Loss,
    params: PyTree,
    episodes: Episode,
    *,
    alpha: PyTree,
    task_chunk: int | None = None,
    has_aux: bool = False,
    **kwargs: Any,
) -> PyTree:
    """G = (1/B) sum_i estimator(loss, params, episodes[i], alpha).

    The sum is taken in float32 at least and divided before it is rounded to the type of the parameters.
    Under `shard_map` it is the mean over the tasks of one device, also where the parameters are replicated.

    Args:
      estimator: `maml`, `fo_maml`, `hf_maml`, `maml_same_batch` or one of your own.
      loss: loss(params, batch) -> scalar, mean over the batch; or (scalar, aux) with has_aux.
      params: any pytree of floating-point arrays.
      episodes: an `Episode` whose leaves have the task axis (B) first and the sample axis second.
      alpha: inner rate, a number or a pytree prefix of params.
      task_chunk: tasks that are vectorised together. Memory then grows with the chunk, not with B;
        None takes all of them at once.
      has_aux: whether loss returns (scalar, aux), as for `jax.grad`; aux is left out.
      **kwargs: passed to the estimator, e.g. delta for `hf_maml`, inner=InnerLoop(steps=5), learn_alpha=True.

    Returns:
      Pytree like params; the pair (G, dF/dalpha) with learn_alpha.

    Raises:
      ValueError: task axes that differ, no task, an empty batch, task_chunk < 1.
      TypeError: parameters that are not floating point, a loss that returns no scalar, or no (scalar, aux).
      FloatingPointError: outside jit, where the mean is not finite because `alpha` is an optax update without
        a finite derivative at a zero gradient. Inside jit ask `adapt_has_finite_derivative`.
    """
    check_params(params)
    tasks = task_axis(episodes)
    if task_chunk is not None and not (isinstance(task_chunk, int | np.integer) and task_chunk > 0):
        raise ValueError(f"task_chunk = {task_chunk!r}; allowed: an integer >= 1, or None")

    params = varying(params, episodes)
    checked = scalar(loss, has_aux)

    def value(params: PyTree, batch: PyTree) -> jax.Array:
        found = checked(params, batch)
        return found[0] if has_aux else found

    def each(some: Episode) -> PyTree:
        return jax.vmap(lambda e: estimator(value, params, e, alpha=alpha, **kwargs))(some)

    def total(found: PyTree) -> PyTree:
        return jax.tree.map(lambda g: jnp.sum(g, axis=0, dtype=tree.wide(g.dtype)), found)

    width = tasks if task_chunk is None else min(int(task_chunk), tasks)
    if width == tasks:
        like = each(episodes)
        summed = total(like)
    else:
        whole = tasks - tasks % width
        chunks = jax.tree.map(
            lambda x: jnp.reshape(x[:whole], (whole // width, width, *jnp.shape(x)[1:])), episodes
        )
        rest = jax.tree.map(lambda x: x[whole:], episodes)
        like = jax.eval_shape(each, jax.tree.map(lambda x: x[:1], episodes))
        start = (
            total(each(rest))
            if whole < tasks
            else varying(jax.tree.map(lambda x: jnp.zeros(x.shape[1:], tree.wide(x.dtype)), like), episodes)
        )
        summed, _ = jax.lax.scan(
            lambda acc, chunk: (jax.tree.map(jnp.add, acc, total(each(chunk))), None), start, chunks
        )
    mean = jax.tree.map(lambda g, one: (g / tasks).astype(jnp.result_type(one.dtype, float)), summed, like)
    check_derivative(mean, value, params, episodes.inner, alpha, kwargs.get("inner", ONE_STEP), tasks=True)
    return mean
