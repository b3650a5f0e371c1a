"""Closed forms of the families beyond what the contract asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmaml import hvp, objective
from jaxmaml.tasks import cosine, digits, finite_data, log_spectrum, quadratic, shared_quadratic, two_cosines
from jaxmaml.theory import inner_bias, second_moment
from jaxmaml.types import BatchSizes

W = np.array([1.4, -0.6, 2.2])


class TestCosine:
    family = cosine.make(n=4, d=3, mu=0.7, a=1.9, omega=1.3, tau=2.5, seed=3)

    def test_gradients_and_hessians(self):
        found = objective.task_gradients(self.family, jnp.asarray(W))
        np.testing.assert_allclose(self.family.task_gradients(W), found, rtol=1e-10)
        batches = objective.full_episodes(self.family).inner
        hessians = jax.vmap(
            lambda b: jax.hessian(objective.task_loss, argnums=1)(self.family, jnp.asarray(W), b)
        )(batches)
        expected = np.stack([np.diag(h) for h in self.family.task_hessians(W)])
        np.testing.assert_allclose(hessians, expected, rtol=1e-10, atol=1e-12)

    def test_difference_error(self):
        vectors = 3 * np.random.default_rng(0).standard_normal((4, 3))
        delta = 0.37
        expected = self.family.difference_error(W, vectors, delta)
        for j in range(4):
            task = jax.tree.map(lambda x, j=j: x[j], self.family.tasks)
            batch = (task, self.family.full(task))

            def loss(w, b):
                return objective.task_loss(self.family, w, b)

            w, v = jnp.asarray(W), jnp.asarray(vectors[j])
            found = hvp.central_difference(loss, w, v, batch, delta) - hvp.exact(loss, w, v, batch)
            np.testing.assert_allclose(found, expected[j], rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("D_in", [1.0, 6.0])
    def test_inner_bias(self, D_in):
        """The closed form against sampling, and below both bounds."""
        alpha, draws = 0.15, 400_000
        expected = self.family.inner_bias(W, alpha, D_in)
        rng = np.random.default_rng(1)
        xi = 2.5 / np.sqrt(3 * D_in) * rng.standard_normal((draws, 1, 3))
        moved = W - alpha * (self.family.task_gradients(W) + xi)
        mu, a, omega = 0.7, 1.9, 1.3
        c, phi = self.family.tasks
        samples = mu * (moved - c) - a * omega * np.sin(omega * moved + phi)
        exact = self.family.task_gradients(self.family.adapted(W, alpha))
        error = samples.std(axis=0) / np.sqrt(draws)
        assert np.all(np.abs(samples.mean(axis=0) - exact - expected) <= 5 * error)
        assert np.max(np.abs(expected) / error) > 10
        constants = self.family.constants()
        largest = np.linalg.norm(expected, axis=1).max()
        assert largest <= inner_bias.bias(constants, alpha, D_in)
        assert inner_bias.bias(constants, alpha, D_in) <= inner_bias.bias_summary(constants, alpha, D_in)
        # The lemma of the second moment, at the same samples with D_o = 5.
        square = np.sum(samples**2, axis=2).mean(axis=0) + 2.5**2 / 5
        for measured, g in zip(square, np.linalg.norm(exact, axis=1), strict=True):
            assert measured <= second_moment.second_moment_optimal(g, constants, alpha, D_in, 5.0)

    def test_closed_form_refuses_field_noise(self):
        noisy = cosine.make(n=2, d=2, beta0=1.0)
        with pytest.raises(ValueError, match="beta0 = 1.0; this closed form holds for beta0 = 0"):
            noisy.inner_bias(np.zeros(2), 0.1, 1.0)

    def test_fo_limit_is_a_zero_of_the_mean_direction(self):
        alpha = 0.02
        limit = self.family.fo_limit(W, alpha)
        g = self.family.task_gradients(self.family.adapted(limit, alpha))
        np.testing.assert_allclose(g.mean(axis=0), 0, atol=1e-12)
        floor = np.linalg.norm(self.family.grad_objective(limit, alpha))
        assert self.family.fo_floor(limit, alpha) == pytest.approx(floor, rel=1e-9)

    @given(st.floats(-20, 20), st.floats(0.1, 3))
    def test_first_zero(self, start, scale):
        root = cosine.first_zero(lambda x: scale * (x - 2.5), start, 1e-2)
        assert root == pytest.approx(2.5, abs=1e-12)

    def test_first_zero_takes_the_nearest_downhill(self):
        # The zeros of sin downhill from 4 and from 2: a flow x' = -sin x ends at 2 pi and at 0.
        assert cosine.first_zero(np.sin, 4.0, 1e-2) == pytest.approx(2 * np.pi)
        assert cosine.first_zero(np.sin, 2.0, 1e-2) == pytest.approx(0.0, abs=1e-12)


class TestTwoCosines:
    def test_sigma(self):
        """sigma = mu c + a omega, attained."""
        family = two_cosines.make(mu=0.2, a=0.7, omega=1.6, c=5.0)
        assert family.constants().sigma == pytest.approx(0.2 * 5 + 0.7 * 1.6, rel=1e-12)

    def test_fo_ratio_is_the_limit_of_the_floor(self):
        numbers = {"mu": 0.1, "a": 0.9, "omega": 1.0, "c": 100.0}
        family = two_cosines.make(**numbers)
        constants = family.constants()
        alpha = 1e-6
        limit = family.fo_limit(np.zeros(1), alpha)
        ratio = family.fo_floor(limit, alpha) / (alpha * constants.L * constants.sigma)
        assert ratio == pytest.approx(two_cosines.fo_ratio(**numbers), rel=1e-3)


class TestQuadratic:
    def test_pair_floor(self):
        """ell = 1, eta = 1/2, s = 1, alpha = 0.1."""
        floor = quadratic.pair_floor(1.0, 0.5, 1.0, 0.1)
        plus, minus = (1 - 0.15) * 1.5, (1 - 0.05) * 0.5
        assert floor == pytest.approx(0.1 * 0.5 * 2 * plus * minus / (plus + minus), rel=1e-14)
        assert quadratic.pair(1.0, 0.5, 1.0).fo_floor(0.1) == pytest.approx(floor, rel=1e-12)

    def test_limits_are_zeros(self):
        family, alpha = quadratic.make(n=6, d=3, seed=8), 0.3
        w = family.fo_limit(alpha)
        hessians, centers = (np.asarray(x) for x in family.tasks)
        g = np.einsum(
            "nij,nj->ni", hessians, w - alpha * np.einsum("nij,nj->ni", hessians, w - centers) - centers
        )
        np.testing.assert_allclose(g.mean(axis=0), 0, atol=1e-12)
        covariance = np.einsum("nij,nj->ni", hessians - hessians.mean(axis=0), g).mean(axis=0)
        assert family.fo_floor(alpha) == pytest.approx(alpha * np.linalg.norm(covariance), rel=1e-10)
        at_best = objective.grad_F(family, jnp.asarray(family.maml_limit(alpha)), alpha)
        np.testing.assert_allclose(at_best, 0, atol=1e-12)

    @pytest.mark.parametrize("eta", [-0.1, 1.0])
    def test_bad_pair(self, eta):
        with pytest.raises(ValueError, match=f"eta = {eta}; allowed: 0 <= eta < ell"):
            quadratic.pair(ell=1.0, eta=eta)


class TestSharedQuadratic:
    family = shared_quadratic.make(n=4, d=3, smallest=0.3, largest=2.0, tau=3.0, spread=2.0)

    @pytest.mark.parametrize("estimator", ["maml", "fo_maml", "hf_maml"])
    def test_exact_line_equals_the_recursion_of_moments(self, estimator):
        """Mean and second moment of every mode, iterated step by step with NumPy."""
        h, c = np.asarray(self.family.eigenvalues), np.asarray(self.family.tasks.centers)
        alpha, step_c, w0 = 0.2, 1 / 12, np.array([4.0, -3.0, 2.0])
        sizes = BatchSizes(B=5, D_in=2.0, D_o=7.0)
        beta = step_c / (4 * h.max())
        damping = 1 - alpha * h
        q = np.ones(3) if estimator == "fo_maml" else damping
        p = q * damping * h
        # G = (1/B) sum q [h (1 - alpha h)(w - c_i) - alpha h xi_in + xi_o]
        noise = (p**2 * c.var(axis=0) + q**2 * 3.0 * ((alpha * h) ** 2 / 2 + 1 / 7)) / 5
        mean, square = w0 - c.mean(axis=0), (w0 - c.mean(axis=0)) ** 2
        expected = []
        for _ in range(40):
            expected.append(np.sum(h**2 * damping**4 * square))
            mean = (1 - beta * p) * mean
            square = (1 - beta * p) ** 2 * square + beta**2 * noise
        found = self.family.exact_line(np.arange(40), w0, estimator, alpha, step_c, sizes)
        np.testing.assert_allclose(found, expected, rtol=1e-10)

    def test_line_refuses_field_noise(self):
        noisy = shared_quadratic.make(beta0=1.0)
        with pytest.raises(ValueError, match="beta0 = 1.0; the exact line holds for beta0 = 0"):
            noisy.exact_line(np.arange(3), np.zeros(10), "maml", 0.1, 1 / 12, BatchSizes())


class TestLogSpectrum:
    def test_every_mode_starts_with_one_unit(self):
        family, alpha = log_spectrum.make(decades=3), 0.15
        w0 = log_spectrum.start(family, alpha)
        gap = float(objective.F(family, jnp.asarray(w0), alpha)) - family.infimum(alpha).value
        assert gap == pytest.approx(family.dim, rel=1e-10)


class TestFiniteData:
    @pytest.mark.parametrize("loss", finite_data.LOSSES)
    def test_derivative_bounds_are_reached(self, loss):
        """c1, c2, c3 are suprema of |l'|, |l''|, |l'''|, by a search in one score."""
        value, *bounds = finite_data.LOSSES[loss]
        z = jnp.linspace(-12, 12, 200_001)

        if loss == "softmax":
            # Along (1, -1)/sqrt 2 for two classes: l = log(1 + e^{-sqrt 2 z}).
            def function(x):
                direction = jnp.array([x, -x]) / jnp.sqrt(2.0)
                return value(direction, jnp.array(1.0), 1.0)
        else:
            label = 0.0 if loss == "cauchy" else 1.0

            def function(x):
                return value(x, jnp.array(label), 1.0)

        derivative = function
        for bound in bounds:
            derivative = jax.grad(derivative)
            largest = float(jnp.max(jnp.abs(jax.vmap(derivative)(z))))
            assert largest <= bound * (1 + 1e-9)
            # Cross entropy has larger third derivatives in more classes than two.
            if loss != "softmax":
                assert largest >= bound * (1 - 1e-3)

    def test_softmax_bounds_in_three_classes(self):
        value, *bounds = finite_data.LOSSES["softmax"]
        rng = np.random.default_rng(0)
        scores = jnp.asarray(3 * rng.standard_normal((4000, 3)))

        def loss(z):
            return value(z, jnp.array(0.0), 1.0)

        directions = rng.standard_normal((4000, 3))
        directions = jnp.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))

        def along(z, v):
            def line(t):
                return loss(z + t * v)

            one = jax.grad(line)
            two = jax.grad(one)
            return jnp.array([one(0.0), two(0.0), jax.grad(two)(0.0)])

        largest = jnp.max(jnp.abs(jax.vmap(along)(scores, directions)), axis=0)
        assert np.all(largest <= np.array(bounds))

    def test_value_by_hand(self):
        x = np.array([[[1.0, 2.0], [0.5, -1.0]]])
        family = finite_data.from_pools(x, [[1, -1]], "logistic", mu=0.3)
        w = jnp.array([0.4, -0.2])
        task = jax.tree.map(lambda a: a[0], family.tasks)
        expected = np.mean([np.log1p(np.exp(0.0)), np.log1p(np.exp(0.4))]) + 0.15 * 0.2
        assert float(family.loss(w, task, family.full(task))) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"loss": "logistc"}, "unknown loss 'logistc'.*Did you mean 'logistic'"),
            ({"x": np.zeros((2, 3))}, r"x has shape \(2, 3\) and y \(2, 3\); allowed"),
            ({"y": np.full((2, 3), 0.5)}, "allowed for logistic: -1 and 1"),
            ({"loss": "softmax", "y": np.full((2, 3), 0.5)}, "allowed for softmax: classes"),
            ({"mu": -1.0}, "mu = -1.0; allowed: finite and >= 0"),
            ({"scale": 0.0}, "scale = 0.0; allowed: finite and > 0"),
            ({"max_batch": 0}, "max_batch = 0; allowed: an integer >= 1"),
        ],
    )
    def test_bad_input(self, arguments, message):
        given_ = {"x": np.ones((2, 3, 4)), "y": np.ones((2, 3)), "loss": "logistic"} | arguments
        with pytest.raises(ValueError, match=message):
            finite_data.from_pools(given_.pop("x"), given_.pop("y"), given_.pop("loss"), **given_)


class TestDigits:
    def test_tasks_are_balanced_pairs(self):
        family = digits.make(tasks=45, pool=10)
        assert family.tasks.x.shape == (45, 10, 65)
        assert np.all(family.tasks.y.sum(axis=1) == 0)
        assert np.linalg.norm(family.tasks.x, axis=2).max() <= 1
        assert family.constants().L <= 0.25 + 1e-3 + 1e-12

    def test_start(self):
        family = digits.make(tasks=3, pool=20)
        assert float(objective.F(family, jnp.zeros(65), 0.0)) == pytest.approx(np.log(2))

    @pytest.mark.parametrize("numbers", [{"tasks": 46}, {"pool": 350}, {"pool": 21}])
    def test_too_much(self, numbers):
        with pytest.raises(ValueError, match="allowed: at most 45 tasks, an even pool of at most 348"):
            digits.make(**numbers)

    def test_without_scikit_learn(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "sklearn", None)
        with pytest.raises(ImportError, match="the digits need scikit-learn: pip install"):
            digits.make()


@pytest.mark.parametrize("numbers", [{"tau": -1.0}, {"beta0": np.inf}, {"nu": np.nan, "beta0": 1.0}])
def test_bad_noise(numbers):
    with pytest.raises(ValueError, match="allowed: finite and >= 0"):
        cosine.make(n=2, d=2, **numbers)
