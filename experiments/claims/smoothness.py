"""F is smooth with a parameter that depends on w and has no bound (E02), and so is its descent corollary (E03).

As summarised, for alpha <= 1/L,

    ||grad F(w) - grad F(u)|| <= min{L(w), L(u)} ||w - u||,   L(w) = 4L + 2 rho alpha E_i ||grad f_i(w)||,
    |F(u) - F(w) - <grad F(w), u - w>| <= L(w)/2 ||u - w||^2,

and no constant would do for all w. Derived: L_s(w) = (1 + lam)^2 L + (1 + lam) rho alpha E_i ||grad f_i(w)||,
lam = alpha L, does for L(w) in both. Measured on the nonconvex family (c) at random pairs at distances from
10^-3 to 10 in boxes of growing size; the curvature of F grows in proportion to the box.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import AtPoints, Quantity, spectral_norm
from experiments.claim import Claim
from experiments.judging import largest, smallest
from jaxmaml import objective, plotting, statistics, tree
from jaxmaml.tasks import cosine
from jaxmaml.theory.smoothness import sharp_smoothness, smoothness

LAMBDA = 1 / 2
RADII = (1e0, 1e1, 1e2, 1e3, 3e3, 1e4, 3e4, 1e5)
ASYMPTOTIC = 1e3
"""from where on the growth is fitted: 2 rho alpha E||grad f_i|| >> 4 L."""
PAIRS = {"smoke": 400, "default": 4000, "full": 40_000}
DISTANCES = (1e-3, 1e1)

claim = Claim(
    "E02", "F is smooth with a parameter that grows with w; its descent corollary", place="smoothness lemma"
)


@Quantity
def changes(family, pair, alpha):
    """How grad F and F change from w to u, and the mean norm of the tasks' gradients at both."""
    (w, u), step = pair, pair[1] - pair[0]
    first, second = (objective.grad_F(family, x, alpha) for x in pair)
    value, other = (objective.F(family, x, alpha) for x in pair)
    norms = [jnp.mean(jax.vmap(tree.norm)(objective.task_gradients(family, x))) for x in (w, u)]
    hessian = jax.jacfwd(lambda x: objective.grad_F(family, x, alpha))(w)
    return {
        "distance": tree.norm(step),
        "change": tree.norm(second - first) / tree.norm(step),
        "rest": (other - value - jnp.vdot(first, step)) / (0.5 * tree.norm(step) ** 2),
        "value": value,
        "norm": norms[0],
        "least_norm": jnp.minimum(*norms),
        "curvature": spectral_norm(hessian),
    }


def pairs(radius, seed, count, d):
    """w uniform in the box of half-width `radius`, u at a distance from it that is uniform in its logarithm."""

    def one(key):
        where, direction, distance = jax.random.split(key, 3)
        w = radius * jax.random.uniform(where, (d,), minval=-1, maxval=1)
        low, high = np.log(DISTANCES)
        length = jnp.exp(jax.random.uniform(distance, (), minval=low, maxval=high))
        step = jax.random.normal(direction, (d,))
        return jnp.stack([w, w + length * step / tree.norm(step)])

    return np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(seed), count)))


@claim.cells
def cells(scale):
    family = cosine.make(n=20, d=4, seed=3)
    for j, radius in enumerate(RADII):
        points = pairs(radius, j, PAIRS[scale], family.dim)
        yield {"radius": radius}, AtPoints(changes, family, LAMBDA / family.constants().L, points)


@claim.per("radius")
def measured(part, cell):
    """The extreme ratios over the pairs of a box."""
    about = cell.family.constants(), cell.alpha
    at_w, least = smoothness(*about, part.norm), smoothness(*about, part.least_norm)
    sharp = sharp_smoothness(*about, part.norm)
    # A value that is lost in the rounding of F.
    rounding = 1e-15 * part.value.abs() / (0.5 * at_w * part.distance**2)
    return {
        "pairs": len(part),
        "curvature": largest(part.curvature),
        "smoothness": largest(at_w),
        "lipschitz": largest(part.change / least),
        "lipschitz_sharp": largest(part.change / sharp_smoothness(*about, part.least_norm)),
        "descent_high": largest(part.rest / at_w - rounding),
        "descent_low": smallest(part.rest / at_w + rounding),
        "descent_sharp": largest((part.rest / sharp).abs() - 2 * rounding),
    }


@claim.rows
def rows(table, row):
    pairs = f"largest ratio over {table.pairs.sum()} pairs"
    far = table[table.radius >= ASYMPTOTIC]
    fit = statistics.slope(far.radius, far.curvature)
    size = largest([largest(table.descent_high), -smallest(table.descent_low)])
    both = smallest(table.descent_low) < 0 < largest(table.descent_high)
    yield row.at_most(
        "grad F is Lipschitz with min{L(w), L(u)}",
        r"$\|\nabla F(w)-\nabla F(u)\|\le\min\{L(w),L(u)\}\,\|w-u\|$, $L(w)=4L+2\rho\alpha E\|\nabla f_i(w)\|$",
        largest(table.lipschitz),
        1.0,
        note=pairs,
        source="as summarised",
    )
    yield row.at_most(
        "grad F is Lipschitz with the sharper L_s",
        r"$L_s(w)=(1+\lambda)^2L+(1+\lambda)\rho\alpha E\|\nabla f_i(w)\|\le\frac{1+\lambda}2L(w)$",
        largest(table.lipschitz_sharp),
        1.0,
        note=pairs,
    )
    yield row.within(
        "no constant bounds the curvature of F",
        r"$\sup_{\|w\|_\infty\le R}\|\nabla^2F(w)\|$ grows like $R$",
        fit,
        1.0,
        0.05,
        note=f"log-log slope over {fit.n} boxes from R = {ASYMPTOTIC:g}",
        source="as summarised that it has no bound; rate derived",
    )
    yield row.at_most(
        "the descent corollary",
        r"$|F(u)-F(w)-\langle\nabla F(w),u-w\rangle|\le\frac{L(w)}2\|u-w\|^2$",
        size,
        1.0,
        also=both,
        note=f"{pairs}, of both signs; with L_s the largest is {largest(table.descent_sharp):.3g}",
        number="E03",
        source="as summarised, the sign of its upper bound mended",
    )


@claim.figure
def figure(table):
    drawing, axes = plotting.panels(2)
    shade = plotting.color("maml")
    axes[0].loglog(table.radius, table.curvature, "o", color=shade, label=r"$\max\|\nabla^2F\|$, measured")
    axes[0].loglog(table.radius, table.smoothness, ":", color="k", label="$\\max L(w)$, as summarised")
    plotting.fitted(axes[0], *(table[table.radius >= ASYMPTOTIC][c] for c in ("radius", "curvature")))
    axes[0].set_ylabel(r"curvature [$\varphi/u^2$]")
    size = np.maximum(table.descent_high, -table.descent_low)
    for values, look in (
        (table.lipschitz, {"marker": "o", "label": r"change of $\nabla F$ over $L(w)$"}),
        (
            table.lipschitz_sharp,
            {"marker": "o", "mfc": "none", "label": r"change of $\nabla F$ over $L_s(w)$"},
        ),
        (size, {"marker": "D", "color": plotting.OTHER[1], "label": "descent corollary, over $L(w)$"}),
    ):
        axes[1].semilogx(table.radius, values, **{"color": shade, "linestyle": "none"} | look)
    axes[1].axhline(1.0, linestyle=":", color="k", label="bound, as summarised")
    axes[1].set(ylim=(0, 1.1), ylabel="largest measured / bound [1]")
    for axis in axes:
        axis.set_xlabel(r"half-width of the box $R$ [$u$]")
    return plotting.finish(drawing, "The smoothness of F on the nonconvex family (c)")
