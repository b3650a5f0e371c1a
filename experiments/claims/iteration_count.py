"""Exact gradients: accuracy epsilon within N(epsilon) = O(epsilon^-2) steps (E12, E27).

As summarised, MAML, FO-MAML and HF-MAML need O(1) Delta (L + rho alpha (sigma + epsilon)) / epsilon^2
steps above their floors. For exact gradients over all tasks the constant is explicit (derived, N_det in
docs/theory.md).
On the log-spaced spectrum (a') the measured count has slope -2 in epsilon too, a known factor
ln(range) / (1 - c/2) below the line, so that neither the order nor much of the constant can be improved.
On the nonconvex family and on real handwritten digits the line is an upper one.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import plotting
from experiments.cells import Cells, theorem_run
from experiments.judging import at_most, largest, untested, within
from jaxmaml import results, theory
from jaxmaml.results import LedgerRow
from jaxmaml.run import log_steps
from jaxmaml.tasks import cosine, digits, log_spectrum
from jaxmaml.types import BatchSizes, Family

TITLE = "iteration count against epsilon, exact gradients: (a'), (c) and digits"
# The largest rate that each theorem allows: 1/6, 1/10, 1/6 over L.
DECADES = {"smoke": 3.0, "default": 4.0, "full": 5.0}
STEPS = {
    "log_spectrum": {"smoke": 200_000, "default": 2_000_000, "full": 20_000_000},
    "cosine": {"smoke": 8_000, "default": 20_000, "full": 200_000},
    "digits": {"smoke": 300, "default": 10_000, "full": 100_000},
}
PER_DECADE = 24


def _families(scale: str) -> dict[str, Any]:
    few = scale == "smoke"
    return {
        "log_spectrum": log_spectrum.make(decades=DECADES[scale]),
        "cosine": cosine.make(n=20 if few else 50, d=4 if few else 10, seed=3),
        "digits": digits.make(tasks=6 if few else 20, pool=40 if few else 100),
    }


def _start(name: str, family: Family, alpha: float) -> np.ndarray:
    if name == "log_spectrum":
        return log_spectrum.start(family, alpha)  # type: ignore[arg-type]
    return np.full(family.dim, 4.0 if name == "cosine" else 0.0)


def grid(scale: str) -> Cells:
    cells = []
    for name, family in _families(scale).items():
        constants = family.constants()
        for estimator, theorem in theory.theorems().items():
            if name == "log_spectrum" and estimator != "maml":
                continue
            alpha = theorem.alpha_max(constants.L)
            cell = theorem_run(
                family,
                estimator,
                alpha,
                _start(name, family, alpha),
                record=log_steps(STEPS[name][scale], PER_DECADE),
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
        constants = family.constants()
        if constants.kind("sigma") == "upper bound":
            # Assumption 4 is needed at the iterates only, and there sigma is known exactly.
            sigma = largest(part.spread)
            constants = replace(constants, sigma=sigma if np.isfinite(sigma) else np.inf)
        alpha = float(part.alpha.iloc[0])
        gap = float(part.objective.iloc[0]) - family.infimum(alpha).value
        best = np.minimum.accumulate(part.grad_norm.to_numpy())
        line = theorem.exact_iterations(best, gap, constants, alpha)
        exact = np.full(len(part), np.nan)
        if name == "log_spectrum":
            w0 = log_spectrum.start(family, alpha)
            steps = part.step.to_numpy()
            exact = np.sqrt(family.exact_line(steps, w0, estimator, alpha, theorem.c, BatchSizes()))
        posterior = np.full(len(part), np.nan)
        if estimator == "maml":
            # The run adds up beta_j = c / L(w_j) over every step, recorded or not.
            posterior[1:] = theorem.posterior_line(gap, part.step_sum.to_numpy()[1:] / theorem.c)
        table.append(
            pd.DataFrame(
                {
                    "family": name,
                    "estimator": estimator,
                    "alpha": alpha,
                    "step": part.step.to_numpy(),
                    "grad_norm": part.grad_norm.to_numpy(),
                    "epsilon": best,
                    "line": line,
                    "order": theorem.iterations_summary(best, gap, constants, alpha, BatchSizes()),
                    "exact": exact,
                    "posterior": posterior,
                    "objective": part.objective.to_numpy(),
                    "diverged_at": part.diverged_at.to_numpy(),
                    "gap": gap,
                    "range": _range(name, family),
                    "c": theorem.c,
                }
            )
        )
    return pd.concat(table, ignore_index=True)


def _range(name: str, family: Family) -> float:
    if name != "log_spectrum":
        return np.nan
    h = np.asarray(family.eigenvalues)  # type: ignore[attr-defined]
    return float(h.max() / h.min())


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    rows = []
    for (name, estimator), part in table.groupby(["family", "estimator"], sort=False):
        new = part[(part.step > 0) & np.isfinite(part.line)]
        # The line bounds the smallest of w_0, ..., w_{N-1}: step k is the (k + 1)st.
        ratio = (new.step + 1) / new.line
        # Above the floor of its line a method must never raise F (up to rounding).
        above = part.objective[np.isfinite(part.line)]
        rises = np.diff(above) > 1e-12 * np.abs(part.objective.iloc[0])
        about = (
            "E27" if name == "digits" else "E12",
            f"iterations of {plotting.label(estimator)} on {name}",
            "N(eps) <= Delta (4L + 2 rho alpha (C3 sigma + C1 eps)) / (c P(eps)), exact gradients",
            f"{plotting.label(estimator)} theorem, as summarised; constant derived",
        )
        stayed = bool((part.diverged_at < 0).all())
        if len(new) == 0 and stayed:
            low = part.epsilon.max()
            reason = f"||grad F|| <= {low:.3g} from the start, below the floor of the line"
            rows.append(untested(*about, reason))
            continue
        rows.append(
            at_most(
                *about,
                largest(ratio),
                1.0,
                also=stayed and not rises.any(),
                sharp=name == "log_spectrum",
                note=f"largest measured / line, {new.epsilon.max():.3g} >= eps >= {new.epsilon.min():.3g}",
            )
        )
    spectrum = table[table.family == "log_spectrum"]
    difference = (spectrum.grad_norm / spectrum.exact - 1).abs()
    rows.append(
        at_most(
            "E12",
            "MAML's curve on log_spectrum equals the exact one",
            "||grad F(w_k)||^2 = sum_h h^2 (1 - alpha h)^4 (1 - beta p)^{2k} (w_0 - c_bar)_h^2",
            "derived",
            largest(difference[spectrum.exact > 1e-9]),
            1e-8,
            note="largest relative difference",
        )
    )
    c, spread = float(spectrum.c.iloc[0]), float(spectrum.range.iloc[0])
    # Inside the window every decade of modes either has decayed or has not begun to.
    window = spectrum[(spectrum.step > 5 / c * 4) & (spectrum.step < spread * 4 / c / 20)]
    fit = results.slope(window.epsilon, window.step)
    rows.append(
        within(
            "E12",
            "order of MAML's iteration count on log_spectrum",
            "N(eps) is of order eps^-2",
            "MAML theorem, as summarised",
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
            "line / measured -> ln(range) / (1 - c/2)",
            "derived",
            float(np.exp(np.mean(np.log(window.line / window.step)))),
            np.log(spread) / (1 - c / 2),
            0.15 * np.log(spread),
            note="geometric mean over the window",
        )
    )
    for name in ("cosine", "digits"):
        maml = table[(table.family == name) & (table.estimator == "maml")]
        # The line at K bounds the smallest of w_0, ..., w_{K-1}: the record before K, at the latest.
        before = maml.epsilon.shift()[maml.step > 0]
        rows.append(
            at_most(
                "E27" if name == "digits" else "E12",
                f"a-posteriori line of MAML on {name}",
                "min_{j<K} ||grad F(w_j)||^2 <= Delta / (c (1 - c/2) sum_{j<K} 1/L(w_j))",
                "derived",
                largest(before / maml.posterior[maml.step > 0]),
                1.0,
                sharp=False,
                note="largest ratio over all recorded K",
            )
        )
    return rows


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(3)
    titles = {
        "log_spectrum": "log-spaced spectrum (a')",
        "cosine": "nonconvex family (c)",
        "digits": "handwritten digits, logistic",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        here = table[(table.family == name) & (table.step > 0)]
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
        axis.set_title(title)
        axis.set_xlabel(r"accuracy $\varepsilon$ [$\varphi/u$]")
    axes[0].set_ylabel(r"outer steps until $\|\nabla F\|\leq\varepsilon$ [1]")
    return plotting.finish(drawing, "Exact gradients: measured iteration counts against theory")
