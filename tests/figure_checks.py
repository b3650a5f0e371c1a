"""What no figure may do: leave its canvas, print text upon text, or cover data with text or a legend."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

NARROW = 400
"""pixels across: a figure on a telephone."""
SLACK = 0.5
"""pixels: less is rounding to whole pixels."""


class Printed(NamedTuple):
    """A text as it is drawn."""

    words: str
    box: Bbox
    corners: np.ndarray
    """of its own rectangle, which is smaller than `box` where the text is rotated."""


def complaints(figure: Figure, dpi: float | None = None) -> list[str]:
    """What is wrong with a figure that is laid out anew at `dpi` (its own if None); empty for a good one."""
    figure.set_dpi(dpi or figure.get_dpi())
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    texts = [_printed(text, renderer) for text in _drawn_texts(figure)]
    panels = {axes: axes.get_tightbbox(renderer) for axes in figure.axes if axes.get_visible()}
    found = [*_cut(figure, texts, panels), *_overprinted(texts), *_covered(figure, texts, panels, renderer)]
    return [f"{what}, at {figure.bbox.width:.0f} pixels across" for what in found]


def narrow(figure: Figure) -> float:
    """The dpi at which the figure is NARROW pixels across."""
    return NARROW / figure.get_figwidth()


def _drawn_texts(figure: Figure) -> list[Text]:
    """Every text with something to show. Axes keep tick labels outside their view, which are not drawn."""
    hidden: set[Artist] = set()
    for axes in figure.axes:
        if not axes.get_visible():
            hidden.update(axes.findobj(Text))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_transform().transform(axis.get_view_interval()))
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                place = axis.get_transform().transform(tick.get_loc())
                if not low - 1e-9 * (high - low) <= place <= high + 1e-9 * (high - low):
                    hidden.update((tick.label1, tick.label2))
    texts = figure.findobj(Text)
    return [t for t in texts if t.get_visible() and t.get_text().strip() and t not in hidden]


def _printed(text: Text, renderer: RendererBase) -> Printed:
    box = text.get_window_extent(renderer)
    angle = text.get_rotation()
    size = np.array([box.width, box.height])
    if angle % 90:  # the box stands around the rotated rectangle, about the same centre
        text.set_rotation(0)
        straight = text.get_window_extent(renderer)
        text.set_rotation(angle)
        size = np.array([straight.width, straight.height])
    else:
        angle = 0
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * size
    centre = (box.min + box.max) / 2
    return Printed(text.get_text(), box, centre + corners @ np.array([[cosine, sine], [-sine, cosine]]))


def _cut(figure: Figure, texts: list[Printed], panels: dict[Axes, Bbox]) -> Iterator[str]:
    drawn = [(f"the panel {axes.get_title()!r}", box) for axes, box in panels.items()]
    for words, box in (*drawn, *((repr(text.words), text.box) for text in texts)):
        beyond = max(*(figure.bbox.min - box.min), *(box.max - figure.bbox.max))
        if beyond > SLACK:
            yield f"{words} reaches {beyond:.1f} pixels beyond the canvas"


def _overprinted(texts: list[Printed]) -> Iterator[str]:
    for one, other in itertools.combinations(texts, 2):
        if one.box.overlaps(other.box):
            depth = _depth(one.corners, other.corners)
            if depth > SLACK:
                yield f"{one.words!r} and {other.words!r} overlap by {depth:.1f} pixels"


def _depth(one: np.ndarray, other: np.ndarray) -> float:
    """How deep two rectangles lie in each other: the least over the directions of their sides."""
    depths = []
    for corners in (one, other):
        for side in (corners[1] - corners[0], corners[3] - corners[0]):
            direction = side / np.linalg.norm(side)
            a, b = one @ direction, other @ direction
            depths.append(min(a.max(), b.max()) - max(a.min(), b.min()))
    return min(depths)


def _covered(
    figure: Figure, texts: list[Printed], panels: dict[Axes, Bbox], renderer: RendererBase
) -> Iterator[str]:
    for legend, (axes, tight) in itertools.product(figure.legends, panels.items()):
        common = Bbox.intersection(tight, legend.get_window_extent(renderer))
        if common and min(common.size) > SLACK:
            yield f"the figure's legend lies over the panel {axes.get_title()!r}"
    for axes in panels:
        legends = [child for child in axes.get_children() if isinstance(child, Legend)]
        boxes = [("an axes' legend", legend.get_window_extent(renderer)) for legend in legends]
        for words, box in (*boxes, *((repr(text.words), text.box) for text in texts)):
            inside = Bbox.intersection(box, axes.bbox)
            if inside and min(inside.size) > 0 and _meets_data(axes, inside):
                yield f"{words} covers data of the panel {axes.get_title()!r}"


def _meets_data(axes: Axes, box: Bbox) -> bool:
    if any(Bbox.intersection(image.get_window_extent(), box) for image in axes.images):
        return True
    if any(line.get_visible() and _meets_line(line, box) for line in axes.lines):
        return True
    for patch in axes.patches:
        path = patch.get_transform().transform_path(patch.get_path())
        if patch.get_visible() and path.intersects_bbox(box, filled=bool(patch.get_fill())):
            return True
    for collection in axes.collections:
        paths = collection.get_paths()
        if len(collection.get_offsets()) > 1:  # markers
            points = collection.get_offset_transform().transform(collection.get_offsets())
            if np.any(_within(points, box)):
                return True
        elif collection.get_visible():
            filled = len(collection.get_facecolor()) > 0
            moved = (collection.get_transform().transform_path(path) for path in paths)
            if any(path.cleaned(remove_nans=True).intersects_bbox(box, filled=filled) for path in moved):
                return True
    return False


def _meets_line(line: Line2D, box: Bbox) -> bool:
    path = line.get_transform().transform_path(line.get_path()).cleaned(remove_nans=True)
    pixels = line.get_figure(root=True).get_dpi() / 72
    if line.get_linestyle() not in ("None", "none", " ", ""):
        room = max(line.get_linewidth() * pixels / 2 - SLACK, 0)
        if path.intersects_bbox(box.padded(room), filled=False):
            return True
    if line.get_marker() in ("None", "none", " ", "", None):
        return False
    room = max(line.get_markersize() * pixels / 2 - SLACK, 0)
    return bool(np.any(_within(line.get_transform().transform(line.get_xydata()), box.padded(room))))


def _within(points: np.ndarray, box: Bbox) -> np.ndarray:
    return np.all((points >= box.min) & (points <= box.max), axis=1)
