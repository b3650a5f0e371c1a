"""The gradients of the tasks are bounded by that of F (E10), the step from grad f to grad F in every proof.

Derived, with C1 = 1/gamma(lam), C2 = (2 lam + lam^2) C1, C3 = (1 + C2^2)^{1/2}, lam = alpha L:

    ||grad f(w)|| <= C1 ||grad F(w)|| + C2 sigma,
    E_i ||grad f_i(w)|| <= (E_i ||grad f_i(w)||^2)^{1/2} <= C1 ||grad F(w)|| + C3 sigma.

Measured at random points of the nonconvex family (c) and of quadratics with different Hessians, on the ball where
their sigma holds, at several lam. That gamma is the best constant is shown in worst_comparison.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import AtPoints, Quantity
from experiments.claim import Claim
from experiments.judging import largest
from jaxmaml import objective, plotting, tree
from jaxmaml.tasks import cosine, quadratic
from jaxmaml.theory.gradient_comparison import comparison_constants

LAMBDAS = (1 / 20, 1 / 10, 1 / 6, 1 / 4, 0.35)
POINTS = {"smoke": 300, "default": 3000, "full": 30_000}

claim = Claim("E10", "the tasks' gradients against the gradient of F", place="MAML theorem")


@Quantity
def norms(family, w, alpha):
    """The norms of both sides."""
    gradients = objective.task_gradients(family, w)
    each = jax.vmap(tree.norm)(gradients)
    b, mean = tree.norm(objective.grad_F(family, w, alpha)), tree.norm(gradients.mean(axis=0))
    return {"b": b, "mean": mean, "first": each.mean(), "rms": jnp.sqrt(jnp.mean(each**2))}


@claim.cells
def cells(scale):
    rng = np.random.default_rng(8)
    directions = rng.standard_normal((POINTS[scale], 3))
    wave, bowl = cosine.make(n=10, d=3, seed=3), quadratic.make(n=10, d=3, seed=3)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    ball = bowl.ball_center() + bowl.radius * rng.uniform(size=(POINTS[scale], 1)) * unit
    everywhere = 10 ** rng.uniform(-2, 1.5, (POINTS[scale], 1)) * directions
    for name, family, points in (("cosine", wave, everywhere), ("quadratic", bowl, ball)):
        for lam in LAMBDAS:
            cell = AtPoints(norms, family, lam / family.constants().L, points)
            yield {"family": name, "lam": lam}, cell


@claim.per("family", "lam")
def measured(part, cell):
    """The largest ratios, and how well ||grad F|| agrees with its closed form."""
    constants = cell.family.constants()
    c1, c2, c3 = comparison_constants(cell.alpha * constants.L)
    closed = [np.linalg.norm(cell.family.grad_objective(w, cell.alpha)) for w in cell.points]
    return {
        "points": len(part),
        "mean": largest(part["mean"] / (c1 * part.b + c2 * constants.sigma)),
        "rms": largest(part.rms / (c1 * part.b + c3 * constants.sigma)),
        "first": largest(part["first"] / part.rms),
        "difference": largest((part.b / closed - 1).abs()),
    }


@claim.rows
def rows(table, row):
    right = largest(table.difference) <= 1e-6
    note = (
        f"largest ratio over {np.sum(table.points.to_numpy())} points, alpha L up to {largest(table.lam):g}"
    )
    yield row.at_most(
        "gradient of f against that of F",
        r"$\|\nabla f\|\le C_1\|\nabla F\|+C_2\sigma$",
        largest(table["mean"]),
        1.0,
        also=right,
        note=note,
    )
    yield row.at_most(
        "gradients of the tasks against that of F",
        r"$E\|\nabla f_i\|\le(E\|\nabla f_i\|^2)^{1/2}\le C_1\|\nabla F\|+C_3\sigma$",
        largest(table.rms),
        1.0,
        also=right and largest(table["first"]) <= 1 + 1e-12,
        note=note,
    )


@claim.figure
def figure(table):
    """At random points the gradients of the tasks stay below the bound by the gradient of the whole.

    Both their mean and their root mean square come close to it at small rates.
    """
    drawing, (axis,) = plotting.panels(1, height=2.8)
    for j, (name, part) in enumerate(table.groupby("family", sort=False)):
        family = "nonconvex family" if name == "cosine" else "quadratics"
        for column, text, hollow in (
            ("mean", r"$\|\nabla f\|$", False),
            ("rms", r"$(E\|\nabla f_i\|^2)^{1/2}$", True),
        ):
            look = plotting.neutral(j, hollow=hollow) | {"linestyle": "none", "markersize": 5}
            axis.plot(part.lam, part[column], label=f"{text}, {family}", **look)
    axis.axhline(1.0, label="bound, derived", **plotting.theory("derived", named=True))
    axis.set(ylim=(0, 1.15), xlabel=r"$\alpha L$ [1]", ylabel="largest measured / bound [1]")
    title = "Gradients of the tasks against the gradient of the whole"
    return plotting.finish(drawing, title, key="right")
