"""Means and slopes with their intervals; where a value is not finite they are nan."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A value with an interval about it; nan where a value is not finite, never averaged away."""

    mean: float
    low: float
    high: float
    n: int
    kind: str = "exact"
    """what the interval says: exact (nothing is random), sampling, fit, limit, range."""


def interval(
    values: Iterable[float], level: float = 0.95, *, weights: Iterable[float] | None = None
) -> Interval:
    """Student's interval of the mean of independent values; degenerate for one value.

    With weights p_i >= 0, of sum 1 after division by theirs, of m = sum_i p_i x_i: its standard error is
    sqrt(n / (n - 1) sum_i p_i^2 (x_i - m)^2), that of a ratio of means (Cochran 1977, section 2.11), and
    s / sqrt(n) for equal weights.
    """
    import scipy.stats  # takes as long as JAX, and a start that computes nothing does without

    x = np.asarray(list(values), float)
    if x.size == 0:
        raise ValueError("interval of no values; allowed: at least one")
    mean = float(x.mean())
    error = x.std(ddof=min(1, x.size - 1)) / np.sqrt(x.size)
    if weights is not None:
        p = np.asarray(list(weights), float)
        if p.shape != x.shape or not (np.isfinite(p).all() and (p >= 0).all() and p.any()):
            raise ValueError(f"weights = {p}; allowed: one for each of {x.size} values, >= 0, not all 0")
        p = p / p.sum()
        mean = float(p @ x)
        error = np.sqrt(x.size / max(x.size - 1, 1) * np.sum((p * (x - mean)) ** 2))
    if x.size == 1:
        return Interval(mean, mean, mean, 1)
    half = scipy.stats.t.ppf(0.5 + level / 2, x.size - 1) * error
    return Interval(mean, float(mean - half), float(mean + half), x.size, "sampling")


def slope(
    x: Iterable[float], y: Iterable[float], level: float = 0.95, *, errors: Iterable[float] | None = None
) -> Interval:
    """Slope of log y against log x by least squares, with its interval.

    The interval comes from the residuals; from the standard errors of y where they are given. nan where
    x does not vary.
    """
    import scipy.stats

    logs = np.log(np.asarray(list(x), float)), np.log(np.asarray(list(y), float))
    n = logs[0].size
    if n < 2 or np.ptp(logs[0]) == 0:
        return Interval(np.nan, np.nan, np.nan, n, "fit")
    fit = scipy.stats.linregress(*logs)
    if errors is not None:
        relative = np.asarray(list(errors), float) / np.exp(logs[1])
        centred = logs[0] - logs[0].mean()
        error = np.sqrt(np.sum((centred * relative) ** 2)) / np.sum(centred**2)
        half = scipy.stats.norm.ppf(0.5 + level / 2) * error
    else:
        half = scipy.stats.t.ppf(0.5 + level / 2, n - 2) * fit.stderr if n > 2 else np.inf
    return Interval(float(fit.slope), float(fit.slope - half), float(fit.slope + half), n, "fit")


def local_slopes(x: Iterable[float], y: Iterable[float]) -> np.ndarray:
    """Slopes of log y against log x from each point to the next, in the order given."""
    return np.diff(np.log(np.asarray(list(y), float))) / np.diff(np.log(np.asarray(list(x), float)))


def limit_slope(x: Iterable[float], y: Iterable[float]) -> Interval:
    """The limit of the local slopes of a deterministic curve, in the order given; at least four points.

    Slopes s_j whose changes shrink by a factor r each are summed to s + (s - s') r / (1 - r) (Aitken); the
    interval reaches as far as the last slope to both sides. Slopes that do not converge (|r| >= 1) give
    the range of the last three.
    """
    slopes = local_slopes(x, y)
    if slopes.size < 3:
        raise ValueError(f"limit_slope of {slopes.size + 1} points; allowed: at least 4")
    first, second, last = slopes[-3:]
    ratio = (last - second) / (second - first) if second != first else 0.0
    if not abs(ratio) < 1:
        values = slopes[-3:]
        return Interval(float(values.mean()), float(values.min()), float(values.max()), slopes.size, "range")
    limit = last + (last - second) * ratio / (1 - ratio)
    half = abs(limit - last)
    return Interval(float(limit), float(limit - half), float(limit + half), slopes.size, "limit")


def running_mean(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(1/K) sum_{k<K} values[k] at the recorded steps K > 0, by trapezia between records.

    values, shape (R, ...), at steps, shape (R,), which begin with 0; the result has R - 1 rows.
    """
    widths = np.diff(steps).reshape(-1, *(1,) * (values.ndim - 1))
    areas = widths * (values[1:] + values[:-1]) / 2
    return np.cumsum(areas, axis=0) / steps[1:].reshape(widths.shape)
