"""The sample noise of the synthetic families: a linear term and a Gaussian trigonometric field.

One sample theta = (xi, p, q) of the noise adds to f_i(w)

    <xi, w> + beta0 sum_j [p_j cos(nu w_j) + q_j sin(nu w_j)],
    xi ~ N(0, tau^2/d I),   p_j, q_j ~ N(0, 1/(2d)),   all independent.

It has mean 0 at every w. The gradient noise has independent coordinates of variance
tau^2/d + beta0^2 nu^2/(2d), the Hessian noise is diagonal with entries of variance beta0^2 nu^4/(2d), so
that exactly, for every w and task,

    sigma_tilde^2 = tau^2 + beta0^2 nu^2 / 2,
    sigma_h^2 = beta0^2 nu^4 / 2 * E[max_j Z_j^2] / d   (spectral norm; Z standard normal).

The mean of D samples has the law of one sample with variances divided by D: a batch is that mean, its
cost does not grow with D, and D may be traced. D = inf gives no noise.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml._random import standard_normal
from jaxmaml._trigonometry import cos, sin
from jaxmaml.types import PyTree, Scalar


class NoiseBatch(NamedTuple):
    """The mean noise of a batch, as one averaged sample: leaves of shape (1, d), or None."""

    xi: jax.Array | None
    cosine: jax.Array | None
    sine: jax.Array | None


NOISELESS = NoiseBatch(None, None, None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Noise:
    """tau (unit phi/u), beta0 (unit phi), nu (unit 1/u); a term that is None is not drawn at all."""

    tau: Scalar | None = None
    beta0: Scalar | None = None
    nu: Scalar | None = None

    def loss(self, w: jax.Array, batch: NoiseBatch) -> jax.Array:
        """The mean noise at w."""
        value = jnp.zeros((), w.dtype)
        if batch.xi is not None:
            value += jnp.vdot(batch.xi[0], w)
        if batch.cosine is not None and batch.sine is not None and self.nu is not None:
            angle = self.nu * w
            value += jnp.vdot(batch.cosine[0], cos(angle)) + jnp.vdot(batch.sine[0], sin(angle))
        return value

    def sample(self, key: jax.Array, dim: int, sizes: jax.Array) -> NoiseBatch:
        """A batch for each entry of `sizes`, shape (m,); leaves of shape (m, 1, d)."""
        terms = (self.tau is not None) + 2 * (self.beta0 is not None)
        if not terms:
            return NOISELESS
        sizes = jnp.asarray(sizes)
        draws = standard_normal(key, (terms, *sizes.shape, 1, dim))
        draws = draws / jnp.sqrt(dim * sizes)[..., None, None]
        xi = None if self.tau is None else self.tau * draws[0]
        if self.beta0 is None:
            return NoiseBatch(xi, None, None)
        field = self.beta0 * math.sqrt(0.5) * draws[-2:]
        return NoiseBatch(xi, field[0], field[1])

    def sigma_tilde(self) -> float:
        tau, beta0, nu = self._numbers()
        return math.sqrt(tau**2 + 0.5 * (beta0 * nu) ** 2)

    def sigma_h(self, dim: int) -> float:
        _, beta0, nu = self._numbers()
        return math.sqrt(0.5 * mean_max_square(dim) / dim) * beta0 * nu**2

    def _numbers(self) -> tuple[float, float, float]:
        tau, beta0, nu = (0.0 if x is None else float(x) for x in (self.tau, self.beta0, self.nu))
        return tau, beta0, nu


class NoisyCenters:
    """What families with a centre a task and this noise share: the batches, and d."""

    tasks: Any
    noise: Noise
    max_batch = None

    @property
    def dim(self) -> int:
        return self.tasks.centers.shape[-1]

    def full(self, task: PyTree) -> NoiseBatch:
        del task
        return NOISELESS

    def sample(self, key: jax.Array, who: jax.Array, sizes: jax.Array) -> NoiseBatch:
        del who
        return self.noise.sample(key, self.dim, sizes)


def make_noise(tau: float = 0.0, beta0: float = 0.0, nu: float = 1.0) -> Noise:
    """Terms of size zero are left out of the draws."""
    for name, value in (("tau", tau), ("beta0", beta0), ("nu", nu)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} = {value!r}; allowed: finite and >= 0")
    return Noise(tau or None, beta0 or None, nu if beta0 else None)


@functools.cache
def mean_max_square(dim: int) -> float:
    """E[max_j Z_j^2] of d independent standard normals, = int_0^inf 1 - P(|Z| <= x)^d d(x^2)."""
    x = np.linspace(0.0, 12.0, 24001)
    inside = np.array([math.erf(v / math.sqrt(2)) for v in x])
    return float(np.trapezoid((1 - inside**dim) * 2 * x, x))
