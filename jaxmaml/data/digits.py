"""Handwritten digits: scikit-learn's 1797 images of 8 x 8 pixels, which need no file."""

import importlib.util
import os
import pathlib

import numpy as np

from jaxmaml.data._arrays import by_class

TRAINING, TEST = range(6), range(6, 10)
SIDE = 8
LEVELS = 16
"""the brightest value of a pixel."""


def load() -> tuple[np.ndarray, np.ndarray]:
    """All images (1797, 8, 8), uint8 from 0 to 16, and their digits (1797,).

    What `sklearn.datasets.load_digits` gives, from the file that it reads: importing scikit-learn would take
    as long as importing JAX.

    Raises:
      ImportError: without scikit-learn (pip install 'jaxmaml[training]').
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ImportError("the digits need scikit-learn: pip install 'jaxmaml[training]'")
    path = pathlib.Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1].astype(int)


def classes(path: str | os.PathLike[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The digits 0 to 5 for training and 6 to 9 for tests, uint8, shapes (6, 174, 8, 8) and (4, 174, 8, 8).

    Of each digit the first 174 images in the order of the data set: the rarest, 8, has no more. Pixels are
    round(255 v / 16) for the values v = 0, ..., 16. `path` is not used: the data come with scikit-learn.
    """
    del path
    images, labels = load()
    pixels = np.rint(images * (255 / LEVELS)).astype(np.uint8)
    return by_class(pixels, labels, TRAINING), by_class(pixels, labels, TEST)
