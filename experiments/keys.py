"""What identifies a cell: its signature, which is its program's, and its key, which is its result's."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.program import Cell, array
from jaxmaml import identity, storage


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
    where = identity.environment() | ({"platform": platform} if platform else {})
    about = (name, identity.summary(identity.code(cells[0])), json.dumps(where))
    known: dict[int, bytes] = {}

    def numbers(leaf: Any) -> bytes:
        if np.ndim(leaf) == 0:
            return array(leaf).tobytes()
        if id(leaf) not in known:  # a family's arrays are many cells'
            known[id(leaf)] = array(leaf).tobytes()
        return known[id(leaf)]

    return [storage.digest(*about, *map(numbers, jax.tree.leaves(cell)))[:24] for cell in cells]


def _kind(leaf: Any) -> tuple[Any, ...]:
    """A leaf's type and shape."""
    x = np.asarray(leaf)
    return (x.dtype, x.shape)
