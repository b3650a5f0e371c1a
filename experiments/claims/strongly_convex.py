"""On strongly convex tasks with bounded gradients F is strongly convex too, at small alpha (E29).

As stated in Fallah et al. 2021 (NeurIPS): where the tasks are mu-strongly convex and ||grad f_i|| <= G, F is
(4L + 2 alpha rho G)-smooth for alpha <= 1/L, and mu/8-strongly convex for alpha <= min{1/(2L), mu/(8 rho G)}. Derived:
with ||I - alpha H_i|| and ||grad f_i(w_i+)|| / G at most 1 - alpha mu, the curvature of F is at least
(1 - alpha L)^2 mu - (1 - alpha mu) alpha rho G and at most (1 - alpha mu)^2 L + (1 - alpha mu) alpha rho G. On family
(c) with mu = mu_c - a omega^2 > 0, on two lines: 1/(2L) is the smaller rate on the short one. `spectral_norm` errs by 2e-8.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import AtPoints, Quantity, spectral_norm
from experiments.claim import Claim
from experiments.claims.smoothness import hessian_entries
from experiments.judging import largest, smallest
from jaxmaml import objective, plotting
from jaxmaml.tasks import cosine

POINTS = {"smoke": 1001, "default": 10_001, "full": 100_001}
LINES = (("short", 0.1, (1 / 4, 1 / 2, 1)), ("long", 20.0, (1 / 4, 1 / 2, 1, 9)))  # reach, shares of rate
PAPER = {"source": "as stated in Fallah et al. 2021"}

claim = Claim("E29", "F is strongly convex where its tasks are, at small alpha", place="smoothness lemma")


@Quantity
def extreme_curvatures(family, w, alpha):
    hessian = jax.jacfwd(lambda x: objective.grad_F(family, x, alpha))(w)
    size = jnp.linalg.norm(hessian)
    least, greatest = (spectral_norm(size * jnp.eye(w.size) + sign * hessian) - size for sign in (-1, 1))
    return {"least": -least, "greatest": greatest}


def constants(family, points):
    """mu, L, rho, and G on these points."""
    found, gradients = family.constants(), family.task_gradients(points[:, None])
    return 2 * family.mu - found.L, found.L, found.rho, np.linalg.norm(gradients, axis=2).max()


@claim.cells
def cells(scale):
    family = cosine.make(n=3, d=2, mu=1.0, a=0.012, omega=5.0, spread=0.01, seed=1)
    for line, reach, shares in LINES:
        points = np.linspace(-reach, reach, POINTS[scale])[:, None] * np.array([1.0, 0.1])
        mu, L, rho, G = constants(family, points)
        for share in shares:
            alpha = share * min(1 / (2 * L), mu / (8 * rho * G))
            yield {"line": line, "share": share}, AtPoints(extreme_curvatures, family, alpha, points)


@claim.per("line", "share")
def measured(part, cell):
    """The extreme curvatures of all points, and both bounds of each."""
    (mu, L, rho, G), alpha = constants(cell.family, cell.points), cell.alpha
    closed, more = hessian_entries(cell, cell.points), (1 - alpha * mu) * alpha * rho * G
    off = np.abs([part.least - closed.min(axis=1), part.greatest - closed.max(axis=1)])
    found = {"alpha": alpha, "least": smallest(part.least), "greatest": largest(part.greatest)}
    found |= {"derived_lower": (1 - alpha * L) ** 2 * mu - more}
    found |= {"derived_upper": (1 - alpha * mu) ** 2 * L + more, "stated_lower": mu / 8}
    return found | {"stated_upper": 4 * L + 2 * alpha * rho * G, "off": largest(off)}


@claim.rows
def rows(table, row):
    at, far, on = table[table.share <= 1], table[table.share > 1], "strongly convex tasks: "
    ratio, sharper = at.greatest / at.stated_upper, largest(at.derived_upper / at.stated_upper)
    text = r"$\nabla^2F\preceq4L+2\alpha\rho G$"
    yield row.at_most(on + "F is smooth", text, largest(ratio), 1.0, sharper=sharper, **PAPER)
    text = r"$\nabla^2F\preceq(1-\alpha\mu)^2L+(1-\alpha\mu)\alpha\rho G$"
    yield row.at_most(on + "F is smooth, sharper", text, largest(at.greatest / at.derived_upper), 1.0)
    text = r"$\nabla^2F\succeq\mu/8$ for $\alpha\le\min\{1/(2L),\mu/(8\rho G)\}$"
    yield row.at_least(on + "so is F", text, smallest(at.least / at.stated_lower), 1.0, **PAPER)
    text = r"$\nabla^2F\succeq(1-\alpha L)^2\mu-(1-\alpha\mu)\alpha\rho G$"
    yield row.at_least(on + "so is F, sharper", text, smallest(at.least / at.derived_lower), 1.0)
    text = r"$\nabla^2F\succeq\mu/8$ fails where $\alpha=9\mu/(8\rho G)$"
    yield row.at_most(on + "F is not, far beyond", text, largest(far.least / far.stated_lower), 1.0)
    text = r"$\nabla^2F=E[(I-\alpha H_i)\nabla^2f_i(w_i^+)(I-\alpha H_i)-\alpha\nabla^3f_i(w)[\nabla f_i(w_i^+)]]$"
    yield row.within(on + "the Hessian of F in closed form", text, largest(table.off), 0.0, 1e-7)


@claim.figure
def figure(table):
    """For strongly convex tasks the curvature of the objective lies between the derived bounds, which are close on both sides.

    Beyond the largest rate that is allowed the objective nearly loses its convexity.
    """
    (drawing, (axis,)), part = plotting.panels(1, height=3.0), table[table.line == "long"]
    for column, j in (("greatest", 0), ("least", 1)):
        look = plotting.neutral(j) | {"linestyle": "none", "markersize": 6}
        axis.plot(part.alpha, part[column], label=f"{column} curvature, measured", **look)
    for column, kind in (("derived", "derived"), ("stated", "as summarised")):
        for end in ("upper", "lower"):
            # The lower ones are close to each other.
            line = plotting.theory(kind, named=end == "upper" or column == "derived")
            axis.plot(part.alpha, part[f"{column}_{end}"], label=f"{end} bound, {kind}", **line)
    allowed = {"color": plotting.SHADES[3], "linewidth": 1.0, "label": "largest rate allowed"}
    axis.axvline(part.alpha[part.share == 1].iloc[0], **allowed)
    axis.set(xscale="log", xlabel=r"inner rate $\alpha$ [$u^2/\varphi$]", ylabel=r"curvature [$\varphi/u^2$]")
    return plotting.finish(drawing, "Strongly convex tasks: the curvature of the objective", key="right")
