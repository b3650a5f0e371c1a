"""What the searches for worst cases share: the cell, the table, the rows and the figure.

The ascent follows closed forms. The instance it ends at is evaluated by the library, and its bound by
`jaxmaml.theory`: that ratio is what counts, and it is void unless the closed form agrees with the library.
Units in which L = rho = 1, so that lambda = alpha L = alpha; everything is at w = 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import Quantity
from experiments.judging import largest
from experiments.search import Ascent
from jaxmaml import plotting
from jaxmaml.types import Array, Constants

EFFORT = {"smoke": (64, 150), "default": (384, 400), "full": (2048, 1500)}
"""restarts, steps of the ascent."""
ROUNDING = 1e-6
"""of a ratio: differences of F over a distance of 0.003 keep seven digits."""
PER_TASK = {"slope", "curvature", "chance"}
"""what is told of every task."""
UNIT = Constants(1.0, 1.0, 0.0)
ANY = ((0.01, 1.0),)
SIXTH = ((1 / 6, 1 / 6),)


class Subject(NamedTuple):
    """What the bounds of a claim are about; lists have an entry for every bound."""

    decode: Callable[..., Any]
    """(raw, cell) -> instance, from unconstrained parameters"""
    scores: Callable[..., Any]
    """(instance, cell) -> what is to be as large as possible, by closed forms"""
    closed: Callable[..., Any]
    """(instance, cell) -> what is measured, by closed forms"""
    library: Callable[..., Any]
    """(instance, cell) -> what is measured, by the library, and a dict of what else the bounds need"""


class Bound(NamedTuple):
    name: str
    statement: str
    ratio: Callable[[Any, float], float]
    """(facts, measured) -> how much of the bound is attained"""
    alphas: tuple[tuple[float, float], ...] = SIXTH
    """ranges, one search each"""
    least_slope: float = 0.0
    """least |f_i'(0)|, so that the terms of a bound that grow with it are met too"""
    about: dict[str, str] = {}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Search:
    """The largest score of one bound, and what the library says of the instance."""

    ascent: Ascent
    which: int
    alpha: Array
    """low and high end."""
    least_slope: float
    subject: Quantity = field(metadata={"static": True})

    @property
    def cost(self) -> int:
        return self.ascent.steps * len(self.ascent.starts) // 20

    def check(self) -> None:
        """Nothing can be wrong."""

    def execute(self) -> dict[str, jax.Array]:
        subject = self.subject()

        def score(raw: jax.Array) -> jax.Array:
            return jnp.stack(subject.scores(subject.decode(raw, self), self))[self.which]

        scores, ends = self.ascent.run(score)
        found = subject.decode(ends[jnp.argmax(scores)], self)
        measured, facts = subject.library(found, self)
        return {
            "measured": jnp.stack(measured)[self.which],
            "formula": jnp.stack(subject.closed(found, self))[self.which],
            "reached": jnp.mean(scores > jnp.max(scores) - 0.01),
        } | facts


def over(bound):
    """A ratio by the bound that `jaxmaml.theory` gives for the facts."""
    return lambda x, measured: measured / bound(x)


def searches(scale, bounds, subject, parameters, before=0):
    """Every bound from the same starts."""
    restarts, steps = EFFORT[scale]
    rng = np.random.default_rng(0)
    rng.standard_normal(restarts * before)
    ascent = Ascent(1.5 * rng.standard_normal((restarts, parameters)), steps)
    for which, bound in enumerate(bounds):
        for alpha in bound.alphas:
            labels = {"name": bound.name, "high": alpha[1], "restarts": restarts}
            yield labels, Search(ascent, which, np.array(alpha), bound.least_slope, subject)


def found(part, bounds, text):
    """A row of the table: the ratio at the instance, nan where L or rho exceeds 1."""
    x = {name: part[name].to_numpy() for name in part}
    x = {name: v if name in PER_TASK else v[0] for name, v in x.items()}
    bound = next(b for b in bounds if b.name == x["name"])
    valid = bool(np.isfinite(x["measured"])) and max(x.get("L", 1.0), x.get("rho", 1.0)) <= 1 + ROUNDING
    ratio, closed = (float(bound.ratio(x, x[v])) if valid else np.nan for v in ("measured", "formula"))
    return {
        "ratio": ratio,
        "closed": closed,
        "residual": x.get("residual", 0.0),
        "reached": x["reached"],
        "restarts": x["restarts"],
        "lam": x.get("lam", 1.0),
        "instance": text(x) if valid else "",
    }


def told(x):
    """The tasks, in units of L = rho = 1."""
    slopes, hessians = (", ".join(f"{v:.3g}" for v in x[name]) for name in ("slope", "curvature"))
    return f"f'=({slopes}), f''=({hessians})"


def judged(table, row, bounds):
    """The largest ratio of each bound."""
    for bound in bounds:
        part = table[table.name == bound.name]
        disagreement, worst = largest((part.ratio - part.closed).abs()), largest(part.ratio)
        tightest = part.iloc[int(np.argmax(part.ratio.to_numpy()))]
        note = (
            f"{tightest.instance}, lambda={tightest.lam:.3g}; best of {tightest.restarts} restarts, "
            f"{tightest.reached:.0%} of them end within 0.01 of it: a lower bound of the worst case"
        )
        if len(part) > 1:
            every = ", ".join(f"{r:.4f} at {lam:.3g}" for r, lam in zip(part.ratio, part.lam, strict=True))
            note = f"by lambda: {every}; {note}"
        if not disagreement <= ROUNDING:
            note = f"library and closed form differ by {disagreement:.2g}; {note}"
        yield row.at_most(
            f"tightest instance found: {bound.name}",
            bound.statement,
            worst,
            1.0 + ROUNDING,
            also=disagreement <= ROUNDING and largest(part.residual) <= 1e-9,
            note=note,
            **bound.about,
        )


FORMULAS = {
    "E[1/L~^2]": r"$E[1/\tilde L^2]$",
    "E[1/L~]": r"$E[1/\tilde L]$",
    "F-hat": r"$\hat F$",
    "grad F": r"$\nabla F$",
    "phi": r"$\phi$",
}


def drawn(table, bounds, title):
    """One line a bound, one marker a rate."""
    drawing, (axis,) = plotting.panels(1, width=2 * plotting.WIDTH)
    drawing.set_size_inches(2 * plotting.WIDTH, 1.3 + 0.28 * len(bounds))
    names = [bound.name for bound in bounds]
    sources = {bound.name: bound.about.get("source", "derived") for bound in bounds}
    looks = {"derived": {"color": "k"}, "as summarised": {"color": "0.4", "markerfacecolor": "none"}}
    for source, look in looks.items():
        part = table[table.name.map(sources) == source]
        if len(part):
            heights = [names.index(name) for name in part.name]
            axis.plot(part.ratio, heights, "o", label=f"share of the bound {source}", **look)
    axis.axvline(1.0, color="k", linewidth=1.0, label="attained")
    for plain, formula in FORMULAS.items():
        names = [name.replace(plain, formula) for name in names]
    axis.set_yticks(range(len(names)), names)
    axis.set(xlim=(0, 1.05 * max(1.0, table.ratio.max())), ylim=(len(names) - 0.5, -0.5))
    axis.set(xlabel="measured / bound [1]", ylabel="bound [id]")
    return plotting.finish(drawing, title)
