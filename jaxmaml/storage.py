"""Files that are whole, sound and one writer's: how everything is written, read back and locked.

    write(path, data), read(path)     a named file; its sum stands in SHA256SUMS beside it
    add(folder, data), sound(folder)  files named by their own sums, for any number of writers
    exclusive(folder)                 one process at a time works in a folder

A file is written whole or not at all: under a random name in its folder, fsync, rename, fsync of the
folder. What is read back is what was written: a file that was changed since is named (`Damaged`), never read.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import filelock
import jax

from jaxmaml.paths import naming

if TYPE_CHECKING:
    import pandas as pd

SUMS = "SHA256SUMS"
"""in each folder, in the format of `sha256sum -c`. While a file is replaced, its old and its new sum are
there: a kill at any point leaves a file that is known."""
LOCK = ".lock"
HOLDER = ".held-by"
ABANDONED = 3600.0
"""seconds after which a temporary file belongs to a process that was killed: none takes so long to write."""


class Damaged(ValueError):
    """A file is not what was written."""


class Held(BlockingIOError):
    """Another process works in this folder."""


# Named files


def write(path: pathlib.Path, data: bytes) -> None:
    """All of `data` or nothing. What stood there and is not known to SHA256SUMS is kept as *.damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy(path.parent)
    new = _sum(data)
    with _lock(path.parent):
        known = _sums(path.parent)
        old = [_sum(path.read_bytes())] if path.exists() else []
        if old and old[0] not in known.get(path.name, ()):
            set_aside(path)
            old = []
        if old == [new] == known[path.name]:
            return
        _list(path.parent, known | {path.name: [*old, new]})
        _replace(path, data)
        _list(path.parent, known | {path.name: [new]})


def read(path: pathlib.Path) -> bytes:
    """The contents of a file that `write` wrote.

    Raises:
      FileNotFoundError: there is none.
      Damaged: it was changed since, or SHA256SUMS does not know it.
    """
    for _ in range(3):  # a writer may come between the two readings
        known, data = _sums(path.parent).get(path.name, ()), path.read_bytes()
        if _sum(data) in known:
            return data
        time.sleep(0.02)
    why = "was changed since it was written: its sum is not the one" if known else "is not listed"
    raise Damaged(f"{path} {why} in {SUMS}")


def is_sound(path: pathlib.Path) -> bool:
    """Whether the file is there, and what was written."""
    try:
        read(path)
    except (FileNotFoundError, Damaged):
        return False
    return True


def write_table(path: pathlib.Path, table: "pd.DataFrame") -> None:
    """A small table as CSV with 12 significant digits."""
    write(path, table.to_csv(index=False, float_format="%.12g").encode())


def read_table(path: pathlib.Path, **options: Any) -> "pd.DataFrame":
    """The table that `write_table` wrote; options of pandas.read_csv."""
    import pandas as pd

    return pd.read_csv(io.BytesIO(read(path)), **options)


def write_json(path: pathlib.Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: pathlib.Path) -> Any:
    return json.loads(read(path))


def update_json(path: pathlib.Path, change: Callable[[Any], Any]) -> None:
    """Writes change(what is there), of None where there is nothing sound; no other writer comes between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path.parent):
        write_json(path, change(read_json(path) if is_sound(path) else None))


# Files named by their sums


def add(folder: pathlib.Path, data: bytes, suffix: str, name: str = "") -> pathlib.Path:
    """A new file `name`-sum.suffix: whoever else writes here writes another, or the same."""
    folder.mkdir(parents=True, exist_ok=True)
    _tidy(folder)
    path = folder / f"{name}-{_sum(data)[:32]}{suffix}"
    _replace(path, data)
    return path


def sound(folder: pathlib.Path, suffix: str) -> Iterator[tuple[pathlib.Path, bytes]]:
    """Every file that `add` wrote, but for those that are damaged: these are named and set aside."""
    for path in sorted(folder.glob(f"*{suffix}")):
        data = path.read_bytes()
        if path.name.endswith(f"-{_sum(data)[:32]}{suffix}"):
            yield path, data
        else:
            aside = set_aside(path)
            warnings.warn(f"{path} was changed since it was written; set aside as {aside.name}", stacklevel=2)


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames a damaged file or folder to *.damaged, so that it is neither read nor lost."""
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.damaged")
    return path.rename(aside)


# Locks


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[None]:
    """The folder is this process's until the block ends; a lock dies with the process that holds it.

    Raises:
      Held: another process has it; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        holder = folder / HOLDER
        by = holder.read_text() if holder.exists() else "another process"
        raise Held(
            f"{folder} is in use by {by}; allowed: one process at a time, or another folder"
        ) from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        (folder / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}")
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


# What identifies contents


def digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


@functools.cache
def environment() -> dict[str, Any]:
    """Versions, device and precision: what else the numbers depend on, and where they came from."""
    packages = ("jaxmaml", "jax", "jaxlib", "numpy", "optax", "flax")
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "versions": {"python": sys.version.split()[0]}
        | {name: importlib.metadata.version(name) for name in packages},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "platform": jax.default_backend(),
        "x64": bool(jax.config.read("jax_enable_x64")),
        "commit": commit,
    }


# How


def _lock(folder: pathlib.Path) -> filelock.FileLock:
    """Held for the moment of a write; whoever holds it may take it again."""
    return filelock.FileLock(folder.absolute() / f"{LOCK}-sums", is_singleton=True)


def _replace(path: pathlib.Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with naming(path), temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere folders cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sums(folder: pathlib.Path) -> dict[str, list[str]]:
    """The sums of each name; lines that are damaged know no file."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in lines:
        value, _, name = line.partition("  ")
        found.setdefault(name, []).append(value)
    return found


def _list(folder: pathlib.Path, sums: dict[str, list[str]]) -> None:
    text = "".join(f"{value}  {name}\n" for name in sorted(sums) for value in sums[name])
    _replace(folder / SUMS, text.encode())


@functools.cache
def _tidy(folder: pathlib.Path) -> None:
    """Once a process: removes what killed writers left in a folder."""
    for path in folder.glob(".*.part"):
        with contextlib.suppress(FileNotFoundError):  # another process tidies as well
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
