"""Damage, and processes that are started, killed and waited for."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

from jaxmaml import storage

ROOT = pathlib.Path(__file__).parents[2]
READY = "ready"
PATIENCE = 300
"""seconds that a process may take."""
Process = subprocess.Popen[str]


# Processes


def start(function: str, arguments: Sequence[object]) -> Process:
    """`module.function` of this package in a process of its own, which imports, and waits for `go`."""
    module, name = function.split(".")
    program = (
        f"import settings; settings.configure(); from attacks import {module}; "
        f"print({READY!r}, flush=True); input(); {module}.{name}(*{tuple(arguments)!r})"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def go(process: Process) -> None:
    """Waits until its imports are done, and lets it begin."""
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline().strip() != READY:
        raise RuntimeError(process.communicate()[1])
    process.stdin.write("\n")
    process.stdin.flush()


def together(function: str, each: Sequence[Sequence[object]]) -> list[Process]:
    """A process for each of the arguments; they begin at the same time."""
    processes = [start(function, arguments) for arguments in each]
    for process in processes:
        go(process)
    return processes


def ahead(function: str, each: Sequence[Sequence[object]]) -> Iterator[Process]:
    """One process after the other, each begun as it is asked for; the next one imports meanwhile."""
    following = start(function, each[0])
    for arguments in [*each[1:], None]:
        process = following
        if arguments is not None:
            following = start(function, arguments)
        go(process)
        yield process


def kill(process: Process) -> bool:
    """SIGKILL; whether it came before the end."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def ended(process: Process, allowed: tuple[int, ...] = (0,)) -> str:
    """What is wrong with how a process ended."""
    _, error = process.communicate(timeout=PATIENCE)
    return "" if process.returncode in allowed else f"exit status {process.returncode}: {error[-300:]}"


# Damage


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Damage: a bit flipped, mostly; or cut, or zeros, or a piece doubled."""
    kind = rng.choice(["bit"] * 7 + ["cut", "zeros", "doubled"])
    at = rng.randrange(len(data))
    if kind == "bit":
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "zeros":
        return data[:at] + bytes(len(data) - at)
    return data[:at] + data[at // 2 :]


def damaged(
    path: pathlib.Path, times: int, read: Callable[[], object], same: Callable[[object], bool]
) -> Iterator[str]:
    """Damages a file again and again: it is named and not read, or what is read is what was written."""
    rng = random.Random(path.name)
    whole = path.read_bytes()
    beside = {each: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    for trial in range(times):
        path.write_bytes(flipped(whole, rng))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                found = read()
                wrong = "" if same(found) else f"{path.name}: trial {trial} was read as something else"
            except (storage.Damaged, FileNotFoundError) as error:
                wrong = (
                    ""
                    if path.name in str(error) or "SHA256SUMS" in str(error)
                    else f"{error} does not name {path.name}"
                )
            except Exception as error:
                wrong = f"{path.name}: trial {trial}: {type(error).__name__}: {error}"
            if said and path.name not in str(said[0].message):
                wrong = f"{said[0].message} does not name {path.name}"
        yield wrong
        for each in path.parent.iterdir():
            if each.is_file() and each not in beside:
                each.unlink()
        for each, data in beside.items():
            each.write_bytes(data)
