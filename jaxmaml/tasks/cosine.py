"""Family (c): nonconvex separable tasks, f_i(w) = mu/2 ||w - c_i||^2 + a sum_j cos(omega w_j + phi_ij).

    grad f_i = mu (w - c_i) - a omega sin(omega w + phi_i),
    hess f_i = diag(mu - a omega^2 cos(omega w + phi_i)).

Exactly L = mu + a omega^2, rho = a omega^3, zeta = a omega^4; nonconvex iff a omega^2 > mu. With
z = exp(i phi), a ring for centred and a bar for mean values, P_j = E[c. z.], Q_j = E[z.^2],

    sigma^2 = sum_j max_t { mu^2 Var c_j + 2 mu a omega Im(e^{it} P_j)
                            + a^2 omega^2 / 2 (E|z._j|^2 - Re(e^{2it} Q_j)) },

attained, since the coordinates are free. Derivations in docs/theory.md and docs/families.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml._trigonometry import cos
from jaxmaml.tasks._noise import Noise, NoiseBatch, NoisyCenters, make_noise
from jaxmaml.types import Array, Constants, Infimum, Scalar


class CosineTasks(NamedTuple):
    centers: Array
    """c, shape (n, d), unit u."""
    phases: Array
    """phi, shape (n, d), radians."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cosine(NoisyCenters):
    """mu (unit phi/u^2), a (unit phi), omega (unit 1/u), the tasks, and the noise of a sample."""

    mu: Scalar
    a: Scalar
    omega: Scalar
    tasks: CosineTasks
    noise: Noise = field(default_factory=Noise)

    def loss(self, w: jax.Array, task: CosineTasks, batch: NoiseBatch) -> jax.Array:
        quadratic = 0.5 * self.mu * jnp.sum(jnp.square(w - task.centers))
        wave = self.a * jnp.sum(cos(self.omega * w + task.phases))
        return quadratic + wave + self.noise.loss(w, batch)

    def constants(self) -> Constants:
        mu, a, omega = self._numbers()
        return Constants(
            L=mu + a * omega**2,
            rho=a * omega**3,
            sigma=self._sigma(),
            sigma_tilde=self.noise.sigma_tilde(),
            sigma_h=self.noise.sigma_h(self.dim),
            zeta=a * omega**4,
        )

    def infimum(self, alpha: float) -> Infimum:
        """Separable: one global minimisation a coordinate, on grids that close in on it."""
        mu, a, omega = self._numbers()
        total = 0.0
        for j in range(self.dim):
            c, phi = self._task_arrays(j)

            def value(x: np.ndarray, c: np.ndarray = c, phi: np.ndarray = phi) -> np.ndarray:
                x = x[:, None]
                adapted = x - alpha * (mu * (x - c) - a * omega * np.sin(omega * x + phi))
                wave = np.cos(omega * adapted + phi)
                return np.mean(0.5 * mu * (adapted - c) ** 2 + a * wave, axis=1)

            # Outside this box each mu/2 (x+ - c)^2 - a alone exceeds the value at the mean centre.
            level = float(value(np.array([c.mean()]))[0]) + a
            radius = (np.sqrt(2 * level / mu) + alpha * a * omega) / (1 - alpha * mu)
            low, high = c.min() - radius, c.max() + radius
            # The basin by a fine grid, then 20 times closer each time.
            for points in (max(2001, int((high - low) * omega * 40)), *[81] * 8):
                grid = np.linspace(low, high, points)
                best = grid[np.argmin(value(grid))]
                gap = grid[1] - grid[0]
                low, high = best - 2 * gap, best + 2 * gap
            total += float(value(np.array([best]))[0])
        return Infimum(total, "exact")

    # Closed forms in NumPy, independent of automatic differentiation.

    def task_gradients(self, w: np.ndarray) -> np.ndarray:
        """grad f_i(w) of every task, shape (n, d); w has shape (d,) or (n, d)."""
        mu, a, omega = self._numbers()
        centers, phases = (np.asarray(x) for x in self.tasks)
        return mu * (w - centers) - a * omega * np.sin(omega * w + phases)

    def task_hessians(self, w: np.ndarray) -> np.ndarray:
        """The diagonals of hess f_i(w), shape (n, d)."""
        mu, a, omega = self._numbers()
        return mu - a * omega**2 * np.cos(omega * w + np.asarray(self.tasks.phases))

    def adapted(self, w: np.ndarray, alpha: float) -> np.ndarray:
        """w_i+ = w - alpha grad f_i(w), shape (n, d)."""
        return w - alpha * self.task_gradients(w)

    def grad_objective(self, w: np.ndarray, alpha: float) -> np.ndarray:
        """grad F(w) = E_i (1 - alpha f_i''(w)) f_i'(w_i+), shape (d,)."""
        outer = self.task_gradients(self.adapted(w, alpha))
        return np.mean((1 - alpha * self.task_hessians(w)) * outer, axis=0)

    def inner_bias(self, w: np.ndarray, alpha: float, D_in: float) -> np.ndarray:
        """e_i = E grad f_i(w - alpha grad f_i(w; D_in)) - grad f_i(w_i+) for beta0 = 0, shape (n, d).

        e_ij = -a omega sin(omega w_ij+ + phi_ij) (exp(-omega^2 alpha^2 tau^2 / (2 d D_in)) - 1).
        """
        _, a, omega = self._numbers()
        tau = self._tau_only()
        damping = np.expm1(-((omega * alpha * tau) ** 2) / (2 * self.dim * D_in))
        angle = omega * self.adapted(w, alpha) + np.asarray(self.tasks.phases)
        return -a * omega * np.sin(angle) * damping

    def difference_error(self, w: np.ndarray, vectors: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """d - H v of the central difference for every task: vectors (n, d), delta (n, 1) or a number.

        d_j - H_j v_j = a omega^2 cos(omega w_j + phi_ij) v_j (1 - sinc(omega delta v_j)).
        """
        _, a, omega = self._numbers()
        curvature = a * omega**2 * np.cos(omega * w + np.asarray(self.tasks.phases))
        return curvature * vectors * (1 - np.sinc(omega * delta * vectors / np.pi))

    def fo_limit(self, w0: np.ndarray, alpha: float) -> np.ndarray:
        """Where exact FO-MAML from w0 ends: each coordinate's first zero of m_j downhill.

        m_j(x) = E_i f_ij'(x - alpha f_ij'(x)); |m_j'| <= (1 + alpha L) L and beta <= c/(4L) make the
        coordinates move monotonically.
        """
        mu, a, omega = self._numbers()
        limit = np.empty(self.dim)
        for j in range(self.dim):
            c, phi = self._task_arrays(j)

            def slope(x: np.ndarray, c: np.ndarray = c, phi: np.ndarray = phi) -> np.ndarray:
                x = x[:, None]
                inner = mu * (x - c) - a * omega * np.sin(omega * x + phi)
                y = x - alpha * inner
                return np.mean(mu * (y - c) - a * omega * np.sin(omega * y + phi), axis=1)

            limit[j] = first_zero(slope, float(w0[j]), 1e-3 / omega)
        return limit

    def fo_floor(self, w: np.ndarray, alpha: float) -> float:
        """alpha ||Cov_i(H_i, g_i)||, the value of ||grad F|| where E_i g_i = 0."""
        g = self.task_gradients(self.adapted(w, alpha))
        hessians = self.task_hessians(w)
        covariance = np.mean(hessians * g, axis=0) - hessians.mean(axis=0) * g.mean(axis=0)
        return float(alpha * np.linalg.norm(covariance))

    def _sigma(self) -> float:
        mu, a, omega = self._numbers()
        centers, phases = (np.asarray(x) for x in self.tasks)
        c = centers - centers.mean(axis=0)
        z = np.exp(1j * phases)
        z = z - z.mean(axis=0)
        total = 0.0
        for j in range(self.dim):
            p = np.mean(c[:, j] * z[:, j])
            q = np.mean(z[:, j] ** 2)
            linear, double = 2 * mu * a * omega * p, 0.5 * (a * omega) ** 2 * q
            constant = mu**2 * c[:, j].var() + 0.5 * (a * omega) ** 2 * np.mean(np.abs(z[:, j]) ** 2)
            total += constant + _largest(linear, double)
        return float(np.sqrt(total))

    def _task_arrays(self, j: int) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.tasks.centers)[:, j], np.asarray(self.tasks.phases)[:, j]

    def _numbers(self) -> tuple[float, float, float]:
        return float(self.mu), float(self.a), float(self.omega)

    def _tau_only(self) -> float:
        if self.noise.beta0 is not None:
            raise ValueError(f"beta0 = {self.noise.beta0!r}; this closed form holds for beta0 = 0")
        return 0.0 if self.noise.tau is None else float(self.noise.tau)


def first_zero(slope: Callable[[np.ndarray], np.ndarray], start: float, stride: float) -> float:
    """The first zero of a scalar function downhill of `start`, to rounding: where x' = -slope(x) ends.

    Zeros that lie closer together than `stride` may be missed.
    """
    sign = np.sign(slope(np.array([start]))[0])
    if sign == 0:
        return start
    while True:
        grid = start - sign * stride * np.arange(2049)
        crossed = np.flatnonzero(sign * slope(grid) <= 0)
        if crossed.size:
            break
        start = float(grid[-1])
    near, far = (float(grid[crossed[0] - j]) for j in (1, 0))
    for _ in range(80):
        middle = 0.5 * (near + far)
        if sign * slope(np.array([middle]))[0] > 0:
            near = middle
        else:
            far = middle
    return 0.5 * (near + far)


def _largest(linear: complex, double: complex) -> float:
    """max_t Im(e^{it} linear) - Re(e^{2it} double), from the roots of the derivative."""
    # With x = e^{it}: d/dt = Re(x linear) + 2 Im(x^2 double), a quartic in x after multiplying by x^2.
    quartic = [
        double / 1j,
        linear / 2,
        0.0,
        np.conj(linear) / 2,
        -np.conj(double) / 1j,
    ]
    angles = np.concatenate([np.angle(np.roots(quartic)), np.linspace(0, 2 * np.pi, 720, endpoint=False)])
    x = np.exp(1j * angles)
    return float(np.max(np.imag(x * linear) - np.real(x**2 * double)))


def make(
    n: int = 50,
    d: int = 10,
    mu: float = 1.0,
    a: float = 1.0,
    omega: float = 2.0,
    spread: float = 1.0,
    tau: float = 0.0,
    beta0: float = 0.0,
    nu: float = 1.0,
    seed: int = 0,
) -> Cosine:
    """n tasks in d dimensions; centres N(0, spread^2), phases uniform on spread times the circle."""
    rng = np.random.default_rng(seed)
    centers = spread * rng.standard_normal((n, d))
    phases = spread * rng.uniform(0, 2 * np.pi, (n, d))
    return Cosine(mu, a, omega, CosineTasks(centers, phases), make_noise(tau, beta0, nu))
