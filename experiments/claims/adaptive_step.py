"""Why the step must adapt to w (E04): F is smooth with L(w) only, so that c / (4L) overshoots where L(w) >> 4L.

As summarised, the step is beta = c / L~(w), because the smoothness of F has no bound. Two tasks
mu/2 (w -+ C)^2 -+ a sin(omega w) make F even with F''(0) ~ alpha rho mu C: from C c F''(0) / (4 L) = 2 on, the
constant step c / (4L) cannot converge to the stationary point 0, while c / L(w) decreases F at every step for
every C (derived: the descent corollary with c < 2). Exact gradients over both tasks.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cells
from experiments.judging import at_least, at_most, largest, smallest
from experiments.results import LedgerRow, Place
from experiments.run import Run
from jaxmaml import plotting, theory
from jaxmaml.tasks._noise import make_noise
from jaxmaml.tasks.cosine import Cosine, CosineTasks

TITLE = "the step c/L(w) descends where the constant step c/(4L) does not"
LAMBDA = 1 / 6
DISTANCES = {
    "smoke": (1e2, 5e3, 8e3, 2e4),
    "default": (1e2, 3e3, 5e3, 8e3, 2e4, 5e4),
    "full": (1e2, 1e3, 3e3, 5e3, 6e3, 7e3, 8e3, 1e4, 2e4, 5e4, 1e5),
}
STEPS = {"smoke": 3000, "default": 5000, "full": 20_000}
ROUNDING = 1e-14
"""relative change of F that is not an increase."""
PLACE: Place = "smoothness lemma"


def _family(distance: float) -> Cosine:
    """Centres +-C and phases +-pi/2: f = mu/2 (w -+ C)^2 -+ a sin(omega w)."""
    phases = np.array([[0.5 * np.pi], [-0.5 * np.pi]])
    return Cosine(0.1, 0.9, 1.0, CosineTasks(np.array([[distance], [-distance]]), phases), make_noise())


def grid(scale: str) -> Cells:
    cells = []
    for distance in DISTANCES[scale]:
        family = _family(distance)
        constants = family.constants()
        for step, rho in (("c / L(w)", constants.rho), ("c / (4L)", 0.0)):
            cell = Run(
                family,
                "maml",
                LAMBDA / constants.L,
                theory.theorems()["maml"].c,
                constants.L,
                # Without rho the rule is the constant step.
                rho,
                np.array([0.3]),
                record=tuple(range(STEPS[scale] + 1)),
            )
            cells.append(({"distance": distance, "step_rule": step}, cell))
    return cells


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """One row a run and step, spaced evenly in log k: increases of F so far, ||grad F|| at k, its largest value over
    the later half of the steps to k, and its value at the start.

    A step that overshoots goes about without an end, and may come close to 0 at any one step: where it is at a
    given k differs from machine to machine. The largest value of many steps does not.
    """
    del scale
    table = []
    for (distance, rule), part in rows.groupby(["distance", "step_rule"], sort=False):
        family = _family(distance)
        constants = family.constants()
        alpha = LAMBDA / constants.L
        values, norms = part.objective.to_numpy(), part.grad_norm.to_numpy()
        rises = np.diff(values) > ROUNDING * np.abs(values[:-1])
        h = 1e-5
        ends = [family.grad_objective(np.array([x]), alpha)[0] for x in (-h, h)]
        c = theory.theorems()["maml"].c
        for k in np.unique(np.round(np.logspace(0, np.log10(len(values) - 1), 40)).astype(int)):
            table.append(
                {
                    "distance": distance,
                    "step_rule": rule,
                    "step": k,
                    "grad_norm": norms[k],
                    "late_grad_norm": norms[k // 2 : k + 1].max(),
                    "start_grad_norm": norms[0],
                    "increases": float(rises[:k].sum()) if np.isfinite(values[: k + 1]).all() else np.nan,
                    "overshoot": c / (4 * constants.L) * (ends[1] - ends[0]) / (2 * h),
                }
            )
    return pd.DataFrame(table)


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    end = table.groupby(["distance", "step_rule"], sort=False).tail(1)
    adaptive, constant = (end[end.step_rule == rule] for rule in ("c / L(w)", "c / (4L)"))
    over, under = constant[constant.overshoot > 2], constant[constant.overshoot <= 2]

    def left(rows: pd.DataFrame) -> np.ndarray:
        return (rows.late_grad_norm / rows.start_grad_norm).to_numpy()

    return [
        at_most(
            "E04",
            "steps at which the adaptive step raises F",
            r"$F(w_{k+1})\le F(w_k)$ with $\beta=c/L(w_k)$, exact gradients",
            PLACE,
            "rule as summarised; descent derived",
            largest(adaptive.increases),
            0.0,
            also=largest(left(adaptive)) <= 1e-6,
            note=f"over {adaptive.step.max()} steps; largest ||grad F|| at the end {largest(adaptive.grad_norm):.2g}",
        ),
        at_least(
            "E04",
            "the constant step c/(4L) does not settle",
            r"a step that does not adapt overshoots once $\frac c{4L}F''(0)>2$, and converges below",
            PLACE,
            "derived",
            smallest(left(over)),
            1.0,
            also=smallest(over.increases) > 0
            and largest(left(under)) <= 1e-6
            and largest(adaptive.increases) == 0,
            note="largest ||grad F|| of the later half of the steps over that at the start, at c F''(0)/(4L) "
            f"from {smallest(over.overshoot):.3g}; up to {largest(under.overshoot):.3g} it converges too",
        ),
    ]


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(2)
    shades = {"c / L(w)": plotting.color("maml"), "c / (4L)": plotting.OTHER[1]}
    names = {"c / L(w)": "$c/L(w)$, as summarised", "c / (4L)": "$c/(4L)$, constant"}
    chosen = (table.distance.min(), table[table.overshoot > 2].distance.min())
    for axis, distance in zip(axes, chosen, strict=True):
        part = table[table.distance == distance]
        for rule, shade in shades.items():
            one = part[part.step_rule == rule]
            axis.loglog(one.step, np.maximum(one.grad_norm, 1e-13), color=shade, label=names[rule])
        axis.set_title(rf"$C={distance:g}$: $cF''(0)/(4L)={part.overshoot.iloc[0]:.2g}$")
        axis.set_xlabel("outer step $k$ [1]")
    axes[0].set_ylabel(r"$\|\nabla F(w_k)\|$ [$\varphi/u$]")
    return plotting.finish(drawing, "Two antisymmetric tasks, exact gradients: the step must adapt")
