"""The central difference d = [grad f(w + delta v) - grad f(w - delta v)] / (2 delta) (derived)."""

import numpy as np

from jaxmaml.types import Constants

Array = float | np.ndarray

ROUNDING = 4.0
"""C in the rounding error, an empirical factor of order one."""


def truncation(constants: Constants, delta: float, norm: float) -> float:
    """||d - H v|| <= min{rho delta ||v||^2 / 2, 2 L ||v||, zeta delta^2 ||v||^3 / 6}.

    The first, half of what is summarised, is attained by rho |x|^3 / 6 at 0. norm = ||v||.
    """
    third = constants.zeta * delta**2 * norm**3 / 6 if constants.zeta < float("inf") else float("inf")
    return min(0.5 * constants.rho * delta * norm**2, 2 * constants.L * norm, third)


def rounding(eps: float, grad_norm: float, L: float, w_norm: float, delta: float) -> float:
    """C eps (||grad f|| + L ||w||) / delta: the gradients lose digits, and so does forming w +- delta v."""
    return ROUNDING * eps * (grad_norm + L * w_norm) / delta


def chi(lam: float, eta: float = 1 / 6) -> float:
    """alpha ||d - H v|| <= chi ||v|| for delta = eta / (rho alpha ||v||): chi = min{eta/2, 2 lam}."""
    return min(0.5 * eta, 2 * lam)


def optimal_arc_smooth(eps: Array, grad_scale: Array, zeta: float) -> Array:
    """||delta v|| = (3 C eps G / zeta)^{1/3}, where truncation and rounding add up to least; unit u."""
    return (3 * ROUNDING * eps * grad_scale / zeta) ** (1 / 3)


def optimal_arc_kink(eps: Array, grad_scale: Array, rho: float) -> Array:
    """||delta v|| = (2 C eps G / rho)^{1/2}, where only the Hessian is Lipschitz; unit u."""
    return (2 * ROUNDING * eps * grad_scale / rho) ** 0.5
