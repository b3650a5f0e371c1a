"""What a fit in a folder is: its configuration, and the sums of all else that its numbers depend on."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend import core as jaxprs

from jaxmaml import packing, storage
from jaxmaml.inner import is_optax
from jaxmaml.learner.model import of_inner
from jaxmaml.training.outer import Functions, Recipe, TrainingProblem
from jaxmaml.training.store import Record
from jaxmaml.types import PyTree


def of_fit(configuration: Mapping[str, Any], steps: int, chosen: int, accept_changes: bool) -> Record:
    """Every part of the configuration must be the same in another sitting, but for the number of steps."""
    same = {name: part for name, part in configuration.items() if name not in ("steps", "restored")}
    says = {"folder": "folder=", "steps": "steps", "accept": "accept_changes=True"}
    return Record("fit", "fit", configuration, same, steps, chosen, accept_changes, says)


def programs(recipe: Recipe, problem: TrainingProblem, functions: Functions) -> dict[str, Any]:
    """What is computed, traced: the loss, the tasks, the optimiser and all else that is no argument."""
    state = functions.start()
    training, test = functions.place((problem.training, problem.test))
    return {
        "the program of a step": functions.advance.trace(state, recipe.steps, training),
        "the program of an evaluation": functions.measure.trace(state, test),
    }


def sum_of_program(program: Any) -> str:
    """Of the text and of the constants, which the text need not hold."""
    held = [np.asarray(x).tobytes() for x in _constants(program.jaxpr)]
    return storage.digest(program.lower().as_text(), *held)


def _constants(part: Any) -> Iterator[Any]:
    """The arrays that a program closes over, of those in it too."""
    if isinstance(part, jaxprs.ClosedJaxpr):
        yield from part.consts
        yield from _constants(part.jaxpr)
    elif isinstance(part, jaxprs.Jaxpr):
        for equation in part.eqns:
            yield from (x.val for x in equation.invars if isinstance(x, jaxprs.Literal))
            yield from _constants(list(equation.params.values()))
    elif isinstance(part, list | tuple):
        for each in part:
            yield from _constants(each)


def configuration(
    recipe: Recipe, problem: TrainingProblem, mesh: jax.sharding.Mesh | None, larger_is_better: bool
) -> dict[str, Any]:
    """For JSON: what was asked for, sums of the data, and what the parameters are restored to."""
    alpha: Any = "an optax transformation"
    rates = None
    if not is_optax(recipe.alpha):
        leaves = jax.tree_util.tree_leaves_with_path(recipe.alpha)
        pairs = [[jax.tree_util.keystr(path), np.asarray(rate).tolist()] for path, rate in leaves]
        alpha = pairs[0][1] if pairs[0][0] == "" else pairs
        rates = {**packing.described_as(recipe.alpha), "values": [value for _, value in pairs]}
    same = ("learn_alpha", "has_aux", "steps", "episodes", "every", "seed", "evaluation_seed", "task_chunk")
    return {name: getattr(recipe, name) for name in same} | {
        "estimator": _named(recipe.estimator),
        "arguments": {name: _named(part) for name, part in recipe.arguments.items()},
        "alpha": alpha,
        "inner": of_inner(recipe.inner),
        "tasks_per_step": recipe.tasks,
        "evaluation_steps": list(recipe.measured),
        "larger_is_better": larger_is_better,
        "measure": problem.unit == "measure",
        "devices": 1 if mesh is None else mesh.size,
        "params": _sum_of(problem.params),
        "tasks": _sum_of(problem.training),
        "test": _sum_of(problem.test),
        "restored": {
            "params": packing.described_as(problem.params),
            "alpha": rates,
        },
    }


def _sum_of(tree: PyTree) -> str:
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
    parts = [part for x in leaves for part in (f"{x.dtype}{x.shape}", x.tobytes())]
    return f"sum {storage.digest(*parts)[:16]}"


def _named(thing: Any) -> Any:
    """For JSON; what a function computes is in the sum of the program."""
    if isinstance(thing, bool | int | float | str | None):
        return thing
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return repr(thing)
    return getattr(thing, "__qualname__", type(thing).__name__)
