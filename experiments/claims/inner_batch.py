"""How the accuracy depends on D_in (E19), and on HF-MAML's step at practical B (E22).

As summarised, sigma~^2 / D_in stands in every floor without a 1/B: an accuracy of order 1/sqrt(D_in). Derived: the
inner noise acts in two ways. Its variance is averaged over B, like all other noise; its bias is not, and is of
order 1/D_in. The bias alone, the direction replaced by its expectation over D_in, is a floor of slope -1; what
sampled D_in adds to its square has the slope -1/2 in the root and falls with the number of tasks. The summary's line
is an upper one.

At B = 20 HF-MAML with the theorem's step is far below its floor as summarised. Its stationary level is what its
linearisation predicts, as MAML's with the same c is (derived): the bias is small here, and can be seen.
"""

import functools
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.cells import theorem_run
from experiments.claim import Claim
from experiments.claims import _noisy
from experiments.judging import floor_statement, largest, smallest
from experiments.run import log_steps
from jaxmaml import plotting, statistics, theory
from jaxmaml.tasks import cosine
from jaxmaml.tasks.cosine import CosineTasks
from jaxmaml.types import BatchSizes

LAMBDA = 1 / 6
D_INS = {"smoke": (16.0, 64.0, 256.0), "default": (16.0, 64.0, 256.0, 1024.0)}
D_INS["full"] = D_INS["default"]
ISOLATED = (1.0, 2.0, 4.0, 8.0)
CROWD = 25
"""copies of every task with which the noise averages out, and its bias is left."""
COPIES = (1, 4)
"""of every task: the same F, with noise averaged over more tasks."""
SEEDS = {
    "sampled": {"smoke": 32, "default": 48, "full": 256},
    "practical": {"smoke": 96, "default": 96, "full": 512},
    "isolated": {"smoke": 6, "default": 8, "full": 32},
    "far": {"smoke": 4, "default": 8, "full": 32},
}
STEPS = {"smoke": 6_000, "default": 9_000, "full": 50_000}
FAR = 20.0
"""every coordinate of a start where the gradient exceeds the floors."""
PRACTICAL = BatchSizes(B=20, D_in=20.0, D_o=5.0, D_h=1.0, B_prime=1, D_beta=1.0)

claim = Claim(
    "E19", "accuracy against D_in: bias 1/D_in, variance 1/(B D_in); HF-MAML at B = 20", place="MAML theorem"
)


def crowd(copies):
    """Noise of the gradient only."""
    once = cosine.make(n=10, d=2, tau=6.0, seed=1)
    return replace(once, tasks=CosineTasks(*(np.tile(x, (copies, 1)) for x in once.tasks)))


@functools.cache
def limit():
    """The limit of exact MAML, from where runs settle at once."""
    family = crowd(1)
    alpha, w = LAMBDA / family.constants().L, np.full(family.dim, 4.0)
    for _ in range(20_000):
        w = w - 0.02 * family.grad_objective(w, alpha)
    return w


@claim.cells
def cells(scale):
    families = {copies: crowd(copies) for copies in (*COPIES, CROWD)}
    practical = cosine.make(n=10, d=2, tau=1.58, beta0=1.0, nu=1.73, seed=1)
    alpha, near, away = LAMBDA / practical.constants().L, limit(), np.full(practical.dim, FAR)
    c = theory.theorems()["hf_maml"].c

    def runs(part, family, estimator, D_in, copies=1, steps=STEPS[scale], w0=near, sizes=None):
        about = {"record": log_steps(steps, per_decade=2, tail=80), "sizes": sizes or BatchSizes(D_in=D_in)}
        for seed in range(SEEDS[part][scale]):
            run = theorem_run(family, estimator, alpha, w0, seed=seed, **about)
            # The step of HF-MAML's theorem for both that are compared.
            labels = {"part": part, "estimator": estimator, "D_in": D_in, "copies": copies, "seed": seed}
            yield labels, replace(run, c=c) if part == "practical" else run

    for D_in in D_INS[scale]:
        for copies in COPIES:
            yield from runs("sampled", families[copies], "maml", D_in, copies)
        yield from runs("far", families[1], "maml", D_in, w0=away)
    for D_in in ISOLATED:
        # Long enough to move from the exact limit to the biased one.
        yield from runs("isolated", families[CROWD], "maml", D_in, CROWD, 4000)
    for estimator in ("maml", "hf_maml"):
        yield from runs("practical", practical, estimator, 20.0, sizes=PRACTICAL)
    yield from runs("far", practical, "hf_maml", 20.0, w0=away, sizes=PRACTICAL)


def bias(cell):
    """||grad F|| where the direction's expectation over D_in is zero, in closed form: by Newton's iteration."""
    family, alpha, w = crowd(1), cell.alpha, limit()

    def mean(w):
        outer = family.task_gradients(family.adapted(w, alpha)) + family.inner_bias(w, alpha, cell.sizes.D_in)
        return np.mean((1 - alpha * family.task_hessians(w)) * outer, axis=0)

    for _ in range(10):
        w = w - np.linalg.solve(_noisy.jacobian(mean, w), mean(w))
    return float(np.linalg.norm(family.grad_objective(w, alpha)))


@claim.per("part", "estimator", "D_in", "copies")
def measured(some, cell):
    """(E||grad F||^2)^{1/2} of the last half, the level predicted, its bias, and the floors."""
    part, copies = some[["part", "copies"]].iloc[0]
    norms = some.pivot(index="step", columns="seed", values="grad_norm")
    square = _noisy.late_squares(norms)
    level, theorem = np.sqrt(np.mean(square)), theory.theorems()[cell.estimator]
    about = (cell.family.constants(), cell.alpha, cell.sizes)
    found = {}
    if part != "far":
        single = cell if cell.sizes.B else replace(cell, family=crowd(1))
        found = _noisy.stationary_level(single, 1, 20_000 if cell.sizes.B else 8000, int(copies))
        found = found if cell.sizes.B else found | {"bias": bias(cell)}
    return {
        "level": level,
        "error": np.std(square, ddof=1) / np.sqrt(square.size) / (2 * level),
        "seeds": square.size,
        "start": smallest(norms.iloc[0]),
        **{name: found.get(name, np.nan) for name in ("bias", "predicted", "predicted_error", "leading")},
        "violated": _noisy.violated(cell),
        "floor": theorem.floor(*about),
        "floor_summary": theorem.floor_summary(*about),
    }


def excess(part):
    """With the root of what the noise adds to the square of the bias, and its standard error."""
    root = np.sqrt(part.level**2 - part.bias**2)
    return part.assign(excess=root, excess_error=part.error * part.level / root)


def linearised(part, row):
    """What `row.agrees` compares: squares, those predicted, standard errors; and how far intervals reach."""
    error = np.hypot(2 * part.level * part.error, part.predicted_error)
    return (part.level**2, part.predicted, error), largest(row.z * error / part.predicted)


@claim.rows
def rows(table, row):
    alone, sampled, practical, far = (
        table[table.part == name] for name in ("isolated", "sampled", "practical", "far")
    )
    once, more = (excess(sampled[sampled.copies == copies]) for copies in COPIES)
    maml, hf = (practical[practical.estimator == e].iloc[0] for e in ("maml", "hf_maml"))
    closed, limit_of = (
        statistics.slope(alone.D_in, np.sqrt(alone.predicted)),
        statistics.limit_slope(alone.D_in, alone.bias),
    )
    yield row.contains(
        "the bias floor through D_in is of order 1/D_in",
        r"$\|\nabla F\|=O(1/D_{in})$ where the direction, averaged over $D_{in}$, vanishes: local slopes of the closed form "
        r"tend to $-1$, and runs have its slope",
        row.slope(alone.D_in, alone.level, alone.error),
        closed.mean,
        0.06,
        also=abs(limit_of.mean + 1) <= 0.002 and limit_of.low <= -1 <= limit_of.high,
        note=f"log-log slope over {len(alone)} sizes, {10 * CROWD} noisy tasks; limit of the closed form's "
        f"{limit_of.mean:.4f}",
    )
    compared, width = linearised(pd.concat([sampled, alone]), row)
    yield row.agrees(
        "the level through D_in against its linearisation",
        r"stationary $E\|\nabla F\|^2=\mathrm{bias}^2+\mathrm{tr}(\nabla^2F\,P\,\nabla^2F)$, $JP+PJ^\top=\beta\Sigma$, and "
        r"the next order in $\beta$",
        *compared,
        # The bias is 0.3 of the square at the smallest size, alpha doubled 1.8 of it and more.
        also=width <= 0.3,
        note=f"over sizes and numbers of tasks; intervals within {width:.2g} of the square",
    )
    yield row.contains(
        "the sampled level through D_in is of order 1/sqrt(D_in)",
        r"stationary $(E\|\nabla F\|^2-\mathrm{bias}^2)^{1/2}$ of order $1/\sqrt{D_{in}}$, all else exact",
        row.slope(once.D_in, once.excess, once.excess_error),
        -0.5,
        0.1,
        note=f"log-log slope over {len(once)} sizes; all tasks, D_o and D_h exact",
    )
    ratio = once.excess.to_numpy() / more.excess.to_numpy()
    spread = np.hypot(once.excess_error / once.excess, (more.excess_error / more.excess).to_numpy())
    yield row.contains(
        "the sampled level through D_in falls with the number of tasks",
        r"the part of $\tilde\sigma^2/D_{in}$ that is no bias carries $1/B$: four times the tasks, half the level",
        # Common random numbers: the errors of different sizes may be one and the same.
        row.sampled(np.mean(ratio), float(np.mean(ratio * spread.to_numpy())), len(ratio)),
        2.0,
        # Without 1/B the ratio would be 1.
        0.4,
        note="mean ratio over the sizes",
        source="derived; as summarised without 1/B",
    )
    away, hf_away = (far[far.estimator == e] for e in ("maml", "hf_maml"))
    for part, statement, one, about in (
        (
            "accuracy against D_in within the theorem's floor",
            r"$E\|\nabla F\|\le\sqrt{61(1+\frac{\rho\alpha}L\sigma)\,\tilde\sigma^2/D_{in}}$, or the floor's other entry",
            away,
            {},
        ),
        (
            "HF-MAML's accuracy at B = 20 within its theorem",
            floor_statement(theory.theorems()["hf_maml"]),
            hf_away,
            {"number": "E22", "place": "HF-MAML theorem"},
        ),
    ):
        yield row.at_most(
            part,
            statement,
            row.worst(one.level, one.error, one.floor_summary),
            1.0,
            start=smallest(one.start / one.floor_summary),
            sharper=largest(one.floor / one.floor_summary),
            also=bool((one.violated == "none").all()),
            note=f"largest ratio of the last half; the first gradient is {one.start.iloc[0]:.3g}",
            source="as summarised",
            **about,
        )
    expected = float(np.sqrt(hf.predicted / maml.predicted))
    yield row.contains(
        "HF-MAML at B = 20 against MAML with the same c",
        r"stationary $(E\|\nabla F\|^2)^{1/2}$ of HF-MAML over MAML's, both with $c=\frac1{25}$: that of their linearisations",
        row.sampled(
            hf.level / maml.level, np.hypot(hf.error, maml.error * hf.level / maml.level) / maml.level
        ),
        expected,
        0.15,
        also=hf.violated == "none",
        note=f"level {hf.level:.3g} and MAML's {maml.level:.3g}; {hf.seeds:.0f} seeds",
        number="E22",
        place="HF-MAML theorem",
    )
    compared, width = linearised(practical, row)
    yield row.agrees(
        "HF-MAML and MAML at B = 20 against their linearisations",
        r"stationary $E\|\nabla F\|^2$ with $c=\frac1{25}$: that of the linearisation and the next order in $\beta$",
        *compared,
        # MAML in the place of HF-MAML changes it by 0.24.
        also=width <= 0.22,
        note=f"both; intervals within {width:.2g} of the square",
        number="E22",
        place="HF-MAML theorem",
    )


@claim.figure
def figure(table):
    """The level at which MAML settles falls with the samples of its inner step, like one over their root where noise rules.

    With many tasks only the bias is left, which falls faster; both stated floors lie a hundredfold higher.
    """
    drawing, (axis,) = plotting.panels(1, height=3.2)
    sampled, alone = table[table.part == "sampled"], table[table.part == "isolated"]
    look = plotting.look("maml") | {"linestyle": "none", "capsize": 2, "markersize": 5.5}
    for copies, fill in zip(COPIES, ("none", "left"), strict=True):
        part = sampled[sampled.copies == copies].sort_values("D_in")
        shown = {"label": f"MAML, {10 * copies} tasks", "fillstyle": fill, "markerfacecoloralt": "white"}
        axis.errorbar(part.D_in, part.level, 4 * part.error, **look | shown)
        level = plotting.theory("exact") | {"label": "level of its linearisation"}
        axis.loglog(part.D_in, np.sqrt(part.predicted), **level)
    for column, kind, text in (
        ("floor_summary", "as summarised", "floor, as summarised"),
        ("floor", "derived", "floor, derived"),
    ):
        axis.loglog(part.D_in, part[column], label=text, **plotting.theory(kind, named=True))
    axis.errorbar(alone.D_in, alone.level, 4 * alone.error, label=f"MAML, {10 * CROWD} tasks", **look)
    both = table[table.part.isin(["sampled", "isolated"])].sort_values("D_in").drop_duplicates("D_in")
    bias = plotting.theory("exact", plotting.SHADES[1], named=True)
    axis.loglog(both.D_in, both.bias, label="bias alone, exact", **bias)
    axis.set_xlabel("inner samples $D_{in}$ [1]")
    axis.set_ylabel(r"settled $\|\nabla F\|$ [$\varphi/u$], 4 standard errors")
    return plotting.finish(drawing, "Noise of the inner step alone, nonconvex family", key="right")
