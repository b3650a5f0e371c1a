"""Per-FedAvg by loops of NumPy in float64: logistic regression with its gradient and Hessian by hand.

The draws are the library's (`rounds.draw`, which test_draws.py tests); all else is independent of it. `wrong`
names a mistake that public implementations made.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml import federated
from jaxmaml.federated import rounds as module

SIZES = (12, 30, 9, 17, 21)
BATCHES = (2, 3, 4)
KEY = jax.random.key(3)
START = np.array([1.7, -0.4, 2.2])
MISTAKES = (
    "two updates",
    "only the last step is kept",
    "w is not restored",
    "graph is cut",
    "one rate",
    "uniform weights",
    "sum",
    "Hessian on D_in",
)


def samples():
    """Clients of unequal sizes that differ, {name: (x, y)}, with y = -1 or 1."""
    rng = np.random.default_rng(0)
    clients = {}
    for i, n in enumerate(SIZES):
        x = 1.5 * rng.standard_normal((n, 3)) + 0.3 * i
        clients[f"client {i}"] = (
            x,
            np.where(x @ rng.standard_normal(3) + 0.3 * rng.standard_normal(n) > 0, 1, -1),
        )
    return clients


def loss(params, batch):
    """Mean of log(1 + exp(-y x w)), the parameters in two leaves."""
    x, y = batch
    w = jnp.concatenate([params["a"], params["b"][None]])
    return jnp.mean(jax.nn.softplus(-y * (x @ w)))


def tree(w):
    return {"a": jnp.asarray(w[:2]), "b": jnp.asarray(w[2])}


def flat(params):
    return np.concatenate([np.asarray(params["a"]), [np.asarray(params["b"])]])


def value(w, x, y):
    return np.mean(np.logaddexp(0, -y * (x @ w)))


def gradient(w, x, y):
    s = 1 / (1 + np.exp(y * (x @ w)))
    return -(y * s) @ x / len(x)


def hessian(w, x, y):
    s = 1 / (1 + np.exp(y * (x @ w)))
    return (x.T * (s * (1 - s))) @ x / len(x)


def direction(method, w, batches, alpha, delta, wrong):
    inner, middle, outer = batches
    if method == "fedavg":
        return gradient(w, *inner)
    if wrong == "Hessian on D_in":
        middle = inner
    v = gradient(w - alpha * gradient(w, *inner), *outer)
    if method == "fo_maml" or wrong == "graph is cut":
        return v
    if method == "maml":
        return v - alpha * hessian(w, *middle) @ v
    d = (gradient(w + delta * v, *middle) - gradient(w - delta * v, *middle)) / (2 * delta)
    return v - alpha * d


@functools.cache
def _draw(plan, batches):
    return jax.jit(lambda clients, key: module.draw(clients, key, plan, batches))


def draws(plan, batches, clients):
    """(clients, rows of the three batches) of every round, as NumPy arrays."""
    packed = federated.pack(clients)
    for k in range(plan.rounds):
        yield jax.tree.map(np.asarray, _draw(plan, batches)(packed, jax.random.fold_in(KEY, k)))


def train(method, start, plan, *, alpha=0.0, beta, delta=0.0, batches=BATCHES, wrong=None):
    """The server's w after each round, shape (rounds, 3)."""
    clients = samples()
    x, y = (np.concatenate(parts) for parts in zip(*clients.values(), strict=True))
    if wrong == "one rate":
        alpha = beta
    server, history = start, []
    for who, rows in draws(plan, batches, clients):
        ends, sizes = [], []
        for place, client in enumerate(who):
            w = server.copy()
            if wrong == "w is not restored" and ends:
                w = ends[-1].copy()
            for step in range(plan.local_steps):
                some = [(x[at[place, step]], y[at[place, step]]) for at in rows]
                start_of_step = server if wrong == "only the last step is kept" else w
                w = start_of_step - beta * direction(method, start_of_step, some, alpha, delta, wrong)
                if wrong == "two updates":
                    w = w - beta * direction(method, w, some, alpha, delta, wrong)
            ends.append(w)
            sizes.append(1 if plan.weights == "uniform" or wrong == "uniform weights" else SIZES[client])
        p = np.asarray(sizes) / (1 if wrong == "sum" else np.sum(sizes))
        server = p @ np.stack(ends) if wrong != "sum" else np.sum(ends, axis=0)
        history.append(server)
    return np.stack(history)
