"""The errata of docs/errata.md, each executable: what the summary says fails, what it should say holds.

The formulas named `written` quote the summary, those named `mended` the table. Two sorts of evidence: the
unit check, which rescales every quantity in units of the loss (phi) and of the parameters (u), and
computations on functions whose constants are known.
"""

import inspect
import itertools
import math
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims.hf_floor import hf_root
from jaxmaml import hvp, objective, theory
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml.estimators import estimators
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.tasks import cosine, finite_data, quadratic, shared_quadratic, two_cosines
from jaxmaml.tasks._noise import NOISELESS, make_noise
from jaxmaml.tasks.shared_quadratic import QuadraticCenters, SharedQuadratic
from jaxmaml.theory import (
    finite_difference,
    inner_bias,
    objective_gap,
    second_moment,
    smoothness,
    step_moments,
)
from jaxmaml.theory.hf_maml import repaired
from jaxmaml.types import BatchSizes, Constants, Episode

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "errata.md"
KINDS = {"wrong", "dimension", "incomplete", "not sharp"}
MAML, FO, HF = (theory.theorems()[name] for name in ("maml", "fo_maml", "hf_maml"))
EPS = float(np.finfo(float).eps)
ROUNDING = 1e-12
"""relative error allowed to a formula of some dozen operations on numbers of like size."""

# The unit check

UNITS = {
    # name: (a value, power of phi, power of u)
    "L": (3.1, 1, -2),
    "rho": (1.7, 1, -3),
    "sigma": (2.4, 1, -1),
    "sigma_tilde": (1.9, 1, -1),
    "sigma_h": (5.3, 1, -2),
    "alpha": (0.07, -1, 2),
    "delta": (0.13, -1, 2),
    "g": (0.83, 1, -1),
    "xi": (-0.61, 1, -1),
    "level": (0.37, 1, 0),
    "w": (1.3, 0, 1),
    "c": (-0.45, 0, 1),
    "B": (23.0, 0, 0),
    "D_in": (11.0, 0, 0),
    "D_o": (5.0, 0, 0),
    "free": (0.7, 0, 0),
}
RESCALINGS = [(7.0, 1.0), (1.0, 3.0), (0.2, 0.6), (1e3, 1e-2)]


def unit_defect(formula, phi, u):
    """Largest relative deviation from formula(rescaled) = phi^a u^b formula(plain), (a, b) = (phi, u)."""
    names = inspect.signature(formula).parameters
    plain = formula(**{name: UNITS[name][0] for name in names})
    worst = 0.0
    for s, t in RESCALINGS:
        scaled = {name: UNITS[name][0] * s ** UNITS[name][1] * t ** UNITS[name][2] for name in names}
        worst = max(worst, abs(formula(**scaled) / (plain * s**phi * t**u) - 1))
    return worst


def assert_units(written, mended, phi, u):
    """The mended formula has the unit phi^a u^b, and the written one has not."""
    assert unit_defect(mended, phi, u) <= ROUNDING
    assert unit_defect(written, phi, u) > 0.1


# Shared means


def binomial(n, p):
    """The number of successes in n trials, all of them, with their probabilities."""
    k = np.arange(n + 1)
    log = [math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in k]
    return k, np.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))


def sign_means(D):
    """(probability, mean of D independent signs), all of them."""
    k, law = binomial(D, 0.5)
    return law, (2 * k - D) / D


def descend(first, second, w, alpha, eps, c, smooth, limit=10**6):
    """MAML in one dimension, one task: steps until |F'| <= eps with the step c / smooth(|f'(w)|)."""
    for k in range(limit):
        slope = first(w)
        gradient = (1 - alpha * second(w)) * first(w - alpha * slope)
        if abs(gradient) <= eps:
            return k
        w -= c / smooth(abs(slope)) * gradient
    raise AssertionError("the limit of steps was reached")


def mean_direction(name, family, w, alpha, **arguments):
    """An estimator's direction over all tasks with exact batches, shape (d,)."""

    @jax.jit
    def direction(w):
        return meta_gradient(
            estimators()[name],
            lambda v, batch: objective.task_loss(family, v, batch),
            w,
            objective.full_episodes(family),
            alpha=alpha,
            **arguments,
        )

    return np.asarray(direction(w))


def cosine_value(family, w, alpha):
    """F(w) of the cosine family, in NumPy."""
    centers, phases = (np.asarray(x) for x in family.tasks)
    v = family.adapted(w, alpha)
    values = 0.5 * family.mu * (v - centers) ** 2 + family.a * np.cos(family.omega * v + phases)
    return float(np.mean(np.sum(values, axis=1)))


def cosine_smoothness(family, w, alpha):
    """L(w) of the cosine family, in NumPy."""
    norms = np.linalg.norm(family.task_gradients(w), axis=1)
    return smoothness.smoothness(family.constants(), alpha, norms.mean())


def pairs(d, scales=(1.0, 10.0, 1e4), distances=(1e-2, 1.0, 30.0), repeats=8):
    """Pairs w, u of points around the origin, at several scales and distances."""
    rng = np.random.default_rng(0)
    for scale, distance in itertools.product(scales, distances):
        for _ in range(repeats):
            w = scale * rng.standard_normal(d)
            yield w, w + distance * rng.standard_normal(d)


def pool_episodes(family, size):
    """Every outcome of one task's batches: D_in of `size` points, D_h of one point, D_o the whole pool."""
    x, y = (np.asarray(leaf)[0] for leaf in family.tasks)
    inner = list(itertools.product(range(len(y)), repeat=size))
    rows = list(itertools.product(inner, range(len(y))))

    def batch(index):
        index = np.asarray(index)
        weights = np.full(index.shape, 1 / index.shape[1])
        return finite_data.WeightedBatch(x[index], y[index], weights)

    return Episode(
        batch([row[0] for row in rows]),
        batch([[row[1]] for row in rows]),
        batch([range(len(y)) for _ in rows]),
    )


@pytest.fixture(scope="module")
def pool():
    """One task with a pool of three points, whose gradient and Hessian noise are correlated."""
    x = np.array([[[1.0, 0.2], [-0.3, 0.9], [0.5, -0.7]]])
    return finite_data.from_pools(x, np.array([[2.0, -1.0, 0.4]]), "cauchy", mu=0.1, scale=0.7)


POOL_POINT = np.array([0.8, -0.4])


@jax.jit
def pool_directions(family, w, episodes, alpha):
    """E G of MAML with independent batches, E G with D_h = D_in, E g~, and the exact Hessian."""

    def loss(v, batch):
        return family.loss(v, None, batch)

    means = [
        meta_gradient(estimators()[name], loss, w, episodes, alpha=alpha)
        for name in ("maml", "maml_same_batch", "fo_maml")
    ]
    whole = jax.tree.map(lambda leaf: leaf[0], episodes.outer)
    return means, jax.hessian(lambda v: loss(v, whole))(w)


def pool_means(family, alpha, size):
    """E G of MAML with independent batches, E G with D_h = D_in, and (I - alpha H) E g~, by enumeration."""
    episodes = pool_episodes(family, size)
    means, hessian = pool_directions(family, POOL_POINT, episodes, alpha)
    independent, same, first_order = (np.asarray(x) for x in means)
    return independent, same, (np.eye(2) - alpha * np.asarray(hessian)) @ first_order


# The table itself


def table_rows():
    """(number, kind, test) of each row of the table."""
    rows = []
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            assert len(cells) == 6, line
            rows.append((int(cells[0]), cells[4], cells[5].strip("`")))
    return rows


def test_table_and_tests_agree():
    """Each row names its own test, each test has its row, kinds are known, every number occurs once."""
    rows = table_rows()
    named = [test for _, _, test in rows]
    here = [name for name in vars(sys.modules[__name__]) if re.match(r"test_e\d\d_", name)]
    assert sorted(named) == sorted(here)
    assert all(test.startswith(f"test_e{number:02d}_") for number, _, test in rows)
    assert {kind for _, kind, _ in rows} == KINDS
    listed = [int(n) for n in re.findall(r"^- \*\*(\d+)\*\*", DOCUMENT.read_text(), re.MULTILINE)]
    numbers = sorted([number for number, _, _ in rows] + listed)
    assert numbers == list(range(1, len(numbers) + 1))


def test_unit_check_tells_formulas_apart():
    """Products pass with their own unit only; a sum of two units passes with neither."""
    assert unit_defect(lambda alpha, L: alpha * L, 0, 0) <= ROUNDING
    assert unit_defect(lambda alpha, L: alpha * L, 1, 0) > 0.1
    assert unit_defect(lambda alpha, L: alpha * L, 0, 1) > 0.1
    assert min(unit_defect(lambda rho, L: rho + L, 1, -p) for p in (2, 3)) > 0.1


# MAML objective and algorithm


def test_e01_inner_step_of_F_hat_has_no_rate():
    """F-hat = E f(w - grad f(w; D)) subtracts a gradient from a point; alpha is missing."""

    def f(w, L, c):
        return 0.5 * L * (w - c) ** 2

    def written(w, L, c, xi):
        return f(w - (L * (w - c) + xi), L, c)

    def mended(w, L, c, xi, alpha):
        return f(w - alpha * (L * (w - c) + xi), L, c)

    assert_units(written, mended, 1, 0)
    # Without noise F-hat is F: the mended one is the library's, the written one is not.
    family = SharedQuadratic(np.array([3.1]), QuadraticCenters(np.array([[-0.45]])))
    F = float(objective.F(family, jnp.array([1.3]), 0.07))
    assert mended(1.3, 3.1, -0.45, 0.0, 0.07) == pytest.approx(F, rel=ROUNDING)
    assert abs(written(1.3, 3.1, -0.45, 0.0) / F - 1) > 1


def test_e02_F_hat_is_no_unbiased_estimate_of_F():
    """On quadratics F-hat - F = alpha^2 tau^2 tr(A) / (2 d D) at every w, which is not 0."""
    family = shared_quadratic.make(n=3, d=2, smallest=0.5, largest=2.0, tau=3.0)
    w, D = np.array([1.7, -2.9]), 4.0
    h, centers = np.asarray(family.eigenvalues), np.asarray(family.tasks.centers)
    gradients = h * (w - centers)

    def hat(alpha, tau):
        # Two nodes a coordinate: exact for Gaussian noise and a quadratic loss.
        noise = np.array(list(itertools.product((-1, 1), repeat=2))) * tau / math.sqrt(2 * D)
        points = w - alpha * (gradients[:, None] + noise)
        each = jax.vmap(lambda task, some: jax.vmap(lambda v: family.loss(v, task, NOISELESS))(some))
        return float(jnp.mean(each(family.tasks, jnp.asarray(points))))

    for alpha in (0.1, 0.45):
        F = float(objective.F(family, jnp.asarray(w), alpha))
        extra = alpha**2 * 3.0**2 / (2 * 2 * D) * h.sum()
        assert hat(alpha, 3.0) - F == pytest.approx(extra, abs=ROUNDING * F)
        assert extra > 1e-3 * F
        assert hat(alpha, 0.0) == pytest.approx(F, rel=ROUNDING)
    assert hat(0.0, 3.0) == pytest.approx(float(objective.F(family, jnp.asarray(w), 0.0)), rel=ROUNDING)


def test_e03_tasks_adapt_from_the_shared_point():
    """w_{k+1}^i = w_k^i - alpha grad f_i(w_k^i), read literally, lets tasks drift off and stops anywhere."""
    family = quadratic.pair(ell=1.0, eta=0.5, s=1.0)
    A, c = (np.asarray(x).reshape(2) for x in family.tasks)
    alpha, beta = 0.1, 1 / (12 * 4 * 1.5)

    def run(shared):
        w, own = 5.0, np.array([5.0, 5.0])
        for _ in range(3000):
            start = w if shared else own
            own = start - alpha * A * (start - c)
            G = np.mean((1 - alpha * A) * A * (own - c))
            if shared:
                exact = family.grad_objective(np.array([w]), alpha)[0]
                np.testing.assert_allclose(G, exact, rtol=0, atol=ROUNDING * 5)
            w -= beta * G
        return abs(G), abs(family.grad_objective(np.array([w]), alpha)[0])

    start = abs(family.grad_objective(np.array([5.0]), alpha)[0])
    stopped, left = run(shared=False)
    assert stopped <= ROUNDING * start
    assert left > 0.5 * start
    assert run(shared=True)[1] <= ROUNDING * start


def test_e04_the_hessian_need_not_be_formed():
    """O(d^2 B D_h) is the cost of the matrix; its product with a vector costs a few gradients, O(d B D_h)."""

    def loss(w, x):
        return jnp.mean(jax.nn.softplus(-x @ w))

    def flops(function, d):
        x, w = jnp.ones((16, d)), jnp.ones(d)
        return jax.jit(lambda w: function(w, x)).lower(w).compile().cost_analysis()["flops"]

    def product(form):
        return lambda w, x: form(loss, w, w, x)

    small, large = 64, 256
    gradient = flops(jax.grad(loss), large)
    exact, dense = ([flops(product(form), d) for d in (small, large)] for form in (hvp.exact, hvp.dense))
    assert exact[1] <= 3 * gradient
    assert exact[1] / exact[0] <= large / small
    assert dense[1] / dense[0] > 0.9 * (large / small) ** 2


# Hessian-free MAML


def test_e05_difference_error_is_half_of_what_is_written():
    """rho delta ||v||^2 is never attained: rho delta ||v||^2 / 2 bounds the error, with equality."""

    def written(rho, delta, v):
        return rho * delta * v**2

    @jax.jit
    def error(w, rho, delta, v):
        def kink(x, batch):
            return rho * jnp.sum(jnp.abs(x) ** 3) / 6

        d = hvp.central_difference(kink, w[None], v[None], None, delta)[0]
        return jnp.abs(d - rho * jnp.abs(w) * v)

    rng = np.random.default_rng(0)
    for rho, delta, v in rng.uniform(0.1, 4.0, (20, 3)):
        mended = finite_difference.truncation(Constants(L=math.inf, rho=rho, sigma=0.0), delta, v)
        assert error(np.float64(0), rho, delta, v) == pytest.approx(mended, rel=ROUNDING)
        assert mended == pytest.approx(0.5 * written(rho, delta, v), rel=ROUNDING)
        for w in rng.uniform(-5, 5, 3):
            # gradients up to rho (5 + delta v)^2 / 2 lose eps of it, divided by delta
            lost = 4 * EPS * rho * (5 + delta * v) ** 2 / delta
            assert error(w, rho, delta, v) <= mended + lost


def test_e06_difference_of_a_gradient_and_a_value():
    """d = [grad f(w + delta g) - f(w - delta g)] / (2 delta) subtracts a loss from a gradient."""

    def written(L, rho, w, delta, g):
        ahead, behind = w + delta * g, w - delta * g
        return (L * ahead + rho * ahead**2 / 2 - (L * behind**2 / 2 + rho * behind**3 / 6)) / (2 * delta)

    def mended(L, rho, w, delta, g):
        ahead, behind = w + delta * g, w - delta * g
        return (L * ahead + rho * ahead**2 / 2 - (L * behind + rho * behind**2 / 2)) / (2 * delta)

    assert_units(written, mended, 2, -3)
    # f'' is affine, so that the central difference is exact: H g with H = L + rho w.
    product = (3.1 + 1.7 * 1.3) * 0.83
    assert mended(3.1, 1.7, 1.3, 0.13, 0.83) == pytest.approx(product, rel=ROUNDING)
    assert abs(written(3.1, 1.7, 1.3, 0.13, 0.83) / product - 1) > 1


def test_e07_difference_approximates_the_hessian_of_its_own_batch(pool):
    """d is close to hess f(w; D_h) v, the batch it is formed on, and not to hess f(w; D_in) v."""
    episodes = pool_episodes(pool, 1)
    inner, hessian = (jax.tree.map(lambda leaf: leaf[1], part) for part in episodes[:2])
    assert not np.array_equal(inner.y, hessian.y)
    w, v, delta = POOL_POINT, np.array([0.6, 1.1]), 1e-4

    def loss(x, batch):
        return pool.loss(x, None, batch)

    @jax.jit
    def compare(w, v):
        d = hvp.central_difference(loss, w, v, hessian, delta)
        errors = [jnp.linalg.norm(d - hvp.exact(loss, w, v, batch)) for batch in (hessian, inner)]
        return errors, jnp.linalg.norm(jax.grad(loss)(w, hessian))

    errors, gradient = compare(w, v)
    # One point: L <= X^2 + mu, rho <= c3 X^3 / s.
    X, norm = np.linalg.norm(pool.tasks.x, axis=2).max(), np.linalg.norm(v)
    point = Constants(L=X**2 + 0.1, rho=finite_data.LOSSES["cauchy"].c3 * X**3 / 0.7, sigma=0.0)
    bound = finite_difference.truncation(point, delta, norm)
    bound += finite_difference.rounding(EPS, gradient, point.L, 1.0, delta)
    assert errors[0] <= bound
    assert errors[1] > 1e3 * bound


def test_e35_delta_of_the_theorem_can_be_infinite():
    """delta = 1 / (6 rho alpha ||g||) divides by 0 where g = 0 or rho = 0; there d = 0, or any delta does."""

    def written(rho, alpha, norm):
        return 1 / (6 * rho * alpha * norm)

    for rho, norm in ((0.0, 1.0), (1.7, 0.0)):
        with pytest.raises(ZeroDivisionError):
            written(rho, 0.07, norm)

    def quartic(w, batch):
        return jnp.sum(w**4)

    w = np.array([1.3, -0.4])
    arc = theorem_delta(1.7, 0.07)
    episode = Episode(*3 * (np.ones((1, 1)),))
    at_zero = jax.jit(lambda w: estimators()["hf_maml"](quartic, w, episode, alpha=0.07, delta=arc))(
        np.zeros(2)
    )
    np.testing.assert_array_equal(at_zero, 0.0)
    A, v = np.array([[2.0, 0.3], [0.3, 1.0]]), np.array([0.6, 1.1])

    @jax.jit
    def difference(w, delta):
        return hvp.central_difference(lambda x, _: 0.5 * x @ A @ x, w, jnp.asarray(v), None, delta)

    for delta in (0.01, 1.0, 1e3):
        # w +- delta v and its gradient lose a few eps each, divided by delta
        np.testing.assert_allclose(difference(w, delta), A @ v, rtol=16 * EPS * (1 + 1 / delta))


# Assumptions


def test_e08_the_infimum_need_not_be_attained():
    """min F does not exist for f = 1/2 (1 + w^2)^-1, which satisfies every assumption; inf F = 0 serves."""

    def f(w):
        return 0.5 / (1 + w * w)

    def first(w):
        return -w / (1 + w * w) ** 2

    def second(w):
        return (3 * w * w - 1) / (1 + w * w) ** 3

    grid = np.linspace(-10, 10, 100_001)
    rho = float(np.abs(np.gradient(second(grid), grid)).max()) * 1.001
    assert np.abs(second(grid)).max() <= 1.0
    alpha = 1 / 6
    far = np.logspace(1, 60, 60)
    values = f(far - alpha * first(far))
    assert np.all(values > 0)
    assert np.all(np.diff(values) < 0)
    assert values[-1] < 1e-100
    # With inf F in Delta the count of the theorem holds.
    constants, eps = Constants(L=1.0, rho=rho, sigma=0.0), 0.01
    steps = descend(first, second, 1.0, alpha, eps, 1 / 12, lambda g: 4 + 2 * rho * alpha * g)
    gap = f(1.0 - alpha * first(1.0)) - 0.0
    assert 0 < steps <= MAML.exact_iterations(eps, gap, constants, alpha)


@pytest.mark.parametrize("d", [2, 13, 61])
def test_e09_the_norm_of_the_hessians_is_spectral(d):
    """f = ||w||^3 / 6: rho = 1 in the spectral norm, (d + 3)^{1/2} / 2 in the Frobenius norm."""

    def hessian(w):
        r = np.linalg.norm(w)
        return 0.5 * (r * np.eye(d) + np.outer(w, w) / r) if r else np.zeros((d, d))

    rng = np.random.default_rng(d)
    for _ in range(50):
        w, u = rng.standard_normal((2, d))
        difference = hessian(w) - hessian(u)
        assert np.linalg.norm(difference, 2) <= np.linalg.norm(w - u) * (1 + ROUNDING)
    frobenius = np.linalg.norm(hessian(w) - hessian(0 * w)) / np.linalg.norm(w)
    assert frobenius == pytest.approx(math.sqrt(d + 3) / 2, rel=ROUNDING)
    # The spectral constant is what the lemmas need: the difference's error at 0 attains it.
    v, delta = rng.standard_normal(d), 0.3
    d_v = jax.jit(
        lambda w: hvp.central_difference(
            lambda x, _: jnp.sum(x**2) ** 1.5 / 6, w, jnp.asarray(v), None, delta
        )
    )(np.zeros(d))
    norm = float(np.linalg.norm(v))
    bound = finite_difference.truncation(Constants(L=math.inf, rho=1.0, sigma=0.0), delta, norm)
    assert float(np.linalg.norm(d_v)) == pytest.approx(bound, rel=ROUNDING)
    assert frobenius > 1.1


# Smoothness lemma and its corollary


def test_e11_range_of_alpha_in_the_smoothness_lemma():
    """alpha in [0, 1] is no condition: alpha has a unit, and the lemma fails within it for L > 1."""

    def written(alpha):
        return alpha / 1.0

    def mended(alpha, L):
        return alpha / (1 / L)

    assert_units(written, mended, 0, 0)

    def slope(h, alpha):
        """|grad F(w) - grad F(u)| / |w - u| on h (w - c)^2 / 2, where L(w) = 4 h."""
        w, u = np.array([1.7]), np.array([-2.2])
        family = SharedQuadratic(np.array([h]), QuadraticCenters(np.array([[0.6]])))
        difference = family.grad_objective(w, alpha) - family.grad_objective(u, alpha)
        return float(np.linalg.norm(difference) / np.linalg.norm(w - u))

    assert slope(5.0, 1.0) > 4 * 5.0
    for h in (0.1, 1.0, 5.0):
        for part in np.linspace(0, 1, 11):
            assert slope(h, part / h) <= 4 * h


@pytest.fixture(scope="module")
def waves():
    """A nonconvex family in three dimensions."""
    return cosine.make(n=6, d=3, seed=5)


def test_e12_left_side_of_the_smoothness_lemma(waves):
    """||grad F(w) - grad F(w)|| is 0 and bounds nothing; with u it is not, and exceeds 4 L ||w - u||."""

    def written(w, u):
        return np.linalg.norm(waves.grad_objective(w, alpha) - waves.grad_objective(w, alpha))

    def mended(w, u):
        return np.linalg.norm(waves.grad_objective(w, alpha) - waves.grad_objective(u, alpha))

    L = waves.constants().L
    for alpha in (1 / L, 1 / (6 * L)):
        ratios = []
        for w, u in pairs(3):
            assert written(w, u) == 0
            bound = min(cosine_smoothness(waves, x, alpha) for x in (w, u))
            ratios.append(mended(w, u) / np.linalg.norm(w - u))
            assert ratios[-1] <= bound
        assert max(ratios) > 4 * L


def test_e13_the_minimum_has_two_different_entries(waves):
    """min{a(w), a(w)} is a(w): not symmetric in w and u, and larger without limit than min{a(w), a(u)}."""
    alpha = 1 / (6 * waves.constants().L)

    def a(w):
        return np.linalg.norm(waves.task_gradients(w), axis=1).mean()

    def bound(entry):
        return smoothness.smoothness(waves.constants(), alpha, entry)

    def written(w, u):
        return bound(min(a(w), a(w)))

    def mended(w, u):
        return bound(min(a(w), a(u)))

    near = np.array([0.3, -0.2, 0.5])
    for far in (1e2, 1e4, 1e6):
        w, u = near + far, near
        left = np.linalg.norm(waves.grad_objective(w, alpha) - waves.grad_objective(u, alpha))
        assert mended(w, u) == mended(u, w) == written(u, w) < written(w, u)
        assert left <= mended(w, u) * np.linalg.norm(w - u)
    assert written(w, u) > 1e4 * mended(w, u)


def test_e14_the_corollary_has_a_free_v():
    """grad F(w)^T (u - v): at u = w both bounds are 0, so that v can only be w."""
    family = cosine.make(n=3, d=1, seed=1)
    alpha = 1 / family.constants().L

    def middle(w, u, v):
        rise = cosine_value(family, u, alpha) - cosine_value(family, w, alpha)
        return float(rise - family.grad_objective(w, alpha) @ (u - v))

    def bound(w, u):
        return 0.5 * cosine_smoothness(family, w, alpha) * float(np.sum((u - w) ** 2))

    w = np.array([0.7])
    assert bound(w, w) == 0
    assert middle(w, w, w) == 0
    for v in (w + 0.1, w - 3.0, 0 * w):
        assert abs(middle(w, w, v)) > 1e-2
    for w, u in pairs(1):
        assert abs(middle(w, u, w)) <= bound(w, u)


def test_e15_sign_of_the_corollary(waves):
    """With -L(w)/2 ||u - w||^2 on both sides the corollary is an equality, which fails; + holds."""
    L = waves.constants().L
    for alpha in (1 / L, 1 / (6 * L)):
        remainders = []
        for w, u in pairs(3):
            rise = cosine_value(waves, u, alpha) - cosine_value(waves, w, alpha)
            remainder = rise - float(waves.grad_objective(w, alpha) @ (u - w))
            bound = 0.5 * cosine_smoothness(waves, w, alpha) * float(np.sum((u - w) ** 2))
            scale = abs(rise) + abs(cosine_value(waves, w, alpha))
            assert abs(remainder) <= bound + 8 * EPS * scale
            remainders.append(remainder / bound)
        assert max(remainders) > 1e-3
        # As written every remainder would be -1.
        assert min(remainders) > -0.99


# Step size


def moments(constants, alpha, norm, probabilities, norms):
    """L(w) E[1/L~] and L(w)^2 E[1/L~^2] from the law of the mean norm in L~."""
    center = smoothness.smoothness(constants, alpha, norm)
    L = smoothness.smoothness(constants, alpha, np.asarray(norms))
    return [float(np.sum(probabilities * (center / L) ** p)) for p in (1, 2)]


def test_e16_the_condition_is_on_D_beta():
    """B_beta is no size of anything; without the condition on D_beta the first moment falls below 0.8."""
    constants = Constants(L=2.0, rho=3.0, sigma=0.0, sigma_tilde=16.0)
    alpha, slope = 0.25, 0.3
    needed = step_moments.step_batch_conditions(constants, alpha)[1]

    def first_moment(D_beta):
        # one task with the gradient 0.3, one sample +-16 off it; B' = 1 is enough as sigma = 0
        probabilities, means = sign_means(D_beta)
        return moments(constants, alpha, slope, probabilities, abs(slope + 16 * means))[0]

    assert needed == 144
    assert first_moment(1) < 0.5 * step_moments.first_moment_lower()
    assert first_moment(needed) >= step_moments.first_moment_lower()


def test_e17_batches_of_the_step_are_at_least_one():
    """The conditions ask for 0 tasks and 0 samples where sigma = sigma~ = 0: a mean over nothing."""

    def written(constants, alpha):
        unit = constants.rho * alpha / constants.L
        tasks = math.ceil(0.5 * (unit * constants.sigma) ** 2)
        return tasks, math.ceil((2 * unit * constants.sigma_tilde) ** 2)

    constants = Constants(L=2.0, rho=3.0, sigma=0.0, sigma_tilde=0.0)
    assert written(constants, 0.4) == (0, 0)
    with pytest.raises(ZeroDivisionError):
        sum([]) / written(constants, 0.4)[0]
    mended = step_moments.step_batch_conditions(constants, 0.4)
    assert mended == (1, 1)
    assert moments(constants, 0.4, 1.3, np.ones(1), [1.3]) == [1.0, 1.0]
    noisy = Constants(L=2.0, rho=3.0, sigma=9.0, sigma_tilde=7.0)
    assert step_moments.step_batch_conditions(noisy, 0.4) == written(noisy, 0.4)


def steps_with_noisy_step(sigma_tilde, D_beta, alpha, eps):
    """MAML on w^2/2 + cos(w)/2, exact but for the step, from D_beta samples +-sigma~ off; steps and Delta."""
    rng, start = np.random.default_rng(0), 3.0

    def first(w):
        return w - 0.5 * math.sin(w)

    def second(w):
        return 1 - 0.5 * math.cos(w)

    def smooth(slope):
        mean = 2 * rng.binomial(D_beta, 0.5) / D_beta - 1
        return 4 * 1.5 + 2 * 0.5 * alpha * abs(slope + sigma_tilde * mean)

    adapted = start - alpha * first(start)
    gap = 0.5 * adapted**2 + 0.5 * math.cos(adapted) - 0.5
    return descend(first, second, start, alpha, eps, 1 / 12, smooth), gap


def rare_task_moments(tasks, large=1500.0, p=0.01):
    """Constants and moments of 1/L~ where one task in a hundred has a large gradient, the others 0."""
    k, law = binomial(tasks, p)
    constants = Constants(L=1.0, rho=1.0, sigma=large * math.sqrt(p * (1 - p)))
    return constants, moments(constants, 1.0, p * large, law, k * large / tasks)


def test_e33_the_theorems_omit_the_conditions_on_the_step():
    """Without D_beta no universal number of steps is enough; without B' or independence its lemma fails."""
    alpha, eps, sigma_tilde = 1 / 9, 0.5, 2e3
    constants = Constants(L=1.5, rho=0.5, sigma=0.0, sigma_tilde=sigma_tilde)
    steps, gap = steps_with_noisy_step(sigma_tilde, 1, alpha, eps)
    # D_in = D_o = D_h = inf: every condition as summarised is met, and S = 0.
    exact = BatchSizes(B=20)
    allowed = MAML.iterations_summary(eps, gap, constants, alpha, exact)
    assert steps > MAML.explicit_constants(1 / 6)[2] * allowed
    # More noise, more steps, and the same allowance.
    assert steps_with_noisy_step(4 * sigma_tilde, 1, alpha, eps)[0] > 3.9 * steps
    needed = step_moments.step_batch_conditions(constants, alpha)[1]
    mended = steps_with_noisy_step(sigma_tilde, needed, alpha, eps)[0]
    assert mended <= MAML.iterations(eps, gap, constants, alpha, exact)

    constants, below = rare_task_moments(20)
    above = rare_task_moments(step_moments.step_batch_conditions(constants, 1.0)[0])[1]
    assert below[1] > step_moments.SECOND_MOMENT_SUMMARY
    assert above[0] >= step_moments.first_moment_lower()
    assert above[1] <= step_moments.SECOND_MOMENT_SUMMARY

    # 20 tasks of gradient -y, or one in twenty of X. L = rho alpha / 2: 1/L~ is 1 / (1 + norm) times 1/(4 L).
    X, y, p = 13.7, 0.7, 1 / 20
    constants = Constants(L=0.5, rho=1.0, sigma=(X + y) * math.sqrt(p * (1 - p)))
    assert step_moments.step_batch_conditions(constants, 1.0)[0] <= 20
    k, law = binomial(20, p)
    direction, step = (k * X - (20 - k) * y) / 20, 1 / (1 + (k * X + (20 - k) * y) / 20)
    # Reused for the step, the batch turns the expected step uphill; independent, it keeps its sign.
    assert np.sum(law * direction * step) < 0 < np.sum(law * direction) * np.sum(law * step)


def test_e34_second_moment_of_the_step():
    """E[1/L~^2] <= 3.125 / L(w)^2 is true and 1.855 is enough; laws within the conditions come near that."""
    worst = 0.0
    for p in np.linspace(0.01, 0.99, 990):
        # B' = 1, sigma = 2^{1/2} L / (rho alpha): gradient 0, or X with probability p.
        constants = Constants(L=1.0, rho=1.0, sigma=math.sqrt(2 * (1 - 1e-9)))
        X = constants.sigma / math.sqrt(p * (1 - p))
        assert step_moments.step_batch_conditions(constants, 1.0) == (1, 1)
        found = moments(constants, 1.0, p * X, np.array([1 - p, p]), [0.0, X])
        assert found[0] >= step_moments.first_moment_lower()
        worst = max(worst, found[1])
    assert 1.75 < worst <= step_moments.second_moment_upper() < 1.856
    assert 1.6 * worst < step_moments.SECOND_MOMENT_SUMMARY


# Biased estimator


def test_e18_the_hessian_needs_a_batch_of_its_own(pool):
    """With the Hessian on D_in, E G is not (I - alpha H) E g~; with an independent D_h it is."""
    constants = pool.constants()
    for size, alpha in ((1, 0.5 / constants.L), (2, 1 / constants.L)):
        independent, written, product = pool_means(pool, alpha, size)
        scale = np.linalg.norm(product)
        assert np.linalg.norm(independent - product) <= ROUNDING * scale
        excess = np.linalg.norm(written - product)
        bound = alpha**2 * constants.L * constants.sigma_h * constants.sigma_tilde / size
        assert 1e-3 * scale < excess <= bound


def test_e19_the_bias_decays_like_one_over_D_in():
    """alpha L sigma~ / D_in^{1/2} is true; rho alpha^2 sigma~^2 / (2 D_in) has the true order."""
    family = cosine.make(n=4, d=1, tau=4.0, seed=2)
    constants, w = family.constants(), np.array([0.9])
    alpha = 1 / (6 * constants.L)

    def bias(D):
        return np.linalg.norm(family.inner_bias(w, alpha, D), axis=1).max()

    for D in (1.0, 10.0, 1e3, 1e6):
        summary = inner_bias.bias_summary(constants, alpha, D)
        assert bias(D) <= inner_bias.bias(constants, alpha, D) <= summary
    # 1 - exp(-x) = x (1 - x/2 + ...), x = (omega alpha tau)^2 / (2 D)
    x = (2 * alpha * 4.0) ** 2 / (2 * 1e4)
    assert bias(1e4) / bias(1e6) == pytest.approx(100, rel=x)
    derived = [inner_bias.bias(constants, alpha, D) for D in (1e4, 1e6)]
    assert derived[0] / derived[1] == pytest.approx(100, rel=ROUNDING)
    written = [inner_bias.bias_summary(constants, alpha, D) for D in (1e4, 1e6)]
    assert written[0] / written[1] == pytest.approx(10, rel=ROUNDING)


def test_e20_second_moment_has_the_value_for_the_gradient():
    """(1 + 1/phi) ||f(w+)||^2 is a squared loss, and 0 where the loss is; the gradient is meant."""

    def tail(L, sigma_tilde, alpha, D_in, D_o, free):
        return (1 + free) * (alpha * L * sigma_tilde) ** 2 / D_in + sigma_tilde**2 / D_o

    def written(level, L, sigma_tilde, alpha, D_in, D_o, free):
        return (1 + 1 / free) * level**2 + tail(L, sigma_tilde, alpha, D_in, D_o, free)

    def mended(g, L, sigma_tilde, alpha, D_in, D_o, free):
        return (1 + 1 / free) * g**2 + tail(L, sigma_tilde, alpha, D_in, D_o, free)

    assert_units(written, mended, 2, -2)
    # L (w - c)^2 / 2 + k with k such that f(w+) = 0; noise of variance sigma~^2, alpha L < 1.
    L, c, w, alpha = 3.1, -0.45, 1.3, 0.07
    g = L * (1 - alpha * L) * (w - c)
    for sigma_tilde, D_in, D_o, free in itertools.product((0.0, 1.9), (1.0, 11.0), (5.0,), (0.1, 0.7, 20.0)):
        rest = (L, sigma_tilde, alpha, D_in, D_o, free)
        exact = g**2 + (alpha * L * sigma_tilde) ** 2 / D_in + sigma_tilde**2 / D_o
        assert written(0.0, *rest) < exact <= mended(g, *rest)
        constants = Constants(L=L, rho=0.0, sigma=0.0, sigma_tilde=sigma_tilde)
        library = second_moment.second_moment(g, constants, alpha, D_in, D_o, free)
        assert library == pytest.approx(mended(g, *rest), rel=ROUNDING)


def test_e21_the_gap_of_F_hat_decays_like_one_over_D(pool):
    """2 alpha L sigma~ / D^{1/2} + ... is true; the gap is of the order 1/D, within the derived bound."""
    family = cosine.make(n=4, d=1, tau=4.0, seed=2)
    constants, w = family.constants(), np.array([0.9])
    alpha = 1 / (6 * constants.L)

    def gap(D):
        damping = 1 - alpha * family.task_hessians(w)
        return abs(float(np.mean(damping * family.inner_bias(w, alpha, D))))

    for D in (1.0, 10.0, 1e3, 1e6):
        assert gap(D) <= objective_gap.gap(constants, alpha, D)
        assert objective_gap.gap(constants, alpha, D) <= objective_gap.gap_summary(constants, alpha, D)
    # 1 - exp(-x) = x (1 - x/2 + ...) for each task alike
    x = (2 * alpha * 4.0) ** 2 / (2 * 1e4)
    assert gap(1e4) / gap(1e6) == pytest.approx(100, rel=x)
    written = [objective_gap.gap_summary(constants, alpha, D) for D in (1e4, 1e6)]
    assert written[0] / written[1] == pytest.approx(10, rel=ROUNDING)
    # With noise of the Hessian, correlated with that of the gradient: grad F-hat is E G with D_h = D_in.
    constants = pool.constants()
    alpha = 0.5 / constants.L
    exact = np.asarray(objective.grad_F(pool, jnp.asarray(POOL_POINT), alpha))
    for size in (1, 2):
        found = np.linalg.norm(pool_means(pool, alpha, size)[1] - exact)
        assert 0 < found <= objective_gap.gap(constants, alpha, float(size))


# Theorem on MAML


class Ripple:
    """f'' = L - s (3 + cos(omega w)) / 2 in [L - 2 s, L - s] with L = 1, f >= f(0) = 0, rho = s omega / 2."""

    start = 10.0

    def __init__(self, s, omega):
        self.s, self.omega = s, omega
        self.constants = Constants(L=1.0, rho=s * omega / 2, sigma=0.0)
        self.eps = s**2 * (1 - 2 * s) * self.start / 2

    def value(self, w):
        return (1 - 1.5 * self.s) * w**2 / 2 + self.s / (2 * self.omega**2) * (math.cos(self.omega * w) - 1)

    def first(self, w):
        return (1 - 1.5 * self.s) * w - self.s / (2 * self.omega) * math.sin(self.omega * w)

    def second(self, w):
        return 1 - self.s * (3 + math.cos(self.omega * w)) / 2

    def gap(self, alpha):
        return self.value(self.start - alpha * self.first(self.start))

    def steps(self, alpha):
        def smooth(norm):
            return smoothness.smoothness(self.constants, alpha, norm)

        return descend(self.first, self.second, self.start, alpha, self.eps, 1 / 12, smooth)

    def allowed(self, alpha):
        return MAML.iterations_summary(self.eps, self.gap(alpha), self.constants, alpha, BatchSizes())

    def least(self):
        """R omega / (8 c s) at alpha = 1/L: on [R/2, R] |F'| > eps, and a step is at most 4 c s / omega."""
        return 12 * self.start * self.omega / (8 * self.s)


def test_e22_range_of_alpha_in_the_theorem_on_maml():
    """alpha in (0, 1/L]: at 1/L no universal constant is enough; for alpha L <= 0.35 the derived one is."""
    task = Ripple(0.2, 200.0)
    assert task.steps(1.0) >= task.least() > 15 * task.allowed(1.0)
    # The lower bound exceeds every constant as s -> 0.
    for constant, s in ((1e2, 0.05), (1e4, 5e-3), (1e6, 5e-4)):
        few = Ripple(s, 100 / s**3)
        assert few.least() > constant * few.allowed(1.0)
    alpha = 0.35
    KN = MAML.explicit_constants(alpha)[2]
    exact = MAML.exact_iterations(task.eps, task.gap(alpha), task.constants, alpha)
    assert task.steps(alpha) <= exact <= KN * task.allowed(alpha)
    floors = [MAML.explicit_constants(lam)[:2] for lam in np.linspace(1e-3, alpha, 50)]
    assert np.max(floors) <= MAML.summary_constant


def test_e23_sum_of_pieces_is_infinite():
    """LB/sigma^2 + L(B D_o + D_in)/sigma~^2 is infinite once one of them vanishes; L/S is not."""

    def written(constants, sizes):
        with np.errstate(divide="ignore"):
            first = constants.L * sizes.B / np.square(constants.sigma)
            return first + constants.L * (sizes.B * sizes.D_o + sizes.D_in) / np.square(constants.sigma_tilde)

    sizes, alpha, gap = BatchSizes(B=20, D_in=11.0, D_o=5.0), 0.05, 7.0
    for sigma, sigma_tilde in ((2.4, 1.9), (0.0, 1.9), (2.4, 0.0)):
        constants = Constants(3.1, 1.7, np.float64(sigma), np.float64(sigma_tilde))
        S = MAML.bracket(constants, alpha, sizes)
        mended = constants.L / S
        assert mended < written(constants, sizes)
        assert (written(constants, sizes) == np.inf) == (sigma * sigma_tilde == 0)
        # The derived theorem in the summary's form: L/S up to an explicit constant.
        K1, K2, KN = MAML.explicit_constants(alpha * constants.L, sizes.B)
        unit = constants.rho * alpha / constants.L
        target = max(math.sqrt(K1 * (1 + unit * constants.sigma) * S), K2 * unit * S)
        needed = MAML.iterations(target, gap, constants, alpha, sizes)
        assert needed - 1 <= KN * gap * (1 / K1 + 1 / K2) * mended


# Theorem on FO-MAML


def test_e24_noise_of_the_outer_gradient_in_the_first_root():
    """sigma^2 / (B D_o): with sigma = rho = 0 and D_in = inf the floor is 0, yet every iterate is noisy."""
    constants = Constants(L=2.0, rho=0.0, sigma=0.0, sigma_tilde=3.0)
    alpha, sizes, c = 0.05, BatchSizes(B=20, D_in=None, D_o=1.0), 1 / 18
    task = SharedQuadratic(np.array([2.0]), QuadraticCenters(np.full((3, 1), 0.5)), make_noise(3.0))
    assert task.constants().sigma == 0

    def written(constants, B, D_o, inner):
        bias = constants.sigma**2 * (1 / B + 20 * (alpha * constants.L) ** 2)
        S = bias + constants.sigma**2 / (B * D_o) + constants.sigma_tilde**2 * inner
        unit = constants.rho * alpha / constants.L
        second = bias + constants.sigma_tilde**2 / (B * D_o) + constants.sigma**2 * inner
        return max(math.sqrt(14 * (1 + unit * constants.sigma) * S), 14 * unit * second)

    # grad F(w_k) is Gaussian: its mean decays, its second moment is known, hence E|grad F| (folded normal).
    k, w0 = np.arange(4001), np.array([3.7])
    second = task.exact_line(k, w0, "fo_maml", alpha, c, sizes)
    rate = c / 8 * 2 * (1 - alpha * 2)
    mean = abs(task.grad_objective(w0, alpha)[0]) * (1 - rate) ** k
    variance = np.maximum(second - mean**2, 1e-300)
    erf = np.array([math.erf(x) for x in mean / np.sqrt(2 * variance)])
    norm = np.sqrt(2 * variance / np.pi) * np.exp(-(mean**2) / (2 * variance)) + mean * erf
    assert written(constants, 20, 1.0, 0.0) == 0
    assert norm.min() > 0.05 * constants.sigma_tilde / math.sqrt(20)
    assert norm.argmin() > 100
    assert norm[-1] <= FO.floor(constants, alpha, sizes) <= FO.floor_summary(constants, alpha, sizes)


def test_e25_noise_of_the_inner_gradient_in_the_second_entry():
    """sigma^2 / D_in varies with D_in where FO-MAML does not, and does not where FO-MAML does."""

    def written(sigma, sigma_tilde, D_in):
        return sigma**2 / D_in

    def mended(sigma, sigma_tilde, D_in):
        return sigma_tilde**2 / D_in

    w = np.array([0.9])
    related = cosine.make(n=1, d=1, tau=4.0, seed=2)
    noiseless = cosine.make(n=4, d=1, seed=2)
    for family in (related, noiseless):
        constants = family.constants()
        alpha = 1 / (10 * constants.L)

        def direction(D_in, family=family, alpha=alpha):
            g = family.task_gradients(family.adapted(w, alpha))
            return float(np.mean(g + family.inner_bias(w, alpha, D_in)))

        def varies(term, constants=constants):
            few, many = (term(constants.sigma, constants.sigma_tilde, D) for D in (1.0, 100.0))
            return bool(few != many)

        moved = direction(1.0) != direction(100.0)
        assert varies(mended) == moved
        assert varies(written) != moved
    assert related.constants().sigma <= ROUNDING
    assert noiseless.constants().sigma_tilde == 0
    # The library's bracket has the mended term.
    constants, sizes = Constants(3.1, 1.7, 2.4, 1.9), BatchSizes(B=20, D_in=11.0)
    more = FO.bracket(constants, 0.02, sizes) - FO.bracket(constants, 0.02, BatchSizes(B=20))
    assert more == pytest.approx(mended(2.4, 1.9, 11.0), rel=1e-10)


def test_e26_rate_in_the_count_of_fo_maml():
    """L / (sigma^2 (1/B + 20 sigma^2 L^2)) adds a number to phi^4/u^6; alpha^2 L^2 is a number."""

    def written(L, sigma, B):
        return L / (sigma**2 * (1 / B + 20 * sigma**2 * L**2))

    def mended(L, sigma, B, alpha):
        return L / (sigma**2 * (1 / B + 20 * alpha**2 * L**2))

    assert_units(written, mended, -1, 0)
    constants, sizes = Constants(L=3.1, rho=1.7, sigma=2.4), BatchSizes(B=23)
    piece = constants.L / FO.bracket(constants, 0.02, sizes)
    assert mended(3.1, 2.4, 23, 0.02) == pytest.approx(piece, rel=ROUNDING)


def test_e27_fo_maml_has_no_hessian_batch(pool):
    """D_h >= 2 alpha^2 sigma_H^2 is no condition of FO-MAML, whose direction does not read D_h."""

    def loss(w, batch):
        return pool.loss(w, None, batch)

    def unmoved(name):
        @jax.jit
        def directions(w):
            return jax.vmap(lambda episode: estimators()[name](loss, w, episode, alpha=0.3))(episodes)

        found = np.asarray(directions(POOL_POINT))
        return bool(np.array_equal(found[0], found[1]))

    episodes = pool_episodes(pool, 1)
    assert not np.array_equal(episodes.hessian.y[0], episodes.hessian.y[1])
    assert unmoved("fo_maml")
    assert not unmoved("maml")
    constants = Constants(L=3.1, rho=1.7, sigma=2.4, sigma_h=1e3)
    written = math.ceil(2 * (0.02 * constants.sigma_h) ** 2)
    assert written > FO.hessian_samples(constants, 0.02) == 1


# Theorem on HF-MAML


def test_e28_the_third_theorem_is_on_hf_maml():
    """FO-MAML does not do what the third theorem says: on quadratics it rests where HF-MAML goes on."""
    family = quadratic.pair(ell=1.0, eta=0.5, s=1.0)
    constants = family.constants()
    alpha = 1 / (6 * constants.L)
    rest = family.fo_limit(alpha)
    # The run stays where it starts, so that sigma is needed at this one point; all tasks: S = 0.
    floor = HF.floor_summary(constants, alpha, BatchSizes())
    assert floor == 0
    exact = family.grad_objective(rest, alpha)
    scale = constants.L * float(np.abs(family.tasks.centers).max())
    np.testing.assert_allclose(mean_direction("fo_maml", family, rest, alpha), 0.0, atol=8 * EPS * scale)
    assert abs(exact[0]) == pytest.approx(quadratic.pair_floor(1.0, 0.5, 1.0, alpha), rel=ROUNDING)
    assert abs(exact[0]) > 0.01 * scale
    # Any rho > 0 bounds that of a quadratic; the difference is exact.
    for w in (rest, family.maml_limit(alpha)):
        found = mean_direction("hf_maml", family, w, alpha, delta=theorem_delta(1.7, alpha))
        np.testing.assert_allclose(found, family.grad_objective(w, alpha), atol=64 * EPS * scale)


def test_e29_hessian_batch_of_hf_maml():
    """(alpha rho sigma_H)^2 is no number; (alpha sigma_H)^2 is, and leaves 1/36 of the squared gradient."""

    def written(alpha, rho, sigma_h):
        return 36 * (alpha * rho * sigma_h) ** 2

    def mended(alpha, sigma_h):
        return 36 * (alpha * sigma_h) ** 2

    assert_units(written, mended, 0, 0)
    alpha, sigma_h, g = 0.4, 5.0, 1.3
    constants = Constants(L=0.3, rho=1.7, sigma=0.0, sigma_h=sigma_h)
    assert HF.hessian_samples(constants, alpha) == mended(alpha, sigma_h)
    # One sample of the Hessian is +-sigma_H off: E |alpha (H~ - H) g|^2, by enumeration.
    D_h = math.ceil(mended(alpha, sigma_h) * (1 - ROUNDING))
    probabilities, means = sign_means(D_h)
    noise = np.sum(probabilities * (alpha * sigma_h * means * g) ** 2)
    # The probabilities come from logarithms of size D_h log 2.
    assert noise == pytest.approx(g**2 / 36, rel=D_h * 1e-14 * 10)
    # Parameters in other units: the written condition asks for fewer than one sample.
    u = 100.0
    assert written(alpha * u**2, 1.7 / u**3, sigma_h / u**2) < 1 < mended(alpha * u**2, sigma_h / u**2)


def test_e30_bias_of_the_theorems_difference():
    """The floor has no term of the difference's bias: exact HF-MAML rests where grad F is not 0."""
    family = two_cosines.make()
    constants = family.constants()
    alpha = 1 / (20 * constants.L)

    def rest(eta):
        """||grad F|| at a zero of the exact direction over all tasks, delta = eta / (rho alpha ||g_i||)."""
        delta = theorem_delta(constants.rho, alpha, eta=eta)
        w = np.array([hf_root(family, alpha, delta.arc)])
        direction = mean_direction("hf_maml", family, w, alpha, delta=delta)
        # gradients of size sigma, and a difference over the arc
        lost = 64 * EPS * constants.sigma * (1 + alpha / (2 * delta.arc))
        np.testing.assert_allclose(direction, 0.0, atol=lost)
        return float(np.linalg.norm(family.grad_objective(w, alpha)))

    stated = rest(1 / 6)
    assert HF.floor_summary(constants, alpha, BatchSizes()) == 0
    assert stated > 0.1 * alpha * constants.L * constants.sigma
    assert HF.floor_summary(constants, alpha, BatchSizes(B=10**6)) < stated
    assert HF.floor_summary(constants, alpha, BatchSizes(B=20)) > stated
    # Mended: eta = min(1/6, 1/sqrt(B)) keeps the floor as summarised, and its constant for every B.
    for B in (36, 400, 10_000, 10**6):
        eta = min(1 / 6, 1 / math.sqrt(B))
        sizes = BatchSizes(B=B)
        assert rest(eta) <= HF.floor_summary(constants, alpha, sizes)
        assert repaired(B).explicit_constants(1 / 6, B)[0] <= HF.summary_constant
    assert HF.explicit_constants(1 / 6, 10**6)[0] > HF.summary_constant
