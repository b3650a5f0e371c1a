"""The outer loop as pure functions: a step, and the evaluation.

    (w, log a) <- (w, log a) + U(G, dF/dlog a)

G is the mean of an estimator over B tasks of a draw, U an optax update. Every draw is a function of the seed
and the step. An evaluation adapts on the support batch of an episode and measures on its query batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmaml import InnerLoop, adapt, meta_value_and_gradient, tree
from jaxmaml._meta_gradient import share
from jaxmaml.data import Distribution
from jaxmaml.estimators._adapted import without_aux
from jaxmaml.types import Episode, Estimator, Loss, PyTree


class TrainingProblem(NamedTuple):
    """Tasks, and a network with its loss and measure."""

    training: Distribution
    test: Distribution
    params: PyTree
    loss: Callable[..., Any]
    """loss(params, batch) -> scalar, or (scalar, aux) with `Recipe.has_aux`."""
    measure: Loss
    """of adapted parameters on a batch: accuracy, or squared error."""
    unit: str
    """of the measure: "accuracy" or "mean squared error"."""
    ascending: bool
    """whether a larger measure is better."""
    apply: Any
    """apply(params, x) -> outputs; None where it is not known."""


@dataclass(frozen=True)
class Recipe:
    """How a problem is trained and evaluated."""

    name: str
    estimator: Estimator
    arguments: Mapping[str, Any]
    """of the estimator, beside alpha and the inner loop: delta."""
    alpha: PyTree
    """inner rate or rates (at the start, where they are learned), or an optax transformation."""
    inner: InnerLoop
    """in training; evaluations differ in the number of steps alone."""
    learn_alpha: bool
    """whether a rate for each parameter array is learned as well, from alpha on."""
    optimizer: optax.GradientTransformationExtraArgs
    """of the parameters; where rates are learned, of (parameters, logarithms of the rates)."""
    asks: frozenset[str]
    """what its update takes beside gradients: some of `OFFERED`."""
    tasks: int
    """of a step, B."""
    steps: int
    """outer steps in all."""
    measured: tuple[int, ...]
    """numbers of inner steps of an evaluation, beside 0 and those of training; the first chooses the best."""
    episodes: int
    """of an evaluation."""
    every: int
    """outer steps between two evaluations, checkpoints and chances to stop."""
    evaluation_seed: int
    seed: int
    task_chunk: int | None = None
    """tasks vectorised together; None: all of a step."""
    has_aux: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """Of inner steps, that an evaluation measures after: none, those of training, and `measured`."""
        return tuple(sorted({0, self.inner.steps, *self.measured}))

    @property
    def gradients_a_step(self) -> float:
        """Gradients of one batch that an outer step costs, a Hessian-vector product counted as two.

        Each task: what the estimator declares, of one that declares nothing K + 1 gradients and K products;
        and one gradient for the norm that the theorem's step asks for.
        """
        declared = getattr(self.estimator, "gradients", lambda steps: 3 * steps + 1)
        return float(self.tasks * (declared(self.inner.steps) + ("task_grad_norms" in self.asks)))


OFFERED = ("value", "task_grad_norms")
"""arguments of an optax update that a step can give: the mean loss after adaptation, and the norms of the
gradients of other tasks at the parameters, on their support batches."""


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


def functions(recipe: Recipe, problem: TrainingProblem, mesh: jax.sharding.Mesh | None = None) -> Functions:
    """The outer loop of a problem, with the tasks of a step on the devices of mesh."""
    everywhere = None if mesh is None else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    value_of = without_aux(problem.loss, recipe.has_aux)

    def one(state: State, tasks: Distribution) -> State:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        for_direction, for_step = jax.random.split(key)
        alpha = alpha_of(recipe, state)
        found = meta_value_and_gradient(
            recipe.estimator,
            problem.loss,
            state.params,
            tasks.episodes(for_direction, recipe.tasks),
            alpha=alpha,
            inner=recipe.inner,
            learn_alpha=recipe.learn_alpha,
            task_chunk=recipe.task_chunk,
            mesh=mesh,
            has_aux=recipe.has_aux,
            **recipe.arguments,
        )
        # d/d log alpha = alpha d/d alpha.
        slopes = jax.tree.map(jnp.multiply, alpha, found.rates) if recipe.learn_alpha else {}
        extra = {}
        if "value" in recipe.asks:
            extra["value"] = found.value
        if "task_grad_norms" in recipe.asks:
            batches = tasks.episodes(for_step, recipe.tasks).inner
            extra["task_grad_norms"] = jax.vmap(lambda b: tree.norm(jax.grad(value_of)(state.params, b)))(
                batches
            )
        learned = _learned(recipe, state.params, state.log_alpha)
        updates, memory = recipe.optimizer.update(
            _learned(recipe, found.gradient, slopes), state.optimizer, learned, **extra
        )
        new = optax.apply_updates(learned, updates)
        params, rates = new if recipe.learn_alpha else (new, {})
        return State(state.step + 1, params, rates, memory, state.key)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def advance(state: State, stop: jax.Array, tasks: Distribution) -> State:
        return jax.lax.while_loop(lambda s: s.step < stop, lambda s: one(s, tasks), state)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def measure(state: State, tasks: Distribution) -> dict[int, tuple[jax.Array, jax.Array]]:
        episodes = tasks.episodes(jax.random.key(recipe.evaluation_seed), recipe.episodes)
        return {
            k: measured(
                value_of,
                problem.measure,
                state.params,
                alpha_of(recipe, state),
                recipe.inner,
                episodes,
                k,
                chunk=recipe.task_chunk or recipe.tasks,
                mesh=mesh,
            )
            for k in recipe.counts
        }

    def place(arrays: PyTree) -> PyTree:
        if everywhere is None:
            return jax.device_put(arrays)
        put = functools.partial(jax.make_array_from_process_local_data, everywhere)
        return jax.tree.map(lambda x: put(np.asarray(x)), arrays)

    def begin() -> State:
        return place(start(recipe, problem.params))

    return Functions(begin, place, advance, measure, recipe.gradients_a_step)


def start(recipe: Recipe, params: PyTree) -> State:
    """The state of step 0."""
    rates: PyTree = {}
    if recipe.learn_alpha:
        rates = jax.tree.map(
            lambda a, w: jnp.asarray(np.log(np.asarray(a, float)), jnp.result_type(w)),
            jax.tree.broadcast(recipe.alpha, params),
            params,
        )
    memory = recipe.optimizer.init(_learned(recipe, params, rates))
    key = jax.random.key_data(jax.random.key(recipe.seed))
    return State(jnp.asarray(0), params, rates, memory, key)


def _learned(recipe: Recipe, params: PyTree, rates: PyTree) -> PyTree:
    return (params, rates) if recipe.learn_alpha else params


def asked(recipe: Recipe, params: PyTree) -> frozenset[str]:
    """Those of `OFFERED` without which the update of the optimiser is a TypeError."""
    values = dict(zip(OFFERED, (jnp.zeros(()), jnp.ones(recipe.tasks)), strict=True))

    def update(params: PyTree, given: Mapping[str, jax.Array]) -> PyTree:
        state = start(recipe, params)
        learned = _learned(recipe, params, state.log_alpha)
        return recipe.optimizer.update(learned, state.optimizer, learned, **given)

    given: dict[str, jax.Array] = {}
    while True:
        try:
            jax.eval_shape(update, params, given)
        except TypeError as error:
            missing = [name for name in OFFERED if f"'{name}'" in str(error) and name not in given]
            if not missing:
                raise
            given |= {name: values[name] for name in missing}
        else:
            return frozenset(given)


def alpha_of(recipe: Recipe, state: State) -> PyTree:
    """The inner rates in force."""
    return jax.tree.map(jnp.exp, state.log_alpha) if recipe.learn_alpha else recipe.alpha


def measured(
    loss: Loss,
    measure: Loss,
    params: PyTree,
    alpha: PyTree,
    inner: InnerLoop,
    episodes: Episode,
    steps: int,
    *,
    chunk: int,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(loss, measure) on the query batch of each episode after `steps` inner steps, shape (episodes,).

    `chunk` episodes are vectorised together. The devices of mesh share the episodes; where these are not
    divided evenly, some measure one again.
    """

    def one(episode: Episode) -> tuple[jax.Array, jax.Array]:
        w = adapted(loss, params, alpha, inner, episode.inner, steps)
        return loss(w, episode.outer), measure(w, episode.outer)

    def each(some: Episode) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(one, some, batch_size=chunk)

    if mesh is None:
        return each(episodes)
    count = jax.tree.leaves(episodes)[0].shape[0]
    everywhere, tasks = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(mesh.axis_names)
    of_device = jax.shard_map(
        lambda all_of_them: each(share(all_of_them, count, mesh)[0]),
        mesh=mesh,
        in_specs=everywhere,
        out_specs=tasks,
    )
    return jax.tree.map(lambda x: x[:count], of_device(episodes))


def adapted(loss: Loss, params: PyTree, alpha: PyTree, inner: InnerLoop, batch: PyTree, steps: int) -> PyTree:
    """Parameters after `steps` inner steps on a batch; 0 leaves them as they are."""
    if steps == 0:
        return params
    return adapt(loss, params, batch, alpha, dataclasses.replace(inner, steps=steps))
