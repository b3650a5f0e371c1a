"""Learners in files: what was saved is what is loaded, a fit goes on where it was, presets load."""

import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import lines
import numpy as np
import optax
import pandas as pd
import pytest

import jaxmaml
from jaxmaml import packing, storage
from jaxmaml.training import loop, problem, store
from jaxmaml.training.presets import PRESETS, Evaluation, Inner, Method, Model, Outer, of_fields

REPOSITORY = pathlib.Path(__file__).parents[2]


class Named(NamedTuple):
    b: jax.Array
    w: jax.Array


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def learner(**changes):
    """Parameters of several types and containers, as if they had been fitted."""
    params = {"b": jnp.float32(0.5), "w": {0: [jnp.arange(2.0), (jnp.ones(3, jnp.bfloat16), None)]}}
    inner = jaxmaml.InnerLoop(steps=4, mask={"b": False, "w": True})
    made = {"alpha": {"b": 0.1, "w": np.float32(0.3)}, "inner": inner, "step": 7}
    made |= {
        "loss": lines.loss,
        "records": [{"step": 7, "loss": np.nan}],
        "configuration": {"fit": {"seed": 1}},
    }
    return jaxmaml.Learner(**{"params": params, **made, **changes})


class TestSaved:
    def test_comes_back(self, tmp_path):
        learner().save(tmp_path / "model")
        found = jaxmaml.load(tmp_path / "model", loss=lines.loss)
        same = learner()
        chex.assert_trees_all_equal(found.params, same.params)
        chex.assert_trees_all_equal_dtypes(found.params, same.params)
        chex.assert_trees_all_equal(found.alpha, same.alpha)
        assert type(found.alpha["b"]) is float
        assert (found.inner, found.step, found.which) == (same.inner, 7, "last")
        assert found.configuration == {"fit": {"seed": 1}}
        pd.testing.assert_frame_equal(found.curve, same.curve)

    def test_is_written_anew(self, tmp_path):
        learner().save(tmp_path)
        learner(step=8, params={"w": jnp.ones(2)}, alpha=0.1).save(tmp_path)
        found = jaxmaml.load(tmp_path)
        assert (found.step, found.alpha) == (8, 0.1)
        chex.assert_trees_all_equal(found.params, {"w": jnp.ones(2)})

    def test_damage_is_named(self, tmp_path):
        learner().save(tmp_path)
        flip(tmp_path / "learner.npz")
        with pytest.raises(storage.Damaged, match=r"learner.npz was changed since it was written"):
            jaxmaml.load(tmp_path)

    def test_other_nodes_must_be_given(self, tmp_path):
        params = Named(jnp.zeros(()), jnp.arange(2.0))
        learner(params=params, alpha=Named(0.1, 0.2)).save(tmp_path)
        with pytest.raises(
            ValueError, match="params has nodes other than dict, list and tuple.*; needed: params="
        ):
            jaxmaml.load(tmp_path)
        with pytest.raises(ValueError, match="alpha has nodes other than"):
            jaxmaml.load(tmp_path, params=params)
        like = Named(jnp.ones(()), jnp.ones(2))
        found = jaxmaml.load(tmp_path, params=like, alpha=Named(0.1, 0.2))
        chex.assert_trees_all_equal(found.params, params)
        assert found.alpha == Named(0.1, 0.2)
        for other, says in (
            (
                like._replace(w=jnp.ones(3)),
                r"params.w is float64\[3\]; allowed: float64\[2\], as it was written",
            ),
            (like._replace(w=jnp.ones(2, "float32")), r"params.w is float32\[2\]; allowed: float64\[2\]"),
            ({"b": 0.0}, r"params.b is missing in what is given"),
        ):
            with pytest.raises(ValueError, match=says):
                jaxmaml.load(tmp_path, params=other, alpha=Named(0.1, 0.2))

    def test_optax_must_be_given(self, tmp_path):
        update = optax.sgd(0.1)
        learner(alpha=update).save(tmp_path)
        with pytest.raises(ValueError, match="alpha = None; needed for .*: alpha=, the optax transformation"):
            jaxmaml.load(tmp_path)
        assert jaxmaml.load(tmp_path, alpha=update).alpha is update

    def test_single_precision_process(self, tmp_path):
        learner(params={"w": jnp.ones(2)}, alpha=0.1).save(tmp_path)
        with (
            jax.enable_x64(False),
            pytest.raises(TypeError, match=r"params\['w'\] is float64, which JAX keeps"),
        ):
            jaxmaml.load(tmp_path)

    def test_nothing_is_unpickled(self, tmp_path):
        storage.write(tmp_path / "learner.npz", b"\x80\x04N.")  # None, pickled
        with pytest.raises(ValueError, match="pickle"):
            jaxmaml.load(tmp_path)

    def test_packing_of_the_empty(self):
        trees, about = packing.unpack(packing.pack({"a": {}, "b": [None, ()]}, {"x": 1}), {})
        assert (trees, about) == ({"a": {}, "b": [None, ()]}, {"x": 1})


class TestFolders:
    def test_of_another_kind(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no learner; allowed: a folder of Learner.save"):
            jaxmaml.load(tmp_path)
        with pytest.raises(FileNotFoundError, match="holds no learner"):
            jaxmaml.load(tmp_path / "nowhere")
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="is a file; allowed: the folder"):
            jaxmaml.load(tmp_path / "file")
        with pytest.raises(ValueError, match="which = 'first'; allowed: 'last', 'best'"):
            jaxmaml.load(tmp_path, which="first")
        learner().save(tmp_path)
        with pytest.raises(ValueError, match="which = 'best', and .* holds one learner, the last"):
            jaxmaml.load(tmp_path, which="best")
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        with pytest.raises(ValueError, match="is the folder of a training run; allowed: another folder"):
            learner().save(tmp_path / "run")
        (tmp_path / "run" / "checkpoints" / "1.json").write_text("{}")
        with pytest.warns(match="set aside"), pytest.raises(FileNotFoundError, match="holds no run"):
            jaxmaml.load(tmp_path / "run")


def kept(where, steps=4, **options):
    return lines.fit(folder=where, steps=steps, every=2, **options)


OPTIONS = {"measure": lines.largest, "larger_is_better": False, "learn_alpha": True}

KILLED = """
import sys
sys.path[:0] = ["tests", "tests/learner"]
import settings
settings.configure()
from test_keep import OPTIONS, kept

kept(sys.argv[1], 10**6, **OPTIONS)
"""


def stopped(where, number):
    """A fit in another process, stopped by this signal; the step that was kept."""
    line = [sys.executable, "-c", KILLED, str(where)]
    process = subprocess.Popen(line, cwd=REPOSITORY, stderr=subprocess.PIPE)
    while seals(where) < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (loop.STOPPED if number == signal.SIGTERM else -number)
    return seals(where)


def seals(where):
    names = (where / "checkpoints").glob("*.json")
    return max((json.loads(path.read_bytes())["step"] for path in names), default=-1)


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """A fit in two sittings."""
    where = tmp_path_factory.mktemp("fit") / "parts"
    kept(where, 2, **OPTIONS)
    return where, kept(where, 4, **OPTIONS)


def assert_as_if_never_stopped(where, found):
    """Bitwise."""
    alone = kept(where.with_name("alone"), found.step, **OPTIONS)
    chex.assert_trees_all_equal(store.load(where), store.load(where.with_name("alone")))
    chex.assert_trees_all_equal((found.params, found.alpha), (alone.params, alone.alpha))
    curves = [each.curve.drop(columns="seconds") for each in (found, alone)]
    pd.testing.assert_frame_equal(*curves, check_exact=True)


def test_a_second_sitting(continued):
    assert_as_if_never_stopped(*continued)


@pytest.mark.exhaustive  # a process more; what it adds is that the sums of programs are the same there
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_fit_goes_on(tmp_path, number):
    where = tmp_path / "stopped"
    assert_as_if_never_stopped(where, kept(where, stopped(where, number) + 2, **OPTIONS))


def test_loads(continued):
    where, fitted = continued
    found = jaxmaml.load(where, loss=lines.loss, apply=lines.apply)
    chex.assert_trees_all_equal((found.params, found.alpha), (fitted.params, fitted.alpha))
    chex.assert_trees_all_equal_dtypes((found.params, found.alpha), (fitted.params, fitted.alpha))
    pd.testing.assert_frame_equal(found.curve, fitted.curve)
    assert (found.inner, found.step, found.which) == (fitted.inner, fitted.step, "last")
    assert found.configuration == json.loads(json.dumps(fitted.configuration))
    found.save(where.with_name("saved"))
    again = jaxmaml.load(where.with_name("saved"))
    chex.assert_trees_all_equal((again.params, again.alpha), (fitted.params, fitted.alpha))


RATES = {"b": 0.1, "w": np.array([0.1, 0.2])}


def scaled_by(array):
    def loss(params, batch):
        return lines.loss(params, batch) * array[0]

    return loss


def worse(where, **options):
    """A fit of 4 steps that gets worse, whose loss closes over an array."""
    fixed = {"of": scaled_by(jnp.array([1.0, 1.0])), "optimizer": optax.sgd(-0.3), "alpha": RATES}
    return kept(where, **{**fixed, **options})


@pytest.fixture(scope="module")
def worsened(tmp_path_factory):
    where = tmp_path_factory.mktemp("fit") / "worse"
    return where, worse(where)


def test_the_best_is_called_best(worsened, tmp_path):
    """By the loss, where there is no other measure."""
    where, fitted = worsened
    last, best = (jaxmaml.load(where, which=which) for which in ("last", "best"))
    assert (last.which, last.step, best.which, best.step) == ("last", 4, "best", 0)
    chex.assert_trees_all_equal(last.params, fitted.params)
    chex.assert_trees_all_equal(best.params, lines.start())
    chex.assert_trees_all_equal(best.alpha, RATES)
    assert best.curve.step.max() == 0
    best.save(tmp_path / "best")
    assert jaxmaml.load(tmp_path / "best", which="best").which == "best"


def absolute_loss(params, batch):
    return jnp.mean(jnp.abs(lines.apply(params, batch[0]) - batch[1]))


REFUSED = {
    "alpha": (
        {"alpha": 0.2},
        r"holds a run with alpha = \[\[\"\['b'\]\", 0.1\].*, not 0.2; allowed: the same configuration",
    ),
    "data": (
        {"tasks": jax.tree_util.Partial(lines.draw, jnp.float64(0.6))},
        "with tasks = 'sum .*', not 'sum .*another folder .folder=",
    ),
    "loss": (
        {"of": absolute_loss},
        "a run of another code: the program of a step changed, .* or accept_changes=True to go on with",
    ),
    "a constant of the loss": (
        {"of": scaled_by(jnp.array([1.0, 2.0]))},
        "another code: .*program of a step changed",
    ),
    "fewer steps": ({"steps": 2}, "steps = 2; allowed: >= 4, where"),
}


def test_another_fit_is_refused(worsened, tmp_path):
    """And nothing is written."""
    where = pathlib.Path(shutil.copytree(worsened[0], tmp_path / "run"))
    before = contents(where)
    worse(where)  # another function that is the same
    for name, (options, says) in REFUSED.items():
        with pytest.raises(ValueError, match=says):
            worse(where, **options)
        assert contents(where) == before, name
    with pytest.warns(match="goes on from step 4 with another code"):
        worse(where, steps=5, of=absolute_loss, accept_changes=True)
    assert [each["step"] for each in store.read(where).accepted] == [4]


def contents(where):
    files = (p for p in where.rglob("*") if p.is_file() and ".lock" not in p.name)
    return {str(p.relative_to(where)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    where = tmp_path_factory.mktemp("preset") / "sinusoid"
    preset = dataclasses.replace(
        PRESETS["sinusoid"],
        model=Model("mlp", (8,)),
        inner=Inner(alpha=0.01, learn_alpha=True),
        outer=Outer(tasks=2, steps=2),
        evaluation=Evaluation(episodes=6, steps=(1,), every=1),
        method=Method(devices=1),
        out=str(where),
    )
    assert loop.train(preset, quiet=True) == 0
    return where, preset


class TestPreset:
    def test_needs_nothing(self, trained, tmp_path):
        where, preset = trained
        found = jaxmaml.load(where)
        state = store.load(where)
        chex.assert_trees_all_equal(jax.tree.leaves(found.params), jax.tree.leaves(state["params"]))
        np.testing.assert_allclose(
            jax.tree.leaves(found.alpha), np.exp(jax.tree.leaves(state["log_alpha"])), rtol=1e-6
        )
        built = problem.build(preset)
        measured = jaxmaml.evaluate(found, built.test, episodes=6)
        rows = found.curve.query("step == 2").set_index("inner_steps")
        assert list(measured) == [0, 1]
        for k, each in measured.items():
            np.testing.assert_allclose(each.loss.mean, rows.loc[k].loss, rtol=1e-4)  # float32
            assert (each.measure, each.transductive) == (None, False)
        found.save(tmp_path)
        again = jaxmaml.load(tmp_path)
        batch = lines.task(built.test.episodes(jax.random.key(0), 1), 0)
        outputs = [each.predict(each.adapt(batch.inner), batch.outer[0]) for each in (found, again)]
        chex.assert_trees_all_equal(*outputs)

    def test_best(self, trained):
        where, _ = trained
        best = store.read(where).best
        found = jaxmaml.load(where, which="best")
        assert (found.step, found.which) == (best, "best")
        chex.assert_trees_all_equal(
            jax.tree.leaves(found.params), jax.tree.leaves(store.load(where, best=True)["params"])
        )

    def test_a_fit_is_refused_there(self, trained):
        where, _ = trained
        with pytest.raises(ValueError, match="holds a run of a preset, not of a fit"):
            lines.fit(folder=where)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_back_from_json(name):
    assert of_fields(json.loads(json.dumps(store.of_preset(PRESETS[name]).configuration))) == PRESETS[name]


def test_seals_of_another_version(tmp_path):
    storage.add(tmp_path / "checkpoints", json.dumps({"step": 3}).encode(), ".json")
    with pytest.raises(
        ValueError, match="is of another version of jaxmaml; allowed: that version, or another folder"
    ):
        jaxmaml.load(tmp_path)
