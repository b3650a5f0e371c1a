"""Runs the attacks that are named, or all; renews their lines of results/attacks.csv and the page's table."""

import settings  # isort: skip; before NumPy starts

import pathlib
import sys
import tempfile

import pandas as pd

import attacks
from jaxmaml import storage


def main() -> int:
    settings.configure()
    table = {}
    if attacks.TABLE.exists():
        table = {
            row.attack: (row.tried, row.failures) for row in storage.read_table(attacks.TABLE).itertuples()
        }
    failed = False
    for name in sys.argv[1:] or attacks.ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            tried, failures = attacks.run(name, pathlib.Path(folder) / "attack")
        print(f"{name}: tried {tried}, failures {len(failures)}", *failures[:5], sep="\n  ", flush=True)
        table[name] = (tried, len(failures))
        failed |= bool(failures)
        rows = [[each, *table[each]] for each in attacks.ATTACKS if each in table]
        found = pd.DataFrame(rows, columns=["attack", "tried", "failures"])
        storage.write_table(attacks.TABLE, found)
        before, _, after = attacks.parts(attacks.PAGE.read_text())
        attacks.PAGE.write_text(before + attacks.lines(found) + after)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
