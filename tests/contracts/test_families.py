"""What every discovered task family must do: its constants dominate, and are reached where exact."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from small_families import NOISE, SIZES

from jaxmaml import objective, tasks
from jaxmaml.tasks.finite_data import LOSSES


def instance(make, **numbers):
    """The family; where its data are absent, a skip that says what to install."""
    try:
        return make(**numbers)
    except FileNotFoundError as absent:
        return pytest.param(None, marks=pytest.mark.skip(reason=str(absent)))


def instances():
    for name, make in tasks.families().items():
        takes = inspect.signature(make).parameters
        noise = {key: value for key, value in NOISE.items() if key in takes}
        if "loss" in takes:
            for loss in LOSSES:
                if not (name in ("digits", "fashion") and loss == "cauchy"):
                    yield f"{name}-{loss}", instance(make, loss=loss, **SIZES.get(name, {}))
        else:
            yield name, make(**SIZES.get(name, {}), **noise)


FAMILIES = dict(instances())
every = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def points(family, count=6, seed=0):
    """Random points; where sigma holds on a ball, inside it."""
    directions = np.random.default_rng(seed).standard_normal((count, family.dim))
    if hasattr(family, "radius"):
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        scale = family.radius * np.linspace(0.1, 1, count)[:, None]
        return family.ball_center() + scale * directions
    return 2.5 * directions + 0.3


def hessians(family, w):
    """hess f_i(w) of every task, shape (n, d, d)."""
    batches = objective.full_episodes(family).inner
    return jax.vmap(lambda b: jax.hessian(objective.task_loss, argnums=1)(family, w, b))(batches)


def third_along(family, w, v):
    """d/dt hess f_i(w + t v) at 0, shape (n, d, d)."""
    return jax.jvp(lambda x: hessians(family, x), (w,), (v,))[1]


def spectral(matrices):
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh(matrices)))


def spread(family, w):
    gradients = objective.task_gradients(family, w)
    return jnp.sqrt(jnp.mean(jnp.sum((gradients - gradients.mean(axis=0)) ** 2, axis=1)))


def largest(function, starts):
    """The largest local maximum found by gradient ascent from several starts."""
    both = jax.jit(jax.value_and_grad(lambda x: -function(x)))

    def negated(x):
        value, slope = both(jnp.asarray(x))
        return float(value), np.nan_to_num(np.asarray(slope, float))

    return max(-scipy.optimize.minimize(negated, start, jac=True, method="L-BFGS-B").fun for start in starts)


@every
class TestEveryFamily:
    def test_lipschitz_gradient(self, family):
        constants = family.constants()
        curvature = jax.jit(lambda w: spectral(hessians(family, w)))
        found = max(float(curvature(w)) for w in points(family))
        if constants.kind("L") == "exact":
            found = max(found, largest(curvature, points(family, 12)))
            assert found >= constants.L * (1 - 1e-5)
        assert found <= constants.L * (1 + 1e-9)

    def test_lipschitz_hessian(self, family):
        constants = family.constants()

        def slope(x):
            v = x[family.dim :] / jnp.linalg.norm(x[family.dim :])
            return spectral(third_along(family, x[: family.dim], v))

        starts = np.concatenate([points(family, 24), points(family, 24, seed=1)], axis=1)
        found = max(float(x) for x in jax.jit(jax.vmap(slope))(starts))
        if constants.kind("rho") == "exact" and constants.rho > 0:
            found = max(found, largest(slope, starts))
            assert found >= constants.rho * (1 - 1e-5)
        assert found <= constants.rho * (1 + 1e-9) + 1e-12

    def test_spread_of_the_tasks(self, family):
        constants = family.constants()
        found = max(float(spread(family, w)) for w in points(family))
        if constants.kind("sigma") == "exact":
            found = max(found, largest(lambda w: spread(family, w), points(family, 12)))
            assert found >= constants.sigma * (1 - 1e-6)
        assert found <= constants.sigma * (1 + 1e-9)

    def test_sample_noise(self, family):
        """sigma_tilde and sigma_h dominate the noise of one sample, and equal it where exact."""
        constants, draws = family.constants(), 3000 if family.dim < 50 else 500
        task = jax.tree.map(lambda x: jnp.asarray(x)[1], family.tasks)
        repeated = jnp.full(draws, 1)
        w = jnp.asarray(points(family)[2])

        @jax.jit
        def noise(key):
            samples = family.sample(key, repeated, jnp.ones(draws))

            def gradient(batch):
                return jax.grad(family.loss)(w, task, batch)

            def hessian(batch):
                return jax.hessian(family.loss)(w, task, batch)

            exact = family.full(task)
            gradients = jax.vmap(gradient)(samples) - gradient(exact)
            norms = jnp.linalg.norm(jax.vmap(hessian)(samples) - hessian(exact), 2, axis=(1, 2))
            return gradients, norms

        gradients, norms = (np.asarray(x) for x in noise(jax.random.key(5)))
        error = gradients.std(axis=0) / np.sqrt(draws)
        assert np.all(np.abs(gradients.mean(axis=0)) <= 5 * error + 1e-12), "a sample is biased"
        for name, squares in (
            ("sigma_tilde", np.sum(gradients**2, axis=1)),
            ("sigma_h", norms**2),
        ):
            bound = getattr(constants, name) ** 2
            error = squares.std() / np.sqrt(draws)
            assert squares.mean() - 5 * error <= bound, name
            if constants.kind(name) == "exact":
                assert abs(squares.mean() - bound) <= 5 * error + 1e-12, name

    def test_batches_average(self, family):
        """The variance of a batch is that of a sample over its size, for a traced size."""
        draws, size = 4000, 4.0
        task = jax.tree.map(lambda x: jnp.asarray(x)[0], family.tasks)
        repeated = jnp.zeros(draws, int)
        w = jnp.asarray(points(family)[1])

        @jax.jit
        def squares(key, size):
            samples = family.sample(key, repeated, jnp.full(draws, size))
            exact = jax.grad(family.loss)(w, task, family.full(task))
            gradients = jax.vmap(lambda b: jax.grad(family.loss)(w, task, b))(samples) - exact
            return jnp.sum(gradients**2, axis=1)

        one, many = (np.asarray(squares(jax.random.key(j), d)) for j, d in enumerate((1.0, size)))
        if one.max() == 0:
            assert many.max() == 0
            return
        ratio = one.mean() / many.mean()
        error = ratio * np.hypot(*(x.std() / x.mean() for x in (one, many))) / np.sqrt(draws)
        assert abs(ratio - size) <= 5 * error

    def test_samples_have_the_task_axis_first(self, family):
        samples = family.sample(jax.random.key(0), jnp.array([1, 0]), jnp.array([1.0, 2.0]))
        assert all(x.shape[0] == 2 for x in jax.tree.leaves(samples))

    def test_gradient_of_the_objective(self, family):
        alpha = 0.2 / family.constants().L
        for w in points(family, 3):
            w = jnp.asarray(w)
            expected = jax.grad(lambda v: objective.F(family, v, alpha))(w)
            found = objective.grad_F(family, w, alpha)
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
            if hasattr(family, "grad_objective"):
                closed = family.grad_objective(np.asarray(w), alpha)
                np.testing.assert_allclose(closed, expected, rtol=1e-10, atol=1e-12)

    def test_infimum(self, family):
        alpha = 0.2 / family.constants().L
        value, kind = family.infimum(alpha)
        function = jax.jit(lambda w: objective.F(family, w, alpha))
        starts = 0.6 * np.random.default_rng(1).standard_normal((40, family.dim))
        lowest = -largest(lambda w: -function(w), starts) if kind == "exact" else np.inf
        lowest = min(lowest, *(float(function(jnp.asarray(w))) for w in points(family)))
        size = max(abs(value), float(spread(family, jnp.zeros(family.dim))) ** 2, 1e-3)
        assert lowest >= value - 1e-9 * size
        if kind == "exact":
            assert lowest <= value + 1e-6 * size

    def test_smoothness_bounds_the_gradient_of_F(self, family):
        """||grad F(w) - grad F(u)|| <= min{L(w), L(u)} ||w - u||, also with the sharper parameter."""
        from jaxmaml.theory import smoothness

        constants = family.constants()
        alpha = 0.9 / constants.L
        grad = jax.jit(lambda w: objective.grad_F(family, w, alpha))

        def parameter(function, w):
            norms = np.linalg.norm(np.asarray(objective.task_gradients(family, w)), axis=1)
            return function(constants, alpha, norms.mean())

        for w, shift in zip(points(family, 4), points(family, 4, seed=7), strict=True):
            for size in (1e-3, 0.3):
                u = w + size * shift
                change = float(jnp.linalg.norm(grad(jnp.asarray(w)) - grad(jnp.asarray(u))))
                for function in (smoothness.smoothness, smoothness.sharp_smoothness):
                    limit = min(parameter(function, jnp.asarray(x)) for x in (w, u))
                    assert change <= limit * np.linalg.norm(u - w) * (1 + 1e-9)

    def test_gradient_comparison(self, family):
        from jaxmaml.theory.gradient_comparison import comparison_constants

        constants = family.constants()
        alpha = 0.15 / constants.L
        c1, c2, c3 = comparison_constants(0.15)
        for w in points(family):
            gradients = np.asarray(objective.task_gradients(family, jnp.asarray(w)))
            total = float(jnp.linalg.norm(objective.grad_F(family, jnp.asarray(w), alpha)))
            assert np.linalg.norm(gradients.mean(axis=0)) <= c1 * total + c2 * constants.sigma
            rms = np.sqrt(np.mean(np.sum(gradients**2, axis=1)))
            assert rms <= c1 * total + c3 * constants.sigma

    def test_is_a_pytree_of_numbers(self, family):
        leaves, structure = jax.tree.flatten(family)
        again = jax.tree.unflatten(structure, leaves)
        assert again.dim == family.dim
        assert np.shape(jax.jit(lambda f, w: objective.F(f, w, 0.1))(family, points(family)[0])) == ()

    def test_float32(self, family):
        """A batch in float32 gives float32, near the float64 value."""
        low = jax.tree.map(lambda x: np.asarray(x, np.float32), family)
        w = points(family)[0]
        gradient = objective.task_gradients(low, jnp.asarray(w, jnp.float32))
        assert gradient.dtype == np.float32
        exact = objective.task_gradients(family, jnp.asarray(w))
        scale = float(jnp.max(jnp.abs(exact)))
        np.testing.assert_allclose(gradient, exact, atol=2e-5 * scale)


def test_unknown_family():
    with pytest.raises(ValueError, match="unknown family 'cosin'.*Did you mean 'cosine'"):
        tasks.make("cosin")
