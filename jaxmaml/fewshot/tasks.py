"""Tasks that are there already: data sets or clients, each with its own samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmaml.data._selection import cumulative
from jaxmaml.data.ragged import Tasks
from jaxmaml.fewshot import _arrays
from jaxmaml.fewshot._labels import labels


def from_tasks(
    tasks: Mapping[Any, tuple[Any, Any]],
    *,
    support: int,
    query: int,
    hessian: int | None = None,
    sample_weights: Mapping[Any, Any] | None = None,
    task_weights: Mapping[Any, float] | Sequence[float] | np.ndarray | str | None = None,
    min_samples: int | None = None,
) -> Tasks:
    """Regression or classification tasks, e.g. clients of federated learning, of any size.

    Tasks are drawn i.i.d., uniformly or in proportion to `task_weights`; of each its support, hessian and
    query samples, all of them different, uniformly without replacement. The arrays are put on JAX's default
    device, one task after the other.

    Args:
      tasks: (x, y) by name, sample axis first, x of shape (n_i, ...) and y of shape (n_i, ...): the same
        beyond the first axis in all tasks. uint8 x is divided by 255 where it is drawn, and of shape
        (n_i, height, width) it gets an axis for the channel. Floating-point y is regression; integers are
        labels, left as they are; of strings label c is the c-th of all that occur, sorted.
      support, query: samples to adapt with (D_in), and of the loss after adaptation (D_o).
      hessian: samples of the Hessian (D_h); None: as many as `support`.
      sample_weights: by name, each of shape (n_i,), >= 0. Batches are then (x, y, weight), and the losses of
        `jaxmaml.models` weighted means. A sample of weight 0 is left out.
      task_weights: >= 0, by name, or in the order of the tasks, or "size": by the number of samples. Weights
        that are not whole are rounded to multiples of 2^-30 of their sum. A task of weight 0 is left out.
      min_samples: tasks that have fewer samples are left out; None: none is.

    Returns:
      `Tasks`, in the order of the mapping but for those that are left out. Pass it to a jitted function as an
      argument: closed over, its arrays become constants of the program. `dataclasses.replace(tasks, query=9)`
      has batches of other sizes.

    Raises:
      ValueError: no task, no samples, lengths or shapes that differ, numbers that are not finite, one label
        alone, a task with too few samples, weights that do not fit; the message names the task.
      TypeError: arrays that hold no numbers, or labels of another kind.
    """
    batches = _arrays.batch_sizes(support, query, hessian)
    if not isinstance(tasks, Mapping) or not tasks:
        what = "no task" if isinstance(tasks, Mapping) else type(tasks).__name__
        raise ValueError(f"tasks is {what}; allowed: a dict of (x, y) by name, at least one")
    names = list(tasks)
    pairs = [_pair(name, pair) for name, pair in tasks.items()]
    every_x = [_arrays.inputs(f"x of {name!r}", x) for name, (x, _) in zip(names, pairs, strict=True)]
    every_y = _targets(names, [y for _, y in pairs])
    for name, x, y in zip(names, every_x, every_y, strict=True):
        _arrays.check_lengths(f"x of {name!r}", "y", x, y)
    _check_alike("x", names, every_x)
    _check_alike("y", names, every_y)

    of_samples = None
    if sample_weights is not None:
        of_samples = _weights_of_samples(sample_weights, names, every_y)
        there = [w > 0 for w in of_samples]
        every_x, every_y, of_samples = (
            [a[keep] for a, keep in zip(arrays, there, strict=True)]
            for arrays in (every_x, every_y, of_samples)
        )
    counts = [len(y) for y in every_y]
    of_tasks = None
    if task_weights is not None:
        of_tasks = _arrays.weights("task_weights", task_weights, names, counts)
    kept = _arrays.kept("task", names, counts, batches, min_samples, of_tasks)
    sizes = [counts[i] for i in kept]

    def flat(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([arrays[i] for i in kept])

    return jax.device_put(
        Tasks(
            x=flat(every_x),
            y=flat(every_y),
            starts=_arrays.starts(sizes),
            sizes=np.asarray(sizes, np.int32),
            smallest=min(sizes),
            support=batches.support,
            hessian=batches.hessian,
            query=batches.query,
            weight=None if of_samples is None else flat(of_samples),
            upto=None if of_tasks is None else cumulative(of_tasks[kept]),
        )
    )


def _pair(name: Any, pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        what = f"{len(pair)} parts" if isinstance(pair, tuple | list) else f"a {type(pair).__name__}"
        raise ValueError(f"task {name!r} has {what}; allowed: (x, y)")
    return pair[0], pair[1]


def _targets(names: list[Any], given: list[Any]) -> list[np.ndarray]:
    """Numbers as they are; strings as their places among all that occur."""
    found = [_arrays.array(f"y of {name!r}", y) for name, y in zip(names, given, strict=True)]
    if any(y.dtype.kind in "USO" for y in found):
        found = [labels(f"y of {name!r}", y) for name, y in zip(names, found, strict=True)]
        if len({y.dtype.kind for y in found}) > 1:
            raise ValueError("y holds strings in some tasks and integers in others; allowed: one kind")
        known = np.unique(np.concatenate(found))
        if known.dtype.kind == "U":
            found = [np.searchsorted(known, y).astype(np.int32) for y in found]
    found = [_arrays.numbers(f"y of {name!r}", y) for name, y in zip(names, found, strict=True)]
    if all(y.dtype.kind in "biu" for y in found):
        first = found[0].flat[0]
        if all((y == first).all() for y in found):
            raise ValueError(f"y is {first} in all tasks; allowed: at least two labels")
        # Unsigned and narrow integers would wrap where a loss subtracts.
        return [y.astype(np.int32) for y in found]
    return found


def _check_alike(part: str, names: list[Any], arrays: list[np.ndarray]) -> None:
    """Shapes beyond the sample axis, and whether they are bytes of images."""
    first = arrays[0]
    for name, other in zip(names, arrays, strict=True):
        if other.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{part} of {name!r} has shape {other.shape} and of {names[0]!r} {first.shape}; "
                "allowed: the same beyond the first axis in all tasks"
            )
        if (other.dtype == np.uint8) != (first.dtype == np.uint8):
            raise TypeError(
                f"{part} of {name!r} has dtype {other.dtype} and of {names[0]!r} {first.dtype}; "
                "allowed: uint8 in all tasks or in none"
            )


def _weights_of_samples(given: Any, names: list[Any], targets: list[np.ndarray]) -> list[np.ndarray]:
    if not isinstance(given, Mapping):
        raise TypeError(f"sample_weights is {type(given).__name__}; allowed: a dict of arrays by name")
    _arrays.check_known("task in sample_weights", list(given), names)
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"sample_weights lacks {_arrays.listed(missing)}; allowed: an array for each task")
    return [
        _arrays.sample_weights(f"sample_weights of {name!r}", given[name], len(y))
        for name, y in zip(names, targets, strict=True)
    ]
