"""Family (f): a ramp in the plane, f(x, y) = g s log(1 + e^{(W - x)/s}) + y^2 / 2, one task.

Its slope is g for a length W from the start (0, 0), so that steps of c/(4L), with L = 1 set by y, need
about 4L W / (c g) of them to get below the gradient norm g. The theory's line is only 1/(1 - c/2), 4 %,
above: the constant of the iteration count cannot be improved. L = 1 for g <= 4 s, rho = g / (6 sqrt(3) s^2),
sigma = 0, inf F = 0, not attained.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.checks import check_positive
from jaxmaml.tasks._noise import Noise, NoiseBatch, NoisyCenters, make_noise
from jaxmaml.types import Array, Constants, Infimum, Scalar


class RampTasks(NamedTuple):
    length: Array
    """W, shape (n,), unit u."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ramp(NoisyCenters):
    """The slope g (unit phi/u), the width s (unit u) of its end, the task, the noise of a sample."""

    slope: Scalar
    width: Scalar
    tasks: RampTasks
    noise: Noise = field(default_factory=Noise)

    @property
    def dim(self) -> int:
        return 2

    def loss(self, w: jax.Array, task: RampTasks, batch: NoiseBatch) -> jax.Array:
        end = jax.nn.softplus((task.length - w[0]) / self.width)
        value = self.slope * self.width * end + 0.5 * jnp.square(w[1])
        return value + self.noise.loss(w, batch)

    def constants(self) -> Constants:
        slope, width = float(self.slope), float(self.width)
        # The second derivative of log(1 + e^z) is at most 1/4, the third 1/(6 sqrt 3), both attained.
        return Constants(
            L=max(1.0, slope / (4 * width)),
            rho=slope / (6 * math.sqrt(3) * width**2),
            sigma=0.0,
            sigma_tilde=self.noise.sigma_tilde(),
            sigma_h=self.noise.sigma_h(self.dim),
        )

    def infimum(self, alpha: float) -> Infimum:
        """0, the limit for x -> inf, which no w attains."""
        del alpha
        return Infimum(0.0, "lower bound")


def make(
    length: float = 400.0,
    slope: float = 0.1,
    width: float = 1.0,
    tau: float = 0.0,
    beta0: float = 0.0,
    nu: float = 1.0,
) -> Ramp:
    """One task."""
    for name, value in (("length", length), ("slope", slope), ("width", width)):
        check_positive(name, value)
    return Ramp(slope, width, RampTasks(np.array([length])), make_noise(tau, beta0, nu))
