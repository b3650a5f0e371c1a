"""Runs the attacks that are named, or all; renews their lines of results/attacks.csv."""

import settings  # isort: skip; before NumPy starts

import pathlib
import sys
import tempfile

import pandas as pd

import attacks
from jaxmaml import storage

TABLE = pathlib.Path("results") / "attacks.csv"


def main() -> int:
    settings.configure()
    kept = storage.read_table(TABLE).set_index("attack").tried if TABLE.exists() else pd.Series(dtype=int)
    table = {name: (int(tried), 0) for name, tried in kept.items()}
    failed = False
    for name in sys.argv[1:] or attacks.ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            tried, failures = attacks.run(name, pathlib.Path(folder) / "attack")
        print(f"{name}: tried {tried}, failures {len(failures)}", *failures[:5], sep="\n  ", flush=True)
        table[name] = (tried, len(failures))
        failed |= bool(failures)
        rows = [[each, *table[each]] for each in attacks.ATTACKS if each in table]
        storage.write_table(TABLE, pd.DataFrame(rows, columns=["attack", "tried", "failures"]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
