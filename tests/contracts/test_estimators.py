"""What every discovered estimator must do, at a shifted, scaled, non-unit point."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import jaxmaml
from jaxmaml import Episode, estimators, meta_gradient
from jaxmaml.estimators._adapted import NONE, PROXIMAL, STEPS
from jaxmaml.estimators.hf_maml import ArcDelta

pytestmark = pytest.mark.recorded

NAMES = sorted(estimators.estimators())
DELTA, NU = 0.03, 0.02
TASKS, SAMPLES = 7, 5


def extra(name):
    """The arguments beyond the common ones."""
    takes = inspect.signature(estimators.get(name)).parameters
    return {key: value for key, value in (("delta", DELTA), ("nu", NU)) if key in takes}


def logistic(w, batch):
    x, y = batch
    fit = jnp.mean(jnp.log1p(jnp.exp(-y * (x @ w - 0.5))))
    return fit + 0.05 * jnp.sum(w**2) + jnp.sum((w - 1) ** 4) / 4


def logistic_problem(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)

    def batch(count):
        x = 1.7 * rng.standard_normal((TASKS, count, 3)) + 0.4
        return x.astype(dtype), np.sign(rng.standard_normal((TASKS, count)) + 0.2).astype(dtype)

    # Different sizes: a swapped batch cannot go unnoticed.
    episodes = Episode(batch(4), batch(6), batch(5))
    return rng.standard_normal(3).astype(dtype) * 1.3 + 0.7, episodes


def network(params, batch):
    """A small network with parameters in a nested pytree."""
    x, y = batch
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return jnp.mean((hidden @ params["last"][0] - y) ** 2)


def network_problem(dtype=np.float64, seed=3):
    rng = np.random.default_rng(seed)
    params = {
        "first": {"kernel": rng.standard_normal((2, 4)), "bias": rng.standard_normal(4)},
        "last": [rng.standard_normal(4) * 2],
    }
    batch = [
        (rng.standard_normal((TASKS, SAMPLES, 2)) + 1, 3 * rng.standard_normal((TASKS, SAMPLES)))
        for _ in range(3)
    ]
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, Episode(*batch)))


def one_task(episodes, j):
    return jax.tree.map(lambda x: x[j], episodes)


# One program for all estimators answers most of the questions below; its numbers are arguments.


def each(call):
    """call(name) of every estimator, by name."""
    return {name: call(name) for name in NAMES}


@jax.jit
def on_logistic(c, s, w, episode, alpha, more):
    """Every estimator's direction for c f(./s) at s w, with the rate alpha s^2/c."""

    def loss(v, batch):
        return c * logistic(v / s, batch)

    return each(lambda name: estimators.get(name)(loss, s * w, episode, alpha=alpha * s**2 / c, **more[name]))


@jax.jit
def on_network(params, episode, alpha, more):
    """Every estimator's direction for the network, and the gradient at params."""
    found = each(lambda name: estimators.get(name)(network, params, episode, alpha=alpha, **more[name]))
    gradients = {"gradient": episode.outer, "inner gradient": episode.inner}
    return found | {name: jax.grad(network)(params, batch) for name, batch in gradients.items()}


WHOLE = 0
CHUNKS = [1, 2, 3, TASKS, 100]


@jax.jit
def over_tasks(params, episodes, w, logistic_episodes):
    """Means over tasks: of the network by size of the chunk (WHOLE: no chunks), and of the logistic loss."""
    networks = {
        chunk: each(
            lambda name, chunk=chunk: meta_gradient(
                estimators.get(name),
                network,
                params,
                episodes,
                alpha=0.05,
                task_chunk=chunk or None,
                **extra(name),
            )
        )
        for chunk in (WHOLE, *CHUNKS)
    }
    return networks, each(
        lambda name: meta_gradient(
            estimators.get(name), logistic, w, logistic_episodes, alpha=0.2, **extra(name)
        )
    )


@functools.cache
def means():
    w, logistic_episodes = logistic_problem(1)
    return over_tasks(*network_problem(), w, logistic_episodes)


MORE = each(extra)


@functools.cache
def by_subtree():
    """Every estimator with a rate for each subtree: equal ones of the network, others of `logistic`."""
    w, episodes = logistic_problem(5)
    tree = {"one": jnp.asarray(w[:1]), "two": jnp.asarray(w[1:])}

    def loss(p, batch):
        return logistic(jnp.concatenate([p["one"], p["two"]]), batch)

    @jax.jit
    def both(params, episode, tree, other):
        small = {name: dict.fromkeys(MORE[name], 1e-05) for name in NAMES}
        equal = {"first": 0.1, "last": [0.1]}
        rates = {"one": 0.3, "two": 0.05}
        return (
            each(lambda n: estimators.get(n)(network, params, episode, alpha=equal, **MORE[n])),
            each(lambda n: estimators.get(n)(loss, tree, other, alpha=rates, **small[n])),
        )

    params, network_episodes = network_problem()
    return both(params, one_task(network_episodes, 0), tree, one_task(episodes, 0))


@functools.cache
def all_on_logistic(seed, alpha):
    """The directions of each task."""
    w, episodes = logistic_problem(seed)
    return [on_logistic(1.0, 1.0, w, one_task(episodes, j), alpha, MORE) for j in range(TASKS)]


@functools.cache
def all_on_network(dtype, j, alpha):
    params, episodes = network_problem(dtype)
    return on_network(params, one_task(episodes, j), alpha, MORE)


@pytest.mark.parametrize("name", NAMES)
class TestEveryEstimator:
    def test_equals_brute_force(self, name):
        w, episodes = logistic_problem()
        alpha = 0.31
        for j in range(TASKS):
            episode = one_task(episodes, j)
            expected = reference.METHODS[name](
                reference.logistic_gradient, reference.logistic_hessian, w, episode, alpha, **extra(name)
            )
            found = all_on_logistic(0, alpha)[j][name]
            # The difference loses about eps / delta digits.
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)

    def test_mean_over_tasks_equals_a_loop(self, name):
        total = sum(np.asarray(found[name]) for found in all_on_logistic(1, 0.2))
        np.testing.assert_allclose(means()[1][name], total / TASKS, rtol=1e-12)

    @pytest.mark.parametrize("chunk", CHUNKS)
    def test_chunked_equals_whole(self, name, chunk):
        found = means()[0]
        chex.assert_trees_all_close(found[chunk][name], found[WHOLE][name], rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_result_is_like_params(self, name, dtype):
        params, _ = network_problem(dtype)
        chex.assert_trees_all_equal_shapes_and_dtypes(all_on_network(dtype, 0, 0.05)[name], params)

    def test_float32_agrees_with_float64(self, name):
        results = [all_on_network(dtype, 2, 0.05)[name] for dtype in (np.float32, np.float64)]
        low, high = (ravel_pytree(r)[0] for r in results)
        assert np.isfinite(high).all()
        # Rounding in the difference is eps / DELTA relative to the gradients.
        assert np.linalg.norm(low - high) <= 1e-4 * np.linalg.norm(high)

    def test_jit_equals_eager(self, name):
        params, episodes = network_problem()
        eager = estimators.get(name)(network, params, one_task(episodes, 1), alpha=0.1, **extra(name))
        chex.assert_trees_all_close(all_on_network(np.float64, 1, 0.1)[name], eager, rtol=1e-11)

    def test_without_inner_step_it_is_the_gradient(self, name):
        """Of the loss on D_o; a direction that is no gradient goes along that on D_in."""
        found = all_on_network(np.float64, 0, 0.0)
        expected = found["inner gradient" if estimators.objective(name) == NONE else "gradient"]
        chex.assert_trees_all_close(found[name], expected, rtol=1e-13)

    def test_declares_what_it_is(self, name):
        assert estimators.objective(name) in (STEPS, PROXIMAL, NONE)
        assert all(1 <= estimators.gradients(name, k) < estimators.gradients(name, k + 1) for k in (1, 4))
        assert callable(estimators.get(name).adaptation)

    def test_rate_per_subtree(self, name):
        """A prefix of equal rates is the number; different rates are brute force with a vector."""
        prefix, found = by_subtree()
        chex.assert_trees_all_close(prefix[name], all_on_network(np.float64, 0, 0.1)[name], rtol=1e-9)

        w, logistic_episodes = logistic_problem(5)
        exact = "maml" if name == "hf_maml" else name
        expected = reference.METHODS[exact](
            reference.logistic_gradient,
            reference.logistic_hessian,
            w,
            one_task(logistic_episodes, 0),
            np.array([0.3, 0.05, 0.05]),
        )
        np.testing.assert_allclose(ravel_pytree(found[name])[0], expected, rtol=1e-7)

    @given(c=st.floats(0.05, 20), s=st.floats(0.05, 20))
    def test_units(self, name, c, s):
        """For f -> c f(./s): G -> (c/s) G at alpha -> alpha s^2/c, delta -> delta s^2/c."""
        w, episodes = logistic_problem(2)
        episode = one_task(episodes, 3)
        units = {"delta": s**2 / c, "nu": 1.0}
        more = {some: {key: value * units[key] for key, value in MORE[some].items()} for some in NAMES}
        plain = all_on_logistic(2, 0.2)[3][name]
        scaled = on_logistic(c, s, w, episode, 0.2, more)[name]
        np.testing.assert_allclose(scaled, plain * c / s, rtol=1e-9)

    @pytest.mark.parametrize("alpha", [-0.1, np.nan, np.inf])
    def test_bad_alpha(self, name, alpha):
        w, episodes = logistic_problem()
        with pytest.raises(ValueError, match=r"alpha.*allowed: finite and >= 0"):
            estimators.get(name)(logistic, w, one_task(episodes, 0), alpha=alpha, **extra(name))

    def test_params_must_be_floating(self, name):
        _, episodes = logistic_problem()
        with pytest.raises(TypeError, match=r"params\['a'\] has dtype int.*allowed: floating"):
            estimators.get(name)(
                lambda p, b: logistic(p["a"], b),
                {"a": np.arange(3)},
                one_task(episodes, 0),
                alpha=0.1,
                **extra(name),
            )

    def test_empty_batch(self, name):
        w, episodes = logistic_problem()
        episode = one_task(episodes, 0)
        empty = episode._replace(outer=jax.tree.map(lambda x: x[:0], episode.outer))
        with pytest.raises(ValueError, match=r"episode.outer\[0\] has shape \(0, 3\).*empty"):
            estimators.get(name)(logistic, w, empty, alpha=0.1, **extra(name))

    def test_not_an_episode(self, name):
        w, episodes = logistic_problem()
        with pytest.raises(TypeError, match="episode is tuple; allowed: jaxmaml.Episode"):
            estimators.get(name)(logistic, w, tuple(one_task(episodes, 0)), alpha=0.1, **extra(name))

    def test_docstring_gives_the_formula(self, name):
        assert "G = " in estimators.get(name).__doc__


def test_every_estimator_has_brute_force():
    assert set(NAMES) <= set(reference.METHODS), "add the new estimator to tests/reference.py"


def test_unknown_estimator():
    with pytest.raises(ValueError, match="unknown estimator 'mamml'.*Did you mean 'maml'"):
        estimators.get("mamml")


@jax.jit
def on_quadratic(hessian, w, episode, delta):
    """(MAML, HF-MAML)"""

    def loss(w, batch):
        return 0.5 * (w - batch[0]) @ hessian @ (w - batch[0])

    exact = jaxmaml.maml(loss, w, episode, alpha=0.1)
    return exact, jaxmaml.hf_maml(loss, w, episode, alpha=0.1, delta=delta)


@given(delta=st.floats(1e-3, 1e3), seed=st.integers(0, 10))
def test_hf_maml_is_maml_on_quadratics(delta, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((4, 4))
    hessian = 3 * (matrix + matrix.T)
    centers = [rng.standard_normal((1, 4)) * 2 + 5 for _ in range(3)]
    exact, found = on_quadratic(hessian, rng.standard_normal(4), Episode(*centers), delta)
    np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-9 * np.abs(exact).max())


def test_same_batch_is_differentiation_through_the_inner_step():
    params, episodes = network_problem()
    episode = one_task(episodes, 4)

    def through(p):
        return network(jaxmaml.adapt(network, p, episode.inner, 0.2), episode.outer)

    found = all_on_network(np.float64, 4, 0.2)["maml_same_batch"]
    chex.assert_trees_all_close(found, jax.jit(jax.grad(through))(params), rtol=1e-12)


class TestDelta:
    def test_theorem_delta(self):
        rule = jaxmaml.theorem_delta(rho=3.0, alpha=0.2)
        np.testing.assert_allclose(rule(7.0), 1 / (6 * 3.0 * 0.2 * 7.0), rtol=1e-15)
        assert jaxmaml.theorem_delta(3.0, 0.2, eta=0.05)(7.0) == pytest.approx(0.05 / 4.2)

    def test_rule_sees_the_norm_of_the_whole_pytree(self):
        params, episodes = network_problem()
        episode = one_task(episodes, 0)
        v = all_on_network(np.float64, 0, 0.1)["fo_maml"]
        norm = float(np.linalg.norm(ravel_pytree(v)[0]))
        by_rule = jax.jit(lambda p, e: jaxmaml.hf_maml(network, p, e, alpha=0.1, delta=ArcDelta(0.3)))(
            params, episode
        )
        by_number = on_network(params, episode, 0.1, MORE | {"hf_maml": {"delta": 0.3 / norm}})["hf_maml"]
        chex.assert_trees_all_close(by_rule, by_number, rtol=1e-10)

    @pytest.mark.parametrize(("dtype", "within"), [(np.float32, 3e-4), (np.float64, 1e-8)])
    def test_float_optimal_delta_is_close_to_the_exact_product(self, dtype, within):
        params, episodes = network_problem(dtype)
        more = MORE | {"hf_maml": {"delta": jaxmaml.float_optimal_delta(dtype)}}
        both = on_network(params, one_task(episodes, 0), 0.1, more)
        exact, found = (ravel_pytree(both[name])[0] for name in ("maml", "hf_maml"))
        assert np.linalg.norm(found - exact) <= within * np.linalg.norm(exact)

    @pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 1e9])
    @pytest.mark.parametrize("dim", [1, 100])
    def test_float_optimal_delta_at_large_parameters(self, size, dim):
        """f(w / size): a distance that did not grow with w would be rounded away, and the product be 0."""
        key, along = jax.random.split(jax.random.key(0))
        unit = 1 + 0.1 * jax.random.normal(key, (dim,), jnp.float32)
        v = jax.random.normal(along, (dim,), jnp.float32)

        def f(w, _):
            # In units in which the Hessian is about 1.
            return size**2 * jnp.sum(jnp.cos(w / size) + (w / size) ** 4)

        product = jaxmaml.hvp.difference(jaxmaml.float_optimal_delta(jnp.float32))
        found = np.asarray(product(f, size * unit, v, None), float)
        x = np.asarray(unit, float)
        exact = (12 * x**2 - np.cos(x)) * np.asarray(v, float)
        # The share of w that the distance is at least, eps^(1/3), is what rounding leaves.
        assert np.linalg.norm(found - exact) <= 0.005 * np.linalg.norm(exact)

    def test_float_optimal_delta_is_the_length_near_the_origin(self):
        rule, w = jaxmaml.float_optimal_delta(jnp.float32, 3.0), jnp.array([30.0, 40.0], jnp.float32)
        root = np.finfo(np.float32).eps ** (1 / 3)
        np.testing.assert_allclose(rule.around(w)(2.0), 3.0 * root / 2, rtol=1e-6)
        np.testing.assert_allclose(rule.around(1e6 * w)(2.0), 5e7 * root**2 / 2, rtol=1e-6)
        theorem = jaxmaml.theorem_delta(1.0, 0.1)
        assert theorem.around(1e6 * w) is theorem

    @pytest.mark.parametrize("delta", [0.0, -1.0, np.nan, np.inf])
    def test_bad_number(self, delta):
        w, episodes = logistic_problem()
        with pytest.raises(ValueError, match=r"delta = .*allowed: finite and > 0"):
            jaxmaml.hf_maml(logistic, w, one_task(episodes, 0), alpha=0.1, delta=delta)

    def test_rule_without_curvature(self):
        with pytest.raises(ValueError, match=r"rho = 0.*allowed: finite and > 0 .*give delta a number"):
            jaxmaml.theorem_delta(0, 0.1)

    @pytest.mark.parametrize("numbers", [(1.0, -1.0, 0.1), (1.0, 0.1, 0.0)])
    def test_bad_rule(self, numbers):
        with pytest.raises(ValueError, match="allowed: finite and > 0"):
            jaxmaml.theorem_delta(*numbers)

    def test_zero_gradient(self):
        """At a stationary point the rule divides by zero and the product is zero."""
        episode = Episode(*(jnp.zeros((1, 2)),) * 3)

        def loss(w, batch):
            return jnp.sum(w**4) + 0 * jnp.sum(batch)

        found = jaxmaml.hf_maml(loss, jnp.zeros(2), episode, alpha=0.1, delta=jaxmaml.theorem_delta(1.0, 0.1))
        np.testing.assert_array_equal(found, 0.0)
