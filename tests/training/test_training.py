"""Training runs: resumed equals uninterrupted, bad input, and what the loop computes."""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats

import jaxmaml
from jaxmaml import command_line, configuration, storage, tree
from jaxmaml.training import loop, problem, processes, store
from jaxmaml.training.presets import PRESETS

REPOSITORY = pathlib.Path(__file__).parents[2]
OMNIGLOT = REPOSITORY.parent / "shared" / "data" / "omniglot"
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


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


@pytest.mark.parametrize("learned", [False, True])
def test_resumed_equals_uninterrupted(tmp_path, learned):
    inner = {"learn_alpha": learned}
    assert loop.train(small(tmp_path / "whole", inner=inner), quiet=True) == 0
    for steps in (7, 20, 30):  # stopped between two evaluations, and at one
        loop.train(small(tmp_path / "parts", steps, inner=inner), quiet=True)
    (whole, _), (parts, curve) = final(tmp_path / "whole"), final(tmp_path / "parts")
    chex.assert_trees_all_equal(whole, parts)
    assert sorted(set(curve.step)) == [0, 7, 10, 20, 30]
    start = jax.tree.leaves(problem.build(small(tmp_path)).params)
    moved = [np.abs(a - b).max() for a, b in zip(start, jax.tree.leaves(whole["params"]), strict=True)]
    assert min(moved) > 0


def command(out, steps):
    options = ["--outer.steps", str(steps), "--outer.tasks", "4", "--model.hidden", "16"]
    options += ["--evaluation.every", "10", "--evaluation.episodes", "8", "--out", str(out)]
    return [sys.executable, "-m", "experiments", "train", "digits", *options]


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


def test_curve_is_the_fixed_episodes(tmp_path):
    """Accuracy, interval and n of the curve, recomputed from the checkpoint by a Python loop."""
    preset = small(tmp_path, 10)
    loop.train(preset, quiet=True)
    state, curve = final(tmp_path)
    built = problem.build(preset)
    episodes = built.test.episodes(jax.random.key(preset.evaluation.seed), 8)
    for steps in (0, 1, 3):
        correct = []
        for i in range(8):
            (x, y), (u, v) = (jax.tree.map(lambda a, i=i: a[i], b) for b in (episodes.inner, episodes.outer))
            w = state["params"]
            for _ in range(steps):
                gradient = jax.grad(built.loss)(w, (x, y))
                w = jax.tree.map(lambda p, g: p - preset.inner.alpha * g, w, gradient)
            correct.append(np.mean(np.argmax(built.apply(w, u), axis=1) == v))
        row = curve[(curve.step == 10) & (curve.inner_steps == steps)].iloc[0]
        half = scipy.stats.t.ppf(0.975, 7) * scipy.stats.sem(correct)
        mean = np.mean(correct)
        np.testing.assert_allclose(
            [row.value, row.low, row.high, row.n], [mean, mean - half, mean + half, 8], rtol=1e-5, atol=1e-7
        )
    assert curve[curve.step == 10].gradients.unique() == [10 * 4 * (2 + 2)]


@pytest.mark.parametrize("estimator", ["maml", "maml_same_batch", "fo_maml", "hf_maml", "imaml"])
def test_one_step_is_the_meta_gradient(tmp_path, estimator):
    """One SGD step of the loop against jaxmaml's meta-gradient of the same draw."""
    preset = small(tmp_path, 1, method={"estimator": estimator, "delta": 1e-2})
    preset = changed(preset, outer={"optimizer": "sgd", "rate": 0.7})
    built = problem.build(preset)
    functions = problem.functions(preset, built)
    start = functions.start()
    new = functions.advance(start, 1, built.training)
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[0]
    more = {"delta": 1e-2} if estimator == "hf_maml" else {}
    expected = jaxmaml.meta_gradient(
        jaxmaml.estimators.get(estimator),
        built.loss,
        start.params,
        built.training.episodes(key, 4),
        alpha=0.2,
        **more,
    )
    moved = jax.tree.map(lambda a, b: (a - b) / 0.7, start.params, new.params)
    chex.assert_trees_all_close(
        moved, expected, rtol=2e-3, atol=1e-5
    )  # float32, and a difference of parameters
    assert int(new.step) == 1


def test_theorem_step(tmp_path):
    """beta = c / (4 L + 2 rho alpha mean ||grad f_j||), with gradients of its own draw."""
    preset = small(tmp_path, 1, precision="float64")
    preset = changed(preset, outer={"optimizer": "theorem", "L": 3.0, "rho": 7.0})
    built = problem.build(preset)
    functions = problem.functions(preset, built)
    start = functions.start()
    new = functions.advance(start, 1, built.training)
    for_direction, for_step = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    direction = jaxmaml.meta_gradient(
        jaxmaml.maml_same_batch,
        built.loss,
        start.params,
        built.training.episodes(for_direction, 4),
        alpha=0.2,
    )
    batches = built.training.episodes(for_step, 4).inner
    norms = [
        tree.norm(jax.grad(built.loss)(start.params, jax.tree.map(lambda x, j=j: x[j], batches)))
        for j in range(4)
    ]
    beta = 1 / 12 / (4 * 3.0 + 2 * 7.0 * 0.2 * np.mean(norms))
    expected = jax.tree.map(lambda w, g: w - beta * g, start.params, direction)
    chex.assert_trees_all_close(new.params, expected, rtol=1e-10)
    assert functions.gradients_a_step == 4 * (2 + 2 + 1)


@pytest.mark.parametrize(
    ("precision", "episodes", "tasks"), [("float32", 8, 4), ("float64", 9, 4), ("float64", 8, 5)]
)
def test_devices_share_the_tasks(tmp_path, precision, episodes, tasks):
    """Two devices compute what one does, also where they do not divide the tasks or the episodes."""
    preset = small(tmp_path, 5, precision=precision, inner={"learn_alpha": True})
    preset = changed(preset, outer={"tasks": tasks}, evaluation={"episodes": episodes})
    tolerance = {"float32": 2e-4, "float64": 1e-11}[precision]
    built = problem.build(preset)
    found = []
    for count in (2, 1):
        mesh = problem.devices(changed(preset, method={"devices": count}))
        functions = problem.functions(preset, built, mesh)
        training, test = functions.place((built.training, built.test))
        state = functions.advance(functions.start(), 5, training)
        assert len(state.params["head"]["bias"].sharding.device_set) == count
        found.append(
            jax.tree.map(np.asarray, (state.params, state.log_alpha, functions.measure(state, test)))
        )
    chex.assert_trees_all_close(*found, rtol=tolerance, atol=tolerance)
    assert found[0][2][1][0].shape == (episodes,)


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


def test_rates_are_learned_by_array(tmp_path):
    preset = small(tmp_path, 10, inner={"learn_alpha": True, "steps": 2, "adapts": "head"})
    loop.train(preset, quiet=True)
    state, _ = final(tmp_path)
    rates = {k: np.asarray(v) for k, v in tree_items(state["log_alpha"])}
    assert len(rates) == len(jax.tree.leaves(state["params"]))
    moved = {name for name, value in rates.items() if value != np.float32(np.log(0.2))}
    assert moved == {name for name in rates if "head" in name}


def tree_items(x):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(x)]


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
        ({"method": {"estimator": "mamml"}}, "unknown estimator 'mamml'; known: .* Did you mean 'maml'?"),
        ({"model": {"kind": "conv4"}, "data": {"name": "sinusoid"}}, "model.kind = 'conv4' on sinusoid"),
    ],
)
def test_bad_presets(tmp_path, groups, says):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        loop.train(small(tmp_path / "out", **groups), quiet=True)
    assert not (tmp_path / "out").exists(), "nothing is written before the input is known to be good"


def test_divergence_is_named_and_nothing_is_lost(tmp_path):
    preset = small(tmp_path, 20, outer={"optimizer": "sgd", "rate": 1e38})
    with pytest.raises(loop.Diverged, match=r"not finite after step 10 \(finite at 0\)"):
        loop.train(preset, quiet=True)
    assert final(tmp_path)[0]["step"] == 0


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


def test_draws_differ_between_steps_and_seeds():
    preset = changed(PRESETS["sinusoid"], outer={"tasks": 3})
    built = problem.build(preset)
    functions = problem.functions(preset, built)
    one = functions.advance(functions.start(), 1, built.training)
    first = jax.tree.map(jnp.subtract, one.params, functions.start().params)
    again = functions.advance(one._replace(params=functions.start().params), 2, built.training)
    second = jax.tree.map(jnp.subtract, again.params, functions.start().params)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
