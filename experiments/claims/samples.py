"""How many samples an iteration asks for, to reach an accuracy (E25).

Derived from the floors, the summary gives no such order: B and D_in of order eps^-2 with D_o = 1 make
the summarised floor eps, at B (D_in + D_o + D_h) of order eps^-4 samples an iteration. The inner noise biases the
outer gradient by at most rho alpha^2 sigma~^2 / (2 D_in), hence D_in of order 1/eps suffices, and eps^-3.

The exponents are those of the sizes, an identity. Measured is what the sizes do: runs that start above eps end
below it, at the level that theory gives for these sizes, and a quarter of the samples that matter moves it. On
quadratics (a) that is the exact line, and B matters; on family (c) it is the law of the chain whose steps are
Gaussian with the exact mean and variance at every w, on a grid, and D_in matters through the bias.
"""

import dataclasses
import functools
import math

import numpy as np
import pandas as pd

from experiments.cells import normal_mean, theorem_run
from experiments.claim import Claim
from experiments.judging import largest, smallest
from jaxmaml import plotting, theory
from jaxmaml.tasks import cosine, shared_quadratic
from jaxmaml.tasks.cosine import first_zero
from jaxmaml.theory import inner_bias
from jaxmaml.types import BatchSizes

LAMBDA = 1 / 6
RUN = {"summarised floor": (3.0, 1.5), "second-order bias": (2.0, 1.0)}
"""accuracies whose sizes are also run, by rule."""
SMOKE = {"summarised floor": (3.0,), "second-order bias": (1.0,)}
MATTERS = {"summarised floor": "B", "second-order bias": "D_in"}
"""the size of which a quarter is run too, at the last accuracy."""
ORDERS = {"summarised floor": -4, "second-order bias": -3}
"""of the samples in eps."""
POWERS = {
    "summarised floor": r"$B,D_{in}\propto\varepsilon^{-2}$",
    "second-order bias": r"$B\propto\varepsilon^{-2}$, $D_{in}\propto\varepsilon^{-1}$",
}
LINES = {
    "summarised floor": ("exact line", "as the exact line has it"),
    "second-order bias": (
        "law with Gaussian steps",
        r"as by steps $-\beta(w)(m(w)+s(w)Z)$ with the exact mean $m$ and variance $s^2$ of the direction",
    ),
}
FEWER = {
    "summarised floor": r"$E\|\nabla F\|^2\propto1/B$, stationary: with a quarter of $B$ about 4 times as large",
    "second-order bias": r"a quarter of $D_{in}$ makes the bias 4 times as large, and with it $E\|\nabla F\|^2$ larger",
}
ASYMPTOTIC = (1e-2, 1e-3, 1e-4)
SEEDS = {"smoke": 128, "default": 192, "full": 512}
EARLY, STEPS = 100, 3000
RECORD = (0, EARLY, *range(STEPS // 2, STEPS + 1, 30))
FAR = {"summarised floor": 10.0, "second-order bias": 1.25}
"""from the zero of grad F, where runs start: the gradient there is above every accuracy that is run."""

claim = Claim("E25", "samples of one iteration for an accuracy", place="costs")


@functools.cache
def problem(rule):
    """Family, alpha and the zero of grad F: (a), whose line is exact, or (c), with an inner bias; d = 1."""
    if rule == "summarised floor":
        quadratic = shared_quadratic.make(n=20, d=1, smallest=1.0, tau=1.0)
        return quadratic, LAMBDA / quadratic.constants().L, np.asarray(quadratic.tasks.centers).mean(axis=0)
    family = cosine.make(n=20, d=1, spread=0.3, tau=12.0)
    alpha = LAMBDA / family.constants().L
    center = float(np.mean(family.tasks.centers))
    # d = 1: points broadcast against the tasks.
    zero = first_zero(lambda x: family.grad_objective(x, alpha), center, 1e-3)
    return family, alpha, np.array([zero])


def floor(rule, B, D_in):
    """MAML's floor with D_o = D_h = 1: as summarised, or derived with the second-order inner bias e.

    The latter has sigma~^2 / D_in from the squared bias, (alpha L sigma~)^2 / D_in, and from the variance with B = 20:
    at most (e / (alpha L))^2 + 20 sigma~^2 / (B D_in) takes its place.
    """
    family, alpha, _ = problem(rule)
    constants, maml = family.constants(), theory.theorems()["maml"]
    if rule == "summarised floor":
        return maml.floor_summary(constants, alpha, BatchSizes(B=B, D_in=D_in, D_o=1.0))
    bias = inner_bias.bias(constants, alpha, D_in) / (alpha * constants.L * constants.sigma_tilde)
    inner = bias**2 + 20 / (B * D_in)
    return maml.floor(constants, alpha, BatchSizes(B=B, D_in=1 / inner, D_o=1.0))


def sizes_for(rule, eps):
    """B for a floor of eps / sqrt(2) without inner noise, then the least D_in for a floor of eps."""
    import scipy.optimize

    def least(excess):
        return max(1, math.ceil(np.exp(scipy.optimize.brentq(lambda t: excess(np.exp(t)), -5.0, 50.0))))

    B = max(20, least(lambda size: np.sqrt(2) * floor(rule, size, 1e30) - eps))
    D_in = least(lambda size: floor(rule, B, size) - eps)
    return BatchSizes(B=B, D_in=float(D_in), D_o=1.0, D_h=1.0)


def quartered(sizes, name):
    size = getattr(sizes, name) / 4
    return dataclasses.replace(sizes, **{name: math.ceil(size) if name == "B" else size})


@claim.cells
def cells(scale):
    for rule, accuracies in (SMOKE if scale == "smoke" else RUN).items():
        family, alpha, zero = problem(rule)
        sets = [(eps, 1.0, sizes_for(rule, eps)) for eps in accuracies]
        sets.append((accuracies[-1], 0.25, quartered(sets[-1][-1], MATTERS[rule])))
        for number, (eps, share, sizes) in enumerate(sets):
            for seed in range(1000 * number, 1000 * number + SEEDS[scale]):
                about = {"record": RECORD, "sizes": sizes, "seed": seed}
                cell = theorem_run(family, "maml", alpha, zero + FAR[rule], **about)
                yield {"rule": rule, "epsilon": eps, "share": share, "seed": seed}, cell


@claim.table
def measured(rows, cells):
    """One row a rule, accuracy and share of its samples; where run, E||grad F||^2 early and late."""
    table = []
    for (rule, eps, share), part in rows.groupby(["rule", "epsilon", "share"], sort=False):
        cell = cells[int(part.cell.iloc[0])][1]
        squares = part.pivot(index="step", columns="seed", values="grad_norm") ** 2
        start, early = (squares.loc[k].to_numpy() for k in (0, EARLY))
        late = np.mean(squares[squares.index > EARLY].to_numpy(), axis=0)
        early_expected, late_expected = expected(cell)
        table.append(
            about(rule, eps, cell.sizes)
            | {"share": share, "start": np.sqrt(np.min(start)), "seeds": squares.shape[1]}
            | {"early": np.mean(early), "early_error": np.std(early, ddof=1) / np.sqrt(early.size)}
            | {"late": np.mean(late), "late_error": np.std(late, ddof=1) / np.sqrt(late.size)}
            | {"early_expected": early_expected, "late_expected": late_expected}
        )
    sizes = [about(rule, eps, sizes_for(rule, eps)) for rule in RUN for eps in ASYMPTOTIC]
    return pd.concat([pd.DataFrame(table), pd.DataFrame(sizes)], ignore_index=True)


def about(rule, eps, sizes):
    B, D_in = float(sizes.B), float(sizes.D_in)
    found = {"rule": rule, "epsilon": eps, "B": B, "D_in": D_in}
    return found | {"samples": B * (D_in + 2), "floor": floor(rule, B, D_in)}


def expected(run):
    """E||grad F(w_k)||^2 at the step EARLY, and over the last half of a run of MAML."""
    if isinstance(run.family, shared_quadratic.SharedQuadratic):
        line = run.family.exact_line(np.array(RECORD[1:]), run.w0, "maml", run.alpha, run.c, run.sizes)
        return line[0], np.mean(line[1:])
    return law(run)


def law(run, nodes=400):
    """The same of the chain with Gaussian steps, d = 1: a matrix of transitions between the nodes of a grid."""
    family, alpha, (start,) = run.family, run.alpha, run.w0
    # From the start beyond the zero; runs end within 0.3 of it.
    width = 1.9 * FAR["second-order bias"]
    w = start + 0.3 - width + width / nodes * np.arange(nodes)
    w += start - w[np.argmin(np.abs(w - start))]
    damping, adapted = 1 - alpha * family.task_hessians(w), family.adapted(w, alpha)
    tau = family.noise.sigma_tilde()

    def moments(z):
        g = family.task_gradients(adapted - alpha * tau / np.sqrt(run.sizes.D_in) * z)
        return np.stack([damping * g, damping**2 * (g**2 + tau**2 / run.sizes.D_o)]).mean(axis=1)

    mean, square = normal_mean(moments)
    norms = np.abs(family.task_gradients(w)).mean(axis=0)
    beta = run.c / (4 * run.L + 2 * run.rho * alpha * norms)
    spread = beta * np.sqrt((square - mean**2) / run.sizes.B)
    steps = np.exp(-0.5 * ((w - (w - beta * mean)[:, None]) / spread[:, None]) ** 2)
    steps /= steps.sum(axis=1, keepdims=True)
    at = np.linalg.matrix_power(steps, EARLY)[np.argmin(np.abs(w - start))]
    late = at @ np.linalg.matrix_power(steps, STEPS // 2)
    values = family.grad_objective(w, alpha) ** 2
    return at @ values, late @ values


@claim.rows
def rows(table, row):
    for rule, order in ORDERS.items():
        part = table[table.rule == rule]
        ran, sizes = part[part.share.notna()], part[part.share != 0.25]
        whole, matters, (line, told) = ran[ran.share == 1], MATTERS[rule], LINES[rule]
        root = np.sqrt(whole.late)
        yield row.at_most(
            f"samples an iteration by the {rule}",
            rf"with {POWERS[rule]} and $D_o=1$, hence $B(D_{{in}}+D_o+D_h)\propto\varepsilon^{{{order}}}$ samples an "
            r"iteration, $E\|\nabla F\|\le\varepsilon$: an upper order",
            row.worst(root, whole.late_error / (2 * root), whole.epsilon),
            1.0,
            start=smallest(whole.start / whole.epsilon),
            also=largest(sizes.floor / sizes.epsilon) <= 1 + 1e-9,
            note="largest stationary (E||grad F||^2)^(1/2) over eps = "
            + ", ".join(f"{epsilon:g}" for epsilon in whole.epsilon),
        )
        width = largest(row.z * ran.late_error / ran.late)
        yield row.agrees(
            f"runs at the sizes of the {rule} follow the {line}",
            rf"$E\|\nabla F(w_k)\|^2$ at $k={EARLY}$ and stationary, {told}",
            [*ran.early, *ran.late],
            [*ran.early_expected, *ran.late_expected],
            [*ran.early_error, *ran.late_error],
            also=width <= 0.4,
            note=f"also with a quarter of {matters}; stationary within {width:.2g} of the value",
        )
        few, full = ran[ran.share == 0.25].iloc[0], whole.iloc[-1]
        ratio, goal = few.late / full.late, few.late_expected / full.late_expected
        error = ratio * np.hypot(few.late_error / few.late, full.late_error / full.late)
        yield row.contains(
            f"a quarter of the samples that the {rule} counts on",
            FEWER[rule],
            row.sampled(ratio, error, int(few.seeds)),
            goal,
            # Narrower than the way to no change at all.
            goal - 1,
            note=f"ratio at eps = {few.epsilon:g}, {matters} = {few[matters]:g} against {full[matters]:g}",
        )


@claim.figure
def figure(table):
    """The samples of an iteration that the floor as summarised asks for grow like the fourth power of the accuracy; the bias asks for the third.

    Runs at these sizes, and at a quarter of them, end far below the accuracy that was asked for.
    """
    drawing, axes = plotting.panels(2, height=2.9)
    for j, (rule, order) in enumerate(ORDERS.items()):
        part = table[table.rule == rule].sort_values("epsilon")
        what = rule.split()[-1]
        name = f"sizes by the {what}"
        full, hollow = (
            plotting.neutral(j, hollow=h) | {"linestyle": "none", "markersize": 5} for h in (0, 1)
        )
        ran, sizes = part[part.share.notna()], part[part.share != 0.25]
        axes[0].loglog(sizes.epsilon, sizes.samples, label=name, **full)
        last = sizes.iloc[0]
        line = last.samples * (sizes.epsilon / last.epsilon) ** order
        power = plotting.theory("exact", full["color"], named=True)
        axes[0].loglog(sizes.epsilon, line, label=rf"$\propto\varepsilon^{{{order}}}$, an identity", **power)
        for share, look, shown in ((1, full, name), (0.25, hollow, f"a quarter of them, {what}")):
            one = ran[ran.share == share]
            axes[1].errorbar(one.samples, one.late, 5 * one.late_error, capsize=2, label=shown, **look)
        level = {"linestyle": "none", "marker": "_", "color": plotting.INK, "markersize": 12}
        axes[1].plot(ran.samples, ran.late_expected, label="exact level", **level)
        whole = ran[ran.share == 1]
        asked = {
            "linestyle": "none",
            "marker": "_",
            "color": full["color"],
            "markersize": 8,
            "markeredgewidth": 2.5,
        }
        shown = rf"$\varepsilon^2$ asked for, {what}"
        axes[1].plot(whole.samples, whole.epsilon**2, label=shown, **asked)
    axes[0].set(
        title="sizes", xlabel=r"accuracy $\varepsilon$ [$\varphi/u$]", ylabel="samples an iteration [1]"
    )
    axes[1].set(title="runs", xscale="log", yscale="log", xlabel="samples an iteration [1]")
    axes[1].set_ylabel(r"settled $E\|\nabla F\|^2$ [$\varphi^2/u^2$]")
    return plotting.finish(drawing, "Samples of one iteration (5 standard errors)", columns=3)
