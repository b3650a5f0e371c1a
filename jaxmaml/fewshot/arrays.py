"""N-way K-shot tasks from labelled samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmaml.checks import check_step_count
from jaxmaml.data.ragged import ClassTasks
from jaxmaml.fewshot import _arrays
from jaxmaml.fewshot._labels import labels


def from_arrays(
    x: Any,
    y: Any,
    *,
    ways: int,
    support: int,
    query: int,
    hessian: int | None = None,
    classes: Sequence[Any] | None = None,
    sample_weights: Any = None,
    class_weights: Mapping[Any, float] | Sequence[float] | np.ndarray | str | None = None,
    min_samples: int | None = None,
) -> ClassTasks:
    """Tasks of `ways` classes in random order, the order being the labels 0, ..., ways - 1.

    Of each class a task has support, hessian and query samples, all of them different, drawn without
    replacement. Classes may be of any size. The arrays are put on JAX's default device, sorted by class.

    Args:
      x: shape (n, ...). uint8 is divided by 255 where it is drawn, and of shape (n, height, width) it gets an
        axis for the channel; everything else stays what it is.
      y: shape (n,), labels: integers or strings. What they are does not matter, only which are equal.
      ways: classes of a task, at least 2.
      support, query: samples a class to adapt with (D_in), and of the loss after adaptation (D_o).
      hessian: samples a class of the Hessian (D_h); None: as many as `support`.
      classes: the labels to use, e.g. a part of `partition`; None: all. Class c of the distribution is the
        c-th of these, or of all labels sorted, but for those that are left out.
      sample_weights: shape (n,), >= 0. Batches are then (x, y, weight), and the losses of `jaxmaml.models`
        weighted means. A sample of weight 0 is left out.
      class_weights: >= 0, by label, or in the order of the classes, or "size". The classes of a task are then
        drawn one after the other in proportion to the weights of those that are left. A class of weight 0 is
        left out.
      min_samples: classes that have fewer samples are left out; None: none is.

    Returns:
      `ClassTasks`. Pass it to a jitted function as an argument: closed over, its arrays become constants of
      the program. `dataclasses.replace(tasks, query=50)` has batches of other sizes.

    Raises:
      ValueError: no samples, lengths that differ, numbers that are not finite, labels that are missing or
        unknown, fewer classes than ways, a class with too few samples, weights that do not fit.
      TypeError: arrays that hold no numbers, or labels of another kind.
    """
    check_step_count("ways", ways, 2)
    batches = _arrays.batch_sizes(support, query, hessian)
    x, y = _arrays.inputs("x", x), labels("y", y)
    _arrays.check_lengths("x", "y", x, y)
    known = np.unique(y).tolist()
    names = known if classes is None else labels("classes", classes).tolist()
    _arrays.check_known("class", names, known)
    weight, order = None, np.argsort(y, kind="stable")
    if sample_weights is not None:
        weight = _arrays.sample_weights("sample_weights", sample_weights, len(y))
        if not weight.any():
            raise ValueError("sample_weights are all 0; allowed: at least one > 0")
        order = order[weight[order] > 0]
    ends = [np.searchsorted(y[order], names, side) for side in ("left", "right")]
    pools = [order[begin:end] for begin, end in zip(*ends, strict=True)]
    counts = [len(pool) for pool in pools]
    of_classes = None
    if class_weights is not None:
        of_classes = _arrays.weights("class_weights", class_weights, names, counts)
    kept = _arrays.kept("class", names, counts, batches, min_samples, of_classes)
    if ways > len(kept):
        raise ValueError(f"ways = {ways}; allowed: at most {len(kept)}, the number of classes")
    chosen, sizes = np.concatenate([pools[i] for i in kept]), [counts[i] for i in kept]
    return jax.device_put(
        ClassTasks(
            x=x[chosen],
            starts=_arrays.starts(sizes),
            sizes=np.asarray(sizes, np.int32),
            smallest=min(sizes),
            ways=ways,
            support=batches.support,
            hessian=batches.hessian,
            query=batches.query,
            weight=None if weight is None else weight[chosen],
            log_class_weights=None if of_classes is None else np.log(of_classes[kept]),
        )
    )
