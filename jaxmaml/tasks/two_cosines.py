"""Family (c2): two tasks in one dimension, f(w) = mu/2 (w -+ c)^2 +- a cos(omega w).

sigma = mu c + a omega exactly, and for alpha << 1/(c a omega^3) FO-MAML started at 0 ends with
||grad F|| / (alpha L sigma) -> a omega^2 / (mu + a omega^2) * mu c / (mu c + a omega): its floor is
nearly as large as the theory allows.
"""

import numpy as np

from jaxmaml.tasks._noise import make_noise
from jaxmaml.tasks.cosine import Cosine, CosineTasks


def make(
    mu: float = 0.1,
    a: float = 0.9,
    omega: float = 1.0,
    c: float = 100.0,
    tau: float = 0.0,
    beta0: float = 0.0,
    nu: float = 1.0,
) -> Cosine:
    """Centres +-c, phases 0 and pi."""
    tasks = CosineTasks(np.array([[c], [-c]]), np.array([[0.0], [np.pi]]))
    return Cosine(mu, a, omega, tasks, make_noise(tau, beta0, nu))


def fo_ratio(mu: float, a: float, omega: float, c: float) -> float:
    """The limit of ||grad F|| / (alpha L sigma) at FO-MAML's limit point as alpha -> 0."""
    return a * omega**2 / (mu + a * omega**2) * mu * c / (mu * c + a * omega)
