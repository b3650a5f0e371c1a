"""Exact counts: a run that is looked at after every step, at accuracies that are chosen before it runs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import FirstHits
from jaxmaml import objective
from jaxmaml.types import Scalar

PER_DECADE = 24


def epsilons(start, decades):
    """The accuracies at which a run is judged, from its first gradient norm downward, chosen before it runs."""
    return start * np.array([0.995, *10 ** (-np.arange(1, round(PER_DECADE * decades) + 1) / PER_DECADE)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Watched(FirstHits):
    """`FirstHits`, with what the theorems' lines and their proofs speak of.

    Of the whole run: start_norm, objective = F(w_0), end_norm, spread = the largest sigma at an iterate, and rise =
    the largest ||grad F(w_k)|| at which F(w_{k+1}) > F(w_k), 0 if it never rises. It ends after `length` steps.
    """

    length: Scalar
    """a leaf, where the last of `run.record` is static: runs of many lengths are one program."""

    @property
    def cost(self):
        return int(self.length)

    def last(self):
        return self.length

    def see(self, w):
        family, alpha = self.run.family, self.run.alpha
        gradients = objective.task_gradients(family, w)
        centred = gradients - jnp.mean(gradients, axis=0)
        spread = jnp.sqrt(jnp.mean(jnp.sum(jnp.square(centred), axis=1)))
        return super().see(w) | {"value": objective.F(family, w, alpha), "spread": spread}

    def start(self, at):
        norm, value = at["norm"], at["value"]
        named = {"start_norm": norm, "objective": value, "end_norm": norm, "spread": at["spread"]}
        return named | {"rise": 0 * jnp.asarray(self.run.alpha, float)}

    def keep(self, kept, before, at):
        rounding = 1e-12 * jnp.abs(kept["objective"])
        # Not <=, so that a run that diverges rises.
        rose = ~(at["value"] <= before["value"] + rounding)
        rise = jnp.where(rose, jnp.maximum(kept["rise"], before["norm"]), kept["rise"])
        spread = jnp.maximum(kept["spread"], at["spread"])
        return kept | {"end_norm": at["norm"], "spread": spread, "rise": rise}
