"""Three tasks in the plane that share a Hessian which is not constant,

    f_i(w) = ridge ||w||^2 + weight (x^4 + y^4 + 1)^{1/2} - <c_i, w>,   w = (x, y),
    c_i = spread {(1, 0), (0, 1), (-1, -1)}.

FO-MAML has no floor here, as Cov_i(H_i, g_i) = 0. HF-MAML has one: its arcs have different directions,
along which the one Hessian varies differently, and so does the truncation error.

Exactly sigma = spread (4/3)^{1/2}, everywhere. With p = x^2/S^{1/2}, q = y^2/S^{1/2}, S = x^4 + y^4 + 1, the
Hessian of S^{1/2} is 2 [3 diag(p, q) - 2 u u^T], u = (p^{3/2}, +-q^{3/2}): positive, and below 3 2^{1/2}, its
limit on the diagonal (docs/findings/hf-maml-bias.md). The third derivative along an axis is
12 x (1 - t)/(1 + t)^{5/2}, t = x^4, largest where 5 t^2 - 14 t + 1 = 0; a search over points and directions
finds none that is larger.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.tasks._noise import Noise, NoiseBatch, NoisyCenters, make_noise
from jaxmaml.types import Array, Constants, Infimum, Scalar


class Slopes(NamedTuple):
    centers: Array
    """c, shape (n, 2), unit phi/u."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SharedCurvature(NoisyCenters):
    """ridge, weight (unit phi/u^2, lengths in units of u = 1), the tasks, and the noise of a sample."""

    ridge: Scalar
    weight: Scalar
    tasks: Slopes
    noise: Noise = field(default_factory=Noise)

    def loss(self, w: jax.Array, task: Slopes, batch: NoiseBatch) -> jax.Array:
        shared = self.ridge * jnp.sum(w**2) + self.weight * jnp.sqrt(jnp.sum(w**4) + 1)
        return shared - jnp.vdot(task.centers, w) + self.noise.loss(w, batch)

    def constants(self) -> Constants:
        centers = np.asarray(self.tasks.centers, float)
        t = (7 - 2 * math.sqrt(11)) / 5
        return Constants(
            L=2 * float(self.ridge) + 3 * math.sqrt(2) * float(self.weight),
            rho=12 * float(self.weight) * t**0.25 * (1 - t) / (1 + t) ** 2.5,
            sigma=float(np.sqrt(np.sum(centers.var(axis=0)))),
            sigma_tilde=self.noise.sigma_tilde(),
            sigma_h=self.noise.sigma_h(self.dim),
            # Approached at infinity.
            kinds={"L": "upper bound"},
        )

    def infimum(self, alpha: float) -> Infimum:
        """f_i(w) >= m ||w||^2 - <c_i, w>, m = ridge + weight/2^{1/2}, at every w, also the adapted one."""
        del alpha
        m = float(self.ridge) + float(self.weight) / math.sqrt(2)
        squares = np.sum(np.asarray(self.tasks.centers, float) ** 2, axis=1)
        return Infimum(float(-np.mean(squares) / (4 * m)), "lower bound")

    # Closed forms in NumPy, independent of automatic differentiation.

    def task_gradients(self, w: np.ndarray) -> np.ndarray:
        """grad f_i(w) of every task, shape (n, 2); w has shape (2,) or (n, 2)."""
        root = np.sqrt(np.sum(w**4, axis=-1, keepdims=True) + 1)
        shared = 2 * float(self.ridge) * w + 2 * float(self.weight) * w**3 / root
        return shared - np.asarray(self.tasks.centers, float)

    def hessian(self, w: np.ndarray) -> np.ndarray:
        """The Hessian of every task, shape (2, 2)."""
        S = np.sum(w**4) + 1
        curved = np.diag(6 * w**2) / math.sqrt(S) - 4 * np.outer(w**3, w**3) / S**1.5
        return 2 * float(self.ridge) * np.eye(2) + float(self.weight) * curved

    def grad_objective(self, w: np.ndarray, alpha: float) -> np.ndarray:
        """grad F(w) = (I - alpha H) E_i grad f_i(w_i+), shape (2,)."""
        outer = self.task_gradients(w - alpha * self.task_gradients(w)).mean(axis=0)
        return outer - alpha * self.hessian(w) @ outer


def make(ridge: float = 0.1, weight: float = 0.5, spread: float = 20.0, tau: float = 0.0) -> SharedCurvature:
    """c_i = spread {(1, 0), (0, 1), (-1, -1)}."""
    centers = spread * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    return SharedCurvature(ridge, weight, Slopes(centers), make_noise(tau))
