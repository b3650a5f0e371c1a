"""Worst cases: how near to each bound can small tasks come, by gradient ascent on measured / bound
(E02, E03, E05, E06, E07, E08, E09, E10, E11, E14, E20, E21)?

A ratio above 1 would refute the bound; a ratio near 1 says that it cannot be improved. Two tasks in one
dimension whose second derivatives are piecewise linear (`experiments.search`), in units in which L = rho = 1,
so that lambda = alpha L = alpha, at w = 0, or the linear algebra alone. The ascent follows closed forms. The
instance it ends at is evaluated by the library, and its bound by `jaxmaml.theory`: that ratio is what counts,
and it is void unless the closed form agrees with the library. Bounds as summarised and derived. A small
ratio shows only that these tasks, with this search, come no nearer.

One step of a theorem guarantees E F(w+) <= F(w) - c/L(w) (kappa b^2 - N). Its ratio is
(c/L(w)) kappa b^2 / (F(w) - E F(w+) + c N/L(w)), with B = 20 tasks enumerated as binomial counts, and L~
from all tasks with D_beta = 1 sample, +-sigma~ each: noise that makes E[1/L~] = 0.8/L(w) is allowed and found.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

from experiments import run
from experiments.cells import Cells
from experiments.judging import THEOREMS, at_most, largest
from experiments.results import LedgerRow, Place
from experiments.search import Ascent, Spline, SplineTasks, derivatives, ramps
from jaxmaml import estimators, hvp, objective, plotting, step_size, theory
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml.estimators.fo_maml import fo_maml
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.estimators.maml import maml
from jaxmaml.theory import (
    finite_difference,
    gradient_comparison,
    inner_bias,
    limit_points,
    objective_gap,
    second_moment,
    smoothness,
    step_moments,
)
from jaxmaml.theory.hf_maml import ETA
from jaxmaml.types import Array, BatchSizes, Constants, Episode

TITLE = "the tightest instance of every bound, by adversarial search"
EFFORT = {"smoke": (64, 150), "default": (384, 400), "full": (2048, 1500)}
"""restarts, steps of the ascent."""
ROUNDING = 1e-6
"""of a ratio: differences of F over a distance of 0.003 keep seven digits."""
B = 20
METHODS = ("maml", "fo_maml", "hf_maml")
TASKS, PARAMETERS = 2, 16


class Instance(NamedTuple):
    """Two tasks with what the bounds are about, at w = 0."""

    tasks: SplineTasks
    alpha: Any
    distance: Any
    """of u from w, or of the points of the central difference."""
    noise: Any
    """sigma~: gradient samples are off by +-noise."""
    twist: Any
    """sigma_h: the Hessian of the same sample is off by +-twist."""


class Law(NamedTuple):
    """alpha ||grad f_j|| of two kinds of task in one dimension, and the noise, for L~ from B' = D_beta = 1."""

    chances: Any
    """shape (2,)."""
    gradients: Any
    """shape (2,)."""
    noise: Any


class Matrices(NamedTuple):
    """(h11, h12, h22) of two symmetric matrices of norm at most 1."""

    hessian: Any
    mean_hessian: Any
    alpha: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Search:
    """The largest ratio of one bound; `which` of its subject."""

    ascent: Ascent
    which: int
    low: float
    high: float
    """range of lambda."""
    least_slope: float
    """least |f_i'(0)|, so that the terms of a bound that grow with it are met too."""
    rates: Array
    """c, kappa and N / sigma^2 of a theorem."""
    subject: str = field(metadata={"static": True})

    @property
    def cost(self) -> int:
        return self.ascent.steps * len(self.ascent.starts) // 20

    def check(self) -> None:
        """Nothing can be wrong."""

    def execute(self) -> dict[str, jax.Array]:
        subject = SUBJECTS[self.subject]

        def score(raw: jax.Array) -> jax.Array:
            return jnp.stack(subject.scores(subject.decode(raw, self), self))[self.which]

        scores, ends = self.ascent.run(score)
        found = subject.decode(ends[jnp.argmax(scores)], self)
        measured, residual = subject.library(found, self)
        return {
            "value": ravel_pytree(found)[0],
            "measured": jnp.stack(measured)[self.which],
            "residual": residual,
            "reached": jnp.mean(scores > jnp.max(scores) - 0.01),
        }


def _between(raw: jax.Array, low: Any, high: Any) -> jax.Array:
    return low + (high - low) * jax.nn.sigmoid(raw)


def _decode(raw: jax.Array, cell: _Search, reach: float = 6.0) -> Instance:
    own = raw[: 6 * TASKS].reshape(TASKS, 6)
    slope = jnp.sinh(reach * jnp.tanh(own[:, 0] / reach))
    slope = slope + jnp.where(slope < 0, -cell.least_slope, cell.least_slope)
    tasks = ramps(slope, jnp.sin(own[:, 1:4]), own[:, 4], own[:, 5] ** 2)
    alpha = _between(raw[-4], cell.low, cell.high)
    distance = jnp.exp(_between(raw[-3], math.log(3e-3), math.log(30.0)))
    noise, twist = (jnp.exp(_between(r, math.log(3e-2), math.log(300.0))) for r in raw[-2:])
    return Instance(tasks, alpha, distance, noise, twist)


# What the ratios are made of. The formulas serve JAX in the search and NumPy afterwards.


class _Local(NamedTuple):
    """Of each task at 0."""

    slopes: Any
    hessians: Any
    secants: Any
    """[f'(arc) - f'(-arc)] / (2 arc)"""


_THREE = np.array([[0.0], [1.0], [-1.0]])


def _local(x: Instance, arc: Any) -> _Local:
    _, first, second = derivatives(x.tasks, arc * _THREE)
    return _Local(first[0], second[0], (first[1] - first[2]) / (2 * arc))


def _adapted(x: Instance, slopes: Any) -> Any:
    """g_i = f_i'(-alpha f_i'(0))."""
    return derivatives(x.tasks, -x.alpha * slopes)[1]


def _grad_objective(x: Instance) -> Any:
    """F'(0)."""
    local = _local(x, 1.0)
    return ((1 - x.alpha * local.hessians) * _adapted(x, local.slopes)).mean()


# Exact gradients at one or two points: E02, E03, E10, E20.


def _points(x: Instance) -> tuple[Any, ...]:
    """F and F' at 0 and u, E|f_i'| there, and the error of the difference of the first task."""
    at = x.distance * _THREE
    _, first, second = derivatives(x.tasks, at)
    value, outer, _ = derivatives(x.tasks, (at - x.alpha * first)[:2])
    gradient = ((1 - x.alpha * second[:2]) * outer).mean(-1)
    truncation = abs((first[1] - first[2]) / (2 * x.distance) - second[0])[0]
    return value.mean(-1), gradient, abs(first[:2]).mean(-1), first[0], truncation


def _points_closed(x: Instance) -> tuple[Any, ...]:
    F, gradient, _, slopes, truncation = _points(x)
    u = x.distance
    rise = abs(gradient[1] - gradient[0]) / u
    rest = 2 * abs(F[1] - F[0] - gradient[0] * u) / u**2
    return rise, rise, rest, abs(slopes.mean()), truncation


def _points_scores(x: Instance, cell: _Search) -> list[jax.Array]:
    del cell
    _, gradient, norms, slopes, _ = _points(x)
    lam, least = x.alpha, jnp.min(norms)
    spread = jnp.sqrt(jnp.var(slopes) + 1e-30)
    bounds = (
        (1 + lam) ** 2 + (1 + lam) * lam * least,
        4 + 2 * lam * least,
        4 + 2 * lam * norms[0],
        (abs(gradient[0]) + (2 * lam + lam**2) * spread) / (1 - lam) ** 2,
        jnp.minimum(0.5 * x.distance, 2.0),
    )
    return [m / b for m, b in zip(_points_closed(x), bounds, strict=True)]


def _points_library(x: Instance, cell: _Search) -> tuple[list[jax.Array], jax.Array]:
    del cell
    family = Spline(x.tasks, jnp.zeros(2))
    w, ends = jnp.zeros(1), x.distance * np.array([[0.0], [1.0]])
    gradient = jax.vmap(lambda v: objective.grad_F(family, v, x.alpha)[0])(ends)
    F = jax.vmap(lambda v: objective.F(family, v, x.alpha))(ends)
    rise = jnp.abs(gradient[1] - gradient[0]) / x.distance
    rest = 2 * jnp.abs(F[1] - F[0] - gradient[0] * x.distance) / x.distance**2
    batch = jax.tree.map(lambda a: a[0], objective.full_episodes(family).inner)
    loss = functools.partial(objective.task_loss, family)
    one = jnp.ones(1)
    d = hvp.central_difference(loss, w, one, batch, x.distance)
    mean = jnp.abs(jnp.mean(objective.task_gradients(family, w)))
    return [rise, rise, rest, mean, jnp.abs(d - hvp.exact(loss, w, one, batch))[0]], jnp.zeros(())


def _points_bounds(x: Instance, constants: Constants) -> tuple[float, ...]:
    _, gradient, norms, _, _ = _points(x)
    compared = math.nan
    if x.alpha < math.sqrt(0.5):
        c1, c2, _ = gradient_comparison.comparison_constants(x.alpha)
        compared = c1 * abs(gradient[0]) + c2 * constants.sigma
    return (
        smoothness.sharp_smoothness(constants, x.alpha, norms.min()),
        smoothness.smoothness(constants, x.alpha, norms.min()),
        smoothness.smoothness(constants, x.alpha, norms[0]),
        compared,
        finite_difference.truncation(constants, x.distance, 1.0),
    )


# One task with noise of two values: E07, E08, E09.


def _noisy(x: Instance) -> tuple[Any, Any]:
    """f_i'' at 0, and f_i' at -alpha (f_i'(0) + s sigma~) for s = 0, 1, -1, shape (3, n)."""
    _, slopes, hessians = derivatives(x.tasks, np.zeros(1))
    return hessians, _adapted(x, slopes + x.noise * _THREE)


def _noisy_closed(x: Instance) -> tuple[Any, ...]:
    hessians, g = _noisy(x)
    bias = 0.5 * (g[1] + g[2]) - g[0]
    gap = (1 - x.alpha * hessians) * bias - 0.5 * x.alpha * x.twist * (g[1] - g[2])
    gap = abs(gap.mean())
    return abs(bias[0]), abs(bias[0]), 0.5 * (g[1] ** 2 + g[2] ** 2)[0], gap, gap


def _noisy_scores(x: Instance, cell: _Search) -> list[jax.Array]:
    del cell
    measured = _noisy_closed(x)
    lam, shift = x.alpha, x.alpha * x.noise
    g = abs(_noisy(x)[1][0, 0])
    cross = lam * shift * x.twist
    bounds = (
        jnp.minimum(shift, 0.5 * shift**2),
        shift,
        (g + shift) ** 2,
        jnp.minimum(2 * shift, 0.5 * (1 + lam) * shift**2) + cross,
        2 * shift + cross,
    )
    return [m / b for m, b in zip(measured, bounds, strict=True)]


def _noisy_library(x: Instance, cell: _Search) -> tuple[list[jax.Array], jax.Array]:
    del cell
    family = Spline(x.tasks, jnp.stack([x.noise, x.twist]))
    w, everyone = jnp.zeros(1), objective.full_episodes(family)
    loss = functools.partial(objective.task_loss, family)
    first = jax.tree.map(lambda a: a[0], everyone)
    task, exact = first.inner

    def adapted(batch: jax.Array) -> jax.Array:
        return fo_maml(loss, w, first._replace(inner=(task, batch)), alpha=x.alpha)[0]

    samples = family.sample(jax.random.key(0), jnp.zeros(2, int), jnp.ones(2))
    g = jax.vmap(adapted)(samples)
    bias = jnp.abs(jnp.mean(g) - adapted(exact))

    def hat(v: jax.Array) -> jax.Array:
        return objective.F_hat(family, v, x.alpha, 1.0, jax.random.key(0), 2)

    gap = jnp.abs(jax.grad(hat)(w) - objective.grad_F(family, w, x.alpha))[0]
    return [bias, bias, jnp.mean(g**2), gap, gap], jnp.zeros(())


def _noisy_bounds(x: Instance, constants: Constants) -> tuple[float, ...]:
    g = abs(float(_noisy(x)[1][0, 0]))
    return (
        inner_bias.bias(constants, x.alpha, 1.0),
        inner_bias.bias_summary(constants, x.alpha, 1.0),
        second_moment.second_moment_optimal(g, constants, x.alpha, 1.0, math.inf),
        objective_gap.gap(constants, x.alpha, 1.0),
        objective_gap.gap_summary(constants, x.alpha, 1.0),
    )


# One step of each theorem: E11.


def _decode_drift(raw: jax.Array, cell: _Search) -> Instance:
    """sigma~ such that D_beta = 1 satisfies its condition, D_beta >= (2 rho alpha sigma~ / L)^2."""
    x = _decode(raw, cell)
    return x._replace(noise=_between(raw[-2], 0.0, 0.5 / x.alpha))


_SIGNS = np.array([[a, b] for a in (1.0, -1.0) for b in (1.0, -1.0)])
_COUNTS = np.array([math.comb(B, k) / 2**B for k in range(B + 1)])


def _directions(x: Instance) -> tuple[Any, Any, tuple[Any, Any, Any]]:
    """f_i'(0), F(0), and the direction of each task by MAML, FO-MAML, HF-MAML, as in METHODS."""
    local = _local(x, ETA / x.alpha)
    value, g, _ = derivatives(x.tasks, -x.alpha * local.slopes)
    shrunk = ((1 - x.alpha * local.hessians) * g, g, (1 - x.alpha * local.secants) * g)
    return local.slopes, value.mean(), shrunk


def _decrease(x: Instance, slopes: Any, start: Any, direction: Any, c: Any) -> Any:
    """F(0) - E F(w+)."""
    share = np.arange(B + 1) / B
    mean = share * direction[0] + (1 - share) * direction[1]
    smooth = 4 + 2 * x.alpha * abs(slopes + x.noise * _SIGNS).mean(-1)
    ends = (-c * mean[:, None] / smooth)[..., None]
    ends = ends - x.alpha * derivatives(x.tasks, ends)[1]
    values = derivatives(x.tasks, ends)[0]
    return start - (_COUNTS[:, None, None] * values).sum() / (TASKS * len(_SIGNS))


def _drift_closed(x: Instance) -> tuple[Any, ...]:
    rates = [theory.theorems()[name].c for name in METHODS]
    slopes, start, directions = _directions(x)
    return tuple(_decrease(x, slopes, start, d, c) for d, c in zip(directions, rates, strict=True))


def _drift_scores(x: Instance, cell: _Search) -> list[jax.Array]:
    """Minus the slack, which stays smooth where the decrease changes sign."""
    c, kappa, noise = cell.rates
    slopes, start, directions = _directions(x)
    factor = c / (4 + 2 * x.alpha * jnp.mean(jnp.abs(slopes)))
    promised = factor * kappa * jnp.mean(directions[0]) ** 2
    decrease = _decrease(x, slopes, start, jnp.stack(directions)[cell.which], c)
    slack = (decrease + factor * noise * jnp.var(slopes)) / (promised + 1e-30)
    return [-slack] * len(METHODS)


def _drift_library(x: Instance, cell: _Search) -> tuple[list[jax.Array], jax.Array]:
    family = Spline(x.tasks, jnp.stack([x.noise, 0 * x.noise]))
    w, everyone = jnp.zeros(1), objective.full_episodes(family)
    loss = functools.partial(objective.task_loss, family)
    batches = np.arange(B) < np.arange(B + 1)[:, None]
    noisy = x.noise * jnp.stack([_SIGNS, 0 * _SIGNS], axis=-1)[:, :, None]
    norms = jax.vmap(lambda batch: run.step_norms(family, w, (x.tasks, batch)))(noisy)

    def decrease(name: str) -> jax.Array:
        arguments: dict[str, Any] = {"delta": theorem_delta(1.0, x.alpha)} if name == "hf_maml" else {}
        transform = step_size.scale_by_theorem_step(theory.theorems()[name].c, 1.0, 1.0, x.alpha)

        def direction(first: jax.Array) -> jax.Array:
            episodes = jax.tree.map(lambda a: a[jnp.where(first, 0, 1)], everyone)
            return meta_gradient(estimators.get(name), loss, w, episodes, alpha=x.alpha, **arguments)

        def after(G: jax.Array, norms: jax.Array) -> jax.Array:
            updates, _ = transform.update(G, transform.init(w), task_grad_norms=norms)
            return objective.F(family, w + updates, x.alpha)

        every = jax.vmap(direction)(jnp.asarray(batches))
        ends = jax.vmap(jax.vmap(after, (None, 0)), (0, None))(every, norms)
        return objective.F(family, w, x.alpha) - jnp.sum(_COUNTS * jnp.mean(ends, axis=1))

    del cell
    return [decrease(name) for name in METHODS], jnp.zeros(())


# Limit points: E14, E21, E10. The last step of a bisection is Newton's, which carries the derivative.


def _decode_limit(raw: jax.Array, cell: _Search) -> Instance:
    """The slope of the second task is such that the mean direction of the method vanishes at 0."""
    x = _decode(raw, cell, reach=8.0)
    local = _local(x, ETA / x.alpha)
    shrunk = 1 - x.alpha * jnp.stack([local.hessians, jnp.zeros(TASKS), local.secants])[cell.which]
    target = -shrunk[0] / shrunk[1] * _adapted(x, local.slopes)[0]
    old, second = local.slopes[1], jax.tree.map(lambda a: a[1:], x.tasks)

    def adapted(slope: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, first, curvature = derivatives(second, -x.alpha * slope[None])
        return first[0] + slope - old, 1 - x.alpha * curvature[0]

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        above = adapted(middle)[0] > target
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    far = jax.lax.stop_gradient(jnp.abs(target) / (1 - x.alpha))
    slope = jax.lax.stop_gradient(jax.lax.fori_loop(0, 50, halve, (-far, far))[0])
    value, rise = adapted(slope)
    slope = slope - (value - target) / jax.lax.stop_gradient(rise)
    moved = x.tasks.slope.at[1].add(slope - old)
    return x._replace(tasks=x.tasks._replace(slope=moved))


def _limit_closed(x: Instance) -> tuple[Any, ...]:
    b = abs(_grad_objective(x))
    return abs(_local(x, 1.0).slopes.mean()), b, b


def _limit_scores(x: Instance, cell: _Search) -> list[jax.Array]:
    del cell
    lam, slopes = x.alpha, _local(x, 1.0).slopes
    sigma = jnp.sqrt(jnp.var(slopes) + 1e-30)
    bounds = (
        (2 * lam + lam**2) / (1 - lam) ** 2 * sigma,
        lam * (1 + lam) * jnp.sqrt(1 + (lam / (1 - lam)) ** 2) * sigma,
        jnp.minimum(0.5 * ETA, 2 * lam) * jnp.mean(jnp.abs(_adapted(x, slopes))) + 1e-30,
    )
    return [m / b for m, b in zip(_limit_closed(x), bounds, strict=True)]


def _limit_library(x: Instance, cell: _Search) -> tuple[list[jax.Array], jax.Array]:
    family = Spline(x.tasks, jnp.zeros(2))
    w, everyone = jnp.zeros(1), objective.full_episodes(family)
    loss = functools.partial(objective.task_loss, family)
    means = []
    for name in METHODS:
        arguments: dict[str, Any] = {"delta": theorem_delta(1.0, x.alpha, ETA)} if name == "hf_maml" else {}
        means.append(meta_gradient(estimators.get(name), loss, w, everyone, alpha=x.alpha, **arguments)[0])
    b = jnp.abs(objective.grad_F(family, w, x.alpha))[0]
    gradients = objective.task_gradients(family, w)
    rest = jnp.abs(jnp.stack(means)[cell.which]) / jnp.max(jnp.abs(gradients))
    return [jnp.abs(jnp.mean(gradients)), b, b], rest


def _limit_bounds(x: Instance, constants: Constants) -> tuple[float, ...]:
    g = np.abs(_adapted(x, _local(x, 1.0).slopes)).mean()
    return (
        gradient_comparison.comparison_constants(x.alpha)[1] * constants.sigma,
        limit_points.fo_limit_bound(constants, x.alpha),
        limit_points.hf_limit_bound(x.alpha, ETA, g),
    )


# Moments of 1/L~: E05, E06. In units of alpha = 1, because L~ knows alpha ||grad f_j|| only.


def _decode_law(raw: jax.Array, cell: _Search) -> Law:
    """At the batch conditions B' = D_beta = 1: sigma <= sqrt(2) and sigma~ <= 1/2."""
    del cell
    chance = jax.nn.sigmoid(raw[0])
    difference = math.sqrt(2) * jax.nn.sigmoid(raw[1]) / jnp.sqrt(chance * (1 - chance))
    gradients = jnp.stack([raw[2], raw[2] + difference])
    return Law(jnp.stack([chance, 1 - chance]), gradients, 0.5 * jax.nn.sigmoid(raw[3]))


def _outcomes(x: Law) -> Any:
    """Norms of the sampled gradients, either sign of the noise for either kind of task, shape (2, 2)."""
    return abs(x.gradients[:, None] + x.noise * np.array([1.0, -1.0]))


def _moments(x: Law, values: Any) -> tuple[Any, ...]:
    """From L~ of each outcome."""
    exact = 4 + 2 * (x.chances * abs(x.gradients)).sum()
    inverse = exact / values
    first, second = (0.5 * (x.chances[:, None] * power).sum() for power in (inverse, inverse * inverse))
    return 1 / first, second, first, second


def _law_closed(x: Law) -> tuple[Any, ...]:
    return _moments(x, 4 + 2 * _outcomes(x))


def _law_scores(x: Law, cell: _Search) -> list[jax.Array]:
    del cell
    return list(_law_closed(x))


def _law_library(x: Law, cell: _Search) -> tuple[list[jax.Array], jax.Array]:
    del cell
    transform = step_size.scale_by_theorem_step(1.0, 1.0, 1.0, 1.0)
    w = jnp.zeros(1)

    def smooth(norm: jax.Array) -> jax.Array:
        return transform.update(w, transform.init(w), task_grad_norms=norm[None])[1].smoothness

    return list(_moments(x, jax.vmap(jax.vmap(smooth))(_outcomes(x)))), jnp.zeros(())


def _law_bounds(x: Law, constants: Constants) -> tuple[float, ...]:
    del x, constants
    return (
        1 / step_moments.first_moment_lower(),
        step_moments.SECOND_MOMENT_SUMMARY,
        step_moments.first_moment_upper(),
        step_moments.second_moment_upper(),
    )


# The form x^T (I - alpha H)(I - alpha H') x: E10.


def _decode_matrices(raw: jax.Array, cell: _Search) -> Matrices:
    def one(raw: jax.Array) -> jax.Array:
        (a, b), cos, sin = jnp.sin(raw[:2]), jnp.cos(raw[2]), jnp.sin(raw[2])
        return jnp.stack([a * cos**2 + b * sin**2, (a - b) * sin * cos, a * sin**2 + b * cos**2])

    return Matrices(one(raw[:3]), one(raw[3:6]), jnp.asarray(cell.high))


def _matrices_closed(x: Matrices) -> tuple[Any, ...]:
    h, k, a = x.hessian, x.mean_hessian, x.alpha
    return (1 / ((1 - a * h[0]) * (1 - a * k[0]) + a**2 * h[1] * k[1]),)


def _matrices_scores(x: Matrices, cell: _Search) -> list[jax.Array]:
    del cell
    return list(_matrices_closed(x))


def _matrices_library(x: Matrices, cell: _Search) -> tuple[list[jax.Array], jax.Array]:
    """MAML's direction with H' on D_in, H on D_h, and f = ||w||^2 / 2 on D_o."""
    del cell

    def loss(w: jax.Array, batch: jax.Array) -> jax.Array:
        h11, h12, h22 = batch[0]
        return 0.5 * (h11 * w[0] ** 2 + h22 * w[1] ** 2) + h12 * w[0] * w[1]

    w = jnp.array([1.0, 0.0])
    episode = Episode(x.mean_hessian[None], x.hessian[None], jnp.array([[1.0, 0.0, 1.0]]))
    return [1 / maml(loss, w, episode, alpha=x.alpha)[0]], jnp.zeros(())


def _matrices_bounds(x: Matrices, constants: Constants) -> tuple[float, ...]:
    del constants
    return (1 / gradient_comparison.gamma(x.alpha),)


def _drift_ratios(x: Instance, constants: Constants, decreases: tuple[float, ...]) -> tuple[float, ...]:
    smooth = smoothness.smoothness(constants, x.alpha, np.abs(_local(x, 1.0).slopes).mean())
    b = abs(_grad_objective(x))
    sizes = BatchSizes(B=B, D_beta=1.0)
    ratios = []
    for name, decrease in zip(METHODS, decreases, strict=True):
        theorem = theory.theorems()[name]
        # Gradients are exact: sigma~ enters L~ alone.
        exact = replace(constants, sigma_tilde=0.0, sigma_h=0.0)
        noise = theorem.noise(exact, x.alpha, sizes)
        kept = all(c.holds for c in theorem.conditions(replace(constants, sigma_h=0.0), x.alpha, sizes))
        below = decrease + theorem.c / smooth * noise
        promised = theorem.c / smooth * theorem.drift(exact, x.alpha).kappa * b**2
        ratios.append((promised / below if below > 0 else math.inf) if kept else math.nan)
    return tuple(ratios)


# The claim


class _Subject(NamedTuple):
    """What ratios share one program: parameters -> instance, log ratios, and both evaluations of it."""

    decode: Callable[[jax.Array, _Search], Any]
    scores: Callable[[Any, _Search], list[jax.Array]]
    closed: Callable[[Any], tuple[Any, ...]]
    library: Callable[[Any, _Search], tuple[list[jax.Array], jax.Array]]
    ratios: Callable[[Any, Constants, tuple[float, ...]], tuple[float, ...]]
    parameters: int = PARAMETERS


def _over(bounds: Callable[[Any, Constants], tuple[float, ...]]) -> Any:
    def ratios(x: Any, constants: Constants, measured: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(m / b for m, b in zip(measured, bounds(x, constants), strict=True))

    return ratios


SUBJECTS = {
    "points": _Subject(_decode, _points_scores, _points_closed, _points_library, _over(_points_bounds)),
    "noise": _Subject(_decode, _noisy_scores, _noisy_closed, _noisy_library, _over(_noisy_bounds)),
    "drift": _Subject(_decode_drift, _drift_scores, _drift_closed, _drift_library, _drift_ratios),
    "limit": _Subject(_decode_limit, _limit_scores, _limit_closed, _limit_library, _over(_limit_bounds)),
    "law": _Subject(_decode_law, _law_scores, _law_closed, _law_library, _over(_law_bounds), 4),
    "matrices": _Subject(
        _decode_matrices, _matrices_scores, _matrices_closed, _matrices_library, _over(_matrices_bounds), 6
    ),
}


class _Bound(NamedTuple):
    claim: str
    name: str
    statement: str
    place: Place
    source: str
    subject: str
    which: int
    ranges: tuple[tuple[float, float], ...]
    """of lambda, one search each."""
    least_slope: float = 0.0


def _drift_bound(which: int) -> _Bound:
    theorem = theory.theorems()[METHODS[which]]
    return _Bound(
        "E11",
        f"one step, {plotting.label(theorem.name)}",
        r"$E F(w^+)\le F(w)-\frac{c}{L(w)}(\kappa\|\nabla F(w)\|^2-N)$",
        THEOREMS[theorem.name],
        "derived",
        "drift",
        which,
        ((theorem.lam_max, theorem.lam_max), (theorem.lam_max / 4, theorem.lam_max / 4)),
    )


ANY: tuple[tuple[float, float], ...] = ((0.01, 1.0),)
SIXTH = ((1 / 6, 1 / 6),)
BOUNDS = (
    _Bound(
        "E02",
        "smoothness, sharper",
        r"$\|\nabla F(w)-\nabla F(u)\|\le\min\{L_s(w),L_s(u)\}\|w-u\|$",
        "smoothness lemma",
        "derived",
        "points",
        0,
        SIXTH,
        5.0,
    ),
    _Bound(
        "E02",
        "smoothness",
        r"$\|\nabla F(w)-\nabla F(u)\|\le\min\{L(w),L(u)\}\|w-u\|$, $\alpha\le1/L$",
        "smoothness lemma",
        "as summarised",
        "points",
        1,
        ANY,
        5.0,
    ),
    _Bound(
        "E03",
        "second-order remainder",
        r"$|F(u)-F(w)-\nabla F(w)^\top(u-w)|\le\frac{L(w)}2\|u-w\|^2$, $\alpha\le1/L$",
        "smoothness lemma",
        "as summarised",
        "points",
        2,
        ANY,
        5.0,
    ),
    _Bound(
        "E05",
        "E[1/L~] from below",
        r"$E[1/\tilde L]\ge0.8/L(w)$, as a ratio of 0.8 to $L(w)E[1/\tilde L]$",
        "step-size lemma",
        "as summarised",
        "law",
        0,
        ANY,
    ),
    _Bound(
        "E05",
        "E[1/L~^2]",
        r"$E[1/\tilde L^2]\le3.125/L(w)^2$",
        "step-size lemma",
        "as summarised",
        "law",
        1,
        ANY,
    ),
    _Bound(
        "E06",
        "E[1/L~]",
        r"$E[1/\tilde L]\le1.225/L(w)$",
        "step-size lemma",
        "derived",
        "law",
        2,
        ANY,
    ),
    _Bound(
        "E06",
        "E[1/L~^2], sharper",
        r"$E[1/\tilde L^2]\le1.855/L(w)^2$",
        "step-size lemma",
        "derived",
        "law",
        3,
        ANY,
    ),
    _Bound(
        "E07",
        "bias, sharper",
        r"$\|e_i\|\le\min\{\alpha L\tilde\sigma D_{in}^{-1/2},\frac12\rho\alpha^2\tilde\sigma^2/D_{in}\}$",
        "bias lemma",
        "derived",
        "noise",
        0,
        SIXTH,
    ),
    _Bound(
        "E07",
        "bias",
        r"$\|e_i\|\le\alpha L\tilde\sigma/\sqrt{D_{in}}$",
        "bias lemma",
        "as summarised",
        "noise",
        1,
        ANY,
    ),
    _Bound(
        "E08",
        "second moment, best phi",
        r"$E\|\tilde g_i\|^2\le(\|g_i\|+\alpha L\tilde\sigma/\sqrt{D_{in}})^2+\tilde\sigma^2/D_o$",
        "bias lemma",
        "derived",
        "noise",
        2,
        ANY,
    ),
    _Bound(
        "E09",
        "gap of F-hat, sharper",
        r"$\|\nabla\hat F-\nabla F\|\le(\frac{1+\lambda}2\rho\alpha^2\tilde\sigma^2+\alpha^2L\sigma_H\tilde\sigma)/D_{test}$",
        "F and F-hat",
        "derived",
        "noise",
        3,
        SIXTH,
    ),
    _Bound(
        "E09",
        "gap of F-hat",
        r"$\|\nabla\hat F-\nabla F\|\le2\alpha L\tilde\sigma/\sqrt{D_{test}}+\alpha^2L\sigma_H\tilde\sigma/D_{test}$",
        "F and F-hat",
        "as summarised",
        "noise",
        4,
        ANY,
    ),
    _Bound(
        "E10",
        "quadratic form",
        r"$x^\top(I-\alpha H)(I-\alpha H')x\ge\gamma(\lambda)\|x\|^2$ for $\lambda=\frac16,0.35,0.6$",
        "MAML theorem",
        "derived",
        "matrices",
        0,
        ((1 / 6, 1 / 6), (0.35, 0.35), (0.6, 0.6)),
    ),
    _Bound(
        "E10",
        "gradient comparison",
        r"$\|\nabla f\|\le C_1\|\nabla F\|+C_2\sigma$",
        "MAML theorem",
        "derived",
        "points",
        3,
        ((0.01, 0.5),),
    ),
    _Bound(
        "E10",
        "the same where grad F = 0",
        r"$\|\nabla f\|\le C_2\sigma$ where $\nabla F=0$",
        "MAML theorem",
        "derived",
        "limit",
        0,
        SIXTH,
    ),
    *(_drift_bound(j) for j in range(len(METHODS))),
    _Bound(
        "E14",
        "limit of FO-MAML",
        r"$\|\nabla F\|\le\alpha L(1+\lambda)(1+\frac{\lambda^2}{(1-\lambda)^2})^{1/2}\sigma$ where $E_ig_i=0$",
        "FO-MAML theorem",
        "derived",
        "limit",
        1,
        ((1 / 10, 1 / 10),),
    ),
    _Bound(
        "E20",
        "central difference",
        r"$\|d-Hv\|\le\min\{\frac12\rho\delta\|v\|^2,2L\|v\|\}$",
        "Hessian-free product",
        "derived",
        "points",
        4,
        SIXTH,
    ),
    _Bound(
        "E21",
        "limit of HF-MAML",
        r"$\|\nabla F\|\le\min\{\frac\eta2,2\lambda\}E_i\|g_i\|$ where $E_iG_i=0$, $\eta=\frac16$",
        "HF-MAML theorem",
        "derived",
        "limit",
        2,
        SIXTH,
    ),
)


def _rates(bound: _Bound, lam: float) -> np.ndarray:
    """What `_drift_scores` needs to know of a theorem: c, kappa, N / sigma^2."""
    if bound.subject != "drift":
        return np.zeros(3)
    theorem = theory.theorems()[METHODS[bound.which]]
    drift = theorem.drift(Constants(1.0, 1.0, 1.0), lam)
    return np.array([theorem.c, drift.kappa, drift.noise.sigma + drift.noise.tasks / B])


def grid(scale: str) -> Cells:
    restarts, steps = EFFORT[scale]
    rng = np.random.default_rng(0)
    ascents = {
        name: Ascent(1.5 * rng.standard_normal((restarts, subject.parameters)), steps)
        for name, subject in SUBJECTS.items()
    }
    cells = []
    for index, bound in enumerate(BOUNDS):
        for low, high in bound.ranges:
            ascent = ascents[bound.subject]
            rates = _rates(bound, high)
            cell = _Search(ascent, bound.which, low, high, bound.least_slope, rates, bound.subject)
            cells.append(({"bound": index, "restarts": restarts, "steps": steps}, cell))
    return cells


def _restore(cell: _Search, values: np.ndarray) -> Any:
    """The instance with these numbers."""
    subject = SUBJECTS[cell.subject]
    raw = jax.ShapeDtypeStruct((subject.parameters,), jnp.result_type(float))
    shapes = jax.eval_shape(lambda r: subject.decode(r, cell), raw)
    leaves, structure = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(values, ends[:-1])
    return jax.tree.unflatten(
        structure, [p.reshape(leaf.shape)[()] for p, leaf in zip(parts, leaves, strict=True)]
    )


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """One row a search: the ratio at its instance, by the library over `jaxmaml.theory`."""
    cells = grid(scale)
    table = []
    for index, part in rows.groupby("cell", sort=True):
        labels, cell = cells[int(index)]
        bound = BOUNDS[labels["bound"]]
        measured, values = float(part.measured.iloc[0]), part.value.to_numpy()
        row: dict[str, Any] = {
            **labels,
            "claim": bound.claim,
            "name": bound.name,
            "ratio": math.nan,
            "closed": math.nan,
            "residual": part.residual.iloc[0],
            "reached": part.reached.iloc[0],
            "lam": math.nan,
            "instance": "",
        }
        if np.isfinite(values).all() and math.isfinite(measured):
            x = _restore(cell, values)
            row |= _judged(x, cell, measured) | {"instance": _describe(x, cell.subject)}
        table.append(row)
    return pd.DataFrame(table)


def _judged(x: Any, cell: _Search, measured: float) -> dict[str, float]:
    """The ratio by the library and by the closed form in NumPy; nan where L or rho exceeds 1."""
    subject = SUBJECTS[cell.subject]
    constants = Constants(1.0, 1.0, 0.0)
    if isinstance(x, Instance):
        constants = Spline(x.tasks, np.array([x.noise, x.twist])).constants()
        if max(constants.L, constants.rho) > 1 + ROUNDING:
            return {}
        constants = replace(constants, L=1.0, rho=1.0)
    closed = tuple(map(float, subject.closed(x)))
    by_library = tuple(measured if j == cell.which else c for j, c in enumerate(closed))
    return {
        "ratio": subject.ratios(x, constants, by_library)[cell.which],
        "closed": subject.ratios(x, constants, closed)[cell.which],
        "lam": float(getattr(x, "alpha", 1.0)),
    }


def _describe(x: Any, subject: str) -> str:
    """In units of L = rho = 1."""
    if isinstance(x, Law):
        return f"p={x.chances[0]:.3g}, alpha f'=({x.gradients[0]:.3g}, {x.gradients[1]:.3g}), noise {x.noise:.3g}"
    if isinstance(x, Matrices):
        h, k = (f"({m[0]:.3g}, {m[1]:.3g}, {m[2]:.3g})" for m in (x.hessian, x.mean_hessian))
        return f"H={h}, H'={k}"
    slopes, hessians, _ = _local(x, 1.0)
    text = f"f'=({slopes[0]:.3g}, {slopes[1]:.3g}), f''=({hessians[0]:.3g}, {hessians[1]:.3g})"
    shown = {
        "points": f", |u-w|={x.distance:.2g}",
        "noise": f", sigma~={x.noise:.2g}, sigma_H={x.twist:.2g}",
        "drift": f", sigma~={x.noise:.2g}",
    }
    return text + shown.get(subject, "")


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    rows = []
    names = {bound.name for bound in BOUNDS}
    for index, bound in enumerate(BOUNDS):
        part = table[table.bound == index]
        if part.empty:
            continue
        disagreement = largest((part.ratio - part.closed).abs())
        tightest = part.iloc[int(np.argmax(part.ratio.to_numpy()))]
        note = (
            f"{tightest.instance}, lambda={tightest.lam:.3g}; {tightest.reached:.0%} of "
            f"{tightest.restarts} restarts end within 0.01 of it"
        )
        if len(part) > 1:
            every = ", ".join(f"{r:.4f} at {lam:.3g}" for r, lam in zip(part.ratio, part.lam, strict=True))
            note = f"by lambda: {every}; {note}"
        if not disagreement <= ROUNDING:
            note = f"library and closed form differ by {disagreement:.2g}; {note}"
        rows.append(
            at_most(
                bound.claim,
                f"tightest instance found: {bound.name}",
                bound.statement,
                bound.place,
                bound.source,
                largest(part.ratio),
                1.0 + ROUNDING,
                also=disagreement <= ROUNDING and largest(part.residual) <= 1e-9,
                # Not sharp is a bound with a smaller valid one beside it that no instance comes near.
                sharp=f"{bound.name}, sharper" not in names or largest(part.ratio) > 0.9,
                note=note,
            )
        )
    return rows


_FORMULAS = {
    "E[1/L~^2]": r"$E[1/\tilde L^2]$",
    "E[1/L~]": r"$E[1/\tilde L]$",
    "F-hat": r"$\hat F$",
    "grad F": r"$\nabla F$",
    "phi": r"$\phi$",
}


def figure(table: pd.DataFrame) -> Figure:
    drawing, (axis,) = plotting.panels(1, width=2 * plotting.WIDTH)
    drawing.set_size_inches(2 * plotting.WIDTH, 1.5 * plotting.HEIGHT)
    lines: dict[str, set[str]] = {}
    for bound in BOUNDS:
        if bound.name in set(table.name):
            lines.setdefault(bound.name.removesuffix(", sharper"), set()).add(bound.claim)
    looks: dict[str, dict[str, Any]] = {
        "derived": {"marker": "o", "color": plotting.color("maml")},
        "as summarised": {"marker": "s", "color": plotting.color("fo_maml"), "markerfacecolor": "none"},
    }
    for source, look in looks.items():
        chosen = table[[BOUNDS[i].source == source for i in table.bound]]
        heights = [list(lines).index(name.removesuffix(", sharper")) for name in chosen.name]
        axis.plot(chosen.ratio, heights, linestyle="none", label=f"bound {source}", **look)
    axis.axvline(1.0, color="k", linewidth=1.0, label="attained")
    axis.set_xscale("log")
    axis.set_xlim(0.45, max(1.12, 1.2 * float(table.ratio.max())))
    labels = [f"{name} [{', '.join(sorted(ids))}]" for name, ids in lines.items()]
    for plain, formula in _FORMULAS.items():
        labels = [label.replace(plain, formula) for label in labels]
    axis.set_yticks(range(len(lines)), labels)
    axis.invert_yaxis()
    axis.set_xlabel("measured / bound [1]")
    axis.set_ylabel("claim [id]")
    finished = plotting.finish(drawing, "Tightest instances found by adversarial search, one marker a rate")
    ticks = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    return finished
