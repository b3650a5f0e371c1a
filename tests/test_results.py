"""Tables on disk: written whole or not at all, never read when damaged; statistics; the ledger."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from experiments import judging, results
from experiments.claim import Claim
from jaxmaml import statistics, storage
from jaxmaml.statistics import Interval

ROWS = pd.DataFrame({"key": ["a", "a", "b"], "x": [1.0, 2.0, np.nan]})


def write(folder):
    results.write_chunk(folder, ["a", "b"], ROWS, {"cell_steps": 3, "run_s": 0.1})
    return next(folder.glob("*.parquet"))


class TestChunks:
    def test_round_trip(self, tmp_path):
        write(tmp_path)
        rows, manifests = results.read_chunks(tmp_path)
        pd.testing.assert_frame_equal(rows, ROWS)
        assert manifests == [{"cell_steps": 3, "run_s": 0.1, "cells": ["a", "b"]}]

    @pytest.mark.parametrize("damage", ["cut", "edit"])
    def test_damaged_chunk_is_named_and_set_aside(self, tmp_path, damage):
        path = write(tmp_path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else data[:99] + b"?" + data[100:])
        results.write_chunk(tmp_path, ["c"], ROWS.assign(key="c"), {})
        with pytest.warns(UserWarning, match=f"{path.name} was changed since .*set aside"):
            found, manifests = results.read_chunks(tmp_path)
        assert set(found.key) == {"c"}
        assert len(manifests) == 1
        assert [p.name for p in tmp_path.glob("*.damaged")] == [f"{path.name}.damaged"]

    def test_cells_that_two_sweeps_ran_are_read_once(self, tmp_path):
        write(tmp_path)
        results.write_chunk(tmp_path, ["b", "c"], ROWS.assign(key=["b", "b", "c"]), {})
        rows, _ = results.read_chunks(tmp_path)
        assert rows.groupby("key").size().to_dict() in ({"a": 2, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 1})

    def test_nothing_there(self, tmp_path):
        rows, manifests = results.read_chunks(tmp_path)
        assert rows.empty
        assert manifests == []


class TestIdentity:
    def test_digest_separates_its_parts(self):
        assert storage.digest("ab", "c") != storage.digest("a", "bc")

    def test_environment(self):
        found = storage.environment()
        assert set(found["versions"]) >= {"jax", "jaxlib", "jaxmaml", "python"}
        assert found["x64"] is True


class TestStatistics:
    def test_interval(self):
        x = np.random.default_rng(0).standard_normal(30) + 5
        found = statistics.interval(x)
        low, high = scipy.stats.t.interval(0.95, 29, x.mean(), scipy.stats.sem(x))
        assert (found.low, found.high) == pytest.approx((low, high))
        assert found.n == 30

    def test_coverage(self):
        """The interval holds the mean in about 95 of 100 samples."""
        rng = np.random.default_rng(1)
        hits = sum(
            i.low <= 2.0 <= i.high for i in (statistics.interval(rng.normal(2, 3, 5)) for _ in range(2000))
        )
        assert 0.93 < hits / 2000 < 0.97

    def test_nan_is_never_averaged_away(self):
        found = statistics.interval([1.0, np.nan, 2.0])
        assert np.isnan(found.mean)
        assert np.isnan(found.high)

    def test_one_value_and_none(self):
        assert statistics.interval([3.0]) == Interval(3.0, 3.0, 3.0, 1)
        with pytest.raises(ValueError, match="interval of no values"):
            statistics.interval([])

    def test_slope(self):
        x = np.logspace(0, 3, 20)
        noisy = 7 * x**-1.5 * np.exp(0.1 * np.random.default_rng(0).standard_normal(20))
        fit = statistics.slope(x, noisy)
        assert fit.low < -1.5 < fit.high
        exact = statistics.slope(x, 7 * x**-1.5)
        assert exact.mean == pytest.approx(-1.5)
        assert np.isnan(statistics.slope([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]).low)

    def test_slope_with_errors(self):
        """The interval follows from the errors of y, and covers the truth as often as it says."""
        x, errors = np.logspace(0, 2, 5), 0.02 * np.ones(5)
        rng = np.random.default_rng(1)
        fits = [
            statistics.slope(x, y, errors=errors * y)
            for y in 3 / x * np.exp(errors * rng.standard_normal((2000, 5)))
        ]
        covered = np.mean([fit.low <= -1 <= fit.high for fit in fits])
        assert abs(covered - 0.95) < 0.025

    def test_running_mean(self):
        """Exact for a value that is linear between records; one column a seed."""
        k = np.arange(101)
        steps = np.array([0, 1, 10, 40, 100])
        values = np.stack([3.0 + 0 * k, 5.0 - 0.1 * k], axis=1)
        found = statistics.running_mean(steps, values[steps])
        expected = [[values[:, 0].mean(), 5.0 - 0.1 * K / 2] for K in steps[1:]]
        np.testing.assert_allclose(found, expected)


class TestVerdicts:
    """A verdict follows from the numbers, and turns with them."""

    ROWS = judging.Rows("E99", "costs", "derived")

    def row(self, measured, bound=1.0, **more):
        return self.ROWS.at_most("part", "statement", measured, bound, **more)

    def test_at_most(self):
        assert self.row(0.9).verdict == "holds"
        assert self.row(0.5).slack == 2.0
        assert self.row(1.5).verdict == "fails as stated"

    def test_a_bound_of_zero_is_attained_by_zero_alone(self):
        attained, loose = self.row(0.0, 0.0), self.row(0.0, 1.0)
        assert (attained.slack, attained.verdict) == (1.0, "holds")
        assert (loose.slack, loose.verdict) == (np.inf, "holds, not sharp")
        assert self.row(Interval(-1.0, -2.0, 0.0, 5), 0.0).slack == 1.0
        assert self.row(-1.0, 0.0).verdict == "holds, not sharp"
        assert self.row(1.0, 0.0).verdict == "fails as stated"

    def test_a_row_names_its_own_place(self):
        row = self.row(0.9, number="E07", place="bias lemma", source="as summarised")
        assert (row.claim, row.place, row.source) == ("E07", "bias lemma", "as summarised")
        assert (self.row(0.9).claim, self.row(0.9).place) == ("E99", "costs")

    def test_sharpness_is_computed(self):
        assert self.row(0.5).verdict == "holds, not sharp"
        sharper = self.row(0.9, sharper=0.95)
        assert sharper.verdict == "holds, not sharp"
        assert sharper.note.startswith("proved: 0.95")
        assert self.row(0.9, sharper=1.0).verdict == "holds"
        assert self.row(0.5, companion="search").verdict == "holds"
        assert self.row(1.5, sharper=0.95).verdict == "fails as stated"

    def test_the_end_of_the_interval_counts(self):
        assert self.row(Interval(0.9, 0.7, 1.1, 5)).verdict == "fails as stated"
        assert self.row(Interval(0.9, 0.85, 0.95, 5)).verdict == "holds"

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite_never_holds(self, value):
        assert self.row(value, 2.0).verdict == "fails as stated"
        assert not self.row(value, 2.0).slack >= 1
        assert self.ROWS.at_least("p", "s", value, 1.0).verdict == "fails as stated"
        assert self.ROWS.within("p", "s", value, 1.0, 5.0).verdict == "fails as stated"

    def test_what_a_run_that_never_moves_passes_is_not_tested(self):
        still = self.row(0.9, start=0.95)
        assert still.verdict == "not tested"
        assert "a run that never moves would pass: it starts at 0.95" in still.note
        assert self.row(0.9, start=1.05).verdict == "holds"
        assert self.row(1.5, start=0.95).verdict == "fails as stated"
        assert self.ROWS.at_least("p", "s", 2.1, 2.0, start=2.05).verdict == "not tested"
        assert self.ROWS.at_least("p", "s", 2.1, 2.0, start=1.0).verdict == "holds"

    def test_violated_condition(self):
        row = self.row(0.5, also=False, note="alpha is above its range")
        assert row.verdict == "fails as stated"
        assert row.note.startswith("a condition of this row is violated")

    def test_within(self):
        def verdict(measured, **more):
            return self.ROWS.within("p", "s", measured, 2.0, 0.1, **more)

        assert verdict(2.05).verdict == "holds"
        assert verdict(2.05).tolerance == 0.1
        assert np.isnan(verdict(2.05).slack)
        assert verdict(1.85).verdict == "fails as stated"
        assert verdict(Interval(2.0, 1.8, 2.2, 3)).verdict == "fails as stated"

    def test_contains(self):
        """The claimed value lies in the interval, and the interval is narrow enough to say so."""

        def verdict(low, high, width=0.2):
            return self.ROWS.contains("p", "s", Interval(2.0, low, high, 3), 1.95, width).verdict

        assert verdict(1.9, 2.1) == "holds"
        assert verdict(1.96, 2.1) == "fails as stated"
        assert verdict(1.7, 2.1) == "fails as stated"
        assert verdict(np.nan, 2.1) == "fails as stated"

    def test_at_least(self):
        def verdict(measured, **more):
            return self.ROWS.at_least("p", "s", measured, 2.0, **more).verdict

        assert verdict(2.1) == "holds"
        assert verdict(4.1) == "holds, not sharp"
        assert verdict(2.1, also=False) == "fails as stated"
        assert verdict(Interval(2.1, 1.9, 2.3, 3)) == "fails as stated"

    def test_untested_has_a_reason(self):
        row = self.ROWS.untested("p", "s", "no data")
        assert (row.verdict, row.note) == ("not tested", "no data")


class TestIntervals:
    """Sampled values of one claim are compared at a level that holds for all of them together."""

    def test_family_wise_level(self):
        """At 5 %, one of twenty claims that compare forty right values misses one of them."""
        rng = np.random.default_rng(2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(judging, "FAMILY_WISE", 0.05)
            missed = 0
            for _ in range(2000):
                row = judging.Rows("E99", "costs", "derived", comparisons=40)
                found = row.agrees("p", "s", rng.standard_normal(40), 0.0, 1.0)
                missed += found.verdict != "holds"
        assert 0.03 < missed / 2000 < 0.07

    def test_more_comparisons_widen_the_interval(self):
        one, many = (judging.Rows("E99", "costs", "derived", comparisons=n) for n in (1, 1000))
        values = [1.0, 2.0, 3.0, 4.0, 5.0]
        assert many.interval(values).high > one.interval(values).high > statistics.interval(values).high
        assert many.z > one.z
        assert "99.9 % for all 1000 of the claim" in many.interval(values).kind

    def test_extremes(self):
        row = judging.Rows("E99", "costs", "derived")
        value, error = np.array([0.9, 0.5, 0.2]), np.array([0.0, 0.2, 0.001])
        assert row.worst(value, error).mean == 0.5
        assert row.least(value, error).mean == 0.5
        assert row.compared == 6
        assert np.isnan(row.worst([0.9, np.nan], [0.1, 0.1]).high)
        assert np.isnan(row.worst([], []).high)

    def test_claim_counts_its_comparisons(self):
        claim = Claim("E99", "title", place="costs")

        @claim.rows
        def rows(table, row):
            yield row.agrees("first", "s", table.x, 0.0, 1.0)
            yield row.at_most("second", "s", row.sampled(0.5, 0.01), 1.0)

        first, second = claim.judge(pd.DataFrame({"x": [0.1, 0.2, 0.3]}))
        assert "for all 4 of the claim" in first.interval
        assert "for all 4 of the claim" in second.interval

    def test_per_groups_keep_their_labels(self):
        claim = Claim("E99", "title")

        @claim.cells
        def cells(scale):
            yield {"a": "x"}, 10
            yield {"a": "y"}, 20

        @claim.per("a")
        def measured(part, cell):
            return {"cell_was": cell, "sum": part.value.sum()}

        rows = pd.DataFrame({"cell": [0, 0, 1], "a": ["x", "x", "y"], "value": [1.0, 2.0, 4.0]})
        table = claim.measure(rows, claim.grid("smoke"))
        assert table.to_dict("list") == {"a": ["x", "y"], "cell_was": [10, 20], "sum": [3.0, 4.0]}


def test_limit_slope():
    """log y = 2 log x + c x^2: the local slopes go to 2 as x -> 0, and the limit is found from them."""
    x = 2.0 ** -np.arange(6)
    found = statistics.limit_slope(x, x**2 * np.exp(0.3 * x**2))
    assert found.low <= 2 <= found.high
    assert found.high - found.low < 1e-2
    assert found.kind == "limit"
    drifting = statistics.limit_slope(x, x**2 * np.exp(0.3 / x))
    assert drifting.kind == "range"
    assert not drifting.low <= 2 <= drifting.high
    with pytest.raises(ValueError, match="limit_slope of 3 points; allowed: at least 4"):
        statistics.limit_slope([1, 2, 3], [1, 2, 3])


class TestSettled:
    """What a row takes from other rows and runs."""

    def ledger(self, slack):
        rows = judging.Rows("E99", "costs", "derived")
        return results.ledger(
            [
                rows.at_most("loose", "s", 0.1, 1.0, companion="tight"),
                rows.at_most("tight", "s", 1 / slack, 1.0),
            ]
        )

    def test_companion(self):
        settled = results.settle(self.ledger(1.1), {}, judging.SHARP).set_index("part")
        assert settled.verdict.to_dict() == {"loose": "holds", "tight": "holds"}
        settled = results.settle(self.ledger(3.0), {}, judging.SHARP).set_index("part")
        assert settled.verdict["loose"] == "holds, not sharp"

    def test_power(self):
        settled = results.settle(self.ledger(1.1), {"loose": "c twice"}, judging.SHARP)
        assert list(settled.also_holds_for) == ["c twice", ""]
