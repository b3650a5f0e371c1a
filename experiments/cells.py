"""The cells that claims share: a run with everything as the theorem of its estimator asks."""

import inspect
from typing import Any

from jaxmaml import estimators, theory
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.run import Run
from jaxmaml.types import Array, Family

Cells = list[tuple[dict[str, Any], Any]]
"""(labels, cell) pairs, what a claim's `grid` returns."""


def theorem_run(
    family: Family,
    estimator: str,
    alpha: float,
    w0: Array,
    *,
    record: tuple[int, ...],
    arguments: dict[str, Any] | None = None,
    **rest: Any,
) -> Run:
    """A run with L and rho of the family, c of the estimator's theorem, and, where the estimator takes a
    difference step and `arguments` gives none, delta of the theorem. `rest` as in `Run`: sizes, seed."""
    constants = family.constants()
    if arguments is None:
        takes = inspect.signature(estimators.get(estimator)).parameters
        arguments = {"delta": theorem_delta(constants.rho, alpha)} if "delta" in takes else {}
    c = theory.theorems()[estimator].c
    return Run(
        family,
        estimator,
        alpha,
        c,
        constants.L,
        constants.rho,
        w0,
        arguments=arguments,
        record=record,
        **rest,
    )
