"""Family (a'): shared Hessian with log-spaced spectrum and equal energy a mode, where N(eps) ~ eps^-2.

From the start w_0 - c_bar = r with P_h r_h^2 / 2 = 1, P_h = h (1 - alpha h)^2, every mode contributes one
unit to F(w_0) - inf F = d. Inside the window of the spectrum
||grad F(w_k)||^2 ~ (gap / ln(range)) / (k beta), so that the iteration count has slope -2 in eps and
lies a factor ln(range) / (1 - c/2) below the bound.
"""

import numpy as np

from jaxmaml.tasks._noise import make_noise
from jaxmaml.tasks.shared_quadratic import QuadraticCenters, SharedQuadratic


def make(
    decades: float = 4.0,
    modes_per_decade: int = 8,
    largest: float = 1.0,
    n: int = 4,
    spread: float = 1.0,
    tau: float = 0.0,
    seed: int = 0,
) -> SharedQuadratic:
    """Eigenvalues largest * 10^[-decades, 0]; n tasks with centres N(0, spread^2)."""
    modes = max(2, round(decades * modes_per_decade) + 1)
    eigenvalues = largest * np.logspace(-decades, 0, modes)
    centers = spread * np.random.default_rng(seed).standard_normal((n, modes))
    return SharedQuadratic(eigenvalues, QuadraticCenters(centers), make_noise(tau))


def start(family: SharedQuadratic, alpha: float) -> np.ndarray:
    """w_0 with unit energy in every mode of F, shape (d,)."""
    h = np.asarray(family.eigenvalues, float)
    center = np.asarray(family.tasks.centers).mean(axis=0)
    return center + np.sqrt(2 / (h * (1 - alpha * h) ** 2))
