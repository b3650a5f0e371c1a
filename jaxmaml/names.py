"""What is said of an unknown name. Imports nothing, so that a command line says it at once."""

import difflib
from collections.abc import Iterable
from typing import NoReturn


def nearest(name: object, known: Iterable[str]) -> str:
    """A sentence with the nearest name, or nothing."""
    if not isinstance(name, str):
        return ""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" Did you mean {found[0]!r}?" if found else ""


def unknown(kind: str, name: object, known: Iterable[str]) -> NoReturn:
    """Raises ValueError with what was asked for, what is known, and the nearest match."""
    known = sorted(known)
    raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}.{nearest(name, known)}")
