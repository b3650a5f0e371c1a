"""The three methods' gradients along the way: by steps, by gradient evaluations and by time."""

from collections.abc import Iterator, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.claims.three_methods import EXACT, NOISY
from experiments.judging import largest, smallest
from experiments.story._lines import THEORY, Look, named
from jaxmaml import plotting

TITLE = "One rate, one start: MAML goes on, FO-MAML and HF-MAML stop at their floors"
TABLES = ("three_methods",)
NORM = r"$\|\nabla F(w_k)\|$ [$\varphi/u$]"
SPACING = 0.12
"""between the marks of a curve, in diagonals of a panel."""
RIGHT = ("axes fraction", "data")


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """With exact gradients MAML goes to zero while FO-MAML and HF-MAML stop at floors that theory predicts,
    and that the noise of 20 tasks a step hides; all stay below the dashed lines of their theorems. Counted
    in gradients FO-MAML is first at its floor, in time MAML is as quick, and HF-MAML comes last."""
    table = tables["three_methods"]
    exact, noisy = (table[table.batches == batches] for batches in (EXACT, NOISY))
    drawing, axes = plotting.panels(2, 2)
    for axis in axes[1:]:
        axis.sharey(axes[0])
    axes[1].sharex(axes[0])
    low, high = smallest(table.stops[table.stops > 0]) / 30, 4 * largest(table.start)
    axes[0].set(xscale="log", yscale="log", ylim=(low, high))
    for axis, part in ((axes[0], exact), (axes[1], noisy)):
        _curves(axis, part.step, part)
        _theory(axis, part)
        axis.set(xlabel="outer steps $k$ [1]")
    # Until both floors are reached, and half as far again.
    stopped = exact[(exact.stops > 0) & (exact.grad_norm <= 1.05 * exact.stops)]
    for axis, column, label, unit in (
        (axes[2], "gradients", "gradients a task [1000]", 1000),
        (axes[3], "seconds", "time [ms]", 1e-3),
    ):
        _curves(axis, exact[column] / unit, exact)
        reached = stopped.groupby("estimator")[column].min() / unit
        axis.set(xlabel=label, xlim=(0, 1.5 * largest(reached)))
    axes[0].set(title="exact gradients of all tasks, by steps", ylabel=NORM)
    axes[1].set(title="20 tasks a step, by steps")
    axes[2].set(title="exact, by gradient evaluations", ylabel=NORM)
    axes[3].set(title="exact, by time")
    return plotting.finish(drawing, TITLE)


def _methods(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for estimator in plotting.ordered(table.estimator):
        yield estimator, table[table.estimator == estimator]


def _curves(axis: Axes, x: pd.Series, table: pd.DataFrame) -> None:
    for estimator, part in _methods(table):
        shade, at = plotting.color(estimator), x[part.index]
        look: Look = {"color": shade, "marker": plotting.MARKERS[estimator], "markevery": SPACING}
        axis.plot(at, part.grad_norm, label=plotting.label(estimator), **look)
        error = 2 * part.grad_norm_error
        axis.fill_between(
            at, part.grad_norm - error, part.grad_norm + error, color=shade, alpha=0.3, linewidth=0
        )


def _theory(axis: Axes, table: pd.DataFrame) -> None:
    """The theorems' lines and, at the right, their floors; the floors where exact runs stop."""
    for estimator, part in _methods(table):
        look = THEORY | {"color": plotting.color(estimator)}
        axis.plot(part.step, part.line, **look)
        last = part.iloc[-1]
        if last.floor > 0:
            axis.plot([last.step, 4 * last.step], [last.floor] * 2, **look)
        if last.stops > 0:
            axis.axhline(last.stops, **look)
            place: Look = {"offset": (3, 3)} if estimator == "fo_maml" else {"offset": (3, -3), "va": "top"}
            name = f"{plotting.label(estimator)}'s floor, exact"
            named(axis, 1.0, last.stops, name, color=plotting.color(estimator), **place)
    named(axis, 1.0, 1.0, "theorems' lines", xycoords="axes fraction", offset=(-2, -2), ha="right", va="top")
    named(axis, 1.0, largest(table.floor), "theorems'\nfloors", xycoords=RIGHT, offset=(-2, 3), ha="right")
