"""The tightest matrices found of the gradient comparison (E10): linear algebra in two dimensions. Bounds derived."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims._worst import Bound, Subject, drawn, found, judged, searches
from jaxmaml.estimators.maml import maml
from jaxmaml.theory import gradient_comparison
from jaxmaml.types import Episode

claim = Claim("E10", "the tightest matrices of the gradient comparison", place="MAML theorem")
BOUNDS = (
    Bound(
        "quadratic form",
        r"$x^\top(I-\alpha H)(I-\alpha H')x\ge\gamma(\lambda)\|x\|^2$ for $\lambda=\frac16,0.35,0.6$",
        lambda x, measured: measured * gradient_comparison.gamma(x["lam"]),
        ((1 / 6, 1 / 6), (0.35, 0.35), (0.6, 0.6)),
    ),
)


class Matrices(NamedTuple):
    """(h11, h12, h22) of two symmetric matrices of norm at most 1."""

    hessian: Any
    mean_hessian: Any
    alpha: Any


def matrices(raw, cell):
    def one(raw):
        (a, b), cos, sin = jnp.sin(raw[:2]), jnp.cos(raw[2]), jnp.sin(raw[2])
        return jnp.stack([a * cos**2 + b * sin**2, (a - b) * sin * cos, a * sin**2 + b * cos**2])

    return Matrices(one(raw[:3]), one(raw[3:6]), jnp.asarray(cell.alpha[1]))


def closed(x, cell):
    h, k, a = x.hessian, x.mean_hessian, x.alpha
    return [1 / ((1 - a * h[0]) * (1 - a * k[0]) + a**2 * h[1] * k[1])]


def library(x, cell):
    """MAML's direction with H' on D_in, H on D_h, and f = ||w||^2 / 2 on D_o."""

    def loss(w, batch):
        h11, h12, h22 = batch[0]
        return 0.5 * (h11 * w[0] ** 2 + h22 * w[1] ** 2) + h12 * w[0] * w[1]

    w = jnp.array([1.0, 0.0])
    episode = Episode(x.mean_hessian[None], x.hessian[None], jnp.array([[1.0, 0.0, 1.0]]))
    about = {"lam": x.alpha, "slope": x.hessian, "curvature": x.mean_hessian}
    return [1 / maml(loss, w, episode, alpha=x.alpha)[0]], about


@Quantity
def subject():
    return Subject(matrices, closed, closed, library)


@claim.cells
def cells(scale):
    yield from searches(scale, BOUNDS, subject, 6, before=68)


@claim.per("name", "high")
def measured(part, cell):
    def text(x):
        h, k = (", ".join(f"{v:.3g}" for v in x[name]) for name in ("slope", "curvature"))
        return f"H=({h}), H'=({k})"

    return found(part, BOUNDS, text)


@claim.rows
def rows(table, row):
    yield from judged(table, row, BOUNDS)


@claim.figure
def figure(table):
    return drawn(table, BOUNDS, "Gradient comparison: tightest matrices found")
