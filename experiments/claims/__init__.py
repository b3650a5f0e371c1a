"""One claim a file. The module's name is the word on the command line; its docstring is the statement.

A claim module declares `claim = Claim(number, title, ...)` (`experiments.claim`). Names and titles are read
from the files; a module, and with it JAX, is imported when its claim is asked for.
"""

import ast
import importlib
import pathlib
from typing import TYPE_CHECKING

from jaxmaml.names import unknown

if TYPE_CHECKING:
    from experiments.claim import Claim

HERE = pathlib.Path(__file__).parent
RESULTS = pathlib.Path("results")
"""tables, figures and the ledger, in the folder that a command is started in."""


def names() -> list[str]:
    """The name of every claim, in alphabetical order."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def titles() -> dict[str, str]:
    """The title of every claim by name."""
    return {name: _title(HERE / f"{name}.py") for name in names()}


def claims() -> "dict[str, Claim]":
    """Every claim by name."""
    return {name: get(name) for name in names()}


def get(name: str) -> "Claim":
    """The claim of that name; ValueError with the known names and the nearest one."""
    module = importlib.import_module(f"{__name__}.{_known(name)}")
    return module.claim  # type: ignore[no-any-return]


def select(experiment: str) -> list[str]:
    """The name of one claim, or of all of them; ValueError as for `get`, before anything is imported."""
    return names() if experiment == "all" else [_known(experiment)]


def sources(claim: "Claim") -> dict[str, str]:
    """The definitions of this package that a claim's table and rows depend on, with the sums of their text."""
    return {name: value for name, value in claim.code().items() if name.startswith(f"{__name__}.")}


def _known(name: str) -> str:
    if name not in names():
        unknown("experiment", name, [*names(), "all"])
    return name


def _title(path: pathlib.Path) -> str:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(
                targets=[ast.Name("claim")],
                value=ast.Call(func=ast.Name("Claim"), args=[ast.Constant(), ast.Constant(str(title))]),
            ):
                return title
    raise ValueError(f'{path} declares no claim; allowed: claim = Claim("E99", "one string")')
