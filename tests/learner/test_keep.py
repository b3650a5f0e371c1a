"""Learners in files: what was saved is what is loaded, a fit goes on where it was, presets load."""

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
from jaxmaml.training.presets import PRESETS, of_fields

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
    params = {
        "b": jnp.float32(0.5),
        "w": [jnp.arange(2.0), (jnp.ones(3, jnp.bfloat16), None)],
        3: jnp.ones(()),
    }
    inner = jaxmaml.InnerLoop(steps=4, mask={"b": False, "w": True, 3: True})
    made = {"alpha": {"b": 0.1, "w": 0.2, 3: np.float32(0.3)}, "inner": inner, "step": 7}
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fit of 4 steps in a folder, evaluated every 2."""
    where = tmp_path_factory.mktemp("fit") / "whole"
    return where, kept(where, measure=lines.largest, larger_is_better=False, learn_alpha=True)


def without_clock(learner):
    return learner.curve.drop(columns="seconds")


KILLED = """
import sys
sys.path[:0] = ["tests", "tests/learner"]
import settings
settings.configure()
from test_keep import kept, lines

kept(sys.argv[1], 10**6, measure=lines.largest, larger_is_better=False, learn_alpha=True)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.exhaustive)]
)
def test_a_stopped_fit_goes_on(whole, tmp_path, number):
    """In another process: what is known of the program is the same there. Bitwise as if never stopped."""
    where, _ = whole
    stopped = tmp_path / "stopped"
    shutil.copytree(where, stopped)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(stopped)], cwd=REPOSITORY, stderr=subprocess.PIPE
    )
    while seals(stopped) < 8:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (loop.STOPPED if number == signal.SIGTERM else -number)
    steps = seals(stopped) + 2
    options = {"measure": lines.largest, "larger_is_better": False, "learn_alpha": True}
    found, alone = (
        kept(folder, steps, **options) for folder in (stopped, where.with_name(f"alone-{number}"))
    )
    chex.assert_trees_all_equal(store.load(stopped), store.load(where.with_name(f"alone-{number}")))
    chex.assert_trees_all_equal((found.params, found.alpha), (alone.params, alone.alpha))
    pd.testing.assert_frame_equal(without_clock(found), without_clock(alone), check_exact=True)


def seals(where):
    names = (where / "checkpoints").glob("*.json")
    return max((json.loads(path.read_bytes())["step"] for path in names), default=-1)


def test_loads(whole):
    where, fitted = whole
    found = jaxmaml.load(where, loss=lines.loss, apply=lines.apply)
    chex.assert_trees_all_equal((found.params, found.alpha), (fitted.params, fitted.alpha))
    chex.assert_trees_all_equal_dtypes((found.params, found.alpha), (fitted.params, fitted.alpha))
    pd.testing.assert_frame_equal(found.curve, fitted.curve)
    assert (found.inner, found.step, found.which) == (fitted.inner, 4, "last")
    assert found.configuration == json.loads(json.dumps(fitted.configuration))
    found.save(where.with_name("saved"))
    again = jaxmaml.load(where.with_name("saved"))
    chex.assert_trees_all_equal((again.params, again.alpha), (fitted.params, fitted.alpha))


def test_the_best_is_called_best(tmp_path):
    """Of a fit that gets worse, whose loss is the measure."""
    fitted = kept(
        tmp_path, optimizer=optax.sgd(-0.3), learn_alpha=False, alpha={"b": 0.1, "w": np.array([0.1, 0.2])}
    )
    last, best = (jaxmaml.load(tmp_path, which=which) for which in ("last", "best"))
    assert (last.which, last.step, best.which, best.step) == ("last", 4, "best", 0)
    chex.assert_trees_all_equal(last.params, fitted.params)
    chex.assert_trees_all_equal(best.params, lines.start())
    chex.assert_trees_all_equal(best.alpha, {"b": 0.1, "w": np.array([0.1, 0.2])})
    best.save(tmp_path / "best")
    assert jaxmaml.load(tmp_path / "best", which="best").which == "best"


def shifted_loss(params, batch):
    return lines.loss(params, batch) + 1


def scaled_by(array):
    def loss(params, batch):
        return lines.loss(params, batch) * array[0]

    return loss


REFUSED = {
    "alpha": ({"alpha": 0.2}, "holds a run with alpha = 0.1, not 0.2; allowed: the same configuration"),
    "estimator": ({"estimator": "maml"}, "with estimator = 'maml_same_batch', not 'maml'"),
    "inner": ({"inner": jaxmaml.InnerLoop(2)}, "with inner.steps = 1, not 2"),
    "seed": ({"seed": 1}, "with seed = 0, not 1"),
    "params": ({"params": {"b": np.zeros(()), "w": np.ones(2)}}, "with params = 'sum .*', not 'sum"),
    "data": (
        {"tasks": jax.tree_util.Partial(lines.draw, jnp.float64(0.6))},
        "with tasks = 'sum .*', not 'sum .*another folder .folder=",
    ),
    "loss": (
        {"of": shifted_loss},
        "a run of another code: the program of a step changed, .* or accept_changes=True to go on with this one",
    ),
    "a constant of the loss": (
        {"of": scaled_by(jnp.array([1.0, 2.0]))},
        "another code: .*program of a step changed",
    ),
    "optimizer": ({"optimizer": optax.sgd(0.04)}, "another code: the program of a step changed"),
    "fewer steps": ({"steps": 2}, "steps = 2; allowed: >= 4, where"),
}


def test_another_fit_is_refused(tmp_path):
    """And nothing is written."""
    where = tmp_path / "run"
    kept(where, of=scaled_by(jnp.array([1.0, 1.0])))
    before = contents(where)
    kept(where, of=scaled_by(jnp.array([1.0, 1.0])))  # another function that is the same
    for name, (options, says) in REFUSED.items():
        with pytest.raises(ValueError, match=says):
            kept(where, **{"of": scaled_by(jnp.array([1.0, 1.0])), **options})
        assert contents(where) == before, name
    with pytest.warns(match="goes on from step 4 with another code"):
        kept(where, of=shifted_loss, accept_changes=True)
    assert store.read(where).accepted == []


def contents(where):
    files = (p for p in where.rglob("*") if p.is_file() and ".lock" not in p.name)
    return {str(p.relative_to(where)): p.read_bytes() for p in files}


class TestPreset:
    @pytest.fixture(scope="class")
    def trained(self, tmp_path_factory):
        where = tmp_path_factory.mktemp("preset") / "digits"
        preset = of_fields(
            {
                **json.loads(json.dumps(store.of_preset(PRESETS["digits"]).configuration)),
                "model": {**store.of_preset(PRESETS["digits"]).configuration["model"], "hidden": [8]},
                "outer": {
                    **store.of_preset(PRESETS["digits"]).configuration["outer"],
                    "steps": 2,
                    "tasks": 2,
                },
                "evaluation": {"episodes": 6, "steps": [5], "every": 1, "seed": 2017, "query": None},
                "inner": {"alpha": 0.5, "steps": 1, "adapts": "all", "learn_alpha": True},
                "out": str(where),
            }
        )
        assert loop.train(preset, quiet=True) == 0
        return where, preset

    def test_needs_nothing(self, trained, tmp_path):
        where, preset = trained
        found = jaxmaml.load(where)
        state = store.load(where)
        chex.assert_trees_all_equal(jax.tree.leaves(found.params), jax.tree.leaves(state["params"]))
        np.testing.assert_allclose(
            jax.tree.leaves(found.alpha), np.exp(jax.tree.leaves(state["log_alpha"])), rtol=1e-6
        )
        built = problem.build(preset)
        measured = jaxmaml.evaluate(found, built.test, (0, 1, 5), episodes=6)
        rows = found.curve.query("step == 2").set_index("inner_steps")
        for k, each in measured.items():  # float32
            np.testing.assert_allclose(each.loss.mean, rows.loc[k].loss, rtol=1e-4)
            assert each.measure.mean == pytest.approx(rows.loc[k].value, abs=1e-6)
        assert measured[0].transductive is False
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
