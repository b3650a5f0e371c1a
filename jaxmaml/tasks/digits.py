"""Real handwritten digits: binary tasks, one a pair of classes (family (d)).

scikit-learn's 1797 digits of 8 x 8 pixels; x is the pixels and a constant feature, scaled so that
max ||x|| = 1. With the logistic loss L <= 1/4 + mu, rho <= 1/(6 sqrt 3), and F(0) = ln 2 bounds F(0) - inf F.
"""

import itertools

import numpy as np

from jaxmaml.checks import check_step_count
from jaxmaml.data import digits
from jaxmaml.tasks.finite_data import FiniteData, from_pools

PAIRS = tuple(itertools.combinations(range(10), 2))


def make(
    loss: str = "logistic",
    tasks: int = 20,
    pool: int = 100,
    mu: float = 1e-3,
    scale: float = 1.0,
    max_batch: int = 32,
    seed: int = 0,
) -> FiniteData:
    """`tasks` of the 45 pairs, `pool` points a task, half of each class: y = 1 for the larger digit.

    For softmax y is 0 or 1. ImportError without scikit-learn (pip install 'jaxmaml[training]').
    """
    images, classes = _load()
    chosen, y = pairs_of_classes(classes, loss, tasks, pool, seed)
    return from_pools(images[chosen], y, loss, mu=mu, scale=scale, max_batch=max_batch)


def pairs_of_classes(
    classes: np.ndarray, loss: str, tasks: int, pool: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs of ten classes, and the points and labels of each: (indices into classes, y), both of
    shape (tasks, pool)."""
    check_step_count("tasks", tasks)
    check_step_count("pool", pool, least=2)
    most = 2 * int(np.bincount(classes).min())
    if tasks > len(PAIRS) or pool > most or pool % 2:
        raise ValueError(
            f"tasks = {tasks}, pool = {pool}; allowed: at most {len(PAIRS)} tasks, "
            f"an even pool of at most {most}"
        )
    rng = np.random.default_rng(seed)
    chosen = [
        np.concatenate([rng.permutation(np.flatnonzero(classes == c))[: pool // 2] for c in PAIRS[j]])
        for j in rng.permutation(len(PAIRS))[:tasks]
    ]
    y = np.repeat([0.0 if loss == "softmax" else -1.0, 1.0], pool // 2)
    return np.stack(chosen), np.tile(y, (tasks, 1))


def _load() -> tuple[np.ndarray, np.ndarray]:
    images, classes = digits.load()
    pixels = images.reshape(len(images), -1) / digits.LEVELS
    x = np.concatenate([pixels, np.ones((len(images), 1))], axis=1)
    return x / np.linalg.norm(x, axis=1).max(), classes
