"""F is smooth with a parameter that depends on w and has no bound (E02), and so is its descent corollary (E03).

As summarised, for alpha <= 1/L,

    ||grad F(w) - grad F(u)|| <= min{L(w), L(u)} ||w - u||,   L(w) = 4L + 2 rho alpha E_i ||grad f_i(w)||,
    |F(u) - F(w) - <grad F(w), u - w>| <= L(w)/2 ||u - w||^2,

and no constant would do for all w. Derived: L_s(w) = (1 + lam)^2 L + (1 + lam) rho alpha E_i ||grad f_i(w)||,
lam = alpha L, does for L(w) in both. Measured on the nonconvex family (c) at random pairs at distances from
10^-3 to 10 in boxes of growing size; the curvature of F grows in proportion to the box.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cells, spectral_norm
from experiments.judging import at_most, largest, smallest, within
from experiments.results import LedgerRow, Place
from jaxmaml import objective, plotting, statistics, tree
from jaxmaml.tasks import cosine
from jaxmaml.tasks.cosine import Cosine

TITLE = "F is smooth with a parameter that grows with w; its descent corollary"
LAMBDA = 1 / 2
RADII = (1e0, 1e1, 1e2, 1e3, 3e3, 1e4, 3e4, 1e5)
ASYMPTOTIC = 1e3
"""from where on the growth is fitted: 2 rho alpha E||grad f_i|| >> 4 L."""
PAIRS = {"smoke": 400, "default": 4000, "full": 40_000}
DISTANCES = (1e-3, 1e1)
PLACE: Place = "smoothness lemma"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Box:
    """Random pairs w, u with w uniform in the box of half-width `radius`."""

    family: Cosine
    alpha: float
    L: float
    rho: float
    radius: float
    seed: int
    pairs: int = field(metadata={"static": True})

    @property
    def cost(self) -> int:
        return self.pairs

    def check(self) -> None:
        """Nothing can be wrong."""

    def execute(self) -> dict[str, jax.Array]:
        lam = self.alpha * self.L

        def one(key: jax.Array) -> dict[str, jax.Array]:
            where, direction, distance = jax.random.split(key, 3)
            d = self.family.dim
            w = self.radius * jax.random.uniform(where, (d,), minval=-1, maxval=1)
            low, high = np.log(DISTANCES)
            length = jnp.exp(jax.random.uniform(distance, (), minval=low, maxval=high))
            step = jax.random.normal(direction, (d,))
            step = length * step / tree.norm(step)
            u = w + step
            gradients = [objective.grad_F(self.family, x, self.alpha) for x in (w, u)]
            values = [objective.F(self.family, x, self.alpha) for x in (w, u)]
            summary, norms = [], []
            for x in (w, u):
                summary.append(objective.smoothness_at(self.family, x, self.alpha, self.L, self.rho))
                norms.append((summary[-1] - 4 * self.L) / (2 * self.rho * self.alpha))
            sharp = [(1 + lam) ** 2 * self.L + (1 + lam) * self.rho * self.alpha * n for n in norms]
            change = tree.norm(gradients[1] - gradients[0]) / length
            rest = values[1] - values[0] - jnp.vdot(gradients[0], step)
            hessian = jax.jacfwd(lambda x: objective.grad_F(self.family, x, self.alpha))(w)
            return {
                "distance": length,
                "change": change,
                "curvature": spectral_norm(hessian),
                "lipschitz": change / jnp.minimum(*summary),
                "lipschitz_sharp": change / jnp.minimum(*sharp),
                "descent": rest / (0.5 * summary[0] * length**2),
                "descent_sharp": rest / (0.5 * sharp[0] * length**2),
                "smoothness": summary[0],
                # A value that is lost in the rounding of F.
                "rounding": 1e-15 * jnp.abs(values[0]) / (0.5 * summary[0] * length**2),
            }

        return jax.lax.map(one, jax.random.split(jax.random.key(self.seed), self.pairs), batch_size=64)


def grid(scale: str) -> Cells:
    family = cosine.make(n=20, d=4, seed=3)
    constants = family.constants()
    alpha = LAMBDA / constants.L
    return [
        ({"radius": radius}, _Box(family, alpha, constants.L, constants.rho, radius, j, PAIRS[scale]))
        for j, radius in enumerate(RADII)
    ]


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """One row a box: the extreme ratios over its pairs."""
    del scale
    table = []
    for radius, part in rows.groupby("radius"):
        table.append(
            {
                "radius": radius,
                "pairs": len(part),
                "curvature": largest(part.curvature),
                "smoothness": largest(part.smoothness),
                "lipschitz": largest(part.lipschitz),
                "lipschitz_sharp": largest(part.lipschitz_sharp),
                "descent_high": largest(part.descent - part.rounding),
                "descent_low": smallest(part.descent + part.rounding),
                "descent_sharp": largest(part.descent_sharp.abs() - 2 * part.rounding),
            }
        )
    return pd.DataFrame(table)


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    pairs = f"largest ratio over {table.pairs.sum()} pairs"
    far = table[table.radius >= ASYMPTOTIC]
    fit = statistics.slope(far.radius, far.curvature)
    size = largest([largest(table.descent_high), -smallest(table.descent_low)])
    both = smallest(table.descent_low) < 0 < largest(table.descent_high)
    return [
        at_most(
            "E02",
            "grad F is Lipschitz with min{L(w), L(u)}",
            r"$\|\nabla F(w)-\nabla F(u)\|\le\min\{L(w),L(u)\}\,\|w-u\|$, $L(w)=4L+2\rho\alpha E\|\nabla f_i(w)\|$",
            PLACE,
            "as summarised",
            largest(table.lipschitz),
            1.0,
            sharp=False,
            note=pairs,
        ),
        at_most(
            "E02",
            "grad F is Lipschitz with the sharper L_s",
            r"$L_s(w)=(1+\lambda)^2L+(1+\lambda)\rho\alpha E\|\nabla f_i(w)\|\le\frac{1+\lambda}2L(w)$",
            PLACE,
            "derived",
            largest(table.lipschitz_sharp),
            1.0,
            note=pairs,
        ),
        within(
            "E02",
            "no constant bounds the curvature of F",
            r"$\sup_{\|w\|_\infty\le R}\|\nabla^2F(w)\|$ grows like $R$",
            PLACE,
            "as summarised that it has no bound; rate derived",
            fit,
            1.0,
            0.05,
            note=f"log-log slope over {fit.n} boxes from R = {ASYMPTOTIC:g}",
        ),
        at_most(
            "E03",
            "the descent corollary",
            r"$|F(u)-F(w)-\langle\nabla F(w),u-w\rangle|\le\frac{L(w)}2\|u-w\|^2$",
            PLACE,
            "as summarised, the sign of its upper bound mended",
            size,
            1.0,
            also=both,
            note=f"{pairs}, of both signs; with L_s the largest is {largest(table.descent_sharp):.3g}",
        ),
    ]


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(2)
    shade = plotting.color("maml")
    axes[0].loglog(table.radius, table.curvature, "o", color=shade, label=r"$\max\|\nabla^2F\|$, measured")
    axes[0].loglog(table.radius, table.smoothness, ":", color="k", label="$\\max L(w)$, as summarised")
    plotting.fitted(axes[0], *(table[table.radius >= ASYMPTOTIC][c] for c in ("radius", "curvature")))
    axes[0].set_ylabel(r"curvature [$\varphi/u^2$]")
    axes[1].semilogx(
        table.radius, table.lipschitz, "o", color=shade, label="change of $\\nabla F$ over $L(w)$"
    )
    axes[1].semilogx(
        table.radius,
        table.lipschitz_sharp,
        "o",
        color=shade,
        markerfacecolor="none",
        label="change of $\\nabla F$ over $L_s(w)$",
    )
    size = np.maximum(table.descent_high, -table.descent_low)
    axes[1].semilogx(table.radius, size, "D", color=plotting.OTHER[1], label="descent corollary, over $L(w)$")
    axes[1].axhline(1.0, linestyle=":", color="k", label="bound, as summarised")
    axes[1].set_ylim(0, 1.1)
    axes[1].set_ylabel("largest measured / bound [1]")
    for axis in axes:
        axis.set_xlabel(r"half-width of the box $R$ [$u$]")
    return plotting.finish(drawing, "The smoothness of F on the nonconvex family (c)")
