"""Attacks on training runs: kills, damaged checkpoints, two of them in one folder."""

import dataclasses
import json
import pathlib
import random
import shutil
import sys
import time
import warnings
from collections.abc import Iterator

import chex
import jax
import numpy as np
import pandas as pd

from attacks import readers, tools
from jaxmaml import storage
from jaxmaml.data import fashion_mnist
from jaxmaml.training import loop, problem, store
from jaxmaml.training.presets import PRESETS, Preset

NEVER = 10**6
"""more steps than any attack waits for."""
LASTS = 6.0
"""seconds after its beginning at which a run is killed at the latest."""
EVERY = 10


# What is attacked


def small(name: str, where: pathlib.Path, steps: int, data: str | None) -> Preset:
    """A preset with few tasks, few episodes and a small network, evaluated often."""
    preset = PRESETS[name]
    groups = {
        "data": {"path": data},
        "model": {"hidden": (16,), "channels": 4},
        "outer": {"tasks": 2, "steps": steps},
        "evaluation": {"every": EVERY, "episodes": 4},
    }
    changed = {group: dataclasses.replace(getattr(preset, group), **new) for group, new in groups.items()}
    return dataclasses.replace(preset, out=str(where), **changed)


def train(name: str, where: pathlib.Path, steps: int, data: str | None = None) -> None:
    """One run, until its last step."""
    if name == "omniglot" and data is not None:
        readers.know(pathlib.Path(data))
    loop.train(small(name, where, steps, data), quiet=True)


def trains(name: str, where: str, steps: int, data: str | None = None) -> None:
    """A process that trains; who finds another one there says so, as the command line does."""
    try:
        train(name, pathlib.Path(where), steps, data)
    except storage.Held as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if where in str(error) else 3)


def reached(where: pathlib.Path) -> int:
    """The newest sealed step, -1 where there is none; read while others write, it sets nothing aside."""
    names = (where / "checkpoints").glob("*.json")
    return max((json.loads(path.read_bytes())["step"] for path in names), default=-1)


def curve(where: pathlib.Path) -> pd.DataFrame:
    """Without its clock."""
    return store.read(where).table().drop(columns="seconds")


def differs(where: pathlib.Path, whole: pathlib.Path) -> str:
    """What of a run is not bitwise that of another one: the last state, the curve."""
    try:
        chex.assert_trees_all_equal(store.load(where), store.load(whole))
        pd.testing.assert_frame_equal(curve(where), curve(whole), check_exact=True)
    except AssertionError as error:
        return f"{where} differs from a run left alone: {error}"[:300]
    return ""


def killed(name: str, where: pathlib.Path, moments: list[float], data: str | None = None) -> Iterator[str]:
    """Kills a run again and again: what was kept stays, and it then ends as one that was left alone.

    moments, in seconds, count from the next checkpoint and from the beginning, by turns.
    """
    before = -1
    arguments = (name, str(where), NEVER, data)
    for i, process in enumerate(tools.ahead("trainings.trains", [arguments] * len(moments))):
        while i % 2 == 0 and reached(where) <= max(before, 0) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments[i])
        if not tools.kill(process):
            yield f"{where}: ended by itself, exit status {process.returncode}"
            return
        now = reached(where)
        if i + 1 < len(moments):
            yield "" if now >= before else f"{where} was at step {before}, and is at {now}"
        before = now
    steps = max(before, 0) + EVERY
    train(name, where, steps, data)
    train(name, where.with_name(f"{where.name}-whole"), steps, data)
    yield differs(where, where.with_name(f"{where.name}-whole"))


# Attacks


def flipped_checkpoints(folder: pathlib.Path) -> Iterator[str]:
    """A file of a training run is damaged: the newest sound checkpoint is taken, bitwise, and it is said."""
    whole, where = folder / "whole", folder / "run"
    preset, code = small("digits", where, 3 * EVERY, None), loop.code_identity()
    train("digits", whole, 3 * EVERY)
    like = jax.tree.map(np.asarray, problem.start(preset, problem.build(preset).params))
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    names = [name for name in names if (whole / name).stat().st_size]
    right = {}
    for path in (whole / "checkpoints").iterdir():
        if path.name.isdecimal():
            right[int(path.name)] = store._restore(path.absolute(), like)
    draw = random.Random(0)
    for trial in range(400):
        shutil.copytree(whole, where)
        name = names[trial % len(names)]
        (where / name).write_bytes(tools.flipped((whole / name).read_bytes(), draw))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with store.opened(where, store.of_preset(preset), code) as kept:
                state, found = kept.resume(like)
        wrong = ""
        try:
            chex.assert_trees_all_equal(state, right[int(state.step)])
        except AssertionError as error:
            wrong = f"{name}: another state of step {state.step}: {error}"[:300]
        if found.step.max() != state.step:
            wrong = f"{name}: the curve ends at {found.step.max()}, the state is that of {state.step}"
        fell_back = state.step != max(right)
        if fell_back and not any("set aside" in str(each.message) for each in said):
            wrong = f"{name}: an older checkpoint is taken, and nothing said"
        yield wrong
        shutil.rmtree(where)


def killed_trainings(folder: pathlib.Path) -> Iterator[str]:
    """A training run that was killed at any time, again and again, ends bitwise as one left alone."""
    draw = random.Random(0)
    for trial in range(3):
        moments = [draw.uniform(0.0, 1.0 if i % 2 == 0 else LASTS) for i in range(7)]
        yield from killed("digits", folder / str(trial), moments)


def trainings_at_once(folder: pathlib.Path) -> Iterator[str]:
    """Two training runs begin in one folder: one is told who has it, the other ends as if it were alone."""
    steps = 20 * EVERY
    train("digits", folder / "whole", steps)
    for trial in range(8):
        where = folder / str(trial)
        both = tools.together("trainings.trains", [("digits", str(where), steps)] * 2)
        wrong = [text for text in (tools.ended(process, (0, 2)) for process in both) if text]
        if sorted(process.returncode for process in both) != [0, 2]:
            wrong.append(f"exit statuses {[process.returncode for process in both]}")
        yield "; ".join([*wrong, differs(where, folder / "whole")]).strip("; ")


def every_preset(folder: pathlib.Path) -> Iterator[str]:
    """Every preset, made small, is killed and goes on: bitwise as if left alone (Fashion-MNIST where it is
    installed; Omniglot on drawings of random ink)."""
    characters = str(readers.omniglot_folder(folder / "characters"))
    for name in PRESETS:
        data = characters if name == "omniglot" else None
        if name == "fashion_mnist" and not has_fashion_mnist():
            continue
        yield from killed(name, folder / name, [0.1], data)


def has_fashion_mnist() -> bool:
    try:
        fashion_mnist.classes()
    except FileNotFoundError:
        return False
    return True
