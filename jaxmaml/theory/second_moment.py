"""Second moment of the outer gradient (lemma)."""

import math

from jaxmaml.types import Constants


def second_moment(
    grad_norm: float, constants: Constants, alpha: float, D_in: float, D_o: float, phi: float
) -> float:
    """E||grad f_i(w - alpha grad f_i(w; D_in); D_o)||^2
    <= (1 + 1/phi) ||g_i||^2 + (1 + phi) (alpha L sigma~)^2 / D_in + sigma~^2 / D_o, any phi > 0.

    As summarised; mended: the gradient, not the value, at w_i+. g_i = grad f_i(w_i+), unit phi/u.
    """
    inner = (alpha * constants.L * constants.sigma_tilde) ** 2 / D_in
    return (1 + 1 / phi) * grad_norm**2 + (1 + phi) * inner + constants.sigma_tilde**2 / D_o


def optimal_phi(grad_norm: float, constants: Constants, alpha: float, D_in: float) -> float:
    """||g_i|| sqrt(D_in) / (alpha L sigma~), which minimises the bound (derived)."""
    return grad_norm * math.sqrt(D_in) / (alpha * constants.L * constants.sigma_tilde)


def second_moment_optimal(
    grad_norm: float, constants: Constants, alpha: float, D_in: float, D_o: float
) -> float:
    """(||g_i|| + alpha L sigma~ / sqrt(D_in))^2 + sigma~^2 / D_o, the bound at its best phi (derived)."""
    inner = alpha * constants.L * constants.sigma_tilde / math.sqrt(D_in)
    return (grad_norm + inner) ** 2 + constants.sigma_tilde**2 / D_o
