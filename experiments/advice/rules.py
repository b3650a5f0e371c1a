"""From the numbers to advice, by these rules.

Tolerance: epsilon where one was asked for, else the noise of one MAML step of B tasks.

1. FO-MAML, if the 95 % interval of its stall (`differences`) ends below the tolerance: it needs no Hessian, and
   costs least. An interval that contains the tolerance is said to be undecided, and counts as above.
2. Else, of the methods without a difference step whose bias's interval ends below the tolerance (that of
   `maml` is zero, as it is what the others are compared with), the one with the fastest step.
3. HF-MAML with the float-optimal step instead, if its bias's interval ends below the tolerance as well and its
   step takes at most HF_SHARE of the time of that one: otherwise a difference gains nothing over the
   exact product, and loses digits.
4. alpha: as asked up to 1/L; beyond, as long as the inner step lowers the mean loss over all tasks (F < f), else 1/L.
5. B: as many tasks as make the noise of a step equal to ||grad F||, between the theorems' least number, 20, and
   10 times the present B.
6. The outer step: the theorem's c / L~(w), if it is derived for this alpha and what it then needs for epsilon is at
   most AFFORDABLE evaluations; else a tuned one, and the factor by which the theorem's is out of reach.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.advice.bounds import AFFORDABLE, Promise
from experiments.advice.differences import EXACT, FIRST, Cost, Difference, Point
from jaxmaml.results import Interval
from jaxmaml.theory import drift

HF_SHARE = 0.9
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
    L: float,
    tasks: int,
    epsilon: float | None,
    gap_known: bool,
) -> Recommendation:
    """By the rules above, from the measurements at one point.

    Args:
      alpha, tasks: in force.
      epsilon: as asked for, or None.
      gap_known: whether the promises' Delta is one.
    """
    maml = next(d for d in point.differences if d.estimator == EXACT)
    tolerance = maml.noise.mean if epsilon is None else epsilon
    name = "the noise of a step" if epsilon is None else "epsilon"
    against = f"{name}, {number(tolerance)}"
    estimator, why = _estimator(point, costs, tolerance, against)
    rate, why_alpha = _alpha(point, alpha, L, _promise(promises, estimator))
    count, why_tasks = _tasks(point, maml, tasks)
    step, why_step = _outer_step(_promise(promises, estimator), rate, gap_known)
    return Recommendation(estimator, rate, count, step, tolerance, (*why, why_alpha, why_tasks, why_step))


def _estimator(
    point: Point, costs: Mapping[str, Cost], tolerance: float, against: str
) -> tuple[str, list[str]]:
    stall = f"what stops FO-MAML, alpha |Cov(H, v)| = {with_interval(point.stall)}"
    if point.stall.high <= tolerance:
        return FIRST, [f"Use {FIRST}: {stall}, is below {against}. It needs no Hessian and costs least."]
    unbiased = [
        d
        for d in point.differences
        if d.estimator != FIRST and not d.delta and (d.estimator == EXACT or d.bias.high <= tolerance)
    ]
    best = min(unbiased, key=lambda d: costs[d.estimator].time)
    above = "is above" if point.stall.low > tolerance else "is not clearly below (more --steps tell)"
    why = [
        f"Use {best.estimator}: {stall}, {above} {against}; of the exact products whose bias is below it, this "
        f"is the fastest, {times(costs[best.estimator].time)} FO-MAML's time."
    ]
    for hf in (d for d in point.differences if d.delta == FLOAT):
        ratio = costs[hf.estimator].time / costs[best.estimator].time
        takes = f"a step of {hf.estimator} takes {times(ratio)} the time of {best.estimator}'s"
        if hf.bias.high > tolerance:
            why.append(f"Not {hf.estimator}: its bias, {with_interval(hf.bias)}, is not below {against}.")
        elif ratio > HF_SHARE:
            why.append(f"Not {hf.estimator}: {takes}, and a difference loses digits.")
        else:
            why = [
                f"Use {hf.estimator} with the float-optimal delta: {stall}, {above} {against}; {takes}, and its bias, "
                f"{with_interval(hf.bias)}, is below."
            ]
            return hf.estimator, why
    return best.estimator, why


def _promise(promises: Sequence[Promise], estimator: str) -> Promise:
    """That of the estimator's theorem; of one without a theorem, MAML's."""
    by_name = {p.name: p for p in promises}
    return by_name.get(estimator, by_name[EXACT])


def _alpha(point: Point, alpha: float, L: float, promise: Promise) -> tuple[float, str]:
    if alpha <= promise.alpha_max * (1 + 1e-12):
        return alpha, f"Keep alpha = {number(alpha)}, for which the theorem of {promise.name} is derived."
    beyond = (
        f"alpha = {number(alpha)} is {times(alpha / promise.alpha_max)} the largest for which the theorem of "
    )
    beyond += f"{promise.name} is derived"
    if alpha <= 1 / L:
        return alpha, f"Keep it within 1/L = {number(1 / L)}: {beyond}."
    fell = f"the inner step on all samples takes the mean loss from {number(point.f)} to {number(point.F)}"
    if point.F < point.f:
        return alpha, (
            f"{beyond[0].upper()}{beyond[1:]}, and beyond 1/L = {number(1 / L)}, where it says nothing; keep it all "
            f"the same, as {fell}."
        )
    return 1 / L, f"Lower alpha to 1/L = {number(1 / L)}: {beyond}, and {fell}."


def _tasks(point: Point, maml: Difference, tasks: int) -> tuple[int, str]:
    ratio = (maml.noise.mean / point.grad_norm) ** 2 if point.grad_norm > 0 else math.inf
    least, most = drift.LEAST_TASKS, max(10 * tasks, drift.LEAST_TASKS)
    count = int(min(max(math.ceil(min(tasks * ratio, most)), least), most))
    if not math.isfinite(ratio):
        return count, f"B = {count}: grad F is zero here, every step is noise."
    scale = f"the noise of a step is as large as grad F with {number(tasks * ratio)} tasks"
    bound = {least: "; the theorems ask for 20", most: f"; this is 10 times the present {tasks}"}
    more = bound.get(count, "") if not least <= tasks * ratio <= most else ""
    return count, f"B = {count}: {scale}{more}."


def _outer_step(promise: Promise, alpha: float, gap_known: bool) -> tuple[float | None, str]:
    plan, derived = promise.derived, alpha <= promise.alpha_max * (1 + 1e-12)
    step = f"the theorem's outer step, {number(promise.step)} at w0,"
    if not derived:
        step = f"for this alpha no outer step is derived, and for {number(promise.alpha)} {step}"
    if plan is None:
        return None, f"Tune the outer step: {step} promises no epsilon so small with any batches."
    if not gap_known:
        return None, f"Tune the outer step: what {step} promises depends on Delta (--gap)."
    cost = f"{number(plan.evaluations)} gradients of a sample in all"
    if plan.evaluations > AFFORDABLE:
        factor = number(plan.evaluations / AFFORDABLE)
        return None, (
            f"Tune the outer step: {step} is promised to take up to {cost}, {factor} times what is in reach "
            f"({number(AFFORDABLE)})."
        )
    if not derived:
        return None, f"Tune the outer step: {step} is promised to take up to {cost}."
    return promise.step, f"Take {step} and the batches of the table: it is promised to take up to {cost}."


def number(x: float) -> str:
    """Three digits; whole numbers up to 99999 as they are."""
    if math.isfinite(x) and x == int(x) and abs(x) < 1e5:
        return str(int(x))
    return f"{x:.3g}"


def times(x: float) -> str:
    return f"{number(x)} times" if x >= 10 else f"{x:.2f} times"


def with_interval(x: Interval) -> str:
    return f"{number(x.mean)} [{number(x.low)}, {number(x.high)}]"
