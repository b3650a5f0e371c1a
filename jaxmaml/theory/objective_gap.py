"""grad F against grad F-hat, the objective whose inner step is stochastic (theorem)."""

import math

from jaxmaml.types import Constants


def gap_summary(constants: Constants, alpha: float, D_test: float) -> float:
    """||grad F-hat - grad F|| <= 2 alpha L sigma~ / sqrt(D) + alpha^2 L sigma_h sigma~ / D.

    As summarised.
    """
    first = 2 * alpha * constants.L * constants.sigma_tilde / math.sqrt(D_test)
    return first + _cross(constants, alpha, D_test)


def gap(constants: Constants, alpha: float, D_test: float) -> float:
    """The smaller of that and [(1 + lam)/2 rho alpha^2 sigma~^2 + alpha^2 L sigma_h sigma~] / D (derived)."""
    lam = alpha * constants.L
    first = 0.5 * (1 + lam) * constants.rho * (alpha * constants.sigma_tilde) ** 2 / D_test
    return min(gap_summary(constants, alpha, D_test), first + _cross(constants, alpha, D_test))


def _cross(constants: Constants, alpha: float, D_test: float) -> float:
    return alpha**2 * constants.L * constants.sigma_h * constants.sigma_tilde / D_test
