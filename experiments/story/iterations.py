"""Iterations to an accuracy, against the theorems' N(epsilon)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.judging import largest, smallest
from experiments.story._lines import THEORY, named
from jaxmaml import plotting

TITLE = (
    r"Iterations to accuracy $\varepsilon$, exact gradients, each method at its theorem's largest $\alpha$"
)
TABLES = ("iteration_count",)
TITLES = {
    "cosine": "nonconvex family",
    "fashion from far": "Fashion-MNIST",
    "log_spectrum": "quadratic with a wide spectrum",
    "ramp": "ramp of constant slope",
}
MARKS = 7
"""of each curve."""
N = r"$N(\varepsilon)$"


ROOM = 1.2
"""decades of x over those of the curves: the rest is for the names of the lines."""


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Every method needs fewer steps than its theorem's N(epsilon), dashed, and MAML on a ramp at first
    nearly as many, so that the constant cannot be improved. MAML's line goes on with slope 2 to every
    accuracy, while those of FO-MAML and HF-MAML end at the floors of their theorems."""
    table = tables["iteration_count"]
    shown = [name for name in TITLES if (table.family == name).any()]
    drawing, axes = plotting.panels(2, 2)
    for axis, name in zip(axes, shown, strict=False):
        part = table[table.family == name]
        _counts(axis, part[part.width == largest(part.width)])
        axis.set_title(TITLES[name])
    for axis in axes[len(shown) :]:
        drawing.delaxes(axis)
    for axis in axes[2 : len(shown)]:
        # Finer to the right: both axes grow with the effort, and the order 1 / epsilon^2 is a slope of 2.
        axis.set_xlabel(r"accuracy $\|\nabla F(w_0)\|/\varepsilon$ [1]")
    for axis in axes[: len(shown) : 2]:
        axis.set_ylabel(r"steps until $\|\nabla F\|\leq\varepsilon$ [1]")
    return plotting.finish(drawing, TITLE)


def _counts(axis: Axes, table: pd.DataFrame) -> None:
    table = table.assign(finer=table.start / table.epsilon, end=table.start / table.floor)
    finest = largest(table.finer)
    for estimator in plotting.ordered(table.estimator):
        part = table[table.estimator == estimator].sort_values("finer")
        shade, line = plotting.color(estimator), part[np.isfinite(part.line)]
        marks = sorted(set(np.linspace(0, len(part) - 1, MARKS).round().astype(int)))
        look = {"color": shade, "marker": plotting.MARKERS[estimator], "markevery": marks}
        axis.loglog(part.finer, part.step, label=plotting.label(estimator), **look)
        axis.loglog(line.finer, line.line, **THEORY | {"color": shade})
        if part.end.iloc[0] > finest:
            last = line.iloc[-1]
            named(axis, last.finer, last.line, N, color=shade, offset=(3, -2))
        else:
            axis.axvline(part.end.iloc[0], **THEORY)
    ended = table[table.end < finest]
    if len(ended):
        who = " and ".join(plotting.label(e) for e in plotting.ordered(ended.estimator))
        named(
            axis,
            largest(ended.end),
            smallest(table.step),
            f"$N$ of {who}\nis infinite from here",
            offset=(4, 6),
        )
    low, high = np.log10(smallest(table.step)), np.log10(largest(table.line[np.isfinite(table.line)]))
    axis.set(xlim=(0.95, finest**ROOM), ylim=10.0 ** np.array([np.floor(low), np.ceil(high)]))
