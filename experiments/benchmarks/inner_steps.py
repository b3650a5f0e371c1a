"""Memory and time of several inner steps, by number of steps, on the network of `meta_gradients`."""

import functools
from typing import Any

import jax

from experiments.benchmarks.meta_gradients import LAYERS, SAMPLES, loss, problem
from experiments.benchmarks.timing import medians, table
from jaxmaml import Episode, InnerLoop, maml_same_batch

STEPS = (1, 2, 5, 10, 20)


def run() -> list[str]:
    params, episodes = problem()
    episode = jax.tree.map(lambda x: x[0], episodes)
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    compiled: dict[tuple[int, bool], Any] = {}
    for steps in STEPS:
        for remat in (True, False):

            def direction(p: list, e: Episode, loop: InnerLoop = InnerLoop(steps, remat=remat)) -> list:  # noqa: B008
                return maml_same_batch(loss, p, e, alpha=0.05, inner=loop)

            compiled[steps, remat] = jax.jit(direction).lower(params, episode).compile()
    times = medians({f"{key}": functools.partial(c, params, episode) for key, c in compiled.items()})
    memory = {key: c.memory_analysis().temp_size_in_bytes / size for key, c in compiled.items()}
    rows = [
        [
            f"{steps}",
            *(f"{memory[steps, remat]:.1f}" for remat in (True, False)),
            *(f"{times[f'{steps, remat}'] / times[f'{1, True}']:.1f}" for remat in (True, False)),
        ]
        for steps in STEPS
    ]
    growth = (memory[STEPS[-1], True] - memory[STEPS[-2], True]) / (STEPS[-1] - STEPS[-2])
    names = "-".join(map(str, LAYERS))
    header = ["inner steps", "memory, remat", "memory, kept", "time, remat", "time, kept"]
    return [
        "## Several inner steps",
        "",
        f"`maml_same_batch` of one task on the MLP {names}, {SAMPLES} samples a batch; memory of",
        "temporaries in sets of parameters, time in that of one step. Recomputing (`remat`, default) keeps",
        f"the parameters of each step: {growth:.2f} sets more a step. Keeping the",
        "linearisations saves a gradient a step; their size is that of the activations, which grows with the",
        "batch.",
        "",
        *table(header, rows),
    ]
