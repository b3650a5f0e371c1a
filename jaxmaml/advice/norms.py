"""Norms of means, and of deviations, of noisy vectors, with 95 % intervals."""

import numpy as np
import scipy.stats

from jaxmaml.statistics import Interval, interval


def norm_of_mean(x: np.ndarray) -> Interval:
    """b = ||E x|| from independent rows, shape (S, d), without the noise in ||mean x||; 95 % interval.

    u, the mean of <x_s, x_t> over s != t, estimates b^2 with variance 4 b^2 s^2 + a, s^2 that of the mean
    along itself and a = 2 tr(Cov^2) / (S (S - 1)). The interval holds the b with
    |u - b^2| <= t (4 b^2 s^2 + a)^{1/2}, t Student's quantile; what is below zero is taken for zero.
    """
    S = x.shape[0]
    scale = float(np.abs(x).max()) or 1.0
    x = x / scale
    mean = x.mean(axis=0)
    centred = x - mean
    products = centred @ centred.T
    u = mean @ mean - np.trace(products) / (S * (S - 1))
    along = centred @ (mean / (np.linalg.norm(mean) or 1.0))
    s2 = along.var(ddof=1) / S
    a = 2 * (np.sum(products**2) - np.sum(np.diag(products) ** 2)) / (S * (S - 1)) ** 2
    t = scipy.stats.t.ppf(0.975, S - 1)
    middle, half = u + 2 * t**2 * s2, t * np.sqrt(np.maximum(4 * s2 * u + 4 * t**2 * s2**2 + a, 0.0))
    value, low, high = (scale * float(np.sqrt(max(y, 0.0))) for y in (u, middle - half, middle + half))
    return Interval(value, low, high, S)


def noise(x: np.ndarray) -> Interval:
    """(E||x - E x||^2)^(1/2) from independent rows, shape (S, d)."""
    S = x.shape[0]
    found = interval(np.sum((x - x.mean(axis=0)) ** 2, axis=1) * S / (S - 1))
    low, mean, high = (float(np.sqrt(max(y, 0.0))) for y in (found.low, found.mean, found.high))
    return Interval(mean, low, high, S)
