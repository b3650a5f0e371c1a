"""A compile group as one program: jit(shard(blocks of vmap(execute))); equal bit for bit wherever it runs.

What a cell's numbers depend on, up to rounding, is the `Layout`, made of all cells of the group. What may
differ between processes is outside of the arithmetic: the number of devices, how many blocks a device has,
and so which cells are left to run.
"""

import collections
import concurrent.futures
import functools
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmaml import storage
from jaxmaml.configuration import cores
from jaxmaml.types import PyTree

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
        """Named arrays of shape () or (R,), one R for all cells of a group."""


@dataclass(frozen=True)
class Layout:
    """How the cells of a group lie in their program."""

    lanes: int
    """cells that a device vectorises at once: a block."""
    width: int
    """cells in one call: a chunk."""
    shared: tuple[bool, ...]
    """by leaf: whether all cells of the group have the same array, which is then passed once."""
    quickly: bool
    """whether XLA takes less time to compile (`quick_options`)."""


def layout(cells: Sequence[Cell], chunk_cells: int | None, platform: str) -> Layout:
    """The layout of the group of these cells, all of them: those on disk too, so that a sweep that was
    stopped goes on with the same program. `chunk_cells` as in `sweep.sweep`; on this platform."""
    on_cpu = platform == "cpu"
    devices = len(jax.local_devices()) if platform == jax.default_backend() else 1
    if chunk_cells is None:
        chunk_cells = 64 if on_cpu else ACCELERATOR_LANES * devices
    most = _lanes(cells[0]) if on_cpu else ACCELERATOR_LANES
    lanes = max(min(most, math.ceil(len(cells) / devices), chunk_cells // devices), 1)
    block = lanes * devices
    chunks = math.ceil(len(cells) / max(chunk_cells // block * block, block))
    width = math.ceil(len(cells) / chunks / block) * block
    quickly = on_cpu and NOMINAL_RATE * sum(cell.cost for cell in cells) < SHORT
    return Layout(lanes, width, _shared_leaves(cells), quickly)


class Program:
    """The program of a group, for cells like this one.

    A device holds up to `capacity` blocks of `lanes` cells and runs as many of them as there are, one after
    another: their number is an argument, so that one block is compiled, and rounds, as many are.
    """

    def __init__(self, signature: str, cell: Cell, how: Layout) -> None:
        self.signature, self.layout = signature, how
        self.leaves, self.structure = jax.tree.flatten(cell)
        devices = jax.local_devices()
        self.capacity = math.ceil(how.width / how.lanes / len(devices))
        # Block b is the (b // devices)-th of device b % devices: few blocks use all devices.
        blocks = np.arange(self.capacity * len(devices)).reshape(self.capacity, len(devices)).T
        self.order = (blocks[..., None] * how.lanes + np.arange(how.lanes)).ravel()
        """by place in the arrays: which cell of a call stands there."""
        self.places = np.argsort(self.order)
        self.mesh = Mesh(np.array(devices), ("cells",))
        split = PartitionSpec("cells")
        self.specs = [split, *(PartitionSpec() if s else split for s in how.shared)]
        self.compiled: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.trace_s = self.compile_s = 0.0
        self.cached = False

    def compile(self) -> None:
        """Traces here, where the caller's settings are in force, and compiles in the background."""
        started = time.perf_counter()
        rows = len(self.order)
        shapes = [
            jax.ShapeDtypeStruct(
                (self.mesh.size,), np.int32, sharding=NamedSharding(self.mesh, self.specs[0])
            )
        ] + [
            jax.ShapeDtypeStruct(
                x.shape if s else (rows, *x.shape), x.dtype, sharding=NamedSharding(self.mesh, spec)
            )
            for x, s, spec in zip(map(array, self.leaves), self.layout.shared, self.specs[1:], strict=True)
        ]
        lowered = jax.jit(self._traced).lower(*shapes)
        self.trace_s = self.compile_s = time.perf_counter() - started

        # Asked here: the small programs that answer are no part of this one's time, nor of what is cached.
        options = quick_options() if self.layout.quickly else None

        def finish() -> Any:
            started, _compiling.cached = time.perf_counter(), False
            compiled = lowered.compile(compiler_options=options)
            self.compile_s += time.perf_counter() - started
            self.cached = _compiling.cached
            return compiled

        self.compiled = _compilers().submit(finish)

    def __call__(self, cells: Sequence[Cell]) -> tuple[dict[str, np.ndarray], float]:
        """What at most `width` cells compute (the first axis is theirs), and the seconds that it took."""
        compiled, arguments = self.compiled.result(), [self._blocks(len(cells)), *self._place(cells)]
        started = time.perf_counter()
        found = {name: np.asarray(x) for name, x in compiled(*arguments).items()}
        seconds = time.perf_counter() - started
        return {name: x[self.places[: len(cells)]] for name, x in found.items()}, seconds

    def _traced(self, blocks: jax.Array, *leaves: jax.Array) -> dict[str, jax.Array]:
        traces[self.signature] += 1
        lanes = self.layout.lanes

        def on_device(blocks: jax.Array, *x: jax.Array) -> dict[str, jax.Array]:
            def one(varying: list[jax.Array]) -> dict[str, jax.Array]:
                rest = iter(varying)
                every = [y if s else next(rest) for y, s in zip(x, self.layout.shared, strict=True)]
                return jax.tree.unflatten(self.structure, every).execute()

            def block(b: jax.Array, done: dict[str, jax.Array]) -> dict[str, jax.Array]:
                found = together([jax.lax.dynamic_slice_in_dim(y, b * lanes, lanes) for y in varying])
                return {
                    name: jax.lax.dynamic_update_slice_in_dim(done[name], y, b * lanes, axis=0)
                    for name, y in found.items()
                }

            # Under jit, so that it is traced once for its shapes and the loop.
            together = jax.jit(jax.vmap(one), inline=True)
            varying = [y for y, s in zip(x, self.layout.shared, strict=True) if not s]
            shapes = jax.eval_shape(together, [y[:lanes] for y in varying])
            none = {
                name: jax.numpy.zeros((self.capacity * lanes, *y.shape[1:]), y.dtype)
                for name, y in shapes.items()
            }
            return jax.lax.fori_loop(0, blocks[0], block, none)

        return jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=tuple(self.specs),
            out_specs=PartitionSpec("cells"),
            check_vma=False,
        )(blocks, *leaves)

    def _blocks(self, cells: int) -> jax.Array:
        """How many blocks each device runs."""
        blocks, devices = math.ceil(cells / self.layout.lanes), self.mesh.size
        counts = [len(range(d, blocks, devices)) for d in range(devices)]
        return jax.device_put(np.array(counts, np.int32), NamedSharding(self.mesh, self.specs[0]))

    def _place(self, cells: Sequence[Cell]) -> list[jax.Array]:
        """The leaves of the cells on their devices; the last cell fills up the width."""
        chosen = np.minimum(self.order, len(cells) - 1)
        columns = zip(*map(jax.tree.leaves, cells), strict=True)
        return [
            jax.device_put(
                array(column[0]) if s else np.stack([array(x) for x in column])[chosen],
                NamedSharding(self.mesh, spec),
            )
            for column, s, spec in zip(columns, self.layout.shared, self.specs[1:], strict=True)
        ]


def rows(keys: Sequence[str], arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A table with one row an entry (arrays of shape () repeat), cell after cell."""
    length = max(x.size for x in arrays.values()) // len(keys)
    columns = {
        name: np.broadcast_to(x.reshape(len(keys), -1), (len(keys), length)).ravel()
        for name, x in arrays.items()
    }
    return pd.DataFrame({"key": np.repeat(np.array(keys, object), length), **columns})


def describe(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The resolved configurations, readable: numbers as they are, arrays by shape and sum."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(cells[0])]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    sums: dict[int, str] = {}

    def described(leaf: PyTree) -> Any:
        if np.ndim(leaf) == 0:
            return array(leaf).item()
        if id(leaf) not in sums:
            x = array(leaf)
            sums[id(leaf)] = f"{list(x.shape)} {storage.digest(x.tobytes())[:12]}"
        return sums[id(leaf)]

    return [dict(zip(names, map(described, jax.tree.leaves(cell)), strict=True)) for cell in cells]


def array(leaf: PyTree) -> np.ndarray:
    """A leaf at the precision in force."""
    x = np.asarray(leaf)
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)


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


def _shared_leaves(cells: Sequence[Cell]) -> tuple[bool, ...]:
    """Arrays that are the same object in every cell are passed once instead of stacked."""
    columns = zip(*(jax.tree.leaves(cell) for cell in cells), strict=True)
    return tuple(
        len(cells) > 1 and np.ndim(column[0]) > 0 and all(x is column[0] for x in column)
        for column in columns
    )


def _lanes(cell: Cell) -> int:
    """How many cells a CPU's device vectorises at once: enough to hide the overhead of an operation, few
    enough that their arrays stay in the fastest cache (measured in results/benchmarks.md). The blocks of a
    chunk run one after another inside the program."""
    largest = max(np.size(x) for x in jax.tree.leaves(cell))
    return int(np.clip(4096 // largest, 8, 64))
