"""What is measured: five numbers, each with its range and how it was found."""

from dataclasses import dataclass
from typing import Literal

from jaxmaml.types import Constants

UNITS = {"L": "phi/u^2", "rho": "phi/u^3", "sigma": "phi/u", "sigma_tilde": "phi/u", "sigma_h": "phi/u^2"}
"""the measured constants, and their units."""


@dataclass(frozen=True)
class Estimate:
    """A measured constant."""

    value: float
    low: float
    high: float
    """[low, high] is about the points that were measured: a 95 % interval for sigma_tilde and sigma_h, from
    the largest Ritz value to its residual above it for L, the value itself for rho and sigma, and infinite
    above for the rho of a loss with kinks. What other points may hold is told by `kind`."""
    kind: Literal["lower estimate", "upper bound", "exact"]
    n: int
    """how many: (point, task) pairs for L, with those of neighbouring points for rho, points for sigma, draws
    for sigma_tilde and sigma_h."""
    how: str
    """how and where, in a phrase."""


@dataclass(frozen=True)
class MeasuredConstants:
    """The five constants, and what they cost."""

    L: Estimate
    rho: Estimate
    sigma: Estimate
    sigma_tilde: Estimate
    sigma_h: Estimate
    points: int
    tasks: int
    products: int
    """Hessian-vector products with a task's batch or one sample; a product with T counts as two."""
    kink: str = ""
    """where a derivative jumps, so that no finite rho holds; "" where no jump was seen."""

    def constants(self) -> Constants:
        """The values as `jaxmaml.types.Constants`, every kind "measured"."""
        values = {name: getattr(self, name).value for name in UNITS}
        return Constants(**values, kinds=dict.fromkeys(UNITS, "measured"))

    def __str__(self) -> str:
        rows = [f"{'':11} {'value':>10} {'low':>10} {'high':>10}  unit"]
        for name, unit in UNITS.items():
            e = getattr(self, name)
            numbers = f"{e.value:10.4g} {e.low:10.4g} {e.high:10.4g}"
            rows.append(f"{name:11} {numbers}  {unit:7}  {e.kind}: {e.how}")
        rows.append(
            f"{self.points} points, {self.tasks} tasks, {self.products} products of a Hessian and a vector"
        )
        return "\n".join(rows)
