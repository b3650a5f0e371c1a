"""Cost of one meta-gradient by estimator, on an MLP 64-256-256-10 with 32 tasks of 64 samples."""

import functools
import inspect
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml import Episode, estimators, float_optimal_delta, meta_gradient
from jaxmaml.timing import medians, table

TASKS, SAMPLES, LAYERS, ALPHA = 32, 64, (64, 256, 256, 10), 0.05


def loss(params: list, batch: tuple) -> jax.Array:
    """Cross-entropy of a network with softplus activations."""
    x, y = batch
    for weights, bias in params[:-1]:
        x = jax.nn.softplus(x @ weights + bias)
    weights, bias = params[-1]
    scores = jax.nn.log_softmax(x @ weights + bias)
    return -jnp.mean(jnp.take_along_axis(scores, y[:, None], axis=1))


def problem(
    layers: tuple[int, ...] = LAYERS, samples: int = SAMPLES, tasks: int = TASKS, classes: bool = True
) -> tuple[list, Episode]:
    """Parameters and episodes, with labels of classes or with numbers to be fitted."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def batch() -> tuple[np.ndarray, np.ndarray]:
        x, shape = normal(tasks, samples, layers[0]), (tasks, samples)
        return x, rng.integers(0, layers[-1], shape) if classes else normal(*shape, layers[-1])

    params = [
        (normal(m, n) / np.float32(np.sqrt(m)), np.zeros(n, np.float32))
        for m, n in itertools.pairwise(layers)
    ]
    return jax.tree.map(jnp.asarray, (params, Episode(batch(), batch(), batch())))


def arguments(estimator: Any) -> dict[str, Any]:
    """What an estimator takes beyond the common arguments."""
    takes = inspect.signature(estimator).parameters
    return {"delta": float_optimal_delta(jnp.float32)} if "delta" in takes else {}


def compiled(params: list, episodes: Episode) -> dict[str, Any]:
    """The meta-gradient of every estimator, ahead of time, at the precision of matrix products in force."""
    made: dict[str, Any] = {}
    for name, estimator in estimators.estimators().items():

        def direction(p: list, e: Episode, estimator=estimator) -> list:  # type: ignore[no-untyped-def]
            return meta_gradient(estimator, loss, p, e, alpha=ALPHA, **arguments(estimator))

        made[name] = jax.jit(direction).lower(params, episodes).compile()
    return made


def run() -> list[str]:
    params, episodes = problem()
    programs = compiled(params, episodes)
    times = medians({name: functools.partial(c, params, episodes) for name, c in programs.items()})
    flops = {name: c.cost_analysis()["flops"] for name, c in programs.items()}
    memory = {name: c.memory_analysis().temp_size_in_bytes for name, c in programs.items()}
    limits = {"maml_same_batch": 1.05, "maml": 1.2}
    rows = [
        [
            name,
            f"{times[name] / times['fo_maml']:.2f}",
            f"{times[name] / times['hf_maml']:.2f}",
            f"{limits[name]}" if name in limits else "",
            f"{flops[name] / flops['fo_maml']:.2f}",
            f"{memory[name] / memory['fo_maml']:.2f}",
        ]
        for name in sorted(times, key=times.__getitem__)
    ]
    header = ["estimator", "time / fo_maml", "time / hf_maml", "target", "FLOP / fo_maml", "memory / fo_maml"]
    return [
        "## One meta-gradient",
        "",
        f"MLP {'-'.join(map(str, LAYERS))}, float32, B = {TASKS} tasks, {SAMPLES} samples a batch; FLOP as",
        "XLA counts them, memory of temporaries. The target is against hf_maml.",
        "",
        *table(header, rows),
    ]
