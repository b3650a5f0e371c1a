"""Images as NumPy arrays, before they go to the device."""

from collections.abc import Sequence

import numpy as np


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


def by_class(images: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Images (n, H, W) of the named classes in their order, shape (C, M, H, W).

    M is the size of the rarest of all classes in `labels`; a class that has more gives its first M images.
    """
    count = min(int(np.sum(labels == c)) for c in np.unique(labels))
    return np.stack([images[np.flatnonzero(labels == c)[:count]] for c in classes])
