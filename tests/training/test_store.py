"""A run's folder: what is damaged is named and never read, another run is refused, nothing is lost."""

import json
import pathlib
import random
import shutil
import subprocess
import sys
import time
import warnings

import chex
import jax
import numpy as np
import pandas as pd
import pytest
from runs import REPOSITORY, command, small

from jaxmaml import storage
from jaxmaml.training import loop, metrics, problem, store


def train(where, steps=30, **groups):
    return loop.train(small(where, steps, **groups), quiet=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 30 steps, evaluated every 10."""
    where = tmp_path_factory.mktemp("run") / "finished"
    assert train(where) == 0
    return where


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


def contents(where):
    """Every file, but for the locks."""
    files = (p for p in where.rglob("*") if p.is_file() and ".lock" not in p.name)
    return {str(p.relative_to(where)): p.read_bytes() for p in files}


def checkpoint(where, step):
    return where / "checkpoints" / str(step)


def seal(where, step):
    return next(p for p, found in store._seals(where) if found.step == step)


def without_clock(where):
    return store.read(where).table().drop(columns="seconds")


def assert_same(where, whole):
    """Bitwise, states and curves."""
    chex.assert_trees_all_equal(store.load(where), store.load(whole))
    pd.testing.assert_frame_equal(without_clock(where), without_clock(whole), check_exact=True)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


class TestDamage:
    def test_flipped_bits(self, finished, tmp_path):
        """Whatever bit of a run's folder changes: it is named, or the state is bitwise the right one."""
        where = tmp_path / "run"
        preset, code = small(where, 30), loop.code_identity()
        like = jax.tree.map(np.asarray, problem.start(preset, problem.build(preset).params))
        steps = {int(p.name) for p in (finished / "checkpoints").iterdir() if p.name.isdecimal()}
        right = {step: store._restore(checkpoint(finished, step).absolute(), like) for step in steps}
        files = sorted(p.relative_to(finished) for p in finished.rglob("*") if p.is_file())
        files = [name for name in files if (finished / name).stat().st_size]
        draw, fell_back = random.Random(0), 0
        for _ in range(60):
            shutil.copytree(finished, where)
            name = draw.choice(files)
            flip(where / name, draw.randrange(8 * (where / name).stat().st_size))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                with store.opened(where, store.of_preset(preset), code) as kept:
                    state, curve = kept.resume(like)
            chex.assert_trees_all_equal(state, right[int(state.step)])
            assert curve.step.max() == state.step
            if state.step != 30:
                assert any("set aside" in str(each.message) for each in said), name
                fell_back += 1
            shutil.rmtree(where)
        assert 10 < fell_back < 60

    @pytest.mark.parametrize("damage", ["changed", "cut", "missing", "added", "folder", "seal"])
    def test_the_one_before_it_is_taken(self, run, finished, damage):
        newest = checkpoint(run, 30)
        if damage == "changed":
            flip(largest(newest), 8000)
        elif damage == "cut":
            largest(newest).write_bytes(b"")
        elif damage == "missing":
            largest(newest).unlink()
        elif damage == "added":
            (newest / "d" / "more").write_bytes(b"")
        elif damage == "folder":
            shutil.rmtree(newest)
        else:
            flip(seal(run, 30), 4000)
        with pytest.warns(match=r"since it was written; set aside") as said:
            assert train(run) == 0
        assert len(said) == 1
        assert_same(run, finished)
        if damage == "changed":
            assert checkpoint(run, "30.damaged").is_dir()

    def test_none_is_sound(self, run):
        for path in (run / "checkpoints").glob("*.json"):
            flip(path, 4000)
        with (
            pytest.warns(match="set aside"),
            pytest.raises(
                storage.Damaged, match=r"has no sound checkpoint .*; allowed: another folder \(--out\)"
            ),
        ):
            train(run)
        with pytest.raises(storage.Damaged, match="has no sound checkpoint"):  # nor the next time
            train(run)

    def test_checkpoints_without_seals(self, run):
        """Those of an earlier version: not taken, and not passed over in silence."""
        for path in (run / "checkpoints").glob("*.json"):
            path.unlink()
        with pytest.raises(storage.Damaged, match=r"has no sound checkpoint \(there is 10, 20, 30\)"):
            train(run)

    @pytest.mark.parametrize("there_is_a_run", [False, True])
    def test_stray_folder(self, run, finished, tmp_path, there_is_a_run):
        where = run if there_is_a_run else tmp_path / "new"
        checkpoint(where, 99999).mkdir(parents=True)
        assert train(where) == 0
        assert_same(where, finished)
        assert checkpoint(where, 99999).exists()

    @pytest.mark.parametrize("name", ["config.json", "curve.csv", "SHA256SUMS"])
    @pytest.mark.parametrize("how", ["deleted", "edited"])
    def test_outputs_are_rebuilt(self, run, finished, name, how):
        expected = {each: (run / each).read_bytes() for each in ("config.json", "curve.csv")}
        if how == "deleted":
            (run / name).unlink()
        else:
            (run / name).write_text('{"preset": {"inner": {"alpha": 7}}}')
        assert train(run) == 0
        assert {each: (run / each).read_bytes() for each in expected} == expected
        assert_same(run, finished)


class TestRefused:
    """What is refused writes nothing."""

    def refused(self, where, error, says, **groups):
        before = contents(where)
        with pytest.raises(error, match=says):
            train(where, **groups)
        assert contents(where) == before

    def test_another_configuration(self, run):
        says = r"holds a run with inner.alpha = 0.2, not 0.25; allowed: the same configuration"
        self.refused(run, ValueError, says, inner={"alpha": 0.25})

    @pytest.mark.parametrize("name", ["config.json", "curve.csv"])
    def test_another_configuration_without_outputs(self, run, name):
        (run / name).unlink()
        self.refused(run, ValueError, "holds a run with inner.alpha = 0.2", inner={"alpha": 0.25})

    def test_fewer_steps(self, run):
        self.refused(run, ValueError, r"outer.steps = 5; allowed: >= 30, where", steps=5)

    def test_another_code(self, run, monkeypatch):
        code = loop.code_identity()
        more = dict.fromkeys(sorted(code)[:4], "other")
        monkeypatch.setattr(loop, "code_identity", lambda: code | more)
        first = sorted(code)[0]
        says = f"holds a run of another code: {first} changed, .* and 1 more; allowed: .* or --accept-changes"
        self.refused(run, ValueError, says)

    def test_another_version(self, run, monkeypatch):
        self.other_jax(monkeypatch)
        now = storage.environment()["versions"]["jax"]
        assert now == "0.1.2"
        says = r"holds a run of another code: jax [\d.]+, now 0.1.2; allowed"
        self.refused(run, ValueError, says)

    def test_accepted(self, run, monkeypatch):
        """It goes on, and says so in all checkpoints from then on."""
        self.other_jax(monkeypatch)
        with pytest.warns(match="goes on from step 30 with another code: jax"):
            assert train(run, 40, accept_changes=True) == 0
        accepted = [{"step": 30, "differs": ["jax"]}]
        assert store.read(run).accepted == accepted
        assert json.loads((run / "config.json").read_text())["accepted"] == accepted
        assert train(run, 50) == 0
        assert store.read(run).accepted == accepted

    def other_jax(self, monkeypatch):
        there = storage.environment()
        other = there | {"versions": there["versions"] | {"jax": "0.1.2"}}
        monkeypatch.setattr(storage, "environment", lambda: other)

    def test_second_training(self, tmp_path):
        """The second one in a folder is told who holds it."""
        where = tmp_path / "run"
        with storage.exclusive(where):
            before = contents(where)
            line = command(where, 10)
            done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
            assert done.returncode == 2
            assert "is in use by process" in done.stderr
            assert len(done.stderr.splitlines()) == 1
            assert contents(where) == before

    def test_folder_that_cannot_be_written(self, tmp_path, monkeypatch):
        """Said before anything is compiled."""
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(loop, "_run", None)
        for where in (tmp_path / "file", tmp_path / "file" / "run", pathlib.Path("/proc/run")):
            with pytest.raises(OSError, match=str(where)):
                train(where)


class TestKept:
    def test_last_and_best(self, tmp_path):
        """The best of a run that gets worse stays, and is reported as what it is."""
        groups = {"outer": {"optimizer": "sgd", "rate": 3e3, "steps": 50, "tasks": 4}}
        assert train(tmp_path / "run", 50, **groups) == 0
        curve = store.read(tmp_path / "run").table()
        values = curve[curve.inner_steps == 1].set_index("step").value
        best = int(values.idxmax())
        assert best < 40, "this test needs a run whose best evaluation is an early one"
        steps = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.is_dir())
        assert steps == [best, 40, 50]
        assert store.load(tmp_path / "run")["step"] == 50
        assert store.load(tmp_path / "run", best=True)["step"] == best

    @pytest.mark.parametrize(
        ("values", "ascending", "expected"),
        [
            ([0.3, 0.9, 0.9, 0.5], True, 10),
            ([0.3, 0.9, 0.2, 0.5], False, 20),
            ([np.nan, 0.1, np.nan, np.nan], True, 10),
            ([np.nan, np.nan, np.nan, np.nan], False, 0),
        ],
    )
    def test_best_step(self, values, ascending, expected):
        curve = pd.DataFrame({"step": [0, 10, 20, 30], "inner_steps": 1, "value": values})
        other = curve.assign(inner_steps=2, value=[0.0, 0.0, 0.0, 1.0])
        both = pd.concat([curve, other]).sort_values("step")
        assert store.best_step(both, 1, ascending) == expected

    def test_killed_before_the_seal(self, run, finished):
        """A checkpoint that is not sealed is written again; what a kill left is gone in the end."""
        seal(run, 30).unlink()
        (run / "checkpoints" / "30.orbax-checkpoint-tmp-1").mkdir()
        flip(largest(checkpoint(run, 30)), 8000)
        assert train(run) == 0
        assert_same(run, finished)
        assert not list((run / "checkpoints").glob("*tmp*"))


class TestMetrics:
    def test_a_line_an_evaluation_none_twice(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        for steps in (7, 20):
            train(tmp_path / "run", steps, metrics=str(path))
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:2], lines[2][:30]]))  # as a kill may leave it
        train(tmp_path / "run", 30, metrics=str(path))
        train(tmp_path / "run", 30, metrics=str(path))
        found = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["step"] for line in found] == [0, 7, 10, 20, 30]
        curve = store.read(tmp_path / "run").table()
        for line in found:
            rows = curve[curve.step == line["step"]].set_index("inner_steps")
            for steps, each in line["inner_steps"].items():
                assert {k: rows.loc[int(steps), k] for k in each} == each
            assert (line["measure"], line["run"]) == ("accuracy", store.read(tmp_path / "run").run)

    def test_two_runs_in_one_file(self, tmp_path):
        curve = pd.DataFrame([[0, 1, 0.0, 0.0, 1.0, np.nan, 0.0, np.inf, 4]], columns=list(store.CURVE))
        for name in ("a", "b", "a"):
            metrics.stream(tmp_path / "m", name, "accuracy")(curve)
        lines = [json.loads(line) for line in (tmp_path / "m").read_text().splitlines()]
        assert [line["run"] for line in lines] == ["a", "b"]
        assert lines[0]["inner_steps"]["1"] == {"loss": 1.0, "value": None, "low": 0.0, "high": None, "n": 4}

    @pytest.mark.parametrize("path", ["", ".", "no/such/file"])
    def test_a_path_that_can_be_no_file(self, tmp_path, monkeypatch, path):
        """Said before anything is written."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=f"metrics = '{path}'.*; allowed: a "):
            train(tmp_path / "run", metrics=path)
        assert not list(tmp_path.iterdir())

    def test_another_file(self, tmp_path):
        (tmp_path / "m").write_text("step,loss\n")
        with pytest.raises(ValueError, match="line 1 is not one of ours; allowed: another file"):
            metrics.stream(tmp_path / "m", "a", "accuracy")
        assert (tmp_path / "m").read_text() == "step,loss\n"


KILLED = """
import pathlib, sys
sys.path.insert(0, "tests"); sys.path.insert(0, "tests/training")
import settings
settings.configure()
from jaxmaml.training import loop
from runs import small

where = pathlib.Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
loop.train(small(where, 4000), quiet=True)
"""


@pytest.mark.exhaustive
def test_killed_at_any_time(tmp_path):
    """SIGKILL at ten random moments of one run, most while it saves; it ends as one that was left alone."""
    draw, where = random.Random(1), tmp_path / "killed"
    line = [sys.executable, "-c", KILLED, str(where)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    reached = [-1]
    process = subprocess.Popen(line, **pipes)
    for _ in range(10):
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        following = subprocess.Popen(line, **pipes)  # imports meanwhile
        while seals(where) <= reached[-1]:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1))
        process.kill()
        process.communicate()
        reached.append(seals(where))
        process = following
    process.kill()
    process.communicate()
    assert reached == sorted(reached)
    steps = reached[-1] + 10
    assert train(where, steps) == 0
    assert train(tmp_path / "whole", steps) == 0
    assert_same(where, tmp_path / "whole")


def seals(where):
    """The newest step; read as no other process reads, which sets nothing aside."""
    names = (where / "checkpoints").glob("*.json")
    return max((json.loads(path.read_bytes())["step"] for path in names), default=-1)
