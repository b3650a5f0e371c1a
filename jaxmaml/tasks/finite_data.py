"""Family (d): finite pools of data, f_i(w) = (1/N) sum_n l(x_n^T w, y_n) + mu/2 ||w||^2.

Assumptions 1 to 5 hold globally, with F >= 0. A sample is one index drawn uniformly with replacement from the
task's own pool, for all batches alike; the full pool is exact. With Sigma_i = (1/N) sum x x^T, X = max ||x||
and |l'| <= c1, |l''| <= c2, |l'''| <= c3 (docs/families.md),

    L <= c2 max ||Sigma_i|| + mu,          rho <= c3 X max ||Sigma_i||,   sigma^2 <= c1^2 E ||Sigma_i||,
    sigma_tilde^2 <= c1^2 mean ||x||^2,    sigma_h^2 <= c2^2 mean ||x||^4  (mean over a pool, max over tasks).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml._random import integers
from jaxmaml.checks import check_nonnegative, check_positive, check_step_count
from jaxmaml.names import unknown
from jaxmaml.types import Array, Constants, Infimum, Scalar


class PointLoss(NamedTuple):
    """A loss l(z, y) of one point, with bounds of its derivatives in z at scale s = 1."""

    value: Callable[[jax.Array, jax.Array, Any], jax.Array]
    c1: float
    c2: float
    c3: float


def _cross_entropy(z: jax.Array, y: jax.Array, s: Scalar) -> jax.Array:
    del s
    return jax.nn.logsumexp(z, axis=-1) - jnp.take_along_axis(z, y.astype(int)[..., None], -1)[..., 0]


LOSSES = {
    # y in {-1, 1}: log(1 + e^{-yz}), convex
    "logistic": PointLoss(lambda z, y, _: jax.nn.softplus(-y * z), 1.0, 1 / 4, 1 / (6 * math.sqrt(3))),
    # y a class: log sum_c e^{z_c} - z_y, convex; x enters every class
    "softmax": PointLoss(_cross_entropy, math.sqrt(2), 1 / 2, math.sqrt(6) / 9),
    # y in {-1, 1}: 1/(1 + e^{yz}), nonconvex
    "sigmoid": PointLoss(lambda z, y, _: jax.nn.sigmoid(-y * z), 1 / 4, 1 / (6 * math.sqrt(3)), 1 / 8),
    # y real: s^2/2 log(1 + (z - y)^2/s^2), nonconvex; c1 grows with s, c3 falls
    "cauchy": PointLoss(
        lambda z, y, s: 0.5 * s**2 * jnp.log1p(jnp.square((z - y) / s)),
        1 / 2,
        1.0,
        (3 + 2 * math.sqrt(2)) / 4,
    ),
}


class Pools(NamedTuple):
    x: Array
    """features, shape (n, N, p)."""
    y: Array
    """labels, shape (n, N)."""


class WeightedBatch(NamedTuple):
    """Points with weights that add up to 1; sample axis first."""

    x: Array
    y: Array
    weights: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FiniteData:
    """Pools of data; w has shape (p,), or (p C,) for C classes."""

    tasks: Pools
    mu: Scalar
    """regulariser, unit phi/u^2."""
    scale: Scalar
    """s of the Cauchy loss, in units of y."""
    kind: str = field(metadata={"static": True})
    """one of LOSSES."""
    outputs: int = field(metadata={"static": True})
    """C, 1 for losses of one score."""
    max_batch: int = field(metadata={"static": True})
    """`sample` always draws this many points, and gives the first `size` of them weight 1/size."""

    @property
    def dim(self) -> int:
        return self.tasks.x.shape[-1] * self.outputs

    def loss(self, w: jax.Array, task: Pools, batch: WeightedBatch) -> jax.Array:
        del task
        weights = w if self.outputs == 1 else w.reshape(-1, self.outputs)
        scores = jnp.asarray(batch.x) @ weights
        values = LOSSES[self.kind].value(scores, jnp.asarray(batch.y), self.scale)
        return jnp.vdot(batch.weights, values) + 0.5 * self.mu * jnp.vdot(w, w)

    def full(self, task: Pools) -> WeightedBatch:
        count = task.x.shape[0]
        return WeightedBatch(task.x, task.y, jnp.full(count, 1 / count, task.x.dtype))

    def sample(self, key: jax.Array, who: jax.Array, sizes: jax.Array) -> WeightedBatch:
        x, y = (jnp.asarray(leaf) for leaf in self.tasks)
        index = integers(key, who.size * self.max_batch, y.shape[1]).reshape(who.size, self.max_batch)
        chosen = jnp.arange(self.max_batch) < sizes[:, None]
        return WeightedBatch(
            x[who[:, None], index],
            y[who[:, None], index],
            jnp.where(chosen, 1 / sizes[:, None], 0.0).astype(x.dtype),
        )

    def constants(self) -> Constants:
        x = np.asarray(self.tasks.x, float)
        second = np.einsum("inp,inq->ipq", x, x) / x.shape[1]
        spectral = np.linalg.norm(second, 2, axis=(1, 2))
        squares = np.sum(x**2, axis=2)
        loss = LOSSES[self.kind]
        s = float(self.scale) if self.kind == "cauchy" else 1.0
        c1, c2, c3 = loss.c1 * s, loss.c2, loss.c3 / s
        bounds = ("L", "rho", "sigma", "sigma_tilde", "sigma_h")
        return Constants(
            L=float(c2 * spectral.max() + float(self.mu)),
            rho=float(c3 * np.sqrt(squares.max()) * spectral.max()),
            sigma=float(c1 * np.sqrt(spectral.mean())),
            sigma_tilde=float(c1 * np.sqrt(squares.mean(axis=1).max())),
            sigma_h=float(c2 * np.sqrt((squares**2).mean(axis=1).max())),
            kinds=dict.fromkeys(bounds, "upper bound"),
        )

    def infimum(self, alpha: float) -> Infimum:
        del alpha
        return Infimum(0.0, "lower bound")


def from_pools(
    x: np.ndarray,
    y: np.ndarray,
    loss: str = "logistic",
    *,
    mu: float = 1e-3,
    scale: float = 1.0,
    max_batch: int = 32,
) -> FiniteData:
    """The family of your own data: x of shape (tasks, points, features), y of shape (tasks, points).

    y is -1 or 1 (logistic, sigmoid), a class from 0 (softmax) or real (cauchy). ValueError for an unknown
    loss, shapes or labels that do not fit, and numbers outside their range.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if loss not in LOSSES:
        unknown("loss", loss, LOSSES)
    if x.ndim != 3 or y.shape != x.shape[:2] or 0 in x.shape:
        raise ValueError(
            f"x has shape {x.shape} and y {y.shape}; allowed: (tasks, points, features) and (tasks, points), "
            "the same number of points in every pool"
        )
    if loss in ("logistic", "sigmoid") and not np.isin(y, (-1, 1)).all():
        raise ValueError(f"y holds {np.unique(y)[:5]}; allowed for {loss}: -1 and 1")
    if loss == "softmax" and not (np.equal(np.mod(y, 1), 0).all() and y.min() >= 0):
        raise ValueError(f"y holds {np.unique(y)[:5]}; allowed for softmax: classes 0, 1, ...")
    check_nonnegative("mu", mu)
    check_positive("scale", scale)
    check_step_count("max_batch", max_batch)
    outputs = int(y.max()) + 1 if loss == "softmax" else 1
    return FiniteData(Pools(x, y), mu, scale, loss, outputs, max_batch)


def make(
    loss: str = "logistic",
    n: int = 8,
    pool: int = 40,
    p: int = 5,
    mu: float = 0.05,
    scale: float = 0.7,
    max_batch: int = 32,
    seed: int = 0,
) -> FiniteData:
    """Synthetic pools: Gaussian features scaled to max ||x|| = 1, labels from a noisy linear score a task."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, pool, p))
    x /= np.linalg.norm(x, axis=2).max()
    score = np.einsum("inp,ip->in", x, 3 * rng.standard_normal((n, p)))
    score += 0.3 * rng.standard_normal((n, pool))
    labels = {
        "softmax": np.digitize(score, (-0.5, 0.5)).astype(float),
        "cauchy": score,
    }.get(loss, np.where(score > 0, 1.0, -1.0))
    return from_pools(x, labels, loss, mu=mu, scale=scale, max_batch=max_batch)
