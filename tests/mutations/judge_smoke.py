"""Runs a claim at smoke scale with the sources in the working directory; prints its verdicts as JSON."""

import settings  # isort: skip; before NumPy starts

import json
import pathlib
import sys
import warnings

import pandas as pd

from experiments import claims, power, sweep
from jaxmaml import storage

settings.configure()

name = sys.argv[1]
claim = claims.get(name)
with warnings.catch_warnings():
    # Broken code divides by zero and overflows.
    warnings.simplefilter("ignore", RuntimeWarning)
    try:
        labelled = claim.grid("smoke")
        rows, _ = sweep.sweep(labelled, pathlib.Path("raw"), quiet=True)
        path = pathlib.Path(f"{name}.csv")
        storage.write_table(path, claim.measure(rows, labelled))
        judged = claim.judge(pd.read_csv(path))
        verdicts = {row.part: "void" if power.diverged(row) else row.verdict for row in judged}
    except Exception as error:
        verdicts = {f"({name})": f"error: {type(error).__name__}: {error}"}
print(json.dumps(verdicts))
