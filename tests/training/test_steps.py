"""What the training loop computes: its steps, its evaluations, shared by devices, resumed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from runs import changed, final, small

import jaxmaml
from jaxmaml import tree
from jaxmaml.training import loop, problem
from jaxmaml.training.presets import PRESETS

pytestmark = pytest.mark.recorded


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


@pytest.mark.parametrize(
    ("estimator", "more"),
    [
        ("maml", {}),
        ("maml_same_batch", {}),
        ("fo_maml", {}),
        ("hf_maml", {"delta": 1e-2}),
        ("imaml", {}),
        ("imaml", {"lam": 9.0}),
    ],
)
def test_one_step_is_the_meta_gradient(tmp_path, estimator, more):
    """One SGD step of the loop against jaxmaml's meta-gradient of the same draw."""
    preset = small(tmp_path, 1, method={"estimator": estimator, **more})
    preset = changed(preset, outer={"optimizer": "sgd", "rate": 0.7})
    built = problem.build(preset)
    functions = problem.functions(preset, built)
    start = functions.start()
    new = functions.advance(start, 1, built.training)
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[0]
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


def test_divergence_is_named_and_nothing_is_lost(tmp_path):
    preset = small(tmp_path, 20, outer={"optimizer": "sgd", "rate": 1e38})
    with pytest.raises(loop.Diverged, match=r"not finite after step 10 \(finite at 0\)"):
        loop.train(preset, quiet=True)
    assert final(tmp_path)[0]["step"] == 0


def test_draws_differ_between_steps_and_seeds():
    preset = changed(PRESETS["sinusoid"], outer={"tasks": 3})
    built = problem.build(preset)
    functions = problem.functions(preset, built)
    one = functions.advance(functions.start(), 1, built.training)
    first = jax.tree.map(jnp.subtract, one.params, functions.start().params)
    again = functions.advance(one._replace(params=functions.start().params), 2, built.training)
    second = jax.tree.map(jnp.subtract, again.params, functions.start().params)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
