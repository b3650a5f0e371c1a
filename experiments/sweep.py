"""Many runs: cells -> compile groups -> vmap -> shards over devices; chunk by chunk, resumable.

A cell is a frozen pytree with `execute()`: its numbers are leaves, names and shapes are static. Cells of
one compile signature (treedef and shapes) run as one program jit(shard(vmap(execute))).
"""

import collections
import concurrent.futures
import dataclasses
import functools
import inspect
import json
import math
import pathlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import results
from experiments.cells import Quantity
from jaxmaml import storage
from jaxmaml.checks import check_step_count
from jaxmaml.configuration import configure, cores
from jaxmaml.paths import check_folder
from jaxmaml.types import PyTree

Labels = Mapping[str, Any]
NOMINAL_RATE = 30e-6
"""seconds a cell-step, for the estimate before anything was measured."""

ACCELERATOR_LANES = 1024
"""cells that a GPU or TPU vectorises at once: a step of few cells is the launches of its kernels there
(docs/gpu.md)."""

_QUICK: dict[str, Any] = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Options with which XLA compiles for CPUs in half of the time; the programs run 1.0 to 1.2 times as long.
Not every version has all of them."""

SHORT = 20.0
"""seconds: groups that are estimated to run for less, at NOMINAL_RATE, are compiled quickly."""

traces: collections.Counter[str] = collections.Counter()
"""How often the program of each signature was traced by this process."""
_HIT = "/jax/compilation_cache/cache_hits"
_compiling = threading.local()
"""`cached`: whether the last program that this thread compiled came from the cache on disk."""
jax.monitoring.register_event_listener(
    lambda event, **_: setattr(_compiling, "cached", True) if event == _HIT else None
)


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
    """seconds in which nothing ran, because programs were traced or not compiled yet."""
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


def prepare_devices() -> None:
    """float64, and one CPU device a core for the cells of a sweep."""
    configure(float64=True, devices=cores())


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
    numbers = [_array(x).tobytes() for x in jax.tree.leaves(cell)]
    return storage.digest(name, _code(_modules(cell)), _where(), *numbers)[:24]


def _modules(node: Any) -> set[str]:
    """Where a cell's own class is defined, and those of its fields: a family may be the user's."""
    if isinstance(node, Quantity):
        return {node.function.__module__}
    if not dataclasses.is_dataclass(node):
        return set()
    own = {c.__module__ for c in inspect.getmro(type(node)) if c is not object}
    return own.union(*(_modules(getattr(node, f.name)) for f in dataclasses.fields(node)))


def _code(modules: set[str]) -> str:
    """Identifies the code that computes a cell whose parts are defined in these modules."""
    defined_in = {pathlib.Path(sys.modules[name].__file__ or "") for name in modules}
    return results.source_digest(*results.numerical_sources(), *sorted(defined_in))


def _where() -> str:
    """What else the numbers depend on."""
    environment = storage.environment()
    versions = [environment["versions"][name] for name in ("jax", "jaxlib", "numpy")]
    return json.dumps([*versions, environment["platform"], environment["x64"]])


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
    return prepare(labelled, directory, chunk_cells=chunk_cells, quiet=quiet).run()


def prepare(
    labelled: Sequence[tuple[Labels, Cell]],
    directory: pathlib.Path,
    *,
    chunk_cells: int | None = None,
    quiet: bool = False,
) -> "Prepared":
    """A `sweep` that is ready to run: its programs are traced, and compile in the background.

    What is prepared while another sweep runs costs little time by the clock.
    """
    if chunk_cells is not None:
        check_step_count("chunk_cells", chunk_cells)
    check_folder("directory", directory)
    cells = [cell for _, cell in labelled]
    for cell in cells:
        cell.check()
    groups = group(cells)
    names = {i: g.signature for g in groups for i in g.indices}
    keys = [cell_key(cell, names[i]) for i, cell in enumerate(cells)]
    stored: dict[str, pd.DataFrame] = {}
    missing: list[_Program] = []
    seconds = 0.0
    for g in groups:
        folder = _folder(directory, g)
        rows, manifests = results.read_chunks(folder) if folder.exists() else (pd.DataFrame(), [])
        if len(rows):
            stored |= dict(iter(rows.groupby("key", sort=False)))
        todo = list({keys[i]: i for i in g.indices if keys[i] not in stored}.values())
        if todo:
            program = _Program(g, folder, [keys[i] for i in todo], [cells[i] for i in todo], chunk_cells)
            steps = sum(m["cell_steps"] for m in manifests)
            rate = sum(m["run_s"] for m in manifests) / steps if steps else NOMINAL_RATE
            # By all cells of the group: what a stopped sweep goes on with is the same program.
            program.compile(
                quickly=_on_cpu() and NOMINAL_RATE * sum(cells[i].cost for i in g.indices) < SHORT
            )
            missing.append(program)
            seconds += rate * program.cost + 2.0
    console = Console(quiet=quiet, highlight=False, soft_wrap=True)
    return Prepared(labelled, keys, stored, missing, seconds, console)


@dataclass
class Prepared:
    """Cells, what is on disk of them, and the programs of the others; `run` once."""

    labelled: Sequence[tuple[Labels, Cell]]
    keys: list[str]
    stored: dict[str, pd.DataFrame]
    """the rows on disk, by key."""
    missing: "list[_Program]"
    seconds: float
    """estimate of what the others take."""
    console: Console

    def run(self) -> tuple[pd.DataFrame, Report]:
        """What `sweep` returns."""
        count = len(self.labelled)
        reused = count - sum(len(program.cells) for program in self.missing)
        report = Report(cells=count, reused=reused, programs=len(self.missing), keys=self.keys)
        if self.missing:
            self.console.print(
                f"plan: {count} cells, {reused} on disk, {count - reused} to run "
                f"in {len(self.missing)} programs, about {_duration(self.seconds)}"
            )
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=self.console.quiet or not self.console.is_terminal,
        ) as bar:
            job = bar.add_task("cell-steps", total=sum(program.cost for program in self.missing))
            try:
                for program in self.missing:
                    for rows, steps in program.run(report):
                        self.stored |= dict(iter(rows.groupby("key", sort=False)))
                        bar.advance(job, steps)
            finally:
                self.cancel()
        self.console.print(str(report))
        return self._rows(), report

    def cancel(self) -> None:
        """Compile no more than has begun."""
        for program in self.missing:
            program.compiled.cancel()

    def _rows(self) -> pd.DataFrame:
        frames = [self.stored[key] for key in self.keys]
        rows = pd.concat(frames, ignore_index=True).drop(columns="key")
        labels = pd.DataFrame([dict(labels) for labels, _ in self.labelled])
        if taken := set(labels) & {"cell", "key", *rows.columns}:
            raise ValueError(f"labels {sorted(taken)} are columns of the result; allowed: other names")
        cell = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
        return pd.concat([rows.assign(cell=cell), labels.iloc[cell].reset_index(drop=True)], axis=1)


class _Program:
    """The cells of a group that are not on disk, and the compiled program that runs them."""

    def __init__(
        self,
        g: Group,
        folder: pathlib.Path,
        keys: Sequence[str],
        cells: Sequence[Cell],
        chunk_cells: int | None,
    ) -> None:
        self.signature, self.folder, self.keys, self.cells = g.signature, folder, keys, cells
        self.cost = sum(cell.cost for cell in cells)
        self.compiled: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.trace_s = self.compile_s = 0.0
        self.cached = False
        self.shared = _shared_leaves(cells)
        devices = jax.local_devices()
        if chunk_cells is None:
            chunk_cells = 64 if _on_cpu() else ACCELERATOR_LANES * len(devices)
        lanes = min(_lanes(cells[0]), math.ceil(len(cells) / len(devices)), chunk_cells // len(devices))
        self.lanes = max(lanes, 1)
        block = self.lanes * len(devices)
        chunks = math.ceil(len(cells) / max(chunk_cells // block * block, block))
        self.width = math.ceil(len(cells) / chunks / block) * block
        """cells in one call."""
        self.mesh = Mesh(np.array(devices), ("cells",))
        self.specs = [PartitionSpec() if s else PartitionSpec("cells") for s in self.shared]

    def compile(self, quickly: bool) -> None:
        """Traces here, where the caller's settings are in force, and compiles in the background."""
        started = time.perf_counter()
        shapes = [
            jax.ShapeDtypeStruct(
                x.shape if s else (self.width, *x.shape), x.dtype, sharding=NamedSharding(self.mesh, spec)
            )
            for x, s, spec in zip(
                map(_array, jax.tree.leaves(self.cells[0])), self.shared, self.specs, strict=True
            )
        ]
        lowered = jax.jit(self._program).lower(shapes)
        self.trace_s = self.compile_s = time.perf_counter() - started

        # Asked here: the small programs that answer are no part of this one's time, nor of what is cached.
        options = quick_options() if quickly else None

        def finish() -> Any:
            started, _compiling.cached = time.perf_counter(), False
            compiled = lowered.compile(compiler_options=options)
            self.compile_s += time.perf_counter() - started
            self.cached = _compiling.cached
            return compiled

        self.compiled = _compilers().submit(finish)

    def run(self, report: Report) -> Iterator[tuple[pd.DataFrame, int]]:
        """The rows of chunk after chunk, and their steps."""
        started = time.perf_counter()
        compiled = self.compiled.result()
        report.compile_s += self.trace_s + time.perf_counter() - started
        report.cached += self.cached
        for start in range(0, len(self.cells), self.width):
            chosen = slice(start, start + self.width)
            cells, keys = self.cells[chosen], self.keys[chosen]
            leaves = self._place(cells)
            started = time.perf_counter()
            arrays = {name: np.asarray(x) for name, x in compiled(leaves).items()}
            run_s = time.perf_counter() - started
            rows = pd.concat([_rows(key, arrays, j) for j, key in enumerate(keys)], ignore_index=True)
            steps = sum(cell.cost for cell in cells)
            manifest = {
                "signature": self.signature,
                "configurations": [describe(cell) for cell in cells],
                **storage.environment(),
                "cell_steps": steps,
                "run_s": run_s,
                "compile_s": self.compile_s,
            }
            results.write_chunk(self.folder, keys, rows, manifest)
            report.run_s += run_s
            report.cell_steps += steps
            yield rows, steps

    def _program(self, leaves: list[jax.Array]) -> dict[str, jax.Array]:
        traces[self.signature] += 1
        structure = jax.tree.structure(self.cells[0])

        def on_device(*x: jax.Array) -> dict[str, jax.Array]:
            def one(varying: list[jax.Array]) -> dict[str, jax.Array]:
                rest = iter(varying)
                every = [y if s else next(rest) for y, s in zip(x, self.shared, strict=True)]
                return jax.tree.unflatten(structure, every).execute()

            varying = [y for y, s in zip(x, self.shared, strict=True) if not s]
            return jax.lax.map(one, varying, batch_size=self.lanes)

        return jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=tuple(self.specs),
            out_specs=PartitionSpec("cells"),
            check_vma=False,
        )(*leaves)

    def _place(self, cells: Sequence[Cell]) -> list[jax.Array]:
        """The leaves of the cells on their devices; the last cell fills up the width."""
        padded = [*cells, *[cells[-1]] * (self.width - len(cells))]
        columns = zip(*map(jax.tree.leaves, padded), strict=True)
        return [
            jax.device_put(
                _array(column[0]) if s else np.stack([_array(x) for x in column]),
                NamedSharding(self.mesh, spec),
            )
            for column, s, spec in zip(columns, self.shared, self.specs, strict=True)
        ]


@functools.cache
def quick_options() -> dict[str, Any]:
    """Those of _QUICK that this version of XLA knows: an unknown option is an error of the compiler."""
    program = jax.jit(lambda x: -x).lower(1.0)

    def known(name: str) -> bool:
        try:
            program.compile(compiler_options={name: _QUICK[name]})
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):
                raise
            return False
        return True

    return {name: _QUICK[name] for name in _QUICK if known(name)}


@functools.cache
def _compilers() -> concurrent.futures.ThreadPoolExecutor:
    """The threads that compile; with _QUICK, XLA takes one core a program."""
    return concurrent.futures.ThreadPoolExecutor(cores(), thread_name_prefix="compile")


def describe(cell: Cell) -> dict[str, Any]:
    """The resolved configuration of a cell, readable: numbers as they are, arrays by shape and sum."""
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(cell):
        x = _array(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        described[name] = x.item() if x.ndim == 0 else f"{list(x.shape)} {storage.digest(x.tobytes())[:12]}"
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
    return directory / storage.digest(g.signature)[:16]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
