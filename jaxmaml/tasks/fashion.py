"""Real images of clothes, Fashion-MNIST: binary tasks, one a pair of classes (family (d)).

The 28 x 28 pixels of the training images are averaged over side x side equal areas (8 x 8 by default: the
digits' size, so that runs on both share compiled programs); x is these averages and a constant feature,
scaled so that max ||x|| = 1 over the points in use. With the logistic loss L <= 1/4 + mu, rho <= 1/(6 sqrt 3)
and, for alpha <= 1/L, F(0) - inf F <= F(0) <= ln 2.

The data are not part of the package: see `make`.
"""

import functools
import os
import pathlib

import numpy as np

from jaxmaml.checks import check_step_count
from jaxmaml.tasks import _idx
from jaxmaml.tasks.digits import pairs_of_classes
from jaxmaml.tasks.finite_data import FiniteData, from_pools

VARIABLE = "JAXMAML_FASHION_MNIST"
"""the environment variable that names the folder of the files."""
DEBIAN = "/usr/share/datasets/fashion-mnist"
"""where Debian's package dataset-fashion-mnist puts them."""
SIDE = 28
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
SHA256 = {
    IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""of the four files of the data set, uncompressed; only those of the training images are read."""


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
    if side > SIDE:
        raise ValueError(f"side = {side}; allowed: at most {SIDE}, the images' own")
    images, classes = _load(folder(path))
    chosen, y = pairs_of_classes(classes, loss, tasks, pool, seed)
    x = area_means(images[chosen] / 255, side).reshape(tasks, pool, side**2)
    x = np.concatenate([x, np.ones((tasks, pool, 1))], axis=2)
    x /= np.linalg.norm(x, axis=2).max()
    return from_pools(x, y, loss, mu=mu, scale=scale, max_batch=max_batch)


def folder(path: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Where the files are looked for: `path`, else the environment variable, else Debian's folder."""
    return pathlib.Path(path or os.environ.get(VARIABLE) or DEBIAN)


def area_means(images: np.ndarray, side: int) -> np.ndarray:
    """Means over side x side equal areas of square images, shape (..., n, n) -> (..., side, side).

    A pixel on the border of two areas counts in each by the share that lies in it.
    """
    n = images.shape[-1]
    edges = np.linspace(0, n, side + 1)
    pixels = np.arange(n)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0, None) * side / n
    return weights @ images @ weights.T


@functools.lru_cache(maxsize=1)
def _load(where: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """All training images (60000, 28, 28) and their classes (60000,)."""
    images, labels = (_find(where, name) for name in (IMAGES, LABELS))
    return (
        _idx.read(images, (-1, SIDE, SIDE), SHA256[IMAGES]),
        _idx.read(labels, (-1,), SHA256[LABELS]),
    )


def _find(where: pathlib.Path, name: str) -> pathlib.Path:
    for file in (where / f"{name}.gz", where / name):
        if file.exists():
            return file
    raise FileNotFoundError(
        f"Fashion-MNIST: {where} has neither {name}.gz nor {name}; install Debian's package "
        f"dataset-fashion-mnist, or set {VARIABLE} to a folder with {', '.join(SHA256)}, plain or .gz "
        f"(sha256 of the first, uncompressed: {SHA256[IMAGES]})"
    )
