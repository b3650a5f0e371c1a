"""From what the user typed to a problem: a training preset, or package.module:function of their own."""

import dataclasses
import difflib
import importlib
import inspect
import math
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from experiments.training.presets import PRESETS, Preset
from jaxmaml.checks import check_params, check_positive, check_step_count, unknown
from jaxmaml.constants import Problem, from_pools


@dataclass(frozen=True)
class Effort:
    """How much is drawn and searched; what the options name is theirs."""

    pools: int = 24
    pool: int = 120
    steps: int = 48
    measure: dict[str, int] = dataclasses.field(default_factory=dict)
    """arguments of jaxmaml.constants.measure."""


QUICK = Effort(5, 10, 12, {"iterations": 8, "starts": 1, "samples": 4})
"""for a network of which a gradient takes milliseconds a sample."""
SIZES = {"tasks": 20, "D_in": 10, "D_h": 10, "D_o": 10}
"""of a step, where neither a preset nor the user says."""


@dataclass(frozen=True)
class Options:
    """What `advise` can be asked."""

    target: tyro.conf.Positional[str]
    """a training preset, or package.module:function, which takes no arguments and returns a
    jaxmaml.constants.Problem (the current folder is searched too)."""
    alpha: float | None = None
    """inner rate; None: the preset's, else the largest for which all theorems are derived, 1/(10 L)."""
    inner_steps: int | None = None
    """inner steps of what is measured; None: the preset's, else 1. The theorems are about one."""
    epsilon: float | None = None
    """gradient norm to reach; None: no target (the theorems' numbers are for a tenth of ||grad F(w0)||)."""
    gap: float | None = None
    """Delta = F(w0) - inf F; None: bounded by F(w0) where the loss is not negative."""
    tasks: int | None = None
    """tasks of a step (B); None: the preset's, else 20."""
    D_in: int | None = None
    """samples of the inner gradient; None: the preset's, else 10."""
    D_h: int | None = None
    """samples of the Hessian; None: the preset's, else 10."""
    D_o: int | None = None
    """samples of the outer gradient; None: the preset's, else 10."""
    quick: bool | None = None
    """fewer searches, draws, pools and samples; None: for a preset with a convolutional network."""
    steps: int | None = None
    """steps that are drawn to measure how far the estimators differ; None: 48, quick 12."""
    walk: int = 0
    """look again, and advise, where this many noisy MAML steps lead: of the preset's optimiser, else of size
    1/L~(w)."""
    task_chunk: int | None = None
    """tasks vectorised together; None: the preset's, else all of them."""
    path: str | None = None
    """preset: folder with the files of its data set."""
    pools: int | None = None
    """preset: tasks drawn from its distribution, and taken for all there are; None: 24, quick 5."""
    pool: int | None = None
    """preset: samples of each of them, as far as there are; None: 120, quick 10."""
    seed: int = 0
    """of every draw."""
    precision: Literal["float32", "float64"] | None = None
    """None: the preset's, else float32."""
    json: str | None = None
    """write the advice to this file as well."""


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
    preset: Preset | None


def check(options: Options) -> None:
    """One clear error for numbers out of range; called before anything is computed."""
    for name in ("alpha", "epsilon", "gap"):
        if getattr(options, name) is not None:
            check_positive(name, getattr(options, name))
    least = {"steps": 3, "walk": 0, "pools": 2, "pool": 2}
    for name in (
        "tasks",
        "D_in",
        "D_h",
        "D_o",
        "inner_steps",
        "steps",
        "walk",
        "task_chunk",
        "pools",
        "pool",
    ):
        if getattr(options, name) is not None:
            check_step_count(name, getattr(options, name), least.get(name, 1))
    if options.json is not None and not (folder := pathlib.Path(options.json).absolute().parent).is_dir():
        raise ValueError(f"json = {options.json!r}; allowed: a file in a folder that exists, not {folder}")
    if ":" in options.target and options.path is not None:
        raise ValueError(f"path = {options.path!r}; allowed: with a preset")
    if ":" not in options.target and options.target not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        hint = _nearest(options.target, PRESETS)
        raise ValueError(
            f"unknown preset {options.target!r}; known: {known}, or your own package.module:function.{hint}"
        )


def precision(options: Options) -> Literal["float32", "float64"]:
    """float32 or float64, before anything of the target is imported or built."""
    preset = PRESETS.get(options.target)
    return options.precision or (preset.precision if preset else "float32")


def effort(options: Options) -> Effort:
    """What the options name, and the rest as the target needs it."""
    preset = PRESETS.get(options.target)
    large = preset is not None and preset.model.kind == "conv4"
    chosen = QUICK if options.quick or (options.quick is None and large) else Effort()
    asked = {name: getattr(options, name) for name in ("pools", "pool", "steps")}
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
        what = f"{options.target} ({tasks} tasks)"
        steps = options.inner_steps or 1
        return Target(problem, what, SIZES | asked, options.alpha, steps, options.task_chunk, None)
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
        preset,
    )


def of_preset(preset: Preset, key: jax.Array, tasks: int, samples: int) -> tuple[Problem, int]:
    """A preset's network and loss on pools of `tasks` training tasks, and how many samples a pool has.

    Samples of a batch are then independent draws from the pool, not so many of each class.
    """
    from experiments.training import problem

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
    found = function()
    if not isinstance(found, Problem):
        raise ValueError(f"{target} returned {type(found).__name__}; allowed: a jaxmaml.constants.Problem")
    try:
        check_params(found.params)
    except TypeError as error:
        raise ValueError(f"{target}: {error}") from None
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(found.full)]
    if not shapes or not all(shapes) or not math.prod(shape[0] for shape in shapes):
        raise ValueError(
            f"{target}: full has shapes {shapes}; allowed: a task axis first, of at least 1 task"
        )
    return found


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
            + _nearest(module_name, here)
        ) from None
    except (SyntaxError, ValueError, ImportError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {said}"
        ) from error
    functions = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module_name]
    if not callable(getattr(module, name, None)):
        unknown(f"function of {module_name}", name, functions)
    return getattr(module, name)


def _nearest(name: str, known: Any) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
