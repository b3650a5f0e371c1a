"""The tightest matrices found of the gradient comparison (E10). Bounds derived.

Linear algebra in two dimensions, symmetric matrices of norm at most 1: one task for the form, four with any chances
where grad F = E_i[(I - alpha H_i)(I - alpha H'_i) grad f_i] = 0. Whether functions have these Hessians is not asked.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims import _worst
from experiments.search import Bound, Subject, over
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml.estimators.maml import maml
from jaxmaml.theory import gradient_comparison
from jaxmaml.types import Episode

claim = Claim("E10", "the tightest matrices of the gradient comparison", place="MAML theorem")
TASKS = 4
BOUNDS = (
    Bound(
        "quadratic form",
        r"$x^\top(I-\alpha H)(I-\alpha H')x\ge\gamma(\lambda)\|x\|^2$ for $\lambda=\frac16,0.35,0.6$",
        lambda x, measured: measured * gradient_comparison.gamma(x["lam"]),
        ((1 / 6, 1 / 6), (0.35, 0.35), (0.6, 0.6)),
    ),
    Bound(
        "the same where grad F = 0",
        r"$\|\nabla f\|\le C_2\sigma$ where $\nabla F=0$",
        over(lambda x: gradient_comparison.comparison_constants(x["lam"])[1]),
    ),
    Bound(
        "the same where grad F = 0, sharper",
        r"$\|\nabla f\|\le\tan(2\arcsin\lambda)\sigma$ where $\nabla F=0$",
        over(lambda x: gradient_comparison.comparison_at_zero(x["lam"])),
    ),
)


class Matrices(NamedTuple):
    chances: Any
    gradients: Any
    """shape (TASKS, 2)"""
    hessians: Any
    mean_hessians: Any
    """shape (TASKS, 2, 2)"""
    alpha: Any


def factors(x):
    """(I - alpha H)(I - alpha H')."""
    return (jnp.eye(2) - x.alpha * x.hessians) @ (jnp.eye(2) - x.alpha * x.mean_hessians)


def matrices(raw, cell):
    """The gradient of the last task is such that grad F = 0."""

    def one(raw):
        (a, b), cos, sin = jnp.sin(raw[:2]), jnp.cos(raw[2]), jnp.sin(raw[2])
        low = (a - b) * sin * cos
        return jnp.array([[a * cos**2 + b * sin**2, low], [low, a * sin**2 + b * cos**2]])

    own = raw.reshape(TASKS, 9)
    hessians, means = jax.vmap(one)(own[:, :3]), jax.vmap(one)(own[:, 3:6])
    x = Matrices(jax.nn.softmax(own[:, 8]), own[:, 6:8], hessians, means, jnp.asarray(cell.alpha[1]))
    M = factors(x)
    rest = jnp.einsum("i,ijk,ik->j", x.chances[:-1], M[:-1], x.gradients[:-1]) / x.chances[-1]
    (a, b), (c, d) = M[-1]
    last = -jnp.stack([d * rest[0] - b * rest[1], a * rest[1] - c * rest[0]]) / (a * d - b * c)
    return x._replace(gradients=x.gradients.at[-1].set(last))


def compared(chances, gradients):
    """||grad f|| / sigma."""
    mean = chances @ gradients
    return jnp.linalg.norm(mean) / jnp.sqrt(chances @ ((gradients - mean) ** 2).sum(axis=1))


def formulas(x):
    share = compared(x.chances, x.gradients)
    return 2 * ([1 / factors(x)[0, 0, 0], share, share],)


def library(x):
    """MAML at w = 0 with f_i = w^T H'_i w / 2 + v_i^T w on D_in and D_o, and H_i on D_h."""

    def loss(w, batch):
        H, v = jax.tree.map(lambda a: a[0], batch)
        return 0.5 * w @ H @ w + v @ w

    def episodes(v):
        own, mean = ((H[:, None], v[:, None]) for H in (x.hessians, x.mean_hessians))
        return Episode(mean, own, mean)

    w, first = jnp.zeros(2), jnp.array([[1.0, 0.0]])
    everyone = episodes(x.gradients)
    one = jax.tree.map(lambda a: a[0], episodes(jnp.broadcast_to(first, x.gradients.shape)))
    gradients = jax.vmap(lambda batch: jax.grad(loss)(w, batch))(everyone.inner)
    rest = meta_gradient(maml, loss, w, everyone, alpha=x.alpha, weights=x.chances)
    share = compared(x.chances, gradients)
    residual = jnp.linalg.norm(rest) / jnp.max(jnp.abs(gradients))
    shown = {"chance": x.chances, "slope": x.gradients[:, 0], "curvature": x.gradients[:, 1], "lam": x.alpha}
    shown |= {"H": x.hessians[0].ravel(), "H'": x.mean_hessians[0].ravel(), "residual": residual}
    return [1 / maml(loss, w, one, alpha=x.alpha)[0], share, share], shown


@Quantity
def subject(cell):
    return Subject(lambda raw: matrices(raw, cell), formulas, library)


def told(x):
    names = {"p": "chance", "(grad f_i)_1": "slope", "(grad f_i)_2": "curvature"}
    if x["name"] == "quadratic form":
        names = {"H": "H", "H'": "H'"}
    return ", ".join(_worst.numbers(name, x[key]) for name, key in names.items())


_worst.declare(claim, BOUNDS, subject, 9 * TASKS, told)


@claim.figure
def figure(table):
    """The tightest matrices that a search finds attain the bounds by which gradients are compared.

    At a stationary point only the sharper bound is attained.
    """
    return _worst.drawn(table, BOUNDS, "Comparison of gradients: tightest matrices found")
