"""Real handwritten digits: binary tasks, one a pair of classes (family (d)).

scikit-learn's 1797 digits of 8 x 8 pixels; x is the pixels and a constant feature, scaled so that
max ||x|| = 1. With the logistic loss L <= 1/4 + mu, rho <= 1/(6 sqrt 3), and F(0) = ln 2 bounds F(0) - inf F.
"""

import itertools

import numpy as np

from jaxmaml.checks import check_step_count
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

    For softmax y is 0 or 1. ImportError without scikit-learn (pip install 'jaxmaml[experiments]').
    """
    check_step_count("tasks", tasks)
    check_step_count("pool", pool, least=2)
    if tasks > len(PAIRS) or pool > 2 * 174 or pool % 2:
        raise ValueError(
            f"tasks = {tasks}, pool = {pool}; allowed: at most {len(PAIRS)} tasks, "
            "an even pool of at most 348"
        )
    images, classes = _load()
    rng = np.random.default_rng(seed)
    x, y = [], []
    for j in rng.permutation(len(PAIRS))[:tasks]:
        chosen = [rng.permutation(np.flatnonzero(classes == digit))[: pool // 2] for digit in PAIRS[j]]
        x.append(images[np.concatenate(chosen)])
        low = 0.0 if loss == "softmax" else -1.0
        y.append(np.repeat([low, 1.0], pool // 2))
    return from_pools(np.stack(x), np.stack(y), loss, mu=mu, scale=scale, max_batch=max_batch)


def _load() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: pip install 'jaxmaml[experiments]'") from error
    data = load_digits()
    x = np.concatenate([data.data / 16, np.ones((len(data.data), 1))], axis=1)
    return x / np.linalg.norm(x, axis=1).max(), data.target
