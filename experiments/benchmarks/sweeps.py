"""Cells of a sweep in one program against the same cells one after another, and what limits it."""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import sweep
from experiments.cells import theorem_run
from experiments.claim import Claim
from experiments.run import Run, log_steps
from jaxmaml import _random, _trigonometry, plotting
from jaxmaml.tasks import cosine, digits, shared_quadratic, two_cosines
from jaxmaml.timing import medians, table
from jaxmaml.types import BatchSizes

CELLS, STEPS, TARGET = 256, 300, 4.0
MANY = (10_000, 100_000)
NOISY = BatchSizes(B=20, D_in=20.0, D_o=5.0, D_h=1.0, B_prime=1, D_beta=1.0)


def problems() -> dict[str, tuple[Run, int]]:
    """A cell of each kind of run in the suite, and how many steps such a run has at the default scale."""
    c = cosine.make(n=50, d=10)
    noisy_c = cosine.make(n=50, d=10, tau=1.58, beta0=1.0, nu=1.73)
    a = shared_quadratic.make(n=20, d=4, tau=6.0)
    sizes = dataclasses.replace(NOISY, B=5, D_in=8.0, D_o=8.0)
    families: dict[str, tuple[Any, BatchSizes, int]] = {
        "(c2), exact": (two_cosines.make(), BatchSizes(), 80_000),
        "(c), n = 50, d = 10, exact": (c, BatchSizes(), 20_000),
        "(a), d = 4, B = 20, noisy": (a, NOISY, 4000),
        "(c), d = 10, B = 20, noisy": (noisy_c, NOISY, 45_000),
        "digits, d = 65, exact": (digits.make(), BatchSizes(), 10_000),
        "digits, d = 65, B = 5, noisy": (digits.make(max_batch=8), sizes, 10_000),
    }
    return {
        name: (
            theorem_run(
                family,
                "maml",
                0.1 / family.constants().L,
                np.full(family.dim, 1.0),
                record=log_steps(STEPS),
                sizes=sizes,
            ),
            steps,
        )
        for name, (family, sizes, steps) in families.items()
    }


def cells(base: Run, number: int = CELLS) -> list[tuple[dict[str, int], Run]]:
    """Different seeds and rates, so that nothing is the same twice."""
    return [
        ({"seed": j}, dataclasses.replace(base, seed=j, alpha=base.alpha * (1 - j / 4000)))
        for j in range(number)
    ]


def widths() -> tuple[int, ...]:
    """Cells in one program: as many as the target speaks of, and on accelerators from few to many."""
    return (CELLS,) if jax.default_backend() == "cpu" else (8, 64, CELLS, 4 * CELLS)


def together(labelled: list[tuple[dict[str, int], Run]]) -> float:
    """Seconds a cell-step in the sweep's program, without compiling or writing."""
    with tempfile.TemporaryDirectory() as folder:
        _, report = sweep.sweep(labelled, pathlib.Path(folder), chunk_cells=len(labelled), quiet=True)
    return report.run_s / report.cell_steps


def one_by_one(labelled: list[tuple[dict[str, int], Run]]) -> float:
    """Seconds a cell-step of the jitted single run."""
    single = jax.jit(lambda cell: cell.execute())
    jax.block_until_ready(single(labelled[0][1]))
    started = time.perf_counter()
    for _, cell in labelled:
        jax.block_until_ready(single(cell))
    return (time.perf_counter() - started) / sum(cell.cost for _, cell in labelled)


def across(call: Callable[[jax.Array], jax.Array], width: int) -> float:
    """Seconds of `call` a cell, with `width` cells on each device at once and nothing else to do."""
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), ("cells",))
    spec = jax.sharding.PartitionSpec("cells")
    rounds = 200

    def many(seeds: jax.Array) -> jax.Array:
        def repeated(seed: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, rounds, lambda k, s: s + call(seed + k), 0.0)

        return jax.vmap(repeated)(seeds)

    sharded = jax.jit(jax.shard_map(many, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    seeds = jnp.arange(width * len(devices))
    return medians({"": lambda: sharded(seeds)}, repeats=5)[""] / rounds / seeds.size


def limits(base: Run) -> tuple[float, float]:
    """Seconds a cell-step that the random normals and the sines of the noisy (c) cost by themselves."""
    d, B = base.family.dim, NOISY.B or 0
    batches = 3 * B + 1
    normals = 3 * batches * d
    # At w a sine for the gradient and a cosine for the Hessian of every drawn task, at its adapted w+ a
    # sine at omega w+, and a sine and a cosine at nu w+.
    sines = 5 * B * d

    def draw(seed: jax.Array) -> jax.Array:
        return jnp.sum(_random.standard_normal(jax.random.key(seed), (normals,)))

    def waves(seed: jax.Array) -> jax.Array:
        return jnp.sum(_trigonometry.sin(jnp.linspace(0.0, 9.0, sines) + seed))

    return across(draw, 8), across(waves, 8)


def recording(base: Run, steps: int) -> float:
    """Seconds of a run with the default recording density over that of one that records its end only."""
    rare = dataclasses.replace(base, record=(0, steps))
    usual = dataclasses.replace(base, record=log_steps(steps))
    single = jax.jit(lambda cell: cell.execute())
    calls = {"usual": lambda: single(usual), "rare": lambda: single(rare)}
    # A run takes up to seconds: what disturbs one repetition is kept within it.
    ratios = [pair["usual"] / pair["rare"] for pair in (medians(calls, 1) for _ in range(7))]
    return float(np.median(ratios))


def throughput(found: dict[str, tuple[Run, int]]) -> list[str]:
    """Cells together against cells alone."""
    repeats = 3 if jax.default_backend() == "cpu" else 1  # an accelerator is not shared; compiling is slow
    rows = []
    for name, (base, _) in found.items():
        labelled = cells(base, max(widths()))
        alone = labelled[: min(widths())]
        pairs = [(one_by_one(alone), [together(labelled[:n]) for n in widths()]) for _ in range(repeats)]
        ratios = np.median([[a / b for b in every] for a, every in pairs], axis=0)
        rows.append([name, *(f"{x:.1f}" for x in ratios), f"{TARGET:.0f}", f"{1e6 * pairs[0][1][-1]:.2g}"])
    header = ["problem", *(f"{n} cells" for n in widths()), "target", "us a cell-step, together"]
    return [
        f"## {CELLS} cells in one program",
        "",
        "Time of the same cells one after another through one jitted run, over their time in the sweep's",
        f"program on {len(jax.local_devices())} devices ({STEPS} steps each, without compiling).",
        "",
        *table(header, rows),
    ]


def what_limits(base: Run) -> list[str]:
    """Of a CPU."""
    step = float(np.median([together(cells(base)) for _ in range(3)]))
    normals, sines = limits(base)
    return [
        "A single run already vectorises over its tasks, so that the sweep gains its overhead an operation",
        "and the second core; what is arithmetic anyway gains the second core only. For the noisy (c), the",
        f"random normals take {100 * normals / step:.0f} % and the sines {100 * sines / step:.0f} % of the",
        "time of a cell-step, each measured alone in the sweep's layout with a loop of its own (so that they",
        "may add up to more than all): arithmetic is most of it.",
        "",
    ]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trivial:
    """A cell that computes next to nothing: what is left is the sweep's own work."""

    x: float
    cost = 1

    def check(self) -> None:
        """Nothing can be wrong."""

    def execute(self) -> dict[str, jax.Array]:
        return {"y": jnp.sin(self.x)}


trivial = Claim("-", "sines")


@trivial.per("part")
def means(part: pd.DataFrame, _: Trivial) -> dict[str, float]:
    return {"mean": float(part.y.to_numpy().mean())}


@trivial.figure
def curve(table: pd.DataFrame) -> Figure:
    figure = Figure()
    figure.subplots().plot(table.part, table["mean"])
    return figure


def own_work(number: int) -> dict[str, float]:
    """CPU seconds of what a sweep of so many trivial cells does, by phase."""
    labelled = [({"part": j % 100}, Trivial(float(j))) for j in range(number)]
    clock = [time.process_time()]

    def passed() -> float:
        clock.append(time.process_time())
        return clock[-1] - clock[-2]

    with tempfile.TemporaryDirectory() as name:
        folder, found = pathlib.Path(name), {}
        prepared = sweep.prepare(labelled, folder, quiet=True)
        found["start: keys and plan"] = passed()
        prepared.run()
        found["run, write, collect"] = passed()
        prepared = sweep.prepare(labelled, folder, quiet=True)
        found["resume: keys, plan and reading all"] = passed()
        rows, _ = prepared.run()
        found["collect"] = passed()
        plotting.save(trivial.draw(trivial.measure(rows, labelled)), [folder / "figure.svg"])
        found["measure and plot"] = passed()
    return found


def many_cells() -> list[str]:
    """What a sweep itself costs, and how that grows."""
    own_work(MANY[0] // 10)  # what is done once a process
    few, many = (own_work(number) for number in MANY)
    rows = [
        [phase, f"{few[phase]:.2g}", f"{many[phase]:.2g}", f"{many[phase] / few[phase]:.1f}"] for phase in few
    ]
    return [
        "## Many cells",
        "",
        "CPU seconds of the sweep's own work, with cells that compute one sine; ten times the cells take ten",
        "times as long where the work is linear.",
        "",
        *table(["phase", *(f"{number:,} cells" for number in MANY), "ratio"], rows),
    ]


def run() -> list[str]:
    found = problems()
    lines = throughput(found) + many_cells()
    if jax.default_backend() != "cpu":
        launches = [
            "A step of few cells is the launches of its kernels, one after another; up to a thousand cells",
            "cost about the same.",
            "",
        ]
        return lines + launches
    lines += what_limits(found["(c), d = 10, B = 20, noisy"][0])
    rows = [
        [name, f"{steps}", f"{100 * (recording(base, steps) - 1):.1f} %", "10 %"]
        for name, (base, steps) in found.items()
    ]
    lines += [
        "## Recording exact metrics",
        "",
        "Extra time of a run that records grad F, F, L(w) and the spread over all tasks at the default",
        "density, against one that records its end only, at the length of such runs at the default scale.",
        "",
        *table(["problem", "steps", "extra", "target"], rows),
    ]
    return lines
