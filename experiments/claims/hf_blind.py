"""HF-MAML as summarised, at finite B and in the plane: where its bias exceeds the theorem's floor (E21).

As summarised, HF-MAML with delta = 1 / (6 rho alpha ||g_i||) reaches max{6 ((1 + rho alpha sigma/L) S)^(1/2), ...},
which vanishes as B grows. Two counterexamples (derived; docs/findings/hf-maml-bias.md):

  * hf_blind, d = 1: the arc 1/(6 rho alpha) is half a period of the Hessians, and the difference sees one
    Hessian, mu, for both tasks. Exact HF-MAML stops at a root that is known; with B i.i.d. tasks and exact
    gradients it stays above the floor from B = 10^4 on. At B = 20 the floor is far above it.
  * shared_curvature, d = 2: the tasks share their Hessian, FO-MAML has no floor, and HF-MAML has one.

The repair eta = min(1/6, 1/sqrt(B)) and MAML are within the floor at the same B. The direction of B i.i.d. tasks
out of two depends on how many of them are the first, a binomial number: the number of ones among B fair bits.
Large B are run that way, and compared with the library's own draws where those are affordable.
"""

import numpy as np

from experiments.cells import theorem_run
from experiments.claim import Claim
from experiments.claims._blind import blind_root, counted
from experiments.claims._floors import REPAIR, hf_direction, zero_near
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
DRAWN = {"smoke": (20,), "default": (20, 10_000), "full": (20, 10_000, 40_000)}
"""B at which the library draws the tasks one by one."""
REFUTED = 10_000
"""from this B on the theorem is expected to fail here."""
SEEDS = {"smoke": 8, "default": 16, "full": 64}
DRAWN_SEEDS = 8
STEPS = {"smoke": 2000, "default": 6000, "full": 20_000}
EXACT_STEPS = {"smoke": 40_000, "default": 60_000, "full": 100_000}
Z = 5.0
"""standard errors."""
ROUNDING = 1e-9
"""what counts as zero, in units of sigma."""
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

    def labelled(name, rule, B, source, run):
        labels = {"family": name, "estimator": run.estimator, "rule": rule, "B": B, "source": source}
        return labels | {"alpha": run.alpha, "seed": run.seed}, run

    for estimator in ("hf_maml", "maml"):
        run = theorem_run(blind, estimator, ALPHA, np.array([blind.h / 10]), record=record)
        yield labelled("hf_blind", "theorem", np.inf, "exact", run)
    for inverse in INVERSE_LAMBDAS[scale]:
        alpha = 1 / (inverse * plane.constants().L)
        for estimator in ("hf_maml", "fo_maml"):
            run = theorem_run(plane, estimator, alpha, np.array([4.0, 3.0]), record=record)
            yield labelled("shared_curvature", "theorem", np.inf, "exact", run)

    # Where exact HF-MAML stops: what follows is not a matter of how long the way there is.
    start = np.array([blind_root(blind, ALPHA)])
    late = log_steps(STEPS[scale], per_decade=8, tail=200)
    for estimator, rule in METHODS:
        stated = (estimator, rule) == METHODS[0]
        for B in (B for B in TASKS[scale] if stated or B >= REFUTED):
            eta = min(ETA, B**-0.5) if rule == "repaired" else ETA
            about = (
                {"arguments": {"delta": theorem_delta(rho, ALPHA, eta=eta)}} if estimator == "hf_maml" else {}
            )
            for seed in range(SEEDS[scale]):
                run = theorem_run(blind, estimator, ALPHA, start, record=late, seed=seed, **about)
                yield labelled("hf_blind", rule, B, "counted", counted(run, B))
    for B in DRAWN[scale]:
        for seed in range(DRAWN_SEEDS):
            # Other draws than those of the counted runs.
            about = {"record": late, "seed": 1000 + seed, "sizes": BatchSizes(B=B)}
            run = theorem_run(blind, "hf_maml", ALPHA, start, **about)
            yield labelled("hf_blind", "theorem", B, "drawn", run)


def predicted(family, estimator, alpha):
    """||grad F|| at the root of the direction, exact gradients."""
    if estimator != "hf_maml":
        return 0.0
    if family.dim == 1:
        return float(np.abs(family.grad_objective(np.array([blind_root(family, alpha)]), alpha))[0])
    arc = ETA / (family.constants().rho * alpha)
    limit = zero_near(lambda w: hf_direction(w, family.task_gradients, alpha, arc), np.zeros(2))
    return float(np.linalg.norm(family.grad_objective(limit, alpha)))


@claim.per("family", "estimator", "rule", "B", "source", "alpha")
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
    error = norms.to_numpy().std(axis=1, ddof=1 if final.n > 1 else 0) / np.sqrt(final.n)
    means = norms.to_numpy().mean(axis=1)
    mended = repaired(int(B)) if rule == "repaired" else theorem
    return {
        "alpha_L": cell.alpha * constants.L,
        "sigma": constants.sigma,
        "seeds": final.n,
        "grad_norm": final.mean,
        "low": final.low,
        "high": final.high,
        # The least mean over all recorded steps: what the best stopping time could reach.
        "least": smallest(means),
        "least_low": smallest(means - Z * error),
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
    settled = bool((exact.direction_norm <= ROUNDING * exact.sigma).all())
    summarised = {"source": "as summarised"}
    for name in ("hf_blind", "shared_curvature"):
        part = exact[(exact.family == name) & (exact.estimator == "hf_maml")]
        about = (
            f"HF-MAML's accuracy on {name} with exact gradients",
            r"$E\|\nabla F\|\le6\sqrt{(1+\frac{\rho\alpha}L\sigma)S}$ with $S\to0$ as $B,D_o,D_{in}\to\infty$",
        )
        ends, bound = part.grad_norm / part.sigma, largest(part.floor_summary / part.sigma) + ROUNDING
        measured = Interval(smallest(ends), smallest(part.least / part.sigma), largest(ends), 1)
        # A run that has not settled, or that came near a zero on the way, is no counterexample.
        if settled and (measured.low > bound or measured.high <= bound):
            note = "||grad F|| / sigma where it stops, least over rates; low is the least on the way, high the largest over rates; "
            yield row.at_most(*about, measured, bound, note=note + REPAIR, **summarised)
        else:
            yield row.untested(*about, "a run has not settled above the floor, nor below it", **summarised)
        yield row.within(
            f"HF-MAML's limit on {name} is the root of its direction",
            r"$\nabla F=\alpha E[t_i]$ where $E[(I-\alpha H_i)g_i-\alpha t_i]=0$",
            largest(np.abs(part.grad_norm / part.predicted - 1)),
            0.0,
            1e-6,
            also=settled,
            note="largest relative difference of ||grad F||",
        )
    others = exact[exact.estimator != "hf_maml"]
    yield row.within(
        "no floor of MAML on hf_blind, nor of FO-MAML on shared_curvature",
        "the same runs with the Hessian, or without it where the tasks share it, reach every accuracy",
        largest(others.grad_norm / others.sigma),
        0.0,
        1e-10,
        note="||grad F|| / sigma, zero up to rounding",
    )
    yield _counted_as_drawn(row, stated)
    yield _within(
        row, "HF-MAML's accuracy on hf_blind at B = 20", stated[stated.B == 20], "hf_maml", "as summarised"
    )
    yield _at_many(row, stated[stated.B >= REFUTED])
    for name, estimator, rule, source in (
        ("HF-MAML with the repaired delta", "hf_maml", "repaired", "as summarised, with the derived repair"),
        ("MAML", "maml", "theorem", "as summarised"),
    ):
        part = noisy[(noisy.estimator == estimator) & (noisy.rule == rule)]
        yield _within(row, f"accuracy of {name} on hf_blind at B >= {REFUTED}", part, estimator, source)
    yield row.at_most(
        "HF-MAML's derived floor holds on hf_blind at every B",
        r"$E\|\nabla F\|\le\varepsilon(\infty)$, with $N\ge0.029\,\sigma^2$ whatever $B$",
        largest(stated.high / stated.floor),
        1.0,
        note="largest ratio of the stationary mean",
    )


def _within(row, part, rows, estimator, source):
    """The stationary mean below the floor as summarised, and the derived one."""
    tight = smallest(rows.floor / rows.high)
    mean, low, high = (largest(rows[name] / rows.floor_summary) for name in ("grad_norm", "low", "high"))
    return row.at_most(
        part,
        r"$E\|\nabla F\|\le\sqrt{C(1+\frac{\rho\alpha}L\sigma)S}$, $C=36$ (HF-MAML), $61$ (MAML)",
        Interval(mean, low, high, int(rows.seeds.min())),
        1.0,
        also=tight >= 1,
        note=f"stationary mean over the floor; the derived floor has slack {tight:.3g}",
        source=source,
        place=place_of(estimator),
    )


def _at_many(row, rows):
    about = (
        f"HF-MAML's accuracy on hf_blind at B >= {REFUTED}",
        r"$E\|\nabla F\|\le6\sqrt{(1+\frac{\rho\alpha}L\sigma)\sigma^2/B}$ for every $B\ge20$",
    )
    mean, low, high = (rows[name] / rows.floor_summary for name in ("least", "least_low", "high"))
    if not (smallest(low) > 1 or largest(high) <= 1):
        told = f"between {smallest(low):.3g} and {largest(high):.3g} of the floor"
        return row.untested(*about, told, source="as summarised")
    pick = smallest if smallest(low) > 1 else largest
    return row.at_most(
        *about,
        Interval(pick(mean), pick(low), largest(high), int(rows.seeds.min())),
        1.0,
        note="least mean of all recorded steps over the floor, smallest over "
        f"B = {', '.join(f'{B:g}' for B in sorted(set(rows.B)))}; low is {Z:g} standard errors below it, "
        f"high the ratio at the largest B; {REPAIR}",
        source="as summarised",
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
        note=f"stationary means of ||grad F|| and ||G||, B = {', '.join(f'{B:g}' for B in both.B)}",
    )


@claim.figure
def figure(table):
    drawing, axes = plotting.panels(2)
    hf = plotting.color("hf_maml")
    noisy = table[table.source != "exact"].sort_values("B")
    stated = noisy[(noisy.estimator == "hf_maml") & (noisy.rule == "theorem")]
    counted = stated[stated.source == "counted"]
    for part, text, look in (
        (counted, r"HF-MAML, theorem's $\delta$", {"marker": "^", "color": hf}),
        (
            stated[stated.source == "drawn"],
            "HF-MAML, tasks drawn by the library",
            {"marker": "s", "color": plotting.OTHER[3], "markerfacecolor": "none", "markersize": 7},
        ),
        (
            noisy[noisy.rule == "repaired"],
            r"HF-MAML, repaired $\delta$",
            {"marker": "v", "color": hf, "markerfacecolor": "none"},
        ),
        (
            noisy[noisy.estimator == "maml"],
            "MAML",
            {"marker": plotting.MARKERS["maml"], "color": plotting.color("maml")},
        ),
    ):
        half = [(part.grad_norm - part.low) / part.sigma, (part.high - part.grad_norm) / part.sigma]
        axes[0].errorbar(
            part.B, part.grad_norm / part.sigma, half, label=text, capsize=2, linestyle="none", **look
        )
    axes[0].loglog(
        counted.B, counted.floor_summary / counted.sigma, ":", color="k", label="HF theorem, as summarised"
    )
    axes[0].loglog(
        counted.B, counted.floor / counted.sigma, "--", color="k", label="HF-MAML's floor, derived"
    )
    axes[0].loglog(
        counted.B, counted.predicted / counted.sigma, "-.", color="0.4", label="root of the direction, exact"
    )
    axes[0].set_xlabel("tasks $B$ [1]")
    axes[0].set_ylabel(r"$E\|\nabla F\|\,/\,\sigma$, stationary [1]")
    axes[0].set_title("hf_blind, $d=1$")
    plane = table[table.family == "shared_curvature"].sort_values("alpha_L")
    one, fo = (plane[plane.estimator == e] for e in ("hf_maml", "fo_maml"))
    axes[1].loglog(one.alpha_L, one.predicted / one.sigma, "-.", color="0.4")
    axes[1].loglog(one.alpha_L, one.grad_norm / one.sigma, "^", color=hf)
    axes[1].set_ylim(bottom=(one.grad_norm / one.sigma).min() / 10)
    plotting.vanished(
        axes[1],
        fo.alpha_L,
        (fo.grad_norm / fo.sigma).max(),
        "FO-MAML",
        marker=plotting.MARKERS["fo_maml"],
        color=plotting.color("fo_maml"),
    )
    axes[1].set_xlabel(r"$\alpha L$ [1]")
    axes[1].set_ylabel(r"$\|\nabla F\|\,/\,\sigma$ at the end [1]")
    axes[1].set_title("shared_curvature, $d=2$, $B=\\infty$")
    return plotting.finish(
        drawing, "HF-MAML with the theorem's step: its bias does not fall with B", columns=2
    )
