"""Why the step must adapt to w (E04): F is smooth with L(w) only, so that c / (4L) overshoots where L(w) >> 4L.

As summarised, the step is beta = c / L~(w), because the smoothness of F has no bound. Two tasks
mu/2 (w -+ C)^2 -+ a sin(omega w) make F even with F''(0) ~ alpha rho mu C: from C c F''(0) / (4 L) = 2 on, the
constant step c / (4L) cannot converge to the stationary point 0, while c / L(w) decreases F at every step for
every C. Derived: by the descent corollary in both directions the decrease is beta ||grad F||^2 to within its share
c / 2, and near 0 a step multiplies w by 1 - beta(0) F''(0). Exact gradients over both tasks.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.cells import Quantity, theorem_run
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
NEAR = 1e-4
"""of the first ||grad F||: from here on a step is linear, to (omega w)^2 < 1e-6."""

claim = Claim(
    "E04",
    "the step c/L(w) descends where the constant step c/(4L) does not",
    place="smoothness lemma",
)


def tasks(distance):
    """Centres +-C and phases +-pi/2: f = mu/2 (w -+ C)^2 -+ a sin(omega w)."""
    phases = np.array([[0.5 * np.pi], [-0.5 * np.pi]])
    return Cosine(0.1, 0.9, 1.0, CosineTasks(np.array([[distance], [-distance]]), phases), make_noise())


@Quantity
def where(family, w, alpha):
    del family, alpha
    return {"w": w[0]}


@claim.cells
def cells(scale):
    record = tuple(range(STEPS[scale] + 1))
    for distance in DISTANCES[scale]:
        family, w0 = tasks(distance), np.array([0.3])
        alpha = LAMBDA / family.constants().L
        cell = theorem_run(family, "maml", alpha, w0, record=record, observe=where)
        yield {"distance": distance, "step_rule": "c / L(w)"}, cell
        # Without rho the rule is the constant step.
        yield {"distance": distance, "step_rule": "c / (4L)"}, replace(cell, rho=0.0)


def closed_forms(cell, w):
    """F, F' and the step at every w, shape (m,), in NumPy."""
    family, w = cell.family, w[:, None, None]
    adapted = family.adapted(w, cell.alpha)
    centers, phases = family.tasks
    F = 0.5 * family.mu * (adapted - centers) ** 2 + family.a * np.cos(family.omega * adapted + phases)
    slope = (1 - cell.alpha * family.task_hessians(w)) * family.task_gradients(adapted)
    norm = np.mean(np.abs(family.task_gradients(w)), axis=(1, 2))
    step = cell.c / (4 * cell.L + 2 * cell.rho * cell.alpha * norm)
    return np.mean(F, axis=(1, 2)), np.mean(slope, axis=(1, 2)), step


@claim.per("distance", "step_rule")
def measured(part, cell):
    """A row a step, spaced evenly in log k: increases of F so far, ||grad F|| at k, its largest value over the
    later half of the steps to k, and its value at the start.

    A step that overshoots goes about without an end, and may come close to 0 at any one step: where it is at a
    given k differs from machine to machine. The largest value of many steps does not.
    """
    w = part.w.to_numpy()
    values, slopes, steps = closed_forms(cell, w)
    norms = np.abs(slopes)
    change, predicted = -np.diff(values), (steps * slopes**2)[:-1]
    rises = -change > ROUNDING * np.abs(values[:-1])
    # Those whose rounding is small beside what the corollary leaves open.
    clear = cell.c / 2 * predicted > 100 * ROUNDING * np.abs(values[:-1])
    off = largest(np.abs(change[clear] / predicted[clear] - 1)) if np.isfinite(w).all() else np.nan
    near = np.flatnonzero(norms[:-1] <= NEAR * norms[0])
    h = 1e-5
    _, ends, around = closed_forms(cell, np.array([-h, h]))
    curvature = (ends[1] - ends[0]) / (2 * h)
    for k in np.unique(np.round(np.logspace(0, np.log10(len(values) - 1), 40)).astype(int)):
        yield {
            "step": k,
            "grad_norm": norms[k],
            "late_grad_norm": largest(norms[k // 2 : k + 1]),
            "start_grad_norm": norms[0],
            "increases": float(rises[:k].sum()) if np.isfinite(values[: k + 1]).all() else np.nan,
            "off": off,
            "share": cell.c / 2,
            "rate": norms[near[0] + 1] / norms[near[0]] if len(near) else np.nan,
            "expected_rate": abs(1 - around[0] * curvature),
            "overshoot": cell.c / (4 * cell.L) * curvature,
        }


@claim.rows
def rows(table, row):
    end = table.groupby(["distance", "step_rule"], sort=False).tail(1)
    end = end.assign(left=end.late_grad_norm / end.start_grad_norm)
    adaptive, constant = (end[end.step_rule == rule] for rule in ("c / L(w)", "c / (4L)"))
    over, under = constant[constant.overshoot > 2], constant[constant.overshoot <= 2]
    settles = largest(adaptive.left)
    yield row.at_most(
        "the adaptive step settles",
        r"$\|\nabla F(w_k)\|\to0$ with $\beta=c/L(w_k)$, exact gradients, for every $C$",
        settles,
        1e-6,
        start=1.0,
        also=largest(adaptive.increases) == 0,
        companion="rate of both steps at their limit",
        note=f"largest ||grad F|| of the later half of {largest(adaptive.step):g} steps over that at the start",
        source="rule as summarised; descent derived",
    )
    yield row.at_most(
        "steps at which the adaptive step raises F",
        r"$F(w_{k+1})\le F(w_k)$ with $\beta=c/L(w_k)$, exact gradients",
        largest(adaptive.increases),
        0.0,
        also=settles <= 1e-6,
        note=f"over {largest(adaptive.step):g} steps",
        source="rule as summarised; descent derived",
    )
    yield row.within(
        "decrease of F in a step of c/L(w)",
        r"$|F(w_k)-F(w_{k+1})-\beta\|\nabla F\|^2|\le\frac c2\beta\|\nabla F\|^2$ with $\beta=c/L(w_k)$",
        largest(adaptive.off),
        0.0,
        smallest(adaptive.share),
        note=r"in units of beta ||grad F||^2, both from closed forms at w_k; the tolerance is c/2",
        source="rule as summarised; descent derived",
    )
    settled = pd.concat([adaptive, under])
    yield row.within(
        "rate of both steps at their limit",
        r"near 0 a step multiplies $w$ by $1-\frac c{L(0)}F''(0)$; the constant one by $1-\frac c{4L}F''(0)$",
        largest((settled.rate - settled.expected_rate).abs()),
        0.0,
        1e-6,
        note=f"largest difference of {len(settled)} runs; rates from {smallest(settled.expected_rate):.3g} to "
        f"{largest(settled.expected_rate):.3g}",
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
    """Where the objective bends more than the constant allows, the constant step runs away, and the adaptive one still descends.

    Where it bends little, both arrive.
    """
    drawing, axes = plotting.panels(2, height=2.6, sharey=True)
    looks = {
        "c / L(w)": {"color": plotting.SHADES[0], "linewidth": 1.8, "label": "$c/L(w)$, as summarised"},
        "c / (4L)": {"color": plotting.SHADES[1], "linewidth": 1.0, "label": "constant $c/(4L)$"},
    }
    chosen = (table.distance.min(), table[table.overshoot > 2].distance.min())
    for axis, distance, text in zip(axes, chosen, ("tasks close", "tasks far apart"), strict=True):
        part = table[table.distance == distance]
        for rule, look in looks.items():
            one = part[part.step_rule == rule]
            # Below, it is rounding.
            (line,) = axis.loglog(one.step, one.grad_norm.where(one.grad_norm > 1e-12), **look)
            if distance == chosen[1]:
                plotting.name_line(line)
        ratio = f"{part.overshoot.iloc[0]:.2g}"
        axis.set(title=rf"{text}, $cF''(0)/(4L)={ratio}$", xlabel="outer step $k$ [1]")
    axes[0].set_ylabel(r"$\|\nabla F(w_k)\|$ [$\varphi/u$]")
    return plotting.finish(drawing, "The step must adapt: two antisymmetric tasks, exact gradients")
