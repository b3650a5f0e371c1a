"""Distributions of tasks over samples that lie one after the other, in pools of unequal size.

A pool is a class of `ClassTasks` or a task of `Tasks`. Pool c has the samples starts[c], ...,
starts[c] + sizes[c] - 1 of flat arrays. Samples are drawn without replacement, on the device, at a cost that
does not depend on how many there are; bytes stay bytes, and become floats in [0, 1] where they are drawn.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxmaml.checks import check_step_count
from jaxmaml.data._selection import (
    codes,
    disjoint,
    distinct,
    proportional,
    proportional_distinct,
)
from jaxmaml.types import Array, Episode


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassTasks:
    """N-way K-shot classification: a task is `ways` classes in random order, the order being the labels."""

    x: Array
    """shape (n, ...): the samples, class by class."""
    starts: Array
    """int32, shape (C,): where each class begins."""
    sizes: Array
    """int32, shape (C,): samples of each class."""
    smallest: int = field(metadata={"static": True})
    """the least of `sizes`."""
    ways: int = field(metadata={"static": True})
    """classes of a task."""
    support: int = field(metadata={"static": True})
    """samples a class in the inner batch."""
    hessian: int = field(metadata={"static": True})
    """samples a class in the Hessian batch."""
    query: int = field(metadata={"static": True})
    """samples a class in the outer batch."""
    weight: Array | None = None
    """shape (n,), > 0: of the samples, for the loss; None: there are none."""
    log_class_weights: Array | None = None
    """shape (C,): logarithms of the classes' weights; None: all classes alike."""

    def episodes(self, key: jax.Array, tasks: int) -> Episode:
        """Tasks independently of each other; classes and samples without replacement, samples uniformly.

        Classes are drawn uniformly; or, where they have weights, each next one in proportion to the weights
        of those that the task has not yet. They are then put in random order.

        The same key, tasks, ways and support give the same support batch, and with the same query size the
        same query batch, whatever `hessian` is: common random numbers for estimators that differ in D_h.

        Returns:
          Episode(inner=support, hessian, outer=query) of pairs (x, y), or (x, y, weight) where samples have
          weights, class by class in the order of the labels: x of shape (tasks, ways * samples, ...), bytes
          as v / 255 of the default float dtype; y int32 and weight, shape (tasks, ways * samples).

        Raises (while tracing):
          ValueError: sizes < 1, more ways than classes, more samples than the smallest class has.
        """
        keys = self._keys(key, tasks)
        drawn = self._classes(keys[0], tasks)
        starts, sizes = (jnp.asarray(a)[drawn] for a in (self.starts, self.sizes))
        chosen = _batches(keys[1:], sizes, self)

        def batch(within: jax.Array) -> tuple[jax.Array, ...]:
            each = within.shape[-1]
            place = (starts[..., None] + within).reshape(tasks, self.ways * each)
            y = jnp.repeat(jnp.arange(self.ways, dtype=jnp.int32), each)
            return (_values(self.x, place), jnp.broadcast_to(y, place.shape), *_weights(self.weight, place))

        return Episode(*map(batch, chosen))

    def classes(self, key: jax.Array, tasks: int) -> jax.Array:
        """The classes of `episodes(key, tasks)`, by their numbers, int32, shape (tasks, ways)."""
        return self._classes(self._keys(key, tasks)[0], tasks)

    def _classes(self, key: jax.Array, tasks: int) -> jax.Array:
        shape = (tasks, self.ways)
        if self.log_class_weights is None:
            return distinct(codes(key, shape, len(self.sizes)))
        for_classes, for_order = jax.random.split(key)
        drawn = proportional_distinct(for_classes, shape, self.log_class_weights)
        return jnp.take_along_axis(drawn, distinct(codes(for_order, shape, self.ways)), axis=1)

    def _keys(self, key: jax.Array, tasks: int) -> jax.Array:
        """Those of the classes, support, query and Hessian batch, of sizes that are possible."""
        check_step_count("ways", self.ways)
        classes = jnp.shape(self.sizes)[0]
        if self.ways > classes:
            raise ValueError(f"ways = {self.ways}; allowed: at most {classes}, the number of classes")
        _check_sizes(self, tasks, "class")
        return jax.random.split(key, 4)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tasks:
    """Tasks that are there, e.g. clients: each has its own samples."""

    x: Array
    """shape (n, ...): the inputs, task by task."""
    y: Array
    """shape (n, ...): what is to be predicted."""
    starts: Array
    """int32, shape (T,): where each task begins."""
    sizes: Array
    """int32, shape (T,): samples of each task."""
    smallest: int = field(metadata={"static": True})
    """the least of `sizes`."""
    support: int = field(metadata={"static": True})
    """samples of the inner batch."""
    hessian: int = field(metadata={"static": True})
    """samples of the Hessian batch."""
    query: int = field(metadata={"static": True})
    """samples of the outer batch."""
    weight: Array | None = None
    """shape (n,), > 0: of the samples, for the loss; None: there are none."""
    upto: Array | None = None
    """int32, shape (T,): cumulative sums of whole numbers in proportion to which tasks are drawn; None: all
    tasks alike."""

    def episodes(self, key: jax.Array, tasks: int) -> Episode:
        """Tasks i.i.d., uniformly or in proportion to their weights; samples uniformly without replacement.

        The same key, tasks and support give the same tasks and support batch, and with the same query size
        the same query batch, whatever `hessian` is: common random numbers for estimators that differ in D_h.

        Returns:
          Episode(inner=support, hessian, outer=query) of pairs (x, y), or (x, y, weight) where samples have
          weights: leading axes (tasks, samples), x that are bytes as v / 255 of the default float dtype.

        Raises (while tracing):
          ValueError: sizes < 1, more samples than the smallest task has.
        """
        keys = self._keys(key, tasks)
        who = self._who(keys[0], tasks)
        starts, sizes = (jnp.asarray(a)[who] for a in (self.starts, self.sizes))

        def batch(within: jax.Array) -> tuple[jax.Array, ...]:
            place = starts[:, None] + within
            return (_values(self.x, place), jnp.asarray(self.y)[place], *_weights(self.weight, place))

        return Episode(*map(batch, _batches(keys[1:], sizes, self)))

    def who(self, key: jax.Array, tasks: int) -> jax.Array:
        """The tasks of `episodes(key, tasks)`, by their numbers, int32, shape (tasks,)."""
        return self._who(self._keys(key, tasks)[0], tasks)

    def _who(self, key: jax.Array, tasks: int) -> jax.Array:
        if self.upto is not None:
            return proportional(key, (tasks,), self.upto)
        return jax.random.randint(key, (tasks,), 0, len(self.sizes), jnp.int32)

    def _keys(self, key: jax.Array, tasks: int) -> jax.Array:
        """Those of the tasks, support, query and Hessian batch, of sizes that are possible."""
        _check_sizes(self, tasks, "task")
        return jax.random.split(key, 4)


def too_few(pool: str, size: int, sizes: Any) -> str:
    """What is said of the batches `sizes` and a pool that has fewer samples."""
    three = (sizes.support, sizes.hessian, sizes.query)
    return (
        f"support + hessian + query = {' + '.join(map(str, three))} = {sum(three)}; "
        f"allowed: at most {size}, the samples of {pool}"
    )


def _check_sizes(of: Any, tasks: int, pool: str) -> None:
    for name in ("support", "hessian", "query"):
        check_step_count(name, getattr(of, name))
    check_step_count("tasks", tasks)
    if of.support + of.hessian + of.query > of.smallest:
        raise ValueError(too_few(f"the smallest {pool}", of.smallest, of))


def _batches(keys: jax.Array, n: jax.Array, sizes: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Places of the support, Hessian and query batch within pools of n samples."""
    # The Hessian batch comes last, so that the others do not depend on its size.
    support, query, hessian = disjoint(keys, n, (sizes.support, sizes.query, sizes.hessian))
    return support, hessian, query


def _values(x: Array, place: jax.Array) -> jax.Array:
    found = jnp.asarray(x)[place]
    return found.astype(float) / 255 if found.dtype == jnp.uint8 else found


def _weights(weight: Array | None, place: jax.Array) -> tuple[jax.Array, ...]:
    return () if weight is None else (jnp.asarray(weight)[place],)
