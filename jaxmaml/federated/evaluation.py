"""How well clients do after a few steps on their own data.

A client adapts on its own training samples, all of them in each of nu steps, and is measured on its own
held-out samples, which it sees for nothing else.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.checks import check_callable, check_params, check_step_count, scalar
from jaxmaml.federated.clients import Clients, Samples, pack
from jaxmaml.federated.rounds import MEANS, Run
from jaxmaml.inner import ONE_STEP, InnerLoop, adapt, check_alpha, check_inner, is_optax
from jaxmaml.names import unknown
from jaxmaml.statistics import Interval
from jaxmaml.statistics import interval as interval_of
from jaxmaml.types import Loss, PyTree


@dataclass(frozen=True)
class Evaluation:
    """The measure of each client after each number of steps."""

    names: tuple[Hashable, ...]
    sizes: tuple[int, ...]
    """held-out samples of each client."""
    steps: tuple[int, ...]
    """nu."""
    values: np.ndarray
    """shape (len(steps), clients)."""

    def of(self, name: Hashable) -> dict[int, float]:
        """A client's measure by nu."""
        if name not in self.names:
            unknown("client", str(name), map(str, self.names))
        column = self.values[:, self.names.index(name)]
        return dict(zip(self.steps, map(float, column), strict=True))

    def mean(self, steps: int, weights: str = "uniform") -> Interval:
        """Mean over clients after nu = steps, with its 95 % interval over clients.

        weights: "uniform", every client counts alike, or "size": by its held-out samples, which makes it the
        mean over all samples.
        """
        if steps not in self.steps:
            raise ValueError(f"steps = {steps!r}; allowed: {', '.join(map(str, self.steps))}")
        if weights not in MEANS:
            unknown("weights", weights, MEANS)
        values = self.values[self.steps.index(steps)]
        return interval_of(values, weights=self.sizes if weights == "size" else None)

    def __str__(self) -> str:
        lines = [f"steps  mean over {len(self.names)} clients  by size"]
        for nu in self.steps:
            each, size = self.mean(nu), self.mean(nu, "size")
            lines.append(
                f"{nu:5d}  {each.mean:.4f} [{each.low:.4f}, {each.high:.4f}]  "
                f"{size.mean:.4f} [{size.low:.4f}, {size.high:.4f}]"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Curve:
    """Evaluations after some of the rounds of a run, the last among them."""

    rounds: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def last(self) -> Evaluation:
        """Of the last round: what to report."""
        return self.evaluations[-1]

    def best(self, steps: int, *, largest: bool = True, weights: str = "uniform") -> tuple[int, Evaluation]:
        """(round, evaluation) with the best mean after nu = steps.

        Chosen by the very samples that it is measured on, so it is better than it would be on others: report
        it as the best of so many rounds, if at all. For a loss largest=False.
        """
        means = np.array([found.mean(steps, weights).mean for found in self.evaluations])
        at = int(np.argmax(means if largest else -means))
        return self.rounds[at], self.evaluations[at]


def evaluate(
    loss: Loss,
    params: PyTree,
    training: Samples | Clients,
    test: Samples | Clients,
    *,
    alpha: PyTree,
    steps: Sequence[int] = (0, 1),
    measure: Loss | None = None,
    inner: InnerLoop = ONE_STEP,
    client_chunk: int | None = None,
) -> Evaluation:
    """Each client from `params`, after nu steps on its training samples, measured on its held-out ones.

    Clients that the server never saw are evaluated in the same way.

    Args:
      loss: loss(params, (x, y)) -> scalar, the mean over the batch; what a client adapts by.
      params: of the server, `run.params`.
      training, test: {name: (x, y)} with the same names, as `hold_out` makes them.
      alpha: rate of the adaptation, or an optax transformation.
      steps: the nu to measure after; 0 is the server's w itself.
      measure: measure(params, (x, y)) -> scalar, a mean over the batch as `models.accuracy` is; None: loss.
      inner: its mask says which parameters adapt.
      client_chunk: clients that are vectorised together; None takes all of them at once.

    Leaves that `refresh` of `per_fedavg` keeps, such as running statistics, stay those of the server here.

    Raises (before the evaluation compiles):
      ValueError: names that differ, training and test samples that are the same, steps or alpha out of range;
        clients of unequal sizes with a loss or measure that is no mean over samples, e.g. because of a
        network that normalises by the batch at hand (they would count the samples that fill up).
    """
    training, test = pack(training), pack(test)
    found = client_values(
        loss,
        params,
        training,
        test,
        alpha=alpha,
        steps=steps,
        measure=measure,
        inner=inner,
        client_chunk=client_chunk,
    )
    return Evaluation(test.names, test.sizes, tuple(steps), np.asarray(found, float))


def curve(
    loss: Loss,
    run: Run,
    training: Samples | Clients,
    test: Samples | Clients,
    **arguments: Any,
) -> Curve:
    """`evaluate` after each round that the run kept (`every`). Arguments as for `evaluate`."""
    training, test = pack(training), pack(test)
    rounds = tuple(int(k) for k in np.asarray(run.rounds))
    history = jax.tree.map(np.asarray, run.history)
    return Curve(
        rounds,
        tuple(
            evaluate(loss, jax.tree.map(lambda x, i=i: x[i], history), training, test, **arguments)
            for i in range(len(rounds))
        ),
    )


def client_values(
    loss: Loss,
    params: PyTree,
    training: Clients,
    test: Clients,
    *,
    alpha: PyTree,
    steps: Sequence[int] = (0, 1),
    measure: Loss | None = None,
    inner: InnerLoop = ONE_STEP,
    client_chunk: int | None = None,
) -> jax.Array:
    """`evaluate` as an array, shape (len(steps), clients), which works under jit and vmap.

    Arguments and errors as for `evaluate`; the clients are packed.
    """
    measure = loss if measure is None else measure
    check_callable("loss", loss, "loss(params, batch) -> scalar")
    check_callable("measure", measure, "measure(params, batch) -> scalar")
    check_params(params)
    check_alpha(alpha, params)
    check_inner(inner)
    if not steps:
        raise ValueError(f"steps = {steps!r}; allowed: at least one number of steps")
    for nu in steps:
        check_step_count("steps", nu, 0)
    if client_chunk is not None:
        check_step_count("client_chunk", client_chunk)
    if training.names != test.names:
        other = sorted(map(str, set(training.names) ^ set(test.names))) or ["the order"]
        raise ValueError(
            f"training and test clients differ: {', '.join(other)}; allowed: the same names in the same order"
        )
    _check_apart(training, test)
    for name, function, clients in (("loss", loss, training), ("measure", measure, test)):
        _check_mean_over_samples(name, function, params, clients)
    plan = _Plan(
        loss, measure, tuple(map(int, steps)), inner, client_chunk, alpha if is_optax(alpha) else None
    )
    return _values(plan, params, training, test, None if is_optax(alpha) else alpha)


class _Plan(NamedTuple):
    """What is static."""

    loss: Loss
    measure: Loss
    steps: tuple[int, ...]
    inner: InnerLoop
    client_chunk: int | None
    update: Any
    """an optax transformation in the place of the rate, or None."""


@functools.partial(jax.jit, static_argnames="plan")
def _values(plan: _Plan, params: PyTree, training: Clients, test: Clients, rate: PyTree) -> jax.Array:
    loss, measure = _over(plan.loss, training), _over(plan.measure, test)
    alpha = rate if plan.update is None else plan.update

    def adapted(nu: int, own: PyTree) -> PyTree:
        return adapt(loss, params, own, alpha, replace(plan.inner, steps=nu)) if nu else params

    def one(rows: tuple) -> jax.Array:
        own, held_out = (
            (clients.x[at], clients.y[at], there)
            for clients, (at, there) in zip((training, test), rows, strict=True)
        )
        return jnp.stack([measure(adapted(nu, own), held_out) for nu in plan.steps])

    rows = jax.tree.map(jnp.asarray, (training.rows(), test.rows()))
    if plan.client_chunk is None:
        return jax.vmap(one, out_axes=1)(rows)
    return jax.lax.map(one, rows, batch_size=plan.client_chunk).T


def _over(function: Loss, clients: Clients) -> Callable[[PyTree, PyTree], Any]:
    """function over the samples that are there, of a batch (x, y, there).

    Where all clients have as many samples this is the function; otherwise the mean of its values on single
    samples, so that it needs to know nothing of those that fill up.
    """
    function = scalar(function)
    if len(set(clients.sizes)) == 1:
        return lambda params, batch: function(params, batch[:2])
    return lambda params, batch: _mean_of_samples(function, params, *batch)


def _mean_of_samples(function: Loss, params: PyTree, x: Any, y: Any, there: Any) -> jax.Array:
    each = jax.vmap(lambda x, y: function(params, (x[None], y[None])))(x, y)
    return jnp.sum(jnp.where(there, each, 0)) / jnp.sum(there)


def _check_apart(training: Clients, test: Clients) -> None:
    """No client is tested on the samples that it adapts on."""
    arrays = (training.x, training.y, test.x, test.y)
    if training.sizes != test.sizes or any(isinstance(array, jax.core.Tracer) for array in arrays):
        return
    if np.array_equal(training.x, test.x) and np.array_equal(training.y, test.y):
        raise ValueError(
            "training and test are the same samples; allowed: held-out ones, e.g. federated.hold_out(clients)"
        )


def _check_mean_over_samples(name: str, function: Loss, params: PyTree, clients: Clients) -> None:
    """Clients of unequal sizes are filled up; only a mean over samples can leave that out."""
    several = [i for i, n in enumerate(clients.sizes) if n > 1]
    leaves = jax.tree.leaves((params, clients))
    if len(set(clients.sizes)) == 1 or not several or any(isinstance(x, jax.core.Tracer) for x in leaves):
        return
    start = clients.offsets[several[0]]
    batch = tuple(
        array[start : start + min(8, clients.sizes[several[0]])] for array in (clients.x, clients.y)
    )
    found, expected = map(float, _both(function, params, batch))
    eps = float(jnp.finfo(jax.tree.leaves(params)[0].dtype).eps)
    if not np.isclose(found, expected, rtol=eps**0.5, atol=eps**0.5, equal_nan=True):
        raise ValueError(
            f"{name} of a batch is {found:.6g}, the mean over its samples {expected:.6g}, and clients have "
            f"{min(clients.sizes)} to {max(clients.sizes)} samples; allowed: a mean over samples (no sum, no "
            "network that normalises by the batch at hand), or clients of equal sizes"
        )


@functools.partial(jax.jit, static_argnames="function")
def _both(function: Loss, params: PyTree, batch: tuple) -> tuple[jax.Array, jax.Array]:
    there = jnp.ones(len(batch[0]), bool)
    x, y = batch
    return function(params, batch), _mean_of_samples(function, params, x, y, there)
