"""A run's folder: the resolved configuration, the learning curve, and checkpoints.

    config.json      every field of the preset, versions, device
    curve.csv        one row an evaluation and number of inner steps
    checkpoints/     the last two states, by Orbax

A checkpoint is written whole or not at all; rows of the curve beyond the last one are dropped on resuming.
"""

import dataclasses
import json
import pathlib
from types import TracebackType

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd

from jaxmaml import storage
from jaxmaml.training.presets import ROOT, Preset, digest_of
from jaxmaml.training.problem import State

KEPT = 2
CURVE = ("step", "inner_steps", "seconds", "gradients", "loss", "value", "low", "high", "n")


def folder(preset: Preset) -> pathlib.Path:
    """results/training/<preset>-<hash>: another configuration is another run."""
    if preset.out is not None:
        return pathlib.Path(preset.out)
    key = json.dumps(digest_of(preset), sort_keys=True)
    return ROOT / f"{preset.name}-{storage.digest(key)[:8]}"


class Store:
    """The folder of one run, open for writing."""

    def __init__(self, where: pathlib.Path, preset: Preset) -> None:
        self.where = where
        self._check(preset)
        where.mkdir(parents=True, exist_ok=True)
        configuration = {"preset": dataclasses.asdict(preset), **storage.environment()}
        text = json.dumps(configuration, indent=1) + "\n"
        storage.write(where / "config.json", text.encode())
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
        self.manager = ocp.CheckpointManager((where / "checkpoints").absolute(), options=options)

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.manager.close()

    def _check(self, preset: Preset) -> None:
        """The folder may hold a run of the same configuration only."""
        path = self.where / "config.json"
        if not path.exists():
            return
        try:
            stored = json.loads(path.read_text())["preset"]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); move the folder away to start anew") from error
        stored = _flat(stored)
        wanted = _flat(json.loads(json.dumps(digest_of(preset))))
        for name, value in wanted.items():
            if stored.get(name) != value:
                raise ValueError(
                    f"{self.where} holds a run with {name} = {stored.get(name)!r}, not {value!r}; "
                    "allowed: the same configuration (more steps are), or another folder (--out)"
                )

    def resume(self, start: State) -> tuple[State, pd.DataFrame]:
        """The last state and the curve up to it; `start` and an empty curve where there is none."""
        step = self.manager.latest_step()
        if step is None:
            return start, pd.DataFrame(columns=list(CURVE))
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, start)
        state = self.manager.restore(step, args=ocp.args.StandardRestore(like))
        curve = pd.read_csv(self.where / "curve.csv")
        return state, curve[curve.step <= step].reset_index(drop=True)

    def save(self, state: State, curve: pd.DataFrame) -> None:
        """The curve first: a kill between the two leaves rows that resuming drops."""
        storage.write_table(self.where / "curve.csv", curve)
        self.manager.save(int(np.asarray(state.step)), args=ocp.args.StandardSave(state))
        self.manager.wait_until_finished()


def read(where: pathlib.Path) -> tuple[dict, pd.DataFrame]:
    """(the configuration, the curve) of a run."""
    for name in ("config.json", "curve.csv"):
        if not (where / name).exists():
            raise FileNotFoundError(f"{where / name} is missing; make it with: jaxmaml train")
    return json.loads((where / "config.json").read_text()), pd.read_csv(where / "curve.csv")


def _flat(tree: dict, prefix: str = "") -> dict:
    found: dict = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
