"""F is smooth with a parameter that depends on w and has no bound (lemma and corollary)."""

from jaxmaml.types import Constants


def smoothness(constants: Constants, alpha: float, mean_task_grad_norm: float) -> float:
    """L(w) = 4 L + 2 rho alpha E_i ||grad f_i(w)||, for alpha <= 1/L (as summarised).

    ||grad F(w) - grad F(u)|| <= min{L(w), L(u)} ||w - u||, and
    |F(u) - F(w) - <grad F(w), u - w>| <= L(w)/2 ||u - w||^2. Mended: alpha in [0, 1/L] for [0, 1], the
    two arguments of the minimum, and the sign of the upper bound. Unit phi/u^2.
    """
    return 4 * constants.L + 2 * constants.rho * alpha * mean_task_grad_norm


def sharp_smoothness(constants: Constants, alpha: float, mean_task_grad_norm: float) -> float:
    """L_s(w) = (1 + lam)^2 L + (1 + lam) rho alpha E_i ||grad f_i(w)||, lam = alpha L (derived).

    At most (1 + lam)/2 times L(w).
    """
    lam = alpha * constants.L
    return (1 + lam) ** 2 * constants.L + (1 + lam) * constants.rho * alpha * mean_task_grad_norm
