"""What every stage needs: the problem, checked, in parts that fit the memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxmaml.checks import check_params, check_step_count
from jaxmaml.measure.problem import Problem
from jaxmaml.types import PyTree

FINALISTS = 8
"""(point, task) pairs that are looked at again after a first look at all of them."""
FIRST_STEPS = 6
"""Lanczos steps where only a rank or a scale is wanted."""
ENTRIES = 2**27
"""numbers in the vectors that are kept at once; tasks and draws are taken in parts that fit."""


class Survey(NamedTuple):
    """What every stage needs: the problem with its functions as pytrees, and its sizes."""

    loss: Partial
    sample: Partial
    points: list[PyTree]
    full: PyTree
    tasks: int
    dim: int
    task_chunk: int


def take_survey(problem: Problem, points: Sequence[PyTree] | None, task_chunk: int | None) -> Survey:
    check_params(problem.params)
    params = jax.tree.map(jnp.asarray, problem.params)
    if points is not None and len(points) == 0:
        raise ValueError("points has length 0; allowed: at least one, or None for points near params")
    checked = [params] if points is None else [_point(params, p, j) for j, p in enumerate(points)]
    tasks = _task_axis(problem.full)
    if task_chunk is not None:
        check_step_count("task_chunk", task_chunk)
    # As pytrees: those made here hold arrays, and problems of equal shapes then share one compiled program.
    loss, sample = (f if isinstance(f, Partial) else Partial(f) for f in (problem.loss, problem.sample))
    full = jax.tree.map(jnp.asarray, problem.full)
    _check_functions(loss, sample, params, full)
    dim = sum(x.size for x in jax.tree.leaves(params))
    return Survey(loss, sample, checked, full, tasks, dim, min(task_chunk or tasks, tasks))


def _point(params: PyTree, point: PyTree, j: int) -> PyTree:
    found, allowed = (str(jax.tree.structure(t)) for t in (point, params))
    if found != allowed:
        raise ValueError(f"points[{j}] is {found}; allowed: like params, {allowed}")
    shapes = [[np.shape(x) for x in jax.tree.leaves(t)] for t in (point, params)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"points[{j}] has shapes {shapes[0]}; allowed: those of params, {shapes[1]}")
    return jax.tree.map(lambda x, w: jnp.asarray(x, w.dtype), point, params)


def _task_axis(full: PyTree) -> int:
    shapes = {
        "full" + jax.tree_util.keystr(path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(full)
    }
    leading = {shape[:1] for shape in shapes.values()}
    if len(leading) != 1 or leading & {(), (0,)}:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no leaves"
        raise ValueError(f"full has {found}; allowed: leaves with the task axis first, of at least 1 task")
    return int(next(iter(leading))[0])


def _check_functions(loss: Partial, sample: Partial, params: PyTree, full: PyTree) -> None:
    """`sample` has the task axis first, and `loss` is a scalar on its batches and on those of `full`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    m, size = 3, 2  # different, so that axes in the wrong order show
    drawn = jax.eval_shape(lambda k: sample(k, jnp.zeros(m, int), size), key)
    for path, leaf in jax.tree_util.tree_leaves_with_path(drawn):
        if leaf.shape[:1] != (m,):
            raise ValueError(
                f"sample(key, who, {size}){jax.tree_util.keystr(path)} has shape {leaf.shape} for a who of "
                f"shape ({m},); allowed: the task axis first, ({m}, {size}, ...)"
            )

    def first(batches: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x[0], batches)

    one = jax.eval_shape(lambda k: first(sample(k, jnp.zeros(1, int), 1)), key)
    for name, batch in (("one sample", one), ("full", jax.eval_shape(first, full))):
        shape = getattr(jax.eval_shape(loss, params, batch), "shape", None)
        if shape != ():
            raise ValueError(f"loss on {name} has shape {shape}; allowed: (), the mean over the batch")


def check_finite(what: str, p: int, who: np.ndarray, values: Any) -> None:
    """Values of the tasks `who`, which come first."""
    finite = np.all(np.isfinite(np.asarray(values)), axis=tuple(range(1, np.ndim(values))))
    if not finite.all():
        task = who[np.argmin(finite)]
        raise ValueError(f"the {what} of task {task} is not finite at points[{p}]; allowed: finite")


def chunks(survey: Survey, width: int) -> Iterator[tuple[np.ndarray, int]]:
    """(indices of tasks, how many of them came before), where `width` vectors are kept for each.

    Of equal sizes, so that one program does for all: the last chunk overlaps the one before.
    """
    n = survey.tasks
    size = min(survey.task_chunk, fitting(width * survey.dim))
    for start in range(0, n, size):
        begin = min(start, n - size)
        yield np.arange(begin, begin + size), start - begin


def fitting(entries: int) -> int:
    """How many arrays of this many numbers are kept at once, at least one."""
    return max(1, ENTRIES // entries)


def batches_of(full: PyTree, who: jax.Array) -> PyTree:
    """Those of the tasks `who`; all of them, which come in order, without a copy."""
    every = jax.tree.leaves(full)[0].shape[0] == who.size
    return full if every else jax.tree.map(lambda x: x[who], full)


def as_vector(params: PyTree) -> tuple[jax.Array, Callable[[Any], PyTree]]:
    """The parameters as one vector, of float32 at least, and the way back."""
    vector, unravel = ravel_pytree(params)
    wide = vector.astype(jnp.promote_types(vector.dtype, jnp.float32))
    return wide, lambda x: unravel(x.astype(vector.dtype))


def largest_pairs(values: np.ndarray) -> list[tuple[int, int]]:
    """(point, task) of the FINALISTS."""
    order = np.argsort(values, axis=None)[::-1][:FINALISTS]
    return [(int(j) // values.shape[1], int(j) % values.shape[1]) for j in order]


def gradient_vector(loss: Partial, w: PyTree, batch: PyTree) -> jax.Array:
    return as_vector(jax.grad(loss)(w, batch))[0]


def root_mean_square(x: np.ndarray) -> float:
    """Scaled, so that no square under- or overflows."""
    largest = float(np.max(x))
    return largest * math.sqrt(float(np.mean((x / largest) ** 2))) if largest > 0 else 0.0
