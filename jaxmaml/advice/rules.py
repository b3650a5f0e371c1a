"""From the numbers to advice, by these rules.

Tolerance: epsilon where one was asked for, else the noise of one MAML step of B tasks. A 95 % interval is
below it if its upper end is; one that contains it is said to be undecided, and counts as above.

1. FO-MAML, if its stall (`differences`) is below the tolerance, and its direction is one of descent: the
   interval of its cosine with MAML's is above ALIGNED. It needs no Hessian, and no other costs less.
2. Else, of the methods without a difference step whose bias is below the tolerance (that of `maml` is zero:
   it is what the others are compared with), the one with the least work, time of a step times noise^2: the
   time that it takes to average the noise down to a given level. Times below SHORTEST count as equal: they
   are those of starting a program. Beyond alpha = 1/L it is `maml_same_batch`, whatever its bias: `maml` may
   fail there, with a bias through D_in that grows as it trains (docs/findings/alpha-beyond-L.md).
3. HF-MAML with the float-optimal step instead, if its bias is below the tolerance as well and its work is at
   most HF_SHARE of that: otherwise a difference gains nothing over the exact product, and loses digits.
4. alpha: as in force up to 1/L. Beyond, halved until the inner loop lowers the mean loss of all tasks
   (F < f), but not below 1/L.
5. B: as many tasks as make the noise of a step equal to ||grad F||, but not fewer than the theorems ask for,
   20, and not more than MORE_TASKS times those in force.
6. The outer step: the theorem's c / L~(w), if it is derived for this inner loop and what it then needs for
   epsilon is at most AFFORDABLE evaluations; else a tuned one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxmaml.advice.bounds import AFFORDABLE, Promise
from jaxmaml.advice.differences import EXACT, FIRST, SAME, Cost, Difference, Point
from jaxmaml.statistics import Interval
from jaxmaml.theory import drift

HF_SHARE = 0.9
ALIGNED = 0.5
MORE_TASKS = 4
SHORTEST = 1e-3
"""seconds"""
FLOAT = "float"
"""the rule of the difference step that HF-MAML is judged with."""


@dataclass(frozen=True)
class Recommendation:
    """What to do, and why."""

    estimator: str
    alpha: float
    tasks: int
    outer_step: float | None
    """the theorem's at w0; None where it is out of reach."""
    tolerance: float
    reasons: tuple[str, ...]
    """one sentence or two a rule, in their order."""


def recommend(
    point: Point,
    costs: Mapping[str, Cost],
    promises: Sequence[Promise],
    *,
    alpha: float,
    inner_steps: int,
    L: float,
    tasks: int,
    epsilon: float | None,
    adapted_loss: Callable[[float], float],
) -> Recommendation:
    """By the rules above, from the measurements at one point.

    Args:
      alpha, inner_steps, tasks: in force.
      epsilon: as asked for, or None.
      adapted_loss: alpha -> F at the point, with the inner loop in force.
    """
    maml = next(d for d in point.differences if d.estimator == EXACT)
    tolerance = maml.noise.mean if epsilon is None else epsilon
    against = f"{'the noise of a step' if epsilon is None else 'epsilon'}, {number(tolerance)}"
    beyond = f"1/L = {number(1 / L)}" if alpha > 1 / L else None
    estimator, why = _estimator(point, costs, tolerance, against, beyond)
    by_name = {p.name: p for p in promises}
    promise = by_name.get(estimator, by_name[EXACT])  # of one without a theorem, MAML's
    rate, why_alpha = _alpha(point, alpha, L, promise, adapted_loss)
    own = next(d for d in point.differences if d.estimator == estimator and d.delta in ("", FLOAT))
    count, why_tasks = _tasks(point, own, tasks)
    step, why_step = _outer_step(promise, rate, inner_steps)
    return Recommendation(estimator, rate, count, step, tolerance, (*why, why_alpha, why_tasks, why_step))


def _estimator(
    point: Point, costs: Mapping[str, Cost], tolerance: float, against: str, beyond: str | None
) -> tuple[str, list[str]]:
    """Rules 1 to 3: the estimator, and one sentence on each; `beyond` is what alpha exceeds."""
    fo = next(d for d in point.differences if d.estimator == FIRST)
    hf = next(d for d in point.differences if d.delta == FLOAT)
    exact = [d for d in point.differences if d.estimator != FIRST and not d.delta]

    stall = f"its stall, {with_interval(point.stall)},"
    cosine = f"its cosine with MAML, {with_interval(fo.cosine)},"
    if point.stall.high > tolerance:
        objections = [f"{FIRST}: {stall} {_side(point.stall, tolerance)} {against}"]
    elif not fo.cosine.low >= ALIGNED:
        objections = [f"{FIRST}: {cosine} is not above {ALIGNED}"]
    else:
        why = f"{stall} is below {against}, and {cosine} is above {ALIGNED}"
        return FIRST, [f"Use {FIRST}: {why}. It needs no Hessian, and no other costs less."]

    if beyond:
        why = "the gradient, without bias, of the loss after an inner step on D_in samples"
        other = f"{EXACT}: beyond {beyond} its bias through the noise of D_in may grow as it trains"
        return SAME, [f"Use {SAME}: {why}.", *map(_not, [*objections, other])]

    def too_large(d: Difference) -> str:
        return f"{d.estimator}: its bias, {with_interval(d.bias)}, {_side(d.bias, tolerance)} {against}"

    unbiased = [d for d in exact if d.estimator == EXACT or d.bias.high <= tolerance]
    objections += [too_large(d) for d in exact if d not in unbiased]
    best = min(unbiased, key=lambda d: (_work(d, costs), _time(d, costs)))
    least = _work(best, costs)

    def work(d: Difference) -> float:
        """Over the least; that of the time where no step is noisy."""
        return _work(d, costs) / least if least > 0 else _time(d, costs) / _time(best, costs)

    compared = f"{times(work(hf))} the work of {best.estimator} (time of a step times noise^2)"
    if hf.bias.high > tolerance:
        objections.append(too_large(hf))
    elif work(hf) > HF_SHARE:
        objections.append(f"{hf.estimator}: {compared}, and a difference loses digits")
    else:
        why = f"{compared}, and its bias, {with_interval(hf.bias)}, is below {against}"
        return hf.estimator, [f"Use {hf.estimator} with float_optimal_delta: {why}.", *map(_not, objections)]
    others = ", ".join(f"{times(work(d))} for {d.estimator}" for d in unbiased if d is not best)
    why = f"with the least work (time of a step times noise^2; {others})" if others else "an exact product"
    chosen = f"Use {best.estimator}: {why}; a step takes {times(costs[best.estimator].time)} that of {FIRST}."
    return best.estimator, [chosen, *map(_not, objections)]


def _not(objection: str) -> str:
    return f"Not {objection}."


def _work(difference: Difference, costs: Mapping[str, Cost]) -> float:
    return _time(difference, costs) * difference.noise.mean**2


def _time(difference: Difference, costs: Mapping[str, Cost]) -> float:
    return max(costs[difference.estimator].seconds, SHORTEST)


def _side(x: Interval, tolerance: float) -> str:
    return "is above" if x.low > tolerance else "may be above (more --steps tell)"


def _alpha(
    point: Point, alpha: float, L: float, promise: Promise, adapted_loss: Callable[[float], float]
) -> tuple[float, str]:
    if alpha <= promise.alpha_max * (1 + 1e-12):
        return alpha, f"Keep alpha = {number(alpha)}: the theorem of {promise.name} is derived for it."
    times_derived = number(alpha / promise.alpha_max)
    beyond = f"{times_derived} times the largest for which the theorem of {promise.name} is derived"
    if alpha <= 1 / L:
        return alpha, f"alpha = {number(alpha)} is {beyond}, yet within 1/L = {number(1 / L)}: keep it."
    fell = f"the inner loop on all samples takes the mean loss from {number(point.f)} to {number(point.F)}"
    said = f"alpha = {number(alpha)} is {beyond}, and beyond 1/L = {number(1 / L)}"
    if point.f > point.F:
        return alpha, f"{said}; keep it all the same, as {fell}."
    lower, F = alpha, point.F
    while lower > 1 / L and not point.f > F:
        lower = max(lower / 2, 1 / L)
        F = adapted_loss(lower)
    lowered = (
        f"lower it to {number(lower)}, which takes it to {number(F)}, and ask again with --alpha {lower:.3g}"
    )
    return lower, f"{said}, and {fell}: {lowered}."


def _tasks(point: Point, own: Difference, tasks: int) -> tuple[int, str]:
    least = drift.LEAST_TASKS
    most = max(MORE_TASKS * tasks, least)
    above = f"B = {most}, {MORE_TASKS} times those in force" if most > least else f"B = {least}"
    if point.grad_norm == 0:
        return most, f"{above}: grad F is zero here, and a step is nothing but noise."
    equal = tasks * (own.noise.mean / point.grad_norm) ** 2
    scale = f"the noise of a step is as large as grad F with {number(equal)} tasks"
    if equal <= least:
        return least, f"B = {least}, the least of the theorems: {scale}."
    if equal > most:
        return most, f"{above}: {scale}."
    return math.ceil(equal), f"B = {math.ceil(equal)}: {scale}."


def _outer_step(promise: Promise, alpha: float, inner_steps: int) -> tuple[float | None, str]:
    plan, step, rate = promise.derived, f"the theorem's, {number(promise.step)} at w0,", number(promise.alpha)
    derived = inner_steps == 1 and alpha <= promise.alpha_max * (1 + 1e-12)
    if inner_steps > 1:
        step = f"none is derived for {inner_steps} inner steps; for one and alpha = {rate} {step}"
    elif not derived:
        step = f"none is derived for this alpha; for {rate} {step}"
    if plan is None:
        return None, f"Tune the outer step: {step} promises no such epsilon with any batches."
    if promise.gap is None:
        return None, f"Tune the outer step: what {step} promises depends on Delta (--gap)."
    cost = f"is promised to take up to {number(plan.evaluations)} gradients of a sample"
    if plan.evaluations > AFFORDABLE:
        factor = number(plan.evaluations / AFFORDABLE)
        return None, f"Tune the outer step: {step} {cost}, {factor} times what is in reach."
    if not derived:
        return None, f"Tune the outer step: {step} {cost}."
    return (
        promise.step,
        f"Take the outer step c / L~(w), {number(promise.step)} at w0: it {cost}, with the batches above.",
    )


def number(x: float) -> str:
    """Three digits; whole numbers up to 99999 and what is above 1000 without an exponent."""
    if math.isfinite(x) and abs(x) < 1e5 and (x == int(x) or abs(x) >= 1000):
        return f"{x:.0f}"
    return f"{x:.3g}"


def times(x: float) -> str:
    return f"{number(x)} times" if x >= 10 else f"{x:.2f} times"


def with_interval(x: Interval) -> str:
    return f"{number(x.mean)} [{number(x.low)}, {number(x.high)}]"
