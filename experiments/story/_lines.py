"""What the stories share: theory is dashed and named at its line."""

from typing import Any

from matplotlib.axes import Axes

Look = dict[str, Any]
GREY = "0.35"
THEORY: Look = {"linestyle": (0, (4, 2)), "color": GREY, "linewidth": 0.9, "zorder": 1}
"""of a line that no single method owns."""
ABOVE: Look = {"offset": (-5, 3), "ha": "right"}
BELOW: Look = {"offset": (5, -3), "va": "top"}
"""places of a name beside a line that rises, which it does not meet there."""
SMALL = 7
"""points: of what is written at a line."""


def named(axis: Axes, x: float, y: float, text: str, **look: Any) -> None:
    """A name at the point (x, y) of a line, `offset` points beside it; `look` as of a text."""
    about: Look = {"color": GREY, "fontsize": SMALL, "xytext": look.pop("offset", (0, 0))} | look
    axis.annotate(text, (x, y), textcoords="offset points", **about)
