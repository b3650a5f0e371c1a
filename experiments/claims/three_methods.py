"""The three methods at one rate and from one start: where each stops, and what the way there costs (E30).

As summarised, MAML reaches every accuracy, FO-MAML stops at a floor in alpha that no batch removes, and HF-MAML needs
no Hessian and has no floor. Here all take the largest rate that the three theorems allow, alpha = 1 / (10 L), on the
tasks (c) of `fo_floor` and `hf_floor`, from a start far above the floors of the theorems. Exact gradients of all tasks
take each to where its direction vanishes: FO-MAML to alpha ||Cov(H, g)||, HF-MAML to alpha ||E t||, MAML to 0 (derived).
With B = 20 tasks a step, the least that the theorems allow, the noise keeps all three above these floors.

A step costs the gradients of its estimator for each task; seconds are those of a compiled loop with exact gradients,
on one machine, and judge nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.cells import theorem_run
from experiments.claim import Claim
from experiments.claims import _noisy
from experiments.claims._floors import ROUNDING
from experiments.claims.hf_floor import limit
from experiments.judging import largest, place_of, smallest
from experiments.run import log_steps
from jaxmaml import estimators, plotting, theory
from jaxmaml.tasks import cosine
from jaxmaml.timing import medians
from jaxmaml.types import BatchSizes

EXACT, NOISY = "all tasks, exact", "20 tasks a step"
TASKS = {"smoke": {"n": 8, "d": 2, "seed": 3}, "default": {"n": 20, "d": 4, "seed": 3}}
TASKS["full"] = TASKS["default"]
FAR = 40.0
"""every coordinate of the start."""
STEPS = {"smoke": (24_000, 3000), "default": (24_000, 8000), "full": (40_000, 40_000)}
"""of runs with exact gradients and of noisy ones."""
SEEDS = {"smoke": 8, "default": 12, "full": 64}
TIMED, REPEATS = 500, 40
"""steps of a timed loop, and how often each is timed."""
SHARE = 2.0
"""the accuracy to which gradients are counted, in FO-MAML's floor."""

COLUMNS = ["step", "grad_norm", "grad_norm_error", "running_mean", "error", "line", "floor", "start", "level"]
COLUMNS += ["level_error", "direction_norm", "diverged", "seeds"]
STOPS = {
    "fo_maml": r"$\|\nabla F\|=\alpha\|\mathrm{Cov}_i(H_i,g_i)\|$ where FO-MAML stops",
    "hf_maml": r"$\|\nabla F\|=\alpha\|E\,t_i\|$ where HF-MAML stops, $t_i$ the error of its difference",
}
LINES = {
    EXACT: r"$\min_{k<K}\|\nabla F(w_k)\|\le\varepsilon$ for $K\ge N(\varepsilon)$",
    NOISY: r"$\frac1K\sum_{k<K}E\|\nabla F(w_k)\|\le\varepsilon(K)$",
}

claim = Claim("E30", "the three methods at one rate: where each stops, steps and gradients to get there")


@claim.cells
def cells(scale):
    family = cosine.make(**TASKS[scale])
    theorems, L = theory.theorems(), family.constants().L
    alpha, w0 = min(theorem.alpha_max(L) for theorem in theorems.values()), np.full(family.dim, FAR)
    long, short = STEPS[scale]
    exact, noisy = log_steps(long, per_decade=20), log_steps(short, per_decade=10, tail=20)
    for estimator in theorems:
        run = theorem_run(family, estimator, alpha, w0, record=exact)
        yield {"batches": EXACT, "estimator": estimator, "seed": 0}, run
    for estimator in theorems:
        for seed in range(SEEDS[scale]):
            run = theorem_run(family, estimator, alpha, w0, record=noisy, sizes=BatchSizes(B=20), seed=seed)
            yield {"batches": NOISY, "estimator": estimator, "seed": seed}, run


def exact_curve(part, cell):
    """Per recorded K, as `_noisy.curve`: ||grad F(w_K)||, min over k < K (of those recorded), N_det's epsilon at K."""
    theorem, about = theory.theorems()[cell.estimator], (cell.family.constants(), cell.alpha)
    gap, floor = part.objective.iloc[0] - cell.family.infimum(cell.alpha).value, theorem.exact_floor(*about)
    steps, norms = part.step.to_numpy()[1:], part.grad_norm.to_numpy()
    low, high = (np.full(len(steps), x) for x in (max(floor, 1e-12), 1e12))
    for _ in range(100):
        middle = np.sqrt(low * high)
        enough = theorem.exact_iterations(middle, gap, *about) <= steps
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    found = {"step": steps, "grad_norm": norms[1:], "running_mean": np.minimum.accumulate(norms)[:-1]}
    found |= {
        "line": high,
        "floor": floor,
        "start": norms[0],
        "direction_norm": part.direction_norm.to_numpy()[1:],
    }
    found |= {"diverged": int((part.diverged_at >= 0).sum()), "seeds": 1}
    return pd.DataFrame(found).reindex(columns=COLUMNS)


def stops(cell):
    """||grad F|| where the method's direction vanishes, exact gradients, in NumPy."""
    family, alpha = cell.family, cell.alpha
    if cell.estimator == "maml":
        return 0.0
    near = family.fo_limit(cell.w0, alpha)
    if cell.estimator == "fo_maml":
        return family.fo_floor(near, alpha)
    found = limit(family, cell.w0, alpha, cell.arguments["delta"].arc, near)
    return float(np.linalg.norm(family.grad_objective(found, alpha)))


@_noisy.once
def step_seconds(runs):
    """Seconds of a step of each run, in a compiled loop: the least of REPEATS timings, in which the runs take turns."""

    def loop(run, w):
        return jax.lax.fori_loop(0, TIMED, lambda k, w: run.step(jax.random.key(k), w).w, w)

    loops = {
        name: functools.partial(jax.jit(functools.partial(loop, run)), jnp.asarray(run.w0))
        for name, run in runs.items()
    }
    # The rest of the machine only adds to a timing.
    taken = [medians(loops, repeats=1) for _ in range(REPEATS)]
    return {name: min(one[name] for one in taken) / TIMED for name in loops}


@claim.table
def measured(rows, cells):
    """A row a method, kind of batches and recorded step k >= 1."""
    groups = dict(iter(rows.groupby(["batches", "estimator"], sort=False)))
    runs = {key: cells[int(part.cell.iloc[0])][1] for key, part in groups.items()}
    seconds = step_seconds({estimator: run for (batches, estimator), run in runs.items() if batches == EXACT})
    frames = []
    for (batches, estimator), part in groups.items():
        cell = runs[batches, estimator]
        found = exact_curve(part, cell) if batches == EXACT else _noisy.curve(part, cell)
        about = {"batches": batches, "estimator": estimator, "alpha": cell.alpha, "stops": stops(cell)}
        about |= {"unit": cell.alpha * cell.L * cell.family.constants().sigma}
        about |= {"gradients": found.step * estimators.gradients(estimator, 1)}
        about |= {"seconds": found.step * seconds[estimator]}
        frames.append(found.assign(**about).reindex(columns=[*about, *COLUMNS]))
    return pd.concat(frames, ignore_index=True)


def until(part, accuracy, column):
    """The value of a column where ||grad F|| first falls to an accuracy, between recorded steps by logarithms."""
    norms, values = np.log(part.grad_norm.to_numpy()), np.log(part[column].to_numpy())
    below = np.flatnonzero(norms <= np.log(accuracy))
    if not below.size or below[0] == 0:
        return np.nan
    j = below[0]
    return float(np.exp(np.interp(np.log(accuracy), norms[[j, j - 1]], values[[j, j - 1]])))


@claim.rows
def rows(table, row):
    parts = dict(iter(table.groupby(["batches", "estimator"], sort=False)))
    exact = {estimator: part for (batches, estimator), part in parts.items() if batches == EXACT}
    ends = {estimator: part.iloc[-1] for estimator, part in exact.items()}
    maml, floor = ends["maml"], float(ends["fo_maml"].grad_norm)
    yield row.within(
        "one rate: MAML goes below the floors of FO-MAML and HF-MAML",
        r"at one $\alpha$ MAML reaches every accuracy, FO-MAML and HF-MAML stop",
        float(maml.grad_norm / maml.unit),
        0.0,
        ROUNDING,
        also=all(ends[e].grad_norm > 1e-4 * maml.unit for e in STOPS),
        note=f"||grad F|| / (alpha L sigma), zero up to rounding, from {maml.start / maml.unit:.3g}",
        place="MAML theorem",
        source="as summarised",
    )
    for estimator, statement in STOPS.items():
        end = ends[estimator]
        yield row.within(
            f"one rate: {plotting.label(estimator)} stops at its floor",
            statement,
            float(end.grad_norm / end.stops),
            1.0,
            1e-6,
            also=bool(end.direction_norm <= ROUNDING * end.unit),
            note=f"over the predicted floor {end.stops:.3g}; it starts at {end.start:.3g}",
            place=place_of(estimator),
        )
    for (batches, estimator), part in parts.items():
        # With exact gradients nothing is sampled.
        ratio = largest(part.running_mean / part.line)
        yield row.at_most(
            f"one rate: {plotting.label(estimator)} against its line, {batches}",
            LINES[batches],
            ratio if batches == EXACT else row.worst(part.running_mean, part.error, part.line),
            1.0,
            start=float(maml.start / smallest(part.line)),
            also=largest(part.diverged) == 0,
            note=f"largest ratio; the line ends at {smallest(part.line):.3g}, the start is {part.start.iloc[0]:.3g}",
            place=place_of(estimator),
            source="as summarised; constants derived",
        )
    level = parts[NOISY, "maml"].iloc[-1]
    yield row.at_least(
        "one rate: noise of 20 tasks keeps MAML above FO-MAML's floor",
        r"$(E\|\nabla F\|^2)^{1/2}$ of MAML in the end, $B=20$, over $\alpha\|\mathrm{Cov}_i(H_i,g_i)\|$",
        row.sampled(level.level / floor, level.level_error / floor, int(level.seeds)),
        1.0,
        note="what FO-MAML loses shows where more tasks are drawn",
        place="MAML theorem",
    )
    counts = {estimator: until(part, SHARE * floor, "gradients") for estimator, part in exact.items()}
    told = "a task: " + ", ".join(f"{plotting.label(e)} {count:.0f}" for e, count in counts.items())
    yield row.at_most(
        "one rate: gradients of FO-MAML until twice its floor, over MAML's",
        r"above its floor FO-MAML, with 2 gradients a step for 4, is the cheaper",
        counts["fo_maml"] / counts["maml"],
        1.0,
        note=told,
        place="costs",
        source="as summarised",
    )
    yield row.at_least(
        "one rate: gradients of HF-MAML until twice FO-MAML's floor, over MAML's",
        r"HF-MAML takes as many gradients a step as MAML with the exact product, and smaller steps",
        counts["hf_maml"] / counts["maml"],
        1.0,
        note=told,
        place="costs",
    )


@claim.figure
def figure(table):
    """At one rate MAML goes to zero where FO-MAML and HF-MAML stop at their floors; the noise of 20 tasks a step
    is above both. Every curve lies below the line of its theorem, within a factor of two on the way down."""
    drawing, axes = plotting.panels(2, width=3.6)
    axes[1].sharey(axes[0])
    for axis, batches in zip(axes, (EXACT, NOISY), strict=True):
        for estimator in plotting.ordered(table.estimator):
            part = table[(table.batches == batches) & (table.estimator == estimator)]
            name, shade = plotting.label(estimator), plotting.color(estimator)
            axis.loglog(part.step, part.grad_norm, label=name, **plotting.look(estimator), markevery=0.1)
            axis.loglog(
                part.step, part.line, label=f"{name}, line, derived", **plotting.theory("derived", shade)
            )
            if part.stops.iloc[0] > 0:
                floor = plotting.theory("exact", shade)
                axis.axhline(part.stops.iloc[0], label=f"{name}, floor, exact", **floor)
        axis.set(title=batches, xlabel="outer steps $k$ [1]")
    axes[0].set_ylim(smallest(table.stops[table.stops > 0]) / 30, 30 * largest(table.start))
    axes[0].set_ylabel(r"$\|\nabla F\|$ [$\varphi/u$]")
    return plotting.finish(drawing, "The three methods at one rate, from one start")
