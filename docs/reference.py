"""The pages of the reference, made from the docstrings of the public names when the site is built."""

import inspect
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import jaxmaml
from jaxmaml import discover

HERE = pathlib.Path(__file__).parent / "api"
PAGES = (
    "fewshot",
    "federated",
    "estimators",
    "models",
    "data",
    "measure",
    "hvp",
    "tasks",
    "theory",
    "advice",
)
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
    return "\n".join(
        [heading("Reference", "="), table, ".. toctree::\n   :hidden:\n", *(f"   {n}" for n in names), ""]
    )


def heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


# Docstrings are plain text: words, names between backticks, sections, and formulas as indented blocks.

LIST = re.compile(r"^([*-]|\d+\.) ")
FIELDS = {"Args": "Parameters"}
INSIDE = re.compile(r"(?<=[\w\])}])_(?!\w)|[\\*|`]")


def render(_app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring, in place."""
    del what, name, found, options
    parts = [
        list(part) for blank, part in itertools.groupby(lines, lambda line: not line.strip()) if not blank
    ]
    lines[:] = [line for part in parts for line in (*block(part), "")]


def signature(
    _app: Any, what: str, name: str, found: Any, options: Any, said: str | None, returns: Any
) -> Any:
    """A default that is a function by three dots: what Python says of it is no expression."""
    del what, name, found, options
    return said and (re.sub(r"<function .*?>(?=[,)]|$)", "...", said), returns)


def skip(_app: Any, what: str, name: str, found: Any, skipped: bool, options: Any) -> bool:
    """Fields of a named tuple without words of their own are in its signature."""
    del what, name, options
    return skipped or (inspect.getdoc(found) or "").startswith("Alias for field number")


def block(lines: list[str]) -> list[str]:
    """A paragraph, a list, a formula, or sections one after the other."""
    indented = [line.startswith(" ") for line in lines]
    if lines[0].endswith(":") and any(indented):
        return list(sections(lines))
    if LIST.match(lines[0]):
        return [
            (mark[0] if (mark := LIST.match(line)) else "") + plain(LIST.sub("", line, 1)) for line in lines
        ]
    if any(indented):
        return ["::", "", *(f"    {line}" for line in lines)]
    return [plain(line) for line in lines]


def sections(lines: list[str]) -> Iterator[str]:
    """`Args:` and what stands below it, `name: text`, as a field of a list."""
    entries = True
    for line in lines:
        text = line.strip()
        if not line.startswith(" "):
            title = text.removesuffix(":")
            entries = title != "Returns"
            yield f":{FIELDS.get(title, title)}:"
        elif entries and not line.startswith("   "):
            name, colon, said = text.partition(": ")
            yield f"   * **{plain(name)}**: {plain(said)}" if colon else f"   * {plain(text)}"
        else:
            yield f"   {'  ' if entries else ''}{plain(text)}"


def plain(text: str) -> str:
    """Text in which only backticks mean something: a name, which is linked if the reference has it."""
    parts = re.split(r"`+([^`]+)`+", text)
    return "".join(named(part) if i % 2 else INSIDE.sub(r"\\\g<0>", part) for i, part in enumerate(parts))


def named(name: str) -> str:
    full = f"jaxmaml.{name}" if name in jaxmaml.__all__ else name
    return f":py:obj:`{name} <{full}>`" if full.startswith("jaxmaml.") else f"``{name}``"
