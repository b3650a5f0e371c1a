"""One style for all figures: a colour-blind safe colour and a marker a method, the same everywhere."""

import contextlib
import io
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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from jaxmaml import statistics, storage

# Okabe and Ito's palette.
COLORS = {
    "maml": "#0072B2",
    "fo_maml": "#D55E00",
    "hf_maml": "#009E73",
    "maml_same_batch": "#CC79A7",
    "imaml": "#56B4E9",
    "fo_b_maml": "#E69F00",
    "reptile": "#000000",
}
MARKERS = {
    "maml": "o",
    "fo_maml": "s",
    "hf_maml": "^",
    "maml_same_batch": "D",
    "imaml": "v",
    "fo_b_maml": "P",
    "reptile": "X",
}
LABELS = {
    "maml": "MAML",
    "fo_maml": "FO-MAML",
    "hf_maml": "HF-MAML",
    "maml_same_batch": "MAML, same batch",
    "imaml": "iMAML",
    "fo_b_maml": "FO-B-MAML",
    "reptile": "Reptile",
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
        # Letters fitted to pixels are wider the fewer there are: what fits at one size would not at another.
        "text.hinting": "none",
        "svg.hashsalt": "jaxmaml",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
    }
    with mpl.rc_context(settings):
        yield


def panels(columns: int, rows: int = 1, *, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A row-major list of axes."""
    figure = Figure(figsize=(width * columns, HEIGHT * rows), layout="constrained")
    # With a canvas, texts are measured by one renderer, which remembers them; without, by a new one each.
    FigureCanvasAgg(figure)
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
    fit = statistics.slope(x, y)
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
    engine = figure.get_layout_engine()
    room = figure.bbox.width
    if engine is not None:
        room -= 2 * engine.get()["w_pad"] * figure.dpi
    if handles:
        _legend(figure, handles, columns, room)
    _wrap(figure.suptitle(title, fontsize=9), room)
    _wrap_labels(figure)
    # Laid out now: every file that is drawn of it would do so again, which takes as long as the drawing.
    figure.set_layout_engine("none")
    return figure


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


def _wrap_labels(figure: Figure) -> None:
    """Wraps the title and labels of each panel to the panel's size."""
    whole = {text: text.get_text() for axis in figure.axes for text in _labels(axis)}
    engine = figure.get_layout_engine()
    broken = True
    # Only the layout gives panels their size, and lines that are broken take room from them.
    while broken:
        if engine is not None:
            engine.execute(figure)
        broken = False
        for axis in figure.axes:
            for text, room in _labels(axis).items():
                broken |= _wrap(text, room, whole[text])


def _labels(axis: Axes) -> dict[Text, float]:
    """The title and labels of a panel, and the pixels that the panel has along their lines."""
    box = axis.get_window_extent()
    return {axis.title: box.width, axis.xaxis.label: box.width, axis.yaxis.label: box.height}


def _wrap(text: Text, room: float, whole: str | None = None) -> bool:
    """Breaks the lines of a text (of `whole`, unbroken) between words, as little as takes them into `room`.

    True if this changed the text.
    """

    def fits() -> bool:
        box = text.get_window_extent()
        return (box.height if text.get_rotation() == 90 else box.width) <= room

    if fits():
        return False
    before = text.get_text()
    # No line ends within a formula.
    safe = re.sub(r"\$[^$]*\$", lambda formula: formula[0].replace(" ", NO_BREAK), whole or before)
    lines = safe.split("\n")
    for length in range(max(map(len, lines)), 0, -1):
        filled = [textwrap.fill(x, length, break_long_words=False, break_on_hyphens=False) for x in lines]
        text.set_text("\n".join(filled).replace(NO_BREAK, " "))
        if fits():
            break
    return text.get_text() != before


def save(figure: Figure, files: Sequence[pathlib.Path]) -> None:
    """Writes the figure without dates, so that equal figures are equal files."""
    for path in files:
        # Subsetting fonts remarks on their dates.
        logging.getLogger("fontTools").setLevel(logging.ERROR)
        key = "CreationDate" if path.suffix == ".pdf" else "Date"
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:], metadata={key: None})
        storage.write(path, drawn.getvalue())
