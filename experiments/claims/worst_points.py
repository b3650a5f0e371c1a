"""The tightest instances found of the bounds at one or two points, with exact gradients (E02, E03, E10, E20).

Two tasks in one dimension with piecewise linear second derivatives (`experiments.search`). Bounds derived and as
summarised; all are attained.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import search
from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims import _worst
from experiments.claims._worst import ANY, SUMMARY, constants
from experiments.search import THREE, Bound, Spline, Subject, derivatives, divided, over
from jaxmaml import hvp, objective
from jaxmaml.theory import finite_difference, gradient_comparison, smoothness

claim = Claim(
    "E02", "the tightest instances of smoothness, comparison and difference", place="smoothness lemma"
)


def compared(x):
    c1, c2, _ = gradient_comparison.comparison_constants(x["lam"])
    return c1 * x["b"] + c2 * constants(x).sigma


BOUNDS = (
    Bound(
        "smoothness, sharper",
        r"$\|\nabla F(w)-\nabla F(u)\|\le\min\{L_s(w),L_s(u)\}\|w-u\|$",
        over(lambda x: smoothness.sharp_smoothness(constants(x), x["lam"], min(x["norm"], x["norm_u"]))),
        least_slope=5.0,
    ),
    Bound(
        "smoothness",
        r"$\|\nabla F(w)-\nabla F(u)\|\le\min\{L(w),L(u)\}\|w-u\|$, $\alpha\le1/L$",
        over(lambda x: smoothness.smoothness(constants(x), x["lam"], min(x["norm"], x["norm_u"]))),
        ANY,
        5.0,
        SUMMARY,
    ),
    Bound(
        "second-order remainder",
        r"$|F(u)-F(w)-\nabla F(w)^\top(u-w)|\le\frac{L(w)}2\|u-w\|^2$, $\alpha\le1/L$",
        over(lambda x: smoothness.smoothness(constants(x), x["lam"], x["norm"])),
        ANY,
        5.0,
        SUMMARY | {"number": "E03"},
    ),
    Bound(
        "gradient comparison",
        r"$\|\nabla f\|\le C_1\|\nabla F\|+C_2\sigma$",
        over(compared),
        ((0.01, 0.5),),
        about={"number": "E10", "place": "MAML theorem"},
    ),
    Bound(
        "central difference",
        r"$\|d-Hv\|\le\min\{\frac12\rho\delta\|v\|^2,2L\|v\|\}$",
        over(lambda x: finite_difference.truncation(constants(x), x["distance"], 1.0)),
        about={"number": "E20", "place": "Hessian-free product"},
    ),
)


def formulas(x):
    u, lam = x.distance, x.alpha
    _, first, second = derivatives(x.tasks, u * THREE)
    value, outer, _ = derivatives(x.tasks, (u * THREE - lam * first)[:2])
    F, gradient, norms = value.mean(-1), ((1 - lam * second[:2]) * outer).mean(-1), abs(first[:2]).mean(-1)
    rise = abs(gradient[1] - gradient[0]) / u
    rest = 2 * abs(F[1] - F[0] - gradient[0] * u) / u**2
    truncation = abs((first[1] - first[2]) / (2 * u) - second[0])[0]
    least, sigma = jnp.min(norms), jnp.sqrt(jnp.var(first[0]) + 1e-30)
    return divided(
        [rise, rise, rest, abs(first[0].mean()), truncation],
        (1 + lam) ** 2 + (1 + lam) * lam * least,
        4 + 2 * lam * least,
        4 + 2 * lam * norms[0],
        (abs(gradient[0]) + (2 * lam + lam**2) * sigma) / (1 - lam) ** 2,
        jnp.minimum(0.5 * u, 2.0),
    )


def library(x):
    family, u = Spline(x.tasks, jnp.zeros(2)), x.distance
    w, one, ends = jnp.zeros(1), jnp.ones(1), u * np.array([[0.0], [1.0]])
    gradient = jax.vmap(lambda v: objective.grad_F(family, v, x.alpha)[0])(ends)
    F = jax.vmap(lambda v: objective.F(family, v, x.alpha))(ends)
    slopes = jax.vmap(lambda v: objective.task_gradients(family, v)[:, 0])(ends)
    rise = jnp.abs(gradient[1] - gradient[0]) / u
    rest = 2 * jnp.abs(F[1] - F[0] - gradient[0] * u) / u**2
    batch = jax.tree.map(lambda a: a[0], objective.full_episodes(family).inner)
    loss = functools.partial(objective.task_loss, family)
    error = hvp.central_difference(loss, w, one, batch, u) - hvp.exact(loss, w, one, batch)
    norms = jnp.mean(jnp.abs(slopes), axis=1)
    about = {"distance": u, "b": jnp.abs(gradient[0]), "norm": norms[0], "norm_u": norms[1]}
    return [rise, rise, rest, jnp.abs(jnp.mean(slopes[0])), jnp.abs(error)[0]], search.facts(x) | about


@Quantity
def subject(cell):
    return Subject(
        lambda raw: search.decode(raw, cell.alpha, cell.least_slope, equal=True), formulas, library
    )


_worst.declare(
    claim, BOUNDS, subject, search.parameters(2), lambda x: f"{_worst.told(x)}, |u-w|={x['distance']:.2g}"
)


@claim.figure
def figure(table):
    """All bounds at one or two points are attained by tasks that a search finds: none can be made smaller."""
    return _worst.drawn(table, BOUNDS, "Exact gradients at one or two points: tightest tasks found")
