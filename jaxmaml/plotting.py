"""One art direction for all figures: what a reader has learnt at one of them holds at the next.

| what is drawn | how |
|---|---|
| a method | its colour and its marker (COLORS, MARKERS), which are used for nothing else |
| anything else that is measured | shades without a colour of their own and other markers (SHADES, MARKS) |
| theory, derived | dashed `--` |
| theory, as summarised | dotted `:` |
| theory, exact: a value that is predicted, not a bound | dash-dotted `-.` |
| theory of one method | these dashes, in the colour of the method; else in INK |

Methods stay apart in greyscale by their markers, theory by its dashes. A line is named beside it where that
covers no data (`name_line`), else in the legend. Every figure is as wide as a page of text (PAGE), so that
letters have one size on all of them. The background is white, also on a dark page: there a figure is a white
card, since colours that can be told apart on both are too few.
"""

import contextlib
import io
import itertools
import logging
import pathlib
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

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
UNKNOWN, UNKNOWN_MARKER = "#6B4C9A", "*"
"""of a method that is not named above."""

INK = "#333333"
"""of theory, and of marks that belong to no curve."""
SHADES = ("#333333", "#8C6D46", "#7D8894", "#B9A27C", "#A9B1B9")
"""of what is no method, from dark to light: ink, umber, slate, sand, mist."""
MARKS = ("p", "<", "h", ">", "d")
"""beside the SHADES."""
THEORY = {"derived": "--", "as summarised": ":", "exact": "-."}

PAGE = 6.8
"""inches across, of every figure."""
HEIGHT = 2.1
"""inches, of a row of panels; title and legend are added to it."""
PAD = 0.1
"""inches, between what is laid out."""
NO_BREAK = "\N{NO-BREAK SPACE}"
NAMED = "named at the line"
"""gid of a line whose label stands beside it."""
CANDIDATES = 60
"""points of a line that its name is tried at."""
NEAR = 3.0
"""points between a line and its name."""


def color(estimator: str) -> str:
    return COLORS.get(estimator, UNKNOWN)


def marker(estimator: str) -> str:
    return MARKERS.get(estimator, UNKNOWN_MARKER)


def label(estimator: str) -> str:
    return LABELS.get(estimator, estimator)


def look(estimator: str, *, hollow: bool = False) -> dict[str, Any]:
    """Colour and marker of a method; hollow for a variant of it."""
    shade = color(estimator)
    return {
        "color": shade,
        "marker": marker(estimator),
        "markerfacecolor": "white" if hollow else shade,
        "markeredgecolor": shade,
    }


def neutral(place: int, *, hollow: bool = False) -> dict[str, Any]:
    """Shade and marker of the place-th quantity that is no method."""
    shade = SHADES[place % len(SHADES)]
    return {
        "color": shade,
        "marker": MARKS[place % len(MARKS)],
        "markerfacecolor": "white" if hollow else shade,
        "markeredgecolor": shade,
    }


def theory(
    kind: Literal["derived", "as summarised", "exact"], shade: str = INK, *, named: bool = False
) -> dict[str, Any]:
    """Dashes and colour of a line of theory; its name beside it, as of `name_line`, or in the legend."""
    look = {"linestyle": THEORY[kind], "color": shade, "marker": "", "linewidth": 1.1}
    return look | ({"gid": NAMED} if named else {})


@contextlib.contextmanager
def style() -> Iterator[None]:
    settings: dict[Any, Any] = {
        "figure.dpi": 150,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "savefig.facecolor": "white",
        "savefig.transparent": False,
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.labelsize": 8.5,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "legend.handlelength": 2.4,
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
        "lines.markeredgewidth": 0.8,
        "axes.edgecolor": "0.3",
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
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


def panels(
    columns: int,
    rows: int = 1,
    *,
    width: float | None = None,
    height: float = HEIGHT,
    sharex: bool | Literal["none", "all", "row", "col"] = False,
    sharey: bool | Literal["none", "all", "row", "col"] = False,
) -> tuple[Figure, list[Axes]]:
    """A row-major list of axes; width and height in inches, of one panel."""
    size = (PAGE if width is None else width * columns, height * rows)
    figure = Figure(figsize=size, layout="constrained")
    # With a canvas, texts are measured by one renderer, which remembers them; without, by a new one each.
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
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
        x,
        np.full(len(x), 0.03),
        transform=edge,
        label=f"{text}, below {most}",
        **look | {"linestyle": "none"},
    )


def name_line(line: Line2D) -> Line2D:
    """Has `finish` write the label of a line beside it, if it covers nothing there; else in the legend."""
    line.set_gid(NAMED)
    return line


def fitted(axis: Axes, x: Any, y: Any, of: str = "") -> None:
    """The least-squares line over exactly the fitted range; the legend gives slope and interval."""
    fit = statistics.slope(x, y)
    ends = np.array([np.min(x), np.max(x)], float)
    middle = np.exp(np.mean(np.log(x))), np.exp(np.mean(np.log(y)))
    # Beside the points, not over them.
    line = 0.7 * middle[1] * (ends / middle[0]) ** fit.mean
    error = "" if fit.n == 2 else rf" $\pm$ {(fit.high - fit.low) / 2:.1g}"
    name = f"fitted slope{' of ' + of + ':' if of else ''} {fit.mean:.3f}{error}"
    axis.loglog(ends, line, color=SHADES[2], linewidth=0.8, marker="|", markersize=6, label=name)


def finish(
    figure: Figure, title: str, columns: int = 3, *, key: Literal["below", "right"] | Axes = "below"
) -> Figure:
    """Title, one legend for all panels, names beside lines, and axes in decades without labels between.

    Args:
      columns: of the legend below the panels; it takes as many of them as fit in the figure.
      key: where the legend is: below the panels, right of them, or in the place of a panel without data.

    Texts wrap to the room that they have.
    """
    for axis in figure.axes:
        for which in (axis.xaxis, axis.yaxis):
            if which.get_scale() == "log":
                low, high = sorted(np.log10(which.get_view_interval()))
                which.set_minor_formatter(NullFormatter())
                if np.floor(high) - np.ceil(low) < 1:
                    # One label gives no scale.
                    which.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    which.set_major_formatter(StrMethodFormatter("{x:g}"))
    if isinstance(key, Axes):
        key.set_visible(False)
    engine = figure.get_layout_engine()
    room = figure.bbox.width
    if engine is not None:
        room -= 2 * engine.get()["w_pad"] * figure.dpi
    _wrap(figure.suptitle(title, fontsize=9.5), room)
    named = [line for axis in figure.axes for line in axis.lines if line.get_gid() == NAMED]
    height, legend = figure.get_figheight(), None
    while True:
        if legend is not None:
            legend.remove()
        legend = _legend(figure, named, columns, room, key)
        figure.set_figheight(_height(figure, height, legend, key))
        _wrap_labels(figure)
        if legend is not None and isinstance(key, Axes):
            _into(legend, key)
        left, texts = _beside(named)
        if not left:
            break
        # What has no place beside its line goes to the legend, which moves the panels.
        for text in texts:
            text.remove()
        named = [line for line in named if line not in left]
    # Laid out now: every file that is drawn of it would do so again, which takes as long as the drawing.
    figure.set_layout_engine("none")
    return figure


def _legend(
    figure: Figure, named: Sequence[Line2D], columns: int, room: float, key: Literal["below", "right"] | Axes
) -> Legend | None:
    """The legend of what is not named at its line; as many columns as have room, lines broken to fit."""
    elsewhere = {line.get_label() for line in named}
    handles: dict[str, Artist] = {}
    for axis in figure.axes:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            if text not in elsewhere:
                handles.setdefault(text, handle)
    if not handles:
        return None

    def legend(place: Any, count: int = 1) -> Legend:
        return figure.legend(list(handles.values()), list(handles), loc=place, ncols=count)

    if key == "below":
        for count in range(columns, 0, -1):
            made = legend("outside lower center", count)
            if count == 1 or made.get_window_extent().width <= room:
                break
            made.remove()
    elif key == "right":
        made, room = legend("outside right center"), 0.36 * room
    else:
        made, room = legend("center"), key.get_window_extent().width
        made.set_in_layout(False)
    texts = made.get_texts()
    beside = made.get_window_extent().width - max(text.get_window_extent().width for text in texts)
    for text in texts:
        _wrap(text, room - beside)
    return made


def _height(figure: Figure, panels: float, legend: Legend | None, key: str | Axes) -> float:
    """Inches that panels of this height need with the title above and the legend below or beside them."""

    def inches(part: Any) -> float:
        return 0.0 if part is None else part.get_window_extent().height / figure.dpi

    below, beside = (inches(legend) if key == where else 0.0 for where in ("below", "right"))
    return inches(figure._suptitle) + max(panels + below, beside + 2 * PAD)  # type: ignore[attr-defined]


def _into(legend: Legend, axis: Axes) -> None:
    """Moves a legend to the middle of a panel's place."""
    legend.set_bbox_to_anchor(axis.get_position(), axis.figure.transSubfigure)


def _beside(named: Sequence[Line2D]) -> tuple[list[Line2D], list[Text]]:
    """Writes the names of lines beside them; (those without a place for it, the texts)."""
    left: list[Line2D] = []
    texts: list[Text] = []
    for line in named:
        axis = line.axes
        if not isinstance(axis, Axes):
            continue
        text = axis.text(
            0,
            0,
            str(line.get_label()),
            color=line.get_color(),
            transform=None,
            fontsize=mpl.rcParams["font.size"],
        )
        place = _place(axis, line, text)
        if place is None:
            text.remove()
            left.append(line)
        else:
            # In parts of the panel, so that it stays at its place in every size.
            text.set_transform(axis.transAxes)
            text.set_position(tuple(axis.transAxes.inverted().transform(place)))
            texts.append(text)
    return left, texts


def _place(axis: Axes, line: Line2D, text: Text) -> np.ndarray | None:
    """The lower left corner, in pixels, of a text that touches a line and lies on nothing else."""
    near = NEAR * _pixels(axis)
    box = text.get_window_extent()
    size = np.array([box.width, box.height])
    inside = axis.get_window_extent()
    own = _dots(line.get_transform().transform_path(line.get_path()))
    own = own[np.all((own >= inside.min) & (own <= inside.max), axis=1)]
    taken = np.concatenate([*_obstacles(axis, line), *(_edges(t) for t in axis.texts if t is not text)])
    filled = list(_filled(axis))
    # From the right end on, above and below: there the eye leaves the curve.
    order = own[np.argsort(-own[:, 0], kind="stable")][:: max(len(own) // CANDIDATES, 1)]
    sides = np.array(list(itertools.product((-1, 0, -0.5), (1, 0))))
    # Beside a steep line as well as above or below a flat one.
    moved = np.where(
        sides[:, :1] == -0.5, -0.5 * size[0], sides[:, :1] * size[0] + near * (1 + 2 * sides[:, :1])
    )
    raised = np.where(sides[:, 1:] == 1, near, -near - size[1])
    lows = (order[:, None] + np.concatenate([moved, raised], axis=1)).reshape(-1, 2)
    lows = lows[np.all((lows >= inside.min) & (lows + size <= inside.max), axis=1)]
    for room in (2 * near, 0.4 * near):
        for low in lows:
            if (
                not _any_within(taken, low - room, low + size + room)
                and not _any_within(own, low - 0.4 * near, low + size + 0.4 * near)
                and not any(path.intersects_bbox(Bbox([low, low + size])) for path in filled)
            ):
                # The text's own origin is its baseline.
                return low - box.min
    return None


def _any_within(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> bool:
    return bool(np.any(np.all((points > low) & (points < high), axis=1)))


def _pixels(axis: Axes) -> float:
    """Pixels of a point."""
    return axis.figure.get_dpi() / 72


def _obstacles(axis: Axes, named: Line2D) -> Iterator[np.ndarray]:
    """Dots on everything that is drawn in a panel, in pixels, but for the line that is named."""
    yield np.empty((0, 2))
    for line in axis.lines:
        if line is named:
            continue
        if line.get_linestyle() not in ("None", "none", " ", ""):
            yield _dots(line.get_transform().transform_path(line.get_path()))
        yield line.get_transform().transform(line.get_xydata())
    for patch in axis.patches:
        yield _dots(patch.get_transform().transform_path(patch.get_path()))
    for collection in axis.collections:
        yield collection.get_offset_transform().transform(collection.get_offsets())
        for path in collection.get_paths():
            yield _dots(collection.get_transform().transform_path(path))


def _filled(axis: Axes) -> Iterator[Path]:
    """Areas, in pixels."""
    for patch in axis.patches:
        if patch.get_fill():
            yield patch.get_transform().transform_path(patch.get_path())
    for collection in axis.collections:
        if np.size(collection.get_facecolor()) and len(np.atleast_2d(collection.get_offsets())) <= 1:
            for path in collection.get_paths():
                yield collection.get_transform().transform_path(path)


def _dots(path: Path) -> np.ndarray:
    """Points on a path, at most a few pixels apart."""
    found = [np.empty((0, 2))]
    for polygon in map(np.asarray, path.cleaned(remove_nans=True).to_polygons(closed_only=False)):
        steps = np.clip(np.linalg.norm(np.diff(polygon, axis=0), axis=1) / 3, 1, 3000).astype(int)
        for start, end, count in zip(polygon[:-1], polygon[1:], steps, strict=True):
            found.append(start + np.linspace(0, 1, count + 1)[:, None] * (end - start))
    return np.concatenate(found)


def _edges(text: Text) -> np.ndarray:
    """Dots in the box of a text."""
    box = text.get_window_extent()
    x, y = np.meshgrid(np.linspace(box.x0, box.x1, 60), np.linspace(box.y0, box.y1, 8))
    return np.stack([x.ravel(), y.ravel()], axis=1)


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


def files(where: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Of a figure: the SVG, which is committed, and the PDF, in a folder of its own that is not.

    Each folder has the sums of its files: those of the one that is committed name nothing that is missing.
    """
    return [where / f"{name}.svg", where / "pdf" / f"{name}.pdf"]


def save(figure: Figure, files: Sequence[pathlib.Path]) -> None:
    """Writes the figure without dates, so that equal figures are equal files."""
    for path in files:
        # Subsetting fonts remarks on their dates.
        logging.getLogger("fontTools").setLevel(logging.ERROR)
        key = "CreationDate" if path.suffix == ".pdf" else "Date"
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:], metadata={key: None})
        storage.write(path, drawn.getvalue())
