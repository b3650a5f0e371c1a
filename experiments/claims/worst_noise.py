"""The tightest instances found of the bounds for one noisy inner step (E07, E08, E09).

Two tasks in one dimension with piecewise linear second derivatives (`experiments.search`), whose samples are off by
+-sigma~ in the gradient and +-sigma_H in the Hessian at once. Bounds derived and as summarised; all are attained.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import search
from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims import _worst
from experiments.claims._worst import ANY, SUMMARY, constants
from experiments.search import THREE, Bound, Spline, Subject, adapted, derivatives, divided, over
from jaxmaml import objective
from jaxmaml.estimators.fo_maml import fo_maml
from jaxmaml.theory import inner_bias, objective_gap, second_moment

claim = Claim("E07", "the tightest instances of the bounds for a noisy inner step", place="bias lemma")
GAP = {"number": "E09", "place": "F and F-hat"}


BOUNDS = (
    Bound(
        "bias, sharper",
        r"$\|e_i\|\le\min\{\alpha L\tilde\sigma D_{in}^{-1/2},\frac12\rho\alpha^2\tilde\sigma^2/D_{in}\}$",
        over(lambda x: inner_bias.bias(constants(x), x["lam"], 1.0)),
    ),
    Bound(
        "bias",
        r"$\|e_i\|\le\alpha L\tilde\sigma/\sqrt{D_{in}}$",
        over(lambda x: inner_bias.bias_summary(constants(x), x["lam"], 1.0)),
        ANY,
        about=SUMMARY,
    ),
    Bound(
        "second moment, best phi",
        r"$E\|\tilde g_i\|^2\le(\|g_i\|+\alpha L\tilde\sigma/\sqrt{D_{in}})^2+\tilde\sigma^2/D_o$",
        over(lambda x: second_moment.second_moment_optimal(x["g"], constants(x), x["lam"], 1.0, math.inf)),
        ANY,
        about={"number": "E08"},
    ),
    Bound(
        "gap of F-hat, sharper",
        r"$\|\nabla\hat F-\nabla F\|\le(\frac{1+\lambda}2\rho\alpha^2\tilde\sigma^2+\alpha^2L\sigma_H\tilde\sigma)/D_{test}$",
        over(lambda x: objective_gap.gap(constants(x), x["lam"], 1.0)),
        about=GAP,
    ),
    Bound(
        "gap of F-hat",
        r"$\|\nabla\hat F-\nabla F\|\le2\alpha L\tilde\sigma/\sqrt{D_{test}}+\alpha^2L\sigma_H\tilde\sigma/D_{test}$",
        over(lambda x: objective_gap.gap_summary(constants(x), x["lam"], 1.0)),
        ANY,
        about=GAP | SUMMARY,
    ),
)


def formulas(x):
    lam, shift = x.alpha, x.alpha * x.noise
    _, slopes, hessians = derivatives(x.tasks, np.zeros(1))
    g = adapted(x, slopes + x.noise * THREE)
    bias = 0.5 * (g[1] + g[2]) - g[0]
    gap = abs(((1 - lam * hessians) * bias - 0.5 * lam * x.twist * (g[1] - g[2])).mean())
    bias, cross = abs(bias[0]), lam * shift * x.twist
    return divided(
        [bias, bias, 0.5 * (g[1] ** 2 + g[2] ** 2)[0], gap, gap],
        jnp.minimum(shift, 0.5 * shift**2),
        shift,
        (abs(g[0, 0]) + shift) ** 2,
        jnp.minimum(2 * shift, 0.5 * (1 + lam) * shift**2) + cross,
        2 * shift + cross,
    )


def library(x):
    family, w = Spline(x.tasks, jnp.stack([x.noise, x.twist])), jnp.zeros(1)
    loss = functools.partial(objective.task_loss, family)
    everyone = objective.full_episodes(family)
    first = jax.tree.map(lambda a: a[0], everyone)
    task, exact = first.inner

    def adapted_gradient(batch):
        return fo_maml(loss, w, first._replace(inner=(task, batch)), alpha=x.alpha)[0]

    g = jax.vmap(adapted_gradient)(family.sample(jax.random.key(0), jnp.zeros(2, int), jnp.ones(2)))
    g0 = adapted_gradient(exact)
    bias = jnp.abs(jnp.mean(g) - g0)
    hat = jax.grad(lambda v: objective.F_hat(family, v, x.alpha, 1.0, jax.random.key(0), 2))(w)
    gap = jnp.abs(hat - objective.grad_F(family, w, x.alpha))[0]
    return [bias, bias, jnp.mean(g**2), gap, gap], search.facts(x) | {"g": jnp.abs(g0)}


@Quantity
def subject(cell):
    return Subject(lambda raw: search.decode(raw, cell.alpha, equal=True), formulas, library)


_worst.declare(claim, BOUNDS, subject, search.parameters(2), _worst.noisy)


@claim.figure
def figure(table):
    """All bounds on what a noisy inner step does are attained by tasks that a search finds: none can be made smaller."""
    return _worst.drawn(table, BOUNDS, "A noisy inner step: tightest tasks found")
