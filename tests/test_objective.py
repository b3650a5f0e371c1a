"""F, its gradient and F-hat against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmaml import objective
from jaxmaml.tasks import cosine, quadratic, shared_quadratic
from jaxmaml.theory import objective_gap

pytestmark = pytest.mark.recorded


def test_F_of_quadratics_by_hand():
    family = quadratic.make(n=3, d=2, seed=4)
    hessians, centers = family.tasks
    w, alpha = np.array([1.7, -2.2]), 0.4
    total = 0.0
    for A, c in zip(hessians, centers, strict=True):
        adapted = w - alpha * A @ (w - c)
        total += 0.5 * (adapted - c) @ A @ (adapted - c)
    np.testing.assert_allclose(objective.F(family, jnp.asarray(w), alpha), total / 3, rtol=1e-13)


def test_smoothness():
    family = cosine.make(n=5, d=3)
    w = jnp.array([0.4, -1.0, 2.0])
    norms = np.linalg.norm(family.task_gradients(np.asarray(w)), axis=1)
    expected = 4 * 5.0 + 2 * 8.0 * 0.03 * norms.mean()
    np.testing.assert_allclose(objective.smoothness_at(family, w, 0.03, 5.0, 8.0), expected, rtol=1e-13)


def test_F_hat_of_quadratics():
    """E F-hat = F + alpha^2 tr(A tau^2/d) / (2 D): the inner noise moves w+ by -alpha xi."""
    family = shared_quadratic.make(n=3, d=2, smallest=0.5, largest=2.0, tau=3.0)
    w, alpha, D = jnp.array([1.0, -1.0]), 0.3, 4.0
    exact = float(objective.F(family, w, alpha))
    extra = 0.5 * alpha**2 * (0.5 + 2.0) * 9.0 / 2 / D
    values = [float(objective.F_hat(family, w, alpha, D, jax.random.key(j), draws=4000)) for j in range(8)]
    error = np.std(values, ddof=1) / np.sqrt(8)
    assert abs(np.mean(values) - exact - extra) <= 5 * error
    assert extra > 10 * error


def test_gap_of_the_gradients_within_its_bound():
    """grad F-hat - grad F of (c) with gradient noise in one dimension, by Gauss-Hermite quadrature."""
    tau, alpha = 4.0, 0.1
    family = cosine.make(n=4, d=1, tau=tau, seed=2)
    constants = family.constants()
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    for D in (1.0, 3.0, 30.0):
        for x in np.linspace(-3, 3, 25):
            w = np.array([x])
            slope = family.task_gradients(w)
            damping = 1 - alpha * family.task_hessians(w)
            shifted = [
                damping * family.task_gradients(w - alpha * (slope + tau * z / np.sqrt(D))) for z in nodes
            ]
            hat = np.tensordot(weights, np.stack(shifted), axes=1).mean(axis=0)
            gap = np.linalg.norm(hat - family.grad_objective(w, alpha))
            assert gap <= objective_gap.gap(constants, alpha, D) * (1 + 1e-9)
            assert objective_gap.gap(constants, alpha, D) <= objective_gap.gap_summary(constants, alpha, D)


def test_F_hat_is_differentiable_for_a_fixed_key():
    family = cosine.make(n=4, d=2, tau=1.0)
    key = jax.random.key(0)

    def value(w):
        return objective.F_hat(family, w, 0.05, 2.0, key, draws=10)

    w, v, h = jnp.array([0.3, 1.0]), jnp.array([1.0, -2.0]), 1e-5
    slope = (value(w + h * v) - value(w - h * v)) / (2 * h)
    assert float(jnp.vdot(jax.grad(value)(w), v)) == pytest.approx(float(slope), rel=1e-7)
