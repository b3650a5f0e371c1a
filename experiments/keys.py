"""What identifies a cell: its signature, which is its program's, and its key, which is its result's."""

import dataclasses
import inspect
import json
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments import results
from experiments.cells import Quantity
from experiments.program import Cell, array
from jaxmaml import storage


@dataclass(frozen=True)
class Group:
    """Cells that share one compiled program."""

    signature: str
    indices: list[int]


def signature(cell: Cell) -> str:
    """Treedef, shapes and dtypes: cells that agree in it run as one program."""
    leaves, structure = jax.tree.flatten(cell)
    shapes = ", ".join(f"{x.dtype}{list(x.shape)}" for x in map(array, leaves))
    return f"{structure} ({shapes})"


def group(cells: Sequence[Cell]) -> list[Group]:
    """The compile groups, in order of first appearance."""
    found: dict[Any, list[int]] = {}
    for index, cell in enumerate(cells):
        leaves, structure = jax.tree.flatten(cell)
        # By the treedef itself: classes of one name may be of two modules.
        found.setdefault((structure, *map(_kind, leaves)), []).append(index)
    return [Group(signature(cells[indices[0]]), indices) for indices in found.values()]


def cell_key(cell: Cell, name: str) -> str:
    """The hash of a cell's resolved configuration: its numbers, structure, code and environment."""
    return cell_keys([cell], name)[0]


def cell_keys(cells: Sequence[Cell], name: str, platform: str | None = None) -> list[str]:
    """The keys of cells of one group, whose signature is `name`, on a platform; None: this process's."""
    about = (name, _code(modules(cells[0])), environment(platform))
    known: dict[int, bytes] = {}

    def numbers(leaf: Any) -> bytes:
        if np.ndim(leaf) == 0:
            return array(leaf).tobytes()
        if id(leaf) not in known:  # a family's arrays are many cells'
            known[id(leaf)] = array(leaf).tobytes()
        return known[id(leaf)]

    return [storage.digest(*about, *map(numbers, jax.tree.leaves(cell)))[:24] for cell in cells]


def modules(node: Any) -> set[str]:
    """Where a cell's own class is defined, and those of its fields: a family may be the user's."""
    if isinstance(node, Quantity):
        return {node.function.__module__}
    if not dataclasses.is_dataclass(node):
        return set()
    own = {c.__module__ for c in inspect.getmro(type(node)) if c is not object}
    return own.union(*(modules(getattr(node, f.name)) for f in dataclasses.fields(node)))


def environment(platform: str | None = None) -> str:
    """What else than the code the numbers depend on; the platform is this process's, or the one given."""
    about = storage.environment()
    versions = [about["versions"][name] for name in ("jax", "jaxlib", "numpy")]
    return json.dumps([*versions, platform or about["platform"], about["x64"]])


def _code(names: set[str]) -> str:
    """Identifies the code that computes a cell whose parts are defined in these modules."""
    defined_in = {pathlib.Path(sys.modules[name].__file__ or "") for name in names}
    return results.source_digest(*results.numerical_sources(), *sorted(defined_in))


def _kind(leaf: Any) -> tuple[Any, ...]:
    """A leaf's type and shape."""
    x = np.asarray(leaf)
    return (x.dtype, x.shape)
