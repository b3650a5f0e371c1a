"""Task families with known constants, one a file; `families()` finds every module that has `make`.

A family is a pytree (see `jaxmaml.types.Family`): cells of a sweep that differ in its numbers share one
compiled program.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

from jaxmaml import discover
from jaxmaml.names import unknown
from jaxmaml.types import Family


@functools.cache
def families() -> dict[str, Callable[..., Family]]:
    """make(**numbers) -> Family, by name."""
    found = discover.modules(sys.modules[__name__])
    return {name: module.make for name, module in found.items() if hasattr(module, "make")}


def make(name: str, **numbers: Any) -> Family:
    """The family of that name; ValueError with the known names and the nearest one."""
    if name not in families():
        unknown("family", name, families())
    return families()[name](**numbers)
