"""N-way K-shot classification: tasks from classes of images, as many of each.

A task is `ways` classes in random order, the order being the labels 0, ..., ways - 1; its batches hold
`support`, `hessian` and `query` images of each class, all of them different (Vinyals et al. 2016).
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.data.ragged import ClassTasks
from jaxmaml.types import Array, Episode


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Images:
    """Classes of images; they stay uint8 on the device, only what is drawn becomes floating point."""

    pixels: Array
    """uint8, shape (C, M, H, W) or (C, M, H, W, channels): M images of each of C classes."""
    ways: int = field(metadata={"static": True})
    """classes of a task."""
    support: int = field(metadata={"static": True})
    """images a class in the inner batch."""
    hessian: int = field(metadata={"static": True})
    """images a class in the Hessian batch."""
    query: int = field(metadata={"static": True})
    """images a class in the outer batch."""

    def episodes(self, key: jax.Array, tasks: int) -> Episode:
        """As of `ClassTasks`: classes and images uniformly without replacement, common random numbers.

        Returns:
          Episode(inner=support, hessian, outer=query) of pairs (x, y), class by class in the order of the
          labels: x of the default float dtype in [0, 1], shape (tasks, ways * images, H, W, channels), where
          grey images have one channel; y int32, shape (tasks, ways * images).

        Raises (while tracing):
          TypeError: pixels that are not uint8.
          ValueError: pixels of another shape, more ways than classes, more images than a class has,
            sizes < 1.
        """
        shape, dtype = jnp.shape(self.pixels), jnp.result_type(self.pixels)
        if dtype != jnp.uint8:
            raise TypeError(f"pixels has dtype {dtype}; allowed: uint8, 0 to 255")
        if len(shape) not in (4, 5) or 0 in shape:
            raise ValueError(
                f"pixels has shape {shape}; allowed: (classes, images, height, width) or "
                "(classes, images, height, width, channels), each >= 1"
            )
        classes, each, *image = shape
        flat = jnp.reshape(self.pixels, (classes * each, *image, *[1] * (len(shape) == 4)))
        return ClassTasks(
            x=flat,
            starts=each * np.arange(classes, dtype=np.int32),
            sizes=np.full(classes, each, np.int32),
            smallest=each,
            ways=self.ways,
            support=self.support,
            hessian=self.hessian,
            query=self.query,
        ).episodes(key, tasks)
