"""All attacks, and the table of what they found."""

import inspect
import pathlib
import shutil
from collections.abc import Callable, Iterator

import pandas as pd

from attacks import calls, command_lines, files, readers, trainings
from attacks.tools import ROOT

Attack = Callable[[pathlib.Path], Iterator[str]]
TABLE = ROOT / "results" / "attacks.csv"
PAGE = ROOT / "docs" / "reliability.md"
FIRST, LAST = "<!-- attacks -->\n", "<!-- end of attacks -->"
"""around the table on the page."""

ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        files.flipped_chunks,
        files.flipped_tables,
        files.kills_inside_a_write,
        files.killed_sweeps,
        files.sweeps_at_once,
        files.writers_of_one_process_id,
        files.full_disk,
        files.ordinary_user,
        trainings.flipped_checkpoints,
        trainings.killed_trainings,
        trainings.trainings_at_once,
        trainings.every_preset,
        readers.damaged_idx_files,
        readers.damaged_zip_files,
        command_lines.bad_command_lines,
        calls.bad_calls,
    )
}


def run(name: str, folder: pathlib.Path) -> tuple[int, list[str]]:
    """(how often it was tried, what went wrong)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = list(ATTACKS[name](folder))
    return len(found), [text for text in found if text]


def lines(table: pd.DataFrame) -> str:
    """The table as the page has it."""
    rows = ["| what | tried | failures |", "|---|---:|---:|"]
    for row in table.itertuples():
        what = " ".join(str(inspect.getdoc(ATTACKS[row.attack])).split())
        rows.append(f"| {what} | {row.tried} | {row.failures} |")
    return "\n".join(rows) + "\n"


def parts(page: str) -> tuple[str, str, str]:
    """The page up to its table, the table, and what follows."""
    before, _, rest = page.partition(FIRST)
    table, _, after = rest.partition(LAST)
    return before + FIRST, table, LAST + after
