"""Means and slopes with their intervals; where a value is not finite they are nan."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval; nan where a value is not finite, never averaged away."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's interval of the mean of independent values; degenerate for one value."""
    import scipy.stats  # takes as long as JAX, and a start that computes nothing does without

    x = np.asarray(list(values), float)
    if x.size == 0:
        raise ValueError("interval of no values; allowed: at least one")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, mean, mean, 1)
    half = scipy.stats.t.ppf(0.5 + level / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return Interval(mean, float(mean - half), float(mean + half), x.size)


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
        return Interval(np.nan, np.nan, np.nan, n)
    fit = scipy.stats.linregress(*logs)
    if errors is not None:
        relative = np.asarray(list(errors), float) / np.exp(logs[1])
        centred = logs[0] - logs[0].mean()
        error = np.sqrt(np.sum((centred * relative) ** 2)) / np.sum(centred**2)
        half = scipy.stats.norm.ppf(0.5 + level / 2) * error
    else:
        half = scipy.stats.t.ppf(0.5 + level / 2, n - 2) * fit.stderr if n > 2 else np.inf
    return Interval(float(fit.slope), float(fit.slope - half), float(fit.slope + half), n)


def running_mean(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(1/K) sum_{k<K} values[k] at the recorded steps K > 0, by trapezia between records.

    values, shape (R, ...), at steps, shape (R,), which begin with 0; the result has R - 1 rows.
    """
    widths = np.diff(steps).reshape(-1, *(1,) * (values.ndim - 1))
    areas = widths * (values[1:] + values[:-1]) / 2
    return np.cumsum(areas, axis=0) / steps[1:].reshape(widths.shape)
