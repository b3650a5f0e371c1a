"""The law of L~ in one dimension: moments of 1/L~ as integrals, for the claims on the step size."""

import numpy as np


def inverse_moments(L, scale, gradients, deviation, tasks):
    """(E[1/L~], E[1/L~^2]), L~ = 4 L + (scale / tasks) sum_j |g_j + deviation Z_j|, of g_j drawn from `gradients`.

    1/y = int_0^inf e^{-ty} dt, 1/y^2 = int_0^inf t e^{-ty} dt, and the terms are independent:
    E e^{-t L~} = e^{-4Lt} (E e^{-u|g + s Z|})^tasks, u = scale t / tasks. By trapezia in log t.
    """
    logs = np.linspace(-36.0, 5.0, 4101)
    t = np.exp(logs)[:, None] / (4 * L)
    power = (np.exp(-4 * L * t) * _laplace(scale * t / tasks, np.ravel(gradients), deviation) ** tasks)[:, 0]
    t = t[:, 0]
    return np.trapezoid(power * t, logs), np.trapezoid(power * t**2, logs)


def direction_over_step(L, scale, gradients, directions, tasks):
    """E[G / L~] where tasks of one and the same batch give G = mean_j v_j and L~ = 4 L + (scale / tasks) sum_j |g_j|."""
    logs = np.linspace(-36.0, 5.0, 4101)
    t = np.exp(logs)[:, None] / (4 * L)
    each = np.exp(-scale * t / tasks * np.abs(np.ravel(gradients)))
    rest = np.exp(-4 * L * t[:, 0]) * each.mean(axis=1) ** (tasks - 1)
    return np.trapezoid(np.mean(each * np.ravel(directions), axis=1) * rest * t[:, 0], logs)


def _laplace(u, g, s):
    """E e^{-u|g + s Z|} over tasks, shape of u."""
    import scipy.special

    if s == 0:
        return np.exp(-u * np.abs(g)).mean(axis=1, keepdims=True)
    sides = [0.5 * (u * s) ** 2 - u * x + scipy.special.log_ndtr(x / s - u * s) for x in (g, -g)]
    return np.exp(sides).sum(axis=0).mean(axis=1, keepdims=True)
