"""What the command line says of names, without importing JAX: every start is quick."""

import difflib
from collections.abc import Iterable
from typing import NoReturn


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest name, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" Did you mean {found[0]!r}?" if found else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> NoReturn:
    """As `jaxmaml.checks.unknown`, which no one can import without JAX."""
    known = sorted(known)
    raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}.{nearest(name, known)}")
