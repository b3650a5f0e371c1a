"""Per-FedAvg and FedAvg: rounds of local steps on sampled clients, and their mean.

    round k:  S clients are sampled without replacement; each starts from the server's w,
              w_i <- w;   tau times   w_i <- w_i - beta G(w_i),   each with fresh batches of its own data;
              w <- sum_i p_i w_i / sum_i p_i   over the sampled clients.

In Per-FedAvg G is an estimator of the meta-gradient on three disjoint batches D_in, D_h, D_o, with the inner
rate alpha: `maml` (exact), `fo_maml`, `hf_maml` (with its delta), `maml_same_batch`, or one of your own. In
FedAvg (McMahan et al. 2017) it is the gradient on one batch. alpha, beta and delta are three numbers.

After Fallah, Mokhtari, Ozdaglar, *Personalized Federated Learning with Theoretical Guarantees: A
Model-Agnostic Meta-Learning Approach* (NeurIPS 2020).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmaml import tree
from jaxmaml.checks import (
    check_callable,
    check_estimator,
    check_params,
    check_positive,
    check_step_count,
    scalar,
)
from jaxmaml.data._selection import codes, distinct
from jaxmaml.estimators.maml import maml
from jaxmaml.federated.clients import Clients, Samples, pack
from jaxmaml.inner import check_alpha
from jaxmaml.names import unknown
from jaxmaml.types import Episode, Loss, PyTree, Scalar

Refresh = Callable[[PyTree, PyTree], PyTree]
"""refresh(w, batch) -> w with what no gradient moves, such as running statistics, as the batch has it."""
MEANS = ("size", "uniform")


class Run(NamedTuple):
    """What came of it. `params` is what the server has after the last round, not after the best."""

    params: PyTree
    history: PyTree
    """params after each of `rounds`: leaves have an axis more, first."""
    rounds: jax.Array
    """`every`, 2 `every`, ..., the last; shape (R,)."""
    sampled: jax.Array
    """the clients of each round, by their place in the dict, shape (rounds, S)."""
    finite: jax.Array
    """whether params were finite after each round, shape (rounds,): where it diverged."""


def per_fedavg(
    loss: Loss,
    params: PyTree,
    clients: Samples | Clients,
    *,
    alpha: PyTree,
    beta: Scalar,
    rounds: int,
    key: jax.Array,
    estimator: Callable[..., PyTree] = maml,
    local_steps: int = 5,
    sampled: int | None = None,
    batch_sizes: tuple[int, int, int] = (10, 10, 10),
    weights: str = "size",
    sampling: str = "uniform",
    server: optax.GradientTransformation | None = None,
    refresh: Refresh | None = None,
    every: int | None = None,
    client_chunk: int | None = None,
    **options: Any,
) -> Run:
    """Per-FedAvg: the server's w from which a client adapts with a step or a few of rate alpha.

    One program under jit: the rounds are a scan, the sampled clients are vectorised. It may itself be called
    under jit and vmap, over keys, params, alpha, beta, delta and the arrays of `Clients`.

    Args:
      loss: loss(params, (x, y)) -> scalar, the mean over the batch.
      params: the server's w at the start, a pytree of floating-point arrays. All its leaves are averaged.
      clients: {name: (x, y)}, the clients' training samples, or what `pack` makes of them.
      alpha: inner rate, as for the estimator (unit u^2/phi).
      beta: rate of the local steps (unit u^2/phi).
      rounds: rounds of communication.
      key: jax.random.key(seed). The same key gives the same clients and the same D_in and D_o, whatever the
        estimator and the size of D_h.
      estimator: `maml`, `fo_maml`, `hf_maml`, `maml_same_batch`, or one of your own.
      local_steps: tau.
      sampled: S; None takes all clients in every round.
      batch_sizes: samples of (D_in, D_h, D_o). D_h may be 0 where the estimator does not use it.
      weights: p_i of the mean: "size", the client's number of samples, or "uniform".
      sampling: "uniform", or "size": one client after the other with probabilities proportional to the sizes
        of those that are left. With weights="size" the size then counts twice.
      server: an optax transformation, applied to the gradient w - mean; None is w <- mean.
      refresh: refresh(w, D_o) -> w, called after every local step, for leaves that no gradient moves: the
        running statistics of a normalisation layer. They are averaged like all other leaves.
      every: rounds between those that `history` keeps; None keeps the last alone.
      client_chunk: sampled clients that are vectorised together; None takes all of them at once.
      **options: passed to the estimator: delta for `hf_maml`, inner=InnerLoop(...).

    Raises (before anything compiles):
      ValueError: numbers out of range, more sampled than there are clients, a client with fewer samples than
        the batches need, which is named; and what `pack` says of the clients.
      TypeError: parameters that are not floating point, arguments that the estimator does not take.
    """
    if "learn_alpha" in options:
        raise ValueError("learn_alpha; allowed: a fixed alpha, the server averages parameters alone")
    check_estimator(estimator, loss, alpha=alpha, **options)
    check_params(params)
    check_alpha(alpha, params)
    if "delta" in options and not callable(options["delta"]):
        check_positive("delta", options["delta"])
    if not isinstance(batch_sizes, tuple | list) or len(batch_sizes) != 3:
        raise ValueError(f"batch_sizes = {batch_sizes!r}; allowed: three sizes, of D_in, D_h and D_o")
    for size, least, name in zip(batch_sizes, (1, 0, 1), ("D_in", "D_h", "D_o"), strict=True):
        check_step_count(f"batch_sizes: {name}", size, least)
    traced, fixed = _numbers({"alpha": alpha, **options})
    inner, hessian, outer = map(int, batch_sizes)
    local = _Meta(loss, estimator, (inner, hessian, outer), fixed)
    plan = _Plan(rounds, local_steps, sampled, weights, sampling, every, client_chunk)
    return _train(local, params, clients, key, beta, traced, plan, server, refresh)


def fedavg(
    loss: Loss,
    params: PyTree,
    clients: Samples | Clients,
    *,
    beta: Scalar,
    rounds: int,
    key: jax.Array,
    local_steps: int = 5,
    sampled: int | None = None,
    batch_size: int = 10,
    weights: str = "size",
    sampling: str = "uniform",
    server: optax.GradientTransformation | None = None,
    refresh: Refresh | None = None,
    every: int | None = None,
    client_chunk: int | None = None,
) -> Run:
    """FedAvg: local steps with the gradient on `batch_size` samples. Other arguments as for `per_fedavg`.

    The same key gives the clients of `per_fedavg`, and its D_in where it is as large.
    """
    check_callable("loss", loss, "loss(params, batch) -> scalar")
    check_params(params)
    check_step_count("batch_size", batch_size)
    local = _Plain(loss, (int(batch_size), 0, 0))
    plan = _Plan(rounds, local_steps, sampled, weights, sampling, every, client_chunk)
    return _train(local, params, clients, key, beta, {}, plan, server, refresh)


@dataclass(frozen=True)
class _Plan:
    """What is static, beside the local step."""

    rounds: int
    local_steps: int
    sampled: int | None
    weights: str
    sampling: str
    every: int | None
    client_chunk: int | None

    @property
    def kept(self) -> int:
        """Rounds between two that are kept."""
        return self.rounds if self.every is None else self.every

    def check(self, clients: Clients, samples: int) -> None:
        for name, count in (
            ("rounds", self.rounds),
            ("local_steps", self.local_steps),
            ("every", self.kept),
        ):
            check_step_count(name, count)
        if self.rounds % self.kept:
            raise ValueError(f"every = {self.every}; allowed: a divisor of rounds = {self.rounds}")
        if self.client_chunk is not None:
            check_step_count("client_chunk", self.client_chunk)
        for name in ("weights", "sampling"):
            if getattr(self, name) not in MEANS:
                unknown(name, getattr(self, name), MEANS)
        count = len(clients.names)
        if self.sampled is not None:
            check_step_count("sampled", self.sampled)
            if self.sampled > count:
                raise ValueError(f"sampled = {self.sampled}; allowed: at most {count}, the clients there are")
        for client, size in zip(clients.names, clients.sizes, strict=True):
            if size < samples:
                raise ValueError(
                    f"client {client!r} has {size} samples; allowed: at least {samples}, the batches of one "
                    "local step"
                )


@dataclass(frozen=True)
class _Plain:
    """The gradient on one batch."""

    loss: Loss
    sizes: tuple[int, int, int]

    def gradient(self, w: PyTree, batches: Episode, numbers: dict[str, Any]) -> PyTree:
        del numbers
        return jax.grad(scalar(self.loss))(w, batches.inner)

    def last(self, batches: Episode) -> PyTree:
        return batches.inner


@dataclass(frozen=True)
class _Meta:
    """An estimator of the meta-gradient."""

    loss: Loss
    estimator: Callable[..., PyTree]
    sizes: tuple[int, int, int]
    fixed: tuple[tuple[str, Any], ...]
    """arguments that are no numbers."""

    def gradient(self, w: PyTree, batches: Episode, numbers: dict[str, Any]) -> PyTree:
        return self.estimator(self.loss, w, batches, **numbers, **dict(self.fixed))

    def last(self, batches: Episode) -> PyTree:
        return batches.outer


def _numbers(options: dict[str, Any]) -> tuple[dict[str, Any], tuple[tuple[str, Any], ...]]:
    """(arguments made of numbers, which a program takes, the others, which are part of it)."""

    def made_of_numbers(value: Any) -> bool:
        leaves = jax.tree.leaves(value)
        kinds = int | float | np.ndarray | np.generic | jax.Array
        return bool(leaves) and all(isinstance(x, kinds) and not isinstance(x, bool) for x in leaves)

    traced = {name: value for name, value in options.items() if made_of_numbers(value)}
    return traced, tuple((name, value) for name, value in options.items() if name not in traced)


def _train(
    local: _Plain | _Meta,
    params: PyTree,
    clients: Samples | Clients,
    key: jax.Array,
    beta: Scalar,
    numbers: dict[str, Any],
    plan: _Plan,
    server: optax.GradientTransformation | None,
    refresh: Refresh | None,
) -> Run:
    check_positive("beta", beta)
    if jnp.shape(beta):
        raise ValueError(f"beta of shape {jnp.shape(beta)}; allowed: a number")
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"key = {key!r}; allowed: a key, jax.random.key(seed)")
    if not isinstance(server, optax.GradientTransformation | None):
        raise TypeError(f"server = {server!r}; allowed: an optax transformation, or None")
    if refresh is not None:
        check_callable("refresh", refresh, "refresh(params, batch) -> params")
    clients = pack(clients)
    plan.check(clients, sum(local.sizes))
    return _run(local, params, clients, key, beta, numbers, plan, server, refresh)


@functools.partial(jax.jit, static_argnames=("local", "plan", "server", "refresh"))
def _run(
    local: _Plain | _Meta,
    params: PyTree,
    clients: Clients,
    key: jax.Array,
    beta: Scalar,
    numbers: dict[str, Any],
    plan: _Plan,
    server: optax.GradientTransformation | None,
    refresh: Refresh | None,
) -> Run:
    sizes = jnp.asarray(clients.sizes)

    def steps(w: PyTree, rows: tuple[jax.Array, ...]) -> PyTree:
        """A client's w after its local steps."""

        def step(w: PyTree, rows: tuple[jax.Array, ...]) -> tuple[PyTree, None]:
            batches = Episode(*((clients.x[at], clients.y[at]) if at.size else None for at in rows))
            G = local.gradient(w, batches, numbers)
            w = jax.tree.map(jnp.subtract, w, tree.scale(beta, G))
            return (w if refresh is None else refresh(w, local.last(batches))), None

        return jax.lax.scan(step, w, rows)[0]

    def round_(at: tuple[PyTree, PyTree], k: jax.Array) -> tuple[tuple[PyTree, PyTree], PyTree]:
        w, state = at
        who, rows = draw(clients, jax.random.fold_in(key, k), plan, local.sizes)
        of_clients = functools.partial(steps, w)
        if plan.client_chunk is None:
            each = jax.vmap(of_clients)(rows)
        else:
            each = jax.lax.map(of_clients, rows, batch_size=plan.client_chunk)
        mean = average(each, sizes[who] if plan.weights == "size" else jnp.ones_like(who))
        if server is None:
            w = mean
        else:
            updates, state = server.update(jax.tree.map(jnp.subtract, w, mean), state, w)
            w = optax.apply_updates(w, updates)
        finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(w)]).all()
        return (w, state), (who, finite)

    def interval(at: tuple[PyTree, PyTree], ks: jax.Array) -> tuple[tuple[PyTree, PyTree], PyTree]:
        at, found = jax.lax.scan(round_, at, ks)
        return at, (at[0], found)

    records = plan.rounds // plan.kept
    params = jax.tree.map(jnp.asarray, params)
    start = params, () if server is None else server.init(params)
    ks = jnp.arange(plan.rounds).reshape(records, plan.kept)
    (w, _), (history, (who, finite)) = jax.lax.scan(interval, start, ks)
    rounds = plan.kept * (1 + jnp.arange(records))
    return Run(w, history, rounds, who.reshape(plan.rounds, -1), finite.reshape(-1))


def average(each: PyTree, p: jax.Array) -> PyTree:
    """sum_i p_i w_i / sum_i p_i over the leading axis, in float32 or wider."""

    def mean(x: jax.Array) -> jax.Array:
        share = (p / jnp.sum(p)).astype(tree.wide(x.dtype))
        return jnp.tensordot(share, x.astype(share.dtype), 1, precision="highest").astype(x.dtype)

    return jax.tree.map(mean, each)


def draw(
    clients: Clients, key: jax.Array, plan: _Plan, batches: tuple[int, int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """(the clients of a round, shape (S,); rows of the samples of D_in, D_h, D_o, shape (S, tau, size)).

    A client's samples of one step are all different; those of different steps are drawn anew.
    """
    key_who, *keys = jax.random.split(key, 4)
    sizes, count = np.asarray(clients.sizes), len(clients.sizes)
    S = count if plan.sampled is None else plan.sampled
    if plan.sampling == "size":
        chances = jnp.log(jnp.asarray(sizes, float)) + jax.random.gumbel(key_who, (count,))
        who = jax.lax.top_k(chances, S)[1]
    else:
        who = distinct(codes(key_who, (S,), count))

    inner, hessian, outer = batches
    # One draw of bits for all three, the batch's axis first, and not made again for each use of them: such
    # programs compile for long. In this order of the letters D_in and D_o do not depend on the size of D_h.
    bits = jax.vmap(lambda key: jax.random.bits(key, (max(batches), S, plan.local_steps), jnp.uint32))(
        jnp.stack(keys)
    )
    bits = jax.lax.optimization_barrier(bits)
    bits = jnp.concatenate([bits[0, :inner], bits[1, :outer], bits[2, :hessian]])
    left = jnp.asarray(sizes)[who][:, None] - jnp.arange(sum(batches))[:, None, None]
    chosen = (
        distinct(jnp.moveaxis(below(bits, left), 0, -1)) + jnp.asarray(clients.offsets)[who][:, None, None]
    )
    first, last, middle = jnp.split(chosen, (inner, inner + outer), axis=-1)
    return who, (first, middle, last)


def below(bits: jax.Array, n: jax.Array) -> jax.Array:
    """Of 32 random bits an integer, uniform on 0, ..., n - 1 up to n / 2^32: the high word of bits n."""
    high, low = bits >> 16, bits & 0xFFFF
    n = n.astype(jnp.uint32)
    n_high, n_low = n >> 16, n & 0xFFFF
    upper = high * n_low + (low * n_low >> 16)
    lower = low * n_high + (upper & 0xFFFF)
    return (high * n_high + (upper >> 16) + (lower >> 16)).astype(jnp.int32)
