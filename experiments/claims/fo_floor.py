"""FO-MAML cannot reach every accuracy: it stalls at alpha ||Cov_i(H_i, g_i)|| (E14, E15, E16, E17).

As summarised, FO-MAML's guarantee keeps a term in alpha^2 L^2 sigma^2 that no batch size removes. Exact
gradients over all tasks isolate it: the iterates end where E_i g_i = 0, g_i = grad f_i(w_i+), and there
grad F = -alpha Cov_i(H_i, g_i) (derived, docs/theory.md). So the floor

  * equals a closed form on two quadratics with different Hessians, and a root search on (c);
  * is proportional to alpha, to the spread of the tasks at a fixed spread of the Hessians, and to that of the
    Hessians, so that tasks which come together in both lower it quadratically;
  * is zero where the tasks share a Hessian, however large sigma is: the condition under which the
    first-order approximation is exact.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cells, theorem_run
from experiments.judging import at_most, largest, smallest, within
from experiments.results import LedgerRow, Place
from experiments.run import Run, log_steps
from jaxmaml import plotting, statistics, theory
from jaxmaml.tasks import cosine, quadratic, shared_quadratic, two_cosines
from jaxmaml.theory import limit_points
from jaxmaml.types import BatchSizes

TITLE = "FO-MAML's floor: its closed form, its slope in alpha, zero for a shared Hessian"
INVERSE_LAMBDAS = (10, 20, 40, 80, 160, 320, 640)
SPREADS = (0.25, 0.5, 1.0, 2.0, 4.0)
HESSIAN_SPREADS = (0.1, 0.05, 0.025, 0.0125)
JOINT_SPREADS = (1 / 8, 1 / 16, 1 / 32, 1 / 64)
"""of centres and phases of the cosine family: small, where they act independently."""
STEPS = {"smoke": 20_000, "default": 40_000, "full": 100_000}
# smoke: fewer rates and tasks, so that everything runs within seconds
RATES = {"smoke": INVERSE_LAMBDAS[:5:2], "default": INVERSE_LAMBDAS, "full": INVERSE_LAMBDAS}


def _families() -> dict[str, tuple[Any, float]]:
    """Family and the coordinate of the start, by name."""
    return {
        "quadratic": (quadratic.pair(ell=1.0, eta=0.5, s=1.0), 3.0),
        "cosine": (cosine.make(n=20, d=4, seed=3), 4.0),
        "two_cosines": (two_cosines.make(), 0.0),
        "shared_quadratic": (shared_quadratic.make(n=20, d=4, spread=2.0), 4.0),
    }


def _varied(name: str, task_spread: float, hessian_spread: float) -> Any:
    """A family with its spreads multiplied; on the cosine family both at once."""
    if name == "quadratic":
        return quadratic.pair(ell=1.0, eta=0.5 * hessian_spread, s=task_spread)
    if name == "cosine":
        return cosine.make(n=20, d=4, spread=task_spread, seed=3)
    return _families()[name][0]


def _cells(
    scale: str,
    name: str,
    estimator: str,
    inverse: float,
    task_spread: float = 1.0,
    hessian_spread: float = 1.0,
) -> tuple[dict[str, Any], Run]:
    family, start = _varied(name, task_spread, hessian_spread), _families()[name][1]
    alpha = 1 / (inverse * family.constants().L)
    cell = theorem_run(
        family,
        estimator,
        alpha,
        np.full(family.dim, start),
        record=log_steps(STEPS[scale], per_decade=4),
    )
    about = {"family": name, "estimator": estimator, "inverse_lambda": inverse, "alpha": alpha}
    return about | {"task_spread": task_spread, "hessian_spread": hessian_spread}, cell


def grid(scale: str) -> Cells:
    cells = []
    for name in _families():
        # The limit of two_cosines is near its start only for alpha << 1/(c a omega^3) = 1/90.
        factor = 40 if name == "two_cosines" else 1
        for inverse in np.multiply(RATES[scale], factor):
            for estimator in ("fo_maml", "maml"):
                cells.append(_cells(scale, name, estimator, inverse))
    for spread in SPREADS:
        if spread != 1.0:
            cells.append(_cells(scale, "quadratic", "fo_maml", 10, task_spread=spread))
    for spread in HESSIAN_SPREADS:
        cells.append(_cells(scale, "quadratic", "fo_maml", 10, hessian_spread=spread))
    for spread in JOINT_SPREADS:
        cells.append(_cells(scale, "cosine", "fo_maml", 20, task_spread=spread))
    return cells


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """One row a cell: the end of the run beside the predicted floor and the bounds."""
    del scale
    last = rows.groupby("cell", sort=False).tail(1).reset_index(drop=True)
    families = _families()
    table = []
    for row in last.itertuples():
        start = families[row.family][1]
        family = _varied(row.family, row.task_spread, row.hessian_spread)
        constants = family.constants()
        predicted = 0.0
        if row.estimator == "fo_maml" and row.family == "quadratic":
            predicted = quadratic.pair_floor(1.0, 0.5 * row.hessian_spread, row.task_spread, row.alpha)
        elif row.estimator == "fo_maml" and row.family != "shared_quadratic":
            limit = family.fo_limit(np.full(family.dim, start), row.alpha)
            predicted = family.fo_floor(limit, row.alpha)
        summary = theory.theorems()["fo_maml"].floor_summary(constants, row.alpha, BatchSizes())
        table.append(
            {
                "family": row.family,
                "estimator": row.estimator,
                "inverse_lambda": row.inverse_lambda,
                "task_spread": row.task_spread,
                "hessian_spread": row.hessian_spread,
                "alpha": row.alpha,
                "grad_norm": row.grad_norm,
                "direction_norm": row.direction_norm,
                "diverged_at": row.diverged_at,
                "predicted": predicted,
                "alpha_L_sigma": constants.sigma / row.inverse_lambda,
                "bound": limit_points.fo_limit_bound(constants, row.alpha),
                "bound_summary": summary,
            }
        )
    return pd.DataFrame(table)


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    fo = table[table.estimator == "fo_maml"]
    theorem: Place = "FO-MAML theorem"
    rows = []
    for name in ("quadratic", "cosine", "two_cosines"):
        part = fo[fo.family == name]
        control = table[(table.family == name) & (table.estimator == "maml")]
        unit = part.alpha_L_sigma
        rows.append(
            at_most(
                "E14",
                f"FO-MAML's floor on {name} equals alpha ||Cov(H, g)||",
                r"FO-MAML does not reach every accuracy: it stops at $\|\nabla F\|=\alpha\|\mathrm{Cov}_i(H_i,g_i)\|$",
                theorem,
                "as summarised; closed form derived",
                largest(np.abs(part.grad_norm / part.predicted - 1)),
                1e-6,
                # It has stopped there, up to rounding, and MAML goes on to where rounding ends it.
                also=bool(
                    (part.direction_norm <= 1e-9 * part.grad_norm + 1e-13).all()
                    and (control.grad_norm <= 1e-6 * part.grad_norm.min()).all()
                ),
                note="largest relative difference from the closed form",
            )
        )
        tight = smallest(part.bound / part.grad_norm)
        rows.append(
            at_most(
                "E14",
                f"FO-MAML's floor on {name} is below the theorem's",
                r"$\|\nabla F\|\le\sqrt{14(1+\frac{\rho\alpha}L\sigma)\,20\,\alpha^2L^2\sigma^2}$ for $B=\infty$",
                theorem,
                "as summarised",
                largest(part.grad_norm / unit),
                smallest(part.bound_summary / unit),
                also=tight >= 1,
                sharp=False,
                note=f"in units of alpha L sigma; the derived limit-point bound has slack {tight:.3g}",
            )
        )
        rows.append(_slope("E15", name, _plain(part), "alpha", "alpha", 0.1))
    pair = fo[(fo.family == "quadratic") & (fo.inverse_lambda == 10)]
    tasks, hessians = pair[pair.hessian_spread == 1], pair[pair.hessian_spread < 1]
    together = fo[(fo.family == "cosine") & (fo.task_spread < 1)]
    rows += [
        _slope("E16", "quadratic", tasks, "task_spread", "the spread of the tasks", 1e-6),
        _slope("E16", "quadratic", hessians, "hessian_spread", "that of the Hessians", 0.05),
        _slope("E16", "cosine", together, "task_spread", "their common scale", 0.15, power=2),
    ]
    ratio = fo[(fo.family == "two_cosines")].sort_values("alpha").iloc[0]
    rows.append(
        within(
            "E14",
            "the floor is nearly as large as alpha L sigma on two_cosines",
            r"no constant below 0.82 can stand before $\alpha L\sigma$",
            theorem,
            "derived",
            float(ratio.grad_norm / ratio.alpha_L_sigma),
            two_cosines.fo_ratio(0.1, 0.9, 1.0, 100.0),
            0.05,
        )
    )
    shared = fo[fo.family == "shared_quadratic"]
    rows.append(
        at_most(
            "E17",
            "no floor where the tasks share a Hessian, although sigma > 0",
            r"FO-MAML converges where the tasks share a Hessian: $\mathrm{Cov}_i(H_i,g_i)=0$",
            theorem,
            "as summarised (that there is a condition); derived",
            largest(shared.grad_norm / shared.alpha_L_sigma),
            1e-10,
            also=bool((shared.alpha_L_sigma > 0).all()),
            note="||grad F|| / (alpha L sigma), zero up to rounding",
        )
    )
    return rows


def _plain(part: pd.DataFrame) -> pd.DataFrame:
    """The cells that vary alpha only."""
    return part[(part.task_spread == 1) & (part.hessian_spread == 1)]


def _slope(
    claim: str, name: str, part: pd.DataFrame, column: str, what: str, tolerance: float, power: int = 1
) -> LedgerRow:
    fit = statistics.slope(part[column], part.grad_norm)
    return within(
        claim,
        f"FO-MAML's floor on {name} is proportional to {'the square of ' * (power == 2)}{what}"
        + (" as it vanishes" if power == 2 else ""),
        r"the floor $\alpha\|\mathrm{Cov}_i(H_i,g_i)\|$ as a power of "
        + (r"$\alpha$" if what == "alpha" else what),
        "FO-MAML theorem",
        "as summarised" if what == "alpha" else "derived",
        fit,
        float(power),
        tolerance,
        note=f"log-log slope over {fit.n} values",
    )


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(2, 2, width=3.6)
    titles = {
        "quadratic": "two quadratics (b)",
        "cosine": "nonconvex family (c)",
        "two_cosines": "two cosine tasks (c2)",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=False):
        part = _plain(table[table.family == name]).sort_values("alpha")
        fo, maml = (part[part.estimator == e] for e in ("fo_maml", "maml"))
        axis.loglog(fo.alpha, fo.bound_summary, ":", color="k", label="FO theorem, as summarised")
        axis.loglog(fo.alpha, fo.bound, "--", color="k", label="limit-point bound, derived")
        axis.loglog(fo.alpha, fo.predicted, "-.", color="0.4", label=r"$\alpha\|$Cov$(H,g)\|$, exact")
        axis.loglog(fo.alpha, fo.grad_norm, "s", color=plotting.color("fo_maml"), label="FO-MAML")
        axis.set_ylim(bottom=fo.grad_norm.min() / 10)
        most = table[(table.estimator == "maml") & table.family.isin(titles)].grad_norm.max()
        plotting.vanished(axis, maml.alpha, most, "MAML", marker="o", color=plotting.color("maml"))
        axis.set_title(title)
        axis.set_xlabel(r"inner rate $\alpha$ [$u^2/\varphi$]")
        plotting.fitted(axis, fo.alpha, fo.grad_norm, name)
    for axis in axes[::2]:
        axis.set_ylabel(r"$\|\nabla F\|$ at the end [$\varphi/u$]")
    others = table[(table.estimator == "fo_maml") & (table.inverse_lambda.isin([10, 20]))]
    for name, column, marker, text in (
        ("quadratic", "task_spread", "s", "(b), tasks"),
        ("quadratic", "hessian_spread", "D", "(b), Hessians"),
        ("cosine", "task_spread", "^", "(c), both"),
    ):
        part = others[(others.family == name) & (others[column] != 1)].sort_values(column)
        axes[3].loglog(
            part[column],
            part.grad_norm,
            marker,
            color=plotting.color("fo_maml"),
            markerfacecolor="none",
            label=f"FO-MAML on {text}",
        )
        plotting.fitted(axes[3], part[column], part.grad_norm, text)
    axes[3].set_title("spreads, at fixed rate")
    axes[3].set_xlabel("spread over its default [1]")
    return plotting.finish(
        drawing, "Exact gradients, all tasks: FO-MAML stalls at a floor linear in alpha", columns=4
    )
