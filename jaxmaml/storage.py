"""Files that are whole or not there, and what identifies their contents."""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jax

from jaxmaml.paths import naming

if TYPE_CHECKING:
    import pandas as pd


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """All of `data` or nothing: temporary file in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with naming(path), temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_table(path: pathlib.Path, table: "pd.DataFrame") -> None:
    """A small table as CSV with 12 significant digits."""
    write_atomically(path, table.to_csv(index=False, float_format="%.12g").encode())


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
