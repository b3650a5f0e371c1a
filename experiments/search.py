"""Searching for worst cases: tasks whose constants are known by construction, and ascent from many starts.

The tasks are cubic splines in one dimension,

    f_i(x) = s_i x + h_i x^2 / 2 + sum_j r_ij (x - k_ij)_+^3 / 6,
    f_i''(x) = h_i + sum_j r_ij (x - k_ij)_+,

so that f_i'' is piecewise linear: L is its largest absolute value at a knot, rho its steepest slope, both
attained. Kinks matter, because most bounds that know L and rho alone are attained by them only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmaml.types import Array

RATE = 0.1
"""of Adam in the unconstrained parameters, which are of order one; it falls to 0 like a cosine."""


class SplineTasks(NamedTuple):
    slope: Any
    """s, shape (n,)."""
    curvature: Any
    """h left of all knots, shape (n,)."""
    knots: Any
    """k, shape (n, 4), increasing."""
    jumps: Any
    """r, the jumps of f''' at the knots, shape (n, 4); they add up to 0."""


def derivatives(tasks: SplineTasks, x: Any) -> tuple[Any, Any, Any]:
    """f_i, f_i' and f_i'' at x_i, x of shape (..., n) or (..., 1)."""
    x = x + 0 * tasks.slope
    y = x[..., None] - tasks.knots
    y = 0.5 * (y + abs(y))
    second = tasks.jumps * y
    first = 0.5 * second * y
    value = first * y / 3
    return (
        tasks.slope * x + 0.5 * tasks.curvature * x * x + value.sum(-1),
        tasks.slope + tasks.curvature * x + first.sum(-1),
        tasks.curvature + second.sum(-1),
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spline:
    """The tasks as a family; a sample adds +-(noise_0 x + noise_1 x^2 / 2), either sign equally likely.

    `sample` enumerates: the batches alternate between the signs, so that a mean over an even number of
    batches of one task is an expectation. Size 1 only.
    """

    tasks: SplineTasks
    noise: Array
    """(noise of the gradient, of the Hessian) at x = 0, shape (2,)."""

    max_batch = 1
    dim = 1

    def loss(self, w: jax.Array, task: SplineTasks, batch: jax.Array) -> jax.Array:
        x = w[0]
        linear, quadratic = jnp.mean(batch, axis=0)
        return derivatives(task, x)[0] + linear * x + 0.5 * quadratic * x**2

    def full(self, task: SplineTasks) -> jax.Array:
        return jnp.zeros((1, 2), jnp.result_type(task.slope))

    def sample(self, key: jax.Array, who: jax.Array, sizes: jax.Array) -> jax.Array:
        """Shape (m, 1, 2)."""
        del key, sizes
        signs = 1 - 2 * (jnp.arange(who.shape[0]) % 2)
        return signs[:, None, None] * jnp.asarray(self.noise)


def lipschitz(tasks: SplineTasks) -> tuple[Any, Any]:
    """L and rho of the tasks, both attained."""
    at_knots = derivatives(tasks, tasks.knots.T)[2]
    L = jnp.maximum(abs(at_knots).max(), abs(tasks.curvature).max())
    return L, abs(jnp.cumsum(tasks.jumps, axis=1)).max()


def ramps(slope: jax.Array, levels: jax.Array, middle: jax.Array, gap: jax.Array) -> SplineTasks:
    """Tasks with f'(0) = slope whose f'' goes from one level to the next with slope +-1, so rho = 1.

    levels, shape (n, 3): the first ramp ends at `middle`, the second begins `gap` later.
    """
    rise = levels @ np.array([[-1.0, 0.0], [1.0, -1.0], [0.0, 1.0]])
    width, sign = jnp.abs(rise), jnp.sign(rise)
    knots = width @ np.array([[-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    knots = knots + middle[:, None] + gap[:, None] * np.array([0.0, 0.0, 1.0, 1.0])
    jumps = sign @ np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
    free = SplineTasks(jnp.zeros_like(slope), levels[:, 0], knots, jumps)
    return free._replace(slope=slope - derivatives(free, jnp.zeros(1))[1])


class Instance(NamedTuple):
    """Tasks with what the bounds are about, at w = 0."""

    tasks: SplineTasks
    chances: Any
    """of the tasks, shape (n,)."""
    alpha: Any
    distance: Any
    """of u from w, or of the points of the central difference."""
    noise: Any
    """sigma~: gradient samples are off by +-noise."""
    twist: Any
    """sigma_h: Hessian samples are off by +-twist."""


THREE = np.array([[0.0], [1.0], [-1.0]])


def between(raw: jax.Array, low: Any, high: Any) -> jax.Array:
    return low + (high - low) * jax.nn.sigmoid(raw)


def parameters(n: int) -> int:
    """How many numbers `decode` takes for n tasks."""
    return 7 * n + 4


def decode(
    raw: jax.Array, alpha: Any, least_slope: float = 0.0, *, reach: float = 6.0, equal: bool = False
) -> Instance:
    """n tasks; alpha between two ends, |f_i'(0)| from least_slope to about sinh(reach)."""
    own = raw[:-4].reshape(-1, 7)
    slope = jnp.sinh(reach * jnp.tanh(own[:, 0] / reach))
    slope = slope + jnp.where(slope < 0, -least_slope, least_slope)
    tasks = ramps(slope, jnp.sin(own[:, 1:4]), own[:, 4], own[:, 5] ** 2)
    distance = jnp.exp(between(raw[-3], math.log(3e-3), math.log(30.0)))
    noise, twist = (jnp.exp(between(r, math.log(3e-2), math.log(300.0))) for r in raw[-2:])
    rate = between(raw[-4], alpha[0], alpha[1])
    return Instance(tasks, jax.nn.softmax((not equal) * own[:, 6]), rate, distance, noise, twist)


class Local(NamedTuple):
    """Of each task at 0."""

    slopes: Any
    hessians: Any
    secants: Any
    """[f'(arc) - f'(-arc)] / (2 arc)"""


def local(x: Instance, arc: Any = 1.0) -> Local:
    _, first, second = derivatives(x.tasks, arc * THREE)
    return Local(first[0], second[0], (first[1] - first[2]) / (2 * arc))


def adapted(x: Instance, slopes: Any) -> Any:
    """f_i'(-alpha slopes), g_i at the slopes f_i'(0)."""
    return derivatives(x.tasks, -x.alpha * slopes)[1]


def per_task(function: Callable[[Spline], jax.Array], tasks: SplineTasks) -> jax.Array:
    """Of the family of each task alone, so that means may be weighted."""
    return jax.vmap(lambda task: function(Spline(jax.tree.map(lambda a: a[None], task), jnp.zeros(2))))(tasks)


def facts(x: Instance) -> dict[str, jax.Array]:
    """What is told of an instance, and what must not exceed 1: L and rho."""
    here = local(x)
    L, rho = lipschitz(x.tasks)
    told = {"chance": x.chances, "slope": here.slopes, "curvature": here.hessians}
    return told | {"lam": x.alpha, "noise": x.noise, "twist": x.twist, "L": L, "rho": rho}


def spread(values: Any, chances: Any) -> Any:
    """sigma^2."""
    return (chances * (values - (chances * values).sum()) ** 2).sum()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ascent:
    """Gradient ascent by Adam from many starts at once."""

    starts: Array
    """shape (restarts, parameters)."""
    steps: int = field(metadata={"static": True})

    def run(self, score: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The best score on each path, shape (restarts,), and where it was; -inf if it was never finite."""
        optimiser = optax.adam(optax.cosine_decay_schedule(RATE, self.steps))
        x = jnp.asarray(self.starts)
        lowest = jnp.full(x.shape[:1], -jnp.inf)

        def step(carry: Any, _: None) -> tuple[Any, None]:
            x, state, best, where = carry
            value, slope = jax.vmap(jax.value_and_grad(score))(x)
            better = jnp.isfinite(value) & (value > best)
            best, where = jnp.where(better, value, best), jnp.where(better[:, None], x, where)
            slope = jnp.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)
            updates, state = optimiser.update(-slope, state)
            return (x + updates, state, best, where), None

        carry, _ = jax.lax.scan(step, (x, optimiser.init(x), lowest, x), length=self.steps)
        return carry[2], carry[3]


def ascent(effort: tuple[int, int], parameters: int) -> Ascent:
    """From as many starts, with as many steps, as `effort` says."""
    starts = np.random.default_rng(0).standard_normal((effort[0], parameters))
    return Ascent(1.5 * starts, effort[1])


class Bound(NamedTuple):
    name: str
    statement: str
    ratio: Callable[[Any, float], float]
    """(facts, measured) -> how much of the bound is attained"""
    alphas: tuple[tuple[float, float], ...] = ((1 / 6, 1 / 6),)
    """ranges, one search each"""
    least_slope: float = 0.0
    """least |f_i'(0)|, so that the terms of a bound that grow with it are met too"""
    about: Any = None
    """number, place and source, where they are not the claim's"""


class Subject(NamedTuple):
    """What bounds are about; lists have an entry for every bound."""

    decode: Callable[[Any], Any]
    """unconstrained parameters -> instance"""
    formulas: Callable[[Any], tuple[list[Any], list[Any]]]
    """instance -> what is measured and what is to be as large as possible, by closed forms"""
    library: Callable[[Any], tuple[list[Any], dict[str, Any]]]
    """instance -> what is measured, by the library, and what else the bounds need"""
    scores: Callable[[Any], list[Any]] | None = None
    """instance -> the second of `formulas` alone, where what is measured costs much more"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Search:
    """The largest score of one bound, and what the library says of the instance."""

    ascent: Ascent
    which: int
    alpha: Array
    """low and high end."""
    least_slope: float
    subject: Any = field(metadata={"static": True})
    """cell -> Subject, a `Quantity`."""

    @property
    def cost(self) -> int:
        return self.ascent.steps * len(self.ascent.starts) // 20

    def check(self) -> None:
        """Nothing can be wrong."""

    def execute(self) -> dict[str, jax.Array]:
        subject = self.subject(self)

        def score(raw: jax.Array) -> jax.Array:
            x = subject.decode(raw)
            return jnp.stack(subject.scores(x) if subject.scores else subject.formulas(x)[1])[self.which]

        scores, ends = self.ascent.run(score)
        found = subject.decode(ends[jnp.argmax(scores)])
        measured, facts = subject.library(found)
        return {
            "measured": jnp.stack(measured)[self.which],
            "formula": jnp.stack(subject.formulas(found)[0])[self.which],
            "reached": jnp.mean(scores > jnp.max(scores) - 0.01),
        } | facts


def divided(measured: list[Any], *bounds: Any) -> tuple[list[Any], list[Any]]:
    """Formulas whose scores are ratios."""
    return measured, [m / b for m, b in zip(measured, bounds, strict=True)]


def over(bound: Callable[[Any], float]) -> Callable[[Any, float], float]:
    """A ratio by the bound that `jaxmaml.theory` gives for the facts."""
    return lambda x, measured: measured / bound(x)
