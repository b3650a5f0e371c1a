"""The convergence theorem of MAML."""

from jaxmaml.theory import drift
from jaxmaml.theory.convergence import Theorem
from jaxmaml.theory.drift import Drift, Split
from jaxmaml.theory.gradient_comparison import comparison_constants
from jaxmaml.types import Constants


def split(lam: float) -> Drift:
    """Bias (1 + lam) lam s_in; variance (T + (1 + lam) lam s_in)^2 + (1 + lam)^2 s_o^2 + eta_h^2 Gamma.

    T = (1 + lam)^2 sigma + (2 lam + lam^2)(C1 b + C2 sigma) bounds the spread of grad F_i over tasks, and
    D_h >= 2 alpha^2 sigma_h^2 gives eta_h^2 <= 1/2.
    """
    spread = task_spread(lam)
    V = spread._replace(inner=(1 + lam) * lam).squared((0.08, 0.84, 0.08, 1.0))
    V = V._replace(outer=(1 + lam) ** 2).plus(drift.second_moment(lam), 0.5)
    r2 = Split(inner=((1 + lam) * lam) ** 2)
    return drift.combine(1 / 12, 0.1, r2, V)


def task_spread(lam: float) -> Split:
    """T = (1 + lam)^2 sigma + (2 lam + lam^2)(C1 b + C2 sigma) >= std_i(grad F_i)."""
    c1, c2, _ = comparison_constants(lam)
    m = 2 * lam + lam**2
    return Split(b=m * c1, sigma=(1 + lam) ** 2 + m * c2)


def hessian_samples(constants: Constants, alpha: float) -> float:
    """D_h >= 2 alpha^2 sigma_h^2 (as summarised)."""
    return 2 * (alpha * constants.sigma_h) ** 2


theorem = Theorem(
    name="maml",
    statement=(
        "For alpha <= 1/L, D_h >= 2 alpha^2 sigma_h^2, B >= 20 and beta = 1/(12 L~), MAML finds "
        "E||grad F|| <= max{ (61 (1 + rho alpha sigma/L) S)^(1/2), 61 rho alpha S/L, eps }, "
        "S = sigma^2/B + sigma~^2/(B D_o) + sigma~^2/D_in, within "
        "O(1) Delta min{ (L + rho alpha (sigma + eps))/eps^2, L/S } steps."
    ),
    c=1 / 12,
    lam_max=1 / 6,
    lam_max_summary=1.0,
    split=split,
    hessian_samples=hessian_samples,
    summary_constant=61,
    exact_bias=lambda _: (0.0, 0.0),
)
