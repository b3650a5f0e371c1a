"""A convergence theorem: as summarised, and the lines that follow from the drift of one step (derived).

With Delta = F(w_0) - inf F and L(w) <= a + kappa' b, a = 4 L + 2 rho alpha C3 sigma, kappa' = 2 rho alpha C1,
the drift (`jaxmaml.theory.drift`) adds up over the steps: b^2 / (a + kappa' b) is convex and increasing, so
there are a line epsilon(K), its inverse N(epsilon) and a floor epsilon(inf). docs/theory.md has the proofs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxmaml.theory import step_moments
from jaxmaml.theory.drift import LEAST_TASKS, Drift
from jaxmaml.theory.gradient_comparison import comparison_constants
from jaxmaml.types import BatchSizes, Constants

Array = np.ndarray | float


class Condition(NamedTuple):
    """One condition of a theorem, with what it asks for and what the run has."""

    name: str
    required: float
    actual: float
    holds: bool


@dataclass(frozen=True)
class Theorem:
    """A convergence theorem: as summarised, and with the derived explicit constants."""

    name: str
    """the estimator's name."""
    statement: str
    """as summarised, misprints mended."""
    c: float
    """the step is beta = c / L~(w)."""
    lam_max: float
    """the derived constants are proven for alpha L up to this."""
    lam_max_summary: float
    """the range of alpha L as summarised."""
    split: Callable[[float], Drift]
    """lam -> kappa and N."""
    hessian_samples: Callable[[Constants, float], float]
    """least D_h."""
    summary_constant: float
    """61, 14 or 36."""
    exact_bias: Callable[[float], tuple[float, float]]
    """lam -> (rho_b, R / sigma) with ||r|| <= rho_b b + R for exact gradients."""
    persistent: Callable[[float], float] = lambda _: 0.0
    """lam -> the coefficient of sigma^2 in the summary's bracket that no batch removes."""

    # Conditions

    def alpha_max(self, L: float) -> float:
        """Right end of the range for which the derived constants are proven."""
        return self.lam_max / L

    def alpha_max_summary(self, L: float) -> float:
        """Right end of the range as summarised."""
        return self.lam_max_summary / L

    def conditions(self, constants: Constants, alpha: float, sizes: BatchSizes) -> list[Condition]:
        """The summarised conditions, those of the step-size lemma, which the theorems omit, and the range
        of alpha for which the derived constants are proven."""
        check_alpha(alpha)
        tasks, samples = step_moments.step_batch_conditions(constants, alpha)
        actual = [
            math.inf if x is None else float(x) for x in (sizes.B, sizes.D_h, sizes.B_prime, sizes.D_beta)
        ]
        limit = self.alpha_max_summary(constants.L)
        required = (
            LEAST_TASKS,
            max(1.0, math.ceil(self.hessian_samples(constants, alpha))),
            tasks,
            samples,
        )
        proven = self.alpha_max(constants.L)
        names = ("B", "D_h", "B_prime", "D_beta")
        lower = [
            Condition(name, float(least), have, have >= least)
            for name, least, have in zip(names, required, actual, strict=True)
        ]
        return [
            Condition("alpha", limit, alpha, alpha <= limit * (1 + 1e-12)),
            Condition("alpha (derived)", proven, alpha, alpha <= proven * (1 + 1e-12)),
            *lower,
        ]

    # Derived lines for stochastic gradients

    def drift(self, constants: Constants, alpha: float) -> Drift:
        """kappa and the coefficients of N at this alpha L, for B >= 20."""
        check_alpha(alpha)
        return self.split(alpha * constants.L)

    def noise(self, constants: Constants, alpha: float, sizes: BatchSizes) -> float:
        """N, unit (phi/u)^2."""
        k = self.drift(constants, alpha).noise
        s2, t2 = constants.sigma**2, constants.sigma_tilde**2
        B, D_in, D_o = (inverse(x) for x in (sizes.B, sizes.D_in, sizes.D_o))
        return (
            k.sigma * s2
            + k.outer * t2 * D_o
            + k.tasks * s2 * B
            + k.outer_tasks * t2 * B * D_o
            + k.inner * t2 * D_in
        )

    def line(self, K: Array, gap: float, constants: Constants, alpha: float, sizes: BatchSizes) -> Array:
        """epsilon(K) >= (1/K) sum_{k<K} E||grad F(w_k)||, unit phi/u; gap = Delta, unit phi."""
        a, slope = self._smoothness_line(constants, alpha)
        kappa = self.drift(constants, alpha).kappa
        if kappa <= 0:
            return np.full(np.shape(K), np.inf)[()]
        y = gap / (self.c * np.asarray(K, float))
        y = y + self.noise(constants, alpha, sizes) / (4 * constants.L)
        return (slope * y + np.sqrt((slope * y) ** 2 + 4 * kappa * a * y)) / (2 * kappa)

    def floor(self, constants: Constants, alpha: float, sizes: BatchSizes) -> float:
        """epsilon(inf), unit phi/u."""
        return float(self.line(np.inf, 0.0, constants, alpha, sizes))

    def iterations(
        self, eps: Array, gap: float, constants: Constants, alpha: float, sizes: BatchSizes
    ) -> Array:
        """N(epsilon) = Delta / (c h(epsilon)), rounded up; inf at or below the floor."""
        a, slope = self._smoothness_line(constants, alpha)
        kappa = self.drift(constants, alpha).kappa
        eps = np.asarray(eps, float)
        h = kappa * eps**2 / (a + slope * eps)
        h = h - self.noise(constants, alpha, sizes) / (4 * constants.L)
        with np.errstate(divide="ignore"):
            return np.where(h > 0, np.ceil(gap / (self.c * np.maximum(h, 0))), np.inf)[()]

    def _smoothness_line(self, constants: Constants, alpha: float) -> tuple[float, float]:
        """(a, kappa') with L(w) <= a + kappa' b."""
        check_alpha(alpha)
        c1, _, c3 = comparison_constants(alpha * constants.L)
        factor = 2 * constants.rho * alpha
        return 4 * constants.L + factor * c3 * constants.sigma, factor * c1

    # As summarised

    def bracket(self, constants: Constants, alpha: float, sizes: BatchSizes) -> float:
        """S, unit (phi/u)^2: sigma^2 (1/B + persistent) + sigma~^2/(B D_o) + sigma~^2/D_in.

        As summarised; mended for FO-MAML: sigma~, not sigma, in the terms with D_o and D_in.
        """
        s2, t2 = constants.sigma**2, constants.sigma_tilde**2
        B, D_in, D_o = (inverse(x) for x in (sizes.B, sizes.D_in, sizes.D_o))
        return s2 * (B + self.persistent(alpha * constants.L)) + t2 * (B * D_o + D_in)

    def floor_summary(self, constants: Constants, alpha: float, sizes: BatchSizes) -> float:
        """max{ (C (1 + rho alpha sigma / L) S)^{1/2}, C rho alpha S / L }, C = 61, 14, 36 (as summarised)."""
        check_alpha(alpha)
        S = self.bracket(constants, alpha, sizes)
        unit = constants.rho * alpha / constants.L
        first = math.sqrt(self.summary_constant * (1 + unit * constants.sigma) * S)
        return max(first, self.summary_constant * unit * S)

    def iterations_summary(
        self, eps: Array, gap: float, constants: Constants, alpha: float, sizes: BatchSizes
    ) -> Array:
        """Delta min{ (L + rho alpha (sigma + eps)) / eps^2, L / S }, without the O(1) (as summarised).

        Mended: L / S for the sum of its pieces, which is infinite as soon as one of sigma, sigma~ is zero;
        and alpha^2 L^2 for sigma^2 L^2 in FO-MAML's.
        """
        check_alpha(alpha)
        eps = np.asarray(eps, float)
        first = (constants.L + constants.rho * alpha * (constants.sigma + eps)) / eps**2
        S = self.bracket(constants, alpha, sizes)
        return (gap * np.minimum(first, constants.L / S if S > 0 else np.inf))[()]

    def explicit_constants(self, lam: float, B: int = LEAST_TASKS) -> tuple[float, float, float]:
        """(K1, K2, KN): the summary's two floor constants and its O(1), explicit (derived).

        Within KN Delta min{(L + rho alpha (sigma + eps))/eps^2, (1/K1 + 1/K2) L/S} steps,
        E||grad F|| <= max{ (K1 (1 + rho alpha sigma/L) S)^{1/2}, K2 rho alpha S/L, eps }.
        """
        c1, _, c3 = comparison_constants(lam)
        kappa, k = self.split(lam)
        per_task = 1 / B
        n = max(
            (k.sigma + k.tasks * per_task) / (per_task + self.persistent(lam)),
            (k.outer + k.outer_tasks * per_task) / per_task,
            k.inner,
        )
        scale = 2 / (self.c * kappa)
        return 4 * n / kappa * max(1, c3 / 2), 2 * c1 * n / kappa, scale * max(4, 2 * c3, 2 * c1)

    # Exact gradients, all tasks, beta = c / L(w)

    def exact_iterations(self, eps: Array, gap: float, constants: Constants, alpha: float) -> Array:
        """N_det(eps) = Delta (4 L + 2 rho alpha (C3 sigma + C1 eps)) / (c P(eps)); inf below the floor.

        P(eps) = (1 - c/2) eps^2 - (1 - c) eps (rho_b eps + R) - c/2 (rho_b eps + R)^2, and
        min_{k<K} ||grad F(w_k)|| <= eps for K >= N_det(eps).
        """
        eps = np.asarray(eps, float)
        a, slope = self._smoothness_line(constants, alpha)
        rate, ratio = self.exact_bias(alpha * constants.L)
        r = rate * eps + ratio * constants.sigma
        P = (1 - self.c / 2) * eps**2 - (1 - self.c) * eps * r - self.c / 2 * r**2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(P > 0, gap * (a + slope * eps) / (self.c * np.maximum(P, 0)), np.inf)[()]

    def exact_floor(self, constants: Constants, alpha: float) -> float:
        """The largest zero of P, unit phi/u: 0 for MAML."""
        check_alpha(alpha)
        rate, ratio = self.exact_bias(alpha * constants.L)
        c = self.c
        A = 1 - c / 2 - (1 - c) * rate - c / 2 * rate**2
        if A <= 0:
            return math.inf
        q = 1 - c + c * rate
        return ratio * constants.sigma * (q + math.sqrt(q**2 + 2 * A * c)) / (2 * A)

    def posterior_line(self, gap: float, inverse_smoothness: Array) -> Array:
        """MAML only: min_{j<K} b_j <= (Delta / (c (1 - c/2) sum_{j<K} 1/L(w_j)))^{1/2}.

        Needs no C1 and holds for every alpha <= 1/L; inverse_smoothness is the sum, unit u^2/phi.
        """
        if self.exact_bias(0.1) != (0.0, 0.0):
            raise ValueError(
                f"theorem = {self.name!r}; the a-posteriori line holds for an unbiased direction"
            )
        return np.sqrt(gap / (self.c * (1 - self.c / 2) * np.asarray(inverse_smoothness, float)))


def check_alpha(alpha: float) -> None:
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha = {alpha!r}; allowed: finite and > 0")


def inverse(size: object) -> float:
    """1/D, and 0 for an exact batch."""
    return 0.0 if size is None else 1.0 / float(size)  # type: ignore[arg-type]
