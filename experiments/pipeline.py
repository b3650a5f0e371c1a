"""Claims from cells to ledger: sweep, measure, judge, draw. Nothing that is on disk is done again."""

import collections
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments import claims, judging, power, results
from experiments.claim import Claim
from jaxmaml import identity, storage
from jaxmaml.names import unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.executors import Workers
    from experiments.sweep import Prepared

ROOT = claims.RESULTS
SCALES = ("smoke", "default", "full")
AHEAD = 2
"""claims whose programs compile while another runs."""


def folder(scale: str) -> pathlib.Path:
    """Where the tables of a scale are kept; those of `default` are committed."""
    if scale not in SCALES:
        unknown("scale", scale, SCALES)
    return ROOT if scale == "default" else ROOT / scale


def select(experiment: str) -> list[Claim]:
    """One claim, or all of them."""
    return [claims.get(name) for name in claims.select(experiment)]


def run(
    scale: str,
    selected: Sequence[Claim],
    chunk_cells: int | None = None,
    executor: "Workers | None" = None,
) -> None:
    """Sweep, measure and judge; writes tables/<claim>.csv, claims.csv and manifest.json."""
    where = folder(scale)
    identity.remember()
    for claim, prepared in _prepared(scale, selected, chunk_cells, executor):
        name = claim.name
        print(f"{name}: {claim.title}")
        table_path = where / "tables" / f"{name}.csv"
        verdict_path = where / "verdicts" / f"{name}.csv"
        stamp = storage.digest(*prepared.keys, identity.summary(claim.code()), scale)
        done = _done(name, "measured", scale, stamp, [table_path, verdict_path])
        if done and not prepared.missing:
            print(f"{len(prepared.keys)} cells: all read from disk, nothing to compute")
            continue
        rows, report = prepared.run()
        if done:
            continue
        table = claim.measure(rows, prepared.labelled)
        storage.write_table(table_path, table)
        verdicts = results.ledger(claim.judge(storage.read_table(table_path)))
        storage.write_table(verdict_path, verdicts)
        _record(where, name, scale, report)
        _stamp(name, "measured", scale, stamp, [table_path, verdict_path])


def plot(scale: str, selected: Sequence[Claim]) -> None:
    """Figures as SVG and PDF, from the tables: of these claims, and of the stories that need one of them."""
    from experiments.story import STORIES

    where = folder(scale)
    names = [claim.name for claim in selected]
    for claim in selected:
        draw = functools.partial(claim.draw, _table(where, scale, claim.name))
        _figure(where, scale, claim.name, [claim.name], claim.drawing(), draw)
    for story in STORIES.values():
        if not set(names) & set(story.tables):
            continue
        absent = [name for name in story.tables if not (where / "tables" / f"{name}.csv").exists()]
        if absent:
            print(f"{story.file}: not drawn, for it needs the tables of {', '.join(absent)}")
            continue
        draw = functools.partial(story.draw, {name: _table(where, scale, name) for name in story.tables})
        _figure(where, scale, story.file, story.tables, story.drawing(), draw)


def _table(where: pathlib.Path, scale: str, name: str) -> pd.DataFrame:
    return _made(where / "tables" / f"{name}.csv", scale, name, storage.read_table)


def _figure(
    where: pathlib.Path,
    scale: str,
    name: str,
    tables: Sequence[str],
    code: dict[str, str],
    draw: Callable[[], "Figure"],
) -> None:
    """Draws figures/<name>.svg and .pdf, where they are not of these tables and this code."""
    from jaxmaml import plotting

    files = [where / "figures" / f"{name}.{kind}" for kind in ("svg", "pdf")]
    read = (storage.read(where / "tables" / f"{table}.csv") for table in tables)
    stamp = storage.digest(*read, identity.summary(code))
    if _done(name, "figure", scale, stamp, files):
        print(f"{name}: figure is up to date")
        return
    with plotting.style():
        plotting.save(draw(), files)
    _stamp(name, "figure", scale, stamp, files)
    print(f"{name}: {files[0]}")


def report(scale: str) -> None:
    """The ledger of all claims: claims.csv, report.md, report/index.html, and a list on the terminal."""
    from experiments import summary
    from experiments.report import page

    where = folder(scale)
    frames = []
    for name in claims.names():
        path = where / "verdicts" / f"{name}.csv"
        frames.append(_made(path, scale, name, results.read_ledger).assign(experiment=name))
    ledger = pd.concat(frames, ignore_index=True).sort_values(["claim", "part"], kind="stable")
    passed = power.also_holds_for(storage.read_table(power.TABLE)) if power.TABLE.exists() else {}
    ledger = results.settle(ledger, passed, judging.SHARP)
    storage.write_table(where / "claims.csv", ledger)
    lines = ["# Ledger of claims", "", f"Scale `{scale}`; columns in docs/notation.md.", ""]
    lines += ["| claim | part | measured | interval | bound | slack | verdict | also holds for | note |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in ledger.itertuples():
        ends = f"[{row.low:.4g}, {row.high:.4g}], {row.interval}"
        interval = row.interval if row.interval == "exact" else ends
        compared = np.isfinite(row.tolerance)
        bound = f"{row.bound:.4g}" + (f" +- {row.tolerance:.2g}" if compared else "")
        numbers = (f"{row.measured:.4g}", interval, bound, "" if compared else f"{row.slack:.3g}")
        cells = (row.claim, row.part, *numbers, row.verdict, row.also_holds_for, row.note)
        # A norm's bars would end the cell.
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        print(f"{row.claim:4s} {row.verdict:18s} {row.part}")
    storage.write(where / "report.md", ("\n".join(lines) + "\n").encode())
    print(f"{len(ledger)} rows in {where / 'claims.csv'} and {where / 'report.md'}")
    if set(summary.NEEDED) <= set(claims.names()):
        summary.write(where)
    print(f"report: {page.write(where, scale)}")


def _prepared(
    scale: str, selected: Sequence[Claim], chunk_cells: int | None, executor: "Workers | None"
) -> Iterator[tuple[Claim, "Prepared"]]:
    """Each claim with its sweep; while one runs, the programs of the next AHEAD compile."""
    from experiments import sweep

    waiting: collections.deque[tuple[Claim, Prepared]] = collections.deque()
    try:
        for claim in selected:
            grid = claim.grid(scale)
            prepared = sweep.prepare(grid, ROOT / "raw", chunk_cells=chunk_cells, executor=executor)
            waiting.append((claim, prepared))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, prepared in waiting:
            prepared.cancel()


def _made(
    path: pathlib.Path, scale: str, name: str, read: Callable[[pathlib.Path], pd.DataFrame]
) -> pd.DataFrame:
    """A file of a claim's run; if it is missing or damaged, the error says how to make it."""
    remedy = f"make it with: make run-sweep SCALE={scale} EXPERIMENT={name}"
    try:
        return read(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {remedy}") from None
    except storage.Damaged as error:
        raise storage.Damaged(f"{error}; {remedy}") from None


def _record(where: pathlib.Path, name: str, scale: str, report: object) -> None:
    """Adds what a claim's sweep took to manifest.json, beside the versions and the device."""
    timing = {k: v for k, v in vars(report).items() if k != "keys"}

    def add(manifest: Any) -> Any:
        claims = (manifest or {}).get("claims", {})
        if timing["reused"] < timing["cells"] or name not in claims:
            claims[name] = timing
        return {"scale": scale, **storage.environment(), "claims": claims}

    storage.update_json(where / "manifest.json", add)


def _stamp_path(name: str, step: str, scale: str) -> pathlib.Path:
    return ROOT / "raw" / "stamps" / f"{scale}-{name}-{step}"


def _outputs(files: Sequence[pathlib.Path]) -> str:
    return storage.digest(*map(storage.read, files))


def _done(name: str, step: str, scale: str, stamp: str, files: Sequence[pathlib.Path]) -> bool:
    path = _stamp_path(name, step, scale)
    return all(map(storage.is_sound, (path, *files))) and storage.read(path).decode() == stamp + _outputs(
        files
    )


def _stamp(name: str, step: str, scale: str, stamp: str, files: Sequence[pathlib.Path]) -> None:
    storage.write(_stamp_path(name, step, scale), (stamp + _outputs(files)).encode())
