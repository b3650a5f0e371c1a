r"""One inner step pays what the descent lemma says, $F\le f-\alpha(1-\alpha L/2)E\|\nabla f_i\|^2$ (E99)."""

import jax.numpy as jnp
import numpy as np

from experiments.cells import AtPoints, Quantity
from experiments.claim import Claim
from experiments.judging import smallest
from jaxmaml import objective, plotting, tasks

POINTS = {"smoke": 200, "default": 10_000, "full": 100_000}
claim = Claim("E99", "one inner step pays what the descent lemma says", place="MAML theorem")


@Quantity
def gain(family, w, alpha):  # at one point: what the step pays, and the tasks' squared gradients
    squares = jnp.mean(jnp.sum(objective.task_gradients(family, w) ** 2, axis=1))
    return {"paid": objective.F(family, w, 0.0) - objective.F(family, w, alpha), "squares": squares}


@claim.cells
def cells(scale):  # labels, and what is run
    points = np.random.default_rng(0).standard_normal((POINTS[scale], 3))
    for lam in (0.1, 0.5, 1.0, 1.5):
        family = tasks.make("cosine", d=3)
        yield {"lam": lam}, AtPoints(gain, family, lam / family.constants().L, points)


@claim.per("lam")
def measured(part, cell):  # a row of the table for each alpha L
    lemma = cell.alpha * (1 - cell.alpha * cell.family.constants().L / 2) * part.squares
    return {"least": smallest(part.paid / lemma)}


@claim.rows
def rows(table, row):  # the verdicts follow from the numbers
    for lam, part in table.groupby("lam"):
        yield row.at_least(f"gain at alpha L = {lam}", r"$F\le f-\dots$", smallest(part.least), 1.0)


@claim.figure
def figure(table):
    """Least gain of a step over all points, in units of the lemma's."""
    drawing, (axis,) = plotting.panels(1, width=4, height=3)
    axis.plot(table.lam, table.least, "ko-", label="least of all points")
    axis.axhline(1, color="k", linestyle="--", label="the lemma")
    axis.set(xlabel=r"$\alpha L$ [1]", ylabel="gain of a step / the lemma's [1]", ylim=(0, None))
    return plotting.finish(drawing, claim.title)
