"""One claim a file. The module's name is the word on the command line; its docstring is the statement.

A claim module defines

    TITLE: str                                   one line for listings, written as one string
    grid(scale) -> [(labels, cell), ...]         what to run; labels become columns
    measure(rows, scale) -> DataFrame            the small table that is committed
    judge(table) -> [LedgerRow, ...]             verdicts, computed from that table alone
    figure(table) -> matplotlib Figure           drawn from that table and `jaxmaml.theory` alone

Names and titles are read from the files; a module, and with it JAX, is imported when its claim is asked for.
"""

import ast
import importlib
import pathlib
from types import ModuleType

from jaxmaml.names import unknown

HERE = pathlib.Path(__file__).parent


def names() -> list[str]:
    """The name of every claim, in alphabetical order."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def titles() -> dict[str, str]:
    """TITLE of every claim by name."""
    return {name: _title(HERE / f"{name}.py") for name in names()}


def claims() -> dict[str, ModuleType]:
    """Every claim module by name."""
    return {name: get(name) for name in names()}


def get(name: str) -> ModuleType:
    """The claim of that name; ValueError with the known names and the nearest one."""
    return importlib.import_module(f"{__name__}.{_known(name)}")


def select(experiment: str) -> list[str]:
    """The name of one claim, or of all of them; ValueError as for `get`, before anything is imported."""
    return names() if experiment == "all" else [_known(experiment)]


def _known(name: str) -> str:
    if name not in names():
        unknown("experiment", name, [*names(), "all"])
    return name


def _title(path: pathlib.Path) -> str:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name("TITLE")], value=ast.Constant(str(title))):
                return title
    raise ValueError(f"{path} has no TITLE; allowed: TITLE = one string")
