"""Family (b): quadratics with different Hessians, f_i(w) = 1/2 (w - c_i)^T A_i (w - c_i).

rho = 0, L = max ||A_i||. grad f_i - grad f = (A_i - A_bar) w - (A_i c_i - mean(A c)) grows with w:
Assumption 4 fails globally, and holds on the ball ||w - w_hat|| <= R with
sigma_R <= sigma(w_hat) + R ||E (A_i - A_bar)^2||^{1/2}, which is what the theory needs at the iterates.
With P_q = E[(I - alpha A_i)^q A_i],

    w_M = P_2^{-1} E[(I - alpha A_i)^2 A_i c_i],   grad F(w) = P_2 (w - w_M),
    w_FO = P_1^{-1} E[(I - alpha A_i) A_i c_i],    ||grad F(w_FO)|| = ||P_2 (w_FO - w_M)||.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.tasks._noise import Noise, NoiseBatch, NoisyCenters, make_noise
from jaxmaml.types import Array, Constants, Infimum


class QuadraticTasks(NamedTuple):
    hessians: Array
    """A, shape (n, d, d), symmetric, unit phi/u^2."""
    centers: Array
    """c, shape (n, d), unit u."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quadratic(NoisyCenters):
    """The tasks, the noise of a sample, and the ball on which `constants()` bounds sigma."""

    tasks: QuadraticTasks
    noise: Noise = field(default_factory=Noise)
    radius: float = field(default=1.0, metadata={"static": True})
    """R, unit u; the ball is centred at the minimiser of f."""

    def loss(self, w: jax.Array, task: QuadraticTasks, batch: NoiseBatch) -> jax.Array:
        offset = w - task.centers
        return 0.5 * jnp.vdot(offset, task.hessians @ offset) + self.noise.loss(w, batch)

    def constants(self) -> Constants:
        hessians, centers = self._arrays()
        deviation = hessians - hessians.mean(axis=0)
        spread = np.linalg.norm(np.mean(deviation @ deviation, axis=0), 2) ** 0.5
        at_center = np.einsum("nij,nj->ni", hessians, self.ball_center() - centers)
        sigma = np.sqrt(np.mean(np.sum((at_center - at_center.mean(axis=0)) ** 2, axis=1)))
        return Constants(
            L=float(np.linalg.norm(hessians, 2, axis=(1, 2)).max()),
            rho=0.0,
            sigma=float(sigma + self.radius * spread),
            sigma_tilde=self.noise.sigma_tilde(),
            sigma_h=self.noise.sigma_h(self.dim),
            zeta=0.0,
            kinds={"sigma": "upper bound"},
        )

    def infimum(self, alpha: float) -> Infimum:
        """F(w_M); F is convex because every A_i is positive semidefinite."""
        _, centers = self._arrays()
        p2 = self._powers(alpha, 2)
        offset = self.maml_limit(alpha) - centers
        return Infimum(float(0.5 * np.mean(np.einsum("ni,nij,nj->n", offset, p2, offset))), "exact")

    def ball_center(self) -> np.ndarray:
        """w_hat, the minimiser of f = E f_i, shape (d,)."""
        hessians, centers = self._arrays()
        return np.linalg.solve(hessians.mean(axis=0), np.einsum("nij,nj->ni", hessians, centers).mean(axis=0))

    def maml_limit(self, alpha: float) -> np.ndarray:
        """w_M, the minimiser of F, shape (d,)."""
        return self._limit(alpha, 2)

    def fo_limit(self, alpha: float) -> np.ndarray:
        """w_FO, the zero of FO-MAML's expected direction, shape (d,)."""
        return self._limit(alpha, 1)

    def grad_objective(self, w: np.ndarray, alpha: float) -> np.ndarray:
        """grad F(w) = P_2 (w - w_M), shape (d,)."""
        return self._powers(alpha, 2).mean(axis=0) @ (w - self.maml_limit(alpha))

    def fo_floor(self, alpha: float) -> float:
        """||grad F(w_FO)|| = alpha ||Cov_i(A_i, g_i)||, unit phi/u."""
        return float(np.linalg.norm(self.grad_objective(self.fo_limit(alpha), alpha)))

    def _limit(self, alpha: float, power: int) -> np.ndarray:
        _, centers = self._arrays()
        weights = self._powers(alpha, power)
        right = np.einsum("nij,nj->ni", weights, centers).mean(axis=0)
        return np.linalg.solve(weights.mean(axis=0), right)

    def _powers(self, alpha: float, power: int) -> np.ndarray:
        hessians, _ = self._arrays()
        damping = np.eye(self.dim) - alpha * hessians
        return np.linalg.matrix_power(damping, power) @ hessians

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.tasks.hessians, float), np.asarray(self.tasks.centers, float)


def pair(
    ell: float = 1.0, eta: float = 0.5, s: float = 1.0, tau: float = 0.0, radius: float = 1.0
) -> Quadratic:
    """Two tasks in one dimension: A = ell +- eta, centres +-s; needs 0 <= eta < ell."""
    if not 0 <= eta < ell:
        raise ValueError(f"eta = {eta!r}; allowed: 0 <= eta < ell = {ell!r}")
    hessians = np.array([[[ell + eta]], [[ell - eta]]])
    tasks = QuadraticTasks(hessians, np.array([[s], [-s]]))
    return Quadratic(tasks, make_noise(tau), radius)


def pair_floor(ell: float, eta: float, s: float, alpha: float) -> float:
    """alpha eta G, G = 2 s p_+ p_- / (p_+ + p_-), p = (1 - alpha A) A: FO-MAML's floor on `pair`."""
    plus, minus = ((1 - alpha * a) * a for a in (ell + eta, ell - eta))
    return alpha * eta * 2 * s * plus * minus / (plus + minus)


def make(
    n: int = 10,
    d: int = 4,
    smallest: float = 0.2,
    largest: float = 1.0,
    spread: float = 1.0,
    tau: float = 0.0,
    radius: float = 2.0,
    seed: int = 0,
) -> Quadratic:
    """Random rotations of eigenvalues uniform in [smallest, largest]; centres N(0, spread^2)."""
    rng = np.random.default_rng(seed)
    rotations = np.linalg.qr(rng.standard_normal((n, d, d)))[0]
    eigenvalues = rng.uniform(smallest, largest, (n, 1, d))
    hessians = (rotations * eigenvalues) @ rotations.transpose(0, 2, 1)
    centers = spread * rng.standard_normal((n, d))
    return Quadratic(QuadraticTasks(hessians, centers), make_noise(tau), radius)
