"""Few-shot data: whole data sets on the device, episodes drawn inside jit from a key, no loader process.

A distribution of tasks (`sinusoid.Sinusoid`, `images.Images`, `ragged.ClassTasks`, `ragged.Tasks`) is a
pytree with the method `episodes`; `jaxmaml.fewshot` makes them of your own arrays. Images by class come from
the modules that have `classes`, which `image_sets()` finds:

    training, test = omniglot.classes()
    distribution = jax.device_put(Images(training, ways=5, support=1, hessian=1, query=15))

Pass a distribution to a jitted function as an argument: closed over, its pixels become a constant of the
program.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from jaxmaml import discover
from jaxmaml.names import unknown
from jaxmaml.types import Episode

Classes = tuple[np.ndarray, np.ndarray]
"""Images by class, uint8: training classes, then test classes. Grey ones have shape (C, M, H, W), ink bright
on dark; those in colour (C, M, H, W, 3)."""


class Distribution(Protocol):
    """A distribution of tasks: a pytree whose arrays are leaves and whose sizes are static."""

    def episodes(self, key: jax.Array, tasks: int) -> Episode:
        """`tasks` i.i.d. tasks, and of each the support (inner), Hessian and query (outer) batch.

        Each batch is a pair (x, y) with leading axes (tasks, samples), or (x, y, weight) where samples have
        weights; the three are disjoint samples of one task.
        """


@functools.cache
def image_sets() -> dict[str, Callable[..., Classes]]:
    """classes(path=None, ...) -> (training classes, test classes), by name."""
    found = discover.modules(sys.modules[__name__])
    return {name: module.classes for name, module in found.items() if hasattr(module, "classes")}


def image_shape(name: str) -> tuple[int, int, int]:
    """(H, W, channels) of an image of the set of that name, grey if its module does not say; none is read."""
    module: Any = sys.modules[image_sets()[name].__module__]
    return module.SIDE, module.SIDE, getattr(module, "CHANNELS", 1)


def classes(name: str, path: Any = None, **options: Any) -> Classes:
    """The image set of that name; ValueError with the known names and the nearest one."""
    if name not in image_sets():
        unknown("image set", name, image_sets())
    return image_sets()[name](path, **options)
