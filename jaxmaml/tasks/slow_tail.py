"""Family (e): a slow tail, f_i(w) = sum_j (1 + (w_j - c_ij)^2)^{-q} / (2q), where N(eps) ~ eps^{-(1 + 1/p)}.

    f'  = -x (1 + x^2)^{-q-1},
    f'' = (1 + x^2)^{-q-2} ((2q + 1) x^2 - 1),
    f''' = (q + 1) x (1 + x^2)^{-q-3} (6 - (4q + 2) x^2),      x = w_j - c_ij.

Exactly L = 1 (at x = 0), rho = max |f'''|, inf F = 0, not attained: the iterates run away, and the gradient
decays like w^{-p}, p = 1 + 2q, so that accuracy eps takes of order eps^{-(1 + 1/p)} steps. That tends to the
theorems' eps^{-2} as q -> 0.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.checks import check_positive
from jaxmaml.tasks._noise import Noise, NoiseBatch, NoisyCenters, make_noise
from jaxmaml.types import Array, Constants, Infimum, Scalar


class SlowTailTasks(NamedTuple):
    centers: Array
    """c, shape (n, d), unit u."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SlowTail(NoisyCenters):
    """q > 0, a number; the tasks; the noise of a sample."""

    q: Scalar
    tasks: SlowTailTasks
    noise: Noise = field(default_factory=Noise)

    def loss(self, w: jax.Array, task: SlowTailTasks, batch: NoiseBatch) -> jax.Array:
        tail = jnp.sum(jnp.exp(-self.q * jnp.log1p(jnp.square(w - task.centers)))) / (2 * self.q)
        return tail + self.noise.loss(w, batch)

    def constants(self) -> Constants:
        q = float(self.q)
        x = np.linspace(0, 4, 400_001)
        third = np.abs((q + 1) * x * (1 + x**2) ** (-q - 3) * (6 - (4 * q + 2) * x**2))
        return Constants(
            L=1.0,
            rho=float(third.max()),
            sigma=self._sigma(),
            sigma_tilde=self.noise.sigma_tilde(),
            sigma_h=self.noise.sigma_h(self.dim),
        )

    def infimum(self, alpha: float) -> Infimum:
        """0, the limit for |w| -> inf, which no w attains."""
        del alpha
        return Infimum(0.0, "lower bound")

    def order(self) -> float:
        """1 + 1/p: the order of N(eps) in 1/eps."""
        return 1 + 1 / (1 + 2 * float(self.q))

    def _sigma(self) -> float:
        """The largest spread of the gradients over tasks: one maximum over a line for each coordinate."""
        q, centers = float(self.q), np.asarray(self.tasks.centers, float)
        total = 0.0
        for c in centers.T:
            low, high = c.min() - 4, c.max() + 4
            for _ in range(6):
                w = np.linspace(low, high, 20_001)
                x = w[:, None] - c
                variance = (-x * (1 + x**2) ** (-q - 1)).var(axis=1)
                best, gap = w[np.argmax(variance)], w[1] - w[0]
                low, high = best - 2 * gap, best + 2 * gap
            total += variance.max()
        return float(np.sqrt(total))


def make(
    q: float = 0.1,
    n: int = 4,
    d: int = 1,
    spread: float = 0.3,
    tau: float = 0.0,
    beta0: float = 0.0,
    nu: float = 1.0,
    seed: int = 0,
) -> SlowTail:
    """n tasks with centres N(0, spread^2)."""
    check_positive("q", q)
    centers = spread * np.random.default_rng(seed).standard_normal((n, d))
    return SlowTail(q, SlowTailTasks(centers), make_noise(tau, beta0, nu))
