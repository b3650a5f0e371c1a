"""Attacks on the files that the experiments write: chunks of sweeps, tables, stamps, lists of sums."""

import contextlib
import io
import itertools
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from attacks import tools
from experiments import pipeline, results, sweep
from experiments.cells import theorem_run
from jaxmaml import storage
from jaxmaml.tasks import cosine

# Not forks of this process, in which JAX runs.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["attacks.files"])
CLAIM = "difference_error"
"""the quickest claim."""


def swept(folder: pathlib.Path, cells: int = 12, steps: int = 20_000, chunk_cells: int = 2) -> pd.DataFrame:
    """The rows of a small sweep."""
    family = cosine.make(n=5, d=2, tau=0.5, beta0=0.3, nu=1.0)
    alpha = 0.1 / family.constants().L
    grid = [
        ({"seed": j}, theorem_run(family, "maml", alpha, np.ones(2) + j, record=(0, steps)))
        for j in range(cells)
    ]
    return sweep.sweep(grid, folder, chunk_cells=chunk_cells, quiet=True)[0]


def sweeps(folder: str) -> None:
    swept(pathlib.Path(folder))


def chunks(folder: pathlib.Path) -> pd.DataFrame:
    """The rows of all chunks of a sweep, as they were written."""
    found = [results.read_chunks(each)[0] for each in sorted({p.parent for p in folder.rglob("*.parquet")})]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def rows_of(found: pd.DataFrame, whole: pd.DataFrame) -> bool:
    """Whether a table holds rows of another one, each as it was."""
    if found.empty:
        return True
    kept = whole[whole["key"].isin(set(found["key"]))].sort_values(["key", "step"])
    return found.sort_values(["key", "step"]).reset_index(drop=True).equals(kept.reset_index(drop=True))


# Attacks


def flipped_chunks(folder: pathlib.Path) -> Iterator[str]:
    """A damaged chunk is named and set aside, and its cells run again."""
    swept(folder)
    for each in sorted({path.parent for path in folder.rglob("*.parquet")}):
        whole, _ = results.read_chunks(each)
        for path in sorted(each.glob("*.parquet")):
            read = lambda each=each: results.read_chunks(each)[0]  # noqa: E731
            yield from tools.damaged(path, 90, read, lambda found, whole=whole: rows_of(found, whole))


def flipped_tables(folder: pathlib.Path) -> Iterator[str]:
    """A damaged table, ledger, manifest, stamp or list of sums is named, and made again."""
    with _results_in(folder):
        pipeline.run("smoke", pipeline.select(CLAIM))
        pipeline.plot("smoke", pipeline.select(CLAIM))
        names = [f"smoke/tables/{CLAIM}.csv", f"smoke/verdicts/{CLAIM}.csv", "smoke/manifest.json"]
        names += [f"smoke/figures/{CLAIM}.svg", f"raw/stamps/smoke-{CLAIM}-measured"]
        for name in names:
            path = folder / name
            whole = path.read_bytes()
            yield from tools.damaged(
                path, 100, lambda p=path: storage.read(p), lambda x, whole=whole: x == whole
            )
            sums = path.with_name(storage.SUMS)
            yield from tools.damaged(
                sums, 40, lambda p=path: storage.read(p), lambda x, whole=whole: x == whole
            )


def kills_inside_a_write(folder: pathlib.Path) -> Iterator[str]:
    """The process ends at each rename, link and fsync of a write: the file is the old one or the new one."""
    for call in range(1, 12):
        path = folder / str(call) / "x"
        storage.write(path, b"old")
        process = PROCESSES.Process(target=_killed_at, args=(path, call))
        process.start()
        process.join()
        storage.write(path.with_name("y"), b"another")
        yield "" if storage.read(path) in (b"old", b"new") else f"call {call} left {path.read_bytes()!r}"


def killed_sweeps(folder: pathlib.Path) -> Iterator[str]:
    """A sweep that was killed at any time, again and again, goes on, and ends with the same rows."""
    whole = swept(folder / "whole")
    each = chunks(folder / "whole")
    since = time.perf_counter()
    swept(folder / "again")
    lasts = time.perf_counter() - since
    rng, times = random.Random(0), 3
    places = [folder / str(trial) for trial in range(11) for _ in range(times)]
    for i, process in enumerate(tools.ahead("files.sweeps", [(str(path),) for path in places])):
        time.sleep(rng.uniform(0.0, lasts))
        killed = tools.kill(process)
        last = (i + 1) % times == 0
        right = swept(places[i]).equals(whole) if last else rows_of(chunks(places[i]), each)
        if killed:
            yield "" if right else f"{places[i]}: other rows after {i % times + 1} kills"


def sweeps_at_once(folder: pathlib.Path) -> Iterator[str]:
    """Several sweeps of the same cells in one folder: all end, with the same rows."""
    whole = swept(folder / "whole")
    for trial in range(4):
        where = folder / str(trial)
        for process in tools.together("files.sweeps", [(str(where),)] * 3):
            yield tools.ended(process)
        yield "" if swept(where).equals(whole) else f"trial {trial}: other rows"


def writers_of_one_process_id(folder: pathlib.Path) -> Iterator[str]:
    """Containers that share a folder may have equal process ids: no torn file, no lost sum, no lost entry."""
    for trial in range(10):
        where = folder / str(trial)
        writers = [PROCESSES.Process(target=_writes, args=(where, j)) for j in range(4)]
        for process in writers:
            process.start()
        for process in writers:
            process.join()
            yield "" if process.exitcode == 0 else f"exit status {process.exitcode}"
        entries = storage.read_json(where / "entries.json")
        yield "" if len(entries) == 40 else f"{len(entries)} of 40 entries"


def full_disk(folder: pathlib.Path) -> Iterator[str]:
    """No file may grow beyond some size: one line names the path, and nothing that was there is lost."""
    for size in (0, 100, 1000, 5000):
        where = folder / str(size)
        swept(where, cells=2)
        before = {path: path.read_bytes() for path in where.rglob("*") if path.is_file()}
        (process,) = tools.together("files.sweeps_on_a_full_disk", [(str(where), size)])
        yield tools.ended(process, (2,))
        same = all(path.exists() and path.read_bytes() == data for path, data in before.items())
        yield "" if same else f"at most {size} bytes: a file that was there has changed"


def sweeps_on_a_full_disk(folder: str, size: int) -> None:
    import resource

    import jax

    jax.config.update("jax_compilation_cache_dir", None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        swept(pathlib.Path(folder), cells=4)
    except (OSError, ValueError) as error:
        sys.exit(2 if folder in str(error) else 3)


def ordinary_user(folder: pathlib.Path) -> Iterator[str]:
    """Who is not root sweeps in a folder of its own, and is told of one that it may not write to."""
    own, others = folder / "own", folder / "others"
    own.mkdir()
    others.mkdir()
    for parent in (folder, *folder.parents):
        if parent.owner() == "root" and parent != pathlib.Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    os.chown(own, 65534, 65534)
    (process,) = tools.together("files.sweeps_as_nobody", [(str(own),)])
    yield tools.ended(process)
    (process,) = tools.together("files.sweeps_as_nobody", [(str(others),)])
    yield tools.ended(process, (2,))


def sweeps_as_nobody(folder: str) -> None:
    os.setgid(65534)
    os.setuid(65534)
    import jax

    jax.config.update("jax_compilation_cache_dir", None)
    try:
        swept(pathlib.Path(folder), cells=2)
    except (OSError, ValueError) as error:
        sys.exit(2 if folder in str(error) else 3)


@contextlib.contextmanager
def _results_in(folder: pathlib.Path) -> Iterator[None]:
    before, pipeline.ROOT = pipeline.ROOT, folder
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        pipeline.ROOT = before


def _killed_at(path: pathlib.Path, call: int) -> None:
    count = itertools.count(1)

    def counted(function: Callable) -> Callable:
        def wrapped(*arguments: object) -> object:
            if next(count) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return wrapped

    os.fsync, pathlib.Path.replace = counted(os.fsync), counted(pathlib.Path.replace)  # type: ignore[assignment, method-assign]
    storage.write(path, b"new")


def _writes(folder: pathlib.Path, j: int) -> None:
    os.getpid = lambda: 1
    for k in range(10):
        storage.write(folder / "shared", str(j).encode() * 3000)
        if len(set(storage.read(folder / "shared"))) != 1:
            os._exit(3)
        storage.update_json(folder / "entries.json", lambda x, k=k: (x or {}) | {f"{j}-{k}": 1})
