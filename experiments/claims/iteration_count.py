"""Exact gradients: accuracy epsilon within N(epsilon) = O(epsilon^-2) steps (E12, E27).

As summarised, MAML, FO-MAML and HF-MAML need O(1) Delta (L + rho alpha (sigma + epsilon)) / epsilon^2
steps above their floors. For exact gradients over all tasks the constant is explicit (derived, N_det in
docs/theory.md).
On the log-spaced spectrum (a') the measured count has slope -2 in epsilon too, a known factor
ln(range) / (1 - c/2) below the line, so that neither the order nor much of the constant can be improved. A slow
tail (e) has slope -(1 + 1/p), as near to -2 as one likes, without any spectrum; on a ramp (f) the count is the
line's up to 1/(1 - c/2), 4 % for a long ramp: its constant is sharp. On the nonconvex family and on real handwritten digits the
line is an upper one.
"""

import numpy as np

from experiments.cells import theorem_run
from experiments.claim import Claim
from experiments.claims import _counts
from experiments.judging import largest
from experiments.run import log_steps
from jaxmaml import plotting, statistics, theory
from jaxmaml.tasks import cosine, digits, log_spectrum, ramp, slow_tail
from jaxmaml.tasks.ramp import Ramp
from jaxmaml.types import BatchSizes

DECADES = {"smoke": 3.0, "default": 4.0, "full": 5.0}
STEPS = {
    "log_spectrum": {"smoke": 200_000, "default": 2_000_000, "full": 20_000_000},
    "cosine": {"smoke": 8_000, "default": 20_000, "full": 200_000},
    "digits": {"smoke": 4_000, "default": 10_000, "full": 100_000},
    "slow_tail": {"smoke": 100_000, "default": 1_000_000, "full": 10_000_000},
}
TAIL = 0.1
"""q of the slow tail (e)."""
RAMP = {"smoke": 40.0, "default": 400.0, "full": 4000.0}
"""length of the ramp (f)."""
ONLY_MAML = ("log_spectrum", "slow_tail", "ramp")
"""families of which one method says it all."""
TITLES = {
    "log_spectrum": "log-spaced spectrum (a')",
    "slow_tail": "slow tail (e)",
    "ramp": "ramp (f)",
    "cosine": "nonconvex family (c)",
    "digits": "handwritten digits, logistic",
}

claim = Claim(
    "E12",
    "iteration count against epsilon, exact gradients: (a'), (e), (f), (c) and digits",
    place="MAML theorem",
)


def _families(scale):
    few = scale == "smoke"
    return {
        "log_spectrum": log_spectrum.make(decades=DECADES[scale]),
        "cosine": cosine.make(n=20 if few else 50, d=4 if few else 10, seed=3),
        "digits": digits.make(tasks=6 if few else 20, pool=40 if few else 100),
        "slow_tail": slow_tail.make(q=TAIL),
        "ramp": ramp.make(length=RAMP[scale], slope=0.1),
    }


@claim.cells
def cells(scale):
    for name, family in _families(scale).items():
        L = family.constants().L
        for estimator, theorem in theory.theorems().items():
            if name in ONLY_MAML and estimator != "maml":
                continue
            # The largest rate that the theorem allows: 1/6, 1/10, 1/6 over L.
            alpha = theorem.alpha_max(L)
            start = np.full(family.dim, {"cosine": 4.0, "slow_tail": 2.0}.get(name, 0.0))
            if name == "log_spectrum":
                start = log_spectrum.start(family, alpha)
            cell = theorem_run(
                family, estimator, alpha, start, record=_record(family, name, scale, theorem.c)
            )
            yield {"family": name, "estimator": estimator, "alpha": alpha}, cell


def _record(family, name, scale, c):
    if isinstance(family, Ramp):
        # A little longer than the ramp lasts at step c / (4L), with its end resolved to 0.2 %.
        steps = 1.1 * 4 * float(family.tasks.length[0]) / (c * float(family.slope))
        return log_steps(round(steps), _counts.PER_DECADE, tail=300)
    return log_steps(STEPS[name][scale], _counts.PER_DECADE)


@claim.per("family", "estimator")
def measured(part, cell):
    """The recorded curve with, at each new smallest gradient norm, the iteration count of the line."""
    exact = spread = np.nan
    if part.family.iloc[0] == "log_spectrum":
        steps, h = part.step.to_numpy(), np.asarray(cell.family.eigenvalues)
        exact = np.sqrt(
            cell.family.exact_line(steps, cell.w0, cell.estimator, cell.alpha, cell.c, BatchSizes())
        )
        spread = h.max() / h.min()
    return _counts.curve_and_lines(part, cell.family, cell.estimator).assign(exact=exact, range=spread)


def _window(spectrum):
    """Where every decade of modes either has decayed or has not begun to."""
    c, spread = spectrum.c.iloc[0], spectrum.range.iloc[0]
    return spectrum[(spectrum.step > 5 / c * 4) & (spectrum.step < spread * 4 / c / 20)]


def _last_decades(table):
    tail = table[table.family == "slow_tail"]
    return tail[(tail.step >= tail.step.max() / 100) & (tail.step > 0)]


@claim.rows
def rows(table, row):
    for (name, estimator), part in table.groupby(["family", "estimator"], sort=False):
        yield _counts.iterations_row("E27" if name == "digits" else "E12", estimator, name, part)
    spectrum = table[table.family == "log_spectrum"]
    difference = (spectrum.grad_norm / spectrum.exact - 1).abs()
    yield row.at_most(
        "MAML's curve on log_spectrum equals the exact one",
        r"$\|\nabla F(w_k)\|^2=\sum_h h^2(1-\alpha h)^4(1-\beta p)^{2k}(w_0-\bar c)_h^2$",
        largest(difference[spectrum.exact > 1e-9]),
        1e-8,
        note="largest relative difference",
    )
    c, spread = spectrum.c.iloc[0], spectrum.range.iloc[0]
    window = _window(spectrum)
    yield row.within(
        "order of MAML's iteration count on log_spectrum",
        r"$N(\varepsilon)$ is of order $\varepsilon^{-2}$",
        statistics.slope(window.epsilon, window.step),
        -2.0,
        0.1,
        note=f"log-log slope over steps {window.step.min()} to {window.step.max()}",
        source="as summarised",
    )
    yield row.within(
        "constant of MAML's line on log_spectrum",
        r"line / measured $\to\ln(\mathrm{range})/(1-\frac c2)$",
        float(np.exp(np.mean(np.log(window.line / window.step)))),
        np.log(spread) / (1 - c / 2),
        0.15 * np.log(spread),
        note="geometric mean over the window",
    )
    far = _last_decades(table)
    yield row.within(
        "order of MAML's iteration count on slow_tail",
        r"$N(\varepsilon)$ is of order $\varepsilon^{-(1+1/p)}$, $p=1+2q$, $q=0.1$",
        statistics.slope(far.epsilon, far.step),
        -slow_tail.make(q=TAIL).order(),
        0.05,
        note="log-log slope over the last two decades of steps",
    )
    end = table[table.family == "ramp"]
    on = end[end.epsilon <= 0.995 * end.epsilon.max()].head(1)
    # The slope has fallen by 0.5 % at the distance ln(199) from the end.
    length = end.gap.iloc[0] / end.epsilon.max()
    yield row.within(
        "constant of MAML's line on ramp",
        r"line / measured $=\frac1{1-c/2}\frac W{W-\ln199}\frac1{0.995^2}$ at $\varepsilon=0.995\,g$, slope $g$",
        largest(on.line / on.step),
        length / (length - np.log(199)) / 0.995**2 / (1 - c / 2),
        0.02,
        note=f"the constant of the line cannot be improved by more than {100 * (largest(on.line / on.step) - 1):.0f} %, 4 % for a long ramp",
    )
    for name, number in (("cosine", "E12"), ("digits", "E27")):
        maml = table[(table.family == name) & (table.estimator == "maml")]
        yield _counts.posterior_row(number, name, maml)


@claim.figure
def figure(table):
    drawing, axes = plotting.panels(3, 2)
    drawing.delaxes(axes.pop())
    for axis, (name, title) in zip(axes, TITLES.items(), strict=True):
        _counts.draw_counts(axis, table[(table.family == name) & (table.step > 0)])
        axis.set(title=title, xlabel=r"accuracy $\varepsilon$ [$\varphi/u$]")
    for axis, part in zip(
        axes, (_window(table[table.family == "log_spectrum"]), _last_decades(table)), strict=False
    ):
        plotting.fitted(axis, part.epsilon, part.step, axis.get_title())
    for axis in axes[::3]:
        axis.set_ylabel(r"outer steps until $\|\nabla F\|\leq\varepsilon$ [1]")
    return plotting.finish(drawing, "Exact gradients: measured iteration counts against theory")
