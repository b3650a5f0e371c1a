"""Chunks of a sweep on disk, and the rows of the ledger."""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jaxmaml import statistics, storage

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


# Chunks: Parquet files that are named by their sums, with the manifest among their metadata.

_ROWS = ".chunk.parquet"
_MANIFEST = b"jaxmaml"


def write_chunk(
    folder: pathlib.Path, cells: Sequence[str], rows: pd.DataFrame, manifest: Mapping[str, Any]
) -> None:
    """Adds the rows of these cells (column `key`), and what is to be known of them."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    full = json.dumps({**manifest, "cells": list(cells)}).encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _MANIFEST: full})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.add(folder, sink.getvalue().to_pybytes(), _ROWS, name=_chunk(cells))


def is_written(folder: pathlib.Path, cells: Sequence[str]) -> bool:
    """Whether `write_chunk` has finished the chunk of these cells."""
    return any(folder.glob(f"{_chunk(cells)}-*{_ROWS}"))


def _chunk(cells: Sequence[str]) -> str:
    return storage.digest(*cells)[:20]


def read_chunks(folder: pathlib.Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows of every sound chunk in the folder, and their manifests; a damaged one is set aside."""
    tables = [pq.read_table(pa.BufferReader(data)) for _, data in storage.sound(folder, _ROWS)]
    manifests = [json.loads(table.schema.metadata[_MANIFEST]) for table in tables]
    if not tables:
        return pd.DataFrame(), []
    rows = pd.concat([table.to_pandas() for table in tables], keys=range(len(tables)))
    # Two sweeps at once may both have run a cell.
    chunk = rows.index.get_level_values(0).to_series(index=rows.index)
    return rows[chunk == chunk.groupby(rows["key"]).transform("first")].reset_index(drop=True), manifests


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
    rows = storage.read_table(path, dtype=dict.fromkeys(texts, str))
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


# Comparisons over seeds


def compared(name: str, values: pd.Series, reference: pd.Series) -> dict[str, float]:
    """Columns: `name` (the mean) with its 95 % interval, and that of the difference from the reference,
    paired by the index, the seed."""
    mean, paired = statistics.interval(values), statistics.interval(values - reference)
    return {
        name: mean.mean,
        "low": mean.low,
        "high": mean.high,
        "difference": paired.mean,
        "difference_low": paired.low,
        "difference_high": paired.high,
        "seeds": mean.n,
    }
