"""What a stored result depends on: all code that is executed to make it, found by following names.

    code(roots)       "module:definition" -> the sum of its source, for all that the roots reach
    environment()     versions, platform and precision

A definition is a function, a class or another statement of a module that binds a name. It reaches what its
text names: definitions beside it, and, through imports, those of other modules. What a module executes when
it is imported belongs to whatever is reached in it. A module that is passed on as a value, or that asks for
its own name (as those do that discover their members), is reached as a whole, a package with all modules.
Comments, docstrings, annotations and layout do not count. Nor do packages that are installed: their versions
do (`storage.environment`).

An instance reaches its methods, because it was made by a class that is named, or is a part of the roots. A
decorator `@f.rule` beside f belongs to f. What a decorator of another module registers is not seen.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import pathlib
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxmaml import storage

Node = tuple[str, str]
"""(module, name of a definition); the name is ALL for the whole module, IMPORTED for what it executes."""
PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax")
"""those that compute numbers."""
PLAIN = (bool, int, float, complex, str, bytes, np.ndarray, np.generic, jax.Array, type(None))
ALL = "*"
IMPORTED = ""


def code(*roots: Any) -> dict[str, str]:
    """The sums of all definitions that the roots reach, by "module:name".

    Args:
      roots: functions with what they close over, classes, modules; other objects stand for their class;
        dataclasses, mappings and sequences also for what they hold.

    Raises:
      ValueError: a function or class was not read from a file, so that nobody can say what it is.
    """
    seen: set[int] = set()
    return _code(frozenset(node for root in roots for node in _nodes(root, seen)))


def summary(found: Mapping[str, str]) -> str:
    """One sum for all of them."""
    return storage.digest(*(f"{name} {value}" for name, value in sorted(found.items())))


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The definitions that differ, are gone or are new."""
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def environment() -> dict[str, str]:
    """What else numbers depend on: versions of the packages that compute them, the platform, precision."""
    found = storage.environment()
    versions = {name: found["versions"][name] for name in PACKAGES}
    return versions | {"platform": found["platform"], "precision": "float64" if found["x64"] else "float32"}


def remember() -> None:
    """Reads the sources of all loaded modules: those of the code that runs, even if files change later."""
    for name in list(sys.modules):
        if (path := _path(name)) is not None:
            _text(path)


def forget() -> None:
    """Reads sources again when they are next asked for."""
    for cached in (_code, _references, _parsed, _path, _is_ours, _text, _source):
        cached.cache_clear()


# Roots


def _nodes(root: Any, seen: set[int]) -> Iterator[Node]:
    if id(root) in seen or isinstance(root, PLAIN):
        return
    seen.add(id(root))  # what the roots hold lives as long as they do
    if isinstance(root, ModuleType):
        yield root.__name__, ALL
    elif isinstance(root, type) or inspect.isroutine(root):
        yield from _node(root)
    for part in _parts(root):
        yield from _nodes(part, seen)


def _parts(root: Any) -> Iterator[Any]:
    """What an object is made of that may name code."""
    if isinstance(root, type | ModuleType):
        return
    if inspect.isroutine(root):
        for cell in getattr(root, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # not bound yet
                yield cell.cell_contents
    else:
        yield type(root)
    if hasattr(root, "__wrapped__"):
        yield root.__wrapped__
    if isinstance(root, functools.partial):
        yield from (root.func, root.args, root.keywords)
    elif isinstance(root, Mapping):
        yield from root.values()
    elif isinstance(root, list | tuple):
        yield from root
    elif dataclasses.is_dataclass(root):
        yield from (getattr(root, field.name) for field in dataclasses.fields(root))


def _node(thing: Any) -> Iterator[Node]:
    module = getattr(thing, "__module__", None) or ""
    if not _ours(module):
        return
    if _path(module) is None:
        raise ValueError(
            f"{thing!r} is of no file; allowed: what a module defines, so that its code is known"
        )
    name = thing.__qualname__.split(".")[0]
    yield module, name if name in _parsed(module).definitions else ALL


# Following names


@functools.cache
def _code(roots: frozenset[Node]) -> dict[str, str]:
    found: dict[str, str] = {}
    reached, waiting = set(roots), list(roots)
    while waiting:
        module, name = waiting.pop()
        if name == ALL:
            next_ = {(module, each) for each in _parsed(module).definitions}
            next_ |= {(each, ALL) for each in _members(module)}
        else:
            if name in _parsed(module).definitions:
                found[f"{module}:{name}"] = _source(module, name)
            next_ = set(_references(module, name))
        next_ |= {(each, IMPORTED) for each in (module, *_parents(module))}
        waiting += next_ - reached
        reached |= next_
    return dict(sorted(found.items()))


@functools.cache
def _references(module: str, name: str) -> frozenset[Node]:
    """What a definition names, and what is added to it."""
    parsed = _parsed(module)
    named = {
        node for statement in parsed.definitions.get(name, []) for node in _named(module, name, statement)
    }
    return frozenset(named | {(module, each) for each in parsed.additions.get(name, ())})


def _named(module: str, name: str, statement: ast.stmt) -> Iterator[Node]:
    parsed, own = _parsed(module), dict(_imports(module, statement))
    # `@f.rule` adds to f, and needs nothing of it.
    added_to = {f for f, names in parsed.additions.items() if name in names}
    decorators = getattr(statement, "decorator_list", [])
    adding = [d for d in decorators if added_to & {chain[0] for chain in _chains(d)}]
    for chain in _chains(statement, adding):
        first, rest = chain[0], chain[1:]
        imports = own if first in own else parsed.imports
        if first in imports:
            yield from _follow(*imports[first], rest)
        elif first == "__name__":
            yield module, ALL
        elif first in parsed.definitions:
            yield module, first


def _follow(module: str, name: str | None, rest: tuple[str, ...]) -> Iterator[Node]:
    """What `module.name.rest` is; a module without a name is a value."""
    if not _ours(module) or _path(module) is None:
        return
    if name is None:
        if rest:
            yield from _follow(module, rest[0], rest[1:])
        else:
            yield module, ALL
        return
    parsed = _parsed(module)
    if name in parsed.definitions:
        yield module, name
    elif parsed.imports.get(name, (module, name)) != (module, name):
        yield from _follow(*parsed.imports[name], rest)
    elif _path(f"{module}.{name}") is not None:
        yield from _follow(f"{module}.{name}", None, rest)
    elif not name.startswith("__"):
        yield module, ALL


# Modules


@dataclass(frozen=True)
class _Module:
    definitions: dict[str, list[ast.stmt]]
    """the statements that bind a name; under IMPORTED those that bind none."""
    additions: dict[str, set[str]]
    """f -> the functions below `@f.rule`, which change f."""
    imports: dict[str, tuple[str, str | None]]
    """name -> (module, name there), or (module, None) for a module."""


@functools.cache
def _parsed(module: str) -> _Module:
    path = _path(module)
    if path is None:  # a folder without __init__.py
        return _Module({}, {}, {})
    found = _Module({}, {}, {})
    for source in (path, path.with_suffix(".pyi")):
        if source == path or source.exists():
            for statement in ast.parse(_text(source)).body:
                _place(module, statement, found)
    return found


def _place(module: str, statement: ast.stmt, found: _Module) -> None:
    """Adds a statement of a module under the names that it binds."""
    names: list[str] = []
    match statement:
        case ast.Import() | ast.ImportFrom():
            found.imports.update(_imports(module, statement))
            return
        case ast.If(test=ast.Name("TYPE_CHECKING"), orelse=inner):
            for each in inner:
                _place(module, each, found)
            return
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
            names = [name]
            for chain in (c for decorator in statement.decorator_list for c in _chains(decorator)):
                if chain[0] in found.definitions:
                    found.additions.setdefault(chain[0], set()).add(name)
        case ast.Assign(targets=targets):
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        case ast.AnnAssign(target=ast.Name(name)) | ast.AugAssign(target=ast.Name(name)):
            names = [name]
        case _ if _is_text(statement):
            return
        case _:  # a block: what it binds depends on all of it
            inner = [n for n in ast.walk(statement) if isinstance(n, ast.stmt) and n is not statement]
            for each in inner:
                if isinstance(each, ast.Import | ast.ImportFrom):
                    found.imports.update(_imports(module, each))
            names = [
                n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            ]
            names += [n.name for n in inner if isinstance(n, ast.FunctionDef | ast.ClassDef)]
            names.append(IMPORTED)
    for name in names or [IMPORTED]:
        found.definitions.setdefault(name, []).append(statement)


def _imports(module: str, node: ast.AST) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """What the import statements in a node bind."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            for alias in each.names:
                name = alias.asname or alias.name.split(".")[0]
                yield name, (alias.name if alias.asname else name, None)
        elif isinstance(each, ast.ImportFrom):
            source = each.module or ""
            if each.level:
                package = module if _is_package(module) else module.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - each.level + 1]
                source = ".".join([*above, source] if source else above)
            for alias in each.names:
                yield alias.asname or alias.name, (source, alias.name)


def _chains(node: ast.AST, without: Collection[ast.AST] = ()) -> Iterator[tuple[str, ...]]:
    """a.b.c of every name in a node, but for annotations, and for some of its parts."""
    if isinstance(node, ast.Name):
        yield (node.id,)
        return
    if isinstance(node, ast.Attribute):
        chain, base = [node.attr], node.value
        while isinstance(base, ast.Attribute):
            chain, base = [base.attr, *chain], base.value
        if isinstance(base, ast.Name):
            yield (base.id, *chain)
            return
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST) and each not in without:
                    yield from _chains(each)


@functools.cache
def _path(module: str) -> pathlib.Path | None:
    """The source of a module of ours; None where there is none."""
    if not _ours(module):
        return None
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None) or ""
        return pathlib.Path(file) if file.endswith(".py") else None
    for folder in _folders(module.rpartition(".")[0]) if "." in module else ():
        name = module.rpartition(".")[2]
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.exists():
                return path
    spec = None if "." in module else importlib.util.find_spec(module)
    origin = (spec and spec.origin) or ""
    return pathlib.Path(origin) if origin.endswith(".py") else None


def _folders(package: str) -> list[pathlib.Path]:
    path = _path(package)
    if path is not None:
        return [path.parent] if path.name == "__init__.py" else []
    return [pathlib.Path(each) for each in getattr(sys.modules.get(package), "__path__", ())]


def _is_package(module: str) -> bool:
    path = _path(module)
    return path is not None and path.name == "__init__.py"


def _members(module: str) -> Iterable[str]:
    """The modules of a package; none of another module."""
    for folder in _folders(module):
        yield from (f"{module}.{p.stem}" for p in sorted(folder.glob("*.py")) if p.stem != "__init__")
        yield from (f"{module}.{p.parent.name}" for p in sorted(folder.glob("*/__init__.py")))


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _ours(module: str) -> bool:
    """Whether a module is the project's or its user's: not Python's, and not installed."""
    return _is_ours(module.split(".")[0])


@functools.cache
def _is_ours(top: str) -> bool:
    if top in (__name__.split(".")[0], "__main__"):
        return True
    if top in sys.stdlib_module_names:
        return False
    if top in sys.modules:
        loaded = sys.modules[top]
        places = [getattr(loaded, "__file__", None), *getattr(loaded, "__path__", ())]
    elif (spec := importlib.util.find_spec(top)) is not None:
        places = [spec.origin, *(spec.submodule_search_locations or ())]
    else:
        return False
    files = [place for place in places if place]
    installed = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
    # Of no file at all: made by hand.
    return not files or any(not file.startswith(installed) for file in files)


# Sources


@functools.cache
def _text(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def _source(module: str, name: str) -> str:
    return storage.digest(*map(_bare, _parsed(module).definitions[name]))


def _bare(statement: ast.stmt) -> str:
    """A statement without its docstrings."""
    for node in ast.walk(statement):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return ast.dump(statement)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
