"""Ledger rows whose verdict follows from the numbers in them."""

import numpy as np
from numpy.typing import ArrayLike

from experiments.results import LedgerRow, Place, Verdict
from jaxmaml.statistics import Interval
from jaxmaml.theory.drift import Theorem

THEOREMS: dict[str, Place] = {
    "maml": "MAML theorem",
    "fo_maml": "FO-MAML theorem",
    "hf_maml": "HF-MAML theorem",
}


def largest(values: ArrayLike) -> float:
    """The maximum; nan if any value is, or if there is none: pandas would skip the run that diverged."""
    array = np.asarray(values, float)
    return float(np.max(array)) if array.size else float("nan")


def smallest(values: ArrayLike) -> float:
    """The minimum, under the same rule."""
    return -largest(-np.asarray(values, float))


def place_of(estimator: object) -> Place:
    """The part of the paper that is the convergence theorem of an estimator."""
    return THEOREMS[str(estimator)]


def floor_statement(theorem: Theorem) -> str:
    """The accuracy of a convergence theorem, as summarised."""
    C = f"{theorem.summary_constant:g}"
    return (
        rf"$E\|\nabla F\|\le\max\{{\sqrt{{{C}(1+\frac{{\rho\alpha}}L\sigma)S}},"
        rf"\,{C}\frac{{\rho\alpha}}LS,\,\varepsilon\}}$"
    )


def worst(value: ArrayLike, error: ArrayLike, bound: ArrayLike = 1.0, z: float = 5.0) -> Interval:
    """value / bound with z standard errors to both sides, of the entry whose upper end is the largest."""
    ratio, half = (
        np.asarray(x, float) / np.asarray(bound, float) for x in (value, z * np.asarray(error, float))
    )
    upper = ratio + half
    if upper.size == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    # argmax takes nan first.
    j = int(np.argmax(upper))
    return Interval(float(ratio[j]), float(ratio[j] - half[j]), float(upper[j]), upper.size)


def at_least(
    claim: str,
    part: str,
    statement: str,
    place: Place,
    source: str,
    measured: Interval | float,
    bound: float,
    *,
    also: bool = True,
    note: str = "",
) -> LedgerRow:
    """Holds if the lower end of the interval is at least `bound` > 0, and whatever `also` says is true."""
    value = _interval(measured)
    holds = np.isfinite(value.high) and value.low >= bound and also
    about = (claim, part, statement, place, source)
    return _row(about, value, bound, value.low / bound, "holds" if holds else "fails as stated", also, note)


def at_most(
    claim: str,
    part: str,
    statement: str,
    place: Place,
    source: str,
    measured: Interval | float,
    bound: float,
    *,
    also: bool = True,
    sharp: bool = True,
    note: str = "",
) -> LedgerRow:
    """Holds if the upper end of the interval is at most `bound`, and whatever `also` says is true.

    A value that is not finite never holds. `sharp=False` marks a bound that holds and could be smaller.
    """
    value = _interval(measured)
    holds = np.isfinite(value.high) and value.high <= bound and also
    verdict: Verdict = "fails as stated"
    if holds:
        verdict = "holds" if sharp else "holds, not sharp"
    slack = np.inf if value.high <= 0 else bound / value.high
    about = (claim, part, statement, place, source)
    return _row(about, value, bound, slack, verdict, also, note)


def within(
    claim: str,
    part: str,
    statement: str,
    place: Place,
    source: str,
    measured: Interval | float,
    expected: float,
    tolerance: float,
    *,
    also: bool = True,
    note: str = "",
) -> LedgerRow:
    """Holds if the whole interval lies within `tolerance` of what is expected, and `also` is true."""
    value = _interval(measured)
    distance = max(abs(value.low - expected), abs(value.high - expected))
    holds = np.isfinite(distance) and distance <= tolerance and also
    about = (claim, part, statement, place, source)
    slack = tolerance / distance if distance != 0 else np.inf
    told = f"expected {expected:.4g} to within {tolerance:.2g}" + (f"; {note}" if note else "")
    return _row(about, value, expected, slack, "holds" if holds else "fails as stated", also, told)


def untested(claim: str, part: str, statement: str, place: Place, source: str, reason: str) -> LedgerRow:
    """A claim that these numbers say nothing about, with the reason."""
    nan = float("nan")
    return LedgerRow(claim, part, statement, place, source, nan, nan, nan, nan, nan, "not tested", reason)


def _row(
    about: tuple[str, str, str, Place, str],
    value: Interval,
    bound: float,
    slack: float,
    verdict: Verdict,
    also: bool,
    note: str,
) -> LedgerRow:
    """The row, which says so where a condition beside the number is violated."""
    told = note if also else f"a condition of this row is violated; {note}"
    return LedgerRow(*about, value.mean, value.low, value.high, float(bound), float(slack), verdict, told)


def _interval(measured: Interval | float) -> Interval:
    if isinstance(measured, Interval):
        return measured
    return Interval(float(measured), float(measured), float(measured), 1)
