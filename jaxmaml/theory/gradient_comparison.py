"""The gradients of the tasks are bounded by that of F (derived)."""

import math


def gamma(lam: float) -> float:
    """The largest gamma with x^T (I - alpha H)(I - alpha H') x >= gamma ||x||^2 for all ||H||, ||H'|| <= L.

    (1 - lam)^2 for lam <= 1/2, else 1/2 - lam^2, with lam = alpha L in [0, 1/sqrt(2)). Attained by
    symmetric 2 x 2 matrices. ValueError outside.
    """
    if not 0 <= lam < math.sqrt(0.5):
        raise ValueError(f"lam = alpha L = {lam!r}; allowed: 0 <= lam < 1/sqrt(2)")
    return (1 - lam) ** 2 if lam <= 0.5 else 0.5 - lam**2


def comparison_constants(lam: float) -> tuple[float, float, float]:
    """(C1, C2, C3), numbers, with

    ||grad f(w)|| <= C1 ||grad F(w)|| + C2 sigma,
    E_i ||grad f_i(w)|| <= (E_i ||grad f_i(w)||^2)^{1/2} <= C1 ||grad F(w)|| + C3 sigma,
    C1 = 1/gamma, C2 = (2 lam + lam^2)/gamma, C3 = (1 + C2^2)^{1/2}.
    """
    c1 = 1 / gamma(lam)
    c2 = (2 * lam + lam**2) * c1
    return c1, c2, math.hypot(1.0, c2)


def comparison_at_zero(lam: float) -> float:
    """The smaller of m / sqrt(1 - m^2), m = 2 lam + lam^2, and C2: ||grad f|| <= this sigma where grad F = 0.

    There E_i[M_i grad f_i] = 0 with ||M_i - I|| <= m, so that ||grad f|| = ||E_i[(M_i - I) grad f_i]||
    <= m (E_i ||grad f_i||^2)^{1/2} = m (||grad f||^2 + sigma^2)^{1/2}. From lam = sqrt(2) - 1 on m >= 1,
    and C2 is left.
    """
    m = 2 * lam + lam**2
    c2 = comparison_constants(lam)[1]
    return min(m / math.sqrt(1 - m**2), c2) if m < 1 else c2
