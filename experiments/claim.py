"""A claim, declared: what is run, what is measured of it, the rows of the ledger that follow, a figure.

    claim = Claim("E10", "the tasks' gradients against the gradient of F", place="MAML theorem")

    @claim.cells
    def cells(scale):                 # yields (labels, cell); labels become columns
    @claim.per("family", "lam")
    def measured(part, cell):         # rows of the sweep that share these labels, and their first cell
    @claim.rows
    def rows(table, row):             # yields row.at_most(...), row.within(...), ...
    @claim.figure
    def figure(table):                # draws the table

The docstring of the module is the statement; `experiments.claims` finds the file.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cells
from experiments.judging import Rows
from experiments.results import LedgerRow, Place
from jaxmaml import identity, plotting

F = TypeVar("F", bound=Callable[..., Any])
Swept = Sequence[tuple[Mapping[str, Any], Any]]
"""(labels, cell) pairs that were swept."""


class Claim:
    """One claim with its experiment: a module of `experiments.claims` has one, by the name `claim`.

    Args:
      number: experiment, e.g. E14; a row may name another.
      title: one line for listings, written as one string.
      place: the part of the paper that its rows are about, unless they say otherwise.
      source: `as summarised`, `derived`, or what of each, likewise.
    """

    def __init__(
        self, number: str, title: str, *, place: Place = "assumptions", source: str = "derived"
    ) -> None:
        self.number, self.title, self.place, self.source = number, title, place, source
        self.module: str = sys._getframe(1).f_globals["__name__"]
        self._cells: Callable[[str], Iterable[tuple[dict[str, Any], Any]]]
        self._table: Callable[[pd.DataFrame, Swept], pd.DataFrame]
        self._rows: Callable[[pd.DataFrame, Rows], Iterable[LedgerRow]]
        self._figure: Callable[[pd.DataFrame], Figure]

    @property
    def name(self) -> str:
        """The word on the command line."""
        return self.module.rsplit(".", 1)[-1]

    @property
    def about(self) -> str:
        """The statement: the module's docstring."""
        return inspect.getdoc(self.source_module) or ""

    @property
    def caption(self) -> str:
        """What to see in the figure: the docstring of the function that draws it."""
        return inspect.getdoc(self._figure) or ""

    @property
    def source_module(self) -> ModuleType:
        return sys.modules[self.module]

    # Declarations

    def cells(self, function: F) -> F:
        """function(scale) yields what to run, (labels, cell)."""
        self._cells = function
        return function

    def per(self, *labels: str) -> Callable[[F], F]:
        """function(part, cell) measures rows that agree in these labels; `cell` is the first of their cells.

        It returns a row of the table, or several, as mappings or a frame; the labels become columns.
        """

        def decorate(function: F) -> F:
            self._table = _grouped(labels, function)
            return function

        return decorate

    def table(self, function: F) -> F:
        """function(rows, cells) measures all at once; the column `cell` is the place in `cells`."""
        self._table = function
        return function

    def rows(self, function: F) -> F:
        """function(table, row) yields rows of the ledger, made by the methods of `row`."""
        self._rows = function
        return function

    def figure(self, function: F) -> F:
        """function(table) draws the figure from the table and `jaxmaml.theory` alone."""
        self._figure = function
        return function

    # What they are for

    def code(self) -> dict[str, str]:
        """Identifies the code from the scale to the verdicts."""
        return identity.code(type(self), self._cells, self._table, self._rows)

    def drawing(self) -> dict[str, str]:
        """Identifies the code from the table to the figure."""
        return identity.code(self._figure, plotting.style, plotting.save)

    def grid(self, scale: str) -> Cells:
        return list(self._cells(scale))

    def measure(self, rows: pd.DataFrame, cells: Swept) -> pd.DataFrame:
        """The small table that is committed, of the rows of the sweep of these cells, a `grid`."""
        return self._table(rows, cells)

    def judge(self, table: pd.DataFrame) -> list[LedgerRow]:
        """The verdicts, computed from the table alone.

        Twice: intervals are as wide as the number of comparisons asks, which is known after the first time.
        """
        count = Rows(self.number, self.place, self.source)
        list(self._rows(table, count))
        return list(self._rows(table, Rows(self.number, self.place, self.source, max(count.compared, 1))))

    def draw(self, table: pd.DataFrame) -> Figure:
        return self._figure(table)


def _grouped(
    labels: tuple[str, ...], function: Callable[[pd.DataFrame, Any], Any]
) -> Callable[[pd.DataFrame, Swept], pd.DataFrame]:
    def table(rows: pd.DataFrame, cells: Swept) -> pd.DataFrame:
        frames = []
        for values, part in rows.groupby(list(labels), sort=False, dropna=False):
            found = function(part, cells[int(part.cell.iloc[0])][1])
            frame = pd.DataFrame([found] if isinstance(found, Mapping) else found)
            about = {name: value for name, value in zip(labels, values, strict=True) if name not in frame}
            frames.append(pd.concat([pd.DataFrame(about, index=frame.index), frame], axis=1))
        return pd.concat(frames, ignore_index=True)

    return table
