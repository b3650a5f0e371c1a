"""Regression on sine waves, y = A sin(x - phase), as in the code of Finn, Abbeel, Levine (ICML 2017)."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmaml.checks import check_step_count, concrete
from jaxmaml.types import Array, Episode, Scalar

Range = tuple[Scalar, Scalar]
"""(low, high) of a uniform distribution."""


class Wave(NamedTuple):
    """A task, or with leading axes several."""

    amplitude: Array
    phase: Array

    def __call__(self, x: Array) -> jax.Array:
        """y = A sin(x - phase), x of shape (..., K, 1) where amplitude and phase have shape (...)."""
        amplitude, phase = (jnp.asarray(leaf)[..., None, None] for leaf in self)
        return amplitude * jnp.sin(x - phase)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sinusoid:
    """A, phase and x independent and uniform; the ranges are leaves, so that cells of a sweep may differ."""

    support: int = field(default=10, metadata={"static": True})
    """points of the inner batch."""
    hessian: int = field(default=10, metadata={"static": True})
    """points of the Hessian batch."""
    query: int = field(default=10, metadata={"static": True})
    """points of the outer batch."""
    amplitude: Range = (0.1, 5.0)
    """in units of y."""
    phase: Range = (0.0, math.pi)
    """in units of x."""
    x: Range = (-5.0, 5.0)

    def waves(self, key: jax.Array, tasks: int) -> Wave:
        """The tasks of `episodes(key, tasks)`: amplitude and phase, each of shape (tasks,)."""
        self._check(tasks)
        keys = jax.random.split(key, 5)[:2]
        ranges = (self.amplitude, self.phase)
        return Wave(*(_uniform(k, (tasks,), r) for k, r in zip(keys, ranges, strict=True)))

    def episodes(self, key: jax.Array, tasks: int) -> Episode:
        """Points of random waves, without noise.

        The same key and number of tasks give the same waves; each batch depends on its own size only, so
        support and query are the same whatever `hessian` is (common random numbers).

        Returns:
          Episode(inner=support, hessian, outer=query) of pairs (x, y), each of shape (tasks, points, 1) and
          the default float dtype.

        Raises (while tracing):
          ValueError: sizes < 1, ranges that are not finite or not in order.
        """
        waves = self.waves(key, tasks)
        keys = jax.random.split(key, 5)[2:]

        def batch(key: jax.Array, points: int) -> tuple[jax.Array, jax.Array]:
            x = _uniform(key, (tasks, points, 1), self.x)
            return x, waves(x)

        return Episode(
            inner=batch(keys[0], self.support),
            hessian=batch(keys[1], self.hessian),
            outer=batch(keys[2], self.query),
        )

    def _check(self, tasks: int) -> None:
        for name in ("support", "hessian", "query"):
            check_step_count(name, getattr(self, name))
        check_step_count("tasks", tasks)
        for name in ("amplitude", "phase", "x"):
            _check_range(name, getattr(self, name))


def _check_range(name: str, ends: Any) -> None:
    pair = isinstance(ends, tuple | list) and len(ends) == 2
    known = [float(end) for end in map(concrete, ends) if end is not None] if pair else []
    if not pair or not all(map(math.isfinite, known)) or known != sorted(known):
        raise ValueError(f"{name} = {ends!r}; allowed: (low, high), finite and low <= high")


def _uniform(key: jax.Array, shape: tuple[int, ...], ends: Range) -> jax.Array:
    return jax.random.uniform(key, shape, float, *ends)
