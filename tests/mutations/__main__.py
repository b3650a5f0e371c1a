"""Renews flipped.csv: runs the mutations that are not as recorded, and their claims as they are."""

import pathlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

import mutations

WORKERS = 2


def main() -> int:
    recorded = pd.read_csv(mutations.FLIPPED) if mutations.FLIPPED.exists() else pd.DataFrame()
    sums = {pair: mutations.sources(*pair) for pair in mutations.pairs()}
    kept = {
        (row.mutation, row.claim)
        for row in recorded.itertuples()
        if sums.get((row.mutation, row.claim)) == row.sources
    }
    pairs = [pair for pair in sums if pair not in kept]
    print(f"{len(sums)} mutations of claims, {len(pairs)} of them to run")
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(WORKERS) as pool:
        folder = pathlib.Path(name)
        concerned = sorted({claim for _, claim in pairs})
        sound: dict[str, str] = {}
        for verdicts in pool.map(lambda c: mutations.judge(None, folder / c, c), concerned):
            sound |= verdicts
        broken = pool.map(
            lambda i: mutations.judge(mutations.MUTATIONS[pairs[i][0]], folder / str(i), pairs[i][1]),
            range(len(pairs)),
        )
        rows = {pair: recorded[recorded.mutation.eq(pair[0]) & recorded.claim.eq(pair[1])] for pair in kept}
        for pair, verdicts in zip(pairs, broken, strict=True):
            turned = {
                part: verdict
                for part, verdict in verdicts.items()
                if part in sound and mutations.turned(sound[part], verdict)
            }
            print(f"{pair[0]}, {pair[1]}: {len(turned)} rows turn", flush=True)
            rows[pair] = pd.DataFrame(
                {
                    "mutation": pair[0],
                    "claim": pair[1],
                    "part": list(turned),
                    "verdict": list(turned.values()),
                    "sources": sums[pair],
                }
            )
    table = pd.concat([rows[pair] for pair in sums], ignore_index=True)
    table.to_csv(mutations.FLIPPED, index=False)
    print(table.groupby("mutation", sort=False).size().to_string())
    silent = [pair for pair in pairs if not len(rows[pair])]
    print(f"without a row that turns: {silent}")
    return bool(silent)


if __name__ == "__main__":
    sys.exit(main())
