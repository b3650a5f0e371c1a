"""Advice on alpha, delta, batches and the estimator, from what is measured on a problem.

    1. L, rho, sigma, sigma_tilde, sigma_h, kinks            jaxmaml.measure
    2. where a run leads, and the best alpha on the way      advice.pilot
    3. how far the estimators differ, at w0 and there        advice.differences
    4. what a step of each costs                             advice.differences
    5. what follows                                          advice.rules, advice.decide
    6. what the theorems ask for and promise                 advice.bounds

docs/advise.md says how to read it.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxmaml import identity, measure, storage
from jaxmaml.advice import bounds, differences, target
from jaxmaml.advice.bounds import Promise
from jaxmaml.advice.decide import arcs_of, decide
from jaxmaml.advice.differences import Cost, Point
from jaxmaml.advice.options import Options, check
from jaxmaml.advice.pilot import Scan
from jaxmaml.advice.rules import Pilot, Recommendation
from jaxmaml.measure import MeasuredConstants
from jaxmaml.theory import theorems
from jaxmaml.training.problem import outer_optimizer
from jaxmaml.types import BatchSizes


@dataclass(frozen=True)
class Advice:
    """Everything that is printed, and what it depends on."""

    target: str
    preset: str | None
    dtype: str
    alpha: float
    """as recommended, and of every number here but `before`."""
    before: float
    """alpha in force."""
    inner_steps: int
    outer_steps: int
    """planned."""
    price: str
    """what methods are given equally much of."""
    sizes: dict[str, int]
    """tasks, D_in, D_h, D_o."""
    epsilon: float | None
    """as asked for."""
    gap: float | None
    """as asked for."""
    constants: MeasuredConstants
    promises: tuple[Promise, ...]
    arcs: dict[str, float]
    """||delta v|| of each rule, at alpha."""
    points: tuple[Point, ...]
    scan: Scan
    pilot: Pilot
    costs: dict[str, Cost]
    prices: dict[str, float]
    recommendation: Recommendation
    code: str
    """identifies the code that was measured with, and that of the problem (`jaxmaml.identity`)."""
    environment: dict[str, str]
    """versions, platform, precision."""


def advise(options: Options, say: Callable[[str], None] = lambda _: None) -> Advice:
    """Measures and judges; `say` is told of each stage.

    Raises:
      ValueError: bad options or a bad target (`advice.target`), a loss that is linear in the parameters,
        derivatives that are not finite, no gradient at w0 and no epsilon.
    """
    check(options)
    say("reading the problem")
    about = target.resolve(options)
    problem, sizes = about.problem, about.sizes
    for_constants, for_decision = jax.random.split(jax.random.key(options.seed))
    say("measuring L, rho, sigma, sigma_tilde and sigma_h")
    effort = target.effort(options)
    how: dict[str, Any] = effort.measure
    measured = measure.constants(problem, key=for_constants, task_chunk=about.task_chunk, **how)
    found = measured.constants()
    if found.L == 0:
        raise ValueError("L = 0: the loss is linear in the parameters at every point; allowed: a curved loss")
    before = about.alpha or min(t.alpha_max(found.L) for t in theorems().values())
    decision = decide(
        about,
        before,
        steps=effort.steps,
        pilot_steps=effort.pilot,
        key=for_decision,
        price=options.price,
        rho=found.rho,
        kink=measured.kink,
        optimizer=outer_optimizer(about.preset) if about.preset else None,
        say=say,
    )
    alpha, points, lab = decision.alpha, decision.points, decision.lab
    promises = bounds.promises(
        found,
        alpha,
        BatchSizes(B=sizes["tasks"], D_in=sizes["D_in"], D_o=sizes["D_o"], D_h=sizes["D_h"]),
        points[0].task_norm,
        lambda rate: differences.objective(lab, problem.params, rate),
        nonnegative=points[0].least_loss >= 0,
        epsilon=options.epsilon,
        gap=options.gap,
    )
    return Advice(
        target=about.what,
        preset=about.preset.name if about.preset else None,
        dtype=str(jnp.result_type(*jax.tree.leaves(problem.params))),
        alpha=alpha,
        before=before,
        inner_steps=about.inner_steps,
        outer_steps=about.outer_steps,
        price=options.price,
        sizes=sizes,
        epsilon=options.epsilon,
        gap=options.gap,
        constants=measured,
        promises=tuple(promises),
        arcs=arcs_of(found.rho, alpha, sizes["tasks"], problem.params),
        points=points,
        scan=decision.scan,
        pilot=decision.pilot,
        costs=decision.costs,
        prices=decision.prices,
        recommendation=decision.recommendation,
        code=identity.summary(identity.code(advise, about.problem)),
        environment=identity.environment(),
    )


def write(advice: Advice, path: str) -> None:
    """The advice as JSON; numbers that are not finite become null."""
    text = json.dumps(_plain(dataclasses.asdict(advice)), indent=1, allow_nan=False)
    storage.write(pathlib.Path(path), (text + "\n").encode())


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    return x
