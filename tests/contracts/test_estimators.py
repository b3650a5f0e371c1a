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
from jaxmaml.estimators.hf_maml import ArcDelta

NAMES = sorted(estimators.estimators())
DELTA = 0.03
TASKS, SAMPLES = 7, 5


def extra(name):
    """The arguments beyond the common ones."""
    takes = inspect.signature(estimators.get(name)).parameters
    return {"delta": DELTA} if "delta" in takes else {}


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


@functools.partial(jax.jit, static_argnums=0)
def rescaled(name, c, s, w, episode, more):
    """The direction for c f(./s) at s w, with alpha = 0.2 s^2/c."""

    def loss(v, batch):
        return c * logistic(v / s, batch)

    return estimators.get(name)(loss, s * w, episode, alpha=0.2 * s**2 / c, **more)


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
            found = estimators.get(name)(logistic, w, episode, alpha=alpha, **extra(name))
            # The difference loses about eps / delta digits.
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)

    def test_mean_over_tasks_equals_a_loop(self, name):
        w, episodes = logistic_problem(1)
        method = estimators.get(name)
        total = sum(
            np.asarray(method(logistic, w, one_task(episodes, j), alpha=0.2, **extra(name)))
            for j in range(TASKS)
        )
        found = meta_gradient(method, logistic, w, episodes, alpha=0.2, **extra(name))
        np.testing.assert_allclose(found, total / TASKS, rtol=1e-12)

    @pytest.mark.parametrize("chunk", [1, 2, 3, TASKS, 100])
    def test_chunked_equals_whole(self, name, chunk):
        params, episodes = network_problem()
        method = estimators.get(name)
        whole = meta_gradient(method, network, params, episodes, alpha=0.05, **extra(name))
        parts = jax.jit(
            lambda p, e: meta_gradient(method, network, p, e, alpha=0.05, task_chunk=chunk, **extra(name))
        )(params, episodes)
        chex.assert_trees_all_close(parts, whole, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_result_is_like_params(self, name, dtype):
        params, episodes = network_problem(dtype)
        found = estimators.get(name)(network, params, one_task(episodes, 0), alpha=0.05, **extra(name))
        chex.assert_trees_all_equal_shapes_and_dtypes(found, params)

    def test_float32_agrees_with_float64(self, name):
        results = []
        for dtype in (np.float32, np.float64):
            params, episodes = network_problem(dtype)
            results.append(
                estimators.get(name)(network, params, one_task(episodes, 2), alpha=0.05, **extra(name))
            )
        low, high = (ravel_pytree(r)[0] for r in results)
        # Rounding in the difference is eps / DELTA relative to the gradients.
        assert np.linalg.norm(low - high) <= 1e-4 * np.linalg.norm(high)

    def test_jit_equals_eager(self, name):
        params, episodes = network_problem()
        episode = one_task(episodes, 1)

        def call(p, e, alpha):
            return estimators.get(name)(network, p, e, alpha=alpha, **extra(name))

        chex.assert_trees_all_close(
            jax.jit(call)(params, episode, 0.1), call(params, episode, 0.1), rtol=1e-11
        )

    def test_without_inner_step_it_is_the_gradient(self, name):
        params, episodes = network_problem()
        episode = one_task(episodes, 0)
        found = estimators.get(name)(network, params, episode, alpha=0.0, **extra(name))
        chex.assert_trees_all_close(found, jax.grad(network)(params, episode.outer), rtol=1e-13)

    def test_rate_per_subtree(self, name):
        """A prefix of equal rates is the number; different rates are brute force with a vector."""
        params, episodes = network_problem()
        episode = one_task(episodes, 0)
        method = estimators.get(name)
        number = method(network, params, episode, alpha=0.1, **extra(name))
        prefix = method(network, params, episode, alpha={"first": 0.1, "last": [0.1]}, **extra(name))
        chex.assert_trees_all_close(prefix, number, rtol=1e-9)

        w, logistic_episodes = logistic_problem(5)
        rates = np.array([0.3, 0.05, 0.05])
        tree = {"one": jnp.asarray(w[:1]), "two": jnp.asarray(w[1:])}

        def loss(p, batch):
            return logistic(jnp.concatenate([p["one"], p["two"]]), batch)

        episode = one_task(logistic_episodes, 0)
        more = {"delta": 1e-5} if extra(name) else {}
        found = method(loss, tree, episode, alpha={"one": 0.3, "two": 0.05}, **more)
        exact = "maml" if name == "hf_maml" else name
        expected = reference.METHODS[exact](
            reference.logistic_gradient, reference.logistic_hessian, w, episode, rates
        )
        np.testing.assert_allclose(ravel_pytree(found)[0], expected, rtol=1e-7)

    @given(c=st.floats(0.05, 20), s=st.floats(0.05, 20))
    def test_units(self, name, c, s):
        """For f -> c f(./s): G -> (c/s) G at alpha -> alpha s^2/c, delta -> delta s^2/c."""
        w, episodes = logistic_problem(2)
        episode = one_task(episodes, 3)
        more = {key: value * s**2 / c for key, value in extra(name).items()}
        plain = rescaled(name, 1.0, 1.0, w, episode, extra(name))
        scaled = rescaled(name, c, s, w, episode, more)
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


@given(delta=st.floats(1e-3, 1e3), seed=st.integers(0, 10))
def test_hf_maml_is_maml_on_quadratics(delta, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((4, 4))
    hessian = 3 * (matrix + matrix.T)
    centers = [rng.standard_normal((1, 4)) * 2 + 5 for _ in range(3)]

    def loss(w, batch):
        return 0.5 * (w - batch[0]) @ hessian @ (w - batch[0])

    w, episode = jnp.asarray(rng.standard_normal(4)), Episode(*centers)
    exact = jaxmaml.maml(loss, w, episode, alpha=0.1)
    found = jax.jit(lambda d: jaxmaml.hf_maml(loss, w, episode, alpha=0.1, delta=d))(delta)
    np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-9 * np.abs(exact).max())


def test_same_batch_is_differentiation_through_the_inner_step():
    params, episodes = network_problem()
    episode = one_task(episodes, 4)

    def through(p):
        return network(jaxmaml.adapt(network, p, episode.inner, 0.2), episode.outer)

    found = jaxmaml.maml_same_batch(network, params, episode, alpha=0.2)
    chex.assert_trees_all_close(found, jax.grad(through)(params), rtol=1e-12)


class TestDelta:
    def test_theorem_delta(self):
        rule = jaxmaml.theorem_delta(rho=3.0, alpha=0.2)
        np.testing.assert_allclose(rule(7.0), 1 / (6 * 3.0 * 0.2 * 7.0), rtol=1e-15)
        assert jaxmaml.theorem_delta(3.0, 0.2, eta=0.05)(7.0) == pytest.approx(0.05 / 4.2)

    def test_rule_sees_the_norm_of_the_whole_pytree(self):
        params, episodes = network_problem()
        episode = one_task(episodes, 0)
        v = jaxmaml.fo_maml(network, params, episode, alpha=0.1)
        norm = float(np.linalg.norm(ravel_pytree(v)[0]))
        by_rule = jaxmaml.hf_maml(network, params, episode, alpha=0.1, delta=ArcDelta(0.3))
        by_number = jaxmaml.hf_maml(network, params, episode, alpha=0.1, delta=0.3 / norm)
        chex.assert_trees_all_close(by_rule, by_number, rtol=1e-10)

    @pytest.mark.parametrize(("dtype", "within"), [(np.float32, 3e-4), (np.float64, 1e-8)])
    def test_float_optimal_delta_is_close_to_the_exact_product(self, dtype, within):
        params, episodes = network_problem(dtype)
        episode = one_task(episodes, 0)
        exact, found = (
            ravel_pytree(x)[0]
            for x in (
                jaxmaml.maml(network, params, episode, alpha=0.1),
                jaxmaml.hf_maml(
                    network, params, episode, alpha=0.1, delta=jaxmaml.float_optimal_delta(dtype)
                ),
            )
        )
        assert np.linalg.norm(found - exact) <= within * np.linalg.norm(exact)

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
