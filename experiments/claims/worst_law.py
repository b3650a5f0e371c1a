"""The tightest laws found of the bounds for the moments of 1/L~ (E05, E06).

Four kinds of task in one dimension with any chances, samples off by +-sigma~, B' = D_beta = 1, in units of
alpha = L = rho = 1, because L~ knows alpha ||grad f_j|| only. Bounds derived and as summarised.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims import _worst
from experiments.claims._worst import SUMMARY
from experiments.search import Bound, Subject, over, spread
from jaxmaml import step_size
from jaxmaml.theory import step_moments

claim = Claim("E05", "the tightest laws of the adaptive step's moments", place="step-size lemma")
KINDS = 4
ONE = ((1.0, 1.0),)
LOWER = r"$E[1/\tilde L]\ge0.8/L(w)$, as a ratio of 0.8 to $L(w)E[1/\tilde L]$"
SHARPER = {"number": "E06"}


def bound(name, statement, constant, about):
    return Bound(name, statement, over(lambda _: constant), ONE, about=about)


BOUNDS = (
    bound("E[1/L~] from below", LOWER, 1 / step_moments.first_moment_lower(), SUMMARY),
    bound("E[1/L~^2]", r"$E[1/\tilde L^2]\le3.125/L(w)^2$", step_moments.SECOND_MOMENT_SUMMARY, SUMMARY),
    bound("E[1/L~]", r"$E[1/\tilde L]\le1.225/L(w)$", step_moments.first_moment_upper(), SHARPER),
    bound(
        "E[1/L~^2], sharper", r"$E[1/\tilde L^2]\le1.855/L(w)^2$", step_moments.second_moment_upper(), SHARPER
    ),
)


class Law(NamedTuple):
    chances: Any
    gradients: Any
    """shape (KINDS,)"""
    noise: Any


def law(raw):
    """At the batch conditions B' = D_beta = 1: sigma <= sqrt(2) and sigma~ <= 1/2."""
    chances = jax.nn.softmax(raw[:KINDS])
    offsets = raw[KINDS:-3] - (chances * raw[KINDS:-3]).sum()
    sigma = math.sqrt(2) * jax.nn.sigmoid(raw[-3])
    gradients = raw[-2] + sigma * offsets / jnp.sqrt(spread(offsets, chances) + 1e-30)
    return Law(chances, gradients, 0.5 * jax.nn.sigmoid(raw[-1]))


def outcomes(x):
    """Norms of the sampled gradients, either sign of the noise for every kind of task, shape (KINDS, 2)."""
    return abs(x.gradients[:, None] + x.noise * np.array([1.0, -1.0]))


def moments(x, values):
    """From L~ of each outcome."""
    inverse = (4 + 2 * (x.chances * abs(x.gradients)).sum()) / values
    first, second = (0.5 * (x.chances[:, None] * power).sum() for power in (inverse, inverse * inverse))
    return [1 / first, second, first, second]


def formulas(x):
    found = moments(x, 4 + 2 * outcomes(x))
    return found, found


def library(x):
    transform, w = step_size.scale_by_theorem_step(1.0, 1.0, 1.0, 1.0), jnp.zeros(1)

    def smooth(norm):
        return transform.update(w, transform.init(w), task_grad_norms=norm[None])[1].smoothness

    about = {"noise": x.noise, "chance": x.chances, "slope": x.gradients}
    return moments(x, jax.vmap(jax.vmap(smooth))(outcomes(x))), about


@Quantity
def subject(cell):
    del cell
    return Subject(law, formulas, library)


def told(x):
    return f"{_worst.numbers('p', x['chance'])}, {_worst.numbers('f', x['slope'])}, sigma~={x['noise']:.3g}"


_worst.declare(claim, BOUNDS, subject, 2 * KINDS + 3, told)


@claim.figure
def figure(table):
    """Laws that a search finds come within a twentieth of the derived bounds on the moments of the step size.

    The second moment as summarised is nearly twice as large as it can be.
    """
    return _worst.drawn(table, BOUNDS, r"Moments of $1/\tilde L$: tightest laws found")
