"""Many runs: cells -> compile groups -> programs, here or in other processes; chunk by chunk, resumable.

A cell is a frozen pytree with `execute()`: its numbers are leaves, names and shapes are static. Cells of
one compile signature (treedef and shapes) run as one program jit(shard(vmap(execute))).
"""

import concurrent.futures
import pathlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import executors, jobs, results
from experiments.executors import Workers
from experiments.jobs import Job
from experiments.keys import Group, cell_keys, group
from experiments.keys import cell_key as cell_key
from experiments.keys import signature as signature
from experiments.program import NOMINAL_RATE, Cell, Program, layout
from jaxmaml import storage
from jaxmaml.checks import check_step_count
from jaxmaml.configuration import configure, cores
from jaxmaml.paths import check_folder

Labels = Mapping[str, Any]
Pool = concurrent.futures.Executor | Workers


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


def sweep(
    labelled: Sequence[tuple[Labels, Cell]],
    directory: pathlib.Path,
    *,
    chunk_cells: int | None = None,
    quiet: bool = False,
    executor: Pool | None = None,
) -> tuple[pd.DataFrame, Report]:
    """Runs every cell that is not on disk yet, and returns the rows of all of them.

    Args:
      labelled: (labels, cell) pairs; the labels become columns.
      directory: where chunks are kept, a folder a signature. A finished chunk is written atomically,
        so that a killed sweep resumes with nothing lost and nothing run twice.
      chunk_cells: at most this many cells in one call of a program (but one for each device); None: 64 on
        CPUs, and on accelerators, where many cost the time of one, 1024 a device.
      quiet: print neither the plan nor progress.
      executor: where the cells run: any `concurrent.futures.Executor` of processes that see `directory`, or
        what `experiments.executors.start` gives; None: here. The numbers are the same, bit for bit.

    Returns:
      Rows in the order of `labelled`: label columns, `cell` (its index) and the arrays of `execute`, one row
      an entry (arrays of shape () repeat); and a `Report`.

    Raises:
      ChildProcessError: jobs of the executor did not finish. The same call goes on with what is missing.
    """
    return prepare(labelled, directory, chunk_cells=chunk_cells, quiet=quiet, executor=executor).run()


def prepare(
    labelled: Sequence[tuple[Labels, Cell]],
    directory: pathlib.Path,
    *,
    chunk_cells: int | None = None,
    quiet: bool = False,
    executor: Pool | None = None,
) -> "Prepared":
    """A `sweep` that is ready to run; programs that run here are traced, and compile in the background.

    What is prepared while another sweep runs costs little time by the clock.
    """
    if chunk_cells is not None:
        check_step_count("chunk_cells", chunk_cells)
    cells = [cell for _, cell in labelled]
    for cell in cells:
        cell.check()
    workers = None if executor is None else executors.of(executor)
    platform = (workers and workers.platform) or jax.default_backend()
    keys = [""] * len(cells)
    stored: list[pd.DataFrame] = []
    missing: list[Job] = []
    seconds = 0.0
    for g in group(cells):
        of_group = cell_keys([cells[i] for i in g.indices], g.signature, platform)
        for i, key in zip(g.indices, of_group, strict=True):
            keys[i] = key
        first = dict(zip(reversed(of_group), reversed(g.indices), strict=True))
        unique = {key: cells[first[key]] for key in of_group}
        folder = _folder(directory, g)
        rows, manifests = _read(folder, unique)
        stored.append(rows)
        todo = unique.keys() - set(rows["key"]) if len(rows) else unique.keys()
        if todo:
            names = [key for key in unique if key in todo]
            how = layout(list(unique.values()), chunk_cells, platform)
            job = Job(g.signature, folder, how, names, [unique[key] for key in names])
            steps = sum(m["cell_steps"] for m in manifests)
            rate = sum(m["run_s"] for m in manifests) / steps if steps else NOMINAL_RATE
            missing.append(job)
            seconds += rate * job.cost + 2.0
    if missing:
        check_folder("directory", directory)
    programs = [job.program() for job in missing] if workers is None else []
    for program in programs:
        program.compile()
    console = Console(quiet=quiet, highlight=False, soft_wrap=True)
    return Prepared(labelled, keys, stored, missing, programs, workers, seconds, console)


@dataclass
class Prepared:
    """Cells, what is on disk of them, and the jobs that compute the others; `run` once."""

    labelled: Sequence[tuple[Labels, Cell]]
    keys: list[str]
    stored: list[pd.DataFrame]
    """the rows on disk."""
    missing: list[Job]
    programs: list[Program]
    """of the jobs that run here."""
    workers: Workers | None
    seconds: float
    """estimate of what the jobs take in one process."""
    console: Console

    def run(self) -> tuple[pd.DataFrame, Report]:
        """What `sweep` returns."""
        count = len(self.labelled)
        reused = count - sum(len(job.cells) for job in self.missing)
        report = Report(cells=count, reused=reused, keys=self.keys)
        if self.missing:
            others = "" if self.workers is None else f", by {self.workers.name}"
            seconds = self.seconds / (1 if self.workers is None else self.workers.count)
            self.console.print(
                f"plan: {count} cells, {reused} on disk, {count - reused} to run "
                f"in {len(self.missing)} programs{others}, about {_duration(seconds)}"
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
            task = bar.add_task("cell-steps", total=sum(job.cost for job in self.missing))
            try:
                for steps in (
                    self._here(report) if self.workers is None else self._there(self.workers, report)
                ):
                    bar.advance(task, steps)
            finally:
                self.cancel()
        self.console.print(str(report))
        return self._rows(), report

    def cancel(self) -> None:
        """Compile no more than has begun."""
        for program in self.programs:
            program.compiled.cancel()

    def _here(self, report: Report) -> Iterator[int]:
        """Runs the jobs in this process; yields the steps of chunk after chunk."""
        for job, program in zip(self.missing, self.programs, strict=True):
            started = time.perf_counter()
            program.compiled.result()
            report.programs += 1
            report.compile_s += program.trace_s + time.perf_counter() - started
            report.cached += program.cached
            for rows, steps, run_s in job.run(program, job.chunks()):
                self.stored.append(rows)
                report.run_s += run_s
                report.cell_steps += steps
                yield steps

    def _there(self, workers: Workers, report: Report) -> Iterator[int]:
        """Runs the jobs in other processes; yields the steps that they have written."""
        for done in jobs.gather(workers, self.missing):
            if isinstance(done, int):
                yield done
            else:
                for name in ("programs", "cached", "compile_s", "run_s"):
                    setattr(report, name, getattr(report, name) + getattr(done, name))
                report.cell_steps += done.steps
        for job in self.missing:
            rows, _ = _read(job.folder, job.keys)
            if lost := len(job.keys) - (rows["key"].nunique() if len(rows) else 0):
                raise ChildProcessError(
                    f"{lost} cells are not in {job.folder}, though their jobs ended. Do all workers see it?"
                )
            self.stored.append(rows)

    def _rows(self) -> pd.DataFrame:
        rows = pd.concat([frame for frame in self.stored if len(frame)], ignore_index=True)
        keys = rows.pop("key")
        labels = pd.DataFrame([dict(labels) for labels, _ in self.labelled])
        if taken := set(labels) & {"cell", "key", *rows.columns}:
            raise ValueError(f"labels {sorted(taken)} are columns of the result; allowed: other names")
        # The rows of a key follow each other: `length` of them from `start`.
        start = np.flatnonzero(keys.ne(keys.shift()))
        length = np.diff(start, append=len(keys))
        place = pd.Index(keys.iloc[start]).get_indexer(pd.Index(self.keys))
        cell = np.repeat(np.arange(len(place)), length[place])
        entry = np.arange(len(cell)) - np.repeat(np.cumsum(length[place]) - length[place], length[place])
        rows = rows.iloc[np.repeat(start[place], length[place]) + entry].reset_index(drop=True)
        return pd.concat([rows.assign(cell=cell), labels.iloc[cell].reset_index(drop=True)], axis=1)


def _read(folder: pathlib.Path, keys: Collection[str]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows of these cells in the folder, and the manifests of all its chunks."""
    rows, manifests = results.read_chunks(folder)
    return (rows[rows["key"].isin(list(keys))] if len(rows) else rows), manifests


def _folder(directory: pathlib.Path, g: Group) -> pathlib.Path:
    return directory.absolute() / storage.digest(g.signature)[:16]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
