"""What no method goes below with exact gradients: three floors against alpha, HF-MAML's against eta and B."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.judging import smallest
from experiments.story._lines import ABOVE, BELOW, THEORY, Look, named
from jaxmaml import plotting

TITLE = "Where each method stops: FO-MAML and HF-MAML have a floor, MAML has none"
TABLES = ("fo_floor", "hf_floor", "hf_blind")
FAMILY = "cosine"
FIXED = 20
"""1 / (alpha L) of the runs against eta."""
ETA = 1 / 6
"""of the theorem."""
FAMILIES = {"cosine": "nonconvex family", "two_cosines": "two tasks"}
END = r"$\|\nabla F\|$ at the end [$\varphi/u$]"


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """FO-MAML stops at a gradient norm in proportion to alpha, HF-MAML at small alpha stops at the same,
    and MAML goes down to rounding. HF-MAML's floor falls like the square of its step eta but not with more
    tasks B, so that from about B = 9000 on its theorem promises an accuracy that it does not reach."""
    drawing, axes = plotting.panels(2, 2)
    axes[3].sharey(axes[2])
    for axis in axes[:2]:
        drawing.delaxes(axis)
    layout = axes[0].get_gridspec()
    assert layout is not None, "panels are laid out in one"
    wide = drawing.add_subplot(layout[0, :])
    _against_alpha(wide, tables["fo_floor"], tables["hf_floor"])
    _against_eta(axes[2], tables["hf_floor"])
    _against_tasks(axes[3], tables["hf_blind"])
    return plotting.finish(drawing, TITLE, columns=4)


def _marks(estimator: str, **more: Any) -> Look:
    return {"color": plotting.color(estimator), "marker": plotting.MARKERS[estimator]} | more


def _theory(estimator: str) -> Look:
    return THEORY | {"color": plotting.color(estimator)}


def _against_alpha(axis: Axes, fo_floor: pd.DataFrame, hf_floor: pd.DataFrame) -> None:
    hf = hf_floor[(hf_floor.family == FAMILY) & (hf_floor.rule == "theorem")].sort_values("alpha")
    one = fo_floor[(fo_floor.family == FAMILY) & (fo_floor.task_spread == 1)]
    # The same tasks in both tables: at the scale smoke they are not.
    sigma = (hf.alpha_L_sigma * hf.inverse_lambda).iloc[0]
    one = one[np.isclose(one.alpha_L_sigma * one.inverse_lambda, sigma)]
    fo, maml = (one[one.estimator == e].sort_values("alpha") for e in ("fo_maml", "maml"))
    if len(maml):
        plotting.vanished(axis, 1 / maml.inverse_lambda, maml.grad_norm, "MAML", **_marks("maml"))
    for part, estimator in ((fo, "fo_maml"), (hf, "hf_maml")):
        axis.loglog(
            1 / part.inverse_lambda,
            part.grad_norm,
            **_marks(estimator, linestyle="none", label=plotting.label(estimator)),
        )
    for part, column, estimator, text, at, place in (
        (fo, "bound_summary", "fo_maml", "FO-MAML, theorem", 5, ABOVE),
        (fo, "bound", "fo_maml", "FO-MAML, derived", 2, BELOW),
        (hf, "limit_bound", "hf_maml", "HF-MAML, derived", 3, ABOVE),
        (fo, "predicted", "fo_maml", r"FO-MAML, exact: $\alpha\|\mathrm{Cov}_i(H_i,g_i)\|$", 2, BELOW),
    ):
        axis.loglog(1 / part.inverse_lambda, part[column], **_theory(estimator))
        for row in part[at : at + 1].itertuples():
            shade = plotting.color(estimator)
            named(axis, 1 / row.inverse_lambda, getattr(row, column), text, color=shade, **place)
    last = hf.iloc[-1]
    shade = plotting.color("hf_maml")
    none: Look = {"color": shade, "offset": (0, -6), "ha": "right", "va": "top"}
    named(axis, 1 / last.inverse_lambda, last.grad_norm, "HF-MAML, theorem: no floor", **none)
    axis.set(
        ylim=(smallest(hf.grad_norm) / 20, None), title="a nonconvex family, exact gradients of all tasks"
    )
    axis.set(xlabel=r"inner rate $\alpha L$ [1]", ylabel=END)


def _against_eta(axis: Axes, hf_floor: pd.DataFrame) -> None:
    part = hf_floor[(hf_floor.inverse_lambda == FIXED) & (hf_floor.rule != "float_optimal")]
    shade = plotting.color("hf_maml")
    for name, face, at, place in (
        ("two_cosines", "none", 4, ABOVE),
        (FAMILY, shade, 2, BELOW),
    ):
        one = part[part.family == name].sort_values("eta")
        axis.loglog(one.eta, one.grad_norm, **_marks("hf_maml", linestyle="none", markerfacecolor=face))
        line = one.grad_norm.iloc[0] * (one.eta / one.eta.iloc[0]) ** 2
        axis.loglog(one.eta, line, **_theory("hf_maml"))
        middle = one.iloc[min(at, len(one) - 1)]
        named(axis, middle.eta, middle.grad_norm, FAMILIES[name] + r", $\propto\eta^2$", color=shade, **place)
    axis.axvline(ETA, **THEORY)
    named(axis, ETA, axis.get_ylim()[0], r"theorem's $\eta=\frac{1}{6}$", offset=(-4, 12), ha="right")
    axis.set(title=rf"HF-MAML by its step, $\alpha L=1/{FIXED}$", ylabel=END)
    axis.set_xlabel(r"$\eta$ of the difference $\delta=\eta/(\rho\alpha\|g\|)$ [1]")


def _against_tasks(axis: Axes, hf_blind: pd.DataFrame) -> None:
    runs = hf_blind[(hf_blind.source == "counted") & (hf_blind.family == "hf_blind")].sort_values("B")
    for estimator, rule, begin, face, text, offset in (
        ("hf_maml", "theorem", "root", plotting.color("hf_maml"), r"$\eta=\frac{1}{6}$", (12, -16)),
        ("hf_maml", "repaired", "far", "none", r"$\eta=1/\sqrt{B}$", (-6, -8)),
        ("maml", "theorem", "far", plotting.color("maml"), "MAML", (-6, 1)),
    ):
        part = runs[(runs.estimator == estimator) & (runs.rule == rule) & (runs.begin == begin)]
        axis.loglog(
            part.B.astype(float), part.grad_norm, **_marks(estimator, linestyle="none", markerfacecolor=face)
        )
        first = part.iloc[0]
        side: Look = {
            "color": plotting.color(estimator),
            "offset": offset,
            "ha": "right" if offset[0] < 0 else "left",
        }
        named(axis, float(first.B), first.grad_norm, text, **side)
    stated = runs[(runs.rule == "theorem") & (runs.begin == "root")]
    axis.loglog(stated.B.astype(float), stated.floor_summary, **_theory("hf_maml"))
    first = stated.iloc[1]
    named(
        axis,
        float(first.B),
        first.floor_summary,
        "HF-MAML, theorem",
        color=plotting.color("hf_maml"),
        offset=(4, 2),
    )
    floor = stated.predicted.iloc[0]
    axis.axhline(floor, **_theory("hf_maml"))
    named(axis, float(stated.B.iloc[0]), floor, "exact floor", color=plotting.color("hf_maml"), offset=(0, 5))
    axis.set(xlabel="tasks $B$ of a step, drawn from two [1]", title="HF-MAML by its number of tasks")
