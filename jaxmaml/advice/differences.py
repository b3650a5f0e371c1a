"""How far the estimators differ from exact MAML on a problem, at one point, and what a step of each costs.

Drawn are steps as in training, B tasks each, with batches of D_in, D_h and D_o samples, the same for every
estimator. With G of a step and the exact grad F = `maml` with the full batches of all tasks:

* bias = ||E[G - G_maml]||, and for `maml` itself ||E[G_maml] - grad F||;
* noise = (E||G - E G||^2)^(1/2), the standard deviation of a step;
* distance = E[||G - G_maml|| / ||G_maml||], cosine = E[<G, G_maml> / (||G|| ||G_maml||)];
* stall = ||E[P_i v_i] - E[P_i] E[v_i]||, where P_i = I - alpha H_i (for several inner steps their product) is
  the factor that FO-MAML leaves out: the part of its bias that does not vanish with its direction E[v_i]. For
  one inner step it is alpha ||Cov(H_i, v_i)||, and where FO-MAML stops, ||grad F|| is this (docs/theory.md).
  There is none where tasks share a Hessian.
"""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxmaml import estimators, hvp, meta_gradient, tree
from jaxmaml.advice.bounds import maml_first
from jaxmaml.advice.norms import noise, norm_of_mean
from jaxmaml.estimators.hf_maml import ArcDelta
from jaxmaml.inner import ONE_STEP, InnerLoop, adapt, descend
from jaxmaml.measure import Problem
from jaxmaml.statistics import Interval, interval
from jaxmaml.timing import medians
from jaxmaml.types import Episode, PyTree

EXACT, FIRST, SAME = "maml", "fo_maml", "maml_same_batch"
SECONDS = 8.0
"""that the timing may take, beyond 3 repetitions."""


@dataclass(frozen=True)
class Difference:
    """One estimator at one point; unit phi/u where nothing is said."""

    estimator: str
    delta: str
    """rule of the difference step, "" without one."""
    bias: Interval
    exact_bias: float
    """||G - grad F|| with the full batches of all tasks: of no draw."""
    noise: Interval
    distance: Interval
    """a number, like cosine."""
    cosine: Interval

    @property
    def name(self) -> str:
        return f"{self.estimator}, {self.delta}" if self.delta else self.estimator


@dataclass(frozen=True)
class Point:
    """Everything measured at one w."""

    where: str
    f: float
    """E_i f_i(w), unit phi."""
    F: float
    """E_i f_i after the inner loop on all samples, unit phi."""
    least_loss: float
    """the least loss of any batch that was seen, unit phi."""
    helped: float
    """the share of the drawn tasks whose loss on D_o fell in the inner step."""
    grad_norm: float
    """||grad F(w)||."""
    task_norm: float
    """E_i ||grad f_i(w)||."""
    adapted_norm: float
    """E_i ||v_i||, what delta is divided by."""
    stall: Interval
    exact_stall: float
    """with the full batches of all tasks."""
    differences: tuple[Difference, ...]
    steps: int
    """drawn."""


@dataclass(frozen=True)
class Cost:
    """One meta-gradient of B tasks."""

    seconds: float
    """median of repetitions that alternate between the estimators."""
    time: float
    """over that of FO-MAML."""
    memory: int | None
    """bytes of temporaries as XLA counts them."""


class Lab(NamedTuple):
    """A problem with its batch sizes and alpha, and the programs compiled for them.

    What holds arrays is an argument of every program: closed over, it would be a constant of it.
    """

    loss: Partial
    sample: Partial
    full: PyTree
    tasks: int
    """n, of which B are drawn."""
    sizes: Mapping[str, int]
    """tasks, D_in, D_h, D_o."""
    alpha: float
    inner: InnerLoop
    """without a mask, so that it can be hashed."""
    methods: tuple[tuple[str, str, ArcDelta | None], ...]
    """(estimator, rule of its difference step, that step)."""
    compiled: Mapping[str, Any]
    """the direction of each estimator on a step of these sizes."""
    chunks: tuple[int | None, int | None]
    """task_chunk for a step and for all tasks."""


def lab(
    problem: Problem,
    sizes: Mapping[str, int],
    alpha: float,
    arcs: Mapping[str, float],
    task_chunk: int | None = None,
    inner: InnerLoop = ONE_STEP,
) -> Lab:
    """Compiles every estimator.

    Args:
      problem: as for `jaxmaml.measure.constants`.
      sizes: tasks (B), D_in, D_h, D_o of a step.
      alpha: inner rate, unit u^2/phi.
      arcs: ||delta v|| (unit u) by the name of the rule.
      task_chunk: as in `meta_gradient`.
    """
    loss, sample = (f if isinstance(f, Partial) else Partial(f) for f in (problem.loss, problem.sample))
    params, full = (jax.tree.map(jnp.asarray, x) for x in (problem.params, problem.full))
    tasks = jax.tree.leaves(full)[0].shape[0]
    dtype = jnp.result_type(*jax.tree.leaves(params))
    methods: list[tuple[str, str, ArcDelta | None]] = []
    for name in maml_first(estimators.estimators()):
        estimator = estimators.get(name)
        if "delta" in inspect.signature(estimator).parameters:
            methods += [(name, rule, ArcDelta(jnp.asarray(arc, dtype))) for rule, arc in arcs.items()]
        else:
            methods.append((name, "", None))
    here, everywhere = (None if task_chunk is None else min(task_chunk, n) for n in (sizes["tasks"], tasks))
    one = Lab(loss, sample, full, tasks, sizes, alpha, inner, tuple(methods), {}, (here, everywhere))
    example = draw(one, jax.random.key(0))
    compiled = {
        name: _direction.lower(name, loss, params, example, alpha, delta, here, inner).compile()
        for name, delta in {name: delta for name, _, delta in methods}.items()
    }
    return one._replace(compiled=compiled)


def draw(lab: Lab, key: jax.Array) -> Episode:
    """The tasks of a step and their batches."""
    s = lab.sizes
    return _draw(lab.sample, key, lab.tasks, s["tasks"], s["D_in"], s["D_h"], s["D_o"])


def look(lab: Lab, where: str, params: PyTree, steps: int, key: jax.Array) -> Point:
    """Everything at one point, from so many drawn steps.

    Raises:
      ValueError: a gradient of F that is not finite.
    """
    params = jax.tree.map(jnp.asarray, params)
    drawn = [draw(lab, k) for k in jax.random.split(key, steps)]
    everyone = Episode(lab.full, lab.full, lab.full)
    found, exact = {}, {}
    for name, rule, delta in lab.methods:
        if estimators.objective(name) != estimators.objective(EXACT):
            continue  # its distance from MAML is no bias
        runs = [lab.compiled[name](lab.loss, params, e, lab.alpha, delta) for e in drawn]
        found[name, rule] = np.stack([np.asarray(G, float) for G in runs])
        run = _direction(name, lab.loss, params, everyone, lab.alpha, delta, lab.chunks[1], lab.inner)
        exact[name, rule] = np.asarray(run, float)
    maml, fo, gradient = found[EXACT, ""], found[FIRST, ""], exact[EXACT, ""]
    if not np.isfinite(gradient).all():
        raise ValueError(f"grad F is not finite at {where}; allowed: finite")

    flat, unravel = ravel_pytree(params)

    def skipped(mean: np.ndarray, episodes: Episode, chunk: int | None) -> np.ndarray:
        """(I - E[P_i]) mean."""
        vector = unravel(jnp.asarray(mean, flat.dtype))
        return mean - np.asarray(
            _pulled(lab.loss, params, episodes, vector, lab.alpha, chunk, lab.inner), float
        )

    shared = np.stack([skipped(fo.mean(axis=0), e, lab.chunks[0]) for e in drawn])
    exact_fo = exact[FIRST, ""]
    exact_stall = exact_fo - gradient - skipped(exact_fo, everyone, lab.chunks[1])
    whole = _losses(lab.loss, params, everyone, lab.alpha, lab.chunks[1], lab.inner)
    noisy = [_losses(lab.loss, params, e, lab.alpha, lab.chunks[0], lab.inner) for e in drawn]
    before, after = (np.concatenate([getattr(x, name) for x in noisy]) for name in ("before", "after"))
    return Point(
        where=where,
        f=float(np.mean(whole.before)),
        F=float(np.mean(whole.after)),
        least_loss=float(min(np.min(x) for x in (*whole[:2], before, after))),
        helped=float(np.mean(after < before)),
        grad_norm=float(np.linalg.norm(gradient)),
        task_norm=float(np.mean(whole.norm)),
        adapted_norm=float(np.mean(whole.adapted_norm)),
        stall=norm_of_mean(fo - maml - shared),
        exact_stall=float(np.linalg.norm(exact_stall)),
        differences=tuple(
            Difference(
                name,
                rule,
                bias=norm_of_mean(G - (gradient if name == EXACT else maml)),
                exact_bias=float(np.linalg.norm(exact[name, rule] - gradient)),
                noise=noise(G),
                distance=interval(_over(np.linalg.norm(G - maml, axis=1), np.linalg.norm(maml, axis=1))),
                cosine=interval(_cosines(G, maml)),
            )
            for (name, rule), G in found.items()
        ),
        steps=steps,
    )


def objective(lab: Lab, params: PyTree, alpha: float) -> tuple[float, float]:
    """(F, ||grad F||) of one inner step with this alpha, over all tasks and samples."""
    params = jax.tree.map(jnp.asarray, params)
    everyone = Episode(lab.full, lab.full, lab.full)
    gradient = _direction(EXACT, lab.loss, params, everyone, alpha, None, lab.chunks[1], ONE_STEP)
    F = np.mean(_losses(lab.loss, params, everyone, alpha, lab.chunks[1], ONE_STEP).after)
    return float(F), float(np.linalg.norm(np.asarray(gradient, float)))


def adapted_loss(lab: Lab, params: PyTree, alpha: float) -> float:
    """F of the inner loop in force with this alpha, over all tasks and samples."""
    params, everyone = jax.tree.map(jnp.asarray, params), Episode(lab.full, lab.full, lab.full)
    return float(np.mean(_losses(lab.loss, params, everyone, alpha, lab.chunks[1], lab.inner).after))


def walk(
    lab: Lab, params: PyTree, steps: int, optimizer: optax.GradientTransformationExtraArgs, key: jax.Array
) -> PyTree:
    """Where `steps` noisy MAML steps of this optimiser lead; it is given task_grad_norms.

    Raises:
      ValueError: parameters that are no longer finite.
    """
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
    state = optimizer.init(flat)
    for k in jax.random.split(key, steps):
        w, episodes = unravel(flat), draw(lab, k)
        G = lab.compiled[EXACT](lab.loss, w, episodes, lab.alpha, None)
        norms = _losses(lab.loss, w, episodes, lab.alpha, lab.chunks[0], lab.inner).norm
        updates, state = optimizer.update(G, state, flat, task_grad_norms=norms)
        flat = optax.apply_updates(flat, updates)
    if not np.isfinite(np.asarray(flat)).all():
        raise ValueError(f"walk = {steps!r}: the parameters are no longer finite; allowed: fewer steps")
    return unravel(flat)


def costs(lab: Lab, params: PyTree, key: jax.Array) -> dict[str, Cost]:
    """Of each estimator; the size of a difference step does not matter."""
    params, episodes = jax.tree.map(jnp.asarray, params), draw(lab, key)
    deltas = {name: delta for name, _, delta in lab.methods}
    calls = {
        name: functools.partial(lab.compiled[name], lab.loss, params, episodes, lab.alpha, delta)
        for name, delta in deltas.items()
    }
    once = sum(medians(calls, 1).values())
    seconds = medians(calls, int(np.clip(SECONDS / max(once, 1e-6), 3, 31)))
    memory = {name: compiled.memory_analysis() for name, compiled in lab.compiled.items()}
    return {
        name: Cost(
            seconds[name],
            seconds[name] / seconds[FIRST],
            None if memory[name] is None else int(memory[name].temp_size_in_bytes),
        )
        for name in calls
    }


def _cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _over(np.sum(x * y, axis=1), np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where both are 0; inf or nan say that a direction vanishes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((above == 0) & (below == 0), 0.0, above / below)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _draw(sample: Partial, key: jax.Array, n: int, B: int, D_in: int, D_h: int, D_o: int) -> Episode:
    chosen, *keys = jax.random.split(key, 4)
    who = jax.random.randint(chosen, (B,), 0, n)
    inner, hessian, outer = (sample(k, who, size) for k, size in zip(keys, (D_in, D_h, D_o), strict=True))
    return Episode(inner, hessian, outer)


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _direction(
    name: str,
    loss: Partial,
    params: PyTree,
    episodes: Episode,
    alpha: float,
    delta: ArcDelta | None,
    chunk: int | None,
    inner: InnerLoop,
) -> jax.Array:
    """The mean of the estimator over the tasks, as one vector."""
    more: dict[str, Any] = {} if delta is None else {"delta": delta}
    if inner != ONE_STEP:  # an estimator of the user's own may know one step only
        more["inner"] = inner
    found = meta_gradient(estimators.get(name), loss, params, episodes, alpha=alpha, task_chunk=chunk, **more)
    return ravel_pytree(found)[0]


@functools.partial(jax.jit, static_argnums=(5, 6))
def _pulled(
    loss: Partial,
    params: PyTree,
    episodes: Episode,
    vector: PyTree,
    alpha: float,
    chunk: int | None,
    inner: InnerLoop,
) -> jax.Array:
    """E_i[P_i] vector, with the Hessians of D_h, as one vector."""

    def one(loss: Any, params: PyTree, episode: Episode, *, alpha: PyTree, **_: Any) -> PyTree:
        def adapted(w: PyTree) -> PyTree:
            return descend(hvp.exact, loss, w, (episode.inner, episode.hessian), alpha, inner)

        return jax.vjp(adapted, params)[1](vector)[0]

    return ravel_pytree(meta_gradient(one, loss, params, episodes, alpha=alpha, task_chunk=chunk))[0]


class _Losses(NamedTuple):
    """Of each task."""

    before: Any
    """the loss on D_o before the inner loop."""
    after: Any
    norm: Any
    """||grad f(w; D_in)||."""
    adapted_norm: Any
    """||v||."""


@functools.partial(jax.jit, static_argnums=(4, 5))
def _losses(
    loss: Partial, params: PyTree, episodes: Episode, alpha: float, chunk: int | None, inner: InnerLoop
) -> _Losses:
    def one(episode: Episode) -> _Losses:
        adapted = adapt(loss, params, episode.inner, alpha, inner)
        return _Losses(
            loss(params, episode.outer),
            loss(adapted, episode.outer),
            tree.norm(jax.grad(loss)(params, episode.inner)),
            tree.norm(jax.grad(loss)(adapted, episode.outer)),
        )

    return jax.lax.map(one, episodes, batch_size=chunk) if chunk else jax.vmap(one)(episodes)
