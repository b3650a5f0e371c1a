"""Images of clothes, Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 6000 training images of each of ten classes.

The data are not part of the package; see `folder` for where they are looked for.
"""

import functools
import os
import pathlib

import numpy as np

from jaxmaml.data import _idx
from jaxmaml.data._arrays import by_class

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
TRAINING, TEST = range(6), range(6, 10)


def classes(path: str | os.PathLike[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """T-shirt, trouser, pullover, dress, coat, sandal (classes 0 to 5) for training, and shirt, sneaker, bag,
    ankle boot (6 to 9) for tests: uint8, shapes (6, 6000, 28, 28) and (4, 6000, 28, 28).

    Both are from the training images of the data set, since no class is in both. Errors as for `load`.
    """
    images, labels = load(path)
    return by_class(images, labels, TRAINING), by_class(images, labels, TEST)


def load(path: str | os.PathLike[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All training images (60000, 28, 28) and their classes (60000,), uint8.

    Args:
      path: the folder of the files, plain or with the ending .gz; else see `folder`.

    Raises:
      FileNotFoundError: they are not there; says what to install, or put where.
      ValueError: files that are damaged or have other contents.
    """
    return _load(folder(path))


def folder(path: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """`path`, else what the environment variable JAXMAML_FASHION_MNIST names, else where Debian's package
    dataset-fashion-mnist puts the files."""
    return pathlib.Path(path or os.environ.get(VARIABLE) or DEBIAN)


@functools.lru_cache(maxsize=1)
def _load(where: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
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
