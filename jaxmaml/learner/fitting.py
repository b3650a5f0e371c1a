"""Training from Python, by the loop of `jaxmaml train`."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmaml import estimators
from jaxmaml.checks import check_callable, check_estimator, check_seed, check_step_count
from jaxmaml.estimators._adapted import without_aux
from jaxmaml.estimators.hf_maml import float_optimal_delta
from jaxmaml.inner import ONE_STEP, InnerLoop, check_alpha, check_inner
from jaxmaml.learner.inputs import (
    EVALUATION_SEED,
    Tasks,
    check_installed,
    check_learned,
    check_losses,
    check_types,
    distribution,
    numbers_of_steps,
)
from jaxmaml.learner.model import Learner
from jaxmaml.paths import check_folder, check_path
from jaxmaml.types import Estimator, Loss, PyTree


def fit(
    loss: Callable[..., Any],
    params: PyTree,
    tasks: Tasks,
    *,
    alpha: PyTree,
    estimator: str | Estimator = "maml_same_batch",
    inner: InnerLoop = ONE_STEP,
    learn_alpha: bool = False,
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 1000,
    tasks_per_step: int = 16,
    test: Tasks | None = None,
    apply: Callable[..., Any] | None = None,
    measure: Loss | None = None,
    larger_is_better: bool = True,
    evaluation_steps: Sequence[int] | None = None,
    episodes: int = 400,
    every: int = 100,
    seed: int = 0,
    evaluation_seed: int = EVALUATION_SEED,
    has_aux: bool = False,
    task_chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    folder: Any = None,
    accept_changes: bool = False,
    quiet: bool = False,
    **arguments: Any,
) -> Learner:
    """Trains parameters to adapt: `steps` outer steps, each of the mean meta-gradient of some tasks.

    Args:
      loss: loss(params, batch) -> scalar, the mean over the batch.
      params: pytree of floating-point arrays; they keep their types. They are not changed.
      tasks: what is drawn from; equal seeds draw the same.
      alpha: inner rate, a number or a pytree prefix of params; or an optax transformation.
      estimator: a name or function of `jaxmaml.estimators`, or one of yours. hf_maml has the float-optimal
        delta unless delta= is given.
      inner: number of inner steps, and which parameters adapt.
      learn_alpha: learn a rate for each parameter array as well, from alpha on, in its logarithm.
      optimizer: outer optimiser; None: optax.adam(1e-3). It gets params, with learn_alpha the pair (params,
        logarithms of the rates). One that asks for `value` gets the mean loss after adaptation, one that
        asks for `task_grad_norms` (the theorem's step) gets those of tasks of their own.
      steps, tasks_per_step: outer steps, and tasks of each.
      test: tasks of evaluations, where the number of samples alone may differ. None: other draws of `tasks`,
        which are no test where there are few tasks.
      apply: apply(params, x), for `predict`.
      measure: measure(params, batch) -> scalar, measured beside the loss; larger_is_better says what is best.
      evaluation_steps: inner steps of evaluations, beside 0 and those of training; the first chooses the
        best. None: those of training.
      episodes, evaluation_seed: how many tasks an evaluation has, and which: the same at every evaluation.
      every: outer steps between two evaluations (and checkpoints).
      seed: of all draws of training.
      has_aux: whether loss returns (scalar, aux); aux is left out.
      task_chunk, mesh: as in `meta_gradient`.
      folder: where checkpoints are kept. A fit that was killed goes on there, bitwise as if it had not been;
        more steps prolong it. Another configuration, other data or other code are refused. None: nothing is.
      accept_changes: go on with other code or other versions of packages.
      quiet: say nothing.
      **arguments: of the estimator, e.g. delta=0.01.

    Returns:
      The `Learner` of the last step.

    Raises (before anything is compiled or written):
      ValueError, TypeError: by the name of what is wrong; ImportError: pandas or filelock are not installed.
    Raises later:
      FloatingPointError: the parameters are not finite. SystemExit: SIGTERM came, and all is kept in folder.
    """
    check_installed("fit", "pandas", "filelock")
    from jaxmaml.learner import record
    from jaxmaml.training import loop, outer, store

    _check_numbers(steps, tasks_per_step, episodes, every, task_chunk, seed, evaluation_seed)
    check_inner(inner)
    counts = [inner.steps] if evaluation_steps is None else evaluation_steps
    measured = numbers_of_steps("evaluation_steps", counts)
    if folder is not None:
        check_folder("folder", folder)
    check_types(params)
    check_alpha(alpha, params, learn_alpha)
    if learn_alpha:
        check_learned(alpha)
    own = estimators.get(estimator) if isinstance(estimator, str) else estimator
    arguments = _arguments(own, params, arguments)
    check_estimator(own, loss, alpha=alpha, inner=inner, **arguments)
    for name, function in (("apply", apply), ("measure", measure)):
        if function is not None:
            check_callable(name, function, f"{name}(params, ...)")
    update = optax.adam(1e-3) if optimizer is None else optimizer
    if not isinstance(update, optax.GradientTransformation):
        raise TypeError(f"optimizer = {optimizer!r}; allowed: an optax transformation, e.g. optax.adam(1e-3)")

    training = distribution("tasks", tasks)
    at_test = training if test is None else distribution("test", test)
    check_losses(loss, measure, has_aux, params, training, at_test)
    params = jax.tree.map(jnp.array, params)  # copies: the caller's arrays may change meanwhile
    recipe = outer.Recipe(
        name="fit",
        estimator=own,
        arguments=arguments,
        alpha=alpha,
        inner=inner,
        learn_alpha=learn_alpha,
        optimizer=optax.with_extra_args_support(update),
        asks=frozenset(),
        tasks=tasks_per_step,
        steps=steps,
        measured=measured,
        episodes=episodes,
        every=every,
        evaluation_seed=evaluation_seed,
        seed=seed,
        task_chunk=task_chunk,
        has_aux=has_aux,
    )
    recipe = dataclasses.replace(recipe, asks=outer.asked(recipe, params))
    problem = outer.TrainingProblem(
        training,
        at_test,
        params,
        loss,
        measure or without_aux(loss, has_aux),
        "measure" if measure else "loss",
        measure is not None and larger_is_better,
        apply,
    )
    functions = outer.functions(recipe, problem, mesh)
    programs = record.programs(recipe, problem, functions)
    configuration = record.configuration(recipe, problem, mesh, larger_is_better)
    opening = None
    if folder is not None:
        of_folder = record.of_fit(configuration, steps, measured[0], accept_changes)
        sums = {name: record.sum_of_program(program) for name, program in programs.items()}
        opening = store.opened(check_path("folder", folder), of_folder, sums, problem.ascending)
    state, curve = loop.run(recipe, problem, functions, opening, quiet=quiet)
    if int(state.step) < steps:
        raise SystemExit(loop.STOPPED)
    return Learner(
        params=state.params,
        alpha=outer.alpha_of(recipe, state),
        inner=inner,
        loss=loss,
        apply=apply,
        measure=measure,
        has_aux=has_aux,
        step=steps,
        configuration={"fit": configuration},
        records=curve.to_dict("records"),
    )


def _check_numbers(
    steps: Any,
    tasks_per_step: Any,
    episodes: Any,
    every: Any,
    task_chunk: Any,
    seed: Any,
    evaluation_seed: Any,
) -> None:
    counts = {"steps": steps, "tasks_per_step": tasks_per_step, "episodes": episodes, "every": every}
    for name, count in counts.items():
        check_step_count(name, count)
    if task_chunk is not None:
        check_step_count("task_chunk", task_chunk)
    check_seed("seed", seed)
    check_seed("evaluation_seed", evaluation_seed)


def _arguments(estimator: Any, params: PyTree, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those given, and the float-optimal delta where one is needed."""
    check_callable("estimator", estimator, f"a function, or one of {', '.join(estimators.estimators())}")
    delta = inspect.signature(estimator).parameters.get("delta")
    if "delta" in given or delta is None or delta.default is not inspect.Parameter.empty:
        return dict(given)
    return {"delta": float_optimal_delta(jnp.result_type(*jax.tree.leaves(params))), **given}
