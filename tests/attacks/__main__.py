"""Runs the attacks that are named, or all; renews their lines of results/attacks.csv and the page's table."""

import settings  # isort: skip; before NumPy starts

import pathlib
import sys
import tempfile

import pandas as pd

from jaxmaml import storage


def main() -> int:
    settings.configure()  # before modules that make arrays
    from attacks import ledger

    table = {}
    if ledger.TABLE.exists():
        table = {
            row.attack: (row.tried, row.failures) for row in storage.read_table(ledger.TABLE).itertuples()
        }
    failed = False
    for name in sys.argv[1:] or ledger.ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            tried, failures = ledger.run(name, pathlib.Path(folder) / "attack")
        print(f"{name}: tried {tried}, failures {len(failures)}", *failures[:5], sep="\n  ", flush=True)
        table[name] = (tried, len(failures))
        failed |= bool(failures)
        rows = [[each, *table[each]] for each in ledger.ATTACKS if each in table]
        found = pd.DataFrame(rows, columns=["attack", "tried", "failures"])
        storage.write_table(ledger.TABLE, found)
        before, _, after = ledger.parts(ledger.PAGE.read_text())
        ledger.PAGE.write_text(before + ledger.lines(found) + after)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
