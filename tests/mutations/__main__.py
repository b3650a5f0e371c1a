"""Renews flipped.csv: runs every mutation, and the claims as they are. Takes some minutes."""

import pathlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

import mutations
from experiments import claims

WORKERS = 2


def main() -> int:
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(WORKERS) as pool:
        folder = pathlib.Path(name)
        sound: dict[str, str] = {}
        jobs = pool.map(
            lambda claim: mutations.judge(None, folder / claim, (claim,)), claims.claims(), chunksize=1
        )
        for verdicts in jobs:
            sound |= verdicts
        broken = pool.map(
            lambda item: mutations.judge(item[1], folder / item[0].replace("/", "-"), item[1].claims),
            mutations.MUTATIONS.items(),
        )
        rows = [
            {"mutation": mutation, "part": part, "verdict": verdict}
            for mutation, verdicts in zip(mutations.MUTATIONS, broken, strict=True)
            for part, verdict in verdicts.items()
            if part in sound and mutations.turned(sound[part], verdict)
        ]
    table = pd.DataFrame(rows)
    table.to_csv(mutations.FLIPPED, index=False)
    print(table.groupby("mutation", sort=False).size().to_string())
    tested = {part for part, verdict in sound.items() if verdict != "not tested"}
    missing = sorted(tested - set(table.part))
    print(f"{len(sound)} rows, {len(missing)} of them turned by no mutation: {missing}")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
