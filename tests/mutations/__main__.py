"""Renews flipped.csv: runs every mutation, and the claims as they are. Takes some ten minutes."""

import pathlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

import mutations
from experiments import claims, power

WORKERS = 2


def main() -> int:
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(WORKERS) as pool:
        folder = pathlib.Path(name)
        sound: dict[str, str] = {}
        for verdicts in pool.map(lambda c: mutations.judge(None, folder / c, c), claims.names()):
            sound |= verdicts
        pairs = mutations.pairs()
        broken = pool.map(
            lambda i: mutations.judge(mutations.MUTATIONS[pairs[i][0]], folder / str(i), pairs[i][1]),
            range(len(pairs)),
        )
        rows = [
            {
                "mutation": name,
                "claim": claim,
                "part": part,
                "verdict": verdict,
                "sources": mutations.sources(name, claim),
            }
            for (name, claim), verdicts in zip(pairs, broken, strict=True)
            for part, verdict in verdicts.items()
            if part in sound and mutations.turned(sound[part], verdict)
        ]
    table = pd.DataFrame(rows)
    table.to_csv(mutations.FLIPPED, index=False)
    print(table.groupby("mutation", sort=False).size().to_string())
    tested = {part for part, verdict in sound.items() if verdict != "not tested"}
    methods = pd.read_csv(power.TABLE)
    known = {*table.part, *methods.part[methods.outcome.isin(["turned", "holds"])]}
    missing = sorted(tested - known)
    print(f"{len(sound)} rows, {len(missing)} of them of unknown power: {missing}")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
