"""From the numbers to advice, by these rules.

What is judged is the loss after adaptation to D_in samples. A run of N outer steps w_k+1 = w_k - beta G_k
with E G_k = S_k + b_k, S the gradient of that loss, and noise xi_k has, summed over k,

    mean_k S(w_k) = (w_0 - w_N) / (beta N)  -  mean_k b_k  -  mean_k xi_k:

a start's part that falls like 1/N, a bias that stays, and a noise that falls like N^{-1/2} (Polyak, Juditsky
1992, for quadratics, where the left side is S at the mean of the w_k). So the error of an estimator is

    e_m(N)^2 = lasting_m^2 + noise_m^2 / N_m + (||S(w_P)|| P / N_m)^2,    N_m = N price_maml / price_m,

unit phi/u, and rounding: `lasting` and `noise` of a step as measured where a pilot of P steps ended, w_P,
and ||S(w_P)|| what it left of the start. The price is the time of a step, or its gradients.

1. The method: the least error, for the upper end of the interval of `lasting`. A method whose pilot, at
   equal price, ended clearly above that of S is out, as its bias may grow where it leads; one whose
   direction leads away too. A difference step must win by DIGITS, since it loses digits.
2. alpha: looked for both ways, by the loss after adaptation at w_P; then in factors of 2, up and down. A
   new one is taken if a pilot with it ends clearly lower, since w is to be trained for it; kept if the run is
   much longer than the pilot (`decide.REACH`), unless it does not adapt. The limit is
   "curvature" if adaptation to all samples has its least loss there as well, "samples" if that has it
   further up.
3. B: with T = N_m B tasks in all, the largest B for which the best outer step is still the largest, beta:
   up to it noise averages over tasks as over steps; beyond it there are too few steps. By the bound of rule 4
   B = s (beta T / (6 Delta))^{1/2}, s that of one task. Never more than the n tasks there are: if n is no
   more (and no more than MORE_TASKS times those in force), a step takes each of them once. A B below is kept.
4. The outer step falls linearly to zero. mean ||S||^2 <= 4 Delta / (beta N) + (2/3) beta L_F noise^2
   (Ghadimi, Lan 2013, with these steps), Delta what the loss falls by, is least at beta = (6 Delta / (L_F
   noise^2 N))^{1/2}; not above the pilot's, which stands for 1/L_F, and not below what the pilot found good
   for P steps, carried to N like that: (P/N)^{1/2} of it. A preset's own optimiser is kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxmaml.advice.differences import EXACT, FLOAT, SAME, Difference, Point
from jaxmaml.advice.pilot import Scan
from jaxmaml.statistics import Interval

DIGITS = 0.9
MORE_TASKS = 4
DOUBLINGS = 12
"""of N, up and down, over which the choice of the method is looked at."""


@dataclass(frozen=True)
class Pilot:
    """What a pilot tells the rules."""

    steps: int
    """P."""
    start: float
    """the loss after adaptation to D_in at w0, unit phi."""
    end: float
    """at w_P."""
    step: float | None
    """beta, unit u^2/phi; None for a preset's optimiser."""
    smoothness: float
    """L_F at w0, unit phi/u^2."""
    scales: Mapping[str, float]
    """<E G, E S> / ||E G||^2 at w0: by which an outer step of S is multiplied for each estimator."""
    above: Mapping[str, Interval]
    """by how much the pilot of each estimator, at equal price, ended above that of S."""
    out: Mapping[str, str]
    """estimators that are out, and why."""


@dataclass(frozen=True)
class Error:
    """e_m(N) and its parts, unit phi/u."""

    lasting: float
    noise: float
    start: float
    rounding: float

    @property
    def total(self) -> float:
        return math.hypot(self.lasting, self.noise, self.start, self.rounding)


@dataclass(frozen=True)
class Recommendation:
    """What to do, and why."""

    estimator: str
    delta: str
    alpha: float
    limit: str
    """of alpha: curvature, samples or range."""
    tasks: int
    every: bool
    """each task once, in place of so many drawn."""
    outer_steps: int
    """of the recommended method and B, for the planned budget."""
    outer_step: float | None
    """falling linearly to zero; None: the preset's optimiser."""
    undecided: str
    """an estimator that would be better if its bias is at the lower end of its interval, or ""."""
    verdict: tuple[str, ...]
    """five lines."""


def error(
    difference: Difference, point: Point, pilot: Pilot, steps: float, ratio: float, optimistic: bool = False
) -> Error:
    """e_m(N), N in steps of `maml` and ratio = price_m / price_maml."""
    own = steps / ratio
    lasting = 0.0 if difference.estimator == SAME else difference.lasting.high
    if optimistic:
        lasting = min(lasting, difference.lasting.low)
    noise = difference.noise.mean * pilot.scales[difference.estimator] / math.sqrt(own)
    start = point.sampled.mean * pilot.steps / own
    return Error(lasting, noise, start, point.rounding)


def candidates(point: Point, pilot: Pilot) -> list[Difference]:
    """Those that a rule does not exclude; of the difference steps the float-optimal one."""
    return [d for d in point.differences if d.delta in ("", FLOAT) and d.estimator not in pilot.out]


def ranked(
    point: Point, pilot: Pilot, prices: Mapping[str, float], steps: float, optimistic: str = ""
) -> list[tuple[float, Difference]]:
    """(error, method), the least first; that of the method `optimistic` is for the lower end of its bias."""

    def value(d: Difference) -> float:
        ratio = prices[d.estimator] / prices[EXACT]
        found = error(d, point, pilot, steps, ratio, d.estimator == optimistic).total
        return found / DIGITS if d.delta else found

    each = [(value(d), d) for d in candidates(point, pilot)]
    return sorted(each, key=lambda x: (x[0], prices[x[1].estimator]))


def undecided(point: Point, pilot: Pilot, prices: Mapping[str, float], steps: float) -> str:
    """A method that would be chosen at the lower end of its bias and is not at the upper, or ""."""
    chosen = ranked(point, pilot, prices, steps)[0][1].estimator
    for d in candidates(point, pilot):
        if d.estimator != chosen and ranked(point, pilot, prices, steps, d.estimator)[0][1] is d:
            return d.estimator
    return ""


class Turn(NamedTuple):
    """The method chosen for N in [low, high]."""

    low: float
    high: float
    estimator: str


def turns(point: Point, pilot: Pilot, prices: Mapping[str, float], steps: float) -> tuple[Turn, ...]:
    """For N from 1, or 2^-12 times the planned, to 2^12 times; high is where the next begins."""
    found: list[Turn] = []
    for j in range(-4 * DOUBLINGS, 4 * DOUBLINGS + 1):
        N = steps * 2 ** (j / 4)
        name = ranked(point, pilot, prices, N)[0][1].estimator
        if found:
            found[-1] = found[-1]._replace(high=N)
        if N >= 1 and (not found or found[-1].estimator != name):
            found.append(Turn(N, N, name))
    return tuple(found)


def tasks_of_a_step(
    noise: float, spread: float, tasks: int, every: bool, there: int | None, budget: float, reach: float
) -> tuple[int, bool, float]:
    """Rule 3: (B, whether each task once, noise of such a step).

    Args:
      noise: of a step in force; spread: that of one task with all its samples.
      there: n; None where tasks are drawn from infinitely many.
      budget: T, tasks in all.
      reach: beta / (6 Delta), unit 1/(phi/u)^2.
    """
    of_samples = max(noise**2 * tasks - (0 if every else spread**2), 0.0)
    of_one = of_samples + spread**2
    largest = math.sqrt(of_one * budget * reach)
    if there is not None and there <= max(largest, 1) and there <= MORE_TASKS * tasks:
        return there, True, math.sqrt(of_samples / there)
    B = max(1, min(tasks, math.floor(min(largest, 1e9))))
    return B, there == B == 1, math.sqrt(of_one / B)


def recommend(
    point: Point,
    scan: Scan,
    pilot: Pilot,
    prices: Mapping[str, float],
    *,
    alpha: float,
    before: float,
    tasks: int,
    every: bool,
    there: int | None,
    steps: int,
    kink: str = "",
) -> Recommendation:
    """By the rules above.

    Args:
      point: what was measured at w_P with alpha.
      prices: of a step of each estimator.
      before: alpha that was in force at first.
      tasks, every, there: B in force, whether each task once, n or None.
      steps: N, as planned for `maml` with the B in force.
    """
    order = ranked(point, pilot, prices, steps)
    chosen = order[0][1]
    name, ratio = chosen.estimator, prices[chosen.estimator] / prices[EXACT]
    doubt = undecided(point, pilot, prices, steps)

    limit, why_alpha = _limit(scan, alpha)
    own = steps / ratio
    fall = max(pilot.start - pilot.end, 0.0)
    largest = pilot.step if pilot.step is not None else 1 / pilot.smoothness
    reach = largest / (6 * fall) if fall > 0 else math.inf
    scale = pilot.scales[name]
    noise = chosen.noise.mean * scale
    B, all_of_them, left = tasks_of_a_step(noise, point.spread, tasks, every, there, own * tasks, reach)
    outer_steps = max(1, round(own * tasks / B))
    step = None
    if pilot.step is not None:
        step = largest
        if left > point.rounding:
            bound = math.sqrt(6 * fall * largest / (left**2 * outer_steps))
            known = largest * math.sqrt(pilot.steps / outer_steps) * min(1.0, noise / left)
            step = min(step, max(bound, known))
        step *= scale

    moved = "keep" if alpha == before else f"{'raise' if alpha > before else 'lower'} from {number(before)}"
    verdict = (
        _method(chosen, order, pilot, doubt),
        f"alpha = {number(alpha)} ({moved}): {why_alpha}.",
        _batch(B, all_of_them, there, tasks),
        _outer(step, outer_steps, largest * scale),
        _why(chosen, point, pilot, prices, steps, kink),
    )
    return Recommendation(name, chosen.delta, alpha, limit, B, all_of_them, outer_steps, step, doubt, verdict)


def _limit(scan: Scan, alpha: float) -> tuple[str, str]:
    j = min(range(len(scan.alphas)), key=lambda i: abs(math.log(scan.alphas[i] / alpha)))
    if j == len(scan.alphas) - 1:
        return "range", "the loss after adaptation still falls there"
    if scan.whole_best > alpha * 2**0.75:
        return "samples", (
            f"more is too noisy with D_in samples; with all of a task's, {number(scan.whole_best)} is best"
        )
    above = scan.alphas[min(j + 2, len(scan.alphas) - 1)]
    loss = scan.sampled[min(j + 2, len(scan.alphas) - 1)]
    return "curvature", (
        f"the curvature limits it, adaptation overshoots beyond ({number(scan.sampled[j])} after it, "
        f"{number(loss)} at {number(above)})"
    )


def _method(chosen: Difference, order: Sequence[tuple[float, Difference]], pilot: Pilot, doubt: str) -> str:
    said = f"Use {chosen.estimator}"
    if chosen.delta:
        said += " with float_optimal_delta"
    rest = [f"{d.estimator} {number(e / order[0][0])}" for e, d in order[1:]]
    rest += [f"{name} out ({why})" for name, why in pilot.out.items()]
    if doubt:
        rest.append(f"{doubt} undecided: draw more --steps")
    return said + (f"; error over its own: {', '.join(rest)}." if rest else ".")


def _batch(B: int, every: bool, there: int | None, tasks: int) -> str:
    if there == 1:
        return "B = 1: the one task there is."
    if every:
        return f"B = {B}: all tasks in every step, each once, exact over tasks."
    if tasks == B:
        return f"B = {B} tasks of a step, as in force: more would average no better than more steps do."
    return f"B = {B} tasks of a step in place of {tasks}, and more steps for the same price."


def _outer(step: float | None, steps: int, largest: float) -> str:
    if step is None:
        return f"Outer step: the preset's optimiser, {steps} steps."
    if step == 0:
        return "Outer step 0: the pilot gained nothing, and what is left is noise."
    why = "the noise of a step" if step < largest * (1 - 1e-9) else "curvature"
    return f"Outer step {number(step)}, falling linearly to zero over {steps} steps; {why} limits it."


def _why(
    chosen: Difference,
    point: Point,
    pilot: Pilot,
    prices: Mapping[str, float],
    steps: int,
    kink: str,
) -> str:
    ratio = prices[chosen.estimator] / prices[EXACT]
    parts = error(chosen, point, pilot, steps, ratio)
    said = (
        f"Why: after {steps} steps of maml's price its error is {number(parts.total)} "
        f"(bias {number(parts.lasting)}, noise {number(parts.noise)}, start {number(parts.start)})"
    )
    others = [t for t in turns(point, pilot, prices, steps) if t.estimator != chosen.estimator]
    below, above = [t for t in others if t.high <= steps], [t for t in others if t.low > steps]
    said += "".join(f"; {t.estimator} below {number(t.high)}" for t in below[-1:])
    said += "".join(f"; {t.estimator} beyond {number(t.low)}" for t in above[:1])
    if kink:
        said += "; the loss has kinks: no theorem applies"
    return said + "."


def number(x: float) -> str:
    """Three digits; whole numbers up to 99999 and what is above 1000 without an exponent."""
    if math.isfinite(x) and abs(x) < 1e5 and (x == int(x) or abs(x) >= 1000):
        return f"{x:.0f}"
    return f"{x:.3g}"


def with_interval(x: Interval) -> str:
    return f"{number(x.mean)} [{number(x.low)}, {number(x.high)}]"
