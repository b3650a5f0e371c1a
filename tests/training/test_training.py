"""Training runs as their user sees them: presets, bad input, stopped and killed, what is said."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from runs import REPOSITORY, assert_same_run, changed, command, small

from jaxmaml import command_line, configuration, storage
from jaxmaml.training import loop, problem, processes, store
from jaxmaml.training.presets import PRESETS

OMNIGLOT = REPOSITORY.parent / "shared" / "data" / "omniglot"
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


def run(out, steps):
    return subprocess.run(command(out, steps), cwd=REPOSITORY, capture_output=True, text=True, check=False)


IN_TURN = """
import sys
from experiments import __main__ as line
from jaxmaml.training import loop

loop._draw = lambda *_: None
for arguments in {commands}:
    sys.argv = ["experiments", *arguments]
    if line.main():
        sys.exit(f"{{arguments}} failed")
"""


def run_in_turn(*commands):
    """These command lines in one process, which then imports everything once; no figures."""
    program = IN_TURN.format(commands=[line[3:] for line in commands])
    done = [sys.executable, "-c", program]
    return subprocess.run(done, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on(tmp_path, number):
    """SIGTERM saves and exits cleanly, SIGKILL loses an interval at most; both end as if never stopped."""
    steps = 2000
    process = subprocess.Popen(
        command(tmp_path / "stopped", steps), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    curve = tmp_path / "stopped" / "curve.csv"
    deadline = time.monotonic() + 300
    while not (curve.exists() and pd.read_csv(curve).step.max() >= 20):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=120)[0]
    saved = store.read(tmp_path / "stopped").step
    reached = pd.read_csv(curve).step.max()
    assert 10 <= saved < steps
    assert reached - saved <= 10
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert saved == reached
        assert f"stopped at step {saved}; the same command goes on from there" in said
    else:
        assert process.returncode == -signal.SIGKILL
    goal = saved + 50
    done = run_in_turn(command(tmp_path / "stopped", goal), command(tmp_path / "whole", goal))
    assert done.returncode == 0, done.stderr
    assert f"going on from step {saved}" in done.stdout
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_folder_depends_on_what_is_computed():
    preset = PRESETS["digits"]
    same = [changed(preset, outer={"steps": 7}), changed(preset, data={"path": "elsewhere"})]
    assert {store.folder(p) for p in same} == {store.folder(preset)}
    others = [
        changed(preset, seed=1),
        changed(preset, inner={"steps": 2}),
        changed(preset, precision="float64"),
    ]
    assert len({store.folder(p) for p in (preset, *others)}) == 4


@pytest.mark.parametrize(("tasks", "expected"), [(1, 1), (4, 2), (5, 1)])
def test_devices_by_default(tasks, expected):
    """The most that divide the tasks."""
    mesh = problem.devices(small("", outer={"tasks": tasks, "steps": 1}))
    assert (1 if mesh is None else mesh.size) == expected


@pytest.mark.parametrize(
    ("count", "tasks", "says"),
    [
        (3, 6, r"3; allowed with 2 devices in 1 processes and 6 tasks: \[1, 2\]"),
        (2, 1, r"2; allowed with 2 devices in 1 processes and 1 tasks: \[1\]"),
    ],
)
def test_devices_that_there_are_not(tmp_path, count, tasks, says):
    preset = small(tmp_path / "out", outer={"steps": 1, "tasks": tasks}, method={"devices": count})
    with pytest.raises(ValueError, match=f"^method.devices = {says}"):
        loop.train(preset, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("known", "expected"), [(True, 3), (False, 7)])
def test_cores(monkeypatch, known, expected):
    """Those that the process may use where the system tells, else all."""
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    if not known:
        monkeypatch.delattr(os, "sched_getaffinity")
    assert configuration.cores() == expected


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_trains(tmp_path, name):
    """A few steps of each, its figures drawn; the evaluation after them is finite."""
    path = {"omniglot": OMNIGLOT, "fashion_mnist": FASHION}.get(name)
    if path is not None and not path.exists():
        pytest.skip(f"{path} is not there: the {name} preset is NOT tested")
    preset = changed(
        PRESETS[name],
        data={"path": path and str(path)},
        model={"channels": 4},
        outer={"steps": 2, "tasks": 2},
        evaluation={"episodes": 4, "every": 1},
        out=str(tmp_path),
    )
    assert loop.train(preset) == 0
    curve = store.read(tmp_path).table()
    assert np.isfinite(curve.drop(columns=["low", "high"]).to_numpy()).all()
    assert curve.step.max() == 2
    for figure in ("learning_curve", "gallery"):
        assert (tmp_path / f"{figure}.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"data": {"name": "omniglott"}}, "unknown data set 'omniglott'; known: .* Did you mean 'omniglot'?"),
        ({"data": {"ways": 5}}, "ways = 5; allowed: at most 4, the number of classes"),
        ({"data": {"support": 200}}, "support . hessian . query = 200 . 5 . 10 = 215"),
        ({"data": {"name": "omniglot", "path": "nowhere"}}, "nowhere"),
        ({"inner": {"alpha": -1.0}}, "inner.alpha = -1.0; allowed: finite and > 0"),
        ({"outer": {"tasks": 0}}, "outer.tasks = 0; allowed: an integer >= 1"),
        ({"outer": {"optimizer": "theorem"}}, "outer.L = None; needed by the theorem's step"),
        (
            {"method": {"estimator": "imaml"}, "outer": {"optimizer": "theorem", "L": 1.0, "rho": 1.0}},
            "outer.optimizer = 'theorem' with method.estimator = 'imaml', whose objective is "
            "the loss after a proximal step; allowed: an estimator of the loss after inner steps",
        ),
        (
            {"method": {"estimator": "reptile"}, "inner": {"learn_alpha": True}},
            "inner.learn_alpha with method.estimator = 'reptile', which is the gradient of no function",
        ),
        (
            {"method": {"estimator": "maml", "lam": 3.0}},
            "method.lam = 3.0 with method.estimator = 'maml'; allowed: None, or fo_b_maml or imaml",
        ),
        ({"method": {"estimator": "imaml", "lam": 0.0}}, "method.lam = 0.0; allowed: finite and > 0"),
        (
            {"method": {"estimator": "imaml", "lam": 3.0}, "inner": {"learn_alpha": True}},
            "inner.learn_alpha with method.lam = 3.0; allowed: a fixed alpha, that of the solver",
        ),
        ({"method": {"estimator": "mamml"}}, "unknown estimator 'mamml'; known: .* Did you mean 'maml'?"),
        ({"model": {"kind": "conv4"}, "data": {"name": "sinusoid"}}, "model.kind = 'conv4' on sinusoid"),
    ],
)
def test_bad_presets(tmp_path, groups, says):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        loop.train(small(tmp_path / "out", **groups), quiet=True)
    assert not (tmp_path / "out").exists(), "nothing is written before the input is known to be good"


@pytest.mark.parametrize(
    ("error", "status"),
    [(loop.Diverged("so"), 3), (processes.Lost("so"), 4), (ValueError("so"), 2), (storage.Held("so"), 2)],
)
def test_exit_status(capsys, monkeypatch, error, status):
    """Each way to end has its own, and one line."""

    def fails() -> int:
        raise error

    monkeypatch.setattr(warnings, "formatwarning", None)
    assert command_line.answer({"train": fails, "other": fails}, "jaxmaml", args=["train"]) == status
    assert capsys.readouterr().err == "error: so\n"


def test_lines_without_a_terminal(tmp_path, capsys):
    """A line at every evaluation; the last one as the last, the best as the best; how it ended."""
    preset = small(tmp_path, 30)
    built = problem.build(preset)
    opening = store.opened(tmp_path, store.of_preset(preset), {}, built.ascending)
    recipe, functions = problem.recipe(preset), problem.functions(preset, built)
    _, curve = loop.run(recipe, built, functions, opening)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"digits: {tmp_path}"
    assert re.fullmatch(r"step 0 of 30: loss [\d.]+, accuracy [\d.]+", lines[1])
    for line, step in zip(lines[2:5], (10, 20, 30), strict=True):
        pattern = rf"step {step} of 30: loss [\d.]+, accuracy [\d.]+, \S+ steps/s, \d+ s left"
        assert re.fullmatch(pattern, line), line
    rows = curve[curve.step == 30].itertuples()
    for line, row in zip(lines[5:8], rows, strict=True):
        steps = "1 inner step" if row.inner_steps == 1 else f"{row.inner_steps} inner steps"
        assert line.startswith(f"step 30, {steps}: accuracy {row.value:.4f} [")
    best = store.best_step(curve, 1, True)
    value = curve[(curve.step == best) & (curve.inner_steps == 1)].value.item()
    assert best != 30, "this test needs a run whose last evaluation is not the best"
    assert lines[8].startswith(f"best of 4 evaluations, step {best}, 1 inner step: accuracy {value:.4f}")
    assert lines[9:] == ["finished at step 30"]


def test_one_line_on_the_command_line(tmp_path):
    bad = run(tmp_path, 0)
    assert bad.returncode == 2
    assert bad.stderr == "error: outer.steps = 0; allowed: an integer >= 1\n"
