"""Measured constants against closed forms, dense derivatives and enumeration."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from small_families import SIZES
from suprema import FAMILIES, one_thread, param, suprema

import jaxmaml
from jaxmaml import tasks
from jaxmaml.measure import (
    UNITS,
    Estimate,
    Problem,
    constants,
    curvature,
    from_family,
    from_pools,
    kinks,
    lanczos,
    points_near,
    ritz,
    survey,
)

pytestmark = pytest.mark.recorded

KEY = jax.random.key(11)
assert one_thread  # a fixture of every test here


# The families: never above the declared constants, and at them where these are exact and attained


SORTS = ("cosine", "quadratic", "finite_data-softmax", "digits-logistic", "shared_curvature", "slow_tail")
"""All constants exact and attained; rho = 0; pools, of three features and of an image's; a Hessian that the
tasks share; tails. The others measure what these do: their own constants are tested in contracts/.
"""


def instances():
    """Every family with its default loss, and every loss on synthetic pools; `make test` takes the SORTS."""
    for name, family in FAMILIES.items():
        default = getattr(family, "kind", None) in (None, "logistic")
        if name.startswith("finite_data") or (default and not name.endswith(("-softmax", "-sigmoid"))):
            marked = param(name)
            marks = marked.marks if name in SORTS else (*marked.marks, pytest.mark.exhaustive)
            yield pytest.param(name, id=name, marks=marks)


def random_points(family, count, seed=0):
    """Random points; where sigma holds on a ball, inside it."""
    directions = np.random.default_rng(seed).standard_normal((count, family.dim))
    if hasattr(family, "radius"):
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return family.ball_center() + family.radius * np.linspace(0.2, 1, count)[:, None] * directions
    return 2.5 * directions + 0.3


def summits(name):
    """The points at which exact constants are attained, found with dense derivatives."""
    d = FAMILIES[name].dim
    return [suprema(name)[c].at[:d] for c in ("L", "rho", "sigma") if c in suprema(name)]


@pytest.mark.parametrize("name", list(instances()))
def test_families(name):
    """The ascent to the summits leaves 1e-5 of L, rho and sigma; of the noise there is what it samples."""
    family = FAMILIES[name]
    declared = family.constants()
    points = [jnp.asarray(w) for w in (*random_points(family, 3), *summits(name))]
    measured = constants(from_family(family, points[0]), points=points, key=KEY)
    for constant in ("L", "rho", "sigma"):
        bound, value = getattr(declared, constant), getattr(measured, constant).value
        assert value <= bound * (1 + 1e-9) + 1e-12, constant
        if declared.kind(constant) == "exact":
            assert value >= bound * (1 - 1e-5), constant
    for constant in ("sigma_tilde", "sigma_h"):
        bound, found = getattr(declared, constant) ** 2, getattr(measured, constant)
        # Five standard errors of the mean square, of which the interval is 2 x 1.97.
        error = 5 * (found.high**2 - found.low**2) / (2 * 1.97)
        assert found.value**2 <= bound + error + 1e-24, constant
        if declared.kind(constant) == "exact":
            assert found.value**2 >= bound - error - 1e-24, constant
            # The interval would also hold were it infinite.
            assert error <= 5 * bound + 1e-24, constant


def test_cosine_in_closed_form():
    """rho = a omega^3 where one sine is 1, L where one cosine is -1: points by hand."""
    family = tasks.make("cosine", n=3, d=4, mu=0.3, a=1.7, omega=2.3, spread=0.9)
    phases = np.asarray(family.tasks.phases)
    flat, steep = np.full(4, 0.2), np.full(4, 0.2)
    flat[1], steep[2] = (math.pi - phases[2, 1]) / 2.3, (math.pi / 2 - phases[1, 2]) / 2.3
    problem = from_family(family, jnp.zeros(4))
    at = functools.partial(constants, problem, key=KEY, samples=2)
    assert at(points=[flat]).L.value == pytest.approx(0.3 + 1.7 * 2.3**2, rel=1e-12)
    steepest = at(points=[steep])
    assert steepest.rho.value == pytest.approx(1.7 * 2.3**3, rel=1e-12)
    assert steepest.rho.how.endswith("at point 0, task 1")
    # T is diagonal there, with these entries; the largest is found among 4 local maxima for each task.
    elsewhere = np.array([0.7, -1.1, 0.4, 2.0])
    entries = 1.7 * 2.3**3 * np.sin(2.3 * elsewhere + phases)
    assert at(points=[elsewhere]).rho.value == pytest.approx(np.abs(entries).max(), rel=1e-12)


def test_each_task_has_its_own_hessian():
    """Two tasks with opposite curvatures: the Hessian of their mean is 0, L is 3."""

    def loss(w, batch):
        return 1.5 * jnp.mean(batch) * (w[0] ** 2 - w[1] ** 2 / 4) + w[0] ** 3 * jnp.mean(batch) / 6

    pools = jnp.ones((2, 4)) * jnp.array([[1.0], [-1.0]])
    measured = constants(
        from_pools(loss, jnp.array([0.0, 0.4]), pools), points=[jnp.array([0.0, 0.4])], key=KEY
    )
    assert measured.L.value == pytest.approx(3.0)
    assert measured.rho.value == pytest.approx(1.0)
    assert measured.sigma.value == pytest.approx(1.5 * 0.4 / 2)
    assert measured.sigma_tilde.value <= 1e-15
    assert measured.sigma_h.value <= 1e-15


# A small network: dense float64 derivatives and enumeration of the pools


def network(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["first"][0] + params["first"][1])
    return jnp.mean((hidden @ params["last"] - batch["y"]) ** 2)


def network_problem(dtype=np.float64, shift=0.3, pool=12):
    rng = np.random.default_rng(5)
    x = 1.3 * rng.standard_normal((3, pool, 2)) + shift
    y = np.sin(2 * x[..., 0] + np.arange(3)[:, None]) - 0.7
    params = {
        "first": [1.5 * rng.standard_normal((2, 5)), np.full(5, 0.2)],
        "last": rng.standard_normal(5),
    }
    low = jax.tree.map(lambda v: jnp.asarray(v, dtype), (params, {"x": x, "y": y}))
    return from_pools(network, *low)


@functools.cache
def network_reference():
    """The constants at the parameters, from d x d and d x d x d arrays and every sample of the pools."""
    problem = network_problem()
    flat, unravel = ravel_pytree(problem.params)

    def f(w, batch):
        return network(unravel(w), batch)

    def each(function, batches):
        return np.asarray(jax.jit(jax.vmap(lambda b: function(f)(flat, b)))(batches))

    def singles(function):
        return np.stack([each(function, jax.tree.map(lambda x, i=i: x[i][:, None], pools)) for i in range(3)])

    pools = problem.full
    g, H = each(jax.grad, pools), each(jax.hessian, pools)
    T = each(lambda h: jax.jacfwd(jax.hessian(h)), pools)
    rng = np.random.default_rng(0)
    rho = 0.0
    for tensor in T:
        u, v = rng.standard_normal((2, 300, flat.size))
        for _ in range(100):
            x = [v, u]
            for _ in range(3):
                y = np.einsum("sa,sb,abc->sc", x[-1], x[-2], tensor, optimize=True)
                size = np.linalg.norm(y, axis=1, keepdims=True)
                x.append(y / size)
            u, v = x[-1], x[-2]
        rho = max(rho, size.max())
    noise = singles(jax.grad) - g[:, None]
    curved = np.linalg.eigvalsh(singles(jax.hessian) - H[:, None])
    return {
        "L": np.abs(np.linalg.eigvalsh(H)).max(),
        "rho": rho,
        "sigma": np.sqrt(np.sum((g - g.mean(axis=0)) ** 2, axis=1).mean()),
        "sigma_tilde": np.sqrt(np.sum(noise**2, axis=2).mean(axis=1).max()),
        "sigma_h": np.sqrt((np.abs(curved).max(axis=2) ** 2).mean(axis=1).max()),
    }


# One set of options for as many tests as possible: they share compiled programs.
NETWORK = {"key": KEY, "samples": 64, "starts": 6}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_network_against_dense_derivatives(dtype):
    """20 parameters, 24 Lanczos steps: exact but for rounding, 1e-4 with third derivatives in float32."""
    problem = network_problem(dtype)
    measured = constants(problem, points=[problem.params], **NETWORK)
    reference = network_reference()
    rounding = 1e-9 if dtype is np.float64 else 1e-4
    for name in ("L", "rho", "sigma"):
        assert getattr(measured, name).value == pytest.approx(reference[name], rel=rounding), name
    for name in ("sigma_tilde", "sigma_h"):
        found = getattr(measured, name)
        error = 5 * (found.high**2 - found.low**2) / (2 * 1.97)
        assert abs(found.value**2 - reference[name] ** 2) <= error, name
        assert error <= 0.5 * found.value**2, name
    assert measured.L.high <= measured.L.value * (1 + 1e-3)


def test_network_far_from_exact_lanczos_is_below():
    problem, reference = network_problem(), network_reference()
    rough = constants(
        problem, points=[problem.params], key=KEY, iterations=2, starts=1, samples=8, tolerance=10
    )
    for name in ("L", "rho"):
        assert 0.3 * reference[name] <= getattr(rough, name).value <= reference[name] * (1 + 1e-12)
    assert rough.L.high > rough.L.value * (1 + 1e-3)


# Units


def test_full_matrix_products():
    """Whatever the precision in force: GPUs round float32 to 11 bits by default."""
    problem, seen = network_problem(), set()

    def loss(params, batch):
        seen.add(jax.config.jax_default_matmul_precision)
        return problem.loss(params, batch)

    watched = dataclasses.replace(problem, loss=loss)
    with jax.default_matmul_precision("default"):
        points = points_near(watched, KEY, steps=1, perturbations=1)
        constants(watched, key=KEY, points=points[:1], iterations=2, starts=1, samples=2)
    assert seen == {"highest"}


def test_units():
    """Under f -> c f and w -> s w, with c and s no powers of 2; the default points scale with w."""
    c, s = 3.7e-4, 61.3
    powers = {"L": 2, "rho": 3, "sigma": 1, "sigma_tilde": 1, "sigma_h": 2}
    assert powers.keys() == UNITS.keys()

    def scaled_loss(params, batch):
        return c * network(jax.tree.map(lambda x: x / s, params), batch)

    plain = network_problem()
    scaled = from_pools(scaled_loss, jax.tree.map(lambda x: s * x, plain.params), plain.full)
    moved = [jax.tree.map(lambda x, j=j: x + j, plain.params) for j in (0.0, 0.1, -0.3)]
    for points in (moved, None):
        far = None if points is None else [jax.tree.map(lambda x: s * x, p) for p in points]
        here, there = constants(plain, points=points, **NETWORK), constants(scaled, points=far, **NETWORK)
        for name, power in powers.items():
            for end in ("value", "low", "high"):
                expected = getattr(getattr(here, name), end) * c / s**power
                assert expected > 0
                # Equal up to rounding, which the search for rho amplifies.
                assert getattr(getattr(there, name), end) == pytest.approx(expected, rel=1e-6), name


# Lanczos


def spectra():
    """Of dimension 16."""
    rng = np.random.default_rng(3)
    return {
        "indefinite": rng.standard_normal(16) - 2,
        "outlier": np.r_[np.linspace(0, 1, 15), 30.0],
        "clustered": np.r_[np.full(8, 2.0), np.full(7, 2.0 - 1e-6), -1.0],
        "low rank": np.r_[np.zeros(14), 3.0, -5.0],
        "opposite": np.r_[-4.0, 4.0, rng.uniform(-1, 1, 14)],
        "identity": np.full(16, 0.7),
        "zero": np.zeros(16),
        "tiny": 1e-25 * rng.standard_normal(16),
    }


@jax.jit
def dense_lanczos(A, start, steps):
    return lanczos(lambda v: A @ v, start, steps, room=16)


@pytest.mark.parametrize("name", spectra())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanczos_against_eigvalsh(name, dtype):
    """Never above ||A||; an eigenvalue within the residual; exact with d steps; all but for rounding."""
    eigenvalues, d = spectra()[name], 16
    rng = np.random.default_rng(8)
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    A = ((rotation * eigenvalues) @ rotation.T).astype(dtype)
    A = (A + A.T) / 2
    exact = np.linalg.eigvalsh(A.astype(float))
    norm = np.abs(exact).max()
    # d products and orthogonalisations, each with errors of a few eps in each of d entries.
    rounding = 4 * d**1.5 * np.finfo(dtype).eps * norm
    start = rng.standard_normal(d).astype(dtype)
    for steps in (1, 2, 5, d - 1, d):
        diagonal, beside = (np.asarray(x)[:steps] for x in dense_lanczos(A, start, steps))
        assert diagonal.dtype == dtype
        value, residual = ritz(diagonal, beside)
        assert value <= norm + rounding
        assert np.min(np.abs(np.abs(exact) - value)) <= residual + rounding
    assert value == pytest.approx(norm, abs=rounding)
    assert residual <= rounding


def test_ritz_pair_against_projection_on_the_krylov_space():
    """The top Ritz pair of A on span {b, A b, A^2 b}, and its residual, from a basis in NumPy."""
    rng = np.random.default_rng(4)
    A, b = rng.standard_normal((16, 16)), rng.standard_normal(16)
    A = A + A.T + 0.5 * np.eye(16)
    basis = np.linalg.qr(np.stack([b, A @ b, A @ A @ b], axis=1))[0]
    values, vectors = np.linalg.eigh(basis.T @ A @ basis)
    top = np.argmax(np.abs(values))
    y = basis @ vectors[:, top]
    value, residual = ritz(*(np.asarray(x)[:3] for x in dense_lanczos(A, b, 3)))
    assert value == pytest.approx(abs(values[top]), rel=1e-10)
    assert residual == pytest.approx(np.linalg.norm(A @ y - values[top] * y), rel=1e-8)
    assert residual > 0.01 * value


def test_lanczos_in_one_dimension():
    diagonal, beside = lanczos(lambda v: -2.5 * v, jnp.array([3.0]), 1)
    assert ritz(diagonal, beside) == (2.5, 0.0)


def test_ritz_takes_batches():
    rng = np.random.default_rng(0)
    diagonal, beside = rng.standard_normal((2, 4, 3, 6))
    values, residuals = ritz(diagonal, beside)
    assert values.shape == residuals.shape == (4, 3)
    one = np.diag(diagonal[2, 1]) + np.diag(beside[2, 1, :-1], 1) + np.diag(beside[2, 1, :-1], -1)
    assert values[2, 1] == pytest.approx(np.abs(np.linalg.eigvalsh(one)).max())


def test_an_unconverged_norm_says_so_and_more_steps_mend_it():
    """200 eigenvalues evenly spaced in [0, 1]: none stands out, Lanczos is slow."""

    def loss(w, batch):
        return 0.5 * jnp.vdot(w, jnp.linspace(0, 1, 200) * w) + jnp.mean(batch)

    problem = from_pools(loss, jnp.ones(200), jnp.zeros((1, 3)))
    options = {"points": [jnp.ones(200)], "key": KEY, "samples": 2, "starts": 1}
    rough = constants(problem, iterations=2, tolerance=1e-7, **options)
    assert "not converged in 16 steps" in rough.L.how
    assert rough.L.value < 1 <= rough.L.high
    stopped = constants(problem, iterations=2, tolerance=0.5, **options)
    assert stopped.L.value < rough.L.value
    fine = constants(problem, iterations=60, **options)
    assert "not converged" not in fine.L.how
    assert fine.L.value == pytest.approx(1, rel=1e-3)


# rho from pairs of points


def test_a_kink_shows_in_pairs_of_points_only():
    """f = max(w, 0)^2 / 2: the third derivative is 0 on both sides, H jumps by 1."""

    def loss(w, batch):
        return 0.5 * jnp.mean(batch) * jnp.maximum(w[0], 0) ** 2

    points = [jnp.array([x]) for x in (-3.0, -0.3, 0.5)]
    measured = constants(from_pools(loss, points[0], jnp.ones((2, 4))), points=points, key=KEY)
    assert measured.rho.value == pytest.approx(1 / 0.8)
    kink = "the second derivative jumps between points 1 and 2, task 0"
    assert measured.kink == kink
    assert measured.rho.how == (
        f"no finite rho holds, for {kink}; the value is what differentiation sees, "
        "difference of Hessians between points 1 and 2, task 0"
    )


def test_rounding_is_not_taken_for_rho():
    """cos(b + w) in float32, L = rho = 1. The angle is rounded to a multiple of 2^-19 and w moves by 2^-23,
    from between two of these upwards: for every second b the angle moves by 16 times as much."""

    def loss(w, batch):
        return jnp.mean(jnp.cos(batch + w[0]))

    b = np.linspace(16.0, 29.0, 200, dtype=np.float32)[:, None]
    w = jnp.array([1.25 + 2.0**-20], np.float32)
    near = w + np.float32(2.0**-23)
    moved = np.abs((b + near) - (b + w))
    assert 50 < np.sum(moved > 15 * 2.0**-23) < 150, "rounding must show for the test to say anything"
    measured = constants(from_pools(loss, w, b), points=[w, near], key=KEY, samples=2)
    # The steepest of 200 angles is within 0.04 of the top of a sine, 1e-3 below it.
    assert 0.999 <= measured.rho.value <= 1.001


# The noise


def test_the_largest_of_many_tasks_is_not_taken_for_the_worst():
    """60 equal tasks, sigma_tilde = 2: the mean square is unbiased, the largest of the first look is not."""

    def loss(w, batch):
        return jnp.mean(batch @ w)

    def sample(key, who, size):
        return jnp.sqrt(2.0) * jax.random.normal(key, (who.size, size, 2))

    problem = Problem(loss, jnp.zeros(2), jnp.zeros((60, 1, 2)), sample)
    found = [
        constants(problem, points=[jnp.zeros(2)], key=jax.random.key(seed), samples=4).sigma_tilde
        for seed in range(40)
    ]
    squares = np.array([e.value**2 for e in found])
    assert abs(squares.mean() - 4) <= 5 * squares.std() / math.sqrt(40)
    inside = sum(e.low <= 2 <= e.high for e in found)
    # 38 of 40 on average; 31 or fewer in one case of 1e5 (binomial).
    assert inside >= 32
    first = np.asarray(sample(jax.random.key(0), np.zeros(60, int), 4))
    assert np.sum(first**2, axis=2).mean(axis=1).max() > 6, "the naive largest would be far off"


def test_the_worst_task_is_found():
    """sigma_tilde = sigma_h = i + 1 for task i, so that the means tell tasks apart."""

    def loss(w, batch):
        return jnp.mean(batch) * (w[0] + 0.5 * w[0] ** 2)

    def sample(key, who, size):
        return (1.0 + who[:, None]) * (2 * jax.random.bernoulli(key, shape=(who.size, size)) - 1.0)

    problem = Problem(loss, jnp.zeros(1), jnp.zeros((7, 1)), sample)
    measured = constants(problem, points=[jnp.zeros(1)], key=KEY)
    for name, n in (("sigma_tilde", 256), ("sigma_h", 64)):
        found = getattr(measured, name)
        assert found.value == pytest.approx(7)
        assert found.n == n
        assert "at point 0, task 6" in found.how
    assert measured.sigma.value == measured.L.value == measured.rho.value == 0


def test_heavy_tails_are_named():
    """Squares of Pareto law with index 1/2 have no mean; those of a normal law are fine."""

    def loss(w, batch):
        return jnp.mean(batch) * w[0]

    def problem(draw):
        return Problem(
            loss, jnp.zeros(1), jnp.zeros((1, 1)), lambda key, who, size: draw(key, (who.size, size))
        )

    def heavy(key, shape):
        first, second = jax.random.split(key)
        return jax.random.pareto(first, 1.0, shape) * (2 * jax.random.bernoulli(second, shape=shape) - 1.0)

    normal, pareto = problem(jax.random.normal), problem(heavy)

    def measured(of, seed):
        return constants(of, points=[jnp.zeros(1)], key=jax.random.key(seed))

    assert not any("heavy tail" in measured(normal, seed).sigma_tilde.how for seed in range(5))
    assert any("heavy tail" in measured(pareto, seed).sigma_tilde.how for seed in range(5))
    one_task = measured(normal, 0).sigma
    assert (one_task.value, one_task.kind) == (0, "exact")


def test_a_sample_that_ignores_who_is_named():
    plain = network_problem()

    def sample(key, who, size):
        return plain.sample(key, jnp.zeros_like(who), size)

    wrong = dataclasses.replace(plain, sample=sample)
    with pytest.warns(UserWarning, match="is off that of full by .*who"):
        constants(wrong, points=[plain.params], **NETWORK)


def test_samples_of_pools_are_uniform_and_of_the_task():
    pools = {"x": jnp.arange(12.0).reshape(3, 4), "y": jnp.arange(12).reshape(3, 4, 1)}
    problem = from_pools(lambda w, b: jnp.mean(b["x"]) * w, jnp.ones(()), pools)
    drawn = problem.sample(KEY, jnp.array([2, 0]), 4000)
    assert drawn["x"].shape == (2, 4000)
    assert drawn["y"].shape == (2, 4000, 1)
    assert np.array_equal(drawn["x"], drawn["y"][..., 0])
    for row, task in zip(np.asarray(drawn["x"]), (2, 0), strict=True):
        values, counts = np.unique(row, return_counts=True)
        np.testing.assert_array_equal(values, 4 * task + np.arange(4))
        assert np.all(np.abs(counts - 1000) <= 5 * math.sqrt(4000 * 3 / 16))


# Points, chunks, cost, the record


def test_points_near():
    problem = network_problem()
    w = ravel_pytree(problem.params)[0]
    points = [ravel_pytree(p)[0] for p in points_near(problem, KEY)]
    assert len(points) == 8
    L = constants(problem, points=[problem.params], **NETWORK).L.value
    gradients = jax.vmap(lambda b: ravel_pytree(jax.grad(network)(problem.params, b))[0])(problem.full)
    np.testing.assert_array_equal(points[0], w)
    # 6 Lanczos steps set the rate, hence 1 %.
    np.testing.assert_allclose(points[1], w - gradients.mean(axis=0) / L, rtol=1e-2, atol=1e-3)
    steepest = gradients[jnp.argmax(jnp.linalg.norm(gradients, axis=1))]
    np.testing.assert_allclose(points[4], w - steepest / L, rtol=1e-2, atol=1e-2)
    radius = max(jnp.linalg.norm(w), jnp.linalg.norm(points[4] - w))
    distances = [float(jnp.linalg.norm(p - w)) for p in points[5:]]
    np.testing.assert_allclose(distances, radius / 3.0 ** np.arange(3), rtol=1e-12)
    assert len(points_near(problem, KEY, steps=0, perturbations=1)) == 3


def test_points_near_without_curvature_or_length():
    def linear(w, batch):
        return jnp.mean(batch) * w[0]

    flat = from_pools(linear, jnp.array([2.0]), jnp.ones((2, 4)))
    assert len(points_near(flat, KEY)) == 4
    nothing = from_pools(linear, jnp.array([0.0]), jnp.ones((2, 4)))
    assert len(points_near(nothing, KEY)) == 1
    measured = constants(nothing, key=KEY)
    assert all(getattr(measured, name).value <= 1e-15 for name in UNITS)


@pytest.mark.parametrize("tight", ["task_chunk", "memory"])
def test_parts_add_up_to_the_whole(tight, monkeypatch):
    """5 tasks two at a time, or with room for few vectors: the last chunk overlaps. The draws may differ."""
    family = tasks.make("cosine", **SIZES["cosine"], tau=1.0)
    points = [jnp.asarray(w) for w in random_points(family, 2)]
    problem = from_family(family, points[0])
    whole = constants(problem, points=points, key=KEY)
    if tight == "memory":
        monkeypatch.setattr(survey, "ENTRIES", 8)
    sizes = []

    def watched(*args):
        for who, before in survey.chunks(*args):
            sizes.append(who.size)
            yield who, before

    monkeypatch.setattr(curvature, "chunks", watched)
    parts = constants(problem, points=points, key=KEY, task_chunk=2 if tight == "task_chunk" else None)
    assert set(sizes) == {2}
    for name in ("L", "rho", "sigma"):
        assert getattr(parts, name).value == pytest.approx(getattr(whole, name).value, rel=1e-12), name
    assert parts.products == whole.products
    assert parts.sigma_tilde.n == whole.sigma_tilde.n
    # 256 draws of 2 tau^2/d chi^2_1 + ...: the mean square has a standard error of 1/16.
    assert abs(parts.sigma_tilde.value**2 - 1) <= 5 / 16


def test_cost_is_as_documented():
    """P n (k + 18 s + 3 m) + 1152 s + 8 m (48 + k), and (2 k + 45) n for each pair of points that differ."""
    problem, n, P, k, s, m = network_problem(), 3, 4, 20, NETWORK["starts"], NETWORK["samples"]
    together = constants(problem, points=[problem.params] * P, **NETWORK)
    assert together.products == P * n * (k + 18 * s + 3 * m) + 1152 * s + 8 * m * (48 + k)
    moved = [jax.tree.map(lambda x, j=j: x + j, problem.params) for j in range(P)]
    apart = constants(problem, points=moved, **NETWORK)
    assert apart.products - together.products == (P - 1) * n * (2 * k + 45)
    assert (apart.points, apart.tasks) == (P, n)


def test_record():
    problem = network_problem()
    measured = constants(problem, points=[problem.params], **NETWORK)
    declared = measured.constants()
    for name in UNITS:
        assert getattr(declared, name) == getattr(measured, name).value
        assert declared.kind(name) == "measured"
        assert getattr(measured, name).kind == "lower estimate"
        assert re.search(rf"^{name} .*lower estimate: ", str(measured), re.MULTILINE)
    assert f"{measured.products} products" in str(measured)


def test_the_same_key_gives_the_same():
    problem = network_problem()
    first, second = (constants(problem, points=[problem.params], **NETWORK) for _ in range(2))
    assert first == second
    other = constants(problem, points=[problem.params], **NETWORK | {"key": jax.random.key(3)})
    assert other.sigma_tilde != first.sigma_tilde


def test_half_precision_parameters():
    """Lanczos in float32 on products in bfloat16, whose rounding is 2^-8."""

    def loss(w, batch):
        return jnp.mean((batch @ w) ** 2) / 2

    x = np.random.default_rng(0).standard_normal((2, 30, 3)).astype(np.float32)
    problem = from_pools(loss, jnp.ones(3, jnp.bfloat16), x)
    found = constants(problem, points=[problem.params], key=KEY, samples=2).L.value
    expected = np.linalg.norm(np.einsum("inp,inq->ipq", x, x) / 30, 2, axis=(1, 2)).max()
    assert found == pytest.approx(expected, rel=2**-6)


# Bad input


def error(problem=None, **changes):
    """The type and the message of the error, for this problem and these changes of it or of the options."""
    problem = problem or network_problem()
    fields = {f.name for f in dataclasses.fields(Problem)} & changes.keys()
    problem = dataclasses.replace(problem, **{name: changes.pop(name) for name in fields})
    with pytest.raises((ValueError, TypeError)) as caught:
        constants(problem, **{"key": KEY, "samples": 2, **changes})
    return caught.type, str(caught.value)


def swapped(key, who, size):
    return {"x": jnp.ones((size, who.size, 2)), "y": jnp.ones((size, who.size))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": []}, "points has length 0; allowed: at least one"),
        ({"points": [{"first": jnp.ones(3)}]}, r"points\[0\] is PyTreeDef.*allowed: like params"),
        ({"samples": 1}, "samples = 1; allowed: an integer >= 2"),
        ({"iterations": 1}, "iterations = 1; allowed: an integer >= 2"),
        ({"starts": 0}, "starts = 0; allowed: an integer >= 1"),
        ({"task_chunk": 0}, "task_chunk = 0; allowed: an integer >= 1"),
        ({"tolerance": 0.0}, "tolerance = 0.0; allowed: finite and > 0"),
        ({"params": {"w": jnp.ones(3, int)}}, r"params\['w'\] has dtype int.*allowed: floating point"),
        ({"params": {}}, "params has no leaves"),
        (
            {"full": {"x": jnp.ones((3, 4, 2)), "y": jnp.ones((2, 4))}},
            r"full has full\['x'\] \(3, 4, 2\), full\['y'\] \(2, 4\); allowed: leaves with the task",
        ),
        ({"full": {"x": jnp.ones((0, 4, 2)), "y": jnp.ones((0, 4))}}, "of at least 1 task"),
        (
            {"sample": swapped},
            r"sample\(key, who, 2\)\['x'\] has shape \(2, 3, 2\) .*the task axis first, \(3, 2, ...\)",
        ),
        (
            {"loss": lambda params, batch: batch["x"] @ params["first"][0] @ params["last"] - batch["y"]},
            r"loss on one sample has shape \(1,\); allowed: \(\), the mean over the batch",
        ),
    ],
)
def test_bad_input(changes, message):
    _, found = error(**changes)
    assert re.search(message, found), found


def test_bad_points_and_derivatives():
    problem = network_problem()
    wrong = jax.tree.map(lambda x: x[:1], problem.params)
    assert re.search(
        r"points\[1\] has shapes .*allowed: those of params", error(points=[problem.params, wrong])[1]
    )
    assert error(params={"w": jnp.ones(2, int)})[0] is TypeError

    def root(w, batch):
        return jnp.mean(batch) * jnp.sqrt(w[0])

    pools = jnp.array([[0.5, 1.5], [1.0, 2.0]])
    at_zero = from_pools(root, jnp.ones(1), pools)
    kind, message = error(at_zero, points=[jnp.ones(1), jnp.zeros(1)])
    assert kind is ValueError
    assert message == r"the gradient of task 0 is not finite at points[1]; allowed: finite"

    def kink(w, batch):
        return jnp.mean(batch) * w[0] ** 1.5 + w[0]

    kind, message = error(from_pools(kink, jnp.ones(1), pools), points=[jnp.zeros(1)])
    assert kind is ValueError
    assert message == r"the Hessian of task 0 is not finite at points[0]; allowed: finite"


@pytest.mark.parametrize(
    "pools", [{"x": jnp.ones((3, 4)), "y": jnp.ones((3, 5))}, jnp.ones(3), jnp.ones((3, 0)), {}]
)
def test_bad_pools(pools):
    with pytest.raises(ValueError, match=r"pools.*allowed: leaves \(tasks, samples, ...\), equal in both"):
        from_pools(network, {"w": jnp.ones(2)}, pools)


def test_family_batches_are_bounded():
    family = tasks.make("finite_data", n=2, pool=5, max_batch=3)
    with pytest.raises(ValueError, match="size = 4; allowed: at most 3"):
        from_family(family, jnp.zeros(family.dim)).sample(KEY, jnp.array([0]), 4)


# Kinks


def rounded(w, batch):
    """A network of |.|, rounded off over a length that comes with the batch: no kink unless that is 0."""
    x, y, length = batch
    hidden = jnp.sqrt(jnp.square(x @ w[:6].reshape(2, 3)) + jnp.square(length))
    return jnp.mean(jnp.square(hidden @ w[6:] - y))


def test_kinks_are_found_where_derivatives_jump():
    """By one program for all: |z|, and sqrt(z^2 + s^2) down to a length that the eye takes for a kink."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((3, 12, 2)), rng.standard_normal((3, 12))
    w, further = jnp.asarray(rng.standard_normal((2, 9)))
    found = {}
    for length in (0.0, 1e-2, 0.3):
        problem = from_pools(rounded, w, (x, y, np.full((3, 12, 1), length)))
        found[length], products = kinks.find_kink(survey.take_survey(problem, [w, further, w], None))
        assert products == 3 * kinks.PRODUCTS * (1 if found[length] else 2)
    assert found == {0.0: "the first derivative jumps between points 0 and 1, task 0", 1e-2: "", 0.3: ""}
    # What is measured of rho stays, without an upper end; and nothing changes without a kink.
    rho = Estimate(380.0, 380.0, 380.0, "lower estimate", 8, "the largest")
    assert kinks.without_end(rho, "") == rho
    assert kinks.without_end(rho, found[0.0]).high == math.inf
    assert "no finite rho holds, for the first derivative" in kinks.without_end(rho, found[0.0]).how


def test_the_former_name():
    assert jaxmaml.constants.measure is jaxmaml.measure.constants
    assert jaxmaml.constants.from_pools is jaxmaml.measure.from_pools
