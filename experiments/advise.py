"""Advice on alpha, delta, batches and the estimator, from what is measured on a problem.

    1. L, rho, sigma, sigma_tilde, sigma_h                   jaxmaml.constants
    2. what the theorems ask for and promise with them       advice.bounds
    3. how far the estimators differ, at w0 and further on   advice.differences
    4. what a step of each costs                             advice.differences
    5. what follows                                          advice.rules

docs/advise.md says how to read it.
"""

import dataclasses
import json
import math
import pathlib
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from experiments.advice import bounds, differences, rules, target
from experiments.advice.bounds import AFFORDABLE, Plan, Promise
from experiments.advice.differences import Cost, Point
from experiments.advice.rules import FLOAT, Recommendation, number
from experiments.advice.target import Options
from jaxmaml import constants, float_optimal_delta, results
from jaxmaml.constants import UNITS, MeasuredConstants
from jaxmaml.results import Interval
from jaxmaml.theory import drift, theorems
from jaxmaml.types import BatchSizes

WIDTH = 100


@dataclass(frozen=True)
class Advice:
    """Everything that is printed, and nothing else."""

    target: str
    dtype: str
    alpha: float
    sizes: dict[str, int]
    """tasks, D_in, D_h, D_o."""
    epsilon: float
    epsilon_asked: bool
    gap: float | None
    """Delta, or what bounds it; None: unknown, and the promises are for a Delta of 1."""
    gap_asked: bool
    constants: MeasuredConstants
    promises: tuple[Promise, ...]
    arcs: dict[str, float]
    """||delta v|| of each rule, at alpha."""
    points: tuple[Point, ...]
    costs: dict[str, Cost]
    recommendation: Recommendation


def advise(options: Options, say: Callable[[str], None] = lambda stage: None) -> Advice:
    """Measures and judges; `say` is told of each stage.

    Raises:
      ValueError: bad options or a bad target (`advice.target`), a loss that is linear in the parameters, derivatives
        that are not finite, no gradient at w0 and no --epsilon.
    """
    target.check(options)
    say("reading the problem")
    about = target.resolve(options)
    problem = about.problem
    for_constants, for_points, for_walk, for_costs = jax.random.split(jax.random.key(options.seed), 4)
    say("measuring L, rho, sigma, sigma_tilde and sigma_h")
    measured = constants.measure(problem, key=for_constants, task_chunk=about.task_chunk)
    found = measured.constants()
    if found.L == 0:
        raise ValueError("L = 0: the loss is linear in the parameters at every point; allowed: a curved loss")
    alpha = about.alpha or min(t.alpha_max(found.L) for t in theorems().values())

    say("compiling the estimators")
    dtype = jnp.result_type(*jax.tree.leaves(problem.params))
    arcs = {FLOAT: float(float_optimal_delta(dtype).arc)}
    if found.rho > 0:
        repaired = min(1 / 6, 1 / math.sqrt(about.sizes["tasks"]))
        arcs |= {"theorem": 1 / 6 / (found.rho * alpha), "repaired": repaired / (found.rho * alpha)}
    lab = differences.lab(problem, about.sizes, alpha, arcs, about.task_chunk)
    say(f"drawing {options.steps} steps of {about.sizes['tasks']} tasks")
    points = [differences.look(lab, "w0", problem.params, options.steps, for_points)]
    if options.walk:
        say(f"walking {options.walk} steps")
        there = differences.walk(lab, problem.params, options.walk, found.L, found.rho, for_walk)
        where = f"{options.walk} steps further"
        points.append(differences.look(lab, where, there, options.steps, for_points))
    say("timing")
    costs = differences.costs(lab, problem.params, for_costs)

    start = points[0]
    epsilon = options.epsilon or start.grad_norm / 10
    if epsilon == 0:
        raise ValueError("grad F(w0) = 0: there is nothing to reach; allowed: with --epsilon")
    gap = options.gap or (start.F if start.least_loss >= 0 and start.F > 0 else None)
    sizes = about.sizes
    in_force = BatchSizes(sizes["tasks"], float(sizes["D_in"]), float(sizes["D_o"]), float(sizes["D_h"]))
    promises = bounds.promises(found, alpha, epsilon, gap or 1.0, start.task_norm, in_force)
    recommendation = rules.recommend(
        points[-1],
        costs,
        promises,
        alpha=alpha,
        L=found.L,
        tasks=sizes["tasks"],
        epsilon=options.epsilon,
        gap_known=gap is not None,
    )
    return Advice(
        about.what,
        str(dtype),
        alpha,
        sizes,
        epsilon,
        options.epsilon is not None,
        gap,
        options.gap is not None,
        measured,
        tuple(promises),
        arcs,
        tuple(points),
        costs,
        recommendation,
    )


def write(advice: Advice, path: str) -> None:
    """The advice as JSON; numbers that are not finite become null."""
    text = json.dumps(_plain(dataclasses.asdict(advice)), indent=1, allow_nan=False)
    results.write_atomically(pathlib.Path(path), (text + "\n").encode())


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    return x


# Text


def text(advice: Advice) -> str:
    """At most 100 columns."""
    parts = (_head, _constants, _theory, *map(_differences, advice.points), _costs, _advice)
    return "\n".join(line.rstrip() for part in parts for line in part(advice))


def _head(advice: Advice) -> Iterator[str]:
    s = advice.sizes
    yield from _wrapped(f"Advice for {advice.target}, {advice.dtype}")
    yield (
        f"in force: alpha = {number(advice.alpha)}, B = {s['tasks']} tasks, "
        f"D_in = {s['D_in']}, D_h = {s['D_h']}, D_o = {s['D_o']} samples"
    )


def _constants(advice: Advice) -> Iterator[str]:
    yield ""
    yield f"1. Constants, the largest at {advice.constants.points} points: lower estimates"
    yield ""
    yield f"   {'':12}{'value':>9}   {'interval':19}{'unit':9}"
    for name, unit in UNITS.items():
        e = getattr(advice.constants, name)
        interval = f"[{number(e.low)}, {number(e.high)}]"
        start = f"   {name:12}{number(e.value):>9}   {interval:19}{unit:9}"
        kind = "" if e.kind == "lower estimate" else f"{e.kind}: "
        yield from _wrapped(f"{kind}{e.how}", start, " " * len(start))
    w0 = advice.points[0]
    yield ""
    yield (
        f"   at w0: f = {number(w0.f)}, F = {number(w0.F)}, |grad F| = {number(w0.grad_norm)}, "
        f"E|grad f_i| = {number(w0.task_norm)}, E|v| = {number(w0.adapted_norm)}"
    )


def _theory(advice: Advice) -> Iterator[str]:
    target = "asked for" if advice.epsilon_asked else "a tenth of |grad F(w0)|"
    if advice.gap_asked:
        gap = f"Delta = {number(advice.gap or 0)}, asked for"
    elif advice.gap is not None:
        gap = f"Delta at most F(w0) = {number(advice.gap)}, as no loss that was seen is negative"
    else:
        gap = "Delta unknown, as the loss may be negative: iterations are for Delta = 1 (--gap gives it)"
    w0 = advice.points[0]
    s = advice.sizes
    yield ""
    yield "2. What the theorems ask for and promise with these constants (the truth is no better)"
    yield from _wrapped(f"epsilon = {number(advice.epsilon)}, {target}; {gap}", "   ")
    yield ""

    def row(label: str, value: Callable[[Promise], str]) -> str:
        return f"   {label:37}" + "".join(f"{value(p):>15}" for p in advice.promises)

    def floor(value: float | None) -> str:
        return "" if value is None else number(value)

    def arc(p: Promise) -> str:
        return "" if p.arc is None else "any" if math.isinf(p.arc) else number(p.arc)

    yield row("", lambda p: p.name if len(p.name) < 15 else p.name.split(", ")[1])
    yield row("alpha at most, derived", lambda p: number(p.alpha_max))
    yield row("alpha at most, as summarised", lambda p: number(p.alpha_max_summary))
    yield row("alpha below: the first, or in force", lambda p: number(p.alpha))
    yield row("c", lambda p: f"1/{round(1 / p.c)}")
    yield row("outer step c / L(w0)", lambda p: number(p.step))
    yield row("|delta v|", arc)
    yield row("delta at |v| of w0", lambda p: "" if p.arc is None else _delta(p.arc, w0.adapted_norm))
    yield row("least B", lambda p: number(drift.LEAST_TASKS))
    yield row("least D_h", lambda p: number(p.D_h))
    yield row("least B', D_beta of L~", lambda p: f"{number(p.B_prime)}, {number(p.D_beta)}")
    yield f"   with the batches in force (B = {s['tasks']}, ...)"
    yield row("  conditions violated", lambda p: ", ".join(p.violated) or "none")
    yield row("  floor, derived", lambda p: floor(p.floor))
    yield row("  floor, as summarised", lambda p: floor(p.floor_summary))
    yield row("floor, derived, all tasks and samples", lambda p: floor(p.least_floor))
    for title, which in (
        ("as summarised, smallest a step", "summarised"),
        ("derived, cheapest in all", "derived"),
    ):
        yield f"   batches for epsilon, {title}"
        for name in ("B", "D_in", "D_o", "D_h", "iterations", "evaluations"):
            summarised = which == "summarised" and name in ("iterations", "evaluations")
            label = f"  {name}" + (" / O(1)" if summarised else "")
            yield row(label, lambda p, name=name, which=which: _entry(getattr(p, which), name, which, p))
    yield ""
    yield from _wrapped(
        "An evaluation is the gradient of one sample; a product with a Hessian counts as two.", "   "
    )
    yield from _hopeless(advice)


def _delta(arc: float, norm: float) -> str:
    return "any" if math.isinf(arc) or norm == 0 else number(arc / norm)


def _entry(plan: Plan | None, name: str, which: str, promise: Promise) -> str:
    if plan is None:
        return "" if which == "summarised" and promise.name not in theorems() else "none does"
    return number(getattr(plan, name))


def _hopeless(advice: Advice) -> Iterator[str]:
    """Where a promise is of no use, and by what factor."""
    norm, step = advice.points[0].grad_norm, advice.costs["maml"].seconds
    s = advice.sizes
    rate = s["tasks"] * (s["D_in"] + s["D_o"] + 2 * s["D_h"]) / step
    for p in advice.promises:
        said = []
        if advice.alpha > p.alpha_max * (1 + 1e-12):
            said.append(f"alpha in force is {number(advice.alpha / p.alpha_max)} times the largest derived")
        worst = max(p.floor, p.floor_summary or 0)
        if worst >= norm > 0:
            said.append(
                f"with the batches in force the floor is up to {number(worst / norm)} times the present gradient "
                "norm: nothing is promised"
            )
        if p.derived is None:
            said.append(
                f"no batches reach epsilon: the floor with all tasks and samples is "
                f"{number(p.least_floor / advice.epsilon)} times epsilon"
            )
        elif advice.gap is not None and p.derived.evaluations > AFFORDABLE:
            years = p.derived.evaluations / rate / (365.25 * 24 * 3600)
            said.append(
                f"out of reach by a factor of {number(p.derived.evaluations / AFFORDABLE)} (of "
                f"{number(AFFORDABLE)} evaluations; {number(years)} years at the speed measured here)"
            )
        if said:
            yield from _wrapped("; ".join(said) + ".", f"   {p.name}: ", "     ")


def _differences(point: Point) -> Callable[[Advice], Iterator[str]]:
    def lines(advice: Advice) -> Iterator[str]:
        unit = point.grad_norm or 1.0
        name = "|grad F|" if point.grad_norm else "phi/u, as grad F is 0"
        yield ""
        yield from _wrapped(
            f"3. How far the estimators differ at {point.where}, where |grad F| = {number(point.grad_norm)}, "
            f"F = {number(point.F)}; {point.steps} steps of {advice.sizes['tasks']} tasks, 95 % intervals"
        )
        yield ""
        yield f"   {'':18}{'bias':>8}{'interval':>20}{'all':>9}{'noise':>8}{'distance':>18}{'cosine':>16}"

        def bias(name: str, x: Interval, every: float) -> str:
            low, high = (_short(y / unit) for y in (x.low, x.high))
            return f"   {name:18}{_short(x.mean / unit):>8}{f'[{low}, {high}]':>20}{_short(every / unit):>9}"

        for d in point.differences:
            half = [(x.high - x.low) / 2 for x in (d.distance, d.cosine)]
            distance = f"{_short(d.distance.mean)} ± {_short(half[0])}"
            yield (
                bias(d.name, d.bias, d.exact_bias)
                + f"{_short(d.noise.mean / unit):>8}{distance:>18}{d.cosine.mean:9.4f} ± {half[1]:.4f}"
            )
        yield bias("what stops fo_maml", point.stall, point.exact_stall)
        yield ""
        yield from _wrapped(
            f"In units of {name}: the bias of the mean direction, from maml's on the same draws (maml's own: from grad F); "
            "all: the same with all tasks and samples; noise: standard deviation of a step; what stops fo_maml: alpha "
            "|Cov(H_i, v_i)|, the part of its bias that stays where its direction vanishes. Numbers: distance, "
            "|G - G_maml| / |G_maml| of a step, and cosine between the two.",
            "   ",
        )
        share = f"the inner step lowers the loss on D_o of {point.helped:.0%} of the drawn tasks"
        yield from _wrapped(
            f"With all samples it takes f = {number(point.f)} to F = {number(point.F)}; {share}.", "   "
        )

    return lines


def _costs(advice: Advice) -> Iterator[str]:
    yield ""
    yield "4. Cost of a step: time over that of fo_maml, median of alternating repetitions; temporaries"
    yield ""
    base = advice.costs["fo_maml"].memory
    for name, cost in sorted(advice.costs.items(), key=lambda item: item[1].time):
        memory = "" if cost.memory is None else f"{number(cost.memory / 2**20)} MiB"
        ratio = f"{cost.memory / base:.2f}" if cost.memory is not None and base else ""
        yield f"   {name:24}{cost.time:9.2f}   {cost.seconds * 1e3:10.3g} ms{memory:>16}{ratio:>8}"


def _advice(advice: Advice) -> Iterator[str]:
    yield ""
    yield f"5. Advice, from the numbers at {advice.points[-1].where}"
    yield ""
    yield from _wrapped(" ".join(advice.recommendation.reasons), "   ")


def _short(x: float) -> str:
    return f"{x:.2g}"


def _wrapped(words: str, first: str = "", rest: str | None = None) -> list[str]:
    return textwrap.wrap(
        words, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest
    )
