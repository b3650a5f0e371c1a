"""A pilot: some outer steps as the run would make them, which lead to where the estimators are compared.

At w0 little can be said of the end of a run: FO-MAML's stall, the noise and the best alpha are those of w0.
So w goes on by the gradient S of the loss after adaptation to D_in, as noisy as in training, with outer steps
that fall linearly to zero,

    beta_k = beta (1 - k/P),    k = 0 ... P - 1,

so that the end is not where the last noise led. beta is 1/L_F, L_F = ||hess F|| at w0 by the power method,
and then 4 times more or less while that ends lower. A preset's own optimiser is taken as it is.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxmaml import tree
from jaxmaml.advice.differences import FLOAT, SAME, Lab, _direction, _losses, draw
from jaxmaml.inner import InnerLoop, adapt
from jaxmaml.statistics import interval
from jaxmaml.types import Episode, PyTree

FACTOR = 4.0
UP, DOWN = 3, 8
"""factors of 4 by which the outer step is raised or lowered at most."""
POWERS = 16
"""rounds of the power method."""
TRIALS = 16
"""steps' draws that losses are compared on, the same for all that are compared."""
SHARE = 0.01
"""of what adaptation, or training, gains: less is no difference."""

REACH = 12
"""half factors of 2 to each side in which alpha is looked for, 64 times."""


@dataclass(frozen=True)
class Run:
    """Where a pilot led."""

    params: PyTree
    losses: np.ndarray
    """after adaptation to D_in at its end, one mean for each of the TRIALS, unit phi; not finite if it
    diverged."""

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))


def trials(lab: Lab, key: jax.Array) -> Episode:
    """TRIALS steps' draws, stacked."""
    return jax.tree.map(lambda *x: jnp.stack(x), *(draw(lab, k) for k in jax.random.split(key, TRIALS)))


def adapted_losses(
    lab: Lab, params: PyTree, alphas: Sequence[float], episodes: Episode, every_sample: bool = False
) -> np.ndarray:
    """Mean loss on D_o after adaptation to D_in, shape (alphas, steps).

    With every_sample those of all tasks on all samples, after adaptation to all, shape (alphas, 1)."""
    if every_sample:
        episodes = jax.tree.map(lambda x: x[None], Episode(lab.full, lab.full, lab.full))
    rates = jnp.asarray(alphas, jnp.result_type(*jax.tree.leaves(params)))
    return np.asarray(_adapted_losses(lab.loss, params, rates, episodes, lab.inner, lab.chunks[0]), float)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _adapted_losses(
    loss: Partial, params: PyTree, alphas: jax.Array, episodes: Episode, inner: InnerLoop, chunk: int | None
) -> jax.Array:
    def one(alpha: jax.Array, episode: Episode) -> jax.Array:
        return loss(adapt(loss, params, episode.inner, alpha, inner), episode.outer)

    def step(alpha: jax.Array, some: Episode) -> jax.Array:
        each = functools.partial(one, alpha)
        return jnp.mean(jax.lax.map(each, some, batch_size=chunk) if chunk else jax.vmap(each)(some))

    return jax.lax.map(lambda a: jax.lax.map(functools.partial(step, a), episodes), alphas)


def smoothness(lab: Lab, params: PyTree, episodes: Episode, key: jax.Array) -> float:
    """||hess|| of the mean loss after adaptation over these draws, by the power method: a lower estimate."""
    some = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), episodes)
    return float(_smoothness(lab.loss, params, some, lab.alpha, key, lab.inner, lab.chunks[0]))


@functools.partial(jax.jit, static_argnums=(5, 6))
def _smoothness(
    loss: Partial,
    params: PyTree,
    episodes: Episode,
    alpha: float,
    key: jax.Array,
    inner: InnerLoop,
    chunk: int | None,
) -> jax.Array:
    flat, unravel = ravel_pytree(params)

    def gradient(w: jax.Array) -> jax.Array:
        return _direction(SAME, loss, unravel(w), episodes, alpha, None, chunk, inner)

    def improve(u: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        product = jax.jvp(gradient, (flat,), (u,))[1]
        size = tree.norm(product)
        return product / jnp.where(size > 0, size, 1.0), size

    begin = jax.random.normal(key, flat.shape, flat.dtype)
    return jax.lax.scan(improve, begin / tree.norm(begin), None, length=POWERS)[1][-1]


Outer = Callable[[jax.Array, jax.Array, int, Callable[[], jax.Array]], jax.Array]
"""(w, G, k, () -> norms of the tasks' gradients) -> the next w, as vectors."""


def falling(step: float, steps: int) -> Outer:
    """w - beta (1 - k/P) G."""
    return lambda w, G, k, _: w - jnp.asarray(step * (1 - k / steps), w.dtype) * G


def preset_outer(optimizer: optax.GradientTransformationExtraArgs, params: PyTree) -> Outer:
    """A preset's own optimiser, with its memory."""
    state = optimizer.init(ravel_pytree(params)[0])

    def update(w: jax.Array, G: jax.Array, _: int, norms: Callable[[], jax.Array]) -> jax.Array:
        nonlocal state
        change, state = optimizer.update(G, state, w, task_grad_norms=norms())
        return optax.apply_updates(w, change)

    return update


def run(
    lab: Lab, name: str, params: PyTree, steps: int, outer: Outer, key: jax.Array, episodes: Episode
) -> Run:
    """So many outer steps of one estimator, and the losses at their end on `episodes`."""
    flat, unravel = ravel_pytree(params)
    delta = next((d for n, rule, d in lab.methods if n == name and rule in ("", FLOAT)), None)
    for k, one in enumerate(jax.random.split(key, steps)):
        w, drawn = unravel(flat), draw(lab, one)
        G = lab.compiled[name](lab.loss, w, drawn, lab.alpha, delta)

        def norms(w: PyTree = w, drawn: Episode = drawn) -> jax.Array:
            return _losses(lab.loss, w, drawn, lab.alpha, lab.chunks[0], lab.inner).norm

        flat = outer(flat, G, k, norms)
    end = unravel(flat)
    return Run(end, adapted_losses(lab, end, [lab.alpha], episodes)[0])


def tuned(
    lab: Lab, params: PyTree, steps: int, step: float, key: jax.Array, episodes: Episode
) -> tuple[Run, float]:
    """A run of S with falling outer steps, and its beta: `step`, or in factors of 4 up while that ends
    clearly lower; else down while a run ends clearly above the start, and on while that ends clearly
    lower."""

    @functools.cache
    def ends(j: int) -> Run:
        return run(lab, SAME, params, steps, falling(step * FACTOR**j, steps), key, episodes)

    start = adapted_losses(lab, params, [lab.alpha], episodes)[0]

    def below(j: int, than: int) -> bool:
        return lower(ends(j).losses, ends(than).losses, max(float(start.mean()) - ends(j).loss, 0.0))

    def useless(j: int) -> bool:
        return lower(start, ends(j).losses, 0.0)

    j = 0
    while j < UP and not useless(j) and below(j + 1, j):
        j += 1
    while j <= 0 and j > -DOWN and (useless(j) or below(j - 1, j)):
        j -= 1
    return ends(j), step * FACTOR**j


@dataclass(frozen=True)
class Scan:
    """The loss after adaptation at one w, for many alphas."""

    alphas: tuple[float, ...]
    sampled: tuple[float, ...]
    """after adaptation to D_in samples, on D_o others."""
    whole: tuple[float, ...]
    """after adaptation to all samples of the tasks, on the same."""
    best: float
    """the least of `sampled`; alpha in force where that is not clearly lower."""
    whole_best: float


def scan(lab: Lab, params: PyTree, episodes: Episode) -> Scan:
    """alpha 2^(j/2), |j| <= 12."""
    alphas = tuple(lab.alpha * 2 ** (j / 2) for j in range(-REACH, REACH + 1))
    sampled = adapted_losses(lab, params, alphas, episodes)
    whole = adapted_losses(lab, params, alphas, episodes, every_sample=True)[:, 0]
    here, before = sampled[REACH], adapted_losses(lab, params, [0.0], episodes)[0]
    means = np.where(np.isfinite(sampled).all(axis=1), sampled.mean(axis=1), np.inf)
    j = int(np.argmin(means))
    gain = max(before.mean() - means[j], 0.0)
    chosen = alphas[j] if lower(sampled[j], here, gain) else lab.alpha
    k = int(np.nanargmin(np.where(np.isfinite(whole), whole, np.inf)))
    return Scan(alphas, tuple(means.tolist()), tuple(whole.tolist()), chosen, alphas[k])


def lower(new: np.ndarray, old: np.ndarray, gain: float) -> bool:
    """Whether new losses are clearly below old ones, draw by draw, by more than SHARE of what was gained."""
    if not np.isfinite(new).all():
        return False
    if not np.isfinite(old).all():
        return True
    scale = float(np.abs(old - new).max()) or 1.0  # what diverges has no finite square
    difference = interval((old - new) / scale)
    return difference.low > 0 and difference.mean > SHARE * gain / scale
