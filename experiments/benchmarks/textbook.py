"""Meta-gradients beside plain JAX: jax.grad of the mean of the adapted losses, vmapped over tasks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import meta_gradients
from jaxmaml import Episode, estimators, meta_gradient
from jaxmaml.timing import medians, table


def sine(params: list, batch: tuple) -> jax.Array:
    """Squared error of a network with tanh."""
    x, y = batch
    for weights, bias in params[:-1]:
        x = jnp.tanh(x @ weights + bias)
    weights, bias = params[-1]
    return jnp.mean((x @ weights + bias - y) ** 2)


PROBLEMS = {
    "MLP 1-40-40-1, tanh": (sine, (1, 40, 40, 1), 10, (4, 25, 100, 1000)),
    "MLP 64-256-256-10, softplus": (meta_gradients.loss, meta_gradients.LAYERS, 64, (4, 32)),
}
"""loss, layers, samples of a batch, numbers of tasks"""
SHOWN = ("maml_same_batch", "maml", "hf_maml", "fo_maml")
CHUNK = 50
"""tasks that a device takes together"""


def textbook(loss: Callable[..., jax.Array], params: list, episodes: Episode) -> list:
    """The gradient that one writes without this library, with D_h = D_in."""

    def one(params: list, episode: Episode) -> jax.Array:
        gradient = jax.grad(loss)(params, episode.inner)
        return loss(jax.tree.map(lambda w, g: w - meta_gradients.ALPHA * g, params, gradient), episode.outer)

    return jax.grad(lambda p: jnp.mean(jax.vmap(one, (None, 0))(p, episodes)))(params)


def run() -> list[str]:
    mesh = jax.make_mesh((jax.device_count(),), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("tasks"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    rows = []
    for name, (loss, layers, samples, sizes) in PROBLEMS.items():
        for tasks in sizes:
            data = meta_gradients.problem(layers, samples, tasks, loss is meta_gradients.loss)
            calls: dict[str, Any] = {"textbook": functools.partial(textbook, loss)}
            for key in SHOWN:
                method = estimators.get(key)
                calls[key] = functools.partial(
                    meta_gradient,
                    method,
                    loss,
                    alpha=meta_gradients.ALPHA,
                    **meta_gradients.arguments(method),
                )
            programs = {key: (jax.jit(call).lower(*data).compile(), data) for key, call in calls.items()}
            if tasks % jax.device_count() == 0:
                shared = jax.device_put(data, (everywhere, spread))
                call = functools.partial(calls["maml_same_batch"], mesh=mesh, task_chunk=CHUNK)
                programs["shared"] = jax.jit(call).lower(*shared).compile(), shared
            taken = medians({key: functools.partial(call, *given) for key, (call, given) in programs.items()})
            rows.append(
                [
                    name,
                    f"{tasks}",
                    f"{taken['maml_same_batch'] / taken['textbook']:.2f}",
                    f"{taken['shared'] / taken['textbook']:.2f}" if "shared" in taken else "",
                    *(f"{taken[key] / taken['maml_same_batch']:.2f}" for key in SHOWN[1:]),
                ]
            )
    header = [
        "network",
        "B",
        "same batch / textbook",
        f"on {jax.device_count()} devices, {CHUNK} tasks at a time",
        "maml / same batch",
        "hf_maml / same batch",
        "fo_maml / same batch",
    ]
    targets = ["target", "", "1.0", "0.65 for B >= 100", "1.3", "1.2", ""]
    return [
        "## Beside plain JAX",
        "",
        "The textbook is `jax.grad` of the mean over `vmap` of the adapted losses, on one device. It and",
        "`maml_same_batch` compute the same; ratios of times, the other methods' to `maml_same_batch`.",
        "",
        *table(header, [*rows, targets]),
    ]
