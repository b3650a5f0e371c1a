"""The cells of a group that are not on disk: run here chunk by chunk, or as jobs of other processes."""

import collections
import concurrent.futures
import copyreg
import functools
import importlib.machinery
import importlib.util
import math
import os
import pathlib
import pickle
import socket
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import pandas as pd

from experiments import results
from experiments.cells import Quantity
from experiments.executors import Workers
from experiments.program import Cell, Layout, Program, describe, rows
from jaxmaml import identity, storage

LOOK = 2.0
"""seconds between two looks at what the workers have written."""
PROGRAMS = 32
"""that a worker keeps."""

copyreg.pickle(Quantity, lambda quantity: quantity.function.__qualname__)  # type: ignore[arg-type, return-value]


class Chunk(NamedTuple):
    """Cells of one call."""

    keys: list[str]
    cells: list[Cell]

    @property
    def cost(self) -> int:
        return sum(cell.cost for cell in self.cells)


class Done(NamedTuple):
    """A chunk that has run and is written."""

    rows: pd.DataFrame
    steps: int
    run_s: float


@dataclass(frozen=True)
class Job:
    """Cells of one group, and where their chunks are kept."""

    signature: str
    folder: pathlib.Path
    layout: Layout
    keys: list[str]
    cells: list[Cell]

    @functools.cached_property
    def cost(self) -> int:
        return sum(cell.cost for cell in self.cells)

    def chunks(self) -> list[Chunk]:
        width = self.layout.width
        starts = range(0, len(self.cells), width)
        return [Chunk(self.keys[i : i + width], self.cells[i : i + width]) for i in starts]

    def split(self, count: int) -> "list[Job]":
        """At most `count` jobs, of whole chunks."""
        chunks = math.ceil(len(self.cells) / self.layout.width)
        size = math.ceil(chunks / count) * self.layout.width
        starts = range(0, len(self.cells), size)
        return [replace(self, keys=self.keys[i : i + size], cells=self.cells[i : i + size]) for i in starts]

    def program(self) -> Program:
        return Program(self.signature, self.cells[0], self.layout)

    def run(self, program: Program, chunks: Iterable[Chunk]) -> Iterator[Done]:
        """Runs and writes chunk after chunk."""
        for chunk in chunks:
            arrays, run_s = program(chunk.cells)
            found = rows(chunk.keys, arrays)
            manifest = {
                "signature": self.signature,
                "configurations": describe(chunk.cells),
                **storage.environment(),
                "cell_steps": chunk.cost,
                "run_s": run_s,
                "compile_s": program.compile_s,
            }
            results.write_chunk(self.folder, chunk.keys, found, manifest)
            yield Done(found, chunk.cost, run_s)


# In a worker


@dataclass(frozen=True)
class Settings:
    """What a worker takes over from the process that sweeps, and what has to be the same there."""

    config: Mapping[str, Any]
    xla_flags: str
    devices: int | None
    path: list[str]
    files: Mapping[str, str]
    """modules that `path` does not lead to, and their files."""
    code: Mapping[str, str]
    """the sums of the definitions that a cell depends on, as of `identity.code`."""
    environment: dict[str, str]

    def apply(self) -> None:
        """Once a process what JAX reads once, the rest before every job."""
        if not _started:
            os.environ["XLA_FLAGS"] = self.xla_flags
            if self.devices:
                jax.config.update("jax_num_cpu_devices", self.devices)
            _started.append(self.xla_flags)
        for name, value in self.config.items():
            jax.config.update(name, value)
        sys.path += [folder for folder in self.path if folder not in sys.path]
        for name, file in self.files.items():
            if name not in sys.modules:
                spec = importlib.util.spec_from_file_location(name, file)
                assert spec is not None
                assert spec.loader is not None
                sys.modules[name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules[name])

    def check(self, cell: Cell) -> None:
        """One clear error where this process would compute something else."""
        here = identity.environment()
        pairs = {
            "XLA_FLAGS": (_started[0], self.xla_flags),
            **{name: (here.get(name), value) for name, value in self.environment.items()},
            **{
                f"code of {name}": ("another", "what it began with")
                for name in identity.changes(self.code, identity.code(cell))
            },
        }
        for what, (own, there) in pairs.items():
            if own != there:
                raise ValueError(f"{what} = {own}; the sweep has {there}. Start the workers anew")


_CONFIG = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)
_started: list[str] = []
"""The XLA_FLAGS that this process started with as a worker."""
_programs: dict[tuple[Any, ...], Program] = {}
_alone = threading.Lock()
"""A job has all devices of its process."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    where: str
    """host and process."""
    cause: str = ""
    """why it failed, if it did, in one line."""
    trace: str = ""
    steps: int = 0
    run_s: float = 0.0
    programs: int = 0
    cached: int = 0
    compile_s: float = 0.0


def perform(settings: Settings, pickled: bytes) -> Outcome:
    """What a worker does with a job."""
    where = f"{socket.gethostname()}, process {os.getpid()}"
    with _alone:
        try:
            settings.apply()
            job = pickle.loads(pickled)
            settings.check(job.cells[0])
            return _run(job, where)
        except Exception as error:  # told by the process that waits
            return Outcome(where, _line(error), traceback.format_exc())


def _run(job: Job, where: str) -> Outcome:
    about = (jax.tree.structure(job.cells[0]), job.signature, job.layout)
    new = about not in _programs
    if new:
        if len(_programs) >= PROGRAMS:
            _programs.pop(next(iter(_programs)))
        _programs[about] = job.program()
        _programs[about].compile()
    program = _programs[about]
    program.compiled.result()
    # The job may be a lost one's second try.
    chunks = [chunk for chunk in job.chunks() if not results.is_written(job.folder, chunk.keys)]
    done = [(steps, run_s) for _, steps, run_s in job.run(program, chunks)]
    return Outcome(
        where,
        steps=sum(steps for steps, _ in done),
        run_s=sum(run_s for _, run_s in done),
        programs=int(new),
        cached=int(new and program.cached),
        compile_s=program.compile_s if new else 0.0,
    )


# In the process that sweeps


class _Trial(NamedTuple):
    """A job that is submitted."""

    job: Job
    unseen: list[Chunk]
    """not known to be written."""
    number: int = 0


def gather(workers: Workers, jobs: Sequence[Job]) -> "Iterator[int | Outcome]":
    """Runs the jobs, and waits until each has ended; ChildProcessError if one failed, in one line.

    Yields the steps that the workers have written since the last time, and what became of jobs.
    """
    parts = [part for job in jobs for part in job.split(workers.count * workers.share)]
    waiting: dict[concurrent.futures.Future[Outcome], _Trial] = {}
    failed: list[Outcome] = []
    try:
        for part in _in_turn(parts):
            waiting[_submit(workers, part)] = _Trial(part, part.chunks())
        while waiting:
            done, _ = concurrent.futures.wait(waiting, LOOK, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                trial, outcome = waiting.pop(future), _outcome(workers, future)
                if not outcome.where and trial.number < workers.retries:
                    waiting[_submit(workers, trial.job)] = trial._replace(number=trial.number + 1)
                elif outcome.cause:
                    failed.append(outcome)
                else:
                    yield sum(chunk.cost for chunk in trial.unseen)
                    yield outcome
            if not done and (cause := workers.lost()):
                failed += [Outcome("", cause)] * len(waiting)
                break
            if not done:  # long jobs: what have they written so far?
                for future, trial in waiting.items():
                    unseen = [c for c in trial.unseen if not results.is_written(trial.job.folder, c.keys)]
                    yield sum(c.cost for c in trial.unseen) - sum(c.cost for c in unseen)
                    waiting[future] = trial._replace(unseen=unseen)
    finally:
        for future in waiting:
            future.cancel()
    if failed:
        raise _failure(workers, failed, len(parts))


def _submit(workers: Workers, job: Job) -> "concurrent.futures.Future[Outcome]":
    try:
        return workers.executor.submit(perform, _settings(job, workers), pickle.dumps(job))
    except RuntimeError as error:  # the engine is gone
        future: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
        future.set_exception(error)
        return future


def _failure(workers: Workers, failed: Sequence[Outcome], count: int) -> ChildProcessError:
    causes = collections.Counter(outcome.cause for outcome in failed)
    first = {outcome.cause: outcome.where or "worker lost" for outcome in reversed(failed)}
    told = "; ".join(f"{first[cause]}: {cause} ({number})" for cause, number in causes.most_common(3))
    error = ChildProcessError(
        f"executor {workers.name}: {len(failed)} of {count} jobs did not finish: {told}. "
        "What is finished is kept, the same command goes on from there"
    )
    for trace in dict.fromkeys(outcome.trace for outcome in failed if outcome.trace):
        error.add_note(trace)
    return error


def _outcome(workers: Workers, future: "concurrent.futures.Future[Outcome]") -> Outcome:
    """What the worker says, or, if it was lost, the engine."""
    if future.cancelled():
        return Outcome("", workers.lost() or "cancelled")
    error = future.exception()
    return future.result() if error is None else Outcome("", workers.lost() or _line(error))


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _in_turn(jobs: Sequence[Job]) -> list[Job]:
    """First one job of each group, then the next: workers compile different programs at the same time, and
    find them in the cache afterwards."""
    place: collections.Counter[str] = collections.Counter()
    order = []
    for job in jobs:
        order.append(place[job.signature])
        place[job.signature] += 1
    return [job for _, job in sorted(zip(order, jobs, strict=True), key=lambda pair: pair[0])]


def _settings(job: Job, workers: Workers) -> Settings:
    code = identity.code(job.cells[0])
    used = {name.partition(":")[0] for name in code}
    if "__main__" in used:
        raise ValueError(
            "a cell's class is defined in the script that runs; allowed with an executor: in its own module"
        )
    installed = importlib.machinery.PathFinder.find_spec
    elsewhere = {name: str(sys.modules[name].__file__) for name in used if not installed(name.split(".")[0])}
    return Settings(
        {name: getattr(jax.config, name) for name in _CONFIG},
        os.environ.get("XLA_FLAGS", ""),
        workers.devices,
        [os.path.abspath(folder) for folder in sys.path],
        elsewhere,
        code,
        identity.environment() | ({"platform": workers.platform} if workers.platform else {}),
    )
