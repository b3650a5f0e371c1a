"""The convergence theorem of HF-MAML, and its repair."""

import functools
import math
from dataclasses import replace

from jaxmaml.theory import drift
from jaxmaml.theory.convergence import Theorem
from jaxmaml.theory.drift import Drift, Split
from jaxmaml.theory.finite_difference import chi
from jaxmaml.theory.gradient_comparison import comparison_constants
from jaxmaml.theory.maml import task_spread
from jaxmaml.types import Constants

ETA = 1 / 6
"""delta = eta / (rho alpha ||g~||)."""


def split(lam: float, eta: float = ETA) -> Drift:
    """Bias (1 + lam) lam s_in + chi [(1 + lam)(C1 b + C3 sigma) + lam s_in + s_o], chi = min{eta/2, 2 lam};
    variance (T + (1 + lam) lam s_in + (1 + lam) s_o + chi Gamma^{1/2})^2 + eta_h^2 Gamma.

    D_h >= 36 alpha^2 sigma_h^2 gives eta_h^2 <= 1/36.
    """
    error = drift.adapted_gradient(lam)
    r = Split(inner=(1 + lam) * lam).plus(error, chi(lam, eta))
    V = task_spread(lam)._replace(inner=(1 + lam) * lam, outer=1 + lam).plus(error, chi(lam, eta))
    V = V.squared((0.06, 0.60, 0.04, 0.30)).plus(drift.second_moment(lam), 1 / 36)
    return drift.combine(1 / 25, 0.5, r.squared((0.25, 0.35, 0.25, 0.15)), V)


def hessian_samples(constants: Constants, alpha: float) -> float:
    """D_h >= 36 alpha^2 sigma_h^2; mended: (alpha rho sigma_h)^2 in the summary is no number."""
    return 36 * (alpha * constants.sigma_h) ** 2


def exact_bias(lam: float, eta: float = ETA) -> tuple[float, float]:
    """||alpha E t_i|| <= chi (1 + lam)(C1 b + C3 sigma)."""
    c1, _, c3 = comparison_constants(lam)
    return chi(lam, eta) * (1 + lam) * c1, chi(lam, eta) * (1 + lam) * c3


theorem = Theorem(
    name="hf_maml",
    statement=(
        "For alpha <= 1/(6 L), D_h >= 36 (alpha sigma_h)^2, B >= 20, beta = 1/(25 L~) and "
        "delta = 1/(6 rho alpha ||g~_i||), HF-MAML finds E||grad F|| <= "
        "max{ 6 ((1 + rho alpha sigma/L) S)^(1/2), 36 rho alpha S/L, eps }, "
        "S = sigma^2/B + sigma~^2/(B D_o) + sigma~^2/D_in, within "
        "O(1) Delta min{ (L + rho alpha (sigma + eps))/eps^2, L/S } steps."
    ),
    c=1 / 25,
    lam_max=1 / 6,
    lam_max_summary=1 / 6,
    split=split,
    hessian_samples=hessian_samples,
    summary_constant=36,
    exact_bias=exact_bias,
)


def repaired(B: int) -> Theorem:
    """The theorem with eta = min(1/6, 1/sqrt(B)), whose bias vanishes with B (derived)."""
    return with_eta(min(ETA, 1 / math.sqrt(B)))


def with_eta(eta: float) -> Theorem:
    """The derived lines for delta = eta / (rho alpha ||g~||)."""
    if not (math.isfinite(eta) and eta > 0):
        raise ValueError(f"eta = {eta!r}; allowed: finite and > 0")
    return replace(
        theorem,
        split=functools.partial(split, eta=eta),
        exact_bias=functools.partial(exact_bias, eta=eta),
    )
