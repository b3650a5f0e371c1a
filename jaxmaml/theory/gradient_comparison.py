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
    """tan(2 arcsin lam), a number: ||grad f|| <= this sigma where grad F = 0, for lam in [0, 1/sqrt(2)).

    Below C2, and attained by 2 x 2 matrices: no vector is turned by more than arcsin lam by I - alpha H.
    It follows from ||M_i x - k x|| <= k sin(2 arcsin lam) ||x|| with k = (1 - lam^2)/(1 - 2 lam^2); with
    ||M_i - I|| <= m = 2 lam + lam^2 alone it would be m / sqrt(1 - m^2). ValueError outside.
    """
    gamma(lam)
    return 2 * lam * math.sqrt(1 - lam**2) / (1 - 2 * lam**2)
