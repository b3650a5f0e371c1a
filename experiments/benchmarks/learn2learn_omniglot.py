"""The same Omniglot run with jaxmaml and with learn2learn 0.2.0 (torch): accuracies, seconds an outer step.

    python -m experiments.benchmarks.learn2learn_omniglot --data.path FOLDER

writes results/benchmarks_learn2learn.md; every option of `jaxmaml train omniglot` that both
libraries can follow is one here. Optional and for Python 3.11: docs/peers.md says what to install and what is
the same on both sides.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import operator
import os
import pathlib
import sys
import time
import timeit
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
import tyro

from jaxmaml import estimators, meta_gradient, statistics, storage
from jaxmaml.configuration import cores
from jaxmaml.models.normalisation import EPSILON
from jaxmaml.timing import table
from jaxmaml.training import problem as problems
from jaxmaml.training.outer import TrainingProblem, measured
from jaxmaml.training.presets import PRESETS, Evaluation, Method, Preset
from jaxmaml.types import Episode, PyTree

DEFAULT = dataclasses.replace(
    PRESETS["omniglot"],
    method=Method("maml_same_batch", task_chunk=1),
    outer=dataclasses.replace(PRESETS["omniglot"].outer, tasks=8, steps=400),
    evaluation=Evaluation(episodes=200, steps=(1, 3)),
)
ALLOWED: dict[str, tuple] = {
    "data.name": ("omniglot",),
    "model.kind": ("conv4",),
    "model.norm": ("task",),
    "model.activation": ("relu",),
    "model.pool": ("max", "stride"),
    "inner.adapts": ("all",),
    "inner.learn_alpha": (False,),
    "method.estimator": ("maml_same_batch",),
    "outer.optimizer": ("adam",),
}
"""what both sides can express exactly."""
BLOCK = 10
"""outer steps of one library before it is the other's turn."""
TWINS = 4
"""more runs of each library, whose initial parameters differ in the last digit: the chance in training."""
TRIALS = 5
"""meta-gradients with each number of torch threads, before the faster is taken."""
NAME = "benchmarks_learn2learn.md"


class Side(NamedTuple):
    """One library; `step` changes its parameters."""

    name: str
    prepare: Callable[[Episode], Any]
    """episodes as the library takes them; not timed."""
    gradient: Callable[[Any], list[np.ndarray]]
    """the meta-gradient at the present parameters, arrays in torch's order and layout."""
    step: Callable[[Any], None]
    """one outer step on these episodes, finished on return."""
    accuracies: Callable[[Any], dict[int, np.ndarray]]
    """the query accuracy of each episode, by inner steps."""
    compile_s: float


class Took(NamedTuple):
    """Seconds of one outer step."""

    wall: float
    cpu: float
    """of all threads of the process: what else the machine does counts less."""


def run(preset: Preset) -> list[str]:
    """Train on both sides and compare; the report as lines of Markdown."""
    problem = problems.build(preset)
    draw = jax.jit(lambda d, key, tasks: d.episodes(key, tasks), static_argnums=2)

    def batch(step: int) -> Episode:
        """The episodes that `train` draws for this step."""
        key = jax.random.split(jax.random.fold_in(jax.random.key(preset.seed), step))[0]
        return draw(problem.training, key, preset.outer.tasks)

    test = draw(problem.test, jax.random.key(preset.evaluation.seed), preset.evaluation.episodes)
    starts = [problem.params, *(in_last_digit(problem.params, seed) for seed in range(TWINS))]
    (one, *twins), (other, *others) = (make(preset, problem, starts, batch(0)) for make in (ours, theirs))
    sides = one, other
    head = heading(preset)  # first, since it looks for what may not be installed
    first, second = (np.concatenate([g.ravel() for g in s.gradient(s.prepare(batch(0)))]) for s in sides)
    before = measure(sides, test)
    took: tuple[list[Took], list[Took]] = [], []
    for start in range(0, preset.outer.steps, BLOCK):
        episodes = [batch(i) for i in range(start, min(start + BLOCK, preset.outer.steps))]
        # Who goes first changes from block to block.
        for side, times in list(zip(sides, took, strict=True))[:: (-1) ** (start // BLOCK)]:
            for prepared in [side.prepare(e) for e in episodes]:
                started, busy = time.perf_counter(), time.process_time()
                side.step(prepared)
                times.append(Took(time.perf_counter() - started, time.process_time() - busy))
        for twin in (*twins, *others):
            for e in episodes:
                twin.step(twin.prepare(e))
    after = measure(sides, test)
    again = [measure(pair, test) for pair in zip(twins, others, strict=True)]
    return [
        *head,
        *accuracy_table(preset, sides, {0: before, preset.outer.steps: after}),
        *chance_table([after, *again]),
        *seconds_table(sides, took),
        *gradient_lines(first, second, preset),
    ]


# jaxmaml


def ours(preset: Preset, problem: TrainingProblem, starts: list[PyTree], example: Episode) -> list[Side]:
    """jaxmaml from each start, its outer step one compiled program."""
    optimizer = problems.outer_optimizer(preset)
    estimator = estimators.get(preset.method.estimator)
    inner = problems.inner_loop(preset, preset.inner.steps)

    @jax.jit
    def gradient(params: PyTree, episodes: Episode) -> PyTree:
        rate, chunk = preset.inner.alpha, preset.method.task_chunk
        return meta_gradient(
            estimator, problem.loss, params, episodes, alpha=rate, inner=inner, task_chunk=chunk
        )

    def advance(params: PyTree, memory: PyTree, episodes: Episode) -> tuple[PyTree, PyTree]:
        updates, memory = optimizer.update(gradient(params, episodes), memory, params)
        return optax.apply_updates(params, updates), memory

    started = time.perf_counter()
    memory = optimizer.init(problem.params)
    compiled = jax.jit(advance).lower(problem.params, memory, example).compile()
    compile_s = time.perf_counter() - started

    @jax.jit
    def accuracies(params: PyTree, episodes: Episode) -> dict[int, jax.Array]:
        chunk = preset.method.task_chunk or preset.outer.tasks
        of = functools.partial(
            measured, problem.loss, problem.measure, params, preset.inner.alpha, inner, episodes, chunk=chunk
        )
        return {k: of(k)[1] for k in preset.evaluation.steps}

    def side(start: PyTree) -> Side:
        at = [start, memory]

        def step(episodes: Episode) -> None:
            at[:] = jax.block_until_ready(compiled(*at, episodes))

        return Side(
            "jaxmaml",
            lambda episodes: jax.block_until_ready(episodes),
            lambda episodes: in_torch_layout(gradient(at[0], episodes)),
            step,
            lambda episodes: {k: np.asarray(a, float) for k, a in accuracies(at[0], episodes).items()},
            compile_s,
        )

    return [side(start) for start in starts]


def in_last_digit(tree: PyTree, seed: int) -> PyTree:
    """Every entry times 1 + eps or 1 - eps, at random."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    signs = [jax.random.rademacher(key, x.shape, x.dtype) for key, x in zip(keys, leaves, strict=True)]
    moved = [x * (1 + jnp.finfo(x.dtype).eps * s) for x, s in zip(leaves, signs, strict=True)]
    return jax.tree.unflatten(treedef, moved)


def in_torch_layout(tree: PyTree) -> list[np.ndarray]:
    """Conv4's parameters, or their gradient, as torch.nn orders and lays them out."""
    layers = []
    for _, block in sorted(tree["body"].items()):
        kernel = np.asarray(block["conv"]["kernel"])  # height, width, inputs, outputs
        layers += [kernel.transpose(3, 2, 0, 1), block["conv"]["bias"]]
        layers += [block["norm"]["scale"], block["norm"]["bias"]]
    layers += [np.asarray(tree["head"]["kernel"]).T, tree["head"]["bias"]]
    return [np.array(layer) for layer in layers]


# learn2learn


def theirs(preset: Preset, _: TrainingProblem, starts: list[PyTree], example: Episode) -> list[Side]:
    """learn2learn from each start, with one thread of torch or one a core, whichever is faster."""
    # Threads of torch that wait would otherwise spin, on the cores that jaxmaml has its turn on.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    MAML = learn2learn_maml()
    sides = [_theirs(preset, MAML(torch_network(preset, at), lr=preset.inner.alpha)) for at in starts]

    def trial(threads: int) -> float:
        torch.set_num_threads(threads)
        tasks = sides[0].prepare(example)
        return min(timeit.repeat(lambda: sides[0].gradient(tasks), number=1, repeat=TRIALS))

    torch.set_num_threads(min((1, cores()), key=trial))
    return sides


def _theirs(preset: Preset, maml: Any) -> Side:
    """As in learn2learn's own examples: clone, adapt and backward, task by task."""
    import torch

    optimizer = torch.optim.Adam(maml.parameters(), lr=preset.outer.rate)
    loss = torch.nn.functional.cross_entropy

    def tensors(batch: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
        # One channel: (n, 28, 28, 1) and (n, 1, 28, 28) are the same numbers in the same order.
        x, y = (np.array(a) for a in batch)
        return torch.from_numpy(x).reshape(*x.shape[:2], 1, *x.shape[2:4]), torch.from_numpy(y).long()

    def prepare(episodes: Episode) -> list[tuple]:
        return list(zip(*tensors(episodes.inner), *tensors(episodes.outer), strict=True))

    def backward(tasks: list[tuple]) -> None:
        optimizer.zero_grad()
        for x, y, x_query, y_query in tasks:
            learner = maml.clone()
            for _ in range(preset.inner.steps):
                learner.adapt(loss(learner(x), y))
            loss(learner(x_query), y_query).backward()
        for p in maml.parameters():
            p.grad.div_(len(tasks))

    def gradient(tasks: list[tuple]) -> list[np.ndarray]:
        backward(tasks)
        return [p.grad.numpy().copy() for p in maml.parameters()]

    def step(tasks: list[tuple]) -> None:
        backward(tasks)
        optimizer.step()

    def accuracies(tasks: list[tuple]) -> dict[int, np.ndarray]:
        return {k: after(tasks, k) for k in preset.evaluation.steps}

    def after(tasks: list[tuple], steps: int) -> np.ndarray:
        found = []
        for x, y, x_query, y_query in tasks:
            learner = maml.clone(first_order=True)
            for _ in range(steps):
                learner.adapt(loss(learner(x), y))
            with torch.no_grad():
                found.append(float((learner(x_query).argmax(1) == y_query).double().mean()))
        return np.array(found)

    return Side("learn2learn", prepare, gradient, step, accuracies, 0.0)


def learn2learn_maml() -> Any:
    """The class learn2learn.algorithms.MAML, unchanged, without what else `import learn2learn` loads.

    The package's own __init__ imports gym, torchvision and more, which MAML does not use: the two packages
    around its module are therefore registered without running their __init__.
    """
    for name in ("learn2learn", "learn2learn.algorithms"):
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}")
        sys.modules[name] = importlib.util.module_from_spec(spec)
    from learn2learn.algorithms.maml import MAML

    return MAML


def torch_network(preset: Preset, start: PyTree) -> Any:
    """jaxmaml.models.Conv4 in torch.nn, with these parameters."""
    import torch
    from torch import nn

    (side, _, before), ways = problems.shapes(preset.data)
    channels, strided = preset.model.channels, preset.model.pool == "stride"
    layers: list[Any] = []
    while len(layers) < 4:
        # "SAME" padding of stride 2 on an even side is one row at its end, which Conv2d cannot express.
        uneven = strided and side % 2 == 0
        layers.append(
            nn.Sequential(
                *([nn.ZeroPad2d((0, 1, 0, 1))] if uneven else []),
                nn.Conv2d(before, channels, 3, stride=2 if strided else 1, padding=0 if uneven else 1),
                nn.BatchNorm2d(channels, eps=EPSILON, track_running_stats=False),
                nn.ReLU(),
                *([] if strided else [nn.MaxPool2d(2)]),
            )
        )
        side, before = (side + 1) // 2 if strided else side // 2, channels
    ends = [nn.AdaptiveAvgPool2d(1)] if strided else []
    places = 1 if strided else side**2
    network = nn.Sequential(*layers, *ends, nn.Flatten(), nn.Linear(places * channels, ways))
    network = network.to(getattr(torch, preset.precision))
    with torch.no_grad():
        for p, array in zip(network.parameters(), in_torch_layout(start), strict=True):
            p.copy_(torch.from_numpy(array))
    return network


# The report


def measure(sides: tuple[Side, Side], test: Episode) -> dict[int, list[np.ndarray]]:
    """The accuracies of both sides on the same episodes, by inner steps."""
    first, second = (side.accuracies(side.prepare(test)) for side in sides)
    return {k: [first[k], second[k]] for k in first}


def heading(preset: Preset) -> list[str]:
    import torch

    data, model, outer = preset.data, preset.model, preset.outer
    threads = torch.get_num_threads()
    versions = storage.environment()["versions"] | {
        name: importlib.metadata.version(name) for name in ("torch", "learn2learn")
    }
    named = ("python", "jax", "optax", "flax", "torch", "learn2learn")
    return [
        "# jaxmaml and learn2learn on Omniglot",
        "",
        "Written by `python -m experiments.benchmarks.learn2learn_omniglot`; docs/peers.md says",
        "what is the same on both sides.",
        "",
        "| | |",
        "| --- | --- |",
        f"| versions | {', '.join(f'{name} {versions[name]}' for name in named)} |",
        f"| machine | {cores()} CPU cores; threads of torch: {threads}, the faster of 1 and {cores()} |",
        f"| numbers | {preset.precision} |",
        f"| tasks | Omniglot, {'full' if data.full else 'small'} sets, {data.ways}-way {data.support}-shot, "
        f"{data.query} query images a class |",
        f"| network | conv4, {model.channels} channels, pool {model.pool!r}, norm {model.norm!r} |",
        f"| method | exact MAML, inner steps: {preset.inner.steps}, inner rate {preset.inner.alpha:g} |",
        f"| outer loop | B = {outer.tasks} tasks, Adam with rate {outer.rate:g}, {outer.steps} steps |",
        "",
    ]


def accuracy_table(
    preset: Preset, sides: tuple[Side, Side], by_step: dict[int, dict[int, list[np.ndarray]]]
) -> list[str]:
    names = [*(side.name for side in sides), "difference"]
    rows = []
    for step, found in by_step.items():
        for k, (first, second) in found.items():
            # Accuracies are counts over samples: what is left of a difference below that is rounding.
            for name, values in zip(names, (first, second, np.round(first - second, 6)), strict=True):
                v = statistics.interval(values)
                line = [f"{x + 0.0:.4f}" for x in (v.mean, v.low, v.high)]
                rows.append([f"{step}", f"{k}", name, line[0], f"[{line[1]}, {line[2]}]", f"{v.n}"])
    return [
        "## Accuracy",
        "",
        f"On the same {preset.evaluation.episodes} fixed episodes of unseen characters, transductive. The",
        "intervals are over episodes, for the two networks at hand; the difference is taken episode by",
        "episode.",
        "",
        *table(["outer steps", "inner steps", "library", "accuracy", "95 %", "n"], rows),
    ]


def chance_table(runs: list[dict[int, list[np.ndarray]]]) -> list[str]:
    rows = []
    for k in runs[0]:
        means = [[found[k][library].mean() for found in runs] for library in (0, 1)]
        test = scipy.stats.ttest_ind(*means, equal_var=False)
        low, high = test.confidence_interval(0.95)
        listed = [", ".join(f"{a:.4f}" for a in of) for of in means]
        difference = f"{np.mean(means[0]) - np.mean(means[1]):.4f} [{low:.4f}, {high:.4f}]"
        rows.append([f"{k}", *listed, difference])
    return [
        f"The chance in training: the two runs above, then {TWINS} more of each library whose initial",
        "parameters differ in the last digit; the difference of the means with Welch's 95 % interval.",
        "",
        *table(["inner steps", "jaxmaml, each run", "learn2learn, each run", "difference"], rows),
    ]


def seconds_table(sides: tuple[Side, Side], took: tuple[list[Took], list[Took]]) -> list[str]:
    rows, medians = [], []
    for side, times in zip(sides, took, strict=True):
        low, wall, high = np.percentile([t.wall for t in times], (25, 50, 75))
        cpu = float(np.median([t.cpu for t in times]))
        medians.append((wall, cpu))
        compiling = f"{side.compile_s:.1f}" if side.compile_s else "none"
        rows.append([side.name, f"{wall:.3f}", f"[{low:.3f}, {high:.3f}]", f"{cpu:.3f}", compiling])
    ratios = [b / a for a, b in zip(*medians, strict=True)]
    rows.append(["learn2learn / jaxmaml", f"{ratios[0]:.2f}", "", f"{ratios[1]:.2f}", ""])
    return [
        "## Seconds of an outer step",
        "",
        f"Medians of {len(took[0])} steps, the libraries taking turns of {BLOCK} steps in one process.",
        "Drawing the episodes is in neither, compiling is apart. Seconds and ratios hold for this machine",
        "only.",
        "",
        *table(["library", "seconds", "quartiles", "CPU seconds", "compiling, seconds"], rows),
    ]


def gradient_lines(ours: np.ndarray, theirs: np.ndarray, preset: Preset) -> list[str]:
    gap, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
    relative = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    return [
        "## The first meta-gradient",
        "",
        f"{ours.size} entries in {preset.precision}, the largest {largest:.3g}. The largest difference of an",
        f"entry is {gap:.2g}; the difference has {relative:.2g} of the norm.",
    ]


def check(preset: Preset) -> None:
    """One clear error for what one of the sides cannot do."""
    for name, allowed in ALLOWED.items():
        value = operator.attrgetter(name)(preset)
        if value not in allowed:
            raise ValueError(f"{name} = {value!r}; allowed: {', '.join(map(repr, allowed))}")
    problems.check_preset(preset)


def main() -> int:
    preset = tyro.cli(Preset, default=DEFAULT, prog="python -m experiments.benchmarks.learn2learn_omniglot")
    try:
        check(preset)
        jax.config.update("jax_enable_x64", preset.precision == "float64")
        lines = run(preset)
    except (ValueError, FileNotFoundError, ImportError) as error:
        hint = "; docs/peers.md says what to install" if isinstance(error, ImportError) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return 2
    storage.write(pathlib.Path(preset.out or "results") / NAME, "\n".join([*lines, ""]).encode())
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
