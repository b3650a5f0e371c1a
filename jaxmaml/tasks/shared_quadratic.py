"""Family (a): quadratics that share one Hessian, f_i(w) = 1/2 (w - c_i)^T A (w - c_i), A = diag(h).

In the eigenbasis of A, without loss of generality. rho = 0, L = max h, and
sigma^2 = tr(A^2 Cov c) at every w: Assumption 4 holds with equality, everywhere.

    F(w) = 1/2 E ||w - c_i||^2_{A (I - alpha A)^2},  grad F = (I - alpha A)^2 A (w - c_bar),
    inf F = 1/2 tr(A (I - alpha A)^2 Cov c) at c_bar.

FO-MAML's direction (I - alpha A) A (w - c_bar) has the same zero: no floor, although sigma > 0.
HF-MAML equals MAML for every delta.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.tasks._noise import Noise, NoiseBatch, NoisyCenters, make_noise
from jaxmaml.types import Array, BatchSizes, Constants, Infimum, Scalar


class QuadraticCenters(NamedTuple):
    centers: Array
    """c, shape (n, d), unit u."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SharedQuadratic(NoisyCenters):
    """The eigenvalues h of A, shape (d,), unit phi/u^2; the tasks; the noise of a sample."""

    eigenvalues: Array
    tasks: QuadraticCenters
    noise: Noise = field(default_factory=Noise)

    def loss(self, w: jax.Array, task: QuadraticCenters, batch: NoiseBatch) -> jax.Array:
        quadratic = 0.5 * jnp.sum(self.eigenvalues * jnp.square(w - task.centers))
        return quadratic + self.noise.loss(w, batch)

    def constants(self) -> Constants:
        h, centers = self._arrays()
        return Constants(
            L=float(h.max()),
            rho=0.0,
            sigma=float(np.sqrt(np.sum(h**2 * centers.var(axis=0)))),
            sigma_tilde=self.noise.sigma_tilde(),
            sigma_h=self.noise.sigma_h(self.dim),
            zeta=0.0,
        )

    def infimum(self, alpha: float) -> Infimum:
        h, centers = self._arrays()
        return Infimum(float(0.5 * np.sum(h * (1 - alpha * h) ** 2 * centers.var(axis=0))), "exact")

    def grad_objective(self, w: np.ndarray, alpha: float) -> np.ndarray:
        """grad F(w), shape (d,)."""
        h, centers = self._arrays()
        return (1 - alpha * h) ** 2 * h * (w - centers.mean(axis=0))

    def exact_line(
        self,
        k: np.ndarray,
        w0: np.ndarray,
        estimator: str,
        alpha: float,
        c: float,
        sizes: BatchSizes,
    ) -> np.ndarray:
        """E ||grad F(w_k)||^2 for every k, exactly (beta0 = 0), for "maml", "hf_maml" or "fo_maml".

        A mode h with q = 1 - alpha h (MAML, HF-MAML) or 1 (FO-MAML), p = q (1 - alpha h) h and
        beta = c/(4L) is a scalar linear recursion with noise of variance

            Sigma_h = [p^2 Var(c_h) + q^2 (alpha^2 h^2 / D_in + 1/D_o) tau^2/d] / B,

        so that E ||grad F(w_k)||^2 = sum_h h^2 (1 - alpha h)^4 [(1 - beta p)^{2k} (w_0 - c_bar)_h^2
        + beta Sigma_h / (p (2 - beta p)) (1 - (1 - beta p)^{2k})].
        """
        if self.noise.beta0 is not None:
            raise ValueError(f"beta0 = {self.noise.beta0!r}; the exact line holds for beta0 = 0")
        h, centers = self._arrays()
        damping = 1 - alpha * h
        q = np.ones_like(h) if estimator == "fo_maml" else damping
        p = q * damping * h
        beta = c / (4 * h.max())
        tau = 0.0 if self.noise.tau is None else float(self.noise.tau)
        samples = (alpha * h) ** 2 * _inverse(sizes.D_in) + _inverse(sizes.D_o)
        noise = p**2 * centers.var(axis=0) + q**2 * samples * tau**2 / self.dim
        noise = noise * _inverse(sizes.B)
        decay = np.exp(2 * np.asarray(k, float)[..., None] * np.log1p(-beta * p))
        start = decay * (np.asarray(w0) - centers.mean(axis=0)) ** 2
        stationary = beta * noise / (p * (2 - beta * p)) * (1 - decay)
        return np.sum(h**2 * damping**4 * (start + stationary), axis=-1)

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.eigenvalues, float), np.asarray(self.tasks.centers, float)


def _inverse(size: Scalar | None) -> float:
    return 0.0 if size is None else 1.0 / float(size)


def make(
    n: int = 20,
    d: int = 10,
    smallest: float = 0.1,
    largest: float = 1.0,
    spread: float = 1.0,
    tau: float = 0.0,
    beta0: float = 0.0,
    nu: float = 1.0,
    seed: int = 0,
) -> SharedQuadratic:
    """Eigenvalues evenly spaced in [smallest, largest], centres N(0, spread^2)."""
    centers = spread * np.random.default_rng(seed).standard_normal((n, d))
    eigenvalues = np.linspace(smallest, largest, d)
    return SharedQuadratic(eigenvalues, QuadraticCenters(centers), make_noise(tau, beta0, nu))
