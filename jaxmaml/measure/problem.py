"""A problem whose constants are measured: n tasks, a loss, a model and samples."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxmaml import objective
from jaxmaml._random import integers
from jaxmaml.types import Family, Loss, PyTree


@dataclass(frozen=True)
class Problem:
    """A few-shot or personalised problem: n equiprobable tasks, a loss and a model."""

    loss: Loss
    """loss(params, batch) -> scalar, the mean over the batch."""
    params: PyTree
    """where to begin, any pytree of floating-point arrays (unit u)."""
    full: PyTree
    """the batches, task axis first, with which `loss` is f_i: each task's whole pool, or a large sample."""
    sample: Callable[[jax.Array, jax.Array, int], PyTree]
    """sample(key, who, size): `size` i.i.d. samples for each task index in who, shape (m,); the leaves have m
    first. It is traced, with `size` an int."""


def from_pools(loss: Loss, params: PyTree, pools: PyTree) -> Problem:
    """The problem of your own data: leaves of `pools` have shape (n tasks, N samples, ...).

    A sample is drawn uniformly with replacement from the task's own pool, so that the whole pool is exact.

    Raises:
      ValueError: leaves that differ in their numbers of tasks or samples, or have none.
    """
    shapes = {
        "pools" + jax.tree_util.keystr(path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(pools)
    }
    sizes = {shape[:2] for shape in shapes.values()}
    if len(sizes) != 1 or 0 in (size := next(iter(sizes))) or len(size) < 2:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no leaves"
        raise ValueError(f"pools have {found}; allowed: leaves (tasks, samples, ...), equal in both")
    pools = jax.tree.map(jnp.asarray, pools)
    return Problem(loss, params, pools, Partial(_draw, pools))


def from_family(family: Family, w: PyTree) -> Problem:
    """The problem of a family at w, shape (d,); a batch is (task, samples)."""
    full = objective.full_episodes(family).inner
    return Problem(Partial(objective.task_loss, family), w, full, Partial(_family_sample, family))


def _draw(pools: PyTree, key: jax.Array, who: jax.Array, size: int) -> PyTree:
    count = jax.tree.leaves(pools)[0].shape[1]
    index = integers(key, who.size * size, count).reshape(who.size, size)
    return jax.tree.map(lambda x: x[who[:, None], index], pools)


def _family_sample(family: Family, key: jax.Array, who: jax.Array, size: int) -> PyTree:
    if family.max_batch is not None and size > family.max_batch:
        raise ValueError(f"size = {size!r}; allowed: at most {family.max_batch}, the family's max_batch")
    tasks = jax.tree.map(lambda x: jnp.asarray(x)[who], family.tasks)
    return tasks, family.sample(key, who, jnp.full(who.shape, float(size)))
