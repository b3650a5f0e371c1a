"""Bias of the outer gradient through the noise of the inner step (lemma)."""

import math

from jaxmaml.types import Constants


def bias_summary(constants: Constants, alpha: float, D_in: float) -> float:
    """||e_i|| <= alpha L sigma~ / sqrt(D_in), unit phi/u (as summarised).

    e_i = E[grad f_i(w - alpha grad f_i(w; D_in); D_o)] - grad f_i(w - alpha grad f_i(w)).
    """
    return alpha * constants.L * constants.sigma_tilde / math.sqrt(D_in)


def bias(constants: Constants, alpha: float, D_in: float) -> float:
    """The smaller of that and rho alpha^2 sigma~^2 / (2 D_in), unit phi/u (derived)."""
    second = 0.5 * constants.rho * (alpha * constants.sigma_tilde) ** 2 / D_in
    return min(bias_summary(constants, alpha, D_in), second)
