"""The central difference errs by at most rho delta ||v||^2 / 2, plus rounding (E20).

As summarised, the Hessian-vector product [grad f(w + delta v) - grad f(w - delta v)] / (2 delta) errs by at
most rho delta ||v||^2. Half of that holds, and is attained by f(x) = rho |x|^3 / 6 at 0 (derived).
Where the third derivative is Lipschitz the error falls like delta^2 instead, until rounding of order
eps (||grad f|| + L ||w||) / delta takes over: the step 1 / (6 rho alpha ||v||) of the theorem lies far on
the truncation side, and the best step near ||delta v|| = eps^(1/3).
"""

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cells
from experiments.judging import at_most, largest, smallest, within
from experiments.results import LedgerRow, Place
from jaxmaml import hvp, objective, plotting, statistics, tree
from jaxmaml.tasks import cosine
from jaxmaml.tasks.cosine import Cosine
from jaxmaml.theory import finite_difference
from jaxmaml.types import Array, Loss, PyTree

TITLE = "error of the central difference against its step, float32 and float64"
KINK_RHO = 3.0
LAMBDA = 1 / 6
POINTS = {"smoke": 48, "default": 96, "full": 192}


@dataclass(frozen=True)
class _Difference:
    """||d - H v|| / ||v|| of one task (the first of the family), or of the kink rho |x|^3 / 6 at 0."""

    family: Cosine
    w: Array
    vector: Array
    arc: Array
    """||delta v||."""
    kink: bool = field(metadata={"static": True})
    cost: int = field(default=1, metadata={"static": True})

    def check(self) -> None:
        """Nothing can be wrong."""

    def execute(self) -> dict[str, jax.Array]:
        arc, norm = jnp.asarray(self.arc), tree.norm(self.vector)
        delta = arc / norm
        loss: Loss
        batch: PyTree
        if self.kink:
            w = jnp.zeros_like(self.w[:1])
            vector, norm, delta = jnp.ones_like(w), jnp.ones_like(norm), arc
            loss, batch, truth = _kink, None, jnp.zeros_like(w)
        else:
            w, vector = jnp.asarray(self.w), jnp.asarray(self.vector)
            task = jax.tree.map(lambda x: x[0], self.family.tasks)
            loss, batch = functools.partial(objective.task_loss, self.family), (task, self.family.full(task))
            truth = hvp.exact(loss, w, vector, batch)
        error = tree.norm(hvp.central_difference(loss, w, vector, batch, delta) - truth)
        gradient = tree.norm(jax.grad(loss)(w, batch))
        return {
            "arc": arc,
            "error": error / norm,
            "grad_norm": gradient,
            "w_norm": tree.norm(w),
        }


jax.tree_util.register_dataclass(_Difference)


def _kink(x: jax.Array, batch: None) -> jax.Array:
    """rho |x|^3 / 6, whose Hessian is Lipschitz and not differentiable at 0."""
    del batch
    return jnp.asarray(KINK_RHO / 6, x.dtype) * jnp.sum(jnp.abs(x) ** 3)


def _problem() -> tuple[Cosine, np.ndarray, np.ndarray]:
    family = cosine.make(n=1, d=10, seed=5)
    rng = np.random.default_rng(5)
    return family, 2.0 * rng.standard_normal(10), 3.0 * rng.standard_normal(10)


def grid(scale: str) -> Cells:
    cells = []
    for precision in ("float64", "float32"):
        as_precision = functools.partial(np.asarray, dtype=precision)
        family, w, vector = jax.tree.map(as_precision, _problem())
        for arc in np.logspace(-10, 1, POINTS[scale]):
            for kink in (False, True):
                labels = {"precision": precision, "function": "kink" if kink else "cosine"}
                cells.append((labels, _Difference(family, w, vector, np.asarray(arc, precision), kink)))
    return cells


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """One row a step, with the bound, and the bound with the sharp order."""
    del scale
    constants = _problem()[0].constants()
    table = rows[["function", "precision", "arc", "error", "grad_norm", "w_norm"]].copy()
    kink = table.function == "kink"
    rho = np.where(kink, KINK_RHO, constants.rho)
    table["truncation"] = np.minimum(0.5 * rho * table.arc, np.where(kink, np.inf, 2 * constants.L))
    table["truncation_smooth"] = np.where(kink, np.nan, constants.zeta * table.arc**2 / 6)
    eps = table.precision.map(lambda p: float(np.finfo(p).eps)).to_numpy()
    lipschitz = np.where(kink, 0.0, constants.L)
    # The kink is evaluated at 0, where its gradient is as small as the step: rounding is relative there.
    table["rounding"] = [
        finite_difference.rounding(e, g, l, w, a) + 8 * e * t
        for e, g, l, w, a, t in zip(
            eps, table.grad_norm, lipschitz, table.w_norm, table.arc, table.truncation, strict=True
        )
    ]
    table["theorem_arc"] = np.where(kink, np.nan, constants.L / (6 * constants.rho * LAMBDA))
    grad_scale = table.grad_norm + constants.L * table.w_norm
    best = finite_difference.optimal_arc_smooth(eps, grad_scale.to_numpy(), constants.zeta)
    table["best_arc"] = np.where(kink, np.nan, best)
    return table


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    place: Place = "Hessian-free product"
    rows = []
    for precision in ("float64", "float32"):
        every = table[table.precision == precision]
        ratio = every.error / (every.truncation + every.rounding)
        rows.append(
            at_most(
                "E20",
                f"error of the difference in {precision}",
                r"$\|d-Hv\|\le\frac12\rho\delta\|v\|^2$, and rounding",
                place,
                "as summarised with twice this constant; derived",
                largest(ratio),
                1.0,
                note="largest ratio of error and bound over both functions",
            )
        )
        smooth = every[every.function == "cosine"]
        best = smooth.iloc[int(np.argmin(smooth.error.to_numpy()))]
        rows.append(
            within(
                "E20",
                f"best step of the difference in {precision}",
                r"$\|\delta v\|=(3C\epsilon(\|\nabla f\|+L\|w\|)/\zeta)^{1/3}$, $C=4$",
                place,
                "derived",
                float(np.log10(best.arc / best.best_arc)),
                0.0,
                1.0,
                note=f"log10 of measured over predicted; error there {best.error:.2g}",
            )
        )
    exact = table[table.precision == "float64"]
    smooth = exact[exact.function == "cosine"]
    branch = _truncation(smooth)
    fit = statistics.slope(branch.arc, branch.error)
    rows.append(
        within(
            "E20",
            "order of the difference on a smooth function",
            r"error of order $\delta^2$ where the third derivative is Lipschitz",
            place,
            "derived",
            fit,
            2.0,
            0.02,
            note="log-log slope",
        )
    )
    kink = exact[(exact.function == "kink") & (exact.arc > 1e-6)]
    rows.append(
        within(
            "E20",
            "the constant 1/2 is attained by rho |x|^3 / 6",
            r"$\|d-Hv\|=\frac12\rho\delta\|v\|^2$ for $f=\frac16\rho|x|^3$ at 0",
            place,
            "derived",
            smallest(kink.error / kink.truncation),
            1.0,
            1e-9,
            note=f"and its slope is {statistics.slope(kink.arc, kink.error).mean:.6g}",
        )
    )
    return rows


def _truncation(smooth: pd.DataFrame) -> pd.DataFrame:
    """Steps at which truncation is all of the error."""
    return smooth[(smooth.arc > 1e-4) & (smooth.arc < 1e-2)]


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(2)
    shades = {"float64": plotting.color("hf_maml"), "float32": plotting.OTHER[1]}
    for axis, (name, title) in zip(
        axes,
        {"cosine": "smooth task of family (c)", "kink": r"$f=\rho|x|^3/6$ at 0"}.items(),
        strict=True,
    ):
        part = table[table.function == name]
        for precision, shade in shades.items():
            one = part[part.precision == precision]
            axis.loglog(one.arc, one.error, ".", color=shade, label=f"measured, {precision}")
        wide = part[part.precision == "float64"]
        axis.loglog(
            wide.arc,
            wide.truncation,
            "--",
            color="k",
            label=r"$\frac{1}{2}\rho\|\delta v\|$, derived",
        )
        if name == "cosine":
            branch = _truncation(wide)
            plotting.fitted(axis, branch.arc, branch.error)
            axis.loglog(
                wide.arc,
                wide.truncation_smooth,
                "-.",
                color="0.4",
                label=r"$\frac{1}{6}\zeta\|\delta v\|^2$, derived",
            )
            axis.axvline(
                wide.theorem_arc.iloc[0],
                color="0.6",
                linewidth=0.8,
                label=r"theorem's $\delta$, $\alpha L=\frac{1}{6}$",
            )
        axis.set_ylim(1e-12, 1e2)
        axis.set_title(title)
        axis.set_xlabel(r"step $\|\delta v\|$ [$u$]")
    axes[0].set_ylabel(r"$\|d-Hv\|\,/\,\|v\|$ [$\varphi/u^2$]")
    return plotting.finish(drawing, "Central differences: truncation against rounding")
