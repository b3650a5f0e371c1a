"""The tightest instances found of the bounds at the limit points of FO-MAML and HF-MAML (E14, E21).

Tasks in one dimension with piecewise linear second derivatives (`experiments.search`); the slope of the last is such
that the mean direction of the method vanishes at w = 0. Bounds derived.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims._worst import UNIT, Bound, Subject, drawn, found, judged, over, searches, told
from experiments.search import PARAMETERS, Spline, adapted, decode, derivatives, facts, local
from jaxmaml import estimators, objective
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.theory import gradient_comparison, limit_points
from jaxmaml.theory.hf_maml import ETA
from jaxmaml.types import Constants

claim = Claim("E14", "the tightest instances of the bounds where the biased methods stop")


def spread(x):
    return Constants(1.0, 1.0, np.std(x["slope"]))


METHODS = ("maml", "fo_maml", "hf_maml")
BOUNDS = (
    Bound(
        "the same where grad F = 0",
        r"$\|\nabla f\|\le C_2\sigma$ where $\nabla F=0$",
        over(lambda x: gradient_comparison.comparison_constants(x["lam"])[1] * spread(x).sigma),
        about={"number": "E10", "place": "MAML theorem"},
    ),
    Bound(
        "limit of FO-MAML",
        r"$\|\nabla F\|\le\alpha L(1+\lambda)(1+\frac{\lambda^2}{(1-\lambda)^2})^{1/2}\sigma$ where $E_ig_i=0$",
        over(lambda x: limit_points.fo_limit_bound(spread(x), x["lam"])),
        ((1 / 10, 1 / 10),),
        about={"place": "FO-MAML theorem"},
    ),
    Bound(
        "limit of HF-MAML",
        r"$\|\nabla F\|\le\min\{\frac\eta2,2\lambda\}E_i\|g_i\|$ where $E_iG_i=0$, $\eta=\frac16$",
        over(lambda x: limit_points.hf_limit_bound(x["lam"], ETA, x["g"])),
        about={"number": "E21", "place": "HF-MAML theorem"},
    ),
)


def stopped(raw, cell):
    """The slope by bisection; its last step is Newton's, which carries the derivative."""
    x = decode(raw, cell.alpha, cell.least_slope, reach=8.0)
    here = local(x, ETA / x.alpha)
    shrunk = 1 - x.alpha * jnp.stack([here.hessians, jnp.zeros(2), here.secants])[cell.which]
    target = -shrunk[0] / shrunk[1] * adapted(x, here.slopes)[0]
    old, last = here.slopes[1], jax.tree.map(lambda a: a[1:], x.tasks)

    def moved(slope):
        _, first, curvature = derivatives(last, -x.alpha * slope[None])
        return first[0] + slope - old, 1 - x.alpha * curvature[0]

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        above = moved(middle)[0] > target
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    far = jax.lax.stop_gradient(jnp.abs(target) / (1 - x.alpha))
    slope = jax.lax.stop_gradient(jax.lax.fori_loop(0, 50, halve, (-far, far))[0])
    value, rise = moved(slope)
    slope = slope - (value - target) / jax.lax.stop_gradient(rise)
    return x._replace(tasks=x.tasks._replace(slope=x.tasks.slope.at[1].add(slope - old)))


def closed(x, cell):
    here = local(x)
    b = abs(((1 - x.alpha * here.hessians) * adapted(x, here.slopes)).mean())
    return [abs(here.slopes.mean()), b, b]


def scores(x, cell):
    lam, slopes = x.alpha, local(x).slopes
    sigma = jnp.sqrt(jnp.var(slopes) + 1e-30)
    bounds = (
        (2 * lam + lam**2) / (1 - lam) ** 2 * sigma,
        lam * (1 + lam) * jnp.sqrt(1 + (lam / (1 - lam)) ** 2) * sigma,
        jnp.minimum(0.5 * ETA, 2 * lam) * jnp.mean(jnp.abs(adapted(x, slopes))) + 1e-30,
    )
    return [m / b for m, b in zip(closed(x, cell), bounds, strict=True)]


def library(x, cell):
    family, w = Spline(x.tasks, jnp.zeros(2)), jnp.zeros(1)
    everyone, loss = objective.full_episodes(family), functools.partial(objective.task_loss, family)
    means = []
    for name in METHODS:
        arguments = {"delta": theorem_delta(1.0, x.alpha, ETA)} if name == "hf_maml" else {}
        means.append(meta_gradient(estimators.get(name), loss, w, everyone, alpha=x.alpha, **arguments)[0])
    b = jnp.abs(objective.grad_F(family, w, x.alpha))[0]
    gradients = objective.task_gradients(family, w)
    about = {
        "residual": jnp.abs(jnp.stack(means)[cell.which]) / jnp.max(jnp.abs(gradients)),
        "g": jnp.mean(jnp.abs(adapted(x, local(x).slopes))),
    }
    return [jnp.abs(jnp.mean(gradients)), b, b], facts(x) | about


@Quantity
def subject():
    return Subject(stopped, scores, closed, library)


@claim.cells
def cells(scale):
    yield from searches(scale, BOUNDS, subject, PARAMETERS, before=48)


@claim.per("name", "high")
def measured(part, cell):
    return found(part, BOUNDS, told)


@claim.rows
def rows(table, row):
    yield from judged(table, row, BOUNDS)


@claim.figure
def figure(table):
    return drawn(table, BOUNDS, "Where the biased methods stop: tightest instances found")
