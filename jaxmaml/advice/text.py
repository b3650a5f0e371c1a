"""The advice as text, at most 100 columns."""

import math
import textwrap
from collections.abc import Callable, Iterator

from jaxmaml import estimators
from jaxmaml.advice.advise import Advice
from jaxmaml.advice.bounds import AFFORDABLE, REPAIRED, Plan, Promise
from jaxmaml.advice.differences import Point
from jaxmaml.advice.rules import number
from jaxmaml.measure import UNITS
from jaxmaml.statistics import Interval
from jaxmaml.theory import drift

WIDTH = 100


def text(advice: Advice) -> str:
    """Everything in the advice, in five parts."""
    parts = (_head, _constants, _theory, _differences, _costs, _advice)
    return "\n".join(line.rstrip() for part in parts for line in part(advice))


def _head(advice: Advice) -> Iterator[str]:
    s = advice.sizes
    yield from _wrapped(f"Advice for {advice.target}, {advice.dtype}")
    yield from _wrapped(
        f"in force: alpha = {number(advice.alpha)}, {advice.inner_steps} inner step"
        f"{'s' if advice.inner_steps > 1 else ''}, B = {s['tasks']} tasks, "
        f"D_in = {s['D_in']}, D_h = {s['D_h']}, D_o = {s['D_o']} samples"
    )


def _constants(advice: Advice) -> Iterator[str]:
    yield from ("", f"1. Constants, the largest at {advice.constants.points} points: lower estimates", "")
    yield f"   {'':12}{'value':>9}   {'interval':19}{'unit':9}"
    for name, unit in UNITS.items():
        e = getattr(advice.constants, name)
        interval = f"[{number(e.low)}, {number(e.high)}]"
        start = f"   {name:12}{number(e.value):>9}   {interval:19}{unit:9}"
        kind = "" if e.kind == "lower estimate" else f"{e.kind}: "
        yield from _wrapped(f"{kind}{e.how}", start, " " * len(start))


def _theory(advice: Advice) -> Iterator[str]:
    s, w0 = advice.sizes, advice.points[0]

    def row(label: str, value: Callable[[Promise], str]) -> str:
        return f"   {label:38}" + "".join(f"{value(p):>14}" for p in advice.promises)

    def plan(label: str, which: str, name: str) -> str:
        return row(
            label,
            lambda p: _entry(getattr(p, which), name, empty=which == "summarised" and p.name == REPAIRED),
        )

    yield from ("", "2. What the theorems ask for and promise with these constants, for one inner step", "")
    yield row("", lambda p: "repaired" if p.name == REPAIRED else p.name)
    yield row("alpha at most, derived", lambda p: number(p.alpha_max))
    yield row("alpha at most, as summarised", lambda p: number(p.alpha_max_summary))
    yield row("alpha of all below (at most in force)", lambda p: number(p.alpha))
    yield row("|grad F(w0)|", lambda p: number(p.grad_norm))
    yield row("epsilon" + ("" if advice.epsilon else ", a tenth of it"), lambda p: number(p.epsilon))
    asked, known = advice.gap is not None, advice.promises[0].gap is not None
    gap = "Delta" if asked else "Delta, at most F(w0)" if known else "Delta unknown (--gap); for"
    yield row(gap, lambda p: number(1.0 if p.gap is None else p.gap))
    yield row("c", lambda p: f"1/{round(1 / p.c)}")
    yield row("outer step c / L(w0)", lambda p: number(p.step))
    yield row("|delta v|", lambda p: _arc(p, 1.0))
    yield row("delta at the mean |v| of w0", lambda p: _arc(p, w0.adapted_norm))
    yield row("least B", lambda _: number(drift.LEAST_TASKS))
    yield row("least D_h", lambda p: number(p.D_h))
    yield row("least B', D_beta of L~", lambda p: f"{number(p.B_prime)}, {number(p.D_beta)}")
    yield f"   batches in force (B = {s['tasks']}, D_in = {s['D_in']}, D_h = {s['D_h']}, D_o = {s['D_o']})"
    yield row("  conditions violated", lambda p: ", ".join(p.violated) or "none")
    yield row("  floor, derived", lambda p: number(p.floor))
    yield row("  floor, as summarised", lambda p: "" if p.floor_summary is None else number(p.floor_summary))
    yield row("floor, derived, all tasks and samples", lambda p: number(p.least_floor))
    yield "   smallest batches with a floor as summarised of at most epsilon"
    for name in ("B", "D_in", "D_o", "D_h"):
        yield plan(f"  {name}", "summarised", name)
    yield plan("  iterations, without O(1)", "summarised", "iterations")
    yield plan("  evaluations, without O(1)", "summarised", "evaluations")
    yield "   batches with the fewest evaluations in all, derived"
    for name in ("B", "D_in", "D_o", "D_h", "iterations", "evaluations"):
        yield plan(f"  {name}", "derived", name)
    yield ""
    about = (
        "An evaluation is the gradient of one sample, a product with a Hessian two. The constants are lower "
    )
    about += "estimates: the truth promises less."
    if known and not asked:
        about += " F(w0) bounds Delta as no loss that was seen is negative."
    yield from _wrapped(about, "   ")
    yield from _hopeless(advice)


def _arc(promise: Promise, norm: float) -> str:
    if promise.arc is None:
        return ""
    return "any" if math.isinf(promise.arc) or norm == 0 else number(promise.arc / norm)


def _entry(plan: Plan | None, name: str, empty: bool) -> str:
    return "" if empty else "none" if plan is None else number(getattr(plan, name))


def _hopeless(advice: Advice) -> Iterator[str]:
    """Where a promise is of no use, and by what factor."""
    s, K = advice.sizes, advice.inner_steps
    evaluations = s["tasks"] * (K * s["D_in"] + s["D_o"] + 2 * K * s["D_h"])
    rate = evaluations / advice.costs["maml"].seconds
    for p in advice.promises:
        said = []
        if advice.alpha > p.alpha_max * (1 + 1e-12):
            said.append(f"alpha in force is {number(advice.alpha / p.alpha_max)} times the largest derived")
        worst = max(p.floor, p.floor_summary or 0.0)
        if worst >= p.grad_norm > 0:
            which = "derived" if p.floor >= worst else "as summarised"
            said.append(
                f"hopeless with the batches in force: w0 is below the floor, which ({which}) is "
                f"{number(worst / p.grad_norm)} times |grad F(w0)|"
            )
        if p.derived is None:
            said.append(
                f"hopeless with any batches: the floor with all tasks and samples is "
                f"{number(p.least_floor / p.epsilon)} times epsilon"
            )
        elif p.gap is not None and p.derived.evaluations > AFFORDABLE:
            years = p.derived.evaluations / rate / (365.25 * 24 * 3600)
            said.append(
                f"hopeless: {number(p.derived.evaluations / AFFORDABLE)} times the {number(AFFORDABLE)} "
                f"evaluations that are called in reach; {number(years)} years at the speed measured here"
            )
        if said:
            yield from _wrapped("; ".join(said) + ".", f"   {p.name}: ", "     ")


def _differences(advice: Advice) -> Iterator[str]:
    first, *_ = advice.points
    steps = f"{first.steps} steps of {advice.sizes['tasks']} tasks"
    yield from ("", f"3. How far the estimators differ: {steps}, 95 % intervals")
    for point in advice.points:
        yield from _table(point)
    covariance = "alpha |Cov(H_i, v_i)|" if advice.inner_steps == 1 else "|Cov(P_i, v_i)|, P_i maml's product"
    yield ""
    yield from _wrapped(
        "bias: that of the mean direction, from maml's on the same draws (maml's own: from grad F); all: the "
        "same with all tasks and samples; noise: standard deviation of a step; distance: |G - G_maml| / "
        f"|G_maml| of a step, and cosine between the two; stall: {covariance}, the part of fo_maml's "
        "bias that stays where its direction vanishes. Bias, all and noise are in units of |grad F|.",
        "   ",
    )


def _table(point: Point) -> Iterator[str]:
    unit, zero = point.grad_norm or 1.0, "" if point.grad_norm else " (so in units of the gradient)"
    yield ""
    yield (
        f"   at {point.where}: |grad F| = {number(point.grad_norm)}{zero}, "
        f"E|grad f_i| = {number(point.task_norm)}, E|v| = {number(point.adapted_norm)}"
    )
    yield (
        f"   adaptation to all samples takes f = {number(point.f)} to F = {number(point.F)}, "
        f"to D_in it helps {point.helped:.0%} of the tasks"
    )
    yield f"   {'':17}{'bias':>8}{'interval':>19}{'all':>9}{'noise':>8}{'distance':>18}{'cosine':>15}"

    def bias(name: str, x: Interval, every: float) -> str:
        low, high = (_short(y / unit) for y in (x.low, x.high))
        return f"   {name:17}{_short(x.mean / unit):>8}{f'[{low}, {high}]':>19}{_short(every / unit):>9}"

    for d in point.differences:
        half = [(x.high - x.low) / 2 for x in (d.distance, d.cosine)]
        yield (
            bias(d.name, d.bias, d.exact_bias)
            + f"{_short(d.noise.mean / unit):>8}{f'{_short(d.distance.mean)} ± {_short(half[0])}':>18}"
            + f"{d.cosine.mean:8.4f} ± {half[1]:.4f}"
        )
    yield bias("fo_maml's stall", point.stall, point.exact_stall)


def _costs(advice: Advice) -> Iterator[str]:
    yield from (
        "",
        "4. Cost of a step, median of repetitions that alternate, and memory of XLA's temporaries",
        "",
    )
    yield f"   {'':18}{'/ fo_maml':>10}{'time':>13}{'memory':>15}{'/ fo_maml':>11}"
    base = advice.costs["fo_maml"].memory
    for name, cost in sorted(advice.costs.items(), key=lambda item: item[1].time):
        memory = "unknown" if cost.memory is None else f"{number(cost.memory / 2**20)} MiB"
        ratio = f"{cost.memory / base:.2f}" if cost.memory is not None and base else ""
        yield f"   {name:18}{cost.time:10.2f}{number(cost.seconds * 1e3):>10} ms{memory:>15}{ratio:>11}"
    own, of = estimators.objective("maml"), {name: estimators.objective(name) for name in advice.costs}
    if others := [f"{name} ({of[name]})" for name in sorted(of) if of[name] != own]:
        yield ""
        yield from _wrapped(
            f"Of another objective than maml's ({own}), so that they have no bias: {', '.join(others)}.",
            "   ",
        )


def _advice(advice: Advice) -> Iterator[str]:
    r = advice.recommendation
    yield from (
        "",
        f"5. Advice, from the numbers at {advice.points[-1].where} (rules: experiments/advice/rules.py)",
        "",
    )
    yield from _wrapped(" ".join(r.reasons), "   ")
    if advice.preset:
        words = f"{advice.preset} --method.estimator {r.estimator} --inner.alpha {r.alpha:.4g}"
        words += f" --outer.tasks {r.tasks}"
        if r.outer_step is not None:
            found = advice.constants.constants()
            words += f" --outer.optimizer theorem --outer.L {found.L:.4g} --outer.rho {found.rho:.4g}"
        yield ""
        yield from _wrapped(f"jaxmaml train {words}", "   ", "     ")


def _short(x: float) -> str:
    return f"{x:.2g}"


def _wrapped(words: str, first: str = "", rest: str | None = None) -> list[str]:
    return textwrap.wrap(
        words,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
