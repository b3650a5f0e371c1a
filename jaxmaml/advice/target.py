"""From what the user typed to a problem: a training preset, or package.module:function of their own."""

import dataclasses
import importlib
import inspect
import math
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxmaml.advice.options import Options, precision
from jaxmaml.checks import check_callable, check_params
from jaxmaml.failures import failing, failure
from jaxmaml.measure import Problem, from_pools
from jaxmaml.names import nearest, unknown
from jaxmaml.training.presets import PRESETS, Preset


@dataclass(frozen=True)
class Effort:
    """How much is drawn and searched; what the options name is theirs."""

    pools: int = 24
    pool: int = 120
    steps: int = 48
    pilot: int = 200
    measure: dict[str, int] = dataclasses.field(default_factory=dict)
    """arguments of jaxmaml.measure.constants."""


QUICK = Effort(5, 10, 12, 20, {"iterations": 8, "starts": 1, "samples": 4})
"""for a network of which a gradient takes milliseconds a sample; --quick of another one measures as little,
but keeps the pools: alpha chosen on ten samples is chosen for those."""
OUTER_STEPS = 1000
"""planned, where neither a preset nor the user says."""
SIZES = {"tasks": 20, "D_in": 10, "D_h": 10, "D_o": 10}
"""of a step, where neither a preset nor the user says."""


@dataclass(frozen=True)
class Target:
    """A problem, and the sizes and the rate with which it is trained."""

    problem: Problem
    what: str
    """in a phrase."""
    sizes: dict[str, int]
    """tasks, D_in, D_h, D_o."""
    alpha: float | None
    inner_steps: int
    task_chunk: int | None
    there: int | None
    """n, how many tasks there are; None for a preset, whose pools stand for more."""
    outer_steps: int
    """planned."""
    preset: Preset | None


def effort(options: Options) -> Effort:
    """What the options name, and the rest as the target needs it."""
    preset = PRESETS.get(options.target)
    large = preset is not None and preset.model.kind == "conv4"
    chosen = QUICK if options.quick or (options.quick is None and large) else Effort()
    if chosen is QUICK and not large:
        chosen = dataclasses.replace(QUICK, pools=Effort.pools, pool=Effort.pool, pilot=Effort.pilot)
    asked = {name: getattr(options, name) for name in ("pools", "pool", "steps", "pilot")}
    return dataclasses.replace(chosen, **{name: n for name, n in asked.items() if n is not None})


def resolve(options: Options) -> Target:
    """The problem that was asked for.

    Raises:
      ValueError: no such module, function or preset (the nearest is named), a function that takes arguments
        or returns something else, parameters that are not floating point.
      FileNotFoundError: data that are not there.
    """
    asked = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    if ":" in options.target:
        problem = _call(options.target)
        tasks = jax.tree.leaves(problem.full)[0].shape[0]
        return of_problem(problem, f"{options.target} ({tasks} tasks)", options)
    preset = PRESETS[options.target]
    data = dataclasses.replace(preset.data, path=options.path or preset.data.path)
    preset = dataclasses.replace(preset, data=data, precision=precision(options))
    drawn = effort(options)
    problem, samples = of_preset(preset, jax.random.key(options.seed), drawn.pools, drawn.pool)
    return Target(
        problem,
        f"the preset {preset.name} ({drawn.pools} of its training tasks, {samples} samples each)",
        sizes_of(preset) | asked,
        options.alpha or preset.inner.alpha,
        options.inner_steps or preset.inner.steps,
        options.task_chunk or preset.method.task_chunk,
        None,
        options.outer_steps or preset.outer.steps,
        preset,
    )


def of_problem(problem: Problem, what: str, options: Options) -> Target:
    """A problem of the user's own, whose n tasks are all there are.

    Raises:
      ValueError: more tasks of a step than there are.
    """
    there = jax.tree.leaves(problem.full)[0].shape[0]
    asked = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    if options.tasks is not None and options.tasks > there:
        raise ValueError(f"tasks = {options.tasks}; allowed: at most {there}, the tasks there are")
    return Target(
        problem,
        what,
        SIZES | {"tasks": min(SIZES["tasks"], there)} | asked,
        options.alpha,
        options.inner_steps or 1,
        options.task_chunk,
        there,
        options.outer_steps or OUTER_STEPS,
        None,
    )


def of_preset(preset: Preset, key: jax.Array, tasks: int, samples: int) -> tuple[Problem, int]:
    """A preset's network and loss on pools of `tasks` training tasks, and how many samples a pool has.

    Samples of a batch are then independent draws from the pool, not so many of each class.
    """
    from jaxmaml.training import problem

    built = problem.build(preset)
    each = -(-samples // _classes(preset))
    if hasattr(built.training, "pixels"):
        each = min(each, built.training.pixels.shape[1] - 2)  # two more go to batches that are not used
    large = dataclasses.replace(built.training, support=each, hessian=1, query=1)  # type: ignore[type-var]
    # As arguments: closed over, the images would become constants of the program.
    pools = jax.jit(lambda d, k: d.episodes(k, tasks).inner)(large, key)
    return from_pools(built.loss, built.params, pools), each * _classes(preset)


def sizes_of(preset: Preset) -> dict[str, int]:
    """Tasks and samples of a step."""
    data, ways = preset.data, _classes(preset)
    samples = {"D_in": data.support * ways, "D_h": data.hessian * ways, "D_o": data.query * ways}
    return {"tasks": preset.outer.tasks} | samples


def _classes(preset: Preset) -> int:
    return 1 if preset.data.name == "sinusoid" else preset.data.ways


def _call(target: str) -> Problem:
    function = _function(*target.split(":", 1))
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ValueError(
            f"{target} cannot be called so: {error}; allowed: a function without arguments"
        ) from None
    with failing(target):
        found = function()
    if not isinstance(found, Problem):
        raise ValueError(f"{target} returned {type(found).__name__}; allowed: a jaxmaml.measure.Problem")
    try:
        check_params(found.params)
    except TypeError as error:
        raise ValueError(f"{target}: {error}") from None
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(found.full)]
    if not shapes or not all(shapes) or not math.prod(shape[0] for shape in shapes):
        raise ValueError(
            f"{target}: full has shapes {shapes}; allowed: a task axis first, of at least 1 task"
        )
    return dataclasses.replace(
        found,
        loss=_own(f"the loss of {target}", found.loss),
        sample=_own(f"the sample of {target}", found.sample),
    )


def _own(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The user's function, whose errors say so. What a Partial holds stays an argument of programs."""
    check_callable(what, function, "a function")

    def called(*args: Any, **kwargs: Any) -> Any:
        with failing(what):
            return inside(*args, **kwargs)

    if isinstance(function, Partial):
        inside = function.func
        return Partial(called, *function.args, **function.keywords)
    inside = function
    return called


def _function(module_name: str, name: str) -> Callable[[], Any]:
    if "" not in sys.path and str(pathlib.Path.cwd()) not in sys.path:
        sys.path.insert(0, str(pathlib.Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that is there and lacks one of its own imports is another matter.
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise ValueError(f"module {module_name!r} cannot be imported: {error}") from error
        here = [path.stem for path in pathlib.Path.cwd().glob("*.py")]
        raise ValueError(
            f"no module {module_name!r}; allowed: one in {pathlib.Path.cwd()} or installed."
            + nearest(module_name, here)
        ) from None
    except (SyntaxError, ImportError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {said}"
        ) from error
    except Exception as error:
        raise failure(f"module {module_name!r}", error) from error
    functions = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module_name]
    if not callable(getattr(module, name, None)):
        unknown(f"function of {module_name}", name, functions)
    return getattr(module, name)
