"""The cells that claims share: a run with everything as the theorem of its estimator asks."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import Run
from jaxmaml import estimators, theory
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.types import Array, Constants, Family

_SQUARINGS = 24

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
    constants = _constants(family)
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


def _constants(family: Family) -> Constants:
    """The constants of a family, computed once while a grid goes through its seeds."""
    if not _latest or _latest[0][0] is not family:
        _latest[:] = [(family, family.constants())]
    return _latest[0][1]


_latest: list[tuple[Family, Constants]] = []


def normal_mean(function: Callable[[float], np.ndarray]) -> np.ndarray:
    """E function(Z) of a standard normal Z, by Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return np.tensordot(weights / weights.sum(), np.stack([function(z) for z in nodes]), axes=1)


def spectral_norm(matrix: jax.Array) -> jax.Array:
    """||M|| = lim ||M^p||^{1/p} of a symmetric matrix, p = 2^24: at most d^{1/2p} too large.

    By matrix products alone: the LAPACK routines of jax.numpy.linalg may wait for each other for ever in
    a program that is sharded over CPU devices.
    """
    scale = jnp.linalg.norm(matrix)
    safe = jnp.where(scale > 0, scale, 1.0)

    def square(state: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        power, log = state
        power = power @ power
        size = jnp.linalg.norm(power)
        return (power / size, 2 * log + jnp.log(size)), None

    start = (matrix / safe, jnp.zeros((), matrix.dtype))
    (_, log), _ = jax.lax.scan(square, start, length=_SQUARINGS)
    return jnp.where(scale > 0, safe * jnp.exp(log / 2**_SQUARINGS), 0.0)
