"""Pytrees of arrays as bytes and back, with nothing pickled.

    pack(trees, about)      one npz file: every leaf an array, and a description in JSON
    unpack(data, given)     (trees, about)

The structure of dicts, lists, tuples and None is written down. That of other nodes (named tuples, modules) is
Python code: `given` holds a pytree of that structure, whose leaves must have the shapes and types of those
in the file.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.types import PyTree

ABOUT = "about.json"


def pack(trees: Mapping[str, PyTree], about: Mapping[str, Any]) -> bytes:
    """Leaves are arrays or Python's numbers. `about` is for JSON."""
    described = {name: described_as(tree) for name, tree in trees.items()}
    text = json.dumps({"trees": described, "about": about}).encode()
    arrays = {ABOUT: np.frombuffer(text, np.uint8)}
    for name, tree in trees.items():
        for i, leaf in enumerate(jax.tree.leaves(tree)):
            if not _is_number(leaf):
                arrays[f"{name}-{i}"] = np.asarray(leaf)
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpack(data: bytes, given: Mapping[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, Any]]:
    """The trees, with NumPy's arrays as leaves, and `about`.

    Raises:
      ValueError: a structure that has to be given and is not, or leaves of other shapes.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        text = json.loads(arrays[ABOUT].tobytes())
        trees = {}
        for name, described in text["trees"].items():
            like = template(name, described, given.get(name))
            leaves = [
                leaf["number"] if "number" in leaf else _typed(arrays[f"{name}-{i}"], leaf["dtype"])
                for i, leaf in enumerate(described["leaves"])
            ]
            trees[name] = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return trees, text["about"]


def described_as(tree: PyTree) -> dict[str, Any]:
    """Structure and leaves of a pytree, for JSON: path, shape and dtype of arrays, the value of numbers."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    written = _written(jax.tree.unflatten(structure, range(len(leaves))))
    described = [{"path": jax.tree_util.keystr(path), **_leaf(leaf)} for path, leaf in leaves]
    return {"structure": written, "leaves": described}


def template(name: str, described: Mapping[str, Any], given: PyTree = None) -> PyTree:
    """A pytree of that structure and those leaves: `jax.ShapeDtypeStruct`, or numbers.

    Raises:
      ValueError: as `unpack`.
    """
    leaves = [
        leaf["number"] if "number" in leaf else jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"])
        for leaf in described["leaves"]
    ]
    if given is not None:
        _check(name, described["leaves"], described_as(given)["leaves"])
        return jax.tree.unflatten(jax.tree.structure(given), leaves)
    if _lacks(described["structure"]):
        raise ValueError(
            f"{name} has nodes other than dict, list and tuple, which a file cannot hold; needed: {name}=, "
            "a pytree of the same structure and shapes"
        )
    return _built(described["structure"], leaves)


def _check(name: str, wanted: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    here = {leaf.pop("path"): leaf for leaf in map(dict, found)}
    for leaf in map(dict, wanted):
        path = leaf.pop("path")
        if path not in here:
            raise ValueError(
                f"{name}{path} is missing in what is given; allowed: {name} of {_said(leaf)} there"
            )
        if (other := here.pop(path)) != leaf:
            raise ValueError(f"{name}{path} is {_said(other)}; allowed: {_said(leaf)}, as it was written")
    if here:
        raise ValueError(f"{name}{next(iter(here))} is not in the file; allowed: what was written alone")


def _said(leaf: Mapping[str, Any]) -> str:
    return f"{leaf['number']}" if "number" in leaf else f"{leaf['dtype']}{leaf['shape']}"


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic)


def _leaf(leaf: Any) -> dict[str, Any]:
    if _is_number(leaf):
        return {"number": leaf}
    return {"shape": list(jnp.shape(leaf)), "dtype": str(jnp.dtype(leaf.dtype))}


def _typed(array: np.ndarray, dtype: str) -> np.ndarray:
    """NumPy writes types that are not its own (bfloat16) as so many bytes."""
    return array if str(array.dtype) == dtype else array.view(jnp.dtype(dtype))


def _written(node: Any) -> Any:
    """Of a tree whose leaves are their numbers."""
    if node is None or type(node) is int:
        return node
    if type(node) is dict and all(type(key) in (str, int) for key in node):
        return {"dict": [[key, _written(part)] for key, part in node.items()]}
    if type(node) in (list, tuple):
        return {type(node).__name__: [_written(part) for part in node]}
    return {"other": type(node).__name__}


def _lacks(node: Any) -> bool:
    if not isinstance(node, dict):
        return False
    ((kind, parts),) = node.items()
    return kind == "other" or any(_lacks(part[1] if kind == "dict" else part) for part in parts)


def _built(node: Any, leaves: list[Any]) -> PyTree:
    if node is None:
        return None
    if isinstance(node, int):
        return leaves[node]
    ((kind, parts),) = node.items()
    if kind == "dict":
        return {key: _built(part, leaves) for key, part in parts}
    made = [_built(part, leaves) for part in parts]
    return made if kind == "list" else tuple(made)
