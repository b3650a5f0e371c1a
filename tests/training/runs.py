"""Small training runs, and how two of them are compared."""

import dataclasses
import pathlib
import sys

import chex
import pandas as pd

from jaxmaml.training import store
from jaxmaml.training.presets import PRESETS

REPOSITORY = pathlib.Path(__file__).parents[2]


def changed(preset, **groups):
    """A preset with fields replaced: outer={"steps": 3}, seed=1."""
    new = {
        name: dataclasses.replace(getattr(preset, name), **value) if isinstance(value, dict) else value
        for name, value in groups.items()
    }
    return dataclasses.replace(preset, **new)


def small(out, steps=30, **groups):
    """Digits in a second: few episodes, an evaluation every ten steps."""
    base = changed(
        PRESETS["digits"],
        model={"hidden": (16,)},
        inner={"alpha": 0.2, "steps": 1},
        outer={"steps": steps, "tasks": 4},
        evaluation={"every": 10, "episodes": 8, "steps": (1, 3)},
        out=str(out),
    )
    for name, value in groups.items():
        base = changed(base, **{name: value})
    return base


def final(where):
    """The last checkpoint as plain arrays, and the curve without its clock."""
    return store.load(where), store.read(where).table().drop(columns="seconds")


def assert_same_run(first, second):
    """Bitwise, every leaf: parameters, optimiser, key, step; and the curve."""
    (state, curve), (other, other_curve) = final(first), final(second)
    chex.assert_trees_all_equal(state, other)
    pd.testing.assert_frame_equal(curve, other_curve, check_exact=True)


def command(out, steps):
    options = ["--outer.steps", str(steps), "--outer.tasks", "4", "--model.hidden", "16"]
    options += ["--evaluation.every", "10", "--evaluation.episodes", "8", "--out", str(out)]
    return [sys.executable, "-m", "experiments", "train", "digits", *options]
