"""The convergence theorem of FO-MAML."""

from jaxmaml.theory import drift
from jaxmaml.theory.convergence import Theorem
from jaxmaml.theory.drift import Drift, Split
from jaxmaml.theory.gradient_comparison import comparison_constants


def split(lam: float) -> Drift:
    """Bias lam (1 + lam)(C1 b + C3 sigma) + lam s_in; variance ((1 + lam) sigma + lam Phi + lam s_in)^2 +
    s_o^2, Phi = C1 b + C2 sigma >= ||grad f||."""
    c1, c2, c3 = comparison_constants(lam)
    r = Split(lam * (1 + lam) * c1, lam * (1 + lam) * c3, lam)
    V = Split(lam * c1, 1 + lam + lam * c2, lam).squared((0.05, 0.90, 0.05, 1.0))
    return drift.combine(1 / 18, 0.2, r.squared((0.35, 0.55, 0.10, 1.0)), V._replace(outer=1.0))


def exact_bias(lam: float) -> tuple[float, float]:
    """||alpha E[H_i g_i]|| <= lam (1 + lam)(C1 b + C3 sigma)."""
    c1, _, c3 = comparison_constants(lam)
    return lam * (1 + lam) * c1, lam * (1 + lam) * c3


theorem = Theorem(
    name="fo_maml",
    statement=(
        "For alpha <= 1/(10 L), B >= 20 and beta = 1/(18 L~), FO-MAML finds E||grad F|| <= "
        "max{ (14 (1 + rho alpha sigma/L) S)^(1/2), 14 rho alpha S/L, eps }, "
        "S = sigma^2 (1/B + 20 alpha^2 L^2) + sigma~^2/(B D_o) + sigma~^2/D_in, within "
        "O(1) Delta min{ (L + rho alpha (sigma + eps))/eps^2, L/S } steps."
    ),
    c=1 / 18,
    lam_max=1 / 10,
    lam_max_summary=1 / 10,
    split=split,
    # The summary asks for D_h >= 2 alpha^2 sigma_h^2 here too; FO-MAML has no Hessian.
    hessian_samples=lambda *_: 1.0,
    summary_constant=14,
    exact_bias=exact_bias,
    persistent=lambda lam: 20 * lam**2,
)
