"""Two tasks in one dimension whose Hessians the difference of the HF-MAML theorem does not see.

With h = 1/(6 rho alpha), the arc of the theorem's delta, A = rho h / 2 = 1/(12 alpha) and Tri the triangle
wave of period 2h, amplitude 1 and Tri(0) = 1, for s = +1 and -1

    f_s''(w) = mu + s A Tri(w),    f_s'(w) = mu w + s (A J(w) - C) - e,    J(w) = int_0^w Tri.

The secant of f_s' over [w - h, w + h] is a mean over one period: exactly mu, for both tasks and every w, so
that HF-MAML is FO-MAML on tasks that seem to share a Hessian. Where it stops,
|F'| = alpha A |Tri(w)| |g_+ - g_-| / 2. With r = w modulo 2h in [-h, h],

    Tri = 1 - 2|r|/h,    J = r - r|r|/h,    int_0^w J = r^2/2 - |r|^3/(3h).

Exactly L = mu + A, rho = 2A/h and sigma = sup |A J - C| = |C| + A h / 4.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.tasks._noise import Noise, NoiseBatch, NoisyCenters, make_noise
from jaxmaml.types import Array, Constants, Infimum, Scalar


class Signs(NamedTuple):
    signs: Array
    """s, shape (2,)."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HfBlind(NoisyCenters):
    """mu, A (unit phi/u^2), h (unit u), C, e (unit phi/u), the tasks, and the noise of a sample."""

    mu: Scalar
    A: Scalar
    h: Scalar
    C: Scalar
    e: Scalar
    tasks: Signs
    noise: Noise = field(default_factory=Noise)

    @property
    def dim(self) -> int:
        return 1

    def loss(self, w: jax.Array, task: Signs, batch: NoiseBatch) -> jax.Array:
        x = w[0]
        r = x - 2 * self.h * jnp.round(x / (2 * self.h))
        wave = r * r * (0.5 - jnp.abs(r) / (3 * self.h))
        value = 0.5 * self.mu * x * x + task.signs * (self.A * wave - self.C * x) - self.e * x
        return value + self.noise.loss(w, batch)

    def constants(self) -> Constants:
        mu, A, h, C, _ = self._numbers()
        return Constants(
            L=mu + A,
            rho=2 * A / h,
            sigma=abs(C) + A * h / 4,
            sigma_tilde=self.noise.sigma_tilde(),
            sigma_h=self.noise.sigma_h(1),
        )

    def infimum(self, alpha: float) -> Infimum:
        """One global minimisation, on a grid with parabolic refinement."""
        mu, _, h, C, e = self._numbers()

        def value(x: np.ndarray) -> np.ndarray:
            return np.mean(self.values(x - alpha * self.task_gradients(x)), axis=0)

        # Outside this box each f_s(w+) >= mu/2 w+^2 - (|C| + |e|) |w+| exceeds the value at 0.
        level = max(float(value(np.zeros(1))[0]), 0.0)
        slope = abs(C) + abs(e)
        radius = (slope + math.sqrt(slope**2 + 2 * mu * level)) / mu
        radius = (radius + alpha * (self.constants().sigma + abs(e))) / (1 - alpha * mu)
        low, high = -radius, radius
        for _ in range(6):
            grid = np.linspace(low, high, max(2001, int((high - low) / h * 200)))
            best = grid[np.argmin(value(grid))]
            gap = grid[1] - grid[0]
            low, high = best - 2 * gap, best + 2 * gap
        return Infimum(float(value(np.array([best]))[0]), "exact")

    # Closed forms in NumPy, independent of automatic differentiation: w of shape (m,) or (2, m), tasks first.

    def values(self, w: np.ndarray) -> np.ndarray:
        """f_s(w), shape (2, m)."""
        mu, A, h, C, e = self._numbers()
        r = self._residue(w)
        wave = r**2 / 2 - np.abs(r) ** 3 / (3 * h)
        return mu * w**2 / 2 + self._signs() * (A * wave - C * w) - e * w

    def task_gradients(self, w: np.ndarray) -> np.ndarray:
        """f_s'(w), shape (2, m)."""
        mu, A, h, C, e = self._numbers()
        r = self._residue(w)
        return mu * w + self._signs() * (A * (r - r * np.abs(r) / h) - C) - e

    def task_hessians(self, w: np.ndarray) -> np.ndarray:
        """f_s''(w), shape (2, m)."""
        mu, A, h, _, _ = self._numbers()
        return mu + self._signs() * A * (1 - 2 * np.abs(self._residue(w)) / h)

    def adapted_gradients(self, w: np.ndarray, alpha: float) -> np.ndarray:
        """g_s = f_s'(w - alpha f_s'(w)), shape (2, m)."""
        return self.task_gradients(w - alpha * self.task_gradients(w))

    def grad_objective(self, w: np.ndarray, alpha: float) -> np.ndarray:
        """F'(w) = E_s (1 - alpha f_s''(w)) g_s, shape (m,)."""
        return np.mean((1 - alpha * self.task_hessians(w)) * self.adapted_gradients(w, alpha), axis=0)

    def _residue(self, w: np.ndarray) -> np.ndarray:
        h = float(self.h)
        return w - 2 * h * np.round(w / (2 * h))

    def _signs(self) -> np.ndarray:
        return np.asarray(self.tasks.signs, float)[:, None]

    def _numbers(self) -> tuple[float, float, float, float, float]:
        return float(self.mu), float(self.A), float(self.h), float(self.C), float(self.e)


def make(
    alpha: float = 1.0,
    rho: float = 1.0,
    mu: float = 0.4,
    C: float = 1.6,
    e: float = 0.1568806632,
    tau: float = 0.0,
) -> HfBlind:
    """For the inner rate alpha and this rho; mu in units of A, C of L h, e of A h.

    The defaults have alpha L = 0.1167 and were found by a search for a large |F'| / sigma.
    """
    for name, value in (("alpha", alpha), ("rho", rho), ("mu", mu)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value!r}; allowed: finite and > 0")
    h, A = 1 / (6 * rho * alpha), 1 / (12 * alpha)
    L = (1 + mu) * A
    return HfBlind(mu * A, A, h, C * L * h, e * A * h, Signs(np.array([1.0, -1.0])), make_noise(tau))
