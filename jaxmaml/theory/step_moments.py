"""Moments of the stochastic step 1/L~(w), L~ = 4 L + (2 rho alpha / B') sum_j ||grad f_j(w; D_beta^j)||."""

import functools
import math

import numpy as np

from jaxmaml.types import Constants


def step_batch_conditions(constants: Constants, alpha: float) -> tuple[int, int]:
    """(B', D_beta): B' >= (rho alpha sigma / L)^2 / 2 and D_beta >= (2 rho alpha sigma~ / L)^2, at least 1.

    As summarised; mended: D_beta for B_beta, and both at least 1.
    """
    unit = constants.rho * alpha / constants.L
    tasks = math.ceil(0.5 * (unit * constants.sigma) ** 2)
    samples = math.ceil((2 * unit * constants.sigma_tilde) ** 2)
    return max(1, tasks), max(1, samples)


def first_moment_lower() -> float:
    """0.8: E[1/L~] >= 0.8/L(w) under the conditions (as summarised). Jensen, with E L~ <= 5/4 L(w)."""
    return 0.8


SECOND_MOMENT_SUMMARY = 3.125
"""E[1/L~^2] <= 3.125/L(w)^2 under the conditions (as summarised)."""


def first_moment_upper() -> float:
    """1.225: E[1/L~] <= 1.225/L(w) under the conditions (derived)."""
    return _largest(1)


def second_moment_upper() -> float:
    """1.855: E[1/L~^2] <= 1.855/L(w)^2 under the conditions (derived)."""
    return _largest(2)


def two_point_extremal(mean: float, variance: float, power: int, least: float) -> float:
    """The largest E[X^-power] of laws on [least, inf) with this mean and variance (derived).

    Attained by two points: `least` with mass v/(v + (m - least)^2), and m + v/(m - least).
    """
    distance = mean - least
    if distance <= 0:
        return least**-power
    mass = variance / (variance + distance**2)
    return mass * least**-power + (1 - mass) * (mean + variance / distance) ** -power


def attained(power: int) -> float:
    """The largest L(w)^power E[L~^-power] of exact task gradients, 1.207 and 1.775 (derived).

    Var L~ <= 8 L^2 then, attained by B' = 1 and two kinds of tasks, of which one has no gradient.
    """
    return _largest(power, 8.0)


@functools.cache
def _largest(power: int, variance: float = 9.0) -> float:
    """max_m m^power E[L~^-power] in units of L = 1: L~ >= 4, its variance, over its mean m >= L(w)."""
    means = np.linspace(4.0, 40.0, 360_001)
    return float(max(m**power * two_point_extremal(m, variance, power, 4.0) for m in means[::10]))
