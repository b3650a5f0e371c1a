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

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cells, theorem_run
from experiments.judging import at_most, largest, place_of, smallest, untested
from experiments.results import LedgerRow, Place
from experiments.run import Run, Step, log_steps, step_norms
from jaxmaml import _random, objective, plotting, statistics, theory
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.statistics import Interval
from jaxmaml.tasks import hf_blind, shared_curvature
from jaxmaml.tasks.cosine import first_zero
from jaxmaml.tasks.hf_blind import HfBlind
from jaxmaml.tasks.shared_curvature import SharedCurvature
from jaxmaml.theory.hf_maml import ETA, repaired
from jaxmaml.types import BatchSizes, Family, Scalar

TITLE = "HF-MAML's bias at finite B and in the plane: where the theorem, as summarised, fails"
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
WORDS = -(-100_000 // 32)
SEEDS = {"smoke": 8, "default": 16, "full": 64}
DRAWN_SEEDS = 8
STEPS = {"smoke": 2000, "default": 6000, "full": 20_000}
EXACT_STEPS = {"smoke": 40_000, "default": 60_000, "full": 100_000}
Z = 5.0
"""standard errors."""
ROUNDING = 1e-9
"""what counts as zero, in units of sigma."""
REPAIR = "repair: delta = min(1/6, 1/sqrt(B)) / (rho alpha ||g||)"


def ones(key: jax.Array, count: Scalar) -> jax.Array:
    """The number of ones among `count` <= 32 WORDS fair bits: binomial with p = 1/2, exactly."""
    used = jnp.clip(count - 32 * jnp.arange(WORDS), 0, 32).astype(jnp.uint32)
    # A shift by all 32 bits is not defined.
    mask = jnp.where(used > 0, jnp.uint32(2**32 - 1) >> jnp.minimum(32 - used, 31), jnp.uint32(0))
    return jnp.sum(jax.lax.population_count(_random.bits(key, WORDS) & mask).astype(int))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Counted(Run):
    """A run on two tasks whose direction has the law of `tasks` i.i.d. ones; exact gradients and step."""

    tasks: Scalar = 20.0

    def step(self, key: jax.Array, w: jax.Array) -> Step:
        episodes = objective.full_episodes(self.family)
        alone = [jax.tree.map(lambda x, i=i: x[i : i + 1], episodes) for i in range(2)]
        share = ones(key, self.tasks) / self.tasks
        first, second = (self.direction(w, episode) for episode in alone)
        direction = share * first + (1 - share) * second
        new, used = self.move(w, direction, step_norms(self.family, w, episodes.inner))
        return Step(new, direction, used)


def _eta(rule: str, B: float) -> float:
    return min(ETA, B**-0.5) if rule == "repaired" else ETA


def grid(scale: str) -> Cells:
    blind, plane = hf_blind.make(alpha=ALPHA), shared_curvature.make()
    constants = blind.constants()
    record = log_steps(EXACT_STEPS[scale], per_decade=4)
    cells: Cells = []

    def add(run: Run, name: str, rule: str, B: float, source: str, alpha: float) -> None:
        labels = {"family": name, "estimator": run.estimator, "rule": rule, "B": B, "source": source}
        cells.append((labels | {"alpha": alpha, "seed": run.seed}, run))

    for estimator in ("hf_maml", "maml"):
        run = theorem_run(blind, estimator, ALPHA, np.array([blind.h / 10]), record=record)
        add(run, "hf_blind", "theorem", np.inf, "exact", ALPHA)
    for inverse in INVERSE_LAMBDAS[scale]:
        alpha = 1 / (inverse * plane.constants().L)
        for estimator in ("hf_maml", "fo_maml"):
            run = theorem_run(plane, estimator, alpha, np.array([4.0, 3.0]), record=record)
            add(run, "shared_curvature", "theorem", np.inf, "exact", alpha)

    # Where exact HF-MAML stops: what follows is not a matter of how long the way there is.
    start = np.array([_blind_root(blind)])
    late = log_steps(STEPS[scale], per_decade=8, tail=200)
    for estimator, rule in (("hf_maml", "theorem"), ("hf_maml", "repaired"), ("maml", "theorem")):
        stated = estimator == "hf_maml" and rule == "theorem"
        for B in (B for B in TASKS[scale] if stated or B >= REFUTED):
            delta = theorem_delta(constants.rho, ALPHA, eta=_eta(rule, B))
            for seed in range(SEEDS[scale]):
                run = theorem_run(
                    blind,
                    estimator,
                    ALPHA,
                    start,
                    record=late,
                    seed=seed,
                    arguments={"delta": delta} if estimator == "hf_maml" else {},
                )
                fields = {f: getattr(run, f) for f in run.__dataclass_fields__}
                add(_Counted(**fields, tasks=float(B)), "hf_blind", rule, B, "counted", ALPHA)
    for B in DRAWN[scale]:
        for seed in range(DRAWN_SEEDS):
            # Other draws than those of the counted runs.
            run = theorem_run(
                blind, "hf_maml", ALPHA, start, record=late, seed=1000 + seed, sizes=BatchSizes(B=B)
            )
            add(run, "hf_blind", "theorem", B, "drawn", ALPHA)
    return cells


def _blind_root(family: HfBlind) -> float:
    """Where exact HF-MAML with the theorem's delta stops: E_s g_s = 0, for the secant is mu."""

    def direction(w: np.ndarray) -> np.ndarray:
        return np.mean(family.adapted_gradients(w, ALPHA), axis=0)

    return first_zero(direction, float(family.h) / 10, 1e-3)


def _plane_direction(w: np.ndarray, family: SharedCurvature, alpha: float) -> np.ndarray:
    """HF-MAML's direction with the theorem's delta, exact gradients, all tasks."""
    g = family.task_gradients(w - alpha * family.task_gradients(w))
    norms = np.linalg.norm(g, axis=1, keepdims=True)
    arc = ETA / (family.constants().rho * alpha)
    ahead, behind = (family.task_gradients(w + sign * arc * g / norms) for sign in (1, -1))
    return np.mean(g - alpha * norms * (ahead - behind) / (2 * arc), axis=0)


def predicted(family: str, estimator: str, alpha: float) -> float:
    """||grad F|| at the root of the direction, exact gradients."""
    if estimator != "hf_maml":
        return 0.0
    if family == "hf_blind":
        blind = hf_blind.make(alpha=ALPHA)
        return float(np.abs(blind.grad_objective(np.array([_blind_root(blind)]), ALPHA))[0])
    import scipy.optimize

    plane = shared_curvature.make()
    found = scipy.optimize.root(_plane_direction, np.zeros(2), args=(plane, alpha), tol=1e-13)
    return float(np.linalg.norm(plane.grad_objective(found.x, alpha))) if found.success else np.nan


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """One row a method: its end or stationary mean, the least mean on the way, root, and floors."""
    del scale
    made: dict[str, Family] = {
        "hf_blind": hf_blind.make(alpha=ALPHA),
        "shared_curvature": shared_curvature.make(),
    }
    keys = ["family", "estimator", "rule", "B", "source", "alpha"]
    table = []
    for (family, estimator, rule, B, source, alpha), part in rows.groupby(keys, sort=False):
        constants = made[family].constants()
        theorem = theory.theorems()[estimator]
        sizes = BatchSizes(B=None if np.isinf(B) else int(B))
        about = dict(zip(keys, (family, estimator, rule, B, source, alpha), strict=True))
        norms = part.pivot(index="step", columns="seed", values="grad_norm")
        directions = part.pivot(index="step", columns="seed", values="direction_norm")
        # A run is one point of its law: the second half of the steps, or the last.
        late = norms.index >= (norms.index[-1] / 2 if source != "exact" else norms.index[-1])
        final = statistics.interval(norms[late].to_numpy().mean(axis=0))
        direction = float(directions[late].to_numpy().mean())
        error = norms.to_numpy().std(axis=1, ddof=1 if final.n > 1 else 0) / np.sqrt(final.n)
        means = norms.to_numpy().mean(axis=1)
        mended = repaired(int(B)) if rule == "repaired" else theorem
        table.append(
            about
            | {
                "alpha_L": alpha * constants.L,
                "sigma": constants.sigma,
                "seeds": final.n,
                "grad_norm": final.mean,
                "low": final.low,
                "high": final.high,
                # The least mean over all recorded steps: what the best stopping time could reach.
                "least": smallest(means),
                "least_low": smallest(means - Z * error),
                "error": _error(norms[late]),
                "direction_norm": direction,
                "direction_error": _error(directions[late]),
                "predicted": predicted(family, estimator, alpha),
                "floor_summary": theorem.floor_summary(constants, alpha, sizes),
                "floor": mended.floor(constants, alpha, sizes),
            }
        )
    return pd.DataFrame(table)


def _error(late: pd.DataFrame) -> float:
    """The standard error over seeds of the mean over the late steps; nan for one seed."""
    means = late.to_numpy().mean(axis=0)
    return float(means.std(ddof=1) / np.sqrt(means.size)) if means.size > 1 else np.nan


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    place: Place = place_of("hf_maml")
    exact = table[table.source == "exact"]
    noisy = table[table.source != "exact"]
    stated = noisy[(noisy.estimator == "hf_maml") & (noisy.rule == "theorem")]
    settled = bool((exact.direction_norm <= ROUNDING * exact.sigma).all())
    rows = []
    for name in ("hf_blind", "shared_curvature"):
        part = exact[(exact.family == name) & (exact.estimator == "hf_maml")]
        about = (
            "E21",
            f"HF-MAML's accuracy on {name} with exact gradients",
            r"$E\|\nabla F\|\le6\sqrt{(1+\frac{\rho\alpha}L\sigma)S}$ with $S\to0$ as $B,D_o,D_{in}\to\infty$",
            place,
            "as summarised",
        )
        ends, bound = part.grad_norm / part.sigma, largest(part.floor_summary / part.sigma) + ROUNDING
        measured = Interval(smallest(ends), smallest(part.least / part.sigma), largest(ends), 1)
        rows.append(
            at_most(
                *about,
                measured,
                bound,
                note="||grad F|| / sigma where it stops, least over rates; low is the least on the way, "
                f"high the largest over rates; {REPAIR}",
            )
            # A run that has not settled, or that came near a zero on the way, is no counterexample.
            if settled and (measured.low > bound or measured.high <= bound)
            else untested(*about, "a run has not settled above the floor, nor below it")
        )
        rows.append(
            at_most(
                "E21",
                f"HF-MAML's limit on {name} is the root of its direction",
                r"$\nabla F=\alpha E[t_i]$ where $E[(I-\alpha H_i)g_i-\alpha t_i]=0$",
                place,
                "derived",
                largest(np.abs(part.grad_norm / part.predicted - 1)),
                1e-6,
                also=settled,
                note="largest relative difference of ||grad F||",
            )
        )
    others = exact[exact.estimator != "hf_maml"]
    rows.append(
        at_most(
            "E21",
            "no floor of MAML on hf_blind, nor of FO-MAML on shared_curvature",
            "the same runs with the Hessian, or without it where the tasks share it, reach every accuracy",
            place,
            "derived",
            largest(others.grad_norm / others.sigma),
            1e-10,
            note="||grad F|| / sigma, zero up to rounding",
        )
    )
    rows.append(_counted_as_drawn(stated, place))
    few = stated[stated.B == 20]
    rows.append(_within("HF-MAML's accuracy on hf_blind at B = 20", few, place, "as summarised"))
    rows.append(_at_many(stated[stated.B >= REFUTED], place))
    for name, estimator, rule, source in (
        ("HF-MAML with the repaired delta", "hf_maml", "repaired", "as summarised, with the derived repair"),
        ("MAML", "maml", "theorem", "as summarised"),
    ):
        part = noisy[(noisy.estimator == estimator) & (noisy.rule == rule)]
        title = f"accuracy of {name} on hf_blind at B >= {REFUTED}"
        rows.append(_within(title, part, place_of(estimator), source))
    rows.append(
        at_most(
            "E21",
            "HF-MAML's derived floor holds on hf_blind at every B",
            r"$E\|\nabla F\|\le\varepsilon(\infty)$, with $N\ge0.029\,\sigma^2$ whatever $B$",
            place,
            "derived",
            largest(stated.high / stated.floor),
            1.0,
            note="largest ratio of the stationary mean",
        )
    )
    return rows


def _within(part: str, rows: pd.DataFrame, place: Place, source: str) -> LedgerRow:
    """The stationary mean below the floor as summarised, and the derived one."""
    tight = smallest(rows.floor / rows.high)
    mean, low, high = (largest(rows[name] / rows.floor_summary) for name in ("grad_norm", "low", "high"))
    return at_most(
        "E21",
        part,
        r"$E\|\nabla F\|\le\sqrt{C(1+\frac{\rho\alpha}L\sigma)S}$, $C=36$ (HF-MAML), $61$ (MAML)",
        place,
        source,
        Interval(mean, low, high, int(rows.seeds.min())),
        1.0,
        also=tight >= 1,
        sharp=False,
        note=f"stationary mean over the floor; the derived floor has slack {tight:.3g}",
    )


def _at_many(rows: pd.DataFrame, place: Place) -> LedgerRow:
    about = (
        "E21",
        f"HF-MAML's accuracy on hf_blind at B >= {REFUTED}",
        r"$E\|\nabla F\|\le6\sqrt{(1+\frac{\rho\alpha}L\sigma)\sigma^2/B}$ for every $B\ge20$",
        place,
        "as summarised",
    )
    mean, low, high = (rows[name] / rows.floor_summary for name in ("least", "least_low", "high"))
    if smallest(low) > 1:
        measured = Interval(smallest(mean), smallest(low), largest(high), int(rows.seeds.min()))
    elif largest(high) <= 1:
        measured = Interval(largest(mean), largest(low), largest(high), int(rows.seeds.min()))
    else:
        return untested(*about, f"between {smallest(low):.3g} and {largest(high):.3g} of the floor")
    return at_most(
        *about,
        measured,
        1.0,
        note="least mean of all recorded steps over the floor, smallest over "
        f"B = {', '.join(f'{B:g}' for B in sorted(set(rows.B)))}; low is {Z:g} standard errors below it, "
        f"high the ratio at the largest B; {REPAIR}",
    )


def _counted_as_drawn(stated: pd.DataFrame, place: Place) -> LedgerRow:
    drawn, counted = (stated[stated.source == source] for source in ("drawn", "counted"))
    both = drawn.merge(counted, on="B", suffixes=("", "_counted"))
    scores = [
        (both[name] - both[f"{name}_counted"]).abs() / np.hypot(both[error], both[f"{error}_counted"])
        for name, error in (("grad_norm", "error"), ("direction_norm", "direction_error"))
    ]
    return at_most(
        "E21",
        "B tasks by a binomial count have the law of B drawn tasks",
        r"$G=\frac nBG_1+(1-\frac nB)G_2$, $n$ binomial",
        place,
        "derived",
        largest(np.concatenate(scores)),
        Z,
        note="stationary means of ||grad F|| and ||G||: largest difference in standard errors, "
        f"B = {', '.join(f'{B:g}' for B in both.B)}",
    )


def figure(table: pd.DataFrame) -> Figure:
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
