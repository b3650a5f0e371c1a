"""Advice: the theory's numbers, the measured differences against closed forms, the rules, the command."""

import dataclasses
import itertools
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments import advice as against
from experiments.advice_problems import CASES, HELD_BACK
from jaxmaml import Episode, InnerLoop, adapt, measure, objective, theory
from jaxmaml.advice import bounds, decide, differences, rules, target
from jaxmaml.advice.bounds import REPAIRED, promises
from jaxmaml.advice.differences import Difference, Point
from jaxmaml.advice.norms import norm_of_mean
from jaxmaml.advice.options import Options
from jaxmaml.advice.pilot import Scan
from jaxmaml.advice.rules import Pilot, recommend
from jaxmaml.statistics import Interval
from jaxmaml.tasks import cosine
from jaxmaml.tasks.cosine import Cosine, CosineTasks
from jaxmaml.theory import finite_difference, hf_maml, inner_bias, step_moments
from jaxmaml.training.presets import PRESETS
from jaxmaml.types import BatchSizes, Constants

pytestmark = pytest.mark.recorded

ALPHA, W = 0.11, np.array([0.7, -1.2])
SIZES = {"tasks": 24, "D_in": 4, "D_h": 3, "D_o": 5}
NUMBERS = {"mu": 0.8, "a": 1.4, "omega": 1.5, "tau": 0.5, "beta0": 0.4, "nu": 1.3}


def family(shared_hessian):
    """Four tasks with phases of their own, or of one: at every w they then share a Hessian."""
    made = cosine.make(n=4, d=2, spread=0.8, **NUMBERS)
    phases = np.random.default_rng(5).uniform(-2, 2, (4, 2))
    phases = np.broadcast_to(phases[:1], (4, 2)) + 0.0 if shared_hessian else phases
    return dataclasses.replace(made, tasks=CosineTasks(1.5 + made.tasks.centers, phases))


def closed_forms(family: Cosine):
    """grad F, FO-MAML's direction and alpha Cov(H, v), of all tasks and exact batches."""
    H = family.task_hessians(W)
    v = family.task_gradients(family.adapted(W, ALPHA))
    covariance = np.mean(H * v, axis=0) - H.mean(axis=0) * v.mean(axis=0)
    return np.mean((1 - ALPHA * H) * v, axis=0), v.mean(axis=0), ALPHA * covariance


@pytest.fixture(scope="module")
def looks():
    """{whether the tasks share a Hessian: (family, what is measured)}; one set of programs does for both."""
    found = {}
    for shared in (False, True):
        one = family(shared)
        known = one.constants()
        arcs = decide.arcs_of(known.rho, ALPHA, SIZES["tasks"], jnp.asarray(W))
        lab = differences.lab(measure.from_family(one, jnp.asarray(W)), SIZES, ALPHA, arcs)
        found[shared] = one, differences.look(lab, "w0", jnp.asarray(W), 48, jax.random.key(3))
        # Of one inner step with another alpha, as the theorems' promises ask.
        F, norm = differences.objective(lab, jnp.asarray(W), 0.3)
        assert pytest.approx(float(objective.F(one, jnp.asarray(W), 0.3))) == F
        assert norm == pytest.approx(np.linalg.norm(one.grad_objective(W, 0.3)))
    return found


def difference(point, name):
    return next(d for d in point.differences if d.name == name)


# The theory's numbers


def test_promises_are_the_theorys_at_measured_constants():
    """Measured on a family, then every number from jaxmaml.theory and the family's closed forms."""
    one = family(False)
    measured = measure.constants(
        measure.from_family(one, jnp.asarray(W)), key=jax.random.key(0), starts=1, samples=2
    )
    found = measured.constants()
    declared = one.constants()
    for name in ("L", "rho", "sigma"):
        assert 0.3 * getattr(declared, name) < getattr(found, name) <= getattr(declared, name) * (1 + 1e-9)
    norms = np.linalg.norm(one.task_gradients(W), axis=1)
    B, D_in, D_o, D_h = 30, 7.0, 9.0, 2.0
    sizes = BatchSizes(B=B, D_in=D_in, D_o=D_o, D_h=D_h)
    alpha = 0.09

    def start(rate):
        w = jnp.asarray(W)
        return float(objective.F(one, w, rate)), float(np.linalg.norm(one.grad_objective(W, rate)))

    made = promises(found, alpha, sizes, norms.mean(), start, nonnegative=True)
    assert [p.name for p in made] == ["maml", "fo_maml", "hf_maml", REPAIRED]
    largest = {"maml": 1 / 6, "fo_maml": 1 / 10, "hf_maml": 1 / 6, REPAIRED: 1 / 6}
    summary = {"maml": 1, "fo_maml": 1 / 10, "hf_maml": 1 / 6, REPAIRED: 1 / 6}
    c = {"maml": 1 / 12, "fo_maml": 1 / 18, "hf_maml": 1 / 25, REPAIRED: 1 / 25}
    samples = {"maml": 2, "fo_maml": 0, "hf_maml": 36, REPAIRED: 36}
    for p in made:
        rate = min(alpha, largest[p.name] / found.L)
        assert p.alpha_max == pytest.approx(largest[p.name] / found.L)
        assert p.alpha_max_summary == pytest.approx(summary[p.name] / found.L)
        assert p.alpha == pytest.approx(rate)
        assert p.step == pytest.approx(c[p.name] / (4 * found.L + 2 * found.rho * rate * norms.mean()))
        assert (p.F, p.grad_norm) == pytest.approx(start(rate), rel=1e-12)
        assert p.epsilon == pytest.approx(p.grad_norm / 10)
        assert p.gap == p.F
        assert p.D_h == math.ceil(samples[p.name] * (rate * found.sigma_h) ** 2)
        assert (p.B_prime, p.D_beta) == step_moments.step_batch_conditions(found, rate)
        theorem = hf_maml.repaired(B) if p.name == REPAIRED else theory.theorems()[p.name]
        assert p.floor == theorem.floor(found, rate, sizes)
        if p.name == REPAIRED:
            assert p.floor_summary is None
            assert p.arc == pytest.approx(min(1 / 6, B**-0.5) / (found.rho * rate))
        else:
            assert p.floor_summary == theorem.floor_summary(found, rate, sizes)
        if p.name == "hf_maml":
            assert p.arc == pytest.approx(1 / (6 * found.rho * rate))
    # The rates differ: FO-MAML's is cut to 1/(10 L), and the objective with it.
    assert made[1].alpha < made[0].alpha
    assert made[1].F != made[0].F


CONSTANTS = Constants(L=1.7, rho=0.6, sigma=0.8, sigma_tilde=1.9, sigma_h=2.1)


@pytest.mark.parametrize(
    ("name", "sigma_tilde", "epsilon", "smaller"),
    [("maml", 1.2, 6.5, 0.55), ("fo_maml", 1.2, 3.5, 0.35), ("hf_maml", 3.0, 7.0, 0.75)],
)
def test_smallest_batches_against_all_of_them(name, sigma_tilde, epsilon, smaller):
    """Every (B, D_o, D_in) of a box; N(epsilon) is a whole number, which blurs the derived total by 1/N."""
    known = Constants(L=1.7, rho=30.0, sigma=2.5, sigma_tilde=sigma_tilde, sigma_h=15.0)
    theorem, alpha, gap = theory.theorems()[name], 0.02, 3.0
    D_h = {"maml": 1.0, "fo_maml": 0.0, "hf_maml": 4.0}[name]
    fixed = float(np.prod(step_moments.step_batch_conditions(known, alpha)))

    def sizes(B, D_o, D_in):
        return BatchSizes(B=B, D_in=float(D_in), D_o=float(D_o), D_h=D_h or None)

    def one_step(B, D_o, D_in):
        return B * (D_in + D_o + 2 * D_h) + fixed

    def in_all(*box):
        return theorem.iterations(smaller, gap, known, alpha, sizes(*box)) * one_step(*box)

    def assert_inside(plan):
        # Fewer than 20 tasks are in no theorem.
        assert 20 <= plan.B < 84
        assert plan.D_o < 19
        assert plan.D_in < 44

    box = list(itertools.product(range(20, 85), range(1, 20), range(1, 45)))
    reach = [b for b in box if theorem.floor_summary(known, alpha, sizes(*b)) <= epsilon]
    summarised = bounds.plan_summarised(theorem, known, alpha, epsilon, gap)
    chosen = int(summarised.B), summarised.D_o, summarised.D_in
    assert summarised.D_h == D_h
    assert summarised.floor == theorem.floor_summary(known, alpha, sizes(*chosen)) <= epsilon
    assert one_step(*chosen) == min(one_step(*b) for b in reach)
    assert summarised.evaluations == summarised.iterations * one_step(*chosen)
    assert_inside(summarised)

    derived = bounds.plan_derived(lambda _: theorem, known, alpha, smaller, gap)
    chosen = int(derived.B), derived.D_o, derived.D_in
    assert derived.floor == theorem.floor(known, alpha, sizes(*chosen)) < smaller
    assert derived.iterations == theorem.iterations(smaller, gap, known, alpha, sizes(*chosen))
    assert derived.evaluations == in_all(*chosen)
    near = [b for b in box if abs(b[1] - derived.D_o) < 4 and abs(b[2] - derived.D_in) < 6]
    assert derived.evaluations <= min(in_all(*b) for b in near) * (1 + 1 / derived.iterations)
    assert_inside(derived)


def test_plans_do_not_depend_on_units():
    """Parameters in units of u, losses in units of phi."""
    u, phi, alpha = 3.7, 0.013, 0.05
    scaled = Constants(
        L=CONSTANTS.L * phi / u**2,
        rho=CONSTANTS.rho * phi / u**3,
        sigma=CONSTANTS.sigma * phi / u,
        sigma_tilde=CONSTANTS.sigma_tilde * phi / u,
        sigma_h=CONSTANTS.sigma_h * phi / u**2,
    )
    for name, theorem in theory.theorems().items():
        epsilon = 0.9 if name == "maml" else 2.5
        for planned in (
            lambda *a, t=theorem: bounds.plan_summarised(t, *a),
            lambda *a, t=theorem: bounds.plan_derived(lambda _: t, *a),
        ):
            one = planned(CONSTANTS, alpha, epsilon, 3.0)
            other = planned(scaled, alpha * u**2 / phi, epsilon * phi / u, 3.0 * phi)
            # The search compares costs that agree up to rounding: neighbours in it may change places.
            assert other.evaluations == pytest.approx(one.evaluations, rel=1e-2)
            assert other.floor == pytest.approx(one.floor * phi / u, rel=1e-2)


def test_below_a_floor_no_batches_do():
    alpha = 0.05
    for name in ("fo_maml", "hf_maml"):
        theorem = theory.theorems()[name]
        floor = theorem.floor(CONSTANTS, alpha, BatchSizes())
        assert bounds.plan_derived(lambda _, t=theorem: t, CONSTANTS, alpha, 0.99 * floor, 1.0) is None
        assert bounds.plan_derived(lambda _, t=theorem: t, CONSTANTS, alpha, 1.01 * floor, 1.0) is not None
        repaired = bounds.plan_derived(hf_maml.repaired, CONSTANTS, alpha, 0.5 * floor, 1.0)
        assert repaired.floor < 0.5 * floor
        assert repaired.floor == hf_maml.repaired(int(repaired.B)).floor(
            CONSTANTS, alpha, BatchSizes(int(repaired.B), repaired.D_in, repaired.D_o, repaired.D_h)
        )
    fo = theory.theorems()["fo_maml"]
    least = fo.floor_summary(CONSTANTS, alpha, BatchSizes())
    assert bounds.plan_summarised(fo, CONSTANTS, alpha, 0.99 * least, 1.0) is None
    assert bounds.plan_summarised(fo, CONSTANTS, alpha, 1.01 * least, 1.0) is not None


# The differences


def test_a_norm_without_its_noise():
    """At E x = 0 the naive ||mean x||^2 is tr Cov / S; the interval covers in 95 % of the cases."""
    rng, S, repeats = np.random.default_rng(0), 24, 1000
    scales = np.array([5.0, 40.0, 40.0, 30.0, 20.0])
    for shift in (0.0, 5.0, 12.0, 60.0):
        hits, squares = 0, []
        for _ in range(repeats):
            x = rng.standard_normal((S, 5)) * scales
            x[:, 0] += shift
            found = norm_of_mean(x)
            hits += found.low <= shift <= found.high
            squares.append(found.mean**2)
        # A share of 0.95, less 5 standard errors.
        assert hits / repeats > 0.95 - 5 * math.sqrt(0.95 * 0.05 / repeats)
        if shift >= 60:
            noise = np.sum(scales**2) / S
            assert abs(np.mean(squares) - shift**2) < 5 * np.std(squares) / math.sqrt(repeats) < 0.5 * noise
    assert norm_of_mean(np.full((5, 3), 2.0)) == Interval(*[pytest.approx(math.sqrt(12))] * 3, 5)
    assert norm_of_mean(np.zeros((5, 3))) == Interval(0.0, 0.0, 0.0, 5)


def test_bias_and_stall_are_those_of_the_closed_form(looks):
    for shared, (one, point) in looks.items():
        gradient, fo, covariance = closed_forms(one)
        size = np.linalg.norm(gradient)
        assert point.grad_norm == pytest.approx(size, rel=1e-12)
        assert pytest.approx(float(objective.F(one, jnp.asarray(W), ALPHA)), rel=1e-12) == point.F
        assert point.task_norm == pytest.approx(np.linalg.norm(one.task_gradients(W), axis=1).mean())
        adapted = one.task_gradients(one.adapted(W, ALPHA))
        assert point.adapted_norm == pytest.approx(np.linalg.norm(adapted, axis=1).mean())
        assert difference(point, "maml").exact_bias == 0
        # Its own bias is against grad F, through the noise of the inner step, and has an interval.
        own, lam = difference(point, "maml").bias, ALPHA * one.constants().L
        assert own.low <= (1 + lam) * inner_bias.bias(one.constants(), ALPHA, SIZES["D_in"])
        assert own.high > own.low
        exact = difference(point, "fo_maml").exact_bias
        assert exact == pytest.approx(np.linalg.norm(fo - gradient), rel=1e-9)
        assert point.exact_stall == pytest.approx(np.linalg.norm(covariance), rel=1e-9, abs=1e-14)
        assert (point.exact_stall < 1e-14) == shared
        # Between 48 noisy steps and exact batches lies what alpha^2 times the noise of the inner step leaves.
        known = one.constants()
        noise = ALPHA**2 * known.rho * known.sigma_tilde**2 / SIZES["D_in"]
        assert point.stall.low - noise <= point.exact_stall <= point.stall.high + noise
        fo_bias = difference(point, "fo_maml").bias
        assert fo_bias.low - noise <= exact <= fo_bias.high + noise
        assert fo_bias.low > 0.5 * exact
    assert looks[True][1].stall.low == 0  # zero is in the interval
    assert looks[False][1].stall.low > 0


def test_hf_maml_has_no_bias_with_the_float_optimal_delta(looks):
    """Below truncation and rounding; the theorem's delta has a bias that its interval shows."""
    one, point = looks[False]
    known = one.constants()
    arc = np.finfo(float).eps ** (1 / 3)
    largest = np.linalg.norm(one.task_gradients(one.adapted(W, ALPHA)), axis=1).max()
    delta = arc / largest
    allowed = finite_difference.truncation(known, delta, largest) + finite_difference.rounding(
        np.finfo(float).eps, largest, known.L, float(np.linalg.norm(W)), delta
    )
    best, stated = difference(point, "hf_maml, float"), difference(point, "hf_maml, theorem")
    assert best.exact_bias <= ALPHA * allowed
    assert best.bias.low <= ALPHA * allowed
    assert stated.exact_bias > 1e4 * ALPHA * allowed
    assert stated.bias.low > 0
    # The theorem's bound of its own bias: chi E||v||.
    assert stated.exact_bias <= finite_difference.chi(ALPHA * known.L) * point.adapted_norm
    assert difference(point, "hf_maml, repaired").exact_bias == pytest.approx(
        stated.exact_bias if SIZES["tasks"] <= 36 else 0
    )


def test_shared_inner_and_hessian_batches_are_biased_by_their_covariance(looks):
    """At most alpha^2 L sigma_h sigma_tilde / D_in (docs/theory.md)."""
    one, point = looks[False]
    known, same = one.constants(), difference(point, "maml_same_batch")
    bound = ALPHA**2 * known.L * known.sigma_h * known.sigma_tilde / SIZES["D_in"]
    assert same.exact_bias <= 1e-14 * point.adapted_norm
    assert same.bias.low <= bound
    assert same.distance.mean > 0
    assert same.noise.mean == pytest.approx(difference(point, "maml").noise.mean, rel=0.5)


def test_noise_of_a_step(looks):
    """Of 24 tasks with replacement: FO-MAML's by many draws of the closed form."""
    one, point = looks[True]
    rng = np.random.default_rng(1)
    draws, tau, beta0, nu = 20_000, NUMBERS["tau"], NUMBERS["beta0"], NUMBERS["nu"]
    who = rng.integers(4, size=draws)

    def gradients(w, size):
        """Noisy gradients of the tasks `who` at w, shape (draws, 2)."""
        scale = 1 / math.sqrt(2 * size)
        xi, p, q = scale * rng.standard_normal((3, draws, 2))
        wave = beta0 * nu * math.sqrt(0.5) * (q * np.cos(nu * w) - p * np.sin(nu * w))
        centers, phases = one.tasks.centers[who], one.tasks.phases[who]
        exact = NUMBERS["mu"] * (w - centers)
        exact = exact - NUMBERS["a"] * NUMBERS["omega"] * np.sin(NUMBERS["omega"] * w + phases)
        return exact + tau * xi + wave

    v = gradients(W - ALPHA * gradients(W, SIZES["D_in"]), SIZES["D_o"])
    expected = math.sqrt(np.sum(v.var(axis=0)) / SIZES["tasks"])
    found = difference(point, "fo_maml").noise
    assert found.low < expected < found.high
    assert found.high < 2 * found.low


def test_stall_of_two_inner_steps():
    """The factor that FO-MAML leaves out, against the dense Jacobian of adaptation, P_i = (dw_2 / dw)^T."""
    one, inner, w = family(False), InnerLoop(2), jnp.asarray(W)
    problem = measure.from_family(one, w)

    def end(w, batch):
        return adapt(problem.loss, w, batch, ALPHA, inner)

    v = jnp.array([0.3, -2.0])
    P = jax.vmap(lambda batch: jax.jacobian(end)(w, batch).T)(problem.full).mean(axis=0)
    everyone = Episode(problem.full, problem.full, problem.full)
    found = differences._pulled(problem.loss, w, everyone, v, ALPHA, None, inner)
    np.testing.assert_allclose(found, P @ v, rtol=1e-12)


# The rules

EQUAL = dict.fromkeys(("maml", "maml_same_batch", "fo_maml", "hf_maml"), 1.0)
HALF = EQUAL | {"fo_maml": 0.5}
SCAN = Scan((0.05, 0.1, 0.2, 0.4, 0.8), (5.0, 4.0, 3.0, 6.0, 9.0), (5.0, 4.0, 3.0, 6.0, 9.0), 0.2, 0.2)


def between(low, high):
    return Interval((low + high) / 2, low, high, 48)


def measured(lasting, noise=1.0, left=0.1, spread=0.5):
    """A point where methods differ in what stays of their bias alone."""
    exact = between(0.0, 0.0)
    return Point(
        where="w200",
        f=9.0,
        F=3.0,
        least_loss=0.0,
        helped=1.0,
        grad_norm=left,
        task_norm=2.0,
        adapted_norm=1.5,
        rounding=1e-11,
        spread=spread,
        sampled=between(left, left),
        stall=exact,
        exact_stall=0.0,
        differences=tuple(
            Difference(
                name,
                "float" if name == "hf_maml" else "",
                exact,
                0.0,
                between(noise, noise),
                exact,
                between(1.0, 1.0),
                lasting.get(name, exact),
                1.0,
            )
            for name in EQUAL
        ),
        steps=48,
    )


def piloted(**changes):
    return dataclasses.replace(Pilot(200, 9.0, 3.0, 0.5, 2.0, EQUAL, {}, {}), **changes)


def advised(point, prices=EQUAL, pilot=None, scan=SCAN, **changes):
    how = {"alpha": 0.2, "before": 0.2, "tasks": 10, "every": False, "there": None, "steps": 1000} | changes
    return recommend(point, scan, pilot or piloted(), prices, **how)


def test_a_bias_is_compared_with_noise_that_averages_over_the_run():
    """Half the price buys twice the steps, until the bias outweighs what these gain: e^2 = b^2 + (s^2/2 +
    l^2 P^2 / (4 N)) / N against s^2/N + (l P / N)^2 is equal at b^2 = s^2/(2 N) + 3 (l P)^2 / (4 N^2)."""
    s, left, P = 1.3, 0.1, 200

    def equal(N):
        return math.sqrt(s**2 / (2 * N) + 0.75 * (left * P / N) ** 2)

    for N in (300, 1000, 30_000):
        for factor, expected in ((0.99, "fo_maml"), (1.01, "maml")):
            b = factor * equal(N)
            point = measured({"fo_maml": between(b, b)}, noise=s, left=left)
            assert advised(point, HALF, steps=N).estimator == expected
    # A bias far below the noise of one step, as of the cosine family: maml at nearly the same price.
    point = measured({"fo_maml": between(0.153, 0.153)}, noise=1.0, left=0.0)
    assert advised(point, EQUAL | {"fo_maml": 1 / 1.03}, steps=5000).estimator == "maml"
    turning = rules.turns(point, piloted(), HALF, 5000)
    assert [t.estimator for t in turning] == ["fo_maml", "maml"]
    # On a grid of quarters of a doubling.
    assert turning[1].low == pytest.approx(0.5 / 0.153**2, rel=0.2)


def test_a_bias_that_is_not_known_counts_in_full_and_is_said():
    point = measured({"fo_maml": between(0.0, 0.04)})  # at its middle, 0.02, it would be chosen
    found = advised(point, HALF)
    assert (found.estimator, found.undecided) == ("maml", "fo_maml")
    assert "fo_maml undecided" in found.verdict[0]
    assert advised(measured({"fo_maml": between(0.4, 0.5)}), HALF).undecided == ""


def test_a_difference_step_must_win_by_a_tenth():
    for price, expected in ((0.85, "maml"), (0.75, "hf_maml")):
        assert advised(measured({}, left=0.0), EQUAL | {"hf_maml": price}).estimator == expected


def test_a_method_whose_pilot_fails_is_out():
    found = advised(measured({}), HALF, piloted(out={"fo_maml": "its pilot diverged"}))
    assert found.estimator == "maml"
    assert "fo_maml out (its pilot diverged)" in found.verdict[0]


def test_never_more_tasks_than_there_are():
    """48 for 6 tasks, 56 for 20 clients, 20 for one task were advised once."""
    for there, tasks in ((6, 6), (20, 20), (1, 1), (20, 12)):
        found = advised(measured({}, spread=5.0), tasks=tasks, every=tasks == there, there=there, steps=5000)
        assert (found.tasks, found.every) == (there, True)
        assert f"B = {there}: " in found.verdict[2]
    # Without noise of samples a step of all tasks is exact, and the outer step is as large as can be.
    exact = advised(measured({}, noise=0.0, spread=5.0), tasks=6, every=True, there=6, steps=5000)
    assert exact.outer_step == 0.5
    # Many tasks: those in force, unless there are too few steps for as many.
    assert advised(measured({}), there=1000, steps=100_000).tasks == 10
    assert advised(measured({}, noise=0.1, spread=0.2), there=1000, steps=20).tasks < 10


def test_tasks_and_outer_step_balance_the_start_and_the_noise():
    """At the largest B the outer step that is least in the bound, 4 Delta/(beta N) + 2/3 beta L_F s^2, is
    beta."""
    noise, spread, budget, beta, fall = 0.3, 0.1, 200.0, 0.5, 6.0
    B, every, left = rules.tasks_of_a_step(noise, spread, 10, False, None, budget, beta / (6 * fall))
    largest = math.sqrt(noise**2 * 10 * budget * beta / (6 * fall))
    assert (B, every) == (math.floor(largest), False)
    assert left == pytest.approx(noise * math.sqrt(10 / B))
    for N, noise in ((3000, 2.0), (50_000, 2.0), (3000, 0.3), (1000, 0.1)):
        found = advised(measured({}, noise=noise, spread=0.1), steps=N, tasks=1)
        steps = np.geomspace(1e-4, 0.5, 20_001)
        bound = 4 * 6.0 / (steps * N) + 2 / 3 * steps / 0.5 * noise**2
        # Not below what the pilot found for its 200 steps.
        known = 0.5 * math.sqrt(200 / N)
        assert found.outer_step == pytest.approx(max(steps[np.argmin(bound)], known), rel=1e-3)
        limit = "curvature" if found.outer_step == 0.5 else "the noise of a step"
        assert f"{limit} limits it" in found.verdict[3]
    kept = advised(measured({}), pilot=piloted(step=None))
    assert (kept.outer_step, kept.tasks) == (None, 10)


def test_what_limits_alpha():
    noisy = dataclasses.replace(SCAN, whole_best=0.4)
    for scan, limit in ((SCAN, "curvature"), (noisy, "samples")):
        found = advised(measured({}), scan=scan, before=0.017)
        assert found.limit == limit
        assert "raise from 0.017" in found.verdict[1]
    assert advised(measured({}), alpha=0.8).limit == "range"


def test_the_verdict_is_five_lines_and_says_kinks():
    found = advised(measured({"fo_maml": between(0.1, 0.1)}), HALF, kink="the first derivative jumps")
    assert len(found.verdict) == 5
    assert "the loss has kinks: no theorem applies" in found.verdict[4]
    assert "fo_maml below" in found.verdict[4]


# Problems whose answers are known


@pytest.mark.parametrize("name", ["few_tasks"])
def test_advice_on_a_small_problem(name):
    """Six tasks that differ in curvature, no noise: all of them, no first order, and a larger alpha."""
    about, found = against.advised(CASES[name])
    r = found.recommendation
    assert r.estimator in ("maml", "maml_same_batch")
    assert (r.tasks, r.every, r.limit) == (6, True, "curvature")
    # For parabolas of curvature h the best alpha is near 1/h; w cannot be better at a neighbour.
    h = np.asarray(about.problem.full[0])[:, 0]
    assert 1 / h.max() < r.alpha < 1 / h.min()
    closed = {a: parabolas(about.problem.full, a) for a in (r.alpha, r.alpha / 2, r.alpha * 2)}
    assert min(closed, key=closed.get) == r.alpha
    assert found.pilot.end == pytest.approx(closed[r.alpha], rel=1e-3)


def test_alpha_is_kept_where_the_pilot_still_shows_the_start():
    """A run of more than REACH pilots keeps an alpha that adapts; a shorter one raises it."""
    case = CASES["large_alpha"]
    found = {}
    for pilots in (decide.REACH, decide.REACH + 1):
        options = Options("", alpha=case.alpha, outer_steps=4 * pilots, **case.sizes)
        about = target.of_problem(case.make(), "", options)
        how = {"steps": 2, "pilot_steps": 4, "key": jax.random.key(0), "price": "gradients"}
        found[pilots] = decide.decide(about, case.alpha, **how).alpha
    assert found[decide.REACH] > 4 * case.alpha
    assert found[decide.REACH + 1] == case.alpha


def parabolas(full, alpha):
    """min F = min_w E_i sum_j h (1 - alpha h)^2 (w - c)^2 / 2 of parabolas with curvatures h and centres
    c."""
    h, c = (np.asarray(x)[:, 0] for x in full[:2])
    weight = h * (1 - alpha * h) ** 2
    w = np.sum(weight * c, axis=0) / np.sum(weight, axis=0)
    return 0.5 * float(np.mean(np.sum(weight * (w - c) ** 2, axis=1)))


@pytest.mark.exhaustive  # trains every method on every problem: eight minutes
@pytest.mark.parametrize("name", list(CASES | HELD_BACK))
def test_advice_is_within_noise_of_the_best(name):
    row = against.against_training(name, (CASES | HELD_BACK)[name])
    assert row["right"], against.line(row)


# The command


@pytest.fixture
def advise_here(tmp_path, monkeypatch, capsys):
    """advise_here(*words) -> (status, standard error), in an empty folder; JAX's settings are restored."""
    names = ("jax_enable_x64", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("wrong_problem", "broken", "lacking"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["experiments", "advise", *words])
        return command_line.main(), capsys.readouterr().err

    yield call
    for name, value in before.items():
        jax.config.update(name, value)


WRONG = """
import jax.numpy as jnp
from jaxmaml import measure
def problem(): return {"loss": 1}
def needs(size): return size
def whole(): return measure.Problem(None, jnp.arange(3), jnp.ones((2, 3)), None)
def scalar(): return measure.Problem(None, jnp.ones(3), jnp.ones(()), None)
def quadratic():
    return measure.from_pools(lambda w, b: jnp.mean((b - w) ** 2), jnp.ones(2), jnp.ones((3, 4, 2)))
def line():
    x = jnp.ones((3, 4, 2))
    return measure.from_pools(lambda w, b: jnp.mean(b @ w), jnp.ones(2), x)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["digitz"],
            "unknown preset 'digitz'; known: digits, .*package.module:function. Did you mean 'digits'?",
        ),
        (["wrong_problm:problem"], "no module 'wrong_problm'; .* Did you mean 'wrong_problem'?"),
        (["jaxmaml.nothing:f"], "no module 'jaxmaml.nothing'"),
        (["wrong_problem:problm"], "unknown function of wrong_problem 'problm'; .*Did you mean 'problem'?"),
        (["wrong_problem:problem"], "returned dict; allowed: a jaxmaml.measure.Problem"),
        (
            ["wrong_problem:needs"],
            "missing a required argument: 'size'; allowed: a function without arguments",
        ),
        (["wrong_problem:whole"], "has dtype int64|has dtype int32"),
        (["wrong_problem:scalar"], "allowed: a task axis first"),
        (["broken:problem"], "module 'broken' cannot be imported: SyntaxError"),
        (["lacking:problem"], "module 'lacking' cannot be imported: No module named 'not_there_at_all'"),
        (["digits", "--epsilon", "0"], "epsilon = 0.0; allowed: finite and > 0"),
        (["digits", "--epsilon", "-1"], "epsilon = -1.0; allowed: finite and > 0"),
        (["digits", "--alpha", "nan"], "alpha = nan; allowed: finite and > 0"),
        (["digits", "--gap", "0"], "gap = 0.0; allowed: finite and > 0"),
        (["digits", "--tasks", "0"], "tasks = 0; allowed: an integer >= 1"),
        (["digits", "--figure", "advice.gif"], "figure = 'advice.gif'; allowed: a name that ends in .svg"),
        (["wrong_problem:quadratic", "--tasks", "4"], "tasks = 4; allowed: at most 3, the tasks there are"),
        (["digits", "--steps", "2"], "steps = 2; allowed: an integer >= 3"),
        (
            ["digits", "--json", "no/such/folder.json"],
            "json = 'no/such/folder.json'; allowed: a file in a folder",
        ),
        (["wrong_problem:problem", "--path", "x"], "path = 'x'; allowed: with a preset"),
        (["omniglot", "--path", "no-such-folder"], "no-such-folder"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_gets_one_line(advise_here, tmp_path, words, said):
    (tmp_path / "wrong_problem.py").write_text(WRONG)
    (tmp_path / "broken.py").write_text("def problem(:\n")
    (tmp_path / "lacking.py").write_text("import not_there_at_all\n")
    status, err = advise_here(*words)
    assert status == 2
    lines = err.splitlines()
    assert [line for line in lines if not line.endswith(" ...")] == lines[-1:]
    assert re.search("^error: .*(" + said.replace("?", "[?]") + ")", lines[-1])


def test_effort_follows_the_network():
    """Convolutional presets are measured with less, unless the options say otherwise."""
    assert target.effort(Options("omniglot")) == target.QUICK
    assert target.effort(Options("omniglot", quick=False)) == target.Effort()
    assert target.effort(Options("mine:problem")) == target.Effort()
    # Alpha is not chosen on ten samples where more cost nothing.
    whole = target.Effort()
    some = target.effort(Options("digits", quick=True, steps=5, pool=7))
    assert some == dataclasses.replace(target.QUICK, steps=5, pool=7, pools=whole.pools, pilot=whole.pilot)


def test_presets_become_problems():
    """Pools of so many tasks and samples, with labels of every class; sizes are those of the preset."""
    sinusoid = target.resolve(Options("sinusoid", pools=3, pool=7))
    x, y = sinusoid.problem.full
    assert (x.shape, y.shape) == ((3, 7, 1), (3, 7, 1))
    assert sinusoid.sizes == {"tasks": 25, "D_in": 10, "D_h": 10, "D_o": 10}
    digits = target.resolve(Options("digits", pools=4, pool=8, alpha=0.3, D_h=2, inner_steps=1))
    x, y = digits.problem.full
    assert x.shape == (4, 9, 8, 8, 1)
    np.testing.assert_array_equal(np.sort(y, axis=1), np.tile(np.repeat(np.arange(3), 3), (4, 1)))
    preset = PRESETS["digits"]
    assert digits.sizes == {
        "tasks": preset.outer.tasks,
        "D_in": 3 * preset.data.support,
        "D_h": 2,
        "D_o": 3 * preset.data.query,
    }
    assert (digits.alpha, digits.inner_steps) == (0.3, 1)
    batch = digits.problem.sample(jax.random.key(0), jnp.array([1, 1, 3]), 5)
    assert batch[0].shape == (3, 5, 8, 8, 1)
    assert np.isfinite(digits.problem.loss(digits.problem.params, jax.tree.map(lambda b: b[0], batch)))
