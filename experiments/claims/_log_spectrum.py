"""MAML's counts on the log-spaced spectrum (a'), which are known exactly, for iteration_count."""

import numpy as np

from experiments.judging import largest, smallest
from jaxmaml import statistics
from jaxmaml.types import BatchSizes


def middle(family):
    """The accuracy of (a') in the middle of its spectrum, at beta k = 1/(h_1 h_m)^{1/2}, L = 1, and its unit.

    ||grad F(w_k)||^2 -> (m - 1) / (ln(range) beta k): the unit is the root of (m - 1) / ln(range).
    """
    h = np.asarray(family.eigenvalues)
    unit = np.sqrt((len(h) - 1) / np.log(h.max() / h.min()))
    return unit * (h.min() / h.max()) ** 0.25, unit


def first_hit(run, epsilon):
    """The first k at which the exact line of (a') is at most epsilon, and its value there."""

    def value(k):
        line = run.family.exact_line(np.array([k]), run.w0, run.estimator, run.alpha, run.c, BatchSizes())
        return np.sqrt(line[0])

    below, k = 0, 1
    while value(k) > epsilon:
        below, k = k, 2 * k
    while k - below > 1:
        middle = (below + k) // 2
        below, k = (middle, k) if value(middle) > epsilon else (below, middle)
    return k, value(k)


def rows(row, table):
    difference = (table.step - table.exact).abs()
    yield row.within(
        "MAML's counts on log_spectrum equal the exact ones",
        r"$N(\varepsilon)$ is the first $k$ with $\sum_h h^2(1-\alpha h)^4(1-\beta p)^{2k}(w_0-\bar c)_h^2\le\varepsilon^2$",
        largest(difference),
        0.0,
        1.0,
        note=f"largest difference in steps, over {len(set(table.width))} spectra; one for rounding",
    )
    # The accuracy in the middle is no power of 10^(1/24).
    middle = table[np.isclose(table.epsilon, table.unit * table.range**-0.25, rtol=1e-9)].sort_values("width")
    yield row.contains(
        "order of MAML's iteration count on log_spectrum",
        r"$N(\varepsilon)$ is of order $\varepsilon^{-2}$: in the middle of a spectrum, as it widens",
        statistics.limit_slope(middle.epsilon / middle.unit, middle.step),
        -2.0,
        0.1,
        note=f"limit of the log-log slopes over {len(middle)} spectra of {smallest(table.width):g} to "
        f"{largest(table.width):g} decades, $\\varepsilon$ in units of the energy of a unit of ln h",
        source="as summarised",
    )
    last = middle.iloc[-1]
    h, m = np.sqrt(last.range), 1 + np.round(last.unit**2 * np.log(last.range))
    alpha, beta = last.alpha, last.c / 4
    # The ends of the spectrum: e^{-2/h}, half of the first mode, and (1 - alpha h)^2 beside 1, at beta k = h.
    ends = (2 - np.log(last.range) / (m - 1) - alpha + beta / 2) / h
    expected = np.log(last.range) / (1 - last.c / 2) * m / (m - 1) / (1 - ends)
    yield row.within(
        "constant of MAML's line on log_spectrum",
        r"line / measured $\to\ln(\mathrm{range})/(1-\frac c2)$",
        float(last.line / last.step),
        expected,
        # What the first order in the ends leaves, and one step.
        expected * (4 / h**2 + 1 / last.exact),
        note=f"in the middle of {last.width:g} decades, with the ends of the spectrum to first order",
    )
