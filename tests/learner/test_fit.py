"""jaxmaml.fit: the numbers of NumPy, what it is told, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import lines
import numpy as np
import optax
import pytest
from compilations import compilations

import jaxmaml
from jaxmaml.data.sinusoid import Sinusoid

pytestmark = pytest.mark.recorded


@pytest.fixture(scope="module")
def learner():
    return lines.fit(measure=lines.largest, evaluation_steps=(1, 5))


def test_as_numpy(learner):
    expected = lines.trained(lines.vector(lines.start()), 3)
    np.testing.assert_allclose(lines.vector(learner.params), expected, rtol=1e-12)
    assert learner.step == 3


def test_curve(learner):
    """After 0, 1 and 5 inner steps on the support batches of fixed tasks, on their query batches."""
    episodes = lines.TASKS_OF(jax.random.key(2017), lines.EPISODES)
    curve = learner.curve.set_index(["step", "inner_steps"])
    assert sorted(curve.index) == [(s, k) for s in (0, 3) for k in (0, 1, 5)]
    for step, params in ((0, lines.start()), (3, learner.params)):
        for k in (0, 1, 5):
            each = [lines.task(episodes, i) for i in range(lines.EPISODES)]
            adapted = [lines.after(lines.vector(params), one.inner, k) for one in each]
            losses = [lines.value(v, one.outer) for v, one in zip(adapted, each, strict=True)]
            row = curve.loc[(step, k)]
            np.testing.assert_allclose(row.loss, np.mean(losses), rtol=1e-10)
            assert row.n == lines.EPISODES
            assert row.low < row.value < row.high


def test_nothing_of_the_caller_is_changed(learner):
    params = lines.start()
    before = jax.tree.map(np.copy, params)
    lines.fit(params)
    chex.assert_trees_all_equal(params, before)
    batch = lines.task(lines.TASKS_OF(jax.random.key(1), 1), 0).inner
    before = jax.tree.map(np.asarray, learner.params)
    adapted = learner.adapt(batch, steps=5)
    chex.assert_trees_all_equal(learner.params, before)
    np.testing.assert_allclose(
        lines.vector(adapted), lines.after(lines.vector(learner.params), batch, 5), rtol=1e-10
    )
    chex.assert_trees_all_equal(learner.adapt(batch, steps=0), before)
    chex.assert_trees_all_equal(learner.adapt(batch), learner.adapt(batch, steps=1))
    np.testing.assert_allclose(learner.predict(adapted, batch[0]), lines.apply(adapted, batch[0]), rtol=1e-12)


def test_a_second_fit_goes_on(learner):
    """From the parameters of the first; another seed draws other tasks."""
    second = lines.fit(learner.params, seed=1, measure=lines.largest, evaluation_steps=(1, 5))
    first = learner.curve.query("step == 3").drop(columns=["step", "seconds", "gradients"])
    again = second.curve.query("step == 0").drop(columns=["step", "seconds", "gradients"])
    np.testing.assert_allclose(first.to_numpy(), again.to_numpy(), rtol=1e-12)
    expected = lines.trained(lines.vector(learner.params), 3, seed=1)
    np.testing.assert_allclose(lines.vector(second.params), expected, rtol=1e-12)


def test_types_stay():
    """Of each parameter, and of the rates that are learned for it."""
    params = {"b": np.float32(0), "w": np.array([0.3, -0.2])}
    found = lines.fit(params, steps=1, learn_alpha=True)
    for tree in (found.params, found.alpha):
        assert {name: leaf.dtype for name, leaf in tree.items()} == {"b": np.float32, "w": np.float64}
    assert all(np.all(a != np.asarray(lines.ALPHA, a.dtype)) for a in jax.tree.leaves(found.alpha))


def test_aux_and_two_devices():
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    found = lines.fit(of=lines.with_aux, has_aux=True, mesh=mesh)
    expected = lines.trained(lines.vector(lines.start()), 3)
    np.testing.assert_allclose(lines.vector(found.params), expected, rtol=1e-12)
    batch = lines.task(lines.TASKS_OF(jax.random.key(1), 1), 0).inner
    adapted = lines.after(expected, batch, 2)
    np.testing.assert_allclose(lines.vector(found.adapt(batch, steps=2)), adapted, rtol=1e-10)
    measured = jaxmaml.evaluate(found, lines.TASKS_OF, (1,), episodes=lines.EPISODES)[1]
    last = found.curve.query("step == 3 and inner_steps == 1").loss.item()
    np.testing.assert_allclose(measured.loss.mean, last, rtol=1e-12)


def constant(loss, params, episode, *, alpha, inner):
    """An estimator of a user's own, the gradient of no adapted loss."""
    return jax.tree.map(jnp.ones_like, params)


def test_inner_optax_and_an_estimator_of_ones_own():
    """Several inner steps of an optax update, of one parameter alone."""
    loop = jaxmaml.InnerLoop(steps=3, mask={"b": True, "w": False})
    found = lines.fit(estimator=constant, inner=loop, alpha=optax.sgd(lines.ALPHA))
    start = lines.vector(lines.start())
    np.testing.assert_allclose(lines.vector(found.params), start - 3 * lines.RATE, rtol=1e-12)
    batch = lines.task(lines.TASKS_OF(jax.random.key(1), 1), 0).inner
    v = lines.vector(found.params)
    for _ in range(3):
        v[0] -= lines.ALPHA * lines.gradient(v, batch)[0]
    np.testing.assert_allclose(lines.vector(found.adapt(batch)), v, rtol=1e-10)
    assert list(found.curve.inner_steps.unique()) == [0, 3]


def test_hessian_free_with_what_an_optimiser_asks_for():
    """The float-optimal delta where none is given: exact here, but for rounding, on D_h. The theorem's step
    takes norms of gradients, a plateau the mean loss after adaptation."""
    L, rho = 3.0, 2.0
    step = jaxmaml.scale_by_theorem_step(1 / 12, L, rho, lines.ALPHA)
    plateau = optax.contrib.reduce_on_plateau(patience=1, accumulation_size=1)  # scales by 1 at first
    found = lines.fit(steps=1, estimator="hf_maml", optimizer=optax.chain(step, plateau))
    start = lines.vector(lines.start())
    direction = (start - lines.trained(start, 1, second="hessian")) / lines.RATE
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[1]
    others = lines.TASKS_OF(key, lines.TASKS)
    norms = [np.linalg.norm(lines.gradient(start, lines.task(others, i).inner)) for i in range(lines.TASKS)]
    beta = 1 / 12 / (4 * L + 2 * rho * lines.ALPHA * np.mean(norms))
    np.testing.assert_allclose(lines.vector(found.params), start - beta * direction, rtol=1e-8)
    assert found.configuration["fit"]["arguments"]["delta"].startswith("ArcDelta")


def test_divergence_is_an_error():
    with pytest.raises(FloatingPointError, match="parameters are not finite after step 3"):
        lines.fit(estimator=constant, optimizer=optax.sgd(1e308))


def outputs_alone(_, batch):
    return batch[1]


def other_shape(key, tasks):
    found = lines.TASKS_OF(key, tasks)
    return found._replace(outer=(found.outer[0][..., :1], found.outer[1]))


BAD = {
    "no tasks": ({"tasks": None}, TypeError, "tasks = None; allowed: a distribution, with episodes"),
    "no episodes": (
        {"tasks": lambda key, tasks: (key, tasks)},
        TypeError,
        "tasks gives tuple; allowed: jaxmaml.Epis",
    ),
    "fewer tasks": (
        {"tasks": lambda key, tasks: lines.TASKS_OF(key, tasks - 1)},
        ValueError,
        "tasks gives 2 tasks where 3 are asked for",
    ),
    "no samples": (
        {"tasks": lambda key, tasks: jax.tree.map(lambda x: x[:, :0], lines.TASKS_OF(key, tasks))},
        ValueError,
        "the batch is empty",
    ),
    "test of other shapes": (
        {"test": other_shape},
        ValueError,
        r"test gives samples outer\[0\] of float64\[1\], tasks",
    ),
    "test of another type": (
        {"test": lambda key, n: jax.tree.map(lambda x: x.astype("float32"), lines.TASKS_OF(key, n))},
        ValueError,
        "of float32.* tasks of float64",
    ),
    "steps": ({"steps": 0}, ValueError, "steps = 0; allowed: an integer >= 1"),
    "tasks_per_step": ({"tasks_per_step": 0}, ValueError, "tasks_per_step = 0; allowed"),
    "episodes": ({"episodes": 0}, ValueError, "episodes = 0; allowed"),
    "every": ({"every": 1.5}, ValueError, "every = 1.5; allowed"),
    "seed": ({"seed": -1}, ValueError, "seed = -1; allowed"),
    "evaluation_steps": (
        {"evaluation_steps": 5},
        ValueError,
        r"evaluation_steps = 5; allowed: numbers of inner steps",
    ),
    "inner": ({"inner": 5}, TypeError, "inner = 5; allowed: jaxmaml.InnerLoop"),
    "alpha": ({"alpha": -0.1}, ValueError, "alpha = -0.1; allowed: finite and >= 0"),
    "learned alpha": (
        {"alpha": 0.0, "learn_alpha": True},
        ValueError,
        "alpha = 0.0 with learn_alpha; allowed: > 0",
    ),
    "loss": ({"of": 3}, TypeError, "loss = 3; allowed: loss.params, batch. -> scalar"),
    "loss of a vector": ({"of": outputs_alone}, ValueError, r"loss returned a value of shape \(7,\)"),
    "aux": (
        {"of": lines.with_aux},
        TypeError,
        r"loss returned tuple; allowed: a scalar, or \(scalar, aux\) with",
    ),
    "no aux": ({"has_aux": True}, TypeError, r"allowed: \(scalar, aux\)"),
    "measure": ({"measure": outputs_alone}, ValueError, "measure returned .*; allowed: a scalar"),
    "params": (
        {"params": {"w": np.arange(3)}},
        TypeError,
        r"params\['w'\] has dtype int64; allowed: floating point",
    ),
    "estimator": ({"estimator": "mamml"}, ValueError, "unknown estimator 'mamml'.*Did you mean 'maml'"),
    "no function": ({"estimator": 3}, TypeError, "estimator = 3; allowed: a function, or one of"),
    "argument": (
        {"detla": 1},
        TypeError,
        "unexpected keyword argument 'detla'; allowed: loss, params, episode, alpha",
    ),
    "optimizer": ({"optimizer": 1e-3}, TypeError, "optimizer = 0.001; allowed: an optax transformation"),
    "apply": ({"apply": 3}, TypeError, "apply = 3; allowed: apply"),
    "folder": ({"folder": ""}, ValueError, "folder = ''; allowed: a path"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    options, error, says = BAD[name]
    with compilations() as compiled, pytest.raises(error, match=says):
        lines.fit(**options)
    assert not {"jit(advance)", "jit(measure)", "jit(_measured)"} & {*compiled}


def test_double_precision_that_jax_would_narrow():
    with (
        jax.enable_x64(False),
        pytest.raises(TypeError, match=r"params\['b'\] is float64, which JAX keeps with"),
    ):
        lines.fit()


def test_predict_and_adapt_without_functions(learner):
    bare = jaxmaml.Learner(learner.params, lines.ALPHA)
    with pytest.raises(
        ValueError, match="loss = None; needed by adapt: loss= in jaxmaml.fit or in jaxmaml.load"
    ):
        bare.adapt((np.ones((2, 2)), np.ones(2)))
    with pytest.raises(ValueError, match="apply = None; needed by predict"):
        bare.predict(learner.params, np.ones((2, 2)))
    with pytest.raises(ValueError, match="loss = None; needed by evaluate"):
        jaxmaml.evaluate(bare, lines.TASKS_OF)
    with pytest.raises(
        ValueError, match=r"params has shape \(2, 2\); allowed: one that is no array, as adapt gives"
    ):
        learner.predict(np.ones((2, 2)), learner.params)
    with pytest.raises(ValueError, match="steps = -1; allowed: an integer >= 0"):
        learner.adapt((np.ones((2, 2)), np.ones(2)), steps=-1)
    with pytest.raises(ValueError, match="the batch is empty"):
        learner.adapt((np.ones((0, 2)), np.ones(0)))


class TestEvaluate:
    def test_as_numpy(self, learner):
        """The tasks of a seed, adapted on support batches, measured on query batches."""
        found = jaxmaml.evaluate(learner, lines.TASKS_OF, (0, 1, 5), episodes=5, seed=3)
        episodes = lines.TASKS_OF(jax.random.key(3), 5)
        assert list(found) == [0, 1, 5]
        for k, measured in found.items():
            each = [lines.task(episodes, i) for i in range(5)]
            adapted = [lines.after(lines.vector(learner.params), one.inner, k) for one in each]
            losses = [lines.value(v, one.outer) for v, one in zip(adapted, each, strict=True)]
            largest = [
                np.max(np.abs(lines.matrix(one.outer)[0] @ v - one.outer[1]))
                for v, one in zip(adapted, each, strict=True)
            ]
            np.testing.assert_allclose(measured.losses, losses, rtol=1e-10)
            np.testing.assert_allclose(measured.measures, largest, rtol=1e-10)
            np.testing.assert_allclose(measured.loss.mean, np.mean(losses), rtol=1e-10)
            assert measured.loss.n == measured.measure.n == 5
            half = 2.7764451 * np.std(losses, ddof=1) / np.sqrt(5)  # Student's, 4 degrees of freedom
            np.testing.assert_allclose(measured.loss.high - np.mean(losses), half, rtol=1e-6)
        assert str(found[5]).startswith("5 inner steps: loss ")
        assert str(found[5]).endswith("(95 %, n = 5)")

    def test_the_same_tasks_for_a_seed(self):
        other = jaxmaml.Learner(lines.start(), lines.ALPHA, loss=lambda _, b: jnp.mean(b[1]))
        first, second = (
            jaxmaml.evaluate(other, lines.TASKS_OF, (0,), episodes=5, seed=seed)[0].losses for seed in (3, 4)
        )
        again = jaxmaml.evaluate(other, lines.TASKS_OF, (0,), episodes=5, seed=3)[0].losses
        assert np.array_equal(first, again)
        assert not np.any(first == second)

    def test_nan_is_not_averaged_away(self, learner):
        """One task of which a query is missing."""

        def missing(key, tasks):
            found = lines.TASKS_OF(key, tasks)
            x, y = found.outer
            return found._replace(outer=(x, y.at[2, 0].set(jnp.nan)))

        found = jaxmaml.evaluate(learner, missing, (1,), episodes=5)[1]
        assert list(np.isnan(found.losses)) == [False, False, True, False, False]
        assert np.isnan([found.loss.mean, found.loss.low, found.measure.mean]).all()

    def test_transductive_is_said(self):
        def normalised(params, x):
            return (x - x.mean(axis=0)) @ params["w"] + params["b"]

        def of(apply):
            return jaxmaml.Learner(lines.start(), lines.ALPHA, loss=lines.loss, apply=apply)

        found = {
            name: jaxmaml.evaluate(of(apply), lines.TASKS_OF, (0,), episodes=2)[0]
            for name, apply in (("batch", normalised), ("sample", lines.apply), ("unknown", None))
        }
        assert {name: each.transductive for name, each in found.items()} == {
            "batch": True,
            "sample": False,
            "unknown": None,
        }
        assert "transductive" in str(found["batch"])
        assert "transductive" not in str(found["sample"])

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"steps": ()}, r"steps = \(\); allowed: numbers of inner steps"),
            ({"steps": (0, -1)}, r"steps\[1\] = -1; allowed: an integer >= 0"),
            ({"episodes": 0}, "episodes = 0; allowed"),
            ({"seed": 2**32}, "seed = 4294967296; allowed"),
            ({"measure": outputs_alone}, "measure returned"),
        ],
    )
    def test_bad_input(self, learner, options, says):
        with pytest.raises(ValueError, match=says):
            jaxmaml.evaluate(learner, lines.TASKS_OF, **options)


def test_a_distribution_is_data():
    """Its arrays are arguments of the programs; a function's are those of its Partial."""
    learner = jaxmaml.Learner({"w": jnp.ones(())}, 0.1, loss=lambda p, b: jnp.mean((p["w"] - b[1]) ** 2))
    with compilations() as first:
        jaxmaml.evaluate(learner, Sinusoid(2, 1, 2), (0,), episodes=2)
    with compilations() as second:
        jaxmaml.evaluate(learner, Sinusoid(2, 1, 2, amplitude=(1.0, 2.0)), (0,), episodes=2)
    assert "jit(_measured)" in first
    assert "jit(_measured)" not in second
