"""The tightest instances found of the bounds at the limit points of FO-MAML and HF-MAML (E14, E21).

Four tasks in one dimension with any chances (`experiments.search`); the slope of the last is such that the mean
direction of the method vanishes at w = 0. Bounds derived.
"""

import functools

import jax
import jax.numpy as jnp

from experiments import search
from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims import _worst
from experiments.claims._worst import constants
from experiments.search import Bound, Spline, Subject, adapted, derivatives, divided, local, over, spread
from jaxmaml import estimators, objective
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.theory import limit_points
from jaxmaml.theory.hf_maml import ETA

claim = Claim("E14", "the tightest instances of the bounds where the biased methods stop")


METHODS = ("fo_maml", "hf_maml")
TASKS = 4
BOUNDS = (
    Bound(
        "limit of FO-MAML",
        r"$\|\nabla F\|\le\alpha L(1+\lambda)(1+\frac{\lambda^2}{(1-\lambda)^2})^{1/2}\sigma$ where $E_ig_i=0$",
        over(lambda x: limit_points.fo_limit_bound(constants(x), x["lam"])),
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
    x = search.decode(raw, cell.alpha, reach=8.0)
    here = local(x, ETA / x.alpha)
    shrunk = 1 - x.alpha * jnp.stack([jnp.zeros(TASKS), here.secants])[cell.which]
    weights = x.chances * shrunk
    target = -(weights * adapted(x, here.slopes))[:-1].sum() / weights[-1]
    old, last = here.slopes[-1], jax.tree.map(lambda a: a[-1:], x.tasks)

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
    return x._replace(tasks=x.tasks._replace(slope=x.tasks.slope.at[-1].add(slope - old)))


def formulas(x):
    lam, here = x.alpha, local(x)
    g = adapted(x, here.slopes)
    b = abs((x.chances * (1 - lam * here.hessians) * g).sum())
    return divided(
        [b, b],
        lam * (1 + lam) * jnp.sqrt(spread(here.slopes, x.chances) + 1e-30),
        jnp.minimum(0.5 * ETA, 2 * lam) * (x.chances * abs(g)).sum() + 1e-30,
    )


def library(x, cell):
    family, w = Spline(x.tasks, jnp.zeros(2)), jnp.zeros(1)
    everyone, loss = objective.full_episodes(family), functools.partial(objective.task_loss, family)
    means = []
    for name in METHODS:
        arguments = {"delta": theorem_delta(1.0, x.alpha, ETA)} if name == "hf_maml" else {}
        about = {"alpha": x.alpha, "weights": x.chances} | arguments
        means.append(meta_gradient(estimators.get(name), loss, w, everyone, **about)[0])
    b = jnp.abs(
        (x.chances * search.per_task(lambda one: objective.grad_F(one, w, x.alpha)[0], x.tasks)).sum()
    )
    about = {
        "residual": jnp.abs(jnp.stack(means)[cell.which])
        / jnp.max(jnp.abs(objective.task_gradients(family, w))),
        "g": (x.chances * jnp.abs(adapted(x, local(x).slopes))).sum(),
    }
    return [b, b], search.facts(x) | about


@Quantity
def subject(cell):
    return Subject(lambda raw: stopped(raw, cell), formulas, lambda x: library(x, cell))


_worst.declare(claim, BOUNDS, subject, search.parameters(TASKS))


@claim.figure
def figure(table):
    """The worst tasks that a search finds make FO-MAML and HF-MAML stop exactly as far out as the bounds allow."""
    return _worst.drawn(table, BOUNDS, "Where FO-MAML and HF-MAML stop: tightest tasks found")
