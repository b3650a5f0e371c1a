"""Runs a claim at smoke scale with the sources in the working directory; prints its verdicts as JSON."""

import settings  # isort: skip; before NumPy starts

import json
import pathlib
import sys
import warnings

import pandas as pd

from experiments import claims, sweep
from jaxmaml import storage

settings.configure()

name = sys.argv[1]
module = claims.get(name)
with warnings.catch_warnings():
    # Broken code divides by zero and overflows.
    warnings.simplefilter("ignore", RuntimeWarning)
    try:
        rows, _ = sweep.sweep(module.grid("smoke"), pathlib.Path("raw"), quiet=True)
        path = pathlib.Path(f"{name}.csv")
        storage.write_table(path, module.measure(rows, "smoke"))
        verdicts = {row.part: row.verdict for row in module.judge(pd.read_csv(path))}
    except Exception as error:
        verdicts = {f"({name})": f"error: {type(error).__name__}: {error}"}
print(json.dumps(verdicts))
