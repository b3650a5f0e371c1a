"""Memory and time of several inner steps, by number of steps, on the network of `meta_gradients`."""

import functools
from typing import Any

import jax
import optax

from experiments.benchmarks.meta_gradients import LAYERS, SAMPLES, loss, problem
from jaxmaml import Episode, InnerLoop, maml_same_batch
from jaxmaml.timing import medians, table

STEPS = (1, 2, 5, 10, 20, 100)
LOOPS: dict[str, dict[str, Any]] = {
    "remat": {},
    "2 levels": {"checkpoint_levels": 2},
    "3 levels": {"checkpoint_levels": 3},
    "kept": {"remat": False},
}
"""Arguments of InnerLoop."""
UPDATES: dict[str, Any] = {"rate": 0.05, "Adam": optax.adam(1e-3, eps_root=1e-8)}


def program(update: str, steps: int, loop: str, params: list, episode: Episode) -> Any:
    inner = InnerLoop(steps, **LOOPS[loop])

    def direction(p: list, e: Episode) -> list:
        return maml_same_batch(loss, p, e, alpha=UPDATES[update], inner=inner)

    return jax.jit(direction).lower(params, episode).compile()


def run() -> list[str]:
    params, episodes = problem()
    episode = jax.tree.map(lambda x: x[0], episodes)
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    made = {
        (update, steps, loop): program(update, steps, loop, params, episode)
        for update in UPDATES
        for steps in STEPS
        for loop in LOOPS
    }
    times = medians({f"{key}": functools.partial(c, params, episode) for key, c in made.items()}, repeats=7)
    memory = {key: c.memory_analysis().temp_size_in_bytes / size for key, c in made.items()}
    one = {update: times[f"{(update, 1, 'remat')}"] for update in UPDATES}
    rows = [
        [
            update,
            f"{steps}",
            *(f"{memory[update, steps, loop]:.1f}" for loop in LOOPS),
            *(f"{times[f'{(update, steps, loop)}'] / one[update]:.1f}" for loop in LOOPS),
        ]
        for update in UPDATES
        for steps in STEPS
    ]
    few, many = STEPS[-2:]
    growth = {
        update: (memory[update, many, "remat"] - memory[update, few, "remat"]) / (many - few)
        for update in UPDATES
    }
    names = "-".join(map(str, LAYERS))
    header = ["update", "inner steps", *(f"memory, {x}" for x in LOOPS), *(f"time, {x}" for x in LOOPS)]
    return [
        "## Several inner steps",
        "",
        f"`maml_same_batch` of one task on the MLP {names}, {SAMPLES} samples a batch; memory of",
        "temporaries in sets of parameters, time in that of one step. Recomputing (`remat`, default) keeps",
        f"the parameters of each step: {growth['rate']:.2f} sets more a step; with Adam also its gradient",
        f"and state: {growth['Adam']:.2f}. Nested checkpoints (`checkpoint_levels`) keep fewer, and compute",
        "steps again. Keeping the linearisations (`remat=False`) saves a gradient a step; their size is that",
        "of the activations, which grows with the batch.",
        "",
        *table(header, rows),
    ]
