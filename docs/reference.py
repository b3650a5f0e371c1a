"""The pages of the reference, made from the docstrings of the public names when the site is built."""

import inspect
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import jaxmaml
from jaxmaml import discover

HERE = pathlib.Path(__file__).parent / "api"
PAGES = ("fewshot", "federated", "estimators", "models", "data", "measure", "hvp", "tasks", "theory", "advice")
ADVICE = ("options", "advise", "text", "figure")
"""What is called from Python; the others are its parts."""


def write() -> None:
    """docs/api/: a page for the names of `jaxmaml` itself, and one for each of PAGES."""
    HERE.mkdir(exist_ok=True)
    pages = {"jaxmaml": page("jaxmaml", [])}
    for name in PAGES:
        module = import_module(f"jaxmaml.{name}")
        pages[f"jaxmaml.{name}"] = page(module.__name__, submodules(module))
    pages["index"] = index(list(pages))
    for name, text in pages.items():
        path = HERE / f"{name}.rst"
        if not path.exists() or path.read_text() != text:  # Sphinx reads again what is newer.
            path.write_text(text)


def submodules(module: ModuleType) -> list[str]:
    """Those with public names that the package does not have itself."""
    if not hasattr(module, "__path__") or hasattr(module, "__all__"):
        return []
    names = ADVICE if module.__name__ == "jaxmaml.advice" else discover.modules(module)
    return [f"{module.__name__}.{name}" for name in names]


def page(name: str, others: Iterable[str]) -> str:
    parts = [heading(name, "="), f".. automodule:: {name}\n   :members:\n"]
    for other in others:
        parts += [heading(other, "-"), f".. automodule:: {other}\n   :members:\n"]
    return "\n".join(parts)


def index(names: list[str]) -> str:
    about = [(name, inspect.getdoc(import_module(name)) or "") for name in names]
    rows = [f"   * - :doc:`{name}`\n     - {plain(text.splitlines()[0])}" for name, text in about]
    table = ".. list-table::\n   :widths: auto\n\n" + "\n".join(rows) + "\n"
    return "\n".join([heading("Reference", "="), table, ".. toctree::\n   :hidden:\n", *(f"   {n}" for n in names), ""])


def heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


# Docstrings are plain text: words, names between backticks, formulas as indented blocks.

SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Yields):$")
NOTE = re.compile(r"((?:Raises|Other) [^:]*):$")
LIST = re.compile(r"([*-]|\d+\.) ")


def render(_app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring, in place; what napoleon reads is left to it."""
    del what, name, found, options
    lines[:] = list(blocks(lines))


def blocks(lines: list[str]) -> Iterator[str]:
    section = literal = False
    before = ""
    for line in lines:
        indented = line.startswith("  ")
        if line and not indented:
            literal = False
            section = bool(SECTION.match(line))
            if NOTE.match(line):
                yield from (f"**{plain(line)}**", "")
                before = ""
                continue
        if indented and not section and not before.strip() and not literal:
            literal = True
            yield from ("::", "")
        if LIST.match(line) and before.strip() and not LIST.match(before):
            yield ""
        yield line if literal or SECTION.match(line) else plain(line)
        before = line


def plain(text: str) -> str:
    """Text in which only backticks mean something."""
    parts = re.split(r"(``?[^`]+``?)", text)
    return "".join(p if i % 2 else escape(p) for i, p in enumerate(parts))


def escape(text: str) -> str:
    return re.sub(r"([\\*|`]|_(?=\W|$))", r"\\\1", text)
