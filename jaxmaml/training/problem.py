"""From a preset to functions: the tasks, the network, its loss, the meta-gradient and the outer optimiser."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxmaml import (
    ArcDelta,
    InnerLoop,
    adapt,
    estimators,
    float_optimal_delta,
    meta_gradient,
    models,
    scale_by_theorem_step,
    theorem_delta,
    tree,
)
from jaxmaml._meta_gradient import share
from jaxmaml.checks import check_positive, check_seed, check_step_count
from jaxmaml.data import Distribution, classes, image_sets, image_shape
from jaxmaml.data.images import Images
from jaxmaml.data.sinusoid import Sinusoid
from jaxmaml.names import unknown
from jaxmaml.paths import check_file, check_path
from jaxmaml.theory import theorems
from jaxmaml.training.presets import Data, Preset
from jaxmaml.types import Episode, Loss, PyTree


class TrainingProblem(NamedTuple):
    """Tasks, and a network with its loss and measure."""

    training: Distribution
    test: Distribution
    params: PyTree
    loss: Loss
    measure: Loss
    """of adapted parameters on a batch: accuracy, or squared error."""
    unit: str
    """of the measure: "accuracy" or "mean squared error"."""
    apply: Callable[..., jax.Array]

    @property
    def ascending(self) -> bool:
        """Whether a larger measure is better."""
        return self.unit == "accuracy"


def build(preset: Preset) -> TrainingProblem:
    """The tasks (on the device) and the network of a preset, in its precision.

    Raises:
      ValueError: unknown names, sizes out of range; FileNotFoundError: data that are not there.
    """
    training, test = distributions(preset)
    params, apply = models.split(network(preset))
    if preset.data.name == "sinusoid":
        loss = models.squared_error(apply)
        return TrainingProblem(training, test, params, loss, loss, "mean squared error", apply)
    return TrainingProblem(
        training, test, params, models.cross_entropy(apply), models.accuracy(apply), "accuracy", apply
    )


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


class State(NamedTuple):
    """All that a run needs to go on."""

    step: jax.Array
    params: PyTree
    log_alpha: PyTree
    """of the learned rates, one for each parameter array; {} if they are not learned."""
    optimizer: PyTree
    key: jax.Array
    """data of the key that every draw comes from, with the step folded in."""


class Functions(NamedTuple):
    """What the loop calls; `advance` and `measure` are compiled."""

    start: Callable[[], State]
    place: Callable[[Any], Any]
    """puts arrays where the compiled functions take them: on every device."""
    advance: Any
    """(state, step to stop at, training tasks) -> state."""
    measure: Any
    """(state, test tasks) -> (loss, measure) of each episode, by inner steps."""
    gradients_a_step: float
    """gradients of one batch that an outer step costs, a Hessian-vector product counted as two."""


def alpha_of(preset: Preset, state: State) -> PyTree:
    """The inner rates in force."""
    return jax.tree.map(jnp.exp, state.log_alpha) if preset.inner.learn_alpha else preset.inner.alpha


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
    everywhere = None if mesh is None else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    optimizer = outer_optimizer(preset)
    estimator = estimators.get(preset.method.estimator)
    takes = inspect.signature(estimator).parameters
    more: dict[str, Any] = {"delta": delta_of(preset)} if "delta" in takes else {}
    inner = inner_loop(preset, preset.inner.steps)
    learned = preset.inner.learn_alpha

    def one(state: State, tasks: Distribution) -> State:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        for_direction, for_step = jax.random.split(key)
        alpha = alpha_of(preset, state)
        found = meta_gradient(
            estimator,
            problem.loss,
            state.params,
            tasks.episodes(for_direction, preset.outer.tasks),
            alpha=alpha,
            inner=inner,
            learn_alpha=learned,
            task_chunk=preset.method.task_chunk,
            mesh=mesh,
            **more,
        )
        # d/d log alpha = alpha d/d alpha.
        gradient = (found[0], jax.tree.map(jnp.multiply, alpha, found[1])) if learned else (found, {})
        extra = {}
        if preset.outer.optimizer == "theorem":
            batches = tasks.episodes(for_step, preset.outer.tasks).inner
            extra["task_grad_norms"] = jax.vmap(lambda b: tree.norm(jax.grad(problem.loss)(state.params, b)))(
                batches
            )
        updates, memory = optimizer.update(
            gradient, state.optimizer, (state.params, state.log_alpha), **extra
        )
        params, rates = optax.apply_updates((state.params, state.log_alpha), updates)
        return State(state.step + 1, params, rates, memory, state.key)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def advance(state: State, stop: jax.Array, tasks: Distribution) -> State:
        return jax.lax.while_loop(lambda s: s.step < stop, lambda s: one(s, tasks), state)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def measure(state: State, tasks: Distribution) -> dict[int, tuple[jax.Array, jax.Array]]:
        episodes = tasks.episodes(jax.random.key(preset.evaluation.seed), preset.evaluation.episodes)
        counts = (0, *preset.evaluation.steps)
        return {k: measured(preset, problem, state, episodes, k, mesh) for k in counts}

    def place(arrays: PyTree) -> PyTree:
        if everywhere is None:
            return jax.device_put(arrays)
        put = functools.partial(jax.make_array_from_process_local_data, everywhere)
        return jax.tree.map(lambda x: put(np.asarray(x)), arrays)

    def begin() -> State:
        return place(start(preset, problem.params))

    return Functions(begin, place, advance, measure, gradients_a_step(preset))


def start(preset: Preset, params: PyTree) -> State:
    """The state of step 0."""
    first = jnp.asarray(math.log(preset.inner.alpha), preset.precision)
    rates = jax.tree.map(lambda _: first, params) if preset.inner.learn_alpha else {}
    memory = outer_optimizer(preset).init((params, rates))
    key = jax.random.key_data(jax.random.key(preset.seed))
    return State(jnp.asarray(0), params, rates, memory, key)


def measured(
    preset: Preset,
    problem: TrainingProblem,
    state: State,
    episodes: Episode,
    steps: int,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(loss, measure) on the query batch of each episode after `steps` inner steps, shape (episodes,).

    The devices of mesh share the episodes; where these are not divided evenly, some measure one again.
    """

    def one(episode: Episode) -> tuple[jax.Array, jax.Array]:
        w = adapted(preset, problem, state, episode.inner, steps)
        return problem.loss(w, episode.outer), problem.measure(w, episode.outer)

    def each(some: Episode) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(one, some, batch_size=preset.method.task_chunk or preset.outer.tasks)

    if mesh is None:
        return each(episodes)
    count = preset.evaluation.episodes
    everywhere, tasks = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(mesh.axis_names)
    of_device = jax.shard_map(
        lambda all_of_them: each(share(all_of_them, count, mesh)[0]),
        mesh=mesh,
        in_specs=everywhere,
        out_specs=tasks,
    )
    return jax.tree.map(lambda x: x[:count], of_device(episodes))


def adapted(preset: Preset, problem: TrainingProblem, state: State, batch: PyTree, steps: int) -> PyTree:
    """Parameters after `steps` inner steps on a batch; 0 leaves them as they are."""
    if steps == 0:
        return state.params
    return adapt(problem.loss, state.params, batch, alpha_of(preset, state), inner_loop(preset, steps))


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
    """Each task: those of the estimator, and one for the step L~."""
    step_size = 1 if preset.outer.optimizer == "theorem" else 0
    each = estimators.gradients(preset.method.estimator, preset.inner.steps)
    return float(preset.outer.tasks * (each + step_size))


def with_steps(preset: Preset, steps: int) -> Preset:
    return dataclasses.replace(preset, outer=dataclasses.replace(preset.outer, steps=steps))
