"""Ledger rows whose verdict follows from the numbers in them: one rule for each kind of row."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.results import LedgerRow, Place, Verdict
from jaxmaml import statistics
from jaxmaml.statistics import Interval
from jaxmaml.theory.convergence import Theorem

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


FAMILY_WISE = 1e-3
"""chance that any of a claim's sampled intervals misses, all of them together."""
SHARP = 1.25
"""a bound that exceeds what is measured by more than this factor is not sharp."""


class Rows:
    """Makes the rows of one claim.

    Sampled values are compared at a level that holds for all comparisons of the claim together (Bonferroni):
    each at FAMILY_WISE / comparisons.

    Args:
      number, place, source: of a row that does not name its own.
      comparisons: how many sampled values the claim compares.
    """

    def __init__(self, number: str, place: Place, source: str, comparisons: int = 1) -> None:
        self.number, self.place, self.source, self.comparisons = number, place, source, comparisons
        self.compared = 0
        """how many sampled values were compared by now."""

    @property
    def z(self) -> float:
        """Standard errors to both sides of a normal value."""
        import scipy.stats

        return float(scipy.stats.norm.isf(FAMILY_WISE / self.comparisons / 2))

    # Sampled values

    def interval(self, values: ArrayLike) -> Interval:
        """Of the mean of independent values, by Student's law."""
        self.compared += 1
        found = statistics.interval(np.asarray(values, float), 1 - FAMILY_WISE / self.comparisons)
        return replace(found, kind=self._kind())

    def sampled(self, value: float, error: float, n: int = 1) -> Interval:
        """Of a value with its standard error."""
        self.compared += 1
        half = self.z * float(error)
        return Interval(float(value), float(value) - half, float(value) + half, n, self._kind())

    def worst(self, value: ArrayLike, error: ArrayLike, bound: ArrayLike = 1.0) -> Interval:
        """value / bound with its interval, of the entry whose upper end is the largest; bound > 0."""
        return self._extreme(value, error, bound, 1)

    def least(self, value: ArrayLike, error: ArrayLike, bound: ArrayLike = 1.0) -> Interval:
        """value / bound with its interval, of the entry whose lower end is the smallest; bound > 0."""
        return self._extreme(value, error, bound, -1)

    def _extreme(self, value: ArrayLike, error: ArrayLike, bound: ArrayLike, sign: int) -> Interval:
        ratio, spread = (np.ravel(np.asarray(x, float) / np.asarray(bound, float)) for x in (value, error))
        self.compared += ratio.size
        if ratio.size == 0:
            return Interval(np.nan, np.nan, np.nan, 0)
        half = self.z * spread
        # argmax takes nan first.
        j = int(np.argmax(sign * ratio + half))
        low, high = ratio[j] - half[j], ratio[j] + half[j]
        return Interval(float(ratio[j]), float(low), float(high), ratio.size, self._kind())

    def slope(self, x: ArrayLike, y: ArrayLike, error: ArrayLike) -> Interval:
        """Of the log-log slope of independent sampled y, from their standard errors."""
        self.compared += 1
        level = 1 - FAMILY_WISE / self.comparisons
        x, y, error = (np.asarray(v, float) for v in (x, y, error))
        found = statistics.slope(x, y, level, errors=error)
        return replace(found, kind=self._kind())

    def _kind(self) -> str:
        return f"sampling, {100 * (1 - FAMILY_WISE):g} % for all {self.comparisons} of the claim"

    # Rows

    def at_most(
        self,
        part: str,
        statement: str,
        measured: Interval | float,
        bound: float,
        *,
        start: float | None = None,
        sharper: float | None = None,
        companion: str = "",
        also: bool = True,
        note: str = "",
        **about: str,
    ) -> LedgerRow:
        """Holds if the upper end of the interval is at most `bound`, and whatever `also` says is true.

        A value that is not finite never holds.

        Args:
          start: what is measured before the run has moved; where that is within the bound too, a run that
            never moves would pass, and the row is not tested.
          sharper: the smallest bound that is proved, where it is below `bound`: the row is not sharp.
          companion: the part of the row that attains this bound, elsewhere in the ledger: then it is sharp.
          also: conditions without which the number says nothing.
          about: `number`, `place` and `source`, where they are not the claim's.
        """
        value = _interval(measured)
        # A bound that is attained is sharp, also where it is 0.
        slack = 1.0 if value.high == bound else np.inf if value.high <= 0 else bound / value.high
        row = self._row(part, statement, value, bound, slack, bool(value.high <= bound), also, note, about)
        if start is not None and start <= bound:
            return _still(row, f"it starts at {start:.3g}, within the bound {bound:.3g}")
        return _sharp(row, sharper if sharper is not None and sharper < bound else None, companion)

    def at_least(
        self,
        part: str,
        statement: str,
        measured: Interval | float,
        bound: float,
        *,
        start: float | None = None,
        sharper: float | None = None,
        companion: str = "",
        also: bool = True,
        note: str = "",
        **about: str,
    ) -> LedgerRow:
        """Holds if the lower end of the interval is at least `bound` > 0; else as `at_most`."""
        value = _interval(measured)
        holds = bool(value.low >= bound)
        row = self._row(part, statement, value, bound, value.low / bound, holds, also, note, about)
        if start is not None and start >= bound:
            return _still(row, f"it starts at {start:.3g}, beyond the bound {bound:.3g}")
        return _sharp(row, sharper if sharper is not None and sharper > bound else None, companion)

    def within(
        self,
        part: str,
        statement: str,
        measured: Interval | float,
        expected: float,
        tolerance: float,
        *,
        also: bool = True,
        note: str = "",
        **about: str,
    ) -> LedgerRow:
        """Holds if the whole interval lies within `tolerance` of what is expected, and `also` is true."""
        value = _interval(measured)
        distance = max(abs(value.low - expected), abs(value.high - expected))
        holds = bool(distance <= tolerance)
        row = self._row(part, statement, value, expected, np.nan, holds, also, note, about)
        return replace(row, tolerance=float(tolerance))

    def contains(
        self,
        part: str,
        statement: str,
        measured: Interval,
        expected: float,
        width: float,
        *,
        also: bool = True,
        note: str = "",
        **about: str,
    ) -> LedgerRow:
        """Holds if what is expected lies in the interval, and that reaches at most `width` to either side."""
        reach = max(measured.high - measured.mean, measured.mean - measured.low)
        holds = bool(measured.low <= expected <= measured.high and reach <= width)
        row = self._row(part, statement, measured, expected, np.nan, holds, also, note, about)
        return replace(row, tolerance=float(width))

    def agrees(
        self,
        part: str,
        statement: str,
        found: ArrayLike,
        expected: ArrayLike,
        error: ArrayLike,
        *,
        also: bool = True,
        note: str = "",
        **about: str,
    ) -> LedgerRow:
        """Holds if every sampled value is as near to what is expected as chance allows, and `also` is true.

        The row's number is the largest distance in standard errors, its tolerance what chance allows.
        """
        values, goal, errors = (np.asarray(x, float) for x in (found, expected, error))
        distances = np.abs(values - goal) / errors
        self.compared += distances.size
        furthest = replace(_interval(largest(distances)), n=distances.size, kind=self._kind())
        told = "largest distance in standard errors" + (f"; {note}" if note else "")
        return self.within(part, statement, furthest, 0.0, self.z, also=also, note=told, **about)

    def untested(self, part: str, statement: str, reason: str, **about: str) -> LedgerRow:
        """A claim that these numbers say nothing about, with the reason."""
        nothing = Interval(np.nan, np.nan, np.nan, 0)
        row = self._row(part, statement, nothing, np.nan, np.nan, False, True, reason, about)
        return replace(row, verdict="not tested")

    def _row(
        self,
        part: str,
        statement: str,
        value: Interval,
        bound: float,
        slack: float,
        holds: bool,
        also: bool,
        note: str,
        about: dict[str, str],
    ) -> LedgerRow:
        own: dict[str, Any] = {"number": self.number, "place": self.place, "source": self.source} | about
        finite = bool(np.isfinite([value.low, value.high]).all())
        verdict: Verdict = "holds" if holds and finite and also else "fails as stated"
        told = note if also else f"a condition of this row is violated; {note}"
        return LedgerRow(
            own["number"],
            part,
            statement,
            own["place"],
            own["source"],
            value.mean,
            value.low,
            value.high,
            float(bound),
            float(slack),
            verdict,
            told,
            interval=value.kind + (f"; n = {value.n}" if value.kind != "exact" else ""),
        )


def _still(row: LedgerRow, why: str) -> LedgerRow:
    """A row that a run passes which never moves."""
    if not row.verdict.startswith("holds"):
        return row
    told = f"a run that never moves would pass: {why}" + (f"; {row.note}" if row.note else "")
    return replace(row, verdict="not tested", note=told)


def _sharp(row: LedgerRow, sharper: float | None, companion: str) -> LedgerRow:
    """Whether a better bound is proved, and if not, whether this one is near to what is measured, or attained
    by `companion`."""
    if row.verdict != "holds":
        return row
    if sharper is not None:
        told = f"proved: {sharper:.4g}" + (f"; {row.note}" if row.note else "")
        return replace(row, verdict="holds, not sharp", note=told)
    if row.slack <= SHARP:
        return row
    return replace(row, companion=companion) if companion else replace(row, verdict="holds, not sharp")


def _interval(measured: Interval | float) -> Interval:
    if isinstance(measured, Interval):
        return measured
    return Interval(float(measured), float(measured), float(measured), 1)
