"""What the stories share: lines of theory by the dashes of `jaxmaml.plotting`, and names at lines."""

from typing import Any

from matplotlib.axes import Axes

from jaxmaml import plotting

Look = dict[str, Any]


def _line(kind: str) -> Look:
    return {"linestyle": plotting.THEORY[kind], "linewidth": 0.9, "zorder": 1}


DERIVED, SUMMARISED, EXACT = _line("derived"), _line("as summarised"), _line("exact")
ABOVE: Look = {"offset": (-5, 3), "ha": "right"}
BELOW: Look = {"offset": (5, -3), "va": "top"}
"""places of a name beside a line that rises, which it does not meet there."""
TALL = 2.7
"""inches of a panel."""
SMALL = 7.5
"""points: of what is written at a line."""


def of(estimator: str) -> Look:
    """The colour of a method, for what the legend or a text already names."""
    return {"color": plotting.color(estimator), "label": f"_{plotting.label(estimator)}"}


def named(axis: Axes, x: float, y: float, text: str, **look: Any) -> None:
    """A name at the point (x, y) of a line, `offset` points beside it; `look` as of a text."""
    about: Look = {"color": plotting.INK, "fontsize": SMALL, "xytext": look.pop("offset", (0, 0))} | look
    axis.annotate(text, (x, y), textcoords="offset points", **about)
