"""Estimators of the meta-gradient of one task, one method a file.

The module's name is the estimator's name everywhere: the function in it, the word on the command line,
the value in a table and the legend label.
"""

import functools
import sys
from typing import Any

from jaxmaml import discover
from jaxmaml.estimators._adapted import of_adaptation as of_adaptation
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


def gradients(name: str, inner_steps: int) -> int:
    """Gradients of a batch that one task costs (at most), a product with a Hessian counted as two."""
    return int(_declared(name, "gradients")(inner_steps))


def objective(name: str) -> str:
    """What the estimator is a gradient of; only between equal ones is a difference a bias."""
    return str(_declared(name, "objective"))


def _declared(name: str, what: str) -> Any:
    estimator = get(name)
    if not hasattr(estimator, what):
        raise TypeError(f"{name} declares no {what}; allowed: an estimator marked by `through` or `beside`")
    return getattr(estimator, what)
