"""HF-MAML as summarised, at finite B and in the plane: where its bias exceeds the theorem's floor (E21).

As summarised, HF-MAML with delta = 1 / (6 rho alpha ||g_i||) reaches max{6 ((1 + rho alpha sigma/L) S)^(1/2), ...},
which vanishes as B grows. Two counterexamples (derived; docs/findings/hf-maml-bias.md):

  * hf_blind, d = 1: the arc 1/(6 rho alpha) is half a period of the Hessians, and the difference sees one
    Hessian, mu, for both tasks. Exact HF-MAML stops at a root that is known; with B i.i.d. tasks and exact
    gradients it stays above the floor from B = 10^4 on, from the root (`hf_starts` has other starts). At B = 20 the
    floor is far above it.
  * shared_curvature, d = 2: the tasks share their Hessian, FO-MAML has no floor, and HF-MAML has one.

The repair eta = min(1/6, 1/sqrt(B)) and MAML are within the floor at the same B. The direction of B i.i.d. tasks
out of two depends on how many of them are the first, a binomial number: the number of ones among B fair bits.
Large B are run that way, and compared with the library's own draws where those are affordable.
"""

import numpy as np

from experiments.cells import theorem_run
from experiments.claim import Claim
from experiments.claims._blind import blind_root, chain_mean, counted
from experiments.claims._floors import REPAIR, ROUNDING, counterexample, hf_direction, settled, zero_near
from experiments.judging import largest, place_of, smallest
from experiments.run import log_steps
from jaxmaml import plotting, statistics, theory
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.statistics import Interval
from jaxmaml.tasks import hf_blind, shared_curvature
from jaxmaml.theory.hf_maml import ETA, repaired
from jaxmaml.types import BatchSizes

ALPHA = 1.0
"""the inner rate that hf_blind is made for."""
INVERSE_LAMBDAS = {
    "smoke": (6, 20, 100),
    "default": (6, 10, 20, 40, 100, 300),
    "full": (6, 8, 10, 14, 20, 28, 40, 70, 100, 200, 300),
}
TASKS = {
    "smoke": (20, 100_000),
    "default": (20, 100, 1000, 10_000, 20_000, 40_000, 100_000),
    "full": (20, 100, 1000, 4000, 10_000, 20_000, 40_000, 100_000),
}
FAR_TASKS = {"smoke": (20, 100_000), "default": (20, 100_000), "full": (20, 1000, 100_000)}
FAR = -2.5
"""a start where every floor is below the gradient; from the other side the way to the root is slow."""
DRAWN = {"smoke": (20,), "default": (20, 10_000), "full": (20, 10_000, 40_000)}
"""B at which the library draws the tasks one by one."""
REFUTED = 10_000
"""from this B on the theorem is expected to fail here."""
SEEDS = {"smoke": 8, "default": 12, "full": 64}
DRAWN_SEEDS = 8
STEPS = {"smoke": 4000, "default": 6000, "full": 20_000}
EXACT_STEPS = {"smoke": 40_000, "default": 60_000, "full": 100_000}
METHODS = (("hf_maml", "theorem"), ("hf_maml", "repaired"), ("maml", "theorem"))

claim = Claim(
    "E21",
    "HF-MAML's bias at finite B and in the plane: where the theorem, as summarised, fails",
    place="HF-MAML theorem",
)


@claim.cells
def cells(scale):
    blind, plane = hf_blind.make(alpha=ALPHA), shared_curvature.make()
    rho, record = blind.constants().rho, log_steps(EXACT_STEPS[scale], per_decade=4)

    def labelled(name, rule, B, source, run, begin="far"):
        labels = {"family": name, "estimator": run.estimator, "rule": rule, "B": B, "source": source}
        labels["begin"] = begin
        return labels | {"alpha": run.alpha, "seed": run.seed}, run

    for estimator in ("hf_maml", "maml"):
        run = theorem_run(blind, estimator, ALPHA, np.array([blind.h / 10]), record=record)
        yield labelled("hf_blind", "theorem", np.inf, "exact", run)
    for inverse in INVERSE_LAMBDAS[scale]:
        alpha = 1 / (inverse * plane.constants().L)
        for estimator in ("hf_maml", "fo_maml"):
            run = theorem_run(plane, estimator, alpha, np.array([4.0, 3.0]), record=record)
            yield labelled("shared_curvature", "theorem", np.inf, "exact", run)

    # The root is where exact HF-MAML stops: from there it is no matter of how long the way is.
    starts = {"root": np.array([blind_root(blind, ALPHA)]), "far": np.array([FAR])}
    late = log_steps(STEPS[scale], per_decade=8, tail=200)
    few = {("hf_maml", "theorem"): FAR_TASKS[scale]}
    many = {method: [B for B in TASKS[scale] if B >= REFUTED] for method in METHODS[1:]}
    plan = {"root": {("hf_maml", "theorem"): TASKS[scale]}, "far": few | many}
    for begin, methods in plan.items():
        for (estimator, rule), sizes in methods.items():
            for B in sizes:
                eta = min(ETA, B**-0.5) if rule == "repaired" else ETA
                delta = {"delta": theorem_delta(rho, ALPHA, eta=eta)} if estimator == "hf_maml" else {}
                for seed in range(SEEDS[scale]):
                    about = {"record": late, "seed": seed, "arguments": delta}
                    run = theorem_run(blind, estimator, ALPHA, starts[begin], **about)
                    yield labelled("hf_blind", rule, B, "counted", counted(run, B), begin)
    for B in DRAWN[scale]:
        for seed in range(DRAWN_SEEDS):
            # Other draws than those of the counted runs.
            about = {"record": late, "seed": 1000 + seed, "sizes": BatchSizes(B=B)}
            run = theorem_run(blind, "hf_maml", ALPHA, starts["root"], **about)
            yield labelled("hf_blind", "theorem", B, "drawn", run, "root")


def predicted(family, estimator, alpha):
    """||grad F|| at the root of the direction, exact gradients."""
    if estimator != "hf_maml":
        return 0.0
    if family.dim == 1:
        return float(np.abs(family.grad_objective(np.array([blind_root(family, alpha)]), alpha))[0])
    arc = ETA / (family.constants().rho * alpha)
    limit = zero_near(lambda w: hf_direction(w, family.task_gradients, alpha, arc), np.zeros(2))
    return float(np.linalg.norm(family.grad_objective(limit, alpha)))


@claim.per("family", "estimator", "rule", "B", "source", "begin", "alpha")
def measured(part, cell):
    """A method's end or stationary mean, the least mean on the way, root, and floors."""
    constants, theorem = cell.family.constants(), theory.theorems()[cell.estimator]
    B, rule, source = part.B.iloc[0], part.rule.iloc[0], part.source.iloc[0]
    sizes = BatchSizes(B=None if np.isinf(B) else int(B))
    norms, directions = (
        part.pivot(index="step", columns="seed", values=name) for name in ("grad_norm", "direction_norm")
    )
    # A run is one point of its law: the second half of the steps, or the last.
    late = norms.index >= (norms.index[-1] / 2 if source != "exact" else norms.index[-1])
    final = statistics.interval(norms[late].to_numpy().mean(axis=0))
    # The least mean over all recorded steps is what the best stopping time could reach.
    means = norms.to_numpy().mean(axis=1)
    error = norms.to_numpy().std(axis=1, ddof=min(final.n - 1, 1)) / np.sqrt(final.n)
    # argmin takes nan first.
    j = int(np.argmin(means - 5 * error))
    chained = part.begin.iloc[0] == "root"
    mended = repaired(int(B)) if rule == "repaired" else theorem
    return {
        "alpha_L": cell.alpha * constants.L,
        "sigma": constants.sigma,
        "alpha_L_sigma": cell.alpha * constants.L * constants.sigma,
        "seeds": final.n,
        "start": means[0],
        "grad_norm": final.mean,
        "low": final.low,
        "high": final.high,
        "least": means[j],
        "least_error": error[j],
        "recorded": len(means),
        "chain": chain_mean(cell, int(B)) if chained else np.nan,
        "error": _error(norms[late]),
        "direction_norm": float(directions[late].to_numpy().mean()),
        "direction_error": _error(directions[late]),
        "predicted": predicted(cell.family, cell.estimator, cell.alpha),
        "floor_summary": theorem.floor_summary(constants, cell.alpha, sizes),
        "floor": mended.floor(constants, cell.alpha, sizes),
    }


def _error(late):
    """The standard error over seeds of the mean over the late steps; nan for one seed."""
    means = late.to_numpy().mean(axis=0)
    return float(means.std(ddof=1) / np.sqrt(means.size)) if means.size > 1 else np.nan


@claim.rows
def rows(table, row):
    exact, noisy = table[table.source == "exact"], table[table.source != "exact"]
    stated = noisy[(noisy.estimator == "hf_maml") & (noisy.rule == "theorem")]
    root, far = (stated[stated.begin == begin] for begin in ("root", "far"))
    for name in ("hf_blind", "shared_curvature"):
        part = exact[(exact.family == name) & (exact.estimator == "hf_maml")]
        ends = part.grad_norm / part.sigma
        yield counterexample(
            row,
            f"HF-MAML's accuracy on {name} with exact gradients",
            r"$E\|\nabla F\|\le6\sqrt{(1+\frac{\rho\alpha}L\sigma)S}$ with $S\to0$ as $B,D_o,D_{in}\to\infty$",
            # A run that came near a zero on the way is no counterexample.
            Interval(smallest(ends), smallest(part.least / part.sigma), largest(ends), len(part), "range"),
            largest(part.floor_summary / part.sigma) + ROUNDING,
            settled=settled(part),
            note="||grad F|| / sigma where it stops, least over rates; low is the least on the way, high the largest "
            f"over rates; {REPAIR}",
            source="as summarised",
        )
        yield row.within(
            f"HF-MAML's limit on {name} is the root of its direction",
            r"$\nabla F=\alpha E[t_i]$ where $E[(I-\alpha H_i)g_i-\alpha t_i]=0$",
            largest(np.abs(part.grad_norm / part.predicted - 1)),
            0.0,
            1e-6,
            also=settled(part),
            note="largest relative difference of ||grad F||",
        )
    others = exact[exact.estimator != "hf_maml"]
    yield row.within(
        "no floor of MAML on hf_blind, nor of FO-MAML on shared_curvature",
        "the same runs with the Hessian, or without it where the tasks share it, reach every accuracy",
        largest(others.grad_norm / others.alpha_L_sigma),
        0.0,
        ROUNDING,
        also=bool((others.start > ROUNDING * others.alpha_L_sigma).all()),
        note="||grad F|| / (alpha L sigma), zero up to rounding",
    )
    yield _counted_as_drawn(row, root)
    yield _within(
        row, "HF-MAML's accuracy on hf_blind at B = 20", far[far.B == 20], "hf_maml", "as summarised"
    )
    width = largest(row.z * root.error / root.chain)
    yield row.agrees(
        "HF-MAML's stationary mean on hf_blind is that of its Markov chain",
        r"$E\|\nabla F(w_k)\|$ of $w_{k+1}=w_k-\beta(w_k)(1-\alpha\mu)(\frac nBg_++(1-\frac nB)g_-)$, $n$ binomial",
        root.grad_norm,
        root.chain,
        root.error,
        also=width <= 0.25,
        note=f"law of w_k on a grid, B = {_list(root)}; intervals within {width:.2g} of the value; the chain's is "
        f"{smallest(root.chain / root.predicted):.4f} to {largest(root.chain / root.predicted):.4f} of the root's",
    )
    many = root[root.B >= REFUTED]
    # Each of the recorded steps could have been the least.
    row.compared += int(np.sum(many.recorded.to_numpy() - 1))
    yield counterexample(
        row,
        f"HF-MAML's accuracy on hf_blind at B >= {REFUTED} from the root",
        r"$E\|\nabla F\|\le6\sqrt{(1+\frac{\rho\alpha}L\sigma)\sigma^2/B}$ for every $B\ge20$",
        row.least(many.least, many.least_error, many.floor_summary),
        1.0,
        note="of runs that start at the root: least mean of all recorded steps over the floor, smallest over "
        f"B = {_list(many)}; the stationary mean is up to {largest(many.grad_norm / many.floor_summary):.3g} of it; "
        f"{REPAIR}",
        source="as summarised",
    )
    for name, estimator, rule, source in (
        ("HF-MAML with the repaired delta", "hf_maml", "repaired", "as summarised, with the derived repair"),
        ("MAML", "maml", "theorem", "as summarised"),
    ):
        part = noisy[(noisy.estimator == estimator) & (noisy.rule == rule)]
        yield _within(row, f"accuracy of {name} on hf_blind at B >= {REFUTED}", part, estimator, source)
    yield row.at_most(
        "HF-MAML's derived floor holds on hf_blind at every B",
        r"$E\|\nabla F\|\le\varepsilon(\infty)$, with $N\ge0.029\,\sigma^2$ whatever $B$",
        row.worst(far.grad_norm, far.error, far.floor),
        1.0,
        start=smallest(far.start / far.floor),
        note=f"largest ratio of the stationary mean, B = {_list(far)}",
    )


def _list(rows):
    return ", ".join(f"{B:g}" for B in sorted(set(rows.B)))


def _within(row, part, rows, estimator, source):
    """The stationary mean below the floor as summarised; the derived one is sharper."""
    unit = rows.floor_summary
    return row.at_most(
        part,
        r"$E\|\nabla F\|\le\sqrt{C(1+\frac{\rho\alpha}L\sigma)S}$, $C=36$ (HF-MAML), $61$ (MAML)",
        row.worst(rows.grad_norm, rows.error, unit),
        1.0,
        start=smallest(rows.start / unit),
        sharper=largest(rows.floor / unit),
        also=largest((rows.grad_norm + row.z * rows.error) / rows.floor) <= 1,
        note=f"largest ratio of the stationary mean, from far, B = {_list(rows)}",
        source=source,
        place=place_of(estimator),
    )


def _counted_as_drawn(row, stated):
    drawn, counts = (stated[stated.source == source] for source in ("drawn", "counted"))
    both = drawn.merge(counts, on="B", suffixes=("", "_counted"))
    names = (("grad_norm", "error"), ("direction_norm", "direction_error"))
    return row.agrees(
        "B tasks by a binomial count have the law of B drawn tasks",
        r"$G=\frac nBG_1+(1-\frac nB)G_2$, $n$ binomial",
        np.concatenate([both[name] for name, _ in names]),
        np.concatenate([both[f"{name}_counted"] for name, _ in names]),
        np.concatenate([np.hypot(both[error], both[f"{error}_counted"]) for _, error in names]),
        note=f"stationary means of ||grad F|| and ||G||, B = {_list(both)}",
    )


@claim.figure
def figure(table):
    """On this problem the gradient at which HF-MAML with the theorem's step settles does not fall with the number of tasks.

    From ten thousand tasks on it lies above the floor that the theorem states; MAML, and HF-MAML with a repaired step, fall.
    """
    drawing, axes = plotting.panels(2, height=3.0)
    noisy = table[table.source != "exact"].sort_values("B")
    stated = noisy[(noisy.estimator == "hf_maml") & (noisy.rule == "theorem")]
    root = stated[stated.begin == "root"]
    counts = root[root.source == "counted"]
    drawn = plotting.look("hf_maml", hollow=True) | {"markersize": 8, "zorder": 1}
    repaired = plotting.look("hf_maml") | {
        "fillstyle": "left",
        "markerfacecoloralt": "white",
        "markersize": 5,
    }
    for part, text, look in (
        (counts, "HF-MAML, theorem's step", plotting.look("hf_maml")),
        (root[root.source == "drawn"], "HF-MAML, the same, tasks drawn one by one", drawn),
        (noisy[noisy.rule == "repaired"], "HF-MAML, repaired step", repaired),
        (noisy[noisy.estimator == "maml"], "MAML", plotting.look("maml")),
    ):
        half = [(part.grad_norm - part.low) / part.sigma, (part.high - part.grad_norm) / part.sigma]
        dots = look | {"linestyle": "none", "capsize": 2}
        axes[0].errorbar(part.B, part.grad_norm / part.sigma, half, label=text, **dots)
    for column, kind, text in (
        ("floor_summary", "as summarised", "floor, as summarised"),
        ("floor", "derived", "floor, derived"),
        ("predicted", "exact", "root of the direction, exact"),
    ):
        look = plotting.theory(kind, named=kind == "as summarised")
        axes[0].loglog(counts.B, counts[column] / counts.sigma, **look, label=text)
    axes[0].set(title="one dimension, noisy", xlabel="tasks a step $B$ [1]")
    axes[0].set_ylabel(r"settled $E\|\nabla F\|\,/\,\sigma$ [1]")
    plane = table[table.family == "shared_curvature"].sort_values("alpha_L")
    one, fo = (plane[plane.estimator == e] for e in ("hf_maml", "fo_maml"))
    exact = plotting.theory("exact") | {"label": "root of the direction, exact"}
    axes[1].loglog(one.alpha_L, one.predicted / one.sigma, **exact)
    dots = plotting.look("hf_maml") | {"linestyle": "none", "label": "HF-MAML, theorem's step"}
    axes[1].loglog(one.alpha_L, one.grad_norm / one.sigma, **dots)
    axes[1].set_ylim(bottom=(one.grad_norm / one.sigma).min() / 10)
    most = largest(fo.grad_norm / fo.sigma)
    plotting.vanished(axes[1], fo.alpha_L, most, "FO-MAML", **plotting.look("fo_maml"))
    axes[1].set(title="a shared Hessian, two dimensions, all tasks", xlabel=r"$\alpha L$ [1]")
    axes[1].set_ylabel(r"$\|\nabla F\|\,/\,\sigma$ at the end [1]")
    return plotting.finish(
        drawing, "HF-MAML with the theorem's step: its bias does not fall with the tasks", columns=3
    )
