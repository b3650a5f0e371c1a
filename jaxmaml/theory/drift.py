"""The drift of one step, which the three convergence theorems share (derived).

With b_k = ||grad F(w_k)||, beta_k = c / L~(w_k) and at least 20 tasks a batch,

    E[F(w_{k+1}) | w_k] <= F(w_k) - c / L(w_k) (kappa b_k^2 - N),

where N collects what noise and bias leave. The algebra alone: bounds that are linear in (b, sigma, s_in,
s_o), split into their squares. docs/theory.md has the proof.
"""

from typing import NamedTuple

from jaxmaml.theory.gradient_comparison import comparison_constants

P1, P1_UPPER, P2 = 0.8, 1.225, 1.855
"""L(w) E[1/L~] >= P1, <= P1_UPPER, and L(w)^2 E[1/L~^2] <= P2: `step_moments`, rounded to the safe side."""
LEAST_TASKS = 20


class NoiseCoefficients(NamedTuple):
    """Coefficients of N over its five parts, numbers."""

    sigma: float
    """of sigma^2: a bias that no batch removes."""
    outer: float
    """of sigma~^2 / D_o, likewise."""
    tasks: float
    """of sigma^2 / B."""
    outer_tasks: float
    """of sigma~^2 / (B D_o)."""
    inner: float
    """of sigma~^2 / D_in."""


class Drift(NamedTuple):
    kappa: float
    noise: NoiseCoefficients


class Split(NamedTuple):
    """Coefficients of (b, sigma, s_in, s_o) in a bound that is linear in them, s^2 = sigma~^2 / D."""

    b: float = 0.0
    sigma: float = 0.0
    inner: float = 0.0
    outer: float = 0.0

    def squared(self, weights: tuple[float, ...]) -> "Split":
        """(sum_j x_j)^2 <= sum_j x_j^2 / pi_j for weights pi_j that add up to 1."""
        pairs = zip(self, weights, strict=True)
        return Split(*(x**2 / weight if x else 0.0 for x, weight in pairs))

    def plus(self, other: "Split", factor: float = 1.0) -> "Split":
        return Split(*(x + factor * y for x, y in zip(self, other, strict=True)))


def adapted_gradient(lam: float) -> Split:
    """(1 + lam)(C1 b + C3 sigma) + lam s_in + s_o, which bounds (E||g~_i||^2)^{1/2}."""
    c1, _, c3 = comparison_constants(lam)
    return Split((1 + lam) * c1, (1 + lam) * c3, lam, 1.0)


def second_moment(lam: float) -> Split:
    """Gamma = ((1 + lam)(C1 b + C3 sigma) + lam s_in)^2 + s_o^2 >= E||g~_i||^2, split."""
    g = adapted_gradient(lam)
    return g._replace(outer=0.0).squared((0.4, 0.5, 0.1, 1.0))._replace(outer=1.0)


def combine(c: float, tau: float, r2: Split, V: Split) -> Drift:
    """The drift from ||r||^2 <= r2 (bias) and E||G - E G||^2 <= V / B (variance), both split into squares."""
    km = P1 / 2 - c * P2 / 2
    k0 = P1 / 2 + km * (1 - tau)
    cr = P1 / 2 + (P1_UPPER - P1) / 4 + km * (1 / tau - 1)
    cv = c * P2 / 2
    return Drift(
        k0 - cr * r2.b - cv * V.b / LEAST_TASKS,
        NoiseCoefficients(
            cr * r2.sigma,
            cr * r2.outer,
            cv * V.sigma,
            cv * V.outer,
            cr * r2.inner + cv * V.inner / LEAST_TASKS,
        ),
    )
