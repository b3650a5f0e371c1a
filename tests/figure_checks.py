"""What no figure may do, and what it has to do.

No figure may leave its canvas, print text upon text, or cover data with text or a legend (`complaints`). The
art direction of `jaxmaml.plotting` says the rest (`faults`): size of letters, colours and markers of methods,
names of axes and curves, number of panels, the caption, a white ground.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from jaxmaml import plotting

NARROW = 400
"""pixels across: a figure on a telephone."""
SLACK = 0.5
"""pixels: less is rounding to whole pixels."""
LETTERS = {700: 8.0, 400: 6.0}
"""pixels of a page -> least height of letters there."""
PANELS = 4
UNIT = r"\[.+\]"
PLAIN = r"\([abcde]2?\)|\bE\d\d\b|_[a-z]"
"""what titles and captions say in words: families, experiments, names of the code."""


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


# The art direction


def faults(figure: Figure, caption: str) -> list[str]:
    """What is wrong with a figure and its caption, as the art direction has it; empty for a good one."""
    figure.draw_without_rendering()
    data = [axes for axes in figure.axes if axes.get_visible() and not axes.images and axes.axison]
    return [
        *_caption(caption),
        *_letters(figure),
        *_ground(figure, data),
        *([f"{len(data)} panels; at most {PANELS}"] if len(data) > PANELS else []),
        *_titles(figure),
        *(what for axes in data for what in (*_units(axes), *_methods(axes), *_unnamed(figure, axes))),
    ]


def _caption(caption: str) -> Iterator[str]:
    count = len(re.findall(r"[.?!](?=\s|$)", caption))
    if not 1 <= count <= 2 or not caption.rstrip().endswith("."):
        yield f"the caption has {count} sentences; one or two: {caption!r}"
    if re.search(PLAIN, re.sub(r"\$[^$]*\$", "", caption)):
        yield f"the caption is not in plain words: {caption!r}"


def _letters(figure: Figure) -> Iterator[str]:
    for text in _drawn_texts(figure):
        for across, least in LETTERS.items():
            pixels = text.get_fontsize() * across / (72 * figure.get_figwidth())
            if pixels < least:
                yield f"{text.get_text()!r} has letters of {pixels:.1f} pixels on {across}; at least {least}"


def _ground(figure: Figure, data: list[Axes]) -> Iterator[str]:
    patches = [figure.patch, *(axes.patch for axes in data)]
    white = all(patch.get_visible() and to_rgba(patch.get_facecolor()) == (1, 1, 1, 1) for patch in patches)
    if not white or rcParams["savefig.transparent"] or to_hex(rcParams["savefig.facecolor"]) != "#ffffff":
        yield "the ground is not white"


def _titles(figure: Figure) -> Iterator[str]:
    for title in (figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)):
        if re.search(PLAIN, re.sub(r"\$[^$]*\$", "", title)):
            yield f"the title {title!r} is not in plain words"
    if not figure.get_suptitle():
        yield "no title"


def _units(axes: Axes) -> Iterator[str]:
    """Every axis says what it is and in what unit, but for those that share it with one that does."""
    for name, shared in (("x", axes.get_shared_x_axes()), ("y", axes.get_shared_y_axes())):
        labels = [getattr(one, f"get_{name}label")() for one in shared.get_siblings(axes)]
        own = getattr(axes, f"get_{name}label")()
        if not re.search(UNIT, own, re.DOTALL) and (
            own or not any(re.search(UNIT, x, re.DOTALL) for x in labels)
        ):
            yield f"the {name} axis {own!r} of the panel {axes.get_title()!r} has no unit"


class Drawn(NamedTuple):
    """Something with a label that is drawn in a panel."""

    label: str
    colors: set[str]
    markers: set[str]


def _drawn(axes: Axes) -> list[Drawn]:
    """All curves, markers, bands and bars of a panel; the parts of error bars are one."""
    parts, found = set(), []
    for container in axes.containers:
        flat = [
            a for part in container for a in (part if isinstance(part, tuple) else (part,)) if a is not None
        ]
        parts.update(flat)
        each = [_one(artist) for artist in flat]
        found.append(
            Drawn(
                str(container.get_label()),
                set().union(*(one.colors for one in each)),
                set().union(*(one.markers for one in each)) - {"|", "_"},
            )
        )
    artists = (*axes.lines, *axes.patches, *axes.collections)
    return found + [_one(a) for a in artists if a not in parts and a.get_visible()]


def _one(artist: Artist) -> Drawn:
    label, markers = str(artist.get_label()), set()
    if isinstance(artist, Line2D):
        shades = [artist.get_color()]
        if artist.get_marker() not in ("None", "none", " ", "", None):
            markers = {str(artist.get_marker())}
            shades += [artist.get_markerfacecolor(), artist.get_markeredgecolor()]
    else:
        shades = [
            x for which in (artist.get_facecolor(), artist.get_edgecolor()) for x in np.atleast_2d(which)
        ]
    solid = [
        shade for shade in shades if not (isinstance(shade, str) and shade == "none") and to_rgba(shade)[3]
    ]
    return Drawn(label, {to_hex(shade).upper() for shade in solid}, markers)


def methods_named(text: str) -> set[str]:
    """The methods that a text names; the longest name at each place."""
    names = sorted(plotting.LABELS, key=lambda name: -len(plotting.LABELS[name]))
    plain = "|".join(rf"(?P<{name}>(?<![\w-]){re.escape(plotting.LABELS[name])}(?![\w-]))" for name in names)
    return {str(match.lastgroup) for match in re.finditer(plain, " ".join(text.removeprefix("_").split()))}


def _methods(axes: Axes) -> Iterator[str]:
    """Colours and markers of methods are on what is named after them, and what is has them."""
    here = methods_named(axes.get_title())
    drawn = [
        *_drawn(axes),
        *(Drawn(t.get_text(), {to_hex(t.get_color()).upper()} - {"#000000"}, set()) for t in axes.texts),
    ]
    for label, colors, markers in drawn:
        named = methods_named(label)
        for name in plotting.COLORS:
            if plotting.COLORS[name].upper() in colors and name not in named | here:
                yield f"{label!r} has the colour of {plotting.label(name)}"
            if plotting.MARKERS[name] in markers and name not in named | here:
                yield f"{label!r} has the marker of {plotting.label(name)}"
        if len(named) == 1:
            (name,) = named
            if plotting.COLORS[name].upper() not in colors and colors:
                yield f"{label!r} has not the colour of {plotting.label(name)}"
            strange = markers & set(plotting.MARKERS.values()) - {plotting.MARKERS[name]}
            if strange:
                yield f"{label!r} has the marker {strange} of another method than {plotting.label(name)}"


def _unnamed(figure: Figure, axes: Axes) -> Iterator[str]:
    """The label of each curve is in the legend, at the curve, or, of what goes with another, its label."""
    words = {" ".join(text.get_text().split()) for text in _drawn_texts(figure)}
    for label, *_ in _drawn(axes):
        if " ".join(label.removeprefix("_").split()) not in words:
            yield f"a curve of the panel {axes.get_title()!r} has no name that is shown: {label!r}"
