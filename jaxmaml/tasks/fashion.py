"""Real images of clothes, Fashion-MNIST: binary tasks, one a pair of classes (family (d)).

The 28 x 28 pixels of the training images are averaged over side x side equal areas (8 x 8 by default: the
digits' size, so that runs on both share compiled programs); x is these averages and a constant feature,
scaled so that max ||x|| = 1 over the points in use. With the logistic loss L <= 1/4 + mu, rho <= 1/(6 sqrt 3)
and, for alpha <= 1/L, F(0) - inf F <= F(0) <= ln 2.

The data are not part of the package: see `jaxmaml.data.fashion_mnist`.
"""

import os

import numpy as np

from jaxmaml.checks import check_step_count
from jaxmaml.data import fashion_mnist
from jaxmaml.data._arrays import area_means
from jaxmaml.tasks.digits import pairs_of_classes
from jaxmaml.tasks.finite_data import FiniteData, from_pools


def make(
    loss: str = "logistic",
    tasks: int = 20,
    pool: int = 100,
    mu: float = 1e-3,
    scale: float = 1.0,
    max_batch: int = 32,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    side: int = 8,
) -> FiniteData:
    """`tasks` of the 45 pairs, `pool` points a task, half of each class: y = 1 for the larger class number.

    For softmax y is 0 or 1; w has side^2 + 1 entries a score. The files, plain or with the ending .gz, are
    looked for in `path`, else in the folder that the environment variable JAXMAML_FASHION_MNIST names, else
    where Debian's package dataset-fashion-mnist puts them.

    Raises:
      FileNotFoundError: they are not there; says what to install, or put where.
      ValueError: files of other contents, and numbers outside their range.
    """
    check_step_count("side", side)
    if side > fashion_mnist.SIDE:
        raise ValueError(f"side = {side}; allowed: at most {fashion_mnist.SIDE}, the images' own")
    images, classes = fashion_mnist.load(path)
    chosen, y = pairs_of_classes(classes, loss, tasks, pool, seed)
    x = area_means(images[chosen] / 255, side).reshape(tasks, pool, side**2)
    x = np.concatenate([x, np.ones((tasks, pool, 1))], axis=2)
    x /= np.linalg.norm(x, axis=2).max()
    return from_pools(x, y, loss, mu=mu, scale=scale, max_batch=max_batch)
