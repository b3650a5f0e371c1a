"""The tightest laws found of the bounds for the moments of 1/L~ (E05, E06).

Kinds of task in one dimension with a chance and a gradient each, samples off by +-sigma~, B' = D_beta = 1, in units
of alpha = L = rho = 1, because L~ knows alpha ||grad f_j|| only. Bounds derived and as summarised.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims._worst import ANY, Bound, Subject, drawn, found, judged, over, searches
from jaxmaml import step_size
from jaxmaml.theory import step_moments

claim = Claim("E05", "the tightest laws of the adaptive step's moments", place="step-size lemma")
SUMMARY = {"source": "as summarised"}
BOUNDS = (
    Bound(
        "E[1/L~] from below",
        r"$E[1/\tilde L]\ge0.8/L(w)$, as a ratio of 0.8 to $L(w)E[1/\tilde L]$",
        over(lambda x: 1 / step_moments.first_moment_lower()),
        ANY,
        about=SUMMARY,
    ),
    Bound(
        "E[1/L~^2]",
        r"$E[1/\tilde L^2]\le3.125/L(w)^2$",
        over(lambda x: step_moments.SECOND_MOMENT_SUMMARY),
        ANY,
        about=SUMMARY,
    ),
    Bound(
        "E[1/L~]",
        r"$E[1/\tilde L]\le1.225/L(w)$",
        over(lambda x: step_moments.first_moment_upper()),
        ANY,
        about={"number": "E06"},
    ),
    Bound(
        "E[1/L~^2], sharper",
        r"$E[1/\tilde L^2]\le1.855/L(w)^2$",
        over(lambda x: step_moments.second_moment_upper()),
        ANY,
        about={"number": "E06"},
    ),
)


class Law(NamedTuple):
    chances: Any
    gradients: Any
    """shape (kinds,)"""
    noise: Any


def law(raw, cell):
    """At the batch conditions B' = D_beta = 1: sigma <= sqrt(2) and sigma~ <= 1/2."""
    chance = jax.nn.sigmoid(raw[0])
    difference = math.sqrt(2) * jax.nn.sigmoid(raw[1]) / jnp.sqrt(chance * (1 - chance))
    gradients = jnp.stack([raw[2], raw[2] + difference])
    return Law(jnp.stack([chance, 1 - chance]), gradients, 0.5 * jax.nn.sigmoid(raw[3]))


def outcomes(x):
    """Norms of the sampled gradients, either sign of the noise for either kind of task, shape (kinds, 2)."""
    return abs(x.gradients[:, None] + x.noise * np.array([1.0, -1.0]))


def moments(x, values):
    """From L~ of each outcome."""
    inverse = (4 + 2 * (x.chances * abs(x.gradients)).sum()) / values
    first, second = (0.5 * (x.chances[:, None] * power).sum() for power in (inverse, inverse * inverse))
    return [1 / first, second, first, second]


def closed(x, cell):
    return moments(x, 4 + 2 * outcomes(x))


def library(x, cell):
    transform, w = step_size.scale_by_theorem_step(1.0, 1.0, 1.0, 1.0), jnp.zeros(1)

    def smooth(norm):
        return transform.update(w, transform.init(w), task_grad_norms=norm[None])[1].smoothness

    about = {"noise": x.noise, "chance": x.chances, "slope": x.gradients}
    return moments(x, jax.vmap(jax.vmap(smooth))(outcomes(x))), about


@Quantity
def subject():
    return Subject(law, closed, closed, library)


@claim.cells
def cells(scale):
    yield from searches(scale, BOUNDS, subject, 4, before=64)


@claim.per("name", "high")
def measured(part, cell):
    def text(x):
        slopes = ", ".join(f"{v:.3g}" for v in x["slope"])
        return f"p={x['chance'][0]:.3g}, alpha f'=({slopes}), noise {x['noise']:.3g}"

    return found(part, BOUNDS, text)


@claim.rows
def rows(table, row):
    yield from judged(table, row, BOUNDS)


@claim.figure
def figure(table):
    return drawn(table, BOUNDS, r"Moments of $1/\tilde L$: tightest laws found")
