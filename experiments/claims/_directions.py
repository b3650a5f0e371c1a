"""The directions of all methods on linear scores and on networks: their closed forms, and what they cost."""

import functools
import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.run import draw
from jaxmaml import estimators, hvp, objective, tree
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml.estimators.hf_maml import ArcDelta
from jaxmaml.inner import adapt
from jaxmaml.tasks import finite_data
from jaxmaml.theory import finite_difference
from jaxmaml.timing import medians
from jaxmaml.types import BatchSizes, Constants

TASKS, SAMPLES = 2, 128
SIZES = BatchSizes(B=TASKS, D_in=float(SAMPLES), D_o=float(SAMPLES), D_h=float(SAMPLES))
ALPHA, MU, ARC = 1.0, 1e-3, 1e-5
ESTIMATORS = ("fo_maml", "hf_maml", "maml", "maml_same_batch")
FORMED = "full_hessian"
METHODS = (*ESTIMATORS, FORMED)
REPEATS = 7
"""timings of each program, of which the median."""


def full_hessian(loss, params, episode, *, alpha):
    """MAML's direction with the d x d Hessian formed."""
    v = jax.grad(loss)(adapt(loss, params, episode.inner, alpha), episode.outer)
    return v - hvp.dense(loss, params, tree.scale(alpha, v), episode.hessian)


def gradient(loss, params, episode, *, alpha):
    """One gradient, the unit of all counts."""
    del alpha
    return jax.grad(loss)(params, episode.inner)


def methods():
    return {name: estimators.get(name) for name in ESTIMATORS} | {FORMED: full_hessian}


def direction(method, family):
    """(w, episodes) -> the mean of a method over the tasks."""
    more = {"delta": ArcDelta(ARC)} if "delta" in inspect.signature(method).parameters else {}
    loss = functools.partial(objective.task_loss, family)
    return lambda w, episodes: meta_gradient(method, loss, w, episodes, alpha=ALPHA, **more)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Directions:
    """The directions of all methods on the same episodes, against their closed forms."""

    family: Any
    w: np.ndarray
    seed: int

    @property
    def cost(self):
        return self.family.dim

    def check(self):
        """Nothing can be wrong."""

    def execute(self):
        """||G - closed form|| / E_i||v_i|| in the order of METHODS."""
        w = jnp.asarray(self.w)
        episodes = draw(self.family, jax.random.key(self.seed), SIZES)[0]
        expected, norms = jax.vmap(lambda e: closed_forms(w, e))(episodes)
        found = jnp.stack([direction(f, self.family)(w, episodes) for f in methods().values()])
        distance = jnp.linalg.norm(found - jnp.mean(expected, axis=0), axis=1)
        return {"difference": distance / jnp.mean(norms)}


def closed_forms(w, episode):
    """The directions of one task in the order of METHODS from the matrix H, shape (5, d), and ||v||."""

    def slopes(u, batch):
        x, y, weights = map(jnp.asarray, batch[1])
        return x.T @ (-weights * y * jax.nn.sigmoid(-y * (x @ u))) + MU * u

    def hessian(batch):
        x, _, weights = map(jnp.asarray, batch[1])
        s = jax.nn.sigmoid(x @ w)
        return (x.T * (weights * s * (1 - s))) @ x + MU * jnp.eye(w.size)

    v = slopes(w - ALPHA * slopes(w, episode.inner), episode.outer)
    maml = v - ALPHA * hessian(episode.hessian) @ v
    by_name = {"fo_maml": v, "maml_same_batch": v - ALPHA * hessian(episode.inner) @ v}
    return jnp.stack([by_name.get(name, maml) for name in METHODS]), jnp.linalg.norm(v)


def allowed(method, w):
    """What a direction may differ by from its closed form, relative to ||v||: rounding, and for HF-MAML the
    truncation alpha zeta arc^2 / 6 too. Features of norm 1 give L <= 1/4 + mu, rho <= c3 and zeta <= 1/8."""
    if method != "hf_maml":
        return 1e-10
    constants = Constants(L=0.25 + MU, rho=finite_data.LOSSES["logistic"].c3, sigma=0.0, zeta=1 / 8)
    norm = float(np.linalg.norm(w))
    rounding = finite_difference.rounding(np.finfo(float).eps, 1 + MU * norm, constants.L, norm, ARC)
    return ALPHA * (finite_difference.truncation(constants, ARC, 1.0) + rounding)


def pools(dim):
    """Logistic pools with features of norm 1, and a point."""
    rng = np.random.default_rng(dim)
    x = rng.standard_normal((4, 80, dim))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    y = np.where(rng.standard_normal((4, 80)) > 0, 1.0, -1.0)
    family = finite_data.from_pools(x, y, "logistic", mu=MU, max_batch=SAMPLES)
    return family, np.random.default_rng(dim + 1).standard_normal(dim)


def calls(*more):
    """A gradient and the methods by name, of which those named `more`."""
    known = methods()
    return {"gradient": gradient} | {name: known[name] for name in (*ESTIMATORS, *more)}


def on(net, method):
    more = {"delta": ArcDelta(ARC)} if "delta" in inspect.signature(method).parameters else {}
    return lambda params, episode: method(net.loss, params, episode, alpha=0.1, **more)


def counted(ways, data, timed):
    """A row a method: its operations and a gradient's; if timed, bytes and median seconds."""
    lowered = {name: jax.jit(way).lower(*data) for name, way in ways.items()}
    costs = pd.DataFrame(
        {"flops": {name: float(low.cost_analysis()["flops"]) for name, low in lowered.items()}}
    )
    if timed:
        with ThreadPoolExecutor() as pool:
            compiled = pool.map(lambda low: low.compile(), lowered.values())
            ready = dict(zip(lowered, compiled, strict=True))
        quick = {name: functools.partial(c, *data) for name, c in ready.items() if name != FORMED}
        seconds = medians(quick, REPEATS)
        if FORMED in ready:
            # By itself: it would empty the caches of what runs next.
            seconds |= medians({FORMED: functools.partial(ready[FORMED], *data)}, REPEATS)
        taken = {name: float(c.memory_analysis().temp_size_in_bytes) for name, c in ready.items()}
        costs = costs.assign(temporary_bytes=pd.Series(taken), seconds=pd.Series(seconds))
    unit = costs.loc["gradient"].drop("temporary_bytes", errors="ignore")
    costs = costs.drop(index="gradient").assign(**{f"gradient_{name}": x for name, x in unit.items()})
    return costs.rename_axis("method").reset_index()
