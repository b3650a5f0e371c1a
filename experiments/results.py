"""Chunks of a sweep on disk, the code that a run depends on, and the rows of the ledger."""

import ast
import functools
import hashlib
import json
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import jaxmaml
from jaxmaml import storage

LIBRARY = pathlib.Path(jaxmaml.__file__).parent
NOT_NUMERICAL = (
    "__main__.py",
    "advice",
    "command_line.py",
    "configuration.py",
    "constants.py",
    "failures.py",
    "measure",
    "models",
    "names.py",
    "paths.py",
    "plotting.py",
    "statistics.py",
    "storage.py",
    "theory",
    "timing.py",
    "training",
    "version.py",
)
"""Of the library, what a run's numbers do not depend on: a change here keeps the chunks on disk valid."""
NUMERICAL = ("cells.py", "run.py", "search.py")
"""Of the experiments, what cells are made of."""

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


# Chunks: <hash>.parquet holds the rows, <hash>.json the manifest, written last, with the sum of the rows.


def write_chunk(
    folder: pathlib.Path, cells: Sequence[str], rows: pd.DataFrame, manifest: Mapping[str, Any]
) -> None:
    name = storage.digest(*cells)[:20]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), sink)
    data = sink.getvalue().to_pybytes()
    storage.write_atomically(folder / f"{name}.parquet", data)
    full = {**manifest, "cells": list(cells), "sha256": hashlib.sha256(data).hexdigest()}
    storage.write_atomically(folder / f"{name}.json", json.dumps(full, indent=1).encode())


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


@functools.cache
def source_digest(*paths: pathlib.Path) -> str:
    """Identifies code up to comments, docstrings and layout, so that stale results are never read."""
    return storage.digest(*(_bare(path.read_text(encoding="utf-8")) for path in paths))


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
    """The modules that a run's numbers depend on."""
    library = (p for p in LIBRARY.rglob("*.py") if p.relative_to(LIBRARY).parts[0] not in NOT_NUMERICAL)
    here = pathlib.Path(__file__).parent
    return (*sorted(library), *(here / name for name in NUMERICAL))


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
    """ends of the interval of `measured`."""
    bound: float
    """or the expected value, where there is a tolerance."""
    slack: float
    """bound / measured for an upper bound, measured / bound for a lower one: >= 1 where it holds; nan where a
    value is compared with what is expected."""
    verdict: Verdict
    note: str = ""
    """the sharp rate, the counterexample and repair, or the reason for `not tested`."""
    tolerance: float = float("nan")
    """how far from the expected value the interval may reach."""
    interval: str = "exact"
    """what low and high are: exact (nothing is random), sampling (at which level), fit, limit or range."""
    companion: str = ""
    """the part of another row, which comes near to the same bound."""


def ledger(rows: Iterable[LedgerRow]) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) for row in rows])


def read_ledger(path: pathlib.Path) -> pd.DataFrame:
    """Rows from their file; a text that is empty is empty, not missing."""
    texts = ("note", "companion", "also_holds_for")
    rows = pd.read_csv(path, dtype=dict.fromkeys(texts, str))
    return rows.fillna({name: "" for name in texts if name in rows})


def settle(rows: pd.DataFrame, power: Mapping[str, str], sharp: float) -> pd.DataFrame:
    """The ledger as a whole: what only other rows or runs can tell of a row.

    A bound that is not near to what is measured stays `holds` only where its companion, another row, is
    within the factor `sharp` of the same bound. `also_holds_for` names the wrong methods that pass the row
    (`power`, by part), empty where none is known to.
    """
    attained = set(rows.part[rows.verdict.eq("holds") & rows.slack.le(sharp)])
    alone = rows.companion.ne("") & ~rows.companion.isin(attained) & rows.verdict.eq("holds")
    return rows.assign(
        verdict=rows.verdict.where(~alone, "holds, not sharp"),
        also_holds_for=rows.part.map(lambda part: power.get(part, "")),
    )
