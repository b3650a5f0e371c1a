"""Why the step must adapt to w (E04): F is smooth with L(w) only, so that c / (4L) overshoots where L(w) >> 4L.

As summarised, the step is beta = c / L~(w), because the smoothness of F has no bound. Two tasks
mu/2 (w -+ C)^2 -+ a sin(omega w) make F even with F''(0) ~ alpha rho mu C: from C c F''(0) / (4 L) = 2 on, the
constant step c / (4L) cannot converge to the stationary point 0, while c / L(w) decreases F at every step for
every C (derived: the descent corollary with c < 2). Exact gradients over both tasks.
"""

from dataclasses import replace

import numpy as np

from experiments.cells import theorem_run
from experiments.claim import Claim
from experiments.judging import largest, smallest
from jaxmaml import plotting
from jaxmaml.tasks._noise import make_noise
from jaxmaml.tasks.cosine import Cosine, CosineTasks

LAMBDA = 1 / 6
DISTANCES = {
    "smoke": (1e2, 5e3, 8e3, 2e4),
    "default": (1e2, 3e3, 5e3, 8e3, 2e4, 5e4),
    "full": (1e2, 1e3, 3e3, 5e3, 6e3, 7e3, 8e3, 1e4, 2e4, 5e4, 1e5),
}
STEPS = {"smoke": 3000, "default": 5000, "full": 20_000}
ROUNDING = 1e-14
"""relative change of F that is not an increase."""

claim = Claim(
    "E04",
    "the step c/L(w) descends where the constant step c/(4L) does not",
    place="smoothness lemma",
)


def tasks(distance):
    """Centres +-C and phases +-pi/2: f = mu/2 (w -+ C)^2 -+ a sin(omega w)."""
    phases = np.array([[0.5 * np.pi], [-0.5 * np.pi]])
    return Cosine(0.1, 0.9, 1.0, CosineTasks(np.array([[distance], [-distance]]), phases), make_noise())


@claim.cells
def cells(scale):
    record = tuple(range(STEPS[scale] + 1))
    for distance in DISTANCES[scale]:
        family = tasks(distance)
        cell = theorem_run(family, "maml", LAMBDA / family.constants().L, np.array([0.3]), record=record)
        yield {"distance": distance, "step_rule": "c / L(w)"}, cell
        # Without rho the rule is the constant step.
        yield {"distance": distance, "step_rule": "c / (4L)"}, replace(cell, rho=0.0)


@claim.per("distance", "step_rule")
def measured(part, cell):
    """A row a step, spaced evenly in log k: increases of F so far, ||grad F|| at k, its largest value over the
    later half of the steps to k, and its value at the start.

    A step that overshoots goes about without an end, and may come close to 0 at any one step: where it is at a
    given k differs from machine to machine. The largest value of many steps does not.
    """
    values, norms = part.objective.to_numpy(), part.grad_norm.to_numpy()
    rises = np.diff(values) > ROUNDING * np.abs(values[:-1])
    h = 1e-5
    ends = [cell.family.grad_objective(np.array([x]), cell.alpha)[0] for x in (-h, h)]
    for k in np.unique(np.round(np.logspace(0, np.log10(len(values) - 1), 40)).astype(int)):
        yield {
            "step": k,
            "grad_norm": norms[k],
            "late_grad_norm": norms[k // 2 : k + 1].max(),
            "start_grad_norm": norms[0],
            "increases": float(rises[:k].sum()) if np.isfinite(values[: k + 1]).all() else np.nan,
            "overshoot": cell.c / (4 * cell.L) * (ends[1] - ends[0]) / (2 * h),
        }


@claim.rows
def rows(table, row):
    end = table.groupby(["distance", "step_rule"], sort=False).tail(1)
    end = end.assign(left=end.late_grad_norm / end.start_grad_norm)
    adaptive, constant = (end[end.step_rule == rule] for rule in ("c / L(w)", "c / (4L)"))
    over, under = constant[constant.overshoot > 2], constant[constant.overshoot <= 2]
    yield row.at_most(
        "steps at which the adaptive step raises F",
        r"$F(w_{k+1})\le F(w_k)$ with $\beta=c/L(w_k)$, exact gradients",
        largest(adaptive.increases),
        0.0,
        also=largest(adaptive.left) <= 1e-6,
        note=f"over {adaptive.step.max()} steps; largest ||grad F|| at the end {largest(adaptive.grad_norm):.2g}",
        source="rule as summarised; descent derived",
    )
    yield row.at_least(
        "the constant step c/(4L) does not settle",
        r"a step that does not adapt overshoots once $\frac c{4L}F''(0)>2$, and converges below",
        smallest(over.left),
        1.0,
        also=smallest(over.increases) > 0
        and largest(under.left) <= 1e-6
        and largest(adaptive.increases) == 0,
        note="largest ||grad F|| of the later half of the steps over that at the start, at c F''(0)/(4L) "
        f"from {smallest(over.overshoot):.3g}; up to {largest(under.overshoot):.3g} it converges too",
    )


@claim.figure
def figure(table):
    drawing, axes = plotting.panels(2)
    looks = {
        "c / L(w)": {"color": plotting.color("maml"), "label": "$c/L(w)$, as summarised"},
        "c / (4L)": {"color": plotting.OTHER[1], "label": "$c/(4L)$, constant"},
    }
    chosen = (table.distance.min(), table[table.overshoot > 2].distance.min())
    for axis, distance in zip(axes, chosen, strict=True):
        part = table[table.distance == distance]
        for rule, look in looks.items():
            one = part[part.step_rule == rule]
            axis.loglog(one.step, np.maximum(one.grad_norm, 1e-13), **look)
        title = rf"$C={distance:g}$: $cF''(0)/(4L)={part.overshoot.iloc[0]:.2g}$"
        axis.set(title=title, xlabel="outer step $k$ [1]")
    axes[0].set_ylabel(r"$\|\nabla F(w_k)\|$ [$\varphi/u$]")
    return plotting.finish(drawing, "Two antisymmetric tasks, exact gradients: the step must adapt")
