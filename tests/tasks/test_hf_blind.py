"""hf_blind, shared_curvature, and for which B the accuracy of HF-MAML, as summarised, is proved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims._blind import ones
from jaxmaml import hvp, objective
from jaxmaml.estimators import fo_maml, hf_maml
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.tasks import hf_blind, shared_curvature
from jaxmaml.theory import drift
from jaxmaml.theory.drift import Split
from jaxmaml.theory.finite_difference import chi
from jaxmaml.theory.gradient_comparison import comparison_constants
from jaxmaml.theory.maml import task_spread
from jaxmaml.types import Episode


def task(family, j):
    one = jax.tree.map(lambda x: x[j], family.tasks)
    return one, family.full(one)


class TestHfBlind:
    family = hf_blind.make(alpha=0.7, rho=1.3)

    def test_values_gradients_and_hessians(self):
        grid = np.random.default_rng(0).uniform(-2, 2, 50)
        for j in (0, 1):
            batch = task(self.family, j)

            def loss(w, batch=batch):
                return objective.task_loss(self.family, w[None], batch)

            for function, closed in (
                (loss, self.family.values),
                (jax.grad(loss), self.family.task_gradients),
                (jax.grad(jax.grad(loss)), self.family.task_hessians),
            ):
                np.testing.assert_allclose(jax.vmap(function)(grid), closed(grid)[j], atol=1e-13)

    def test_the_gradients_integrate_the_hessians(self):
        """Across kinks, where automatic differentiation would not see a jump."""
        grid = np.linspace(-1.1, 1.3, 2_000_001)
        for derivative, function in (
            (self.family.task_hessians, self.family.task_gradients),
            (self.family.task_gradients, self.family.values),
        ):
            y = derivative(grid)
            integral = np.sum(y[:, 1:] + y[:, :-1], axis=1) * (grid[1] - grid[0]) / 2
            ends = function(grid[[0, -1]])
            np.testing.assert_allclose(integral, ends[:, 1] - ends[:, 0], atol=1e-9)

    def test_the_difference_sees_one_hessian(self):
        """HF-MAML with the theorem's delta is (1 - alpha mu) times FO-MAML, for both tasks."""
        delta = theorem_delta(self.family.constants().rho, 0.7)

        def loss(w, batch):
            return objective.task_loss(self.family, w, batch)

        for j in (0, 1):
            batch = task(self.family, j)
            for w in np.linspace(-0.9, 1.1, 7):
                w = jnp.array([w])
                v = jnp.array([1.7])
                secant = hvp.central_difference(loss, w, v, batch, delta(jnp.abs(v[0])))
                np.testing.assert_allclose(secant, self.family.mu * v, rtol=1e-11)
                episode = Episode(batch, batch, batch)
                found = hf_maml.hf_maml(loss, w, episode, alpha=0.7, delta=delta)
                first = fo_maml.fo_maml(loss, w, episode, alpha=0.7)
                np.testing.assert_allclose(found, (1 - 0.7 * self.family.mu) * first, rtol=1e-10)

    def test_numbers(self):
        family = hf_blind.make()
        constants = family.constants()
        found = (constants.L, constants.rho, constants.sigma, family.e)
        assert found == pytest.approx((7 / 60, 1.0, 0.034583333, 0.0021788981))

    @pytest.mark.parametrize("name", ["alpha", "rho", "mu"])
    def test_bad_numbers(self, name):
        with pytest.raises(ValueError, match=rf"{name} = 0.0; allowed: finite and > 0"):
            hf_blind.make(**{name: 0.0})


class TestSharedCurvature:
    family = shared_curvature.make(ridge=0.2, weight=0.7, spread=3.0)

    def test_gradients_and_hessian(self):
        for w in np.array([[1.3, -0.4], [0.0, 2.0], [-7.0, 7.1]]):
            found = objective.task_gradients(self.family, jnp.asarray(w))
            np.testing.assert_allclose(self.family.task_gradients(w), found, rtol=1e-12)
            for j in range(3):
                batch = task(self.family, j)
                hessian = jax.hessian(lambda v, b=batch: objective.task_loss(self.family, v, b))(w)
                np.testing.assert_allclose(self.family.hessian(w), hessian, rtol=1e-11, atol=1e-13)

    def test_L_is_a_bound_and_sharp(self):
        L = self.family.constants().L
        points = 3 * np.random.default_rng(0).standard_normal((20_000, 2))
        largest = max(np.linalg.eigvalsh(self.family.hessian(w))[1] for w in points)
        assert largest <= L
        far = np.linalg.eigvalsh(self.family.hessian(np.array([40.0, 40.0])))[1]
        assert far == pytest.approx(L, rel=1e-6)

    def test_no_larger_third_derivative(self):
        """On a grid of points and directions."""
        axis = np.linspace(0, 3, 61)
        points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        batch = task(self.family, 0)

        def third(w, t):
            def along(s):
                v = jnp.array([jnp.cos(t), jnp.sin(t)])
                return objective.task_loss(self.family, w + s * v, batch)

            return jax.grad(jax.grad(jax.grad(along)))(0.0)

        angles = np.linspace(0, np.pi, 73)
        found = jax.jit(jax.vmap(lambda w: jax.vmap(lambda t: third(w, t))(angles)))(points)
        rho = self.family.constants().rho
        assert 0.995 * rho <= float(jnp.max(jnp.abs(found))) <= rho


@jax.jit
def count_ones(keys, count):
    return jax.lax.map(lambda key: ones(key, count), keys)


@pytest.mark.parametrize("count", [1, 20, 31, 32, 33, 1000, 100_000])
def test_ones_is_binomial(count):
    """Mean and variance of the number of ones among `count` fair bits, and its range."""
    draws = 4000
    found = np.asarray(count_ones(jax.random.split(jax.random.key(3), draws), count))
    assert found.min() >= 0
    assert found.max() <= count
    variance = count / 4
    assert abs(found.mean() - count / 2) <= 5 * np.sqrt(variance / draws)
    # Var of (n - B/2)^2 is B^2/8 - B/8 for a binomial number.
    spread = np.sqrt(max(count**2 / 8 - count / 8, 0) / draws)
    assert abs(np.mean((found - count / 2) ** 2) - variance) <= 5 * spread + 1e-12


# Young weights: tau; those of the bias and of the variance over (b, sigma, s_in, s_o); of Gamma.
TAU = 0.85
BIAS, VARIANCE, GAMMA = (0.165, 0.53, 0.005, 0.30), (0.235, 0.49, 0.001, 0.274), (0.607, 0.392, 0.001, 1.0)
CERTIFIED = 500


def weighted(lam, hessian_noise):
    """The drift of HF-MAML with these weights; hessian_noise = eta_h^2, 1/36 or 1 by the reading of D_h."""
    error = drift.adapted_gradient(lam)
    bias = Split(inner=(1 + lam) * lam).plus(error, chi(lam))
    variance = task_spread(lam)._replace(inner=(1 + lam) * lam, outer=1 + lam).plus(error, chi(lam))
    gamma = error._replace(outer=0.0).squared(GAMMA)._replace(outer=1.0)
    variance = variance.squared(VARIANCE).plus(gamma, hessian_noise)
    return drift.combine(1 / 25, TAU, bias.squared(BIAS), variance)


def relative_noise(found, B):
    """n with N <= n S, S = sigma^2/B + sigma~^2/(B D_o) + sigma~^2/D_in."""
    k = found.noise
    return max(k.sigma * B + k.tasks, k.outer * B + k.outer_tasks, k.inner)


@pytest.mark.parametrize("hessian_noise", [1 / 36, 1.0])
def test_accuracy_as_summarised_is_proved_up_to_500_tasks(hessian_noise):
    """At eps, the floor as summarised, N <= n S and a + kappa' eps <= 4 L (eps^2/S) (1/36 + C1/72): decrease
    is left at every b >= eps if n (1/36 + C1/72) < kappa. Both constants are then 36."""
    for weights in (BIAS, VARIANCE, GAMMA[:3]):
        assert sum(weights) == pytest.approx(1)
    for lam in np.linspace(1e-3, 1 / 6, 40):
        found = weighted(lam, hessian_noise)
        c1 = comparison_constants(lam)[0]
        shares = [
            relative_noise(found, B) * (1 / 36 + c1 / 72) / found.kappa for B in range(20, CERTIFIED + 1)
        ]
        assert 0 < max(shares) <= 0.95


def test_the_step_from_drift_to_accuracy():
    """a + kappa' eps <= 4 L (eps^2/S) (1/36 + C1/72) at eps = max{6 ((1 + v) S)^(1/2), 36 rho alpha S/L}."""
    rng = np.random.default_rng(4)
    L, rho, sigma, S = 10 ** rng.uniform(-3, 3, (4, 20_000))
    lam = rng.uniform(1e-3, 1 / 6, L.size)
    c1, _, c3 = np.transpose([comparison_constants(x) for x in lam])
    unit = rho * lam / L**2
    eps = np.maximum(6 * np.sqrt((1 + unit * sigma) * S), 36 * unit * S)
    a, slope = 4 * L + 2 * unit * L * c3 * sigma, 2 * unit * L * c1
    share = (a + slope * eps) / (4 * L * eps**2 / S * (1 / 36 + c1 / 72))
    assert share.max() <= 1 + 1e-12
    assert share.max() > 0.9
