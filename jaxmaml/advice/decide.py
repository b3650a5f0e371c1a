"""The decision on a problem: pilots, alpha, the estimators where the pilots end, and the rules."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmaml import float_optimal_delta, theorem_delta
from jaxmaml.advice import differences, pilot, rules
from jaxmaml.advice.differences import FLOAT, SAME, Cost, Lab, Point
from jaxmaml.advice.pilot import Run, Scan
from jaxmaml.advice.rules import Pilot, Recommendation
from jaxmaml.advice.target import Target
from jaxmaml.estimators.hf_maml import ArcDelta
from jaxmaml.inner import InnerLoop
from jaxmaml.statistics import interval
from jaxmaml.theory import hf_maml
from jaxmaml.types import Episode, PyTree

ROUNDS = 4
"""of pilots that each try an alpha."""
REACH = 10
"""times its pilot a run may be long, for alpha to be chosen where the pilot ends."""
MORE_STEPS = 16
"""times as many steps are drawn at most, while the choice depends on a bias that is not known well enough."""
NUMBERS = 2**25
"""in the directions that are kept at once."""


@dataclass(frozen=True)
class Decision:
    """The rules' answer, and everything they were given."""

    lab: Lab
    alpha: float
    points: tuple[Point, ...]
    scan: Scan
    pilot: Pilot
    costs: dict[str, Cost]
    prices: dict[str, float]
    recommendation: Recommendation


def arcs_of(rho: float, alpha: float, tasks: int, params: PyTree) -> dict[str, float]:
    """||delta v|| of each rule at params; for rho = 0 of the float-optimal one alone."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    arcs = {FLOAT: float(float_optimal_delta(dtype).around(params).arc)}
    if rho > 0:
        etas = {"theorem": hf_maml.ETA, "repaired": min(hf_maml.ETA, 1 / math.sqrt(tasks))}
        arcs |= {rule: float(theorem_delta(rho, alpha, eta).arc) for rule, eta in etas.items()}
    return arcs


def decide(
    about: Target,
    alpha: float,
    *,
    steps: int,
    pilot_steps: int,
    key: jax.Array,
    price: str = "time",
    rho: float = 0.0,
    kink: str = "",
    optimizer: optax.GradientTransformationExtraArgs | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Decision:
    """Measures what the rules need.

    Args:
      alpha: in force.
      steps: drawn to compare the estimators, at first.
      pilot_steps: P, at most; no more than are planned.
      price: "time" or "gradients".
      rho: for the theorem's difference step, 0 to leave it out.
      kink: of the loss, in a phrase.
      optimizer: a preset's own; None: falling steps.
    """
    sizes, there = about.sizes, about.there
    params = jax.tree.map(jnp.asarray, about.problem.params)
    every = there is not None and sizes["tasks"] == there
    P = min(pilot_steps, about.outer_steps)
    for_lab, for_trials, for_runs, for_points, for_costs = jax.random.split(key, 5)
    say("compiling the estimators")
    inner = InnerLoop(about.inner_steps)
    arcs = arcs_of(rho, alpha, sizes["tasks"], params)
    lab = differences.lab(about.problem, sizes, alpha, arcs, about.task_chunk, inner, every)
    episodes = pilot.trials(lab, for_trials)

    say(f"pilots of {P} steps")

    def piloted(alpha: float) -> tuple[Lab, Run, float | None, float]:
        """(lab at alpha, the best run of S, its beta, L_F)."""
        here = at_alpha(lab, alpha, arcs_of(rho, alpha, sizes["tasks"], params))
        L_F = pilot.smoothness(here, params, episodes, for_lab)
        if optimizer is not None:
            outer = pilot.preset_outer(optimizer, params)
            return here, pilot.run(here, SAME, params, P, outer, for_runs, episodes), None, L_F
        if not L_F > 0:
            raise ValueError(
                f"L_F = {L_F}: the loss after adaptation has no curvature; allowed: a curved loss"
            )
        return here, *pilot.tuned(here, params, P, 1 / L_F, for_runs, episodes), L_F

    before = alpha
    start = float(pilot.adapted_losses(lab, params, [0.0], episodes).mean())
    at = piloted(alpha)

    def taken(alpha: float) -> bool:
        """Whether a pilot with this alpha ends clearly lower, by a share of what both gained; then it is
        taken."""
        nonlocal at
        say(f"trying alpha = {alpha:.3g}")
        other = piloted(alpha)
        lower = pilot.lower(other[1].losses, at[1].losses, max(start - other[1].loss, 0.0))
        at = other if lower else at
        return lower

    # A pilot much shorter than the run still shows the start; it may only mend an alpha that does not adapt.
    reaches = about.outer_steps <= REACH * P
    adapts = at[1].loss < pilot.adapted_losses(at[0], at[1].params, [0.0], episodes).mean()
    tries = ROUNDS if reaches or not adapts else 0
    for _ in range(tries):
        best = scanned(at, params, episodes).best
        if best == at[0].alpha or not taken(best):
            break
    for factor in (2.0, 0.5):
        for _ in range(tries):
            if not taken(at[0].alpha * factor):
                break
    scan = scanned(at, params, episodes)
    lab, run, step, L_F = at
    alpha = lab.alpha
    if not np.isfinite(run.losses).all():
        raise ValueError(
            f"the pilots diverge at alpha = {alpha}; allowed: a smaller --alpha, or a scaled loss"
        )

    costs = differences.costs(lab, params, for_costs)
    prices = {n: c.gradients if price == "gradients" else c.seconds for n, c in costs.items()}
    say(f"drawing {steps} steps of {sizes['tasks']} tasks")
    first = differences.look(lab, "w0", params, steps, for_points)
    above, out, scales = {}, {}, {}
    begin = float(pilot.adapted_losses(lab, params, [alpha], episodes).mean())
    for name in dict.fromkeys(name for name, _, _ in lab.methods):
        d = next(d for d in first.differences if d.estimator == name and d.delta in ("", FLOAT))
        scales[name] = d.against
        if name == SAME:
            continue
        if not d.against > 0:
            out[name] = "its direction leads away at w0"
            continue
        own = max(1, round(P * prices[SAME] / prices[name]))
        if optimizer is not None:
            outer = pilot.preset_outer(optimizer, params)
        else:
            assert step is not None
            outer = pilot.falling(step * d.against, own)
        end = pilot.run(lab, name, params, own, outer, for_runs, episodes)
        if not np.isfinite(end.losses).all():
            out[name] = "its pilot diverged"
            continue
        if pilot.lower(run.losses, end.losses, max(begin - run.loss, 0.0)):
            out[name] = f"its pilot ends at {rules.number(end.loss)}, not {rules.number(run.loss)}"
            continue
        above[name] = interval(end.losses - run.losses)
    found = Pilot(P, begin, run.loss, step, L_F, scales, above, out)

    where = f"w{P}"
    point = differences.look(lab, where, run.params, steps, for_points)
    most = min(
        MORE_STEPS * steps, NUMBERS // (len(lab.methods) * sum(x.size for x in jax.tree.leaves(params)))
    )
    while rules.undecided(point, found, prices, about.outer_steps) and 4 * point.steps <= most:
        say(f"drawing {4 * point.steps} steps, to know a bias better")
        point = differences.look(lab, where, run.params, 4 * point.steps, for_points)
    recommendation = rules.recommend(
        point,
        scan,
        found,
        prices,
        alpha=alpha,
        before=before,
        tasks=sizes["tasks"],
        every=every,
        there=there,
        steps=about.outer_steps,
        kink=kink,
    )
    return Decision(lab, alpha, (first, point), scan, found, costs, prices, recommendation)


def scanned(at: tuple[Lab, Run, float | None, float], params: PyTree, episodes: Episode) -> Scan:
    """At the end of a pilot; at w0 if that diverged."""
    lab, run, _, _ = at
    return pilot.scan(lab, run.params if np.isfinite(run.losses).all() else params, episodes)


def at_alpha(lab: Lab, alpha: float, arcs: Mapping[str, float]) -> Lab:
    """The lab at another alpha, which its programs take as an argument."""

    def rescaled(rule: str, delta: ArcDelta | None) -> ArcDelta | None:
        return None if delta is None else ArcDelta(jnp.asarray(arcs[rule], jnp.asarray(delta.arc).dtype))

    methods: Any = tuple((name, rule, rescaled(rule, delta)) for name, rule, delta in lab.methods)
    return lab._replace(alpha=alpha, methods=methods)
