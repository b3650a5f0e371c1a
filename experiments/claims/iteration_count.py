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

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.cells import Cells, theorem_run
from experiments.judging import at_most, largest, place_of, untested, within
from experiments.results import LedgerRow
from experiments.run import log_steps
from jaxmaml import plotting, statistics, theory
from jaxmaml.tasks import cosine, digits, log_spectrum, ramp, slow_tail
from jaxmaml.tasks.ramp import Ramp
from jaxmaml.types import BatchSizes, Family

TITLE = "iteration count against epsilon, exact gradients: (a'), (e), (f), (c) and digits"
# The largest rate that each theorem allows: 1/6, 1/10, 1/6 over L.
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
PER_DECADE = 24


def _families(scale: str) -> dict[str, Any]:
    few = scale == "smoke"
    return {
        "log_spectrum": log_spectrum.make(decades=DECADES[scale]),
        "cosine": cosine.make(n=20 if few else 50, d=4 if few else 10, seed=3),
        "digits": digits.make(tasks=6 if few else 20, pool=40 if few else 100),
        "slow_tail": slow_tail.make(q=TAIL),
        "ramp": ramp.make(length=RAMP[scale], slope=0.1),
    }


def _start(name: str, family: Family, alpha: float) -> np.ndarray:
    if name == "log_spectrum":
        return log_spectrum.start(family, alpha)  # type: ignore[arg-type]
    return np.full(family.dim, {"cosine": 4.0, "slow_tail": 2.0}.get(name, 0.0))


def _record(name: str, family: Family, scale: str, c: float) -> tuple[int, ...]:
    if isinstance(family, Ramp):
        # A little longer than the ramp lasts at step c / (4L), with its end resolved to 0.2 %.
        steps = 1.1 * 4 * float(family.tasks.length[0]) / (c * float(family.slope))
        return log_steps(round(steps), PER_DECADE, tail=300)
    return log_steps(STEPS[name][scale], PER_DECADE)


def grid(scale: str) -> Cells:
    cells = []
    for name, family in _families(scale).items():
        constants = family.constants()
        for estimator, theorem in theory.theorems().items():
            if name in ONLY_MAML and estimator != "maml":
                continue
            alpha = theorem.alpha_max(constants.L)
            cell = theorem_run(
                family,
                estimator,
                alpha,
                _start(name, family, alpha),
                record=_record(name, family, scale, theorem.c),
            )
            cells.append(({"family": name, "estimator": estimator, "alpha": alpha}, cell))
    return cells


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """The recorded curve with, at each new smallest gradient norm, the iteration count of the line.

    The first recorded step with ||grad F|| <= epsilon is at most one recorded step later than the first
    step, so that `step` overestimates the measured count, by up to 10 %.
    """
    families = _families(scale)
    table = []
    for (name, estimator), part in rows.groupby(["family", "estimator"], sort=False):
        family, theorem = families[name], theory.theorems()[estimator]
        exact = np.full(len(part), np.nan)
        if name == "log_spectrum":
            alpha = float(part.alpha.iloc[0])
            w0 = log_spectrum.start(family, alpha)
            steps = part.step.to_numpy()
            exact = np.sqrt(family.exact_line(steps, w0, estimator, alpha, theorem.c, BatchSizes()))
        curve = curve_and_lines(part, family, str(estimator))
        table.append(curve.assign(family=name, exact=exact, range=_range(name, family)))
    return pd.concat(table, ignore_index=True)


def curve_and_lines(part: pd.DataFrame, family: Family, estimator: str) -> pd.DataFrame:
    """One exact run with the lines at its smallest gradient norms so far, one row a recorded step."""
    theorem, constants = theory.theorems()[estimator], family.constants()
    if constants.kind("sigma") == "upper bound":
        # Assumption 4 is needed at the iterates only, and there sigma is known exactly.
        sigma = largest(part.spread)
        constants = replace(constants, sigma=sigma if np.isfinite(sigma) else np.inf)
    alpha = float(part.alpha.iloc[0])
    gap = float(part.objective.iloc[0]) - family.infimum(alpha).value
    best = np.minimum.accumulate(part.grad_norm.to_numpy())
    posterior = np.full(len(part), np.nan)
    if estimator == "maml":
        # The run adds up beta_j = c / L(w_j) over every step, recorded or not.
        posterior[1:] = theorem.posterior_line(gap, part.step_sum.to_numpy()[1:] / theorem.c)
    return pd.DataFrame(
        {
            "estimator": estimator,
            "alpha": alpha,
            "step": part.step.to_numpy(),
            "grad_norm": part.grad_norm.to_numpy(),
            "epsilon": best,
            "line": theorem.exact_iterations(best, gap, constants, alpha),
            "order": theorem.iterations_summary(best, gap, constants, alpha, BatchSizes()),
            "posterior": posterior,
            "objective": part.objective.to_numpy(),
            "diverged_at": part.diverged_at.to_numpy(),
            "gap": gap,
            "c": theorem.c,
        }
    )


def _range(name: str, family: Family) -> float:
    if name != "log_spectrum":
        return np.nan
    h = np.asarray(family.eigenvalues)  # type: ignore[attr-defined]
    return float(h.max() / h.min())


def _window(spectrum: pd.DataFrame) -> pd.DataFrame:
    """Where every decade of modes either has decayed or has not begun to."""
    c, spread = float(spectrum.c.iloc[0]), float(spectrum.range.iloc[0])
    return spectrum[(spectrum.step > 5 / c * 4) & (spectrum.step < spread * 4 / c / 20)]


def _last_decades(table: pd.DataFrame) -> pd.DataFrame:
    tail = table[table.family == "slow_tail"]
    return tail[(tail.step >= tail.step.max() / 100) & (tail.step > 0)]


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    rows = []
    for (name, estimator), part in table.groupby(["family", "estimator"], sort=False):
        claim = "E27" if name == "digits" else "E12"
        rows.append(iterations_row(claim, str(estimator), str(name), part))
    spectrum = table[table.family == "log_spectrum"]
    difference = (spectrum.grad_norm / spectrum.exact - 1).abs()
    rows.append(
        at_most(
            "E12",
            "MAML's curve on log_spectrum equals the exact one",
            r"$\|\nabla F(w_k)\|^2=\sum_h h^2(1-\alpha h)^4(1-\beta p)^{2k}(w_0-\bar c)_h^2$",
            "MAML theorem",
            "derived",
            largest(difference[spectrum.exact > 1e-9]),
            1e-8,
            note="largest relative difference",
        )
    )
    c, spread = float(spectrum.c.iloc[0]), float(spectrum.range.iloc[0])
    window = _window(spectrum)
    fit = statistics.slope(window.epsilon, window.step)
    rows.append(
        within(
            "E12",
            "order of MAML's iteration count on log_spectrum",
            r"$N(\varepsilon)$ is of order $\varepsilon^{-2}$",
            "MAML theorem",
            "as summarised",
            fit,
            -2.0,
            0.1,
            note=f"log-log slope over steps {window.step.min()} to {window.step.max()}",
        )
    )
    rows.append(
        within(
            "E12",
            "constant of MAML's line on log_spectrum",
            r"line / measured $\to\ln(\mathrm{range})/(1-\frac c2)$",
            "MAML theorem",
            "derived",
            float(np.exp(np.mean(np.log(window.line / window.step)))),
            np.log(spread) / (1 - c / 2),
            0.15 * np.log(spread),
            note="geometric mean over the window",
        )
    )
    far = _last_decades(table)
    rows.append(
        within(
            "E12",
            "order of MAML's iteration count on slow_tail",
            r"$N(\varepsilon)$ is of order $\varepsilon^{-(1+1/p)}$, $p=1+2q$, $q=0.1$",
            "MAML theorem",
            "derived",
            statistics.slope(far.epsilon, far.step),
            -slow_tail.make(q=TAIL).order(),
            0.05,
            note="log-log slope over the last two decades of steps",
        )
    )
    end = table[table.family == "ramp"]
    on = end[end.epsilon <= 0.995 * end.epsilon.max()].head(1)
    # The slope has fallen by 0.5 % at the distance ln(199) from the end.
    length = float(end.gap.iloc[0] / end.epsilon.max())
    expected = length / (length - np.log(199)) / 0.995**2 / (1 - c / 2)
    rows.append(
        within(
            "E12",
            "constant of MAML's line on ramp",
            r"line / measured $=\frac1{1-c/2}\frac W{W-\ln199}\frac1{0.995^2}$ at $\varepsilon=0.995\,g$, slope $g$",
            "MAML theorem",
            "derived",
            largest(on.line / on.step),
            expected,
            0.02,
            note=f"the constant of the line cannot be improved by more than {100 * (largest(on.line / on.step) - 1):.0f} %, 4 % for a long ramp",
        )
    )
    for name in ("cosine", "digits"):
        maml = table[(table.family == name) & (table.estimator == "maml")]
        rows.append(posterior_row("E27" if name == "digits" else "E12", name, maml))
    return rows


def iterations_row(claim: str, estimator: str, where: str, part: pd.DataFrame) -> LedgerRow:
    """One run of `curve_and_lines` against its line."""
    new = part[(part.step > 0) & np.isfinite(part.line)]
    # The line bounds the smallest of w_0, ..., w_{N-1}: step k is the (k + 1)st.
    ratio = (new.step + 1) / new.line
    # Above the floor of its line a method must never raise F (up to rounding).
    above = part.objective[np.isfinite(part.line)]
    rises = np.diff(above) > 1e-12 * np.abs(part.objective.iloc[0])
    about = (
        claim,
        f"iterations of {plotting.label(estimator)} on {where}",
        r"$N(\varepsilon)\le\Delta\,(4L+2\rho\alpha(C_3\sigma+C_1\varepsilon))/(c\,P(\varepsilon))$, exact gradients",
        place_of(estimator),
        "as summarised; constant derived",
    )
    stayed = bool((part.diverged_at < 0).all())
    if len(new) == 0 and stayed:
        low = part.epsilon.max()
        return untested(*about, f"||grad F|| <= {low:.3g} from the start, below the floor of the line")
    return at_most(
        *about,
        largest(ratio),
        1.0,
        also=stayed and not rises.any(),
        note=f"largest measured / line, {new.epsilon.max():.3g} >= eps >= {new.epsilon.min():.3g}",
    )


def posterior_row(claim: str, where: str, maml: pd.DataFrame) -> LedgerRow:
    """One run of MAML against the line that the run itself gives."""
    # The line at K bounds the smallest of w_0, ..., w_{K-1}: the record before K, at the latest.
    before = maml.epsilon.shift()[maml.step > 0]
    return at_most(
        claim,
        f"a-posteriori line of MAML on {where}",
        r"$\min_{j<K}\|\nabla F(w_j)\|^2\le\Delta\big/\big(c(1-\frac c2)\sum_{j<K}1/L(w_j)\big)$",
        "MAML theorem",
        "derived",
        largest(before / maml.posterior[maml.step > 0]),
        1.0,
        note="largest ratio over all recorded K",
    )


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(3, 2)
    drawing.delaxes(axes.pop())
    titles = {
        "log_spectrum": "log-spaced spectrum (a')",
        "slow_tail": "slow tail (e)",
        "ramp": "ramp (f)",
        "cosine": "nonconvex family (c)",
        "digits": "handwritten digits, logistic",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        draw_counts(axis, table[(table.family == name) & (table.step > 0)])
        axis.set_title(title)
        axis.set_xlabel(r"accuracy $\varepsilon$ [$\varphi/u$]")
    for axis, part in (
        (axes[0], _window(table[table.family == "log_spectrum"])),
        (axes[1], _last_decades(table)),
    ):
        plotting.fitted(axis, part.epsilon, part.step, axis.get_title())
    for axis in axes[::3]:
        axis.set_ylabel(r"outer steps until $\|\nabla F\|\leq\varepsilon$ [1]")
    return plotting.finish(drawing, "Exact gradients: measured iteration counts against theory")


def draw_counts(axis: Axes, here: pd.DataFrame) -> None:
    """The measured counts of each method over epsilon, with their lines."""
    for estimator in plotting.ordered(here.estimator):
        part = here[here.estimator == estimator]
        shade = plotting.color(estimator)
        first = part.drop_duplicates("epsilon")
        axis.loglog(
            first.epsilon,
            first.step,
            color=shade,
            label=f"{plotting.label(estimator)}, measured",
        )
        line = part[np.isfinite(part.line)].drop_duplicates("epsilon")
        axis.loglog(
            line.epsilon,
            line.line,
            "--",
            color=shade,
            label=rf"{plotting.label(estimator)}, $N_{{det}}(\varepsilon)$ derived",
        )
    maml = here[here.estimator == "maml"].drop_duplicates("epsilon")
    axis.loglog(maml.epsilon, maml.order, ":", color="k", label=r"order as summarised, $O(1)=1$")
    # Far below its start a method that converges linearly says nothing about the order.
    axis.set_xlim(2 * here.epsilon.max(), max(here.epsilon.min(), 1e-5 * here.epsilon.max()))
    axis.set_ylim(1, 1e4 * here.step.max())
