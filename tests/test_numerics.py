"""Hessian-vector products, pytree norms, fast sines, random normals: against slower, independent ways."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.stats
from jax.flatten_util import ravel_pytree

from jaxmaml import _random, _trigonometry, hvp, tree
from jaxmaml.theory import finite_difference
from jaxmaml.types import Constants


def network(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["a"] + params["b"]).sum(axis=1) - y) ** 2)


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((3, 2)), "b": 2 + rng.standard_normal(2)}
    vector = {"a": 5 * rng.standard_normal((3, 2)), "b": rng.standard_normal(2)}
    batch = (rng.standard_normal((6, 3)), 4 * rng.standard_normal(6))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, vector, batch))


@jax.jit
def products(params, vector, batch):
    """(exact, dense, the difference, the Hessian)"""
    flat, unravel = ravel_pytree(params)
    return (
        hvp.exact(network, params, vector, batch),
        hvp.dense(network, params, vector, batch),
        hvp.central_difference(network, params, vector, batch, 0.1),
        jax.hessian(lambda w: network(unravel(w), batch))(flat),
    )


class TestHessianVectorProducts:
    def test_exact_equals_dense(self):
        params, vector, batch = problem()
        exact, dense, *_ = products(params, vector, batch)
        chex.assert_trees_all_close(exact, dense, rtol=1e-12)
        chex.assert_trees_all_equal_shapes_and_dtypes(exact, params)

    def test_exact_equals_hand_derivatives(self):
        rng = np.random.default_rng(1)
        w, v = rng.standard_normal(3) + 1, 3 * rng.standard_normal(3)
        batch = (rng.standard_normal((5, 3)), np.sign(rng.standard_normal(5)))

        def loss(w, batch):
            x, y = batch
            fit = jnp.mean(jnp.log1p(jnp.exp(-y * (x @ w - 0.5))))
            return fit + 0.05 * jnp.sum(w**2) + jnp.sum((w - 1) ** 4) / 4

        expected = reference.logistic_hessian(w, batch) @ v
        found = jax.jit(lambda w, v, batch: hvp.exact(loss, w, v, batch))(w, v, batch)
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    def test_difference_within_its_bound(self):
        """(c) in one dimension: f = -sin x has L = rho = zeta = 1; the bound holds at every step."""
        constants = Constants(L=1.0, rho=1.0, sigma=0.0, zeta=1.0)
        w, v = jnp.array([0.7]), jnp.array([2.5])

        def loss(x, batch):
            return -jnp.sum(jnp.sin(x)) + 0 * jnp.sum(batch)

        difference = jax.jit(lambda w, v, delta: hvp.central_difference(loss, w, v, jnp.zeros(1), delta))
        for delta in (1e-3, 0.1, 0.6, 3.0):
            found = difference(w, v, delta)
            error = float(np.abs(found - np.sin(w) * v)[0])
            bound = finite_difference.truncation(constants, delta, 2.5)
            assert error <= bound * (1 + 1e-9)
            assert error >= 0.05 * bound

    def test_difference_is_symmetric(self):
        """Even derivatives cancel: exact on a cubic's even part, unlike a one-sided difference."""
        w, v = jnp.array([1.3, -0.4]), jnp.array([2.0, 5.0])

        def cubic(x, batch):
            return jnp.sum(2 * x**3) + jnp.sum(3 * x**2) + 0 * jnp.sum(batch)

        found = jax.jit(lambda w, v: hvp.central_difference(cubic, w, v, jnp.zeros(1), 0.25))(w, v)
        np.testing.assert_allclose(found, (12 * w + 6) * v, rtol=1e-13)

    def test_step_that_depends_on_a_tiny_norm(self):
        """||v|| = 1e-200: delta = 1/||v|| is huge, its arc is 1."""
        w, v = jnp.array([1.3, -0.4]), jnp.array([3e-200, 4e-200])

        def loss(x, batch):
            return jnp.sum(x**2) + 0 * jnp.sum(batch)

        found = jax.jit(lambda w, v: hvp.central_difference(loss, w, v, jnp.zeros(1), 1 / tree.norm(v)))(w, v)
        np.testing.assert_allclose(found, 2 * np.asarray(v), rtol=1e-12)

    def test_of_zero(self):
        params, vector, batch = problem()
        nothing = jax.tree.map(np.zeros_like, vector)
        found = products(params, nothing, batch)[2]
        chex.assert_trees_all_equal(found, nothing)

    def test_differences_have_full_matrix_products(self):
        """Whatever the precision in force, which rounds float32 to 11 bits on GPUs."""
        params, vector, batch = problem(np.float32)

        def dots(product, *more):
            with jax.default_matmul_precision("default"):
                program = str(jax.make_jaxpr(lambda *a: product(network, *a))(params, vector, batch, *more))
            return program.count("dot_general["), program.count("Precision.HIGHEST")

        every, full = dots(hvp.central_difference, 0.1)
        assert every > 0
        assert full == 2 * every  # both factors
        assert dots(hvp.exact)[1] == 0

    def test_float32(self):
        low, high = (products(*problem(d)) for d in (np.float32, np.float64))
        one, two, v = (
            np.concatenate([np.ravel(x) for x in x.values()]) for x in (low[0], high[0], problem()[1])
        )
        assert one.dtype == np.float32
        scale = np.linalg.norm(high[3], 2) * np.linalg.norm(v)
        # The derivative of a saturated tanh loses a few digits.
        assert np.linalg.norm(one - two) <= 64 * np.finfo(np.float32).eps * scale


class TestTree:
    def test_norm(self):
        some = {"a": jnp.array([3.0, -4.0]), "b": [jnp.array([[12.0]])]}
        assert float(tree.norm(some)) == 13.0

    @pytest.mark.parametrize("size", [1e-200, 1e200])
    def test_norm_neither_underflows_nor_overflows(self, size):
        assert float(tree.norm([size * jnp.array([3.0, 4.0])])) == pytest.approx(5 * size)

    @pytest.mark.parametrize("size", [1e38, 2.4e38, 2e-38])
    @pytest.mark.parametrize("call", [tree.norm, jax.jit(tree.norm)], ids=["eager", "jit"])
    def test_norm_near_the_ends_of_float32(self, call, size):
        """The inverse of the largest number is none that a processor keeps."""
        found = float(call(jnp.array([size, size], jnp.float32)))
        assert found == pytest.approx(2**0.5 * size, rel=1e-6)

    def test_gradient_of_the_norm(self):
        x = jnp.array([3.0, -4.0]) * 1e200
        np.testing.assert_allclose(jax.grad(tree.norm)(x), [0.6, -0.8], rtol=1e-12)

    def test_norm_of_zero(self):
        assert float(tree.norm([jnp.zeros(3)])) == 0.0

    def test_scale_by_prefix(self):
        some = {"a": [jnp.ones(2), jnp.ones(1)], "b": jnp.ones(3)}
        found = tree.scale({"a": 2.0, "b": 5.0}, some)
        chex.assert_trees_all_equal(found, {"a": [2 * jnp.ones(2), 2 * jnp.ones(1)], "b": 5 * jnp.ones(3)})


class TestTrigonometry:
    x = np.concatenate([np.linspace(-40, 40, 20_001), np.random.default_rng(0).uniform(-1e5, 1e5, 50_000)])

    @pytest.mark.parametrize("name", ["sin", "cos"])
    def test_accuracy(self, name):
        exact = getattr(np, name)(self.x.astype(np.longdouble))
        found = np.asarray(jax.jit(getattr(_trigonometry, name))(self.x))
        assert np.max(np.abs(found - exact)) <= 4e-16

    @pytest.mark.parametrize("name", ["sin", "cos"])
    def test_derivatives(self, name):
        @jax.jit
        def derivatives(x):
            found = []
            for function in (getattr(m, name) for m in (_trigonometry, jnp)):
                one = jax.grad(function)
                two = jax.grad(one)
                found.append([jax.vmap(g)(x) for g in (one, two, jax.grad(two))])
            return found

        ours, theirs = derivatives(self.x[::997])
        np.testing.assert_allclose(ours, theirs, atol=1e-15)

    def test_float32(self):
        x = self.x[:100].astype(np.float32)
        for a, b in ((_trigonometry.sin, jnp.sin), (_trigonometry.cos, jnp.cos)):
            ours, theirs = jax.jit(lambda x, a=a, b=b: (a(x), b(x)))(x)
            assert ours.dtype == np.float32
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("name", ["sin", "cos"])
    def test_bounded_where_a_run_has_diverged(self, name):
        found = jax.jit(getattr(_trigonometry, name))(np.array([1e17, -1e200]))
        assert np.all(np.abs(found) <= 1 + 1e-2)


standard_normal = jax.jit(_random.standard_normal, static_argnums=1)
bits = jax.jit(_random.bits, static_argnums=1)
integers = jax.jit(_random.integers, static_argnums=(1, 2))


class TestRandom:
    def test_law(self):
        x = np.asarray(standard_normal(jax.random.key(3), (3, 40_000)))
        assert x.dtype == np.float64
        assert scipy.stats.kstest(x.ravel(), "norm").pvalue > 1e-3
        assert np.max(np.abs(np.corrcoef(x) - np.eye(3))) < 0.02
        lagged = np.corrcoef(x[0, :-1], x[0, 1:])[0, 1]
        assert abs(lagged) < 0.02

    @pytest.mark.parametrize("count", [1, 2, 7, 1000])
    def test_bits_are_those_of_jax(self, count):
        key = jax.random.fold_in(jax.random.key(11, impl="threefry2x32"), 5)
        words = np.asarray(jax.random.bits(key, ((count + 1) // 2,), jnp.uint64))
        halves = np.concatenate([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)])[:count]
        np.testing.assert_array_equal(bits(key, count), halves)

    def test_keys_of_other_generators(self):
        key = jax.random.key(3, impl="rbg")
        x = np.asarray(standard_normal(key, (5000,)))
        assert scipy.stats.kstest(x, "norm").pvalue > 1e-3

    def test_float32(self):
        exact = np.asarray(standard_normal(jax.random.key(3), (100,)))
        with jax.enable_x64(False):
            low = standard_normal(jax.random.key(3), (100,))
        assert low.dtype == np.float32
        np.testing.assert_array_equal(low, exact)

    @pytest.mark.parametrize("n", [1, 3, 100, 65_535, 70_000])
    def test_integers(self, n):
        x = np.asarray(integers(jax.random.key(9), 50_000, n))
        assert x.min() >= 0
        assert x.max() < n
        counts = np.bincount(x * 100 // n if n > 100 else x)
        assert counts.size == min(n, 100)
        expected = np.bincount(np.arange(n) * 100 // n if n > 100 else np.arange(n)) / n
        assert scipy.stats.chisquare(counts, 50_000 * expected).pvalue > 1e-3 or n == 1

    def test_integers_are_the_high_word(self):
        drawn = np.asarray(bits(jax.random.key(2), 1000)).astype(np.uint64)
        found = integers(jax.random.key(2), 1000, 60_001)
        np.testing.assert_array_equal(found, (drawn * np.uint64(60_001)) >> np.uint64(32))

    def test_odd_counts(self):
        assert standard_normal(jax.random.key(0), (3, 5)).shape == (3, 5)

    def test_finite_for_every_pattern(self):
        patterns = np.concatenate([np.arange(0, 2**32, 65_521), [0, 511, 512, 2**32 - 1]]).astype(np.uint32)
        x = np.asarray(jax.jit(_random.normal_of_bits)(patterns))
        assert np.all(np.isfinite(x))
        assert np.all(np.diff(x[:-4]) >= 0)
        assert x.min() == -x.max()

    def test_keys_differ(self):
        one, two = (np.asarray(standard_normal(jax.random.key(j), (100,))) for j in (0, 1))
        assert np.all(one != two)
