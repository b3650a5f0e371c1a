"""Many runs: cells -> compile groups -> vmap -> shards over devices; chunk by chunk, resumable.

A cell is a frozen pytree with `execute()`: its numbers are leaves, names and shapes are static. Cells of
one compile signature (treedef and shapes) run as one program jit(shard(vmap(execute))).
"""

import collections
import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxmaml import results
from jaxmaml.types import PyTree

Labels = Mapping[str, Any]
NOMINAL_RATE = 30e-6
"""seconds a cell-step, for the estimate before anything was measured."""

ACCELERATOR_LANES = 1024
"""cells that a GPU or TPU vectorises at once: a step of few cells is the launches of its kernels there
(docs/gpu.md)."""

traces: collections.Counter[str] = collections.Counter()
"""How often the program of each signature was traced by this process."""
_events: collections.Counter[str] = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: _events.update([event]))
_HIT = "/jax/compilation_cache/cache_hits"


class Cell(Protocol):
    """A frozen pytree dataclass that computes one cell."""

    @property
    def cost(self) -> int:
        """Steps, for the estimate of time."""

    def check(self) -> None:
        """Raise one clear error before anything compiles."""

    def execute(self) -> dict[str, jax.Array]:
        """Named arrays of shape () or (R,), one R a cell."""


@dataclass(frozen=True)
class Group:
    """Cells that share one compiled program."""

    signature: str
    indices: list[int]


@dataclass
class Report:
    """What a sweep did."""

    cells: int = 0
    reused: int = 0
    programs: int = 0
    cached: int = 0
    """programs that came from the compile cache on disk."""
    compile_s: float = 0.0
    run_s: float = 0.0
    cell_steps: int = 0
    keys: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.reused == self.cells:
            return f"{self.cells} cells: all read from disk, nothing to compute"
        return (
            f"{self.cells} cells ({self.reused} read from disk), {self.programs} programs, "
            f"compiled in {self.compile_s:.1f} s ({self.cached} from the cache), ran in {self.run_s:.1f} s"
        )


def signature(cell: Cell) -> str:
    """Treedef, shapes and dtypes: cells that agree in it run as one program."""
    leaves, structure = jax.tree.flatten(cell)
    shapes = ", ".join(f"{x.dtype}{list(x.shape)}" for x in map(_array, leaves))
    return f"{structure} ({shapes})"


def group(cells: Sequence[Cell]) -> list[Group]:
    """The compile groups, in order of first appearance."""
    found: dict[str, list[int]] = {}
    for index, cell in enumerate(cells):
        found.setdefault(signature(cell), []).append(index)
    return [Group(name, indices) for name, indices in found.items()]


def cell_key(cell: Cell, name: str) -> str:
    """The hash of a cell's resolved configuration: its numbers, structure, code and environment."""
    environment = results.environment()
    code = results.source_digest(*results.numerical_sources(), *sorted(_defined_in(cell)))
    numbers = [_array(x).tobytes() for x in jax.tree.leaves(cell)]
    versions = [environment["versions"][name] for name in ("jax", "jaxlib", "numpy")]
    where = [*versions, environment["platform"], environment["x64"]]
    return results.digest(name, code, json.dumps(where), *numbers)[:24]


def _defined_in(node: Any) -> set[pathlib.Path]:
    """The source files of a cell's own classes, and of those of its fields: a family may be the user's."""
    if not dataclasses.is_dataclass(node):
        return set()
    found = {pathlib.Path(sys.modules[type(node).__module__].__file__ or "")}
    return found.union(*(_defined_in(getattr(node, f.name)) for f in dataclasses.fields(node)))


def sweep(
    labelled: Sequence[tuple[Labels, Cell]],
    directory: pathlib.Path,
    *,
    chunk_cells: int | None = None,
    quiet: bool = False,
) -> tuple[pd.DataFrame, Report]:
    """Runs every cell that is not on disk yet, and returns the rows of all of them.

    Args:
      labelled: (labels, cell) pairs; the labels become columns.
      directory: where chunks are kept, a folder a signature. A finished chunk is written atomically,
        so that a killed sweep resumes with nothing lost and nothing run twice.
      chunk_cells: at most this many cells in one call of a program (but one for each device); None: 64 on
        CPUs, and on accelerators, where many cost the time of one, 1024 a device.
      quiet: print neither the plan nor progress.

    Returns:
      Rows in the order of `labelled`: label columns, `cell` (its index) and the arrays of `execute`, one row
      an entry (arrays of shape () repeat); and a `Report`.
    """
    console = Console(quiet=quiet, highlight=False, soft_wrap=True)
    cells = [cell for _, cell in labelled]
    for cell in cells:
        cell.check()
    groups = group(cells)
    report = Report(cells=len(cells), programs=0)
    names = {i: g.signature for g in groups for i in g.indices}
    report.keys = [cell_key(cell, names[i]) for i, cell in enumerate(cells)]

    stored: dict[str, pd.DataFrame] = {}
    missing: list[tuple[Group, list[int]]] = []
    seconds = 0.0
    for g in groups:
        folder = _folder(directory, g)
        rows, manifests = results.read_chunks(folder) if folder.exists() else (pd.DataFrame(), [])
        if len(rows):
            stored |= dict(iter(rows.groupby("key", sort=False)))
        todo = _unique([i for i in g.indices if report.keys[i] not in stored], report.keys)
        if todo:
            missing.append((g, todo))
            steps = sum(m["cell_steps"] for m in manifests)
            rate = sum(m["run_s"] for m in manifests) / steps if steps else NOMINAL_RATE
            seconds += rate * sum(cells[i].cost for i in todo) + 2.0
    report.reused = len(cells) - sum(len(todo) for _, todo in missing)
    report.programs = len(missing)
    if missing:
        console.print(
            f"plan: {len(cells)} cells, {report.reused} on disk, {len(cells) - report.reused} to run "
            f"in {len(missing)} programs, about {_duration(seconds)}"
        )
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:
        total = sum(cells[i].cost for _, todo in missing for i in todo)
        job = bar.add_task("cell-steps", total=total)
        for g, todo in missing:
            for rows, steps in _run_group(g, todo, cells, directory, chunk_cells, report):
                stored |= dict(iter(rows.groupby("key", sort=False)))
                bar.advance(job, steps)
    console.print(str(report))
    for (labels, _), key in zip(labelled, report.keys, strict=True):
        if taken := set(labels) & {"cell", *stored[key].columns}:
            raise ValueError(f"labels {sorted(taken)} are columns of the result; allowed: other names")
    frames = [
        stored[key].drop(columns="key").assign(cell=index, **labels)
        for index, (key, (labels, _)) in enumerate(zip(report.keys, labelled, strict=True))
    ]
    return pd.concat(frames, ignore_index=True), report


def _run_group(
    g: Group,
    todo: list[int],
    cells: Sequence[Cell],
    directory: pathlib.Path,
    chunk_cells: int | None,
    report: Report,
) -> Any:
    """Compiles the program of a group once and yields the rows of chunk after chunk."""
    devices = jax.local_devices()
    shared = _shared_leaves([cells[i] for i in todo])
    structure = jax.tree.structure(cells[todo[0]])
    if chunk_cells is None:
        chunk_cells = 64 if _on_cpu() else ACCELERATOR_LANES * len(devices)
    lanes = min(_lanes(cells[todo[0]]), math.ceil(len(todo) / len(devices)), chunk_cells // len(devices))
    lanes = max(lanes, 1)
    block = lanes * len(devices)
    chunks = math.ceil(len(todo) / max(chunk_cells // block * block, block))
    width = math.ceil(len(todo) / chunks / block) * block
    mesh = Mesh(np.array(devices), ("cells",))
    specs = [PartitionSpec() if s else PartitionSpec("cells") for s in shared]

    def program(leaves: list[jax.Array]) -> dict[str, jax.Array]:
        traces[g.signature] += 1

        def on_device(*x: jax.Array) -> dict[str, jax.Array]:
            def one(varying: list[jax.Array]) -> dict[str, jax.Array]:
                rest = iter(varying)
                every = [y if s else next(rest) for y, s in zip(x, shared, strict=True)]
                return jax.tree.unflatten(structure, every).execute()

            varying = [y for y, s in zip(x, shared, strict=True) if not s]
            return jax.lax.map(one, varying, batch_size=lanes)

        sharded = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=tuple(specs),
            out_specs=PartitionSpec("cells"),
            check_vma=False,
        )
        return sharded(*leaves)

    def place(some: list[int]) -> list[jax.Array]:
        padded = some + [some[-1]] * (width - len(some))
        columns = zip(*(jax.tree.leaves(cells[i]) for i in padded), strict=True)
        return [
            jax.device_put(
                _array(column[0]) if s else np.stack([_array(x) for x in column]),
                NamedSharding(mesh, spec),
            )
            for column, s, spec in zip(columns, shared, specs, strict=True)
        ]

    started, hits = time.perf_counter(), _events[_HIT]
    compiled = jax.jit(program).lower(place(todo[:width])).compile()
    compile_s = time.perf_counter() - started
    report.compile_s += compile_s
    report.cached += _events[_HIT] > hits
    for start in range(0, len(todo), width):
        some = todo[start : start + width]
        leaves = place(some)
        started = time.perf_counter()
        arrays = {name: np.asarray(x) for name, x in compiled(leaves).items()}
        run_s = time.perf_counter() - started
        keys = [report.keys[i] for i in some]
        rows = pd.concat([_rows(key, arrays, j) for j, key in enumerate(keys)], ignore_index=True)
        steps = sum(cells[i].cost for i in some)
        manifest = {
            "signature": g.signature,
            "configurations": [describe(cells[i]) for i in some],
            **results.environment(),
            "cell_steps": steps,
            "run_s": run_s,
            "compile_s": compile_s,
        }
        results.write_chunk(_folder(directory, g), keys, rows, manifest)
        report.run_s += run_s
        report.cell_steps += steps
        yield rows, steps


def describe(cell: Cell) -> dict[str, Any]:
    """The resolved configuration of a cell, readable: numbers as they are, arrays by shape and sum."""
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(cell):
        x = _array(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        described[name] = x.item() if x.ndim == 0 else f"{list(x.shape)} {results.digest(x.tobytes())[:12]}"
    return described


def _rows(key: str, arrays: Mapping[str, np.ndarray], j: int) -> pd.DataFrame:
    one = {name: x[j] for name, x in arrays.items()}
    length = max(np.size(x) for x in one.values())
    return pd.DataFrame({"key": key, **{k: np.broadcast_to(x, length) for k, x in one.items()}})


def _shared_leaves(cells: Sequence[Cell]) -> list[bool]:
    """Arrays that are the same object in every cell are passed once instead of stacked."""
    columns = zip(*(jax.tree.leaves(cell) for cell in cells), strict=True)
    return [
        len(cells) > 1 and np.ndim(column[0]) > 0 and all(x is column[0] for x in column)
        for column in columns
    ]


def _lanes(cell: Cell) -> int:
    """How many cells a device vectorises at once: enough to hide the overhead of an operation, few enough
    that their arrays stay in the fastest cache (measured in results/benchmarks.md). The blocks of a
    chunk run one after another inside the program."""
    if not _on_cpu():
        return ACCELERATOR_LANES
    largest = max(np.size(x) for x in jax.tree.leaves(cell))
    return int(np.clip(4096 // largest, 8, 64))


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _array(leaf: PyTree) -> np.ndarray:
    """A leaf at the precision in force."""
    x = np.asarray(leaf)
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype))


def _folder(directory: pathlib.Path, g: Group) -> pathlib.Path:
    return directory / results.digest(g.signature)[:16]


def _unique(indices: list[int], keys: Sequence[str]) -> list[int]:
    return list({keys[i]: i for i in indices}.values())


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
