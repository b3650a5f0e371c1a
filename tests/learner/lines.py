"""Linear regression, whose adaptation and meta-gradient NumPy knows in a few lines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxmaml

ALPHA, RATE, TASKS, EPISODES = 0.1, 0.05, 4, 6
SIZES = (3, 2, 7)
"""samples of the support, Hessian and query batch."""


def draw(shift, key, tasks):
    """y = x . slope + shift, a slope of each task."""
    keys = jax.random.split(key, 4)
    slope = 1 + jax.random.normal(keys[3], (tasks, 2, 1))

    def batch(key, samples):
        x = jax.random.normal(key, (tasks, samples, 2))
        return x, (x @ slope)[..., 0] + shift

    return jaxmaml.Episode(*map(batch, keys[:3], SIZES))


TASKS_OF = jax.tree_util.Partial(draw, jnp.float64(0.5))
"""with the shift as data."""


def apply(params, x):
    return x @ params["w"] + params["b"]


def loss(params, batch):
    x, y = batch
    return jnp.mean((apply(params, x) - y) ** 2)


def with_aux(params, batch):
    return loss(params, batch), {"outputs": apply(params, batch[0])}


def largest(params, batch):
    """A measure."""
    return jnp.max(jnp.abs(apply(params, batch[0]) - batch[1]))


def start(dtype=np.float64):
    return {"b": np.zeros((), dtype), "w": np.array([0.3, -0.2], dtype)}


def fit(params=None, tasks=TASKS_OF, *, of=loss, **options):
    defaults = {"alpha": ALPHA, "steps": 3, "tasks_per_step": TASKS, "episodes": EPISODES, "every": 10}
    defaults |= {"apply": apply, "optimizer": sgd(), "quiet": True}
    return jaxmaml.fit(of, start() if params is None else params, tasks, **{**defaults, **options})


@functools.cache
def sgd():
    import optax

    return optax.sgd(RATE)


# In NumPy


def matrix(batch):
    """(X, y) with a column of ones for b, parameters in the order (b, w)."""
    x, y = (np.asarray(part, np.float64) for part in batch)
    return np.column_stack([np.ones(len(x)), x]), y


def gradient(v, batch):
    X, y = matrix(batch)
    return 2 / len(y) * X.T @ (X @ v - y)


def value(v, batch):
    X, y = matrix(batch)
    return np.mean((X @ v - y) ** 2)


def vector(params):
    return np.concatenate([np.ravel(params["b"]), np.ravel(params["w"])]).astype(np.float64)


def after(v, batch, steps, alpha=ALPHA):
    for _ in range(steps):
        v = v - alpha * gradient(v, batch)
    return v


def task(episodes, i):
    return jax.tree.map(lambda x: np.asarray(x[i]), episodes)


def trained(v, steps, seed=0, alpha=ALPHA, second="inner"):
    """MAML by one inner step, with the Hessian on this batch, and SGD, on the draws of `fit`."""
    for step in range(steps):
        key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))[0]
        episodes = TASKS_OF(key, TASKS)
        total = 0
        for i in range(TASKS):
            one = task(episodes, i)
            X, y = matrix(getattr(one, second))
            hessian = 2 / len(y) * X.T @ X
            outer = gradient(after(v, one.inner, 1, alpha), one.outer)
            total = total + (np.eye(3) - alpha * hessian) @ outer
        v = v - RATE * total / TASKS
    return v
