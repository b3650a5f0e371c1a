"""Estimators of the meta-gradient of one task, one method a file.

The module's name is the estimator's name everywhere: the function in it, the word on the command line,
the value in a table and the legend label.
"""

import functools
import sys

from jaxmaml import discover
from jaxmaml.names import unknown
from jaxmaml.types import Estimator


@functools.cache
def estimators() -> dict[str, Estimator]:
    """Every estimator by name."""
    found = discover.modules(sys.modules[__name__])
    return {name: getattr(module, name) for name, module in found.items()}


def get(name: str) -> Estimator:
    """The estimator of that name; ValueError with the known names and the nearest one."""
    if name not in estimators():
        unknown("estimator", name, estimators())
    return estimators()[name]
