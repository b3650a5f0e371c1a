"""A run's folder: checkpoints that carry all that a run is, and files for readers that nothing reads back.

    checkpoints/<step>/      a state, by Orbax
    checkpoints/<sum>.json   its seal, written last: the sums of its files, and what made it
    config.json, curve.csv   made from the last seal

Only what a sound seal names is a checkpoint. One that is damaged is set aside, and the sound one before it is
taken; what a kill left half written is no checkpoint, and is written again.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd

from jaxmaml import identity, storage
from jaxmaml.training.outer import State
from jaxmaml.training.presets import ROOT, Preset, digest_of

KEPT = 2
"""checkpoints, and the best one."""
CURVE = ("step", "inner_steps", "seconds", "gradients", "loss", "value", "low", "high", "n")
SHOWN = 3
"""differences that a message names."""


def folder(preset: Preset) -> pathlib.Path:
    """results/training/<preset>-<hash>: another configuration is another run."""
    if preset.out is not None:
        return pathlib.Path(preset.out)
    key = json.dumps(digest_of(preset), sort_keys=True)
    return ROOT / f"{preset.name}-{storage.digest(key)[:8]}"


@dataclass(frozen=True)
class Record:
    """What a folder is the run of."""

    kind: str
    """"preset", or "fit"."""
    name: str
    configuration: Mapping[str, Any]
    identity: Mapping[str, Any]
    """the part of the configuration that no other run has."""
    steps: int
    chosen: int
    """the inner steps of the measure that chooses the best."""
    accept_changes: bool
    says: Mapping[str, str]
    """how its user names what messages speak of: folder, steps, accept."""


def of_preset(preset: Preset) -> Record:
    return Record(
        "preset",
        preset.name,
        dataclasses.asdict(preset),
        digest_of(preset),
        preset.outer.steps,
        preset.evaluation.steps[0],
        preset.accept_changes,
        {"folder": "--out", "steps": "outer.steps", "accept": "--accept-changes"},
    )


@dataclass(frozen=True)
class Seal:
    """What a checkpoint is, and where it came from."""

    step: int
    files: Mapping[str, str]
    """the sum of each file of its folder."""
    kind: str
    configuration: Mapping[str, Any]
    """those of its `Record`."""
    code: Mapping[str, str]
    """the sum of each definition that the numbers depend on."""
    environment: Mapping[str, Any]
    run: str
    """a name that no other run has."""
    best: int
    """the step of the best checkpoint until then."""
    accepted: list[dict[str, Any]] = field(default_factory=list)
    """the steps at which another code or version went on, and what differed."""
    curve: list[dict[str, Any]] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """The learning curve up to it."""
        return pd.DataFrame(self.curve, columns=list(CURVE))


class Store:
    """The folder of one run, open for writing; `opened` makes it."""

    def __init__(self, where: pathlib.Path, record: Record, code: Mapping[str, str], ascending: bool) -> None:
        self.where, self.record, self.code = where, record, code
        self.ascending = ascending
        self.seals = {seal.step: (path, seal) for path, seal in _seals(where)}
        if self.seals:
            _check_configuration(where, record, self._newest())
        self.last = self._sound()
        self.run = self.last.run if self.last else f"{record.name}-{uuid.uuid4().hex[:16]}"
        self.accepted = list(self.last.accepted) if self.last else []
        if self.last:
            if record.steps < self.last.step:
                steps = f"{record.says['steps']} = {record.steps}"
                raise ValueError(f"{steps}; allowed: >= {self.last.step}, where {where} stands")
            self._check_code(self.last)
            self._show(self.last)

    def resume(self, start: State) -> tuple[State, pd.DataFrame]:
        """The last state, in NumPy, and the curve up to it; where there is none, `start` and no curve."""
        like = jax.tree.map(np.asarray, start)
        if self.last is None:
            return like, pd.DataFrame(columns=list(CURVE))
        return _restore(_checkpoint(self.where, self.last.step), like), self.last.table()

    def save(self, state: State, curve: pd.DataFrame) -> None:
        """A checkpoint of the state; then what is drawn from it; then those before the last ones go.

        Only now may older ones go: a kill at any point leaves a sound checkpoint.
        """
        state = jax.tree.map(np.asarray, state)
        step = int(state.step)
        where = _checkpoint(self.where, step)
        with _orbax() as checkpointer:
            checkpointer.save(where, state, force=True)  # over what a kill left without a seal
        self.last = Seal(
            step,
            _sums(where),
            self.record.kind,
            self.record.configuration,
            self.code,
            storage.environment(),
            self.run,
            best_step(
                curve[curve.step.isin([*self.seals, step])],
                self.record.chosen,
                self.ascending,
            ),
            self.accepted,
            curve.to_dict("records"),
        )
        data = json.dumps(dataclasses.asdict(self.last), indent=1).encode()
        self.seals[step] = storage.add(where.parent, data, ".json"), self.last
        self._show(self.last)
        self._prune()

    def _newest(self) -> Seal:
        return self.seals[max(self.seals)][1]

    def _sound(self) -> Seal | None:
        """The newest checkpoint whose files are what was written; those that are not are set aside."""
        for step in sorted(self.seals, reverse=True):
            path, seal = self.seals[step]
            where = _checkpoint(self.where, step)
            damage = _damage(where, seal.files)
            if damage is None:
                return seal
            del self.seals[step]
            if where.exists():
                storage.set_aside(where)
            storage.set_aside(path)
            warnings.warn(f"{where}: {damage}; set aside, and the one before it is taken", stacklevel=2)
        left = _remains(self.where)
        if left:
            raise storage.Damaged(
                f"{self.where} has no sound checkpoint (there is {left}); allowed: another folder "
                f"({self.record.says['folder']}), or move this one away to start anew"
            )
        return None

    def _check_code(self, seal: Seal) -> None:
        """The checkpoint goes on with the code and the packages that made it, or its user says so."""
        old = _identity(seal.code, seal.environment)
        new = _identity(self.code, storage.environment())
        differs = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        if not differs:
            return
        text = _listed([_difference(name, old.get(name), new.get(name)) for name in differs])
        says = self.record.says
        if not self.record.accept_changes:
            raise ValueError(
                f"{self.where} holds a run of another code: {text}; allowed: another folder "
                f"({says['folder']}), or {says['accept']} to go on with this one"
            )
        self.accepted.append({"step": seal.step, "differs": differs})
        warnings.warn(f"{self.where} goes on from step {seal.step} with another code: {text}", stacklevel=2)

    def _show(self, seal: Seal) -> None:
        shown = {seal.kind: seal.configuration, **seal.environment}
        shown |= {"run": seal.run, "accepted": seal.accepted}
        storage.write_json(self.where / "config.json", shown)
        storage.write_table(self.where / "curve.csv", seal.table())

    def _prune(self) -> None:
        """Keeps the last checkpoints and the best one; the seal goes first."""
        assert self.last is not None
        kept = {*sorted(self.seals)[-KEPT:], self.last.best}
        for step in {*self.seals} - kept:
            self.seals.pop(step)[0].unlink()
        killed = (self.where / "checkpoints").glob("*.orbax-checkpoint-tmp*")
        older = (p for p in _checkpoints(self.where) if int(p.name) < self.last.step)
        for path in (*killed, *(p for p in older if int(p.name) not in kept)):
            shutil.rmtree(path)


@contextlib.contextmanager
def opened(
    where: pathlib.Path, record: Record, code: Mapping[str, str], ascending: bool = True
) -> Iterator[Store]:
    """The folder of a run, this process's alone until the block ends.

    Args:
      code: the sums of the definitions that the numbers depend on.
      ascending: whether a larger measure is better.

    Raises:
      storage.Held: another process trains in it. ValueError: it holds another configuration, or a run of
        another code. storage.Damaged: it holds checkpoints, none of which is sound.
    """
    with storage.exclusive(where):
        yield Store(where, record, code, ascending)


def best_step(curve: pd.DataFrame, inner_steps: int, ascending: bool) -> int:
    """The step of the first evaluation with the best measure after `inner_steps`; nan is worst."""
    rows = curve[curve.inner_steps == inner_steps]
    worth = rows.value.to_numpy(float) * (1 if ascending else -1)
    return int(rows.step.iloc[int(np.argmax(np.where(np.isnan(worth), -np.inf, worth)))])


def read(where: pathlib.Path) -> Seal:
    """The seal of a run's newest checkpoint: its configuration, its curve.

    Raises:
      FileNotFoundError: there is none.
    """
    seals = [seal for _, seal in _seals(where)]
    if not seals:
        raise FileNotFoundError(f"{where} holds no run; make it with: jaxmaml train")
    return max(seals, key=lambda seal: seal.step)


def load(where: pathlib.Path, *, best: bool = False) -> dict[str, Any]:
    """The state of a run's last checkpoint, or of its best one, as dicts of NumPy arrays.

    Raises:
      FileNotFoundError: there is none. storage.Damaged: it is not what was written.
    """
    return sealed(where, best=best)[1]


def sealed(where: pathlib.Path, *, best: bool = False) -> tuple[Seal, dict[str, Any]]:
    """The seal of that checkpoint, and its state."""
    newest = read(where)
    wanted = newest.best if best else newest.step
    found = [seal for _, seal in _seals(where) if seal.step == wanted]
    if not found:
        raise storage.Damaged(f"{where}: the checkpoint of step {wanted} has no sound seal")
    path = _checkpoint(where, wanted)
    if damage := _damage(path, found[0].files):
        raise storage.Damaged(f"{path}: {damage}; allowed: the same command goes on from the one before it")
    return found[0], _restore(path)


# Checkpoints


def _checkpoint(where: pathlib.Path, step: int) -> pathlib.Path:
    return (where / "checkpoints" / str(step)).absolute()


def _checkpoints(where: pathlib.Path) -> list[pathlib.Path]:
    """What Orbax finished, sealed or not; folders of others are none."""
    found = (where / "checkpoints").glob("*/_CHECKPOINT_METADATA")
    return [path.parent for path in found if path.parent.name.isdecimal()]


def _seals(where: pathlib.Path) -> Iterator[tuple[pathlib.Path, Seal]]:
    names = {each.name for each in dataclasses.fields(Seal)}
    for path, data in storage.sound(where / "checkpoints", ".json"):
        seal = json.loads(data)
        if {*seal} != names:
            raise ValueError(
                f"{path} is of another version of jaxmaml; allowed: that version, or another folder"
            )
        yield path, Seal(**seal)


def _remains(where: pathlib.Path) -> str:
    """What shows that there were checkpoints; that of step 0 may have been killed before its seal."""
    damaged = (where / "checkpoints").glob("*.damaged")
    unsealed = [path for path in _checkpoints(where) if path.name != "0"]
    return _listed(sorted(path.name for path in (*damaged, *unsealed)))


def _sums(where: pathlib.Path) -> dict[str, str]:
    """The sum of every file of a folder."""
    found = {}
    for path in sorted(where.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(where).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _damage(where: pathlib.Path, files: Mapping[str, str]) -> str | None:
    """What is not as it was written."""
    found = _sums(where)
    for name in sorted({*files, *found}):
        if found.get(name) != files.get(name):
            how = "is missing" if name not in found else "was added" if name not in files else "was changed"
            return f"{name} {how} since it was written"
    return None


def _orbax() -> ocp.StandardCheckpointer:
    """One process writes and reads, however many train."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix="store",
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _restore(path: pathlib.Path, like: Any = None) -> Any:
    with _orbax() as checkpointer:
        return checkpointer.restore(path, like)


# Identity


def _check_configuration(where: pathlib.Path, record: Record, seal: Seal) -> None:
    """The folder may hold a run of the same configuration only."""
    allowed = f"allowed: the same configuration (more steps are), or another folder ({record.says['folder']})"
    if seal.kind != record.kind:
        raise ValueError(f"{where} holds a run of a {seal.kind}, not of a {record.kind}; {allowed}")
    stored = _flat(seal.configuration)
    for name, value in _flat(json.loads(json.dumps(record.identity))).items():
        if stored.get(name) != value:
            raise ValueError(
                f"{where} holds a run with {name} = {stored.get(name)!r}, not {value!r}; {allowed}"
            )


def _identity(code: Mapping[str, str], environment: Mapping[str, Any]) -> dict[str, str]:
    return {**code, **{name: environment["versions"].get(name) for name in identity.PACKAGES}}


def _difference(name: str, old: str | None, new: str | None) -> str:
    if name in identity.PACKAGES:
        return f"{name} {old}, now {new}"
    return f"{name} {'is new' if old is None else 'is gone' if new is None else 'changed'}"


def _listed(texts: list[str]) -> str:
    more = len(texts) - SHOWN
    return ", ".join(texts[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
