"""The evaluations of a run as JSON Lines, for programs that follow it: a whole line each, none twice."""

import json
import math
import os
import pathlib
from collections.abc import Callable

import pandas as pd


def stream(path: pathlib.Path, run: str, unit: str) -> Callable[[pd.DataFrame], None]:
    """A function that adds to the file the evaluations of a curve that it does not have.

    {"run": ..., "step": ..., "seconds": ..., "gradients": ..., "measure": "accuracy",
     "inner_steps": {"5": {"loss": ..., "value": ..., "low": ..., "high": ..., "n": ...}}}

    with null for what is not finite. Several runs may share a file; `run` tells them apart. What a kill left
    of a line goes.
    """
    known = _known(path, run)

    def add(curve: pd.DataFrame) -> None:
        for step, rows in curve[~curve.step.isin(known)].groupby("step"):
            _append(path, json.dumps(_line(run, unit, rows), allow_nan=False) + "\n")
            known.add(step)

    return add


def _known(path: pathlib.Path, run: str) -> set[int]:
    """The steps of this run in the file, which is made if there is none."""
    with path.open("a+b") as file:
        file.seek(0)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)
    found = set()
    for number, text in enumerate(data[:whole].decode(errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
            found |= {line["step"]} if line["run"] == run else set()
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"metrics = {str(path)!r}: line {number} is not one of ours; allowed: another file"
            ) from error
    return found


def _line(run: str, unit: str, rows: pd.DataFrame) -> dict:
    first = rows.iloc[0]
    of_each = {
        str(row.inner_steps): {
            "loss": _number(row.loss),
            "value": _number(row.value),
            "low": _number(row.low),
            "high": _number(row.high),
            "n": int(row.n),
        }
        for row in rows.itertuples()
    }
    return {
        "run": run,
        "step": int(first.step),
        "seconds": float(first.seconds),
        "gradients": float(first.gradients),
        "measure": unit,
        "inner_steps": of_each,
    }


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _append(path: pathlib.Path, text: str) -> None:
    """In one write, so that lines of several writers do not mix."""
    with path.open("ab", buffering=0) as file:
        file.write(text.encode())
        os.fsync(file.fileno())
