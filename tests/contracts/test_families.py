"""What every discovered task family must do: its constants dominate, and are reached where exact.

Three programs a family: everything at given points, the noise of its samples, and the ascents of `suprema`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suprema import FAMILIES, one_thread, param, points, suprema, third_along

from jaxmaml import objective, tasks
from jaxmaml.theory import smoothness
from jaxmaml.theory.gradient_comparison import comparison_constants

pytestmark = pytest.mark.recorded

assert one_thread  # a fixture of every test here
every = pytest.mark.parametrize("name", [param(name) for name in FAMILIES])


@jax.jit
def _at_points(family, low, w, near, starts, alphas):
    """`low` is the family in float32; w: (6, d); near: (8, d); starts: points and directions (2, 30, d)."""
    F = functools.partial(objective.F, family)
    grad_F = jax.vmap(functools.partial(objective.grad_F, family))
    rates = jnp.concatenate([jnp.full(3, alphas[0]), jnp.full(12, alphas[1]), jnp.full(6, alphas[2])])
    found = grad_F(jnp.concatenate([w[:3], w[:4], near, w]), rates)
    everywhere = jnp.concatenate([w, near, jnp.zeros((1, family.dim))])
    gradients = jax.vmap(objective.task_gradients, (None, 0))(family, everywhere)
    return {
        "H, T": jax.vmap(functools.partial(third_along, family))(*starts),
        "gradients": dict(zip(("points", "near", "0"), jnp.split(gradients, (6, 14)), strict=True)),
        "F": jax.vmap(lambda x: F(x, alphas[0]))(w),
        "derivative of F": jax.vmap(jax.grad(F), (0, None))(w[:3], alphas[0]),
        "grad_F": dict(zip(alphas_of, jnp.split(found, (3, 15)), strict=True)),
        "low": objective.task_gradients(low, w[0].astype(np.float32)),
    }


alphas_of = {"objective": 0.2, "smoothness": 0.9, "comparison": 0.15}
"""alpha L by test."""
FAR = (1e-3, 0.3)
"""how far the neighbours of the first four points are away."""


def neighbours(family):
    """Two for each of four points, shape (4, 2, d)."""
    shift = points(family, 4, seed=7)
    return points(family)[:4, None] + np.multiply.outer(FAR, shift).swapaxes(0, 1)


@functools.cache
def at_points(name):
    family = FAMILIES[name]
    w, v = np.concatenate([points(family), points(family, 24)]), points(family, 30, seed=1)
    starts = np.stack([w, v / np.linalg.norm(v, axis=1, keepdims=True)])
    low = jax.tree.map(lambda x: np.asarray(x, np.float32), family)
    alphas = np.array(list(alphas_of.values())) / family.constants().L
    near = neighbours(family).reshape(8, -1)
    return jax.tree.map(np.asarray, _at_points(family, low, points(family), near, starts, alphas))


def largest_norm(matrices):
    """The largest spectral norm of symmetric matrices."""
    return np.abs(np.linalg.eigvalsh(matrices)).max()


def root_spread(gradients):
    """Over the tasks, the first axis but one."""
    centred = gradients - gradients.mean(axis=-2, keepdims=True)
    return np.sqrt(np.sum(centred**2, axis=-1).mean(axis=-1))


@functools.partial(jax.jit, static_argnames="draws")
def _noise(family, key, w, who, sizes, draws):
    """Gradients of a batch for each of the tasks `who` at w, (m, d), and Hessians of the first `draws`."""
    chosen = jax.tree.map(lambda x: jnp.asarray(x)[who], family.tasks)
    batches = family.sample(key, who, sizes)
    first = jax.tree.map(lambda x: x[:draws], (w, chosen, batches))
    return (
        jax.vmap(jax.grad(family.loss))(w, chosen, batches),
        jax.vmap(jax.hessian(family.loss))(*first),
    )


SIZE = 4.0
PAIRS = 4000
ROUNDING = 1e-24
"""of squares, where a family has no noise: exact batches are in another program than samples."""


@functools.cache
def noise(name):
    """Deviations of gradients and Hessians of single samples for task 1, or the only one, and those of
    gradients of batches of one sample and of SIZE for task 0, from those at exact batches."""
    family, exact = FAMILIES[name], at_points(name)
    G, (H, _) = exact["gradients"]["points"], exact["H, T"]
    last = min(1, G.shape[1] - 1)
    draws = 3000 if family.dim < 50 else 500
    counts = draws, PAIRS, PAIRS
    who, sizes = np.repeat([last, 0, 0], counts), np.repeat([1.0, 1.0, SIZE], counts)
    w = np.repeat(points(family)[[2, 1, 1]], counts, axis=0)
    gradients, hessians = (np.asarray(x) for x in _noise(family, jax.random.key(5), w, who, sizes, draws))
    return {
        "gradient": gradients[:draws] - G[2, last],
        "hessian": hessians - H[2, last],
        "batches": gradients[draws:].reshape(2, PAIRS, -1) - G[1, 0],
    }


@every
class TestEveryFamily:
    def test_lipschitz_gradient(self, name):
        constants = FAMILIES[name].constants()
        found = largest_norm(at_points(name)["H, T"][0])
        if constants.kind("L") == "exact":
            found = max(found, suprema(name)["L"].value)
            assert found >= constants.L * (1 - 1e-5)
        assert found <= constants.L * (1 + 1e-9)

    def test_lipschitz_hessian(self, name):
        constants = FAMILIES[name].constants()
        found = largest_norm(at_points(name)["H, T"][1])
        if constants.kind("rho") == "exact" and constants.rho > 0:
            found = max(found, suprema(name)["rho"].value)
            assert found >= constants.rho * (1 - 1e-5)
        assert found <= constants.rho * (1 + 1e-9) + 1e-12

    def test_spread_of_the_tasks(self, name):
        constants = FAMILIES[name].constants()
        found = root_spread(at_points(name)["gradients"]["points"]).max()
        if constants.kind("sigma") == "exact":
            if constants.sigma > 0:
                found = max(found, suprema(name)["sigma"].value)
            assert found >= constants.sigma * (1 - 1e-6)
        assert found <= constants.sigma * (1 + 1e-9)

    def test_sample_noise(self, name):
        """sigma_tilde and sigma_h dominate the noise of one sample, and equal it where exact."""
        constants, gradients = FAMILIES[name].constants(), noise(name)["gradient"]
        norms = np.abs(np.linalg.eigvalsh(noise(name)["hessian"])).max(axis=1)
        draws = len(gradients)
        error = gradients.std(axis=0) / np.sqrt(draws)
        assert np.all(np.abs(gradients.mean(axis=0)) <= 5 * error + 1e-12), "a sample is biased"
        for constant, squares in (
            ("sigma_tilde", np.sum(gradients**2, axis=1)),
            ("sigma_h", norms**2),
        ):
            bound = getattr(constants, constant) ** 2
            error = squares.std() / np.sqrt(draws)
            assert squares.mean() - 5 * error <= bound + ROUNDING, constant
            if constants.kind(constant) == "exact":
                assert abs(squares.mean() - bound) <= 5 * error + 1e-12, constant

    def test_batches_average(self, name):
        """The variance of a batch is that of a sample over its size, for a traced size."""
        one, many = np.sum(noise(name)["batches"] ** 2, axis=2)
        if one.max() <= ROUNDING:
            assert many.max() <= ROUNDING
            return
        ratio = one.mean() / many.mean()
        error = ratio * np.hypot(*(x.std() / x.mean() for x in (one, many))) / np.sqrt(PAIRS)
        assert abs(ratio - SIZE) <= 5 * error

    def test_samples_have_the_task_axis_first(self, name):
        who, sizes = jnp.array([1, 0]), jnp.array([1.0, 2.0])
        samples = jax.eval_shape(FAMILIES[name].sample, jax.random.key(0), who, sizes)
        assert all(x.shape[0] == 2 for x in jax.tree.leaves(samples))

    def test_gradient_of_the_objective(self, name):
        family = FAMILIES[name]
        alpha = 0.2 / family.constants().L
        facts = at_points(name)
        for w, expected, found in zip(
            points(family)[:3], facts["derivative of F"], facts["grad_F"]["objective"], strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
            if hasattr(family, "grad_objective"):
                closed = family.grad_objective(w, alpha)
                np.testing.assert_allclose(closed, expected, rtol=1e-10, atol=1e-12)

    def test_infimum(self, name):
        family, facts = FAMILIES[name], at_points(name)
        value, kind = family.infimum(0.2 / family.constants().L)
        lowest = -suprema(name)["infimum"].value if kind == "exact" else np.inf
        lowest = min(lowest, facts["F"].min())
        size = max(abs(value), root_spread(facts["gradients"]["0"][0]) ** 2, 1e-3)
        assert lowest >= value - 1e-9 * size
        if kind == "exact":
            assert lowest <= value + 1e-6 * size

    def test_smoothness_bounds_the_gradient_of_F(self, name):
        """||grad F(w) - grad F(u)|| <= min{L(w), L(u)} ||w - u||, also with the sharper parameter."""
        family, facts = FAMILIES[name], at_points(name)
        constants = family.constants()
        alpha = 0.9 / constants.L
        w, u = points(family)[:4], neighbours(family)
        slopes = facts["grad_F"]["smoothness"]
        changes = np.linalg.norm(slopes[:4, None] - slopes[4:].reshape(u.shape), axis=2)
        here = np.linalg.norm(facts["gradients"]["points"][:4], axis=2).mean(axis=1)
        there = np.linalg.norm(facts["gradients"]["near"], axis=2).mean(axis=1).reshape(4, 2)
        for i, j in np.ndindex(4, 2):
            for function in (smoothness.smoothness, smoothness.sharp_smoothness):
                limit = min(function(constants, alpha, norm) for norm in (here[i], there[i, j]))
                assert changes[i, j] <= limit * np.linalg.norm(u[i, j] - w[i]) * (1 + 1e-9)

    def test_gradient_comparison(self, name):
        constants, facts = FAMILIES[name].constants(), at_points(name)
        c1, c2, c3 = comparison_constants(0.15)
        for gradients, slope in zip(facts["gradients"]["points"], facts["grad_F"]["comparison"], strict=True):
            total = np.linalg.norm(slope)
            assert np.linalg.norm(gradients.mean(axis=0)) <= c1 * total + c2 * constants.sigma
            rms = np.sqrt(np.mean(np.sum(gradients**2, axis=1)))
            assert rms <= c1 * total + c3 * constants.sigma

    def test_is_a_pytree_of_numbers(self, name):
        """Which every program above relies on: the family is its argument."""
        family = FAMILIES[name]
        leaves, structure = jax.tree.flatten(family)
        assert all(np.issubdtype(np.result_type(x), np.number) for x in leaves)
        again = jax.tree.unflatten(structure, leaves)
        assert again.dim == family.dim
        assert jax.eval_shape(lambda f, w: objective.F(f, w, 0.1), family, points(family)[0]).shape == ()

    def test_float32(self, name):
        """A batch in float32 gives float32, near the float64 value."""
        gradient, exact = at_points(name)["low"], at_points(name)["gradients"]["points"][0]
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, exact, atol=2e-5 * np.abs(exact).max())


def test_unknown_family():
    with pytest.raises(ValueError, match="unknown family 'cosin'.*Did you mean 'cosine'"):
        tasks.make("cosin")
