"""One claim a file. The module's name is the word on the command line; its docstring is the statement.

A claim module defines

    TITLE: str                                   one line for listings
    grid(scale) -> [(labels, cell), ...]         what to run; labels become columns
    measure(rows, scale) -> DataFrame            the small table that is committed
    judge(table) -> [LedgerRow, ...]             verdicts, computed from that table alone
    figure(table) -> matplotlib Figure           drawn from that table and `jaxmaml.theory` alone
"""

import functools
import sys
from types import ModuleType

from jaxmaml import discover
from jaxmaml.checks import unknown


@functools.cache
def claims() -> dict[str, ModuleType]:
    """Every claim module by name."""
    return discover.modules(sys.modules[__name__])


def get(name: str) -> ModuleType:
    """The claim of that name; ValueError with the known names and the nearest one."""
    if name not in claims():
        unknown("experiment", name, [*claims(), "all"])
    return claims()[name]
