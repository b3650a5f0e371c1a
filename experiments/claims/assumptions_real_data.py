"""Assumptions 2 to 5 on real data: the declared constants hold on digits and Fashion-MNIST (E27).

Logistic regression on pairs of classes (family (d)). As summarised, the constants are those of `assumptions`, with
values derived from the pools. What they bound is taken by automatic differentiation at w = 0, where L is reached, at
random w, and along a run of MAML from far; at given w it equals its closed form in the scores x^T w (exact).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.cells import AtPoints, Quantity, spectral_norm, theorem_run
from experiments.claim import Claim
from experiments.claims._real_data import FAR, TITLES, absence, families
from experiments.claims._scores import Scores, mean_direction
from experiments.judging import largest
from jaxmaml import plotting, theory
from jaxmaml.tasks.finite_data import WeightedBatch

POINTS = {"smoke": 3, "default": 4, "full": 8}
RECORD = (0, 10, 100, 1000)
"""steps of the run."""
CONSTANTS = {
    "L": r"$\|\nabla^2f_i(w)\|\le L$",
    "rho": r"$\|\nabla^3f_i(w)[v]\|\le\rho\|v\|$, $v$ the mean feature",
    "sigma": r"$E_i\|\nabla f_i(w)-\nabla f(w)\|^2\le\sigma^2$",
    "sigma_tilde": r"$E\|\tilde\nabla f_i(w)-\nabla f_i(w)\|^2\le\tilde\sigma^2$ for one sample",
    "sigma_h": r"$E\|\tilde\nabla^2f_i(w)-\nabla^2f_i(w)\|_F^2\le\sigma_H^2$ for one sample, so for $\|\cdot\|$ too",
}

claim = Claim("E27", "the declared constants of Assumptions 2 to 5 on digits and Fashion-MNIST")


@Quantity
def bounded(family, w, alpha):
    """What each of the constants bounds, at w."""
    del alpha
    pools = jax.tree.map(jnp.asarray, family.tasks)
    along = mean_direction(pools.x)

    def of_task(task):
        def loss(v, batch):
            return family.loss(v, task, batch)

        def hessian(v, batch):
            return jax.hessian(loss)(v, batch)

        full = family.full(task)
        each = WeightedBatch(task.x[:, None], task.y[:, None], jnp.ones((len(task.y), 1)))
        gradient, curvature = jax.grad(loss)(w, full), hessian(w, full)
        third = jax.jvp(lambda v: hessian(v, full), (w,), (along,))[1]
        gradients = jax.vmap(lambda one: jax.grad(loss)(w, one))(each) - gradient
        hessians = jax.vmap(lambda one: hessian(w, one))(each) - curvature
        return {
            "gradient": gradient,
            "L": spectral_norm(curvature),
            "rho": spectral_norm(third),
            "sigma_tilde": jnp.sqrt(jnp.mean(jnp.sum(gradients**2, axis=1))),
            "sigma_h": jnp.sqrt(jnp.mean(jnp.sum(hessians**2, axis=(1, 2)))),
        }

    found = jax.lax.map(of_task, pools)
    gradients = found.pop("gradient")
    spread = jnp.sqrt(jnp.mean(jnp.sum((gradients - jnp.mean(gradients, axis=0)) ** 2, axis=1)))
    return {"sigma": spread} | {name: jnp.max(x) for name, x in found.items()}


@claim.cells
def cells(scale):
    for name, family in families(scale).items():
        rng, shape = np.random.default_rng(5), (POINTS[scale], family.dim)
        directions = rng.standard_normal(shape)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        # 0, and norms from 1 to 30.
        lengths = np.concatenate([[0.0], np.logspace(0, 1.5, POINTS[scale])])
        points = lengths[:, None] * np.concatenate([directions[:1], directions])
        alpha = theory.theorems()["maml"].alpha_max(family.constants().L)
        yield {"data": name, "where": "given w"}, AtPoints(bounded, family, alpha, points)
        start = np.full(family.dim, FAR)
        run = theorem_run(family, "maml", alpha, start, record=RECORD, observe=bounded)
        yield {"data": name, "where": "along a run"}, run


@claim.table
def measured(rows, cells):
    """A row a constant and point: declared, as measured, and in closed form where w is given."""
    table = []
    for (data, where), part in rows.groupby(["data", "where"], sort=False):
        cell = cells[int(part.cell.iloc[0])][1]
        closed = [Scores(cell.family, w).constants() for w in cell.points] if where == "given w" else []
        for name in CONSTANTS:
            for j, value in enumerate(part[name]):
                about = {"data": data, "where": where, "name": name, "value": value}
                declared = getattr(cell.family.constants(), name)
                table.append(
                    about | {"expected": closed[j][name] if closed else np.nan, "declared": declared}
                )
    missing = [data for data in TITLES if data not in set(rows.data)]
    # At the scale smoke they are not asked for.
    reason = absence("default") or absence("smoke")
    return pd.DataFrame([*table, *({"data": data, "where": reason} for data in missing)])


@claim.rows
def rows(table, row):
    for data, here in table.groupby("data", sort=False):
        if here["name"].isna().all():
            statement, reason = "the same rules hold on Fashion-MNIST", here["where"].iloc[0]
            yield row.untested(f"everything on {data}", statement, reason, source="as summarised")
            continue
        for constant, statement in CONSTANTS.items():
            part = here[here["name"] == constant]
            yield row.at_most(
                f"declared {constant} on {data}",
                statement,
                largest(part.value),
                part.declared.iloc[0] * (1 + 1e-12),
                note=f"largest at {len(part)} w, given or along a run",
                source="as summarised; value derived",
            )
        given = here[here["where"] == "given w"]
        yield row.within(
            f"what the constants bound on {data} equals its closed form",
            r"$\nabla f_i$, $\nabla^2f_i$, $\nabla^3f_i$ from $\ell'$, $\ell''$, $\ell'''$ in the scores $x^\top w$",
            largest((given.value - given.expected).abs() / given.declared),
            0.0,
            1e-9,
            note=f"largest difference over the declared value, of {len(given)}",
        )


@claim.figure
def figure(table):
    """On real images every constant that is measured stays below the one that is declared.

    The curvature reaches its constant; the spread of the tasks is a fifth of it.
    """
    drawing, (axis,) = plotting.panels(1, height=2.9)
    known = table[table["name"].notna()]
    for j, (data, part) in enumerate(known.groupby("data", sort=False)):
        for where, hollow in (("given w", True), ("along a run", False)):
            one = part[part["where"] == where]
            x = [list(CONSTANTS).index(name) + 0.2 * (j - 0.5) for name in one["name"]]
            look = plotting.neutral(j, hollow=hollow) | {"linestyle": "none"}
            shown = f"{TITLES[data]}, {'along a run' if where == 'along a run' else 'at random points'}"
            axis.plot(x, one.value / one.declared, label=shown, **look)
    axis.axhline(1.0, label="as declared, derived", **plotting.theory("derived"))
    symbols = ("$L$", r"$\rho$", r"$\sigma$", r"$\tilde\sigma$", r"$\sigma_H$")
    axis.set_xticks(range(len(symbols)), symbols)
    axis.set(ylim=(-0.03, 1.1), xlabel="constant [symbol]", ylabel="measured / declared [1]")
    return plotting.finish(drawing, "The constants of the assumptions on real images", key="right")
