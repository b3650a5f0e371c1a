"""How many samples the Hessian needs: D_h >= 2 alpha^2 sigma_h^2 for MAML, 36 alpha^2 sigma_h^2 for HF-MAML (E23).

As summarised, with (alpha rho sigma_h)^2 in HF-MAML's, which is no number; mended to (alpha sigma_h)^2. What the
conditions buy (derived): the noise of the factor I - alpha H, applied to the outer gradient g,

    E||(A~ - A) g||^2 <= alpha^2 sigma_h^2 ||g||^2 / D_h,

is at most ||g||^2 / 2 for MAML and ||g||^2 / 36 for HF-MAML, whose difference uses one D_h at both points. In one
dimension the first holds with equality. The conditions say something only where alpha sigma_h is not small: here
sigma_h = 12 L at alpha = 1/(6L), so that D_h is at least 8 and 144.
"""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cells
from experiments.judging import at_most, largest, place_of
from experiments.results import LedgerRow
from jaxmaml import estimators, objective, plotting, theory
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.tasks import cosine
from jaxmaml.tasks.cosine import Cosine
from jaxmaml.types import Episode

TITLE = "the noise of the Hessian's batch against its size"
LAMBDA = 1 / 6
BLOCK = 1000
BLOCKS = {"smoke": 40, "default": 400, "full": 4000}
SIZES = (1.0, 4.0, 8.0, 36.0, 144.0, 1000.0)
W = 0.7
NU = 0.4
"""wave number of the noise."""
Z = 5.0
"""standard errors."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Noise:
    """E||G - E G||^2 over draws of D_h alone, in units of ||g||^2, for the one task of the family."""

    family: Cosine
    alpha: float
    rho: float
    D_h: float
    seed: int
    estimator: str = field(metadata={"static": True})
    blocks: int = field(metadata={"static": True})

    @property
    def cost(self) -> int:
        return self.blocks * BLOCK // 20

    def check(self) -> None:
        """Nothing can be wrong."""

    def execute(self) -> dict[str, jax.Array]:
        family, w = self.family, jnp.array([W])
        task = jax.tree.map(lambda x: jnp.asarray(x)[0], family.tasks)
        full = (task, family.full(task))
        arguments = {"delta": theorem_delta(self.rho, self.alpha)} if self.estimator == "hf_maml" else {}

        def direction(name: str, batch: object, **more: object) -> jax.Array:
            return estimators.get(name)(
                lambda v, b: objective.task_loss(family, v, b),
                w,
                Episode(full, batch, full),
                alpha=self.alpha,
                **more,
            )

        exact = direction(self.estimator, full, **arguments)
        outer = jnp.sum(direction("fo_maml", full) ** 2)

        def block(key: jax.Array) -> jax.Array:
            samples = family.sample(key, jnp.zeros(BLOCK, int), jnp.full(BLOCK, self.D_h))
            found = jax.vmap(lambda b: direction(self.estimator, (task, b), **arguments))(samples)
            squares = jnp.sum((found - exact) ** 2, axis=1) / outer
            return jnp.stack([squares.mean(), jnp.mean(squares**2)])

        keys = jax.random.split(jax.random.key(self.seed), self.blocks)
        mean, square = jax.lax.map(block, keys).mean(axis=0)
        return {"noise": mean, "error": jnp.sqrt((square - mean**2) / (self.blocks * BLOCK))}


def _family() -> Cosine:
    """d = 1, sigma_h = 12 L: beta0 nu^2 = 12 L sqrt(2)."""
    plain = cosine.make(n=1, d=1, mu=0.8, a=1.3, omega=1.7, seed=5)
    beta0 = 12 * plain.constants().L * math.sqrt(2) / NU**2
    return cosine.make(n=1, d=1, mu=0.8, a=1.3, omega=1.7, tau=0.5, beta0=beta0, nu=NU, seed=5)


def grid(scale: str) -> Cells:
    family = _family()
    constants = family.constants()
    cells = []
    for estimator in ("maml", "hf_maml"):
        for j, D_h in enumerate(SIZES):
            cell = _Noise(family, LAMBDA / constants.L, constants.rho, D_h, j, estimator, BLOCKS[scale])
            cells.append(({"estimator": estimator, "D_h": D_h}, cell))
    return cells


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """One row a method and D_h, with the bound and the theorem's condition."""
    del scale
    constants = _family().constants()
    alpha = LAMBDA / constants.L
    table = rows[["estimator", "D_h", "noise", "error"]].copy()
    table["bound"] = (alpha * constants.sigma_h) ** 2 / table.D_h
    table["condition"] = [theory.theorems()[e].hessian_samples(constants, alpha) for e in table.estimator]
    # The field of the noise at w +- arc: its difference is the wave's, damped by a sinc.
    arc = 1 / (6 * constants.rho * alpha)
    damping = np.sinc(NU * arc / np.pi) ** 2
    table["expected"] = table.bound * np.where(table.estimator == "hf_maml", damping, 1.0)
    return table


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    rows = [
        at_most(
            "E23",
            "noise of the Hessian factor equals its closed form",
            r"$E\|(\tilde A-A)g\|^2=\alpha^2\sigma_H^2\|g\|^2/D_h$ in one dimension, times a sinc squared for a difference",
            "MAML theorem",
            "derived",
            largest((table.noise - table.expected).abs() / table.error),
            Z,
            note="largest distance in standard errors, MAML and HF-MAML",
        )
    ]
    for estimator, share in (("maml", 1 / 2), ("hf_maml", 1 / 36)):
        part = table[(table.estimator == estimator) & (table.D_h >= table.condition * (1 - 1e-9))]
        at = part.iloc[int(np.argmin(part.D_h.to_numpy()))]
        rows.append(
            at_most(
                "E23",
                f"noise of the Hessian factor of {plotting.label(estimator)} at its condition",
                rf"$E\|(\tilde A-A)g\|^2\le\frac1{{{1 / share:.0f}}}\|g\|^2$ for $D_h\ge{'2' if share == 0.5 else '36'}\,\alpha^2\sigma_H^2$",
                place_of(estimator),
                "condition as summarised; derived"
                if estimator == "maml"
                else "condition as summarised, its unit mended; derived",
                largest(part.expected),
                share * (1 + 1e-12),
                also=largest((part.noise - part.expected).abs() / part.error) <= Z,
                note=f"closed form at D_h = {at.D_h:g}; sampled {at.noise:.4g} +- {at.error:.1g}",
            )
        )
    return rows


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(1, width=3.6)
    axis = axes[0]
    for estimator in plotting.ordered(table.estimator):
        part = table[table.estimator == estimator]
        shade = plotting.color(estimator)
        axis.errorbar(
            part.D_h,
            part.noise,
            Z * part.error,
            fmt=plotting.MARKERS[estimator],
            capsize=2,
            color=shade,
            label=plotting.label(estimator),
        )
        share = 1 / 2 if estimator == "maml" else 1 / 36
        axis.plot(
            part.condition.iloc[0],
            share,
            "*",
            markersize=9,
            color=shade,
            markeredgecolor="k",
            label=f"{plotting.label(estimator)}'s condition, as summarised",
        )
    axis.loglog(part.D_h, part.bound, "--", color="k", label=r"$\alpha^2\sigma_H^2/D_h$, derived")
    axis.set_xlabel("samples of the Hessian $D_h$ [1]")
    axis.set_ylabel(r"$E\|(\tilde A-A)g\|^2/\|g\|^2$ [1]")
    return plotting.finish(drawing, f"Noise of the Hessian's batch ({Z:g} standard errors)", columns=2)
