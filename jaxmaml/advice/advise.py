"""Advice on alpha, delta, batches and the estimator, from what is measured on a problem.

    1. L, rho, sigma, sigma_tilde, sigma_h                   jaxmaml.measure
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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxmaml import (
    InnerLoop,
    float_optimal_delta,
    identity,
    measure,
    scale_by_theorem_step,
    storage,
    theorem_delta,
)
from jaxmaml.advice import bounds, differences, rules, target
from jaxmaml.advice.bounds import Promise
from jaxmaml.advice.differences import Cost, Point
from jaxmaml.advice.options import Options, check
from jaxmaml.advice.rules import FLOAT, Recommendation
from jaxmaml.measure import MeasuredConstants
from jaxmaml.theory import hf_maml, theorems
from jaxmaml.training.problem import outer_optimizer
from jaxmaml.types import BatchSizes, PyTree


@dataclass(frozen=True)
class Advice:
    """Everything that is printed, and what it depends on."""

    target: str
    preset: str | None
    dtype: str
    alpha: float
    inner_steps: int
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
    costs: dict[str, Cost]
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
    for_constants, for_points, for_walk, for_costs = jax.random.split(jax.random.key(options.seed), 4)
    say("measuring L, rho, sigma, sigma_tilde and sigma_h")
    effort = target.effort(options)
    how: dict[str, Any] = effort.measure
    measured = measure.constants(problem, key=for_constants, task_chunk=about.task_chunk, **how)
    found = measured.constants()
    if found.L == 0:
        raise ValueError("L = 0: the loss is linear in the parameters at every point; allowed: a curved loss")
    alpha = about.alpha or min(t.alpha_max(found.L) for t in theorems().values())

    say("compiling the estimators")
    dtype = jnp.result_type(*jax.tree.leaves(problem.params))
    arcs = difference_arcs(found.rho, alpha, sizes["tasks"], problem.params)
    inner = InnerLoop(about.inner_steps)
    lab = differences.lab(problem, sizes, alpha, arcs, about.task_chunk, inner)
    say(f"drawing {effort.steps} steps of {sizes['tasks']} tasks")
    w = problem.params
    points = [differences.look(lab, "w0", w, effort.steps, for_points)]
    if options.walk:
        say(f"walking {options.walk} steps")
        if about.preset:
            optimizer = outer_optimizer(about.preset)
        else:
            optimizer = scale_by_theorem_step(1.0, found.L, found.rho, alpha)
        w = differences.walk(lab, w, options.walk, optimizer, for_walk)
        points.append(differences.look(lab, f"w{options.walk}", w, effort.steps, for_points))
    say("timing")
    costs = differences.costs(lab, problem.params, for_costs)

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
    recommendation = rules.recommend(
        points[-1],
        costs,
        promises,
        alpha=alpha,
        inner_steps=about.inner_steps,
        L=found.L,
        tasks=sizes["tasks"],
        epsilon=options.epsilon,
        adapted_loss=lambda rate: differences.adapted_loss(lab, w, rate),
    )
    return Advice(
        target=about.what,
        preset=about.preset.name if about.preset else None,
        dtype=str(dtype),
        alpha=alpha,
        inner_steps=about.inner_steps,
        sizes=sizes,
        epsilon=options.epsilon,
        gap=options.gap,
        constants=measured,
        promises=tuple(promises),
        arcs=arcs,
        points=tuple(points),
        costs=costs,
        recommendation=recommendation,
        code=identity.summary(identity.code(advise, about.problem)),
        environment=identity.environment(),
    )


def difference_arcs(rho: float, alpha: float, tasks: int, params: PyTree) -> dict[str, float]:
    """||delta v|| of each rule at params; for rho = 0 of the float-optimal one alone."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    arcs = {FLOAT: float(float_optimal_delta(dtype).around(params).arc)}
    if rho > 0:
        etas = {"theorem": hf_maml.ETA, "repaired": min(hf_maml.ETA, 1 / math.sqrt(tasks))}
        arcs |= {rule: float(theorem_delta(rho, alpha, eta).arc) for rule, eta in etas.items()}
    return arcs


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
