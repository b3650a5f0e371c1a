"""Exact counts: a run that is looked at after every step, at accuracies that are chosen before it runs."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import FirstHits
from jaxmaml import objective, tree
from jaxmaml.types import Scalar

PER_DECADE = 24


def epsilons(start, decades):
    """The accuracies at which a run is judged, from its first gradient norm downward, chosen before it runs."""
    return start * np.array([0.995, *10 ** (-np.arange(1, round(PER_DECADE * decades) + 1) / PER_DECADE)])


class _Seen(NamedTuple):
    k: jax.Array
    w: jax.Array
    value: jax.Array
    norm: jax.Array
    total: jax.Array
    spread: jax.Array
    rise: jax.Array
    hits: jax.Array
    norms: jax.Array
    totals: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Watched(FirstHits):
    """`FirstHits`, with what the theorems' lines and their proofs speak of; one row an epsilon.

    hit = the first k with ||grad F(w_k)|| <= epsilon, nan where the run does not get there;
    grad_norm = ||grad F(w_k)|| and step_sum = sum_{j<k} beta_j there. Of the whole run: start_norm, objective =
    F(w_0), end_norm, spread = the largest sigma at an iterate, and rise = the largest ||grad F(w_k)|| at which
    F(w_{k+1}) > F(w_k), 0 if it never rises. It ends at the last epsilon, or after `length` steps.
    """

    length: Scalar
    """a leaf, where the last of `run.record` is static: runs of many lengths are one program."""

    @property
    def cost(self):
        return int(self.length)

    def execute(self):
        run, epsilon = self.run, jnp.asarray(self.epsilons)
        key = jax.random.key(run.seed, impl="threefry2x32")
        zero = 0 * jnp.asarray(run.alpha, float)
        none = zero + jnp.full(epsilon.shape, jnp.nan)
        start, first = self._at(jnp.asarray(run.w0) + zero)
        rounding = 1e-12 * jnp.abs(first["value"])

        def new(seen, k, w, at, total, rise):
            now = jnp.isnan(seen.hits) & (at["norm"] <= epsilon)
            marks = ((k, seen.hits), (at["norm"], seen.norms), (total, seen.totals))
            hits = (jnp.where(now, value, before) for value, before in marks)
            return _Seen(
                k, w, at["value"], at["norm"], total, jnp.maximum(seen.spread, at["spread"]), rise, *hits
            )

        def step(seen):
            taken = run.step(jax.random.fold_in(key, seen.k), seen.w)
            w, at = self._at(taken.w)
            # Not <=, so that a run that diverges rises.
            rose = ~(at["value"] <= seen.value + rounding)
            rise = jnp.where(rose, jnp.maximum(seen.rise, seen.norm), seen.rise)
            return new(seen, seen.k + 1, w, at, seen.total + taken.step_size, rise)

        def goes_on(seen):
            lasts = (seen.k < self.length) & jnp.any(jnp.isnan(seen.hits))
            return lasts & jnp.all(jnp.isfinite(seen.w))

        k = zero.astype(int)
        empty = _Seen(k, start, first["value"], first["norm"], zero, first["spread"], zero, none, none, none)
        seen = jax.lax.while_loop(goes_on, step, new(empty, k, start, first, zero, zero))
        return {
            "epsilon": epsilon,
            "hit": seen.hits,
            "grad_norm": seen.norms,
            "step_sum": seen.totals,
            "start_norm": first["norm"],
            "objective": first["value"],
            "end_norm": seen.norm,
            "spread": seen.spread,
            "rise": seen.rise,
        }

    def _at(self, w):
        family, alpha = self.run.family, self.run.alpha
        gradients = objective.task_gradients(family, w)
        centred = gradients - jnp.mean(gradients, axis=0)
        return w, {
            "norm": tree.norm(objective.grad_F(family, w, alpha)),
            "value": objective.F(family, w, alpha),
            "spread": jnp.sqrt(jnp.mean(jnp.sum(jnp.square(centred), axis=1))),
        }
