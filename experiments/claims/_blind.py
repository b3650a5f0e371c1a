"""Runs on two tasks with B i.i.d. tasks a step, counted: the number of the first task among them is binomial."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import Run, Step, step_norms
from jaxmaml import _random, objective
from jaxmaml.tasks._noise import NoiseBatch
from jaxmaml.tasks.cosine import first_zero
from jaxmaml.tasks.hf_blind import HfBlind, Signs
from jaxmaml.types import Scalar

WORDS = -(-100_000 // 32)


def ones(key, count):
    """The number of ones among `count` <= 32 WORDS fair bits: binomial with p = 1/2, exactly."""
    used = jnp.clip(count - 32 * jnp.arange(WORDS), 0, 32).astype(jnp.uint32)
    # A shift by all 32 bits is not defined.
    mask = jnp.where(used > 0, jnp.uint32(2**32 - 1) >> jnp.minimum(32 - used, 31), jnp.uint32(0))
    return jnp.sum(jax.lax.population_count(_random.bits(key, WORDS) & mask).astype(int))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counted(Run):
    """A run on two tasks whose direction has the law of `tasks` i.i.d. ones; exact gradients and step."""

    tasks: Scalar = 20.0

    def step(self, key: jax.Array, w: jax.Array) -> Step:
        episodes = objective.full_episodes(self.family)
        alone = [jax.tree.map(lambda x, i=i: x[i : i + 1], episodes) for i in range(2)]
        share = ones(key, self.tasks) / self.tasks
        first, second = (self.direction(w, episode) for episode in alone)
        direction = share * first + (1 - share) * second
        new, used = self.move(w, direction, step_norms(self.family, w, episodes.inner))
        return Step(new, direction, used)


def counted(run, B):
    """A run with exact gradients over all tasks as one with B i.i.d. tasks a step."""
    return Counted(**{f: getattr(run, f) for f in run.__dataclass_fields__}, tasks=float(B))


def blind_root(family, alpha):
    """Where exact HF-MAML with the theorem's delta stops on hf_blind: E_s g_s = 0, for the secant is mu."""

    def direction(w):
        return np.mean(family.adapted_gradients(w, alpha), axis=0)

    return first_zero(direction, float(family.h) / 10, 1e-3)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BlindPlane(HfBlind):
    """hf_blind with a second coordinate, f_s(x) + ridge y^2 / 2: L, rho, sigma and the root are the same."""

    ridge: Scalar = 0.0
    """unit phi/u^2, at most L."""

    @property
    def dim(self) -> int:
        return 2

    def loss(self, w: jax.Array, task: Signs, batch: NoiseBatch) -> jax.Array:
        return super().loss(w, task, batch) + 0.5 * self.ridge * w[1] ** 2


def chain_mean(run, B, width=1e-4):
    """Stationary E|F'| of HF-MAML with the theorem's delta on hf_blind, B i.i.d. tasks: the law of w on a grid, moved
    with its mean kept. The direction is (1 - alpha mu) g_s of each task, for the secant is mu.

    The grid, `width` at B = 20, shrinks like the noise; the share of one task is binomial, above 100 tasks normal.
    """
    import scipy.sparse.linalg
    import scipy.stats

    family, alpha, constants = run.family, run.alpha, run.family.constants()
    low, high, width = (y * np.sqrt(20 / B) for y in (-0.25, 0.4, width))
    x = blind_root(family, alpha) + np.arange(low, high, width)
    first, second = (1 - alpha * float(family.mu)) * family.adapted_gradients(x, alpha)
    norms = np.abs(family.task_gradients(x)).mean(axis=0)
    beta = run.c / (4 * constants.L + 2 * constants.rho * alpha * norms)
    if B <= 100:
        share, chance = np.arange(B + 1) / B, scipy.stats.binom.pmf(np.arange(B + 1), B, 0.5)
    else:
        nodes, chance = np.polynomial.hermite_e.hermegauss(20)
        share, chance = 0.5 + nodes / (2 * np.sqrt(B)), chance / chance.sum()
    share, chance = share[:, None], chance[:, None]
    to = np.clip((x - x[0] - beta * (share * first + (1 - share) * second)) / width, 0, len(x) - 1 - 1e-9)
    cell = np.floor(to).astype(int)
    weights = np.stack([chance * (cell + 1 - to), chance * (to - cell)])
    came = np.broadcast_to(np.arange(len(x)), weights.shape)
    place = np.stack([cell, cell + 1]).ravel(), came.ravel()
    move = scipy.sparse.csc_matrix((weights.ravel(), place), shape=(len(x), len(x)))
    # law = move law with sum 1: up to a factor, the law that is 1 in the middle.
    still = (scipy.sparse.identity(len(x), format="csc") - move).tolil()
    middle = len(x) // 2
    still[middle] = np.eye(1, len(x), middle)
    law = scipy.sparse.linalg.spsolve(still.tocsc(), np.eye(1, len(x), middle).ravel())
    return float(np.abs(family.grad_objective(x, alpha)) @ law / law.sum())
