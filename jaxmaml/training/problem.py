"""From a preset to functions: the tasks, the network, its loss, the meta-gradient and the outer optimiser."""

import dataclasses
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxmaml import (
    ArcDelta,
    InnerLoop,
    estimators,
    float_optimal_delta,
    models,
    scale_by_theorem_step,
    theorem_delta,
)
from jaxmaml.checks import check_positive, check_seed, check_step_count
from jaxmaml.data import Distribution, classes, image_sets, image_shape
from jaxmaml.data.images import Images
from jaxmaml.data.sinusoid import Sinusoid
from jaxmaml.names import unknown
from jaxmaml.paths import check_file, check_path
from jaxmaml.theory import theorems
from jaxmaml.training import outer as loops
from jaxmaml.training.outer import Functions, Recipe, State, TrainingProblem
from jaxmaml.training.presets import Data, Preset
from jaxmaml.types import PyTree


def build(preset: Preset) -> TrainingProblem:
    """The tasks (on the device) and the network of a preset, in its precision.

    Raises:
      ValueError: unknown names, sizes out of range; FileNotFoundError: data that are not there.
    """
    return with_network(preset, *distributions(preset))


def with_network(preset: Preset, training: Any = None, test: Any = None) -> TrainingProblem:
    """The network of a preset with its loss and measure, and these tasks; None for who needs none."""
    params, apply = models.split(network(preset))
    if preset.data.name == "sinusoid":
        loss = models.squared_error(apply)
        return TrainingProblem(training, test, params, loss, loss, "mean squared error", False, apply)
    loss, measure = models.cross_entropy(apply), models.accuracy(apply)
    return TrainingProblem(training, test, params, loss, measure, "accuracy", True, apply)


def distributions(preset: Preset) -> tuple[Distribution, Distribution]:
    """Training and test tasks; a test task has the query size of the evaluation."""
    data = preset.data
    sizes: dict[str, Any] = {"support": data.support, "hessian": data.hessian, "query": data.query}
    at_test = sizes | {"hessian": 1, "query": preset.evaluation.query or data.query}
    if data.name == "sinusoid":
        return Sinusoid(**sizes), Sinusoid(**at_test)
    if data.name not in image_sets():
        unknown("data set", data.name, ["sinusoid", *image_sets()])
    options = {"full": True} if data.full else {}
    pixels = classes(data.name, data.path, **options)
    both = tuple(Images(p, data.ways, **s) for p, s in zip(pixels, (sizes, at_test), strict=True))
    for distribution in both:  # too few classes or images: said before anything compiles
        jax.eval_shape(lambda d: d.episodes(jax.random.key(0), 1), distribution)
    return jax.device_put(both[0]), jax.device_put(both[1])


def network(preset: Preset) -> nnx.Module:
    """The network of a preset, initialised from its seed."""
    model, data = preset.model, preset.data
    dtype = jnp.dtype(preset.precision)
    rngs = nnx.Rngs(preset.seed)
    inputs, outputs = shapes(data)
    if model.kind == "mlp":
        sizes = (math.prod(inputs), *model.hidden, outputs)
        return models.MLP(sizes, model.activation, rngs=rngs, param_dtype=dtype)
    if len(inputs) != 3:
        raise ValueError(f"model.kind = 'conv4' on {data.name}; allowed: on images")
    return models.Conv4(
        outputs,
        model.channels,
        inputs,
        model.norm,
        model.activation,
        model.pool,
        rngs=rngs,
        param_dtype=dtype,
    )


def shapes(data: Data) -> tuple[tuple[int, ...], int]:
    """(the shape of one input, the number of outputs)."""
    if data.name == "sinusoid":
        return (1,), 1
    return image_shape(data.name), data.ways


def recipe(preset: Preset) -> Recipe:
    """How a preset is trained and evaluated."""
    estimator = estimators.get(preset.method.estimator)
    takes = inspect.signature(estimator).parameters
    arguments = {"delta": delta_of(preset), "lam": preset.method.lam}
    theorem = preset.outer.optimizer == "theorem"
    return Recipe(
        name=preset.name,
        estimator=estimator,
        arguments={name: value for name, value in arguments.items() if name in takes},
        alpha=preset.inner.alpha,
        inner=inner_loop(preset, preset.inner.steps),
        learn_alpha=preset.inner.learn_alpha,
        optimizer=outer_optimizer(preset),
        asks=frozenset({"task_grad_norms"} if theorem else ()),
        tasks=preset.outer.tasks,
        steps=preset.outer.steps,
        measured=preset.evaluation.steps,
        episodes=preset.evaluation.episodes,
        every=preset.evaluation.every,
        evaluation_seed=preset.evaluation.seed,
        seed=preset.seed,
        task_chunk=preset.method.task_chunk,
    )


def inner_loop(preset: Preset, steps: int) -> InnerLoop:
    mask = True if preset.inner.adapts == "all" else {"body": False, "head": True}
    return InnerLoop(steps, mask)


def devices(preset: Preset) -> jax.sharding.Mesh | None:
    """Those that share the tasks of a step, as `method.devices` says; None: JAX's default device alone.

    By default the most that divide the tasks, so that none computes a task again.
    Several processes train on all that they have.
    """
    there, tasks = jax.devices(), preset.outer.tasks
    several = jax.process_count() > 1
    allowed = [len(there)] if several else list(range(1, min(len(there), tasks) + 1))
    by_default = allowed[-1] if several else max(n for n in allowed if tasks % n == 0)
    count = by_default if preset.method.devices is None else preset.method.devices
    if count not in allowed:
        raise ValueError(
            f"method.devices = {count}; allowed with {len(there)} devices in {jax.process_count()} processes "
            f"and {tasks} tasks: {allowed}"
        )
    if count == 1:
        return None
    kind = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((count,), ("tasks",), axis_types=kind, devices=there[:count])


def functions(preset: Preset, problem: TrainingProblem, mesh: jax.sharding.Mesh | None = None) -> Functions:
    """The outer loop of a preset as pure functions, with the tasks of a step on the devices of mesh."""
    check_preset(preset)
    return loops.functions(recipe(preset), problem, mesh)


def start(preset: Preset, params: PyTree) -> State:
    """The state of step 0."""
    return loops.start(recipe(preset), params)


def check_preset(preset: Preset) -> None:
    """One clear error for what the types do not exclude, before anything is read, compiled or written."""
    data, model, inner, method = preset.data, preset.model, preset.inner, preset.method
    outer, evaluation = preset.outer, preset.evaluation
    counts: dict[str, Any] = {
        "data.support": data.support,
        "data.hessian": data.hessian,
        "data.query": data.query,
        **{f"model.hidden[{i}]": width for i, width in enumerate(model.hidden)},
        "model.channels": model.channels,
        "inner.steps": inner.steps,
        "method.task_chunk": method.task_chunk,
        "method.devices": method.devices,
        "outer.tasks": outer.tasks,
        "outer.steps": outer.steps,
        "evaluation.episodes": evaluation.episodes,
        **{f"evaluation.steps[{i}]": k for i, k in enumerate(evaluation.steps)},
        "evaluation.query": evaluation.query,
        "evaluation.every": evaluation.every,
    }
    optional = ("method.task_chunk", "method.devices", "evaluation.query")
    for name, count in counts.items():
        if count is not None or name not in optional:
            check_step_count(name, count)
    check_step_count("data.ways", data.ways, 2)  # one class is always right
    if not evaluation.steps:
        raise ValueError("evaluation.steps = (); allowed: at least one number of inner steps")
    check_seed("seed", preset.seed)
    check_seed("evaluation.seed", evaluation.seed)
    rates: dict[str, Any] = {
        "inner.alpha": inner.alpha,
        "outer.rate": outer.rate,
        "outer.multiple": outer.multiple,
        "method.eta": method.eta,
        "method.delta": 1.0 if method.delta in ("float", "theorem") else method.delta,
        "method.lam": 1.0 if method.lam is None else method.lam,
        "outer.L": 1.0 if outer.L is None else outer.L,
        "outer.rho": 1.0 if outer.rho is None else outer.rho,
    }
    for name, rate in rates.items():
        check_positive(name, rate)
        with np.errstate(over="ignore"):
            rounded = np.asarray(rate, preset.precision).item()
        check_positive(f"{name} = {rate!r} in {preset.precision}", rounded)
    if data.path is not None:
        check_path("data.path", data.path)
    if preset.metrics is not None:
        check_file("metrics", preset.metrics)
    theorem = preset.outer.optimizer == "theorem"
    if theorem and preset.inner.learn_alpha:
        raise ValueError("outer.optimizer = 'theorem' with inner.learn_alpha; allowed: a fixed alpha")
    name, of_maml = method.estimator, estimators.objective("maml")
    if theorem and estimators.objective(name) != of_maml:
        raise ValueError(
            f"outer.optimizer = 'theorem' with method.estimator = {name!r}, whose objective is "
            f"{estimators.objective(name)}; allowed: an estimator of {of_maml}"
        )
    proximal = [n for n, e in estimators.estimators().items() if "lam" in inspect.signature(e).parameters]
    if method.lam is not None and name not in proximal:
        raise ValueError(
            f"method.lam = {method.lam!r} with method.estimator = {name!r}; allowed: None, or "
            f"{' or '.join(proximal)}"
        )
    if method.lam is not None and inner.learn_alpha:
        raise ValueError(
            f"inner.learn_alpha with method.lam = {method.lam!r}; allowed: a fixed alpha, that of the solver"
        )
    if inner.learn_alpha and "learn_alpha" not in inspect.signature(estimators.get(name)).parameters:
        raise ValueError(
            f"inner.learn_alpha with method.estimator = {name!r}, which is the gradient of "
            f"{estimators.objective(name)}; allowed: a fixed alpha"
        )
    needed = {"outer.L": theorem, "outer.rho": theorem or preset.method.delta == "theorem"}
    for name, is_needed in needed.items():
        if is_needed and getattr(preset.outer, name.split(".")[1]) is None:
            raise ValueError(
                f"{name} = None; needed by the theorem's step and delta: a number > 0 "
                "(jaxmaml advise measures it)"
            )


def delta_of(preset: Preset) -> ArcDelta | float:
    """The difference step of hf_maml."""
    if preset.method.delta == "float":
        return float_optimal_delta(preset.precision)
    if preset.method.delta == "theorem":
        assert preset.outer.rho is not None
        return theorem_delta(preset.outer.rho, preset.inner.alpha, preset.method.eta)
    return float(preset.method.delta)


def outer_optimizer(preset: Preset) -> optax.GradientTransformationExtraArgs:
    outer = preset.outer
    if outer.optimizer == "theorem":
        assert outer.L is not None
        assert outer.rho is not None
        # The constant of the theorem that the estimator belongs to; differentiation through the step is MAML.
        name = preset.method.estimator if preset.method.estimator in theorems() else "maml"
        step = scale_by_theorem_step(theorems()[name].c, outer.L, outer.rho, preset.inner.alpha)
        return optax.chain(step, optax.inject_hyperparams(optax.scale)(outer.multiple))
    chosen = {"adam": optax.adam, "sgd": optax.sgd}[outer.optimizer]
    # In the state, so that runs that differ in it are one program.
    return optax.inject_hyperparams(chosen)(outer.rate)


def gradients_a_step(preset: Preset) -> float:
    return recipe(preset).gradients_a_step


def with_steps(preset: Preset, steps: int) -> Preset:
    return dataclasses.replace(preset, outer=dataclasses.replace(preset.outer, steps=steps))
