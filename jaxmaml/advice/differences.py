"""How far the estimators differ from exact MAML on a problem, at one point, and what a step of each costs.

Drawn are steps as in training, B tasks each, with batches of D_in, D_h and D_o samples, the same for every
estimator. With G of a step and the exact grad F = `maml` with the full batches of all tasks:

* bias = ||E[G - G_maml]||, and for `maml` itself ||E[G_maml] - grad F||;
* noise = (E||G - E G||^2)^(1/2), the standard deviation of a step;
* distance = E[||G - G_maml|| / ||G_maml||], cosine = E[<G, G_maml> / (||G|| ||G_maml||)];
* stall = ||E[P_i v_i] - E[P_i] E[v_i]||, where P_i = I - alpha H_i (for several inner steps their product) is
  the factor that FO-MAML leaves out: the part of its bias that does not vanish with its direction E[v_i]. For
  one inner step it is alpha ||Cov(H_i, v_i)||, and where FO-MAML stops, ||grad F|| is this (docs/theory.md).
  There is none where tasks share a Hessian;
* lasting = the part of the bias that decides where a run ends. With S = the gradient in w of the loss after
  adaptation to D_in, f(w_K(w; D_in); D_o), on the same draws (differentiation through the inner loop), it is
  the smaller of ||E[G - S]|| and ||E[P_i] E[G] - E[S]||: what remains of ||E S|| where G vanishes.
"""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
FLOAT = "float"
"""the rule of the difference step that HF-MAML is judged with."""
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
    lasting: Interval
    against: float
    """<E G, E S> / ||E G||^2: by which a step along G is to be multiplied, 1 for G = S; not positive where G
    leads away. 1 where one of the two is no more than rounding of the tasks' gradients."""

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
    rounding: float
    """eps^(2/3) E_i ||v_i||: what a difference loses; a smaller norm of a gradient says nothing."""
    spread: float
    """(E_i ||S_i - E S||^2)^(1/2), S_i the gradient of one task's adapted loss with all its samples."""
    sampled: Interval
    """||E S||: the gradient of the loss after adaptation to D_in samples, without noise."""
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
    gradients: float
    """gradients of D_in samples that it costs, by the operations of a small network (`gradients_of`)."""


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
    """the direction of each estimator on a step of these sizes, of those with another objective too."""
    chunks: tuple[int | None, int | None]
    """task_chunk for a step and for all tasks."""
    every: bool = False
    """whether a step takes each task once, in place of B drawn ones."""


def lab(
    problem: Problem,
    sizes: Mapping[str, int],
    alpha: float,
    arcs: Mapping[str, float],
    task_chunk: int | None = None,
    inner: InnerLoop = ONE_STEP,
    every: bool = False,
) -> Lab:
    """Compiles every estimator.

    Args:
      problem: as for `jaxmaml.measure.constants`.
      sizes: tasks (B), D_in, D_h, D_o of a step.
      alpha: inner rate, unit u^2/phi.
      arcs: ||delta v|| (unit u) by the name of the rule.
      task_chunk: as in `meta_gradient`.
      every: a step takes each task once; B is then their number.
    """
    loss, sample = (f if isinstance(f, Partial) else Partial(f) for f in (problem.loss, problem.sample))
    params, full = (jax.tree.map(jnp.asarray, x) for x in (problem.params, problem.full))
    tasks = jax.tree.leaves(full)[0].shape[0]
    dtype = jnp.result_type(*jax.tree.leaves(params))
    methods: list[tuple[str, str, ArcDelta | None]] = []
    others: list[str] = []
    for name in maml_first(estimators.estimators()):
        if not judged(name):
            others.append(name)
            continue
        if "delta" in inspect.signature(estimators.get(name)).parameters:
            methods += [(name, rule, ArcDelta(jnp.asarray(arc, dtype))) for rule, arc in arcs.items()]
        else:
            methods.append((name, "", None))
    here, everywhere = (None if task_chunk is None else min(task_chunk, n) for n in (sizes["tasks"], tasks))
    one = Lab(loss, sample, full, tasks, sizes, alpha, inner, tuple(methods), {}, (here, everywhere), every)
    example = draw(one, jax.random.key(0))
    compiled = {
        name: _direction.lower(name, loss, params, example, alpha, delta, here, inner).compile()
        for name, delta in ({name: delta for name, _, delta in methods} | dict.fromkeys(others)).items()
    }
    return one._replace(compiled=compiled)


def draw(lab: Lab, key: jax.Array) -> Episode:
    """The tasks of a step and their batches."""
    s = lab.sizes
    return _draw(lab.sample, key, lab.tasks, s["tasks"], s["D_in"], s["D_h"], s["D_o"], lab.every)


def look(lab: Lab, where: str, params: PyTree, steps: int, key: jax.Array) -> Point:
    """Everything at one point, from so many drawn steps.

    Raises:
      ValueError: a gradient of F that is not finite.
    """
    params = jax.tree.map(jnp.asarray, params)
    drawn = [draw(lab, k) for k in jax.random.split(key, steps)]
    everyone = Episode(lab.full, lab.full, lab.full)
    found, exact, pulled = {}, {}, {}
    for name, rule, delta in lab.methods:
        runs = [lab.compiled[name](lab.loss, params, e, lab.alpha, delta) for e in drawn]
        found[name, rule] = np.stack([np.asarray(G, float) for G in runs])
        run = _direction(name, lab.loss, params, everyone, lab.alpha, delta, lab.chunks[1], lab.inner)
        exact[name, rule] = np.asarray(run, float)
    maml, fo, gradient, sampled = found[EXACT, ""], found[FIRST, ""], exact[EXACT, ""], found[SAME, ""]
    if not np.isfinite(gradient).all():
        raise ValueError(f"grad F is not finite at {where}; allowed: finite")

    flat, unravel = ravel_pytree(params)

    def factor(mean: np.ndarray, episodes: Episode, chunk: int | None) -> np.ndarray:
        """E[P_i] mean, shape (d,)."""
        vector = unravel(jnp.asarray(mean, flat.dtype))
        return np.asarray(_pulled(lab.loss, params, episodes, vector, lab.alpha, chunk, lab.inner), float)

    # (E[P_i] - I) E[G] with the draws' P_i: by its noise the stall's interval is wider.
    for one, G in found.items():
        if norm_of_mean(G - found[SAME, ""]).low > 0 or one == (FIRST, ""):
            mean = G.mean(axis=0)
            pulled[one] = np.stack([factor(mean, e, lab.chunks[0]) - mean for e in drawn])
    whole = _losses(lab.loss, params, everyone, lab.alpha, lab.chunks[1], lab.inner)
    adapted_norm = float(np.mean(whole.adapted_norm))
    rounding = float(np.finfo(flat.dtype).eps) ** (2 / 3) * adapted_norm
    exact_fo = exact[FIRST, ""]
    exact_stall = factor(exact_fo, everyone, lab.chunks[1]) - gradient
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
        adapted_norm=adapted_norm,
        rounding=rounding,
        spread=float(_spread(lab.loss, params, lab.full, lab.alpha, lab.chunks[1], lab.inner)),
        sampled=norm_of_mean(sampled),
        stall=norm_of_mean(fo - maml + pulled[FIRST, ""]),
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
                lasting=lasting(G - sampled, pulled.get((name, rule))),
                against=_scale(G.mean(axis=0), sampled.mean(axis=0), rounding),
            )
            for (name, rule), G in found.items()
        ),
        steps=steps,
    )


def lasting(difference: np.ndarray, pulled: np.ndarray | None) -> Interval:
    """The smaller norm of two means: G - S, and P G - S where it was computed; rows are steps."""
    each = [difference] if pulled is None else [difference, difference + pulled]
    return min(map(norm_of_mean, each), key=lambda x: x.high)


def _scale(G: np.ndarray, S: np.ndarray, rounding: float) -> float:
    """1 where a direction is no more than rounding."""
    sizes = np.linalg.norm(G), np.linalg.norm(S)
    return float(G @ S / sizes[0] ** 2) if min(sizes) > rounding else 1.0


def judged(name: str) -> bool:
    """Whether an estimator has the objective of `maml`: of another one a difference from it is no bias."""
    return estimators.objective(name) == estimators.objective(EXACT)


def objective(lab: Lab, params: PyTree, alpha: float) -> tuple[float, float]:
    """(F, ||grad F||) of one inner step with this alpha, over all tasks and samples."""
    params = jax.tree.map(jnp.asarray, params)
    everyone = Episode(lab.full, lab.full, lab.full)
    gradient = _direction(EXACT, lab.loss, params, everyone, alpha, None, lab.chunks[1], ONE_STEP)
    F = np.mean(_losses(lab.loss, params, everyone, alpha, lab.chunks[1], ONE_STEP).after)
    return float(F), float(np.linalg.norm(np.asarray(gradient, float)))


def costs(lab: Lab, params: PyTree, key: jax.Array) -> dict[str, Cost]:
    """Of each estimator; the size of a difference step does not matter."""
    params, episodes = jax.tree.map(jnp.asarray, params), draw(lab, key)
    deltas = dict.fromkeys(lab.compiled) | {name: delta for name, _, delta in lab.methods}
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
            gradients_of(name, lab.inner.steps),
        )
        for name in calls
    }


@functools.cache
def gradients_of(name: str, inner_steps: int) -> float:
    """Floating-point operations of an estimator over those of one gradient, as XLA counts them.

    Of a tanh network with three batches of equal size, and each of K inner steps as one: XLA counts the
    body of a loop once.
    """
    hidden, size = 32, 64
    params = {"a": jnp.ones((hidden, hidden)), "b": jnp.ones((hidden, hidden)), "c": jnp.ones((hidden, 1))}
    batch = jnp.ones((size, hidden))

    def loss(p: PyTree, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]))

    estimator = estimators.get(name)
    more: dict[str, Any] = {}
    if "delta" in inspect.signature(estimator).parameters:
        more["delta"] = ArcDelta(jnp.asarray(0.1))

    def flops(function: Any, *args: Any) -> float:
        found: Any = jax.jit(function).lower(*args).compile().cost_analysis()
        return float(found["flops"])

    one = flops(jax.grad(loss), params, batch)
    episode = Episode(*(batch + k for k in range(3)))
    of_step = flops(lambda p, e: estimator(loss, p, e, alpha=0.1, **more), params, episode) / one
    return 1 + inner_steps * (of_step - 1)


def _cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _over(np.sum(x * y, axis=1), np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where both are 0; inf or nan say that a direction vanishes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((above == 0) & (below == 0), 0.0, above / below)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6, 7))
def _draw(
    sample: Partial, key: jax.Array, n: int, B: int, D_in: int, D_h: int, D_o: int, every: bool
) -> Episode:
    chosen, *keys = jax.random.split(key, 4)
    who = jnp.arange(n) if every else jax.random.randint(chosen, (B,), 0, n)
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


@functools.partial(jax.jit, static_argnums=(4, 5))
def _spread(
    loss: Partial, params: PyTree, full: PyTree, alpha: float, chunk: int | None, inner: InnerLoop
) -> jax.Array:
    def one(batch: PyTree) -> jax.Array:
        return ravel_pytree(jax.grad(lambda w: loss(adapt(loss, w, batch, alpha, inner), batch))(params))[0]

    each = jax.lax.map(one, full, batch_size=chunk) if chunk else jax.vmap(one)(full)
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(each - each.mean(axis=0)), axis=1)))


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
