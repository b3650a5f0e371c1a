"""One style for all figures: a colour-blind safe colour and a marker a method, the same everywhere."""

import contextlib
import logging
import pathlib
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from jaxmaml import results

# Okabe and Ito's palette.
COLORS = {
    "maml": "#0072B2",
    "fo_maml": "#D55E00",
    "hf_maml": "#009E73",
    "maml_same_batch": "#CC79A7",
}
MARKERS = {"maml": "o", "fo_maml": "s", "hf_maml": "^", "maml_same_batch": "D"}
LABELS = {
    "maml": "MAML",
    "fo_maml": "FO-MAML",
    "hf_maml": "HF-MAML",
    "maml_same_batch": "MAML, same batch",
}
OTHER = ("#56B4E9", "#E69F00", "#F0E442", "#000000")
# Line styles: "--" derived, ":" as summarised, "-." exact.

WIDTH, HEIGHT = 2.9, 3.0
"""inches, of one panel: a column of a paper."""
NO_BREAK = "\N{NO-BREAK SPACE}"


def color(estimator: str) -> str:
    return COLORS.get(estimator, "#000000")


def label(estimator: str) -> str:
    return LABELS.get(estimator, estimator)


@contextlib.contextmanager
def style() -> Iterator[None]:
    settings: dict[Any, Any] = {
        "figure.dpi": 150,
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "lines.markersize": 3.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.5,
        "mathtext.fontset": "dejavusans",
        "svg.hashsalt": "jaxmaml",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
    }
    with mpl.rc_context(settings):
        yield


def panels(columns: int, rows: int = 1, *, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A row-major list of axes."""
    figure = Figure(figsize=(width * columns, HEIGHT * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def ordered(estimators: Iterable[object]) -> list[str]:
    """Names in the order of COLORS, others behind."""
    names = [str(e) for e in estimators]
    return sorted(dict.fromkeys(names), key=lambda e: (list(COLORS) + names).index(e))


def vanished(axis: Axes, x: Any, y: Any, text: str, **look: Any) -> None:
    """Values that are zero up to rounding, as markers on the lower edge; the legend says below what."""
    edge = axis.get_xaxis_transform()
    most = f"$10^{{{np.ceil(np.log10(max(np.max(y), 1e-16))):.0f}}}$"
    axis.plot(
        x, np.full(len(x), 0.03), transform=edge, linestyle="none", label=f"{text}, below {most}", **look
    )


def fitted(axis: Axes, x: Any, y: Any, of: str = "") -> None:
    """The least-squares line over exactly the fitted range; the legend gives slope and interval."""
    fit = results.slope(x, y)
    ends = np.array([np.min(x), np.max(x)], float)
    middle = np.exp(np.mean(np.log(x))), np.exp(np.mean(np.log(y)))
    # Beside the points, not over them.
    line = 0.7 * middle[1] * (ends / middle[0]) ** fit.mean
    error = "" if fit.n == 2 else rf" $\pm$ {(fit.high - fit.low) / 2:.1g}"
    name = f"fitted slope{' of ' + of + ':' if of else ''} {fit.mean:.3f}{error}"
    axis.loglog(ends, line, color="0.45", linewidth=0.8, marker="|", markersize=6, label=name)


def finish(figure: Figure, title: str, columns: int = 3) -> Figure:
    """Title, one legend for all panels below them, and axes in decades without labels between.

    Texts wrap to the room that they have, and the legend takes as many of `columns` as fit in the figure.
    """
    handles: dict[str, Artist] = {}
    for axis in figure.axes:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
        for which in (axis.xaxis, axis.yaxis):
            if which.get_scale() == "log":
                low, high = sorted(np.log10(which.get_view_interval()))
                which.set_minor_formatter(NullFormatter())
                if np.floor(high) - np.ceil(low) < 1:
                    # One label gives no scale.
                    which.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    which.set_major_formatter(StrMethodFormatter("{x:g}"))
        # Before the layout panels are smaller than after it.
        room = axis.get_window_extent()
        _wrap(axis.title, room.width)
        _wrap(axis.xaxis.label, room.width)
        _wrap(axis.yaxis.label, room.height)
    room = figure.bbox.width - 2 * _pad(figure)
    if handles:
        _legend(figure, handles, columns, room)
    _wrap(figure.suptitle(title, fontsize=9), room)
    return figure


def _pad(figure: Figure) -> float:
    """Pixels that the layout leaves at a side of the figure."""
    engine = figure.get_layout_engine()
    return engine.get()["w_pad"] * figure.dpi if engine else 0.0


def _legend(figure: Figure, handles: dict[str, Artist], columns: int, room: float) -> None:
    """The legend with the most columns that are within `room`; lines are broken where one column is not."""
    for count in range(columns, 0, -1):
        legend = figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=count)
        width = legend.get_window_extent().width
        if width <= room:
            return
        if count > 1:
            legend.remove()
    texts = legend.get_texts()
    beside = width - max(text.get_window_extent().width for text in texts)
    for text in texts:
        _wrap(text, room - beside)


def _wrap(text: Text, room: float) -> None:
    """Breaks the lines of a text between words, as little as takes it into `room` pixels along its lines."""
    whole = text.get_text()
    # No line ends within a formula.
    safe = re.sub(r"\$[^$]*\$", lambda formula: formula[0].replace(" ", NO_BREAK), whole)
    upright = text.get_rotation() == 90
    for length in range(max(map(len, safe.split("\n"))), 0, -1):
        box = text.get_window_extent()
        if (box.height if upright else box.width) <= room:
            return
        lines = [
            textwrap.fill(line, length, break_long_words=False, break_on_hyphens=False)
            for line in safe.split("\n")
        ]
        text.set_text("\n".join(lines).replace(NO_BREAK, " "))


def save(figure: Figure, files: Sequence[pathlib.Path]) -> None:
    """Writes the figure without dates, so that equal figures are equal files."""
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Subsetting fonts remarks on their dates.
        logging.getLogger("fontTools").setLevel(logging.ERROR)
        key = "CreationDate" if path.suffix == ".pdf" else "Date"
        figure.savefig(path, metadata={key: None})
