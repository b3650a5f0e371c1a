"""Evaluation on fixed tasks: adapt on the support batch, measure on the query batch."""

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.checks import check_seed, check_step_count
from jaxmaml.data import Distribution
from jaxmaml.estimators._adapted import without_aux
from jaxmaml.inner import InnerLoop
from jaxmaml.learner.inputs import EVALUATION_SEED, Tasks, check_losses, distribution, numbers_of_steps
from jaxmaml.learner.model import Learner, applied, parts
from jaxmaml.statistics import Interval, interval
from jaxmaml.types import Loss, PyTree


@dataclass(frozen=True)
class Measurement:
    """After some inner steps on the support batches of test tasks, on their query batches."""

    steps: int
    loss: Interval
    """mean, low and high (95 %) over tasks, n."""
    measure: Interval | None
    transductive: bool | None
    """whether a prediction depends on the other samples of its batch; None: not known."""
    losses: np.ndarray = field(repr=False)
    """of each task, shape (n,)."""
    measures: np.ndarray | None = field(repr=False)

    def __str__(self) -> str:
        both = {"loss": self.loss, "measure": self.measure}
        said = [f"{k} {x.mean:.4g} [{x.low:.4g}, {x.high:.4g}]" for k, x in both.items() if x is not None]
        note = ", transductive" if self.transductive else ""
        plural = "" if self.steps == 1 else "s"
        return f"{self.steps} inner step{plural}: {', '.join(said)} (95 %, n = {self.loss.n}{note})"


def evaluate(
    learner: Learner,
    tasks: Tasks,
    steps: Sequence[int] | None = None,
    *,
    episodes: int = 400,
    seed: int = EVALUATION_SEED,
    measure: Loss | None = None,
    task_chunk: int | None = None,
) -> dict[int, Measurement]:
    """Measurements on fixed tasks: adapt on the support batch of each, measure on its query batch.

    Args:
      learner: as of `fit` or `load`.
      tasks: a distribution, or a function (key, tasks) -> Episode; its Hessian batches are not used.
      steps: numbers of inner steps; None: 0 and those of training.
      episodes: tasks that are drawn. Intervals are over these, for the parameters as they are.
      seed: equal seeds give the same tasks, whatever the learner.
      measure: measure(params, batch) -> scalar beside the loss; None: the learner's.
      task_chunk: tasks vectorised together; None: 64.

    Returns:
      {steps: Measurement}; a value of one task that is not finite makes the mean nan.
    """
    loss = learner._needed("loss", "evaluate")
    counts = (0, learner.inner.steps) if steps is None else numbers_of_steps("steps", steps)
    check_step_count("episodes", episodes)
    check_step_count("task_chunk", 64 if task_chunk is None else task_chunk)
    check_seed("seed", seed)
    drawn_from = distribution("tasks", tasks)
    measure = learner.measure if measure is None else measure
    check_losses(loss, measure, learner.has_aux, learner.params, drawn_from, drawn_from)
    rates, update = parts(learner.alpha)
    found = _measured(
        learner.params,
        rates,
        drawn_from,
        jax.random.key(seed),
        update=update,
        loss=loss,
        measure=measure,
        has_aux=learner.has_aux,
        inner=learner.inner,
        counts=tuple(dict.fromkeys(counts)),
        episodes=episodes,
        chunk=min(episodes, task_chunk or 64),
    )
    transductive = None
    if learner.apply is not None:
        batch = _a_query(drawn_from, jax.random.key(seed))
        transductive = _is_transductive(learner.apply, learner.params, batch)
    made = {}
    for k, (losses, values) in found.items():
        losses = np.asarray(losses, float)
        values = None if measure is None else np.asarray(values, float)
        of_measure = None if values is None else interval(values)
        made[k] = Measurement(k, interval(losses), of_measure, transductive, losses, values)
    return made


@functools.partial(
    jax.jit,
    static_argnames=("update", "loss", "measure", "has_aux", "inner", "counts", "episodes", "chunk"),
)
def _measured(
    params: PyTree,
    rates: PyTree,
    tasks: Distribution,
    key: jax.Array,
    *,
    update: Any,
    loss: Any,
    measure: Any,
    has_aux: bool,
    inner: InnerLoop,
    counts: tuple[int, ...],
    episodes: int,
    chunk: int,
) -> dict[int, tuple[jax.Array, jax.Array]]:
    from jaxmaml.training import outer

    value = without_aux(loss, has_aux)
    drawn = tasks.episodes(key, episodes)
    of = functools.partial(
        outer.measured, value, measure or value, params, update or rates, inner, drawn, chunk=chunk
    )
    return {k: of(k) for k in counts}


@jax.jit
def _a_query(tasks: Distribution, key: jax.Array) -> PyTree:
    """The query batch of a task."""
    return jax.tree.map(lambda x: x[0], tasks.episodes(key, 1).outer)


def _is_transductive(apply: Any, params: PyTree, batch: PyTree) -> bool | None:
    """Whether the output of the first sample of batch = (x, y, ...) changes with the other samples."""
    if not isinstance(batch, tuple) or len(batch) < 2:
        return None
    takes = inspect.signature(apply)
    more = {"key": jax.random.key(0)} if "key" in takes.parameters else {}
    x = batch[0]
    if any(jnp.shape(leaf)[0] < 2 for leaf in jax.tree.leaves(x)):
        return None
    alone = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], jnp.shape(leaf)), x)
    ours, its = (np.asarray(jax.tree.leaves(applied(apply, params, each, more))[0][0]) for each in (x, alone))
    if not np.issubdtype(ours.dtype, np.floating):
        return bool(np.any(ours != its))
    # The same program: what differs by more than rounding does so because of the others.
    far = np.sqrt(np.finfo(ours.dtype).eps) * max(np.abs(ours).max(), np.abs(its).max())
    return bool(np.any(np.abs(ours - its) > far))
