"""What every theorem's lines must satisfy, and that each bound has the units of what it bounds."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmaml import theory
from jaxmaml.estimators import estimators
from jaxmaml.theory import (
    convergence,
    drift,
    finite_difference,
    gradient_comparison,
    inner_bias,
    limit_points,
    objective_gap,
    second_moment,
    smoothness,
    stationary,
    step_moments,
)
from jaxmaml.theory.hf_maml import repaired
from jaxmaml.types import BatchSizes, Constants

THEOREMS = theory.theorems() | {"hf_maml, repaired": repaired(400)}
every = pytest.mark.parametrize("theorem", THEOREMS.values(), ids=THEOREMS.keys())
CONSTANTS = Constants(L=3.0, rho=1.7, sigma=2.4, sigma_tilde=1.9, sigma_h=5.0, zeta=2.2)
SIZES = BatchSizes(B=40, D_in=30.0, D_o=7.0, D_h=90.0, B_prime=3, D_beta=4.0)
GAP = 11.0


def rescaled(constants, c, s):
    """The constants of c f(./s)."""
    return Constants(
        L=constants.L * c / s**2,
        rho=constants.rho * c / s**3,
        sigma=constants.sigma * c / s,
        sigma_tilde=constants.sigma_tilde * c / s,
        sigma_h=constants.sigma_h * c / s**2,
        zeta=constants.zeta * c / s**4,
    )


def rate(theorem, constants):
    return 0.9 * theorem.alpha_max(constants.L)


factors = {"c": st.floats(1e-3, 1e3), "s": st.floats(1e-3, 1e3)}


@every
class TestEveryTheorem:
    @given(**factors)
    def test_units(self, theorem, c, s):
        alpha, other = rate(theorem, CONSTANTS), rescaled(CONSTANTS, c, s)
        beta = alpha * s**2 / c
        unit = c / s
        for name in ("floor", "floor_summary", "bracket", "noise"):
            power = 2 if name in ("bracket", "noise") else 1
            plain = getattr(theorem, name)(CONSTANTS, alpha, SIZES)
            assert getattr(theorem, name)(other, beta, SIZES) == pytest.approx(
                plain * unit**power, rel=1e-9
            ), name
        assert theorem.line(100, c * GAP, other, beta, SIZES) == pytest.approx(
            unit * theorem.line(100, GAP, CONSTANTS, alpha, SIZES), rel=1e-9
        )
        eps = 1.3 * theorem.floor(CONSTANTS, alpha, SIZES)
        for name in ("iterations", "iterations_summary"):
            plain = getattr(theorem, name)(eps, GAP, CONSTANTS, alpha, SIZES)
            found = getattr(theorem, name)(eps * unit, c * GAP, other, beta, SIZES)
            assert found == pytest.approx(plain, rel=1e-6, abs=1), name
        assert theorem.exact_floor(other, beta) == pytest.approx(
            unit * theorem.exact_floor(CONSTANTS, alpha), rel=1e-9
        )
        eps = 2 * theorem.exact_floor(CONSTANTS, alpha) + 0.1
        assert theorem.exact_iterations(eps * unit, c * GAP, other, beta) == pytest.approx(
            theorem.exact_iterations(eps, GAP, CONSTANTS, alpha), rel=1e-9
        )

    @given(**factors)
    def test_conditions_are_numbers(self, theorem, c, s):
        """Batch conditions are numbers: they do not change with the units."""
        alpha = rate(theorem, CONSTANTS)
        plain = theorem.conditions(CONSTANTS, alpha, SIZES)
        other = theorem.conditions(rescaled(CONSTANTS, c, s), alpha * s**2 / c, SIZES)
        for a, b in zip(plain[2:], other[2:], strict=True):
            # A ceiling may move by one through rounding.
            assert abs(a.required - b.required) <= 1
            assert a.actual == b.actual

    def test_iterations_invert_the_line(self, theorem):
        alpha = rate(theorem, CONSTANTS)
        floor = theorem.floor(CONSTANTS, alpha, SIZES)
        for eps in floor * np.array([1.001, 1.5, 10.0, 1000.0]):
            n = theorem.iterations(eps, GAP, CONSTANTS, alpha, SIZES)
            assert theorem.line(n, GAP, CONSTANTS, alpha, SIZES) <= eps * (1 + 1e-12)
            if n > 1:
                assert theorem.line(n - 1, GAP, CONSTANTS, alpha, SIZES) > eps * (1 - 1e-12)
        assert theorem.iterations(floor * 0.999, GAP, CONSTANTS, alpha, SIZES) == math.inf

    def test_line_falls_to_the_floor(self, theorem):
        alpha = rate(theorem, CONSTANTS)
        line = theorem.line(np.logspace(0, 14, 40), GAP, CONSTANTS, alpha, SIZES)
        assert np.all(np.diff(line) <= 0)
        floor = theorem.floor(CONSTANTS, alpha, SIZES)
        assert line[-1] == pytest.approx(floor, rel=1e-6)
        # Noiseless and far from the floor, the count grows like 1/eps^2.
        exact = dataclasses.replace(CONSTANTS, sigma=0.0, sigma_tilde=0.0)
        few, many = (theorem.iterations(e, GAP, exact, alpha, BatchSizes()) for e in (1e-4, 1e-5))
        assert many / few == pytest.approx(100, rel=1e-3)

    @pytest.mark.parametrize("name", ["B", "D_in", "D_o"])
    def test_larger_batches_lower_both_floors(self, theorem, name):
        alpha = rate(theorem, CONSTANTS)
        more = dataclasses.replace(SIZES, **{name: 3 * getattr(SIZES, name)})
        assert theorem.floor(CONSTANTS, alpha, more) < theorem.floor(CONSTANTS, alpha, SIZES)
        assert theorem.floor_summary(CONSTANTS, alpha, more) < theorem.floor_summary(CONSTANTS, alpha, SIZES)

    def test_drift_worsens_with_the_rate(self, theorem):
        """So that the constants at the right end hold on the whole range."""
        grid = [theorem.split(lam) for lam in np.linspace(1e-4, theorem.lam_max, 60)]
        assert np.all(np.diff([x.kappa for x in grid]) <= 1e-15)
        for part in drift.NoiseCoefficients._fields:
            assert np.all(np.diff([getattr(x.noise, part) for x in grid]) >= -1e-15), part
        assert grid[-1].kappa > 0

    @given(data=st.data())
    def test_explicit_constants_dominate_the_line(self, theorem, data):
        """The summary's form with K1, K2, KN, S: weaker than the line, for B >= 20."""
        number = st.floats(0.01, 100)
        constants = Constants(*(data.draw(number) for _ in range(4)))
        B = data.draw(st.sampled_from([20, 25, 99, 100]))
        sizes = BatchSizes(B=B, D_in=data.draw(st.floats(1, 50)), D_o=data.draw(st.floats(1, 50)))
        alpha = data.draw(st.floats(0.05, 1.0)) * theorem.alpha_max(constants.L)
        K1, K2, KN = theorem.explicit_constants(alpha * constants.L, B)
        S = theorem.bracket(constants, alpha, sizes)
        unit = constants.rho * alpha / constants.L
        target = max(math.sqrt(K1 * (1 + unit * constants.sigma) * S), K2 * unit * S)
        eps = max(target, data.draw(st.floats(1e-3, 1e3)))
        within = (constants.L + constants.rho * alpha * (constants.sigma + eps)) / eps**2
        needed = theorem.iterations(eps, 1e6, constants, alpha, sizes)
        assert needed - 1 <= KN * 1e6 * within * (1 + 1e-9)

    @pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan, np.inf])
    def test_bad_alpha(self, theorem, alpha):
        for call in (
            lambda: theorem.floor(CONSTANTS, alpha, SIZES),
            lambda: theorem.floor_summary(CONSTANTS, alpha, SIZES),
            lambda: theorem.exact_iterations(1.0, 1.0, CONSTANTS, alpha),
            lambda: theorem.conditions(CONSTANTS, alpha, SIZES),
        ):
            with pytest.raises(ValueError, match=r"alpha = .*allowed: finite and > 0"):
                call()

    def test_rate_above_the_range_is_a_violated_condition(self, theorem):
        alpha = 1.1 * theorem.alpha_max_summary(CONSTANTS.L)
        violated = [c.name for c in theorem.conditions(CONSTANTS, alpha, SIZES) if not c.holds]
        assert "alpha" in violated

    def test_names_an_estimator(self, theorem):
        assert theorem.name in estimators()
        assert f"1/({round(1 / theorem.c)} L~)" in theorem.statement


# Every lemma's bound, by the power of c/s, of s and of alpha's unit in it.
def lemmas(constants, alpha, norm, delta):
    return {
        "c/s": [
            inner_bias.bias_summary(constants, alpha, 7.0),
            inner_bias.bias(constants, alpha, 7.0),
            inner_bias.bias(constants, alpha, 0.01),
            objective_gap.gap_summary(constants, alpha, 7.0),
            objective_gap.gap(constants, alpha, 7.0),
            objective_gap.gap(constants, alpha, 1e-4),
            limit_points.fo_limit_bound(constants, alpha),
            limit_points.hf_limit_bound(alpha * constants.L, 0.1, norm),
        ],
        "(c/s)^2": [
            second_moment.second_moment(norm, constants, alpha, 3.0, 5.0, 0.7),
            second_moment.second_moment_optimal(norm, constants, alpha, 3.0, 5.0),
        ],
        "c/s^2": [
            smoothness.smoothness(constants, alpha, norm),
            smoothness.sharp_smoothness(constants, alpha, norm),
        ],
        # d - H v in units of phi/u^2 times those of v, here phi/u.
        "(c/s)(c/s^2)": [
            finite_difference.truncation(constants, delta, norm),
            finite_difference.truncation(constants, 1e3 * delta, norm),
            finite_difference.truncation(dataclasses.replace(constants, zeta=math.inf), delta, norm),
        ],
        "1": [
            second_moment.optimal_phi(norm, constants, alpha, 3.0),
            *step_moments.step_batch_conditions(constants, alpha),
        ],
    }


@given(**factors)
def test_units_of_every_lemma(c, s):
    alpha, norm, delta = 0.1, 3.3, 0.02
    plain = lemmas(CONSTANTS, alpha, norm, delta)
    unit = s**2 / c
    found = lemmas(rescaled(CONSTANTS, c, s), alpha * unit, norm * c / s, delta * unit)
    powers = {
        "c/s": c / s,
        "(c/s)^2": (c / s) ** 2,
        "c/s^2": c / s**2,
        "(c/s)(c/s^2)": c**2 / s**3,
        "1": 1.0,
    }
    for name, factor in powers.items():
        np.testing.assert_allclose(found[name], np.multiply(plain[name], factor), rtol=1e-9)


def test_every_result_is_tested_here():
    """A new file in theory/ must be added to a table above."""
    from jaxmaml import discover

    tested = {
        module.__name__.rsplit(".", 1)[-1]
        for module in (
            convergence,
            drift,
            finite_difference,
            gradient_comparison,
            inner_bias,
            limit_points,
            objective_gap,
            second_moment,
            smoothness,
            stationary,
            step_moments,
        )
    }
    assert set(discover.modules(theory)) == tested | set(theory.theorems())
