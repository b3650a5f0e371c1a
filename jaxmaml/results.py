"""Tables on disk: chunks of a sweep with their manifests, small committed tables, and the ledger."""

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

PACKAGE = pathlib.Path(__file__).parent
# What a run's numbers do not depend on: a change here keeps the chunks on disk valid.
NOT_NUMERICAL = ("theory", "models", "constants.py", "results.py", "sweep.py", "version.py")

Verdict = Literal["holds", "holds, not sharp", "fails as stated", "not tested"]
Place = Literal[
    "assumptions",
    "smoothness lemma",
    "step-size lemma",
    "bias lemma",
    "F and F-hat",
    "Hessian-free product",
    "MAML theorem",
    "FO-MAML theorem",
    "HF-MAML theorem",
    "costs",
]
"""The parts of the paper, in its order."""


# Atomic files


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """All of `data` or nothing: temporary file in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_table(path: pathlib.Path, table: pd.DataFrame) -> None:
    """A small table as CSV with 12 significant digits."""
    write_atomically(path, table.to_csv(index=False, float_format="%.12g").encode())


# Chunks: <hash>.parquet holds the rows, <hash>.json the manifest, written last, with the sum of the rows.


def write_chunk(
    folder: pathlib.Path, cells: Sequence[str], rows: pd.DataFrame, manifest: Mapping[str, Any]
) -> None:
    name = digest(*cells)[:20]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), sink)
    data = sink.getvalue().to_pybytes()
    write_atomically(folder / f"{name}.parquet", data)
    full = {**manifest, "cells": list(cells), "sha256": hashlib.sha256(data).hexdigest()}
    write_atomically(folder / f"{name}.json", json.dumps(full, indent=1).encode())


def read_chunks(folder: pathlib.Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows of every sound chunk in the folder, and their manifests.

    A chunk that was cut short or edited is named in a warning, set aside as *.damaged, and so computed
    again; rows without a manifest belong to a chunk that was never finished.
    """
    frames, manifests = [], []
    seen: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        rows = path.with_suffix(".parquet")
        try:
            manifest = json.loads(path.read_bytes())
            data = rows.read_bytes()
            if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
                raise ValueError("its contents differ from the sum in its manifest")
            frame = pq.read_table(pa.BufferReader(data)).to_pandas()
            # Two sweeps at once may both have run a cell.
            frames.append(frame[~frame["key"].isin(seen)])
            seen.update(frame["key"])
            manifests.append(manifest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            for damaged in (path, rows):
                if damaged.exists():
                    damaged.replace(damaged.with_name(damaged.name + ".damaged"))
            warnings.warn(
                f"results file {rows} is damaged ({error}); set aside as {rows.name}.damaged, "
                "its cells run again",
                stacklevel=2,
            )
    return (pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()), manifests


# Provenance


def digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


@functools.cache
def source_digest(*paths: pathlib.Path) -> str:
    """Identifies code up to comments, docstrings and layout, so that stale results are never read."""
    return digest(*(_bare(path.read_text(encoding="utf-8")) for path in paths))


@functools.cache
def _bare(source: str) -> str:
    module = ast.parse(source)
    for node in ast.walk(module):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [x for x in body if not _is_text(x)]  # type: ignore[attr-defined]
    return ast.dump(module)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@functools.cache
def numerical_sources() -> tuple[pathlib.Path, ...]:
    """The library's modules that a run's numbers depend on."""
    modules = sorted(PACKAGE.rglob("*.py"))
    return tuple(path for path in modules if path.relative_to(PACKAGE).parts[0] not in NOT_NUMERICAL)


@functools.cache
def environment() -> dict[str, Any]:
    """Versions, device and precision: what else the numbers depend on, and where they came from."""
    packages = ("jaxmaml", "jax", "jaxlib", "numpy", "optax", "flax")
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=PACKAGE, capture_output=True, text=True, check=True
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


# Statistics


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval; nan where a value is not finite, never averaged away."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's interval of the mean of independent values; degenerate for one value."""
    import scipy.stats  # takes as long as JAX, and a start that computes nothing does without

    x = np.asarray(list(values), float)
    if x.size == 0:
        raise ValueError("interval of no values; allowed: at least one")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, mean, mean, 1)
    half = scipy.stats.t.ppf(0.5 + level / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return Interval(mean, float(mean - half), float(mean + half), x.size)


def slope(
    x: Iterable[float], y: Iterable[float], level: float = 0.95, *, errors: Iterable[float] | None = None
) -> Interval:
    """Slope of log y against log x by least squares, with its interval.

    The interval comes from the residuals; from the standard errors of y where they are given. nan where
    x does not vary.
    """
    import scipy.stats

    logs = np.log(np.asarray(list(x), float)), np.log(np.asarray(list(y), float))
    n = logs[0].size
    if n < 2 or np.ptp(logs[0]) == 0:
        return Interval(np.nan, np.nan, np.nan, n)
    fit = scipy.stats.linregress(*logs)
    if errors is not None:
        relative = np.asarray(list(errors), float) / np.exp(logs[1])
        centred = logs[0] - logs[0].mean()
        error = np.sqrt(np.sum((centred * relative) ** 2)) / np.sum(centred**2)
        half = scipy.stats.norm.ppf(0.5 + level / 2) * error
    else:
        half = scipy.stats.t.ppf(0.5 + level / 2, n - 2) * fit.stderr if n > 2 else np.inf
    return Interval(float(fit.slope), float(fit.slope - half), float(fit.slope + half), n)


def running_mean(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(1/K) sum_{k<K} values[k] at the recorded steps K > 0, by trapezia between records.

    values, shape (R, ...), at steps, shape (R,), which begin with 0; the result has R - 1 rows.
    """
    widths = np.diff(steps).reshape(-1, *(1,) * (values.ndim - 1))
    areas = widths * (values[1:] + values[:-1]) / 2
    return np.cumsum(areas, axis=0) / steps[1:].reshape(widths.shape)


# The ledger


@dataclass(frozen=True)
class LedgerRow:
    """One claim with its verdict; the verdict is computed from the numbers beside it."""

    claim: str
    """experiment, e.g. E14; several rows may share it."""
    part: str
    """what of the claim this row is about."""
    statement: str
    """text with formulas in LaTeX between dollar signs."""
    place: Place
    """the part of the paper that it is about."""
    source: str
    """`as summarised`, `derived`, or what of each."""
    measured: float
    low: float
    high: float
    """95 % interval of `measured`; equal to it where nothing is random."""
    bound: float
    slack: float
    """bound / measured for an upper bound, measured / bound for a lower one: >= 1 where it holds."""
    verdict: Verdict
    note: str = ""
    """the sharp rate, the counterexample and repair, or the reason for `not tested`."""


def ledger(rows: Iterable[LedgerRow]) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) for row in rows])
