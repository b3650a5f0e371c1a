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
from matplotlib.figure import Figure

from experiments.cells import Cells, theorem_run
from experiments.claims import noisy_line
from experiments.judging import at_most, floor_statement, largest, within, worst
from experiments.results import LedgerRow
from experiments.run import log_steps
from jaxmaml import plotting, statistics, theory
from jaxmaml.tasks import cosine
from jaxmaml.tasks.cosine import Cosine, CosineTasks
from jaxmaml.types import BatchSizes

TITLE = "accuracy against D_in: bias 1/D_in, variance 1/(B D_in); HF-MAML at B = 20"
LAMBDA = 1 / 6
D_INS = {
    "smoke": (16.0, 64.0, 256.0),
    "default": (16.0, 64.0, 256.0, 1024.0),
    "full": (16.0, 64.0, 256.0, 1024.0),
}
ISOLATED = (4.0, 8.0, 16.0)
CROWD = 100
"""copies of every task with which the noise averages out, and its bias is left."""
COPIES = (1, 4)
"""of every task: the same F, with noise averaged over more tasks."""
SEEDS = {"smoke": 32, "default": 64, "full": 256}
MORE = 3
"""times as many for HF-MAML, whose row compares two noisy levels."""
STEPS = {"smoke": 6_000, "default": 20_000, "full": 50_000}
PRACTICAL = noisy_line.SIZES


def _family(copies: int = 1) -> Cosine:
    """Noise of the gradient only."""
    once = cosine.make(n=10, d=2, tau=6.0, seed=1)
    tasks = CosineTasks(*(np.tile(x, (copies, 1)) for x in once.tasks))
    return replace(once, tasks=tasks)


def _practical() -> Cosine:
    return cosine.make(n=10, d=2, tau=1.58, beta0=1.0, nu=1.73, seed=1)


@functools.cache
def _limit() -> np.ndarray:
    """The limit of exact MAML, from where runs settle at once."""
    family = _family()
    alpha = LAMBDA / family.constants().L
    w = np.full(family.dim, 4.0)
    for _ in range(20_000):
        w = w - 0.02 * family.grad_objective(w, alpha)
    return w


def grid(scale: str) -> Cells:
    w0 = _limit()
    record = log_steps(STEPS[scale], per_decade=2, tail=60)
    c = theory.theorems()["hf_maml"].c
    families = {copies: _family(copies) for copies in COPIES}
    practical = _practical()
    cells: Cells = []
    for seed in range(MORE * SEEDS[scale]):
        for copies, family in families.items() if seed < SEEDS[scale] else ():
            for D_in in D_INS[scale]:
                alpha = LAMBDA / family.constants().L
                cell = theorem_run(
                    family, "maml", alpha, w0, record=record, sizes=BatchSizes(D_in=D_in), seed=seed
                )
                labels = {
                    "part": "sampled",
                    "estimator": "maml",
                    "D_in": D_in,
                    "copies": copies,
                    "seed": seed,
                }
                cells.append((labels, cell))
        for estimator in ("maml", "hf_maml"):
            alpha = LAMBDA / practical.constants().L
            cell = theorem_run(practical, estimator, alpha, w0, record=record, sizes=PRACTICAL, seed=seed)
            # The step of HF-MAML's theorem for both.
            labels = {"part": "practical", "estimator": estimator, "D_in": 20.0, "copies": 1, "seed": seed}
            cells.append((labels, replace(cell, c=c)))
    crowd = _family(CROWD)
    alpha = LAMBDA / crowd.constants().L
    for D_in in ISOLATED:
        # Long enough to move from the exact limit to the biased one.
        steps = log_steps(5000, per_decade=2, tail=60)
        cell = theorem_run(crowd, "maml", alpha, w0, record=steps, sizes=BatchSizes(D_in=D_in))
        cells.append(
            ({"part": "isolated", "estimator": "maml", "D_in": D_in, "copies": CROWD, "seed": 0}, cell)
        )
    return cells


def _isolated(family: Cosine, w0: np.ndarray, D_in: float) -> float:
    """||grad F|| where the direction's expectation over D_in is zero: Newton's iteration from w0."""
    alpha = LAMBDA / family.constants().L

    def mean(w: np.ndarray) -> np.ndarray:
        outer = family.task_gradients(family.adapted(w, alpha)) + family.inner_bias(w, alpha, D_in)
        return np.mean((1 - alpha * family.task_hessians(w)) * outer, axis=0)

    w = w0.copy()
    for _ in range(30):
        slope = [(mean(w + h) - mean(w - h)) / 2e-6 for h in 1e-6 * np.eye(w.size)]
        w = w - np.linalg.solve(np.stack(slope, axis=1), mean(w))
    return float(np.linalg.norm(family.grad_objective(w, alpha)))


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """One row a part, method, D_in and number of copies: the stationary (E||grad F||^2)^{1/2} and the floors."""
    table = []
    w0 = _limit()
    columns = ["part", "estimator", "D_in", "copies"]
    for (part, estimator, D_in, copies), some in rows.groupby(columns, sort=False):
        family = _family() if part in ("sampled", "isolated") else _practical()
        constants = family.constants()
        alpha = LAMBDA / constants.L
        theorem = theory.theorems()[str(estimator)]
        norms = some.pivot(index="step", columns="seed", values="grad_norm")
        late = norms[norms.index >= norms.index[-1] / 2].to_numpy()
        square = statistics.interval(np.mean(late**2, axis=0))
        sizes = BatchSizes(D_in=float(D_in)) if part in ("sampled", "isolated") else PRACTICAL
        table.append(
            {
                "part": part,
                "estimator": estimator,
                "D_in": D_in,
                "copies": copies,
                "level": np.sqrt(square.mean),
                "error": (square.high - square.low) / (8 * np.sqrt(square.mean)),
                "seeds": square.n,
                "bias": _isolated(family, w0, float(D_in)) if part in ("sampled", "isolated") else np.nan,
                "predicted": _predicted(str(estimator), scale) if part == "practical" else np.nan,
                "violated": ", ".join(
                    c.name for c in theorem.conditions(constants, alpha, sizes) if not c.holds
                )
                or "none",
                "floor": theorem.floor(constants, alpha, sizes),
                "floor_summary": theorem.floor_summary(constants, alpha, sizes),
            }
        )
    return pd.DataFrame(table)


def _predicted(estimator: str, scale: str) -> float:
    """The linearised stationary level at HF-MAML's c and the sizes of `noisy_line`."""
    family, c = _practical(), theory.theorems()["hf_maml"].c
    alpha = LAMBDA / family.constants().L
    return noisy_line.prediction(family, estimator, alpha, c, STEPS[scale])[0]


def _excess(part: pd.DataFrame) -> pd.DataFrame:
    """With the root of what the noise adds to the square of the bias, and its standard error."""
    excess = np.sqrt(part.level**2 - part.bias**2)
    return part.assign(excess=excess, excess_error=part.error * part.level / excess)


def _ratio(x: np.ndarray, x_error: np.ndarray, y: np.ndarray, y_error: np.ndarray) -> statistics.Interval:
    """The mean of x / y, and two standard errors of it if all of them go together."""
    ratio = x / y
    error = ratio * np.hypot(x_error / x, y_error / y)
    # Common random numbers: the errors of different sizes may be one and the same.
    half = 2 * float(np.mean(error))
    return statistics.Interval(
        float(ratio.mean()), float(ratio.mean() - half), float(ratio.mean() + half), len(ratio)
    )


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    isolated, sampled, practical = (
        table[table.part == name] for name in ("isolated", "sampled", "practical")
    )
    once, more = (_excess(sampled[sampled.copies == copies]) for copies in COPIES)
    ratio = _ratio(
        once.excess.to_numpy(),
        once.excess_error.to_numpy(),
        more.excess.to_numpy(),
        more.excess_error.to_numpy(),
    )
    maml, hf = (practical[practical.estimator == e].iloc[0] for e in ("maml", "hf_maml"))
    both = _ratio(*(np.array([x]) for x in (hf.level, hf.error, maml.level, maml.error)))
    hf_theorem = theory.theorems()["hf_maml"]
    return [
        within(
            "E19",
            "the bias floor through D_in is of order 1/D_in",
            r"$\|\nabla F\|=O(1/D_{in})$ where the direction, averaged over $D_{in}$, vanishes",
            "MAML theorem",
            "derived",
            statistics.slope(isolated.D_in, isolated.level),
            -1.0,
            0.05,
            also=largest((isolated.level / isolated.bias - 1).abs()) <= 0.01,
            note=f"log-log slope over {len(isolated)} sizes, {10 * CROWD} noisy tasks; from the closed form by "
            f"{largest((isolated.level / isolated.bias - 1).abs()):.2g}",
        ),
        within(
            "E19",
            "the sampled level through D_in is of order 1/sqrt(D_in)",
            r"stationary $(E\|\nabla F\|^2-\mathrm{bias}^2)^{1/2}$ of order $1/\sqrt{D_{in}}$, all else exact",
            "MAML theorem",
            "derived",
            statistics.slope(once.D_in, once.excess, errors=once.excess_error),
            -0.5,
            0.05,
            note=f"log-log slope over {len(once)} sizes; all tasks, D_o and D_h exact",
        ),
        within(
            "E19",
            "the sampled level through D_in falls with the number of tasks",
            r"the part of $\tilde\sigma^2/D_{in}$ that is no bias carries $1/B$: four times the tasks, half the level",
            "MAML theorem",
            "derived; as summarised without 1/B",
            ratio,
            2.0,
            # Without 1/B the ratio would be 1.
            0.25,
            note="mean ratio over the sizes",
        ),
        at_most(
            "E19",
            "accuracy against D_in within the theorem's floor",
            r"$E\|\nabla F\|\le\sqrt{61(1+\frac{\rho\alpha}L\sigma)\,\tilde\sigma^2/D_{in}}$, or the floor's other entry",
            "MAML theorem",
            "as summarised",
            worst(once.level, once.error, once.floor_summary, z=2.0),
            1.0,
            sharp=False,
            note="largest ratio over the sizes",
        ),
        at_most(
            "E22",
            "HF-MAML's accuracy at B = 20 within its theorem",
            floor_statement(hf_theorem),
            "HF-MAML theorem",
            "as summarised",
            statistics.Interval(hf.level, hf.level - 2 * hf.error, hf.level + 2 * hf.error, int(hf.seeds)),
            float(hf.floor_summary),
            also=bool(hf.level + 2 * hf.error <= hf.floor),
            sharp=False,
            note=f"the derived floor is {hf.floor:.3g}",
        ),
        within(
            "E22",
            "HF-MAML at B = 20 against MAML with the same c",
            r"stationary $(E\|\nabla F\|^2)^{1/2}$ of HF-MAML over MAML's, both with $c=\frac1{25}$: that of their linearisations",
            "HF-MAML theorem",
            "derived",
            both,
            float(hf.predicted / maml.predicted),
            0.1 * float(hf.predicted / maml.predicted),
            also=str(hf.violated) == "none",
            note=f"level {hf.level:.3g} and MAML's {maml.level:.3g}; {hf.seeds:.0f} seeds",
        ),
    ]


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(1, width=4.4)
    axis, shade = axes[0], plotting.color("maml")
    sampled = table[table.part == "sampled"]
    for copies, marker in zip(COPIES, "o^", strict=True):
        part = sampled[sampled.copies == copies]
        axis.errorbar(
            part.D_in,
            part.level,
            2 * part.error,
            fmt=marker,
            capsize=2,
            color=shade,
            label=f"MAML, {10 * copies} tasks",
        )
    part = sampled[sampled.copies == 1]
    fit = _excess(part)
    axis.loglog(
        fit.D_in, fit.excess, "o", color=shade, markerfacecolor="none", label="10 tasks, without bias"
    )
    plotting.fitted(axis, fit.D_in, fit.excess)
    axis.loglog(part.D_in, part.floor_summary, ":", color="k", label="floor, as summarised")
    axis.loglog(part.D_in, part.floor, "--", color="k", label="floor, derived")
    isolated = table[table.part == "isolated"]
    axis.loglog(
        isolated.D_in, isolated.level, "D", color=plotting.OTHER[1], label=f"MAML, {10 * CROWD} tasks"
    )
    both = table[table.part.isin(["isolated", "sampled"])].sort_values("D_in").drop_duplicates("D_in")
    axis.loglog(both.D_in, both.bias, "-.", color="0.4", label="bias alone, exact")
    axis.set_xlabel("inner samples $D_{in}$ [1]")
    axis.set_ylabel(r"stationary $\|\nabla F\|$ [$\varphi/u$]")
    return plotting.finish(drawing, "Noise of the inner step alone, nonconvex family (c)", columns=2)
