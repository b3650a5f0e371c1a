"""N-way K-shot classification: tasks from classes of images.

A task is `ways` classes in random order, the order being the labels 0, ..., ways - 1; its batches hold
`support`, `hessian` and `query` images of each class, all of them different (Vinyals et al. 2016).
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxmaml.checks import check_step_count
from jaxmaml.data._selection import codes, distinct
from jaxmaml.types import Array, Episode


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Images:
    """Classes of images; they stay uint8 on the device, only what is drawn becomes floating point."""

    pixels: Array
    """uint8, shape (C, M, H, W): M images of each of C classes."""
    ways: int = field(metadata={"static": True})
    """classes of a task."""
    support: int = field(metadata={"static": True})
    """images a class in the inner batch."""
    hessian: int = field(metadata={"static": True})
    """images a class in the Hessian batch."""
    query: int = field(metadata={"static": True})
    """images a class in the outer batch."""

    def episodes(self, key: jax.Array, tasks: int) -> Episode:
        """Classes and images drawn uniformly without replacement, tasks independently of each other.

        The same key, tasks, ways and support give the same support batch, and with the same query size the
        same query batch, whatever `hessian` is: common random numbers for estimators that differ in D_h.

        Returns:
          Episode(inner=support, hessian, outer=query) of pairs (x, y), class by class in the order of the
          labels: x of the default float dtype in [0, 1], shape (tasks, ways * images, H, W, 1);
          y int32, shape (tasks, ways * images).

        Raises (while tracing):
          TypeError: pixels that are not uint8.
          ValueError: pixels of another shape, more ways than classes, more images than a class has,
            sizes < 1.
        """
        self._check(tasks)
        pixels = jnp.asarray(self.pixels)
        total, each, height, width = pixels.shape
        key_classes, key_support, key_query, key_hessian = jax.random.split(key, 4)
        drawn = distinct(codes(key_classes, (tasks, self.ways), total))

        def letters(key: jax.Array, count: int, first: int) -> jax.Array:
            return codes(key, (tasks, self.ways, count), each, first)

        # The Hessian batch comes last, so that the others do not depend on its size.
        ends = (self.support, self.support + self.query)
        code = [
            letters(key_support, self.support, 0),
            letters(key_query, self.query, ends[0]),
            letters(key_hessian, self.hessian, ends[1]),
        ]
        support, query, hessian = jnp.split(distinct(jnp.concatenate(code, axis=2)), ends, axis=2)

        def batch(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
            count = chosen.shape[2]
            x = pixels[drawn[:, :, None], chosen].astype(float) / 255
            y = jnp.repeat(jnp.arange(self.ways, dtype=jnp.int32), count)
            return (
                x.reshape(tasks, self.ways * count, height, width, 1),
                jnp.broadcast_to(y, (tasks, self.ways * count)),
            )

        return Episode(batch(support), batch(hessian), batch(query))

    def _check(self, tasks: int) -> None:
        for name in ("ways", "support", "hessian", "query"):
            check_step_count(name, getattr(self, name))
        check_step_count("tasks", tasks)
        shape, dtype = jnp.shape(self.pixels), jnp.result_type(self.pixels)
        if dtype != jnp.uint8:
            raise TypeError(f"pixels has dtype {dtype}; allowed: uint8, 0 to 255")
        if len(shape) != 4 or 0 in shape:
            raise ValueError(
                f"pixels has shape {shape}; allowed: (classes, images, height, width), each >= 1"
            )
        if self.ways > shape[0]:
            raise ValueError(f"ways = {self.ways}; allowed: at most {shape[0]}, the number of classes")
        images = self.support + self.hessian + self.query
        if images > shape[1]:
            raise ValueError(
                f"support + hessian + query = {self.support} + {self.hessian} + {self.query} = {images}; "
                f"allowed: at most {shape[1]}, the images of a class"
            )
