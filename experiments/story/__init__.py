"""The paper's story in four figures, drawn from the tables of several claims.

Each module declares TITLE, TABLES (the claims whose tables it needs) and `draw(tables) -> Figure`; the
docstring of `draw` is the caption. A story reads tables and `jaxmaml.theory`, never a run.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from jaxmaml import identity, plotting

Draw = Callable[[Mapping[str, pd.DataFrame]], Figure]

NAMES = ("methods", "iterations", "floors", "costs")
"""in the order of the story."""


class Story(NamedTuple):
    """One figure: `draw(tables)` takes the table of each claim in `tables`, by name."""

    name: str
    title: str
    caption: str
    """two sentences that say what to see."""
    tables: tuple[str, ...]
    draw: Draw

    @property
    def file(self) -> str:
        """The name of its figure, without what says the format."""
        return f"story_{self.name}"

    def drawing(self) -> dict[str, str]:
        """Identifies the code from the tables to the figure."""
        return identity.code(self.draw, plotting.style, plotting.save)


def _story(name: str) -> Story:
    module = importlib.import_module(f"{__name__}.{name}")
    caption = " ".join((inspect.getdoc(module.draw) or "").split())
    return Story(name, module.TITLE, caption, module.TABLES, module.draw)


STORIES: dict[str, Story] = {name: _story(name) for name in NAMES}
