"""What a training step costs on many devices: a model, and the bytes that compiled programs exchange.

    python -m experiments.benchmarks.training_devices

A step with m tasks on each of n devices takes

    T(n) = m F / (u R)  +  2 (n - 1) / n  S / W  +  2 min(n - 1, log2 n) l

F, the operations of a task, at a share u of the peak R of a device; then the all-reduce of the gradient, of
S bytes, over links of W bytes a second and of latency l, by a ring or a tree. The efficiency is T(1) / T(n):
a step with n m tasks on n devices against one with m on one.
"""

import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxmaml import Episode, estimators, meta_gradient, models
from jaxmaml.timing import table
from jaxmaml.training import problem
from jaxmaml.training.presets import PRESETS

RATE = 400e12
"""operations a second of one device at its peak: a recent GPU with tensor cores, TF32."""
LINK, LATENCY = 50e9, 5e-6
"""bytes a second between two machines for each device (400 Gbit/s), and seconds a hop."""
COUNTS = (8, 256, 4096)
BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "s32": 4, "u32": 4, "pred": 1}


@dataclass(frozen=True)
class Network:
    name: str
    numbers: float
    """parameters, float32."""
    operations: float
    """of a task."""
    share: float
    """of the peak that is reached; small products reach little."""

    @property
    def bytes(self) -> float:
        """of the gradient."""
        return 4 * self.numbers


def of_preset(name: str, title: str, share: float) -> Network:
    """The network and the task of a preset, with XLA's count of the operations."""
    preset = PRESETS[name]
    data = preset.data
    params, apply = models.split(problem.network(preset))
    inputs, _ = problem.shapes(data)

    def batch(samples: int) -> tuple[jax.Array, jax.Array]:
        count = data.ways * samples
        return jnp.zeros((1, count, *inputs)), jnp.zeros((1, count), jnp.int32)

    episodes = Episode(batch(data.support), batch(data.support), batch(data.query))
    loss = models.cross_entropy(apply)
    step = jax.jit(
        lambda w: meta_gradient(
            estimators.get("maml_same_batch"), loss, w, episodes, alpha=preset.inner.alpha
        )
    )
    analysis = step.lower(params).compile().cost_analysis()
    assert analysis is not None, "XLA counts the operations on every backend"
    operations = float(analysis["flops"])
    numbers = sum(x.size for x in jax.tree.leaves(params))
    return Network(
        f"{title}, {data.ways * data.support} + {data.ways * data.query} images", numbers, operations, share
    )


def large(params: float = 1e9, support: int = 4 * 1024, query: int = 16 * 1024) -> Network:
    """A network of matrix products, 2 operations a parameter and token.

    9 passes of the support batch (the gradient and its derivative) and 3 of the query batch.
    """
    return Network(
        "10^9 parameters, 4 + 16 texts of 1024 tokens", params, 2 * params * (9 * support + 3 * query), 0.4
    )


def seconds(network: Network, devices: int, tasks_a_device: int) -> tuple[float, float]:
    """(of the tasks of a device, of the all-reduce)"""
    compute = tasks_a_device * network.operations / (network.share * RATE)
    hops = 2 * min(devices - 1, math.ceil(math.log2(devices)))
    return compute, 2 * (devices - 1) / devices * network.bytes / LINK + hops * LATENCY


def efficiency(network: Network, devices: int, tasks_a_device: int) -> float:
    compute, exchange = seconds(network, devices, tasks_a_device)
    return compute / (compute + exchange)


def exchanged(program: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective operation in the text of a compiled program."""
    found: dict[str, int] = {}
    kinds = "all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter"
    for shapes, kind in re.findall(rf"= (\S.*?) ({kinds})(?:-start)?\(", program):
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size = math.prod(int(d) for d in dims.split(",") if d)
            found[kind] = found.get(kind, 0) + size * BYTES[dtype]
    return found


def rows() -> list[str]:
    """The table of docs/scaling.md."""
    made = []
    networks = (
        of_preset("fashion_mnist", "MLP 784-128-64-3", 0.003),
        of_preset("omniglot", "Conv4, 64 channels", 0.03),
        large(),
    )
    for network in networks:
        for each in (1, 16):
            shown = [f"{efficiency(network, n, each):.2f}" for n in COUNTS]
            compute, _ = seconds(network, 1, each)
            made.append(
                [
                    network.name,
                    f"{each}",
                    f"{network.bytes:.2g}",
                    f"{each * network.operations:.1e}",
                    f"{1e3 * compute:.3g}",
                    *shown,
                ]
            )
    header = ["network", "tasks a device", "bytes summed", "operations a device", "their ms"]
    return table([*header, *(f"{n} devices" for n in COUNTS)], made)


if __name__ == "__main__":
    print("\n".join(rows()))
