"""Tables on disk: written whole or not at all, never read when damaged; statistics; the ledger."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from experiments import judging, results
from jaxmaml import statistics, storage
from jaxmaml.statistics import Interval

ROWS = pd.DataFrame({"key": ["a", "a", "b"], "x": [1.0, 2.0, np.nan]})


def write(folder):
    results.write_chunk(folder, ["a", "b"], ROWS, {"cell_steps": 3, "run_s": 0.1})
    return next(folder.glob("*.parquet")), next(folder.glob("*.json"))


class TestChunks:
    def test_round_trip(self, tmp_path):
        write(tmp_path)
        rows, manifests = results.read_chunks(tmp_path)
        pd.testing.assert_frame_equal(rows, ROWS)
        assert manifests[0]["cells"] == ["a", "b"]

    @pytest.mark.parametrize("damage", ["cut", "edit", "manifest", "no rows", "no sum"])
    def test_damaged_chunk_is_named_and_set_aside(self, tmp_path, damage):
        rows, manifest = write(tmp_path)
        data = rows.read_bytes()
        if damage == "cut":
            rows.write_bytes(data[: len(data) // 2])
        elif damage == "edit":
            rows.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        elif damage == "manifest":
            manifest.write_bytes(manifest.read_bytes()[:30])
        elif damage == "no rows":
            rows.unlink()
        else:
            manifest.write_text(json.dumps({"cells": ["a", "b"]}))
        with pytest.warns(UserWarning, match=f"{rows.name} is damaged .*set aside"):
            found, manifests = results.read_chunks(tmp_path)
        assert found.empty
        assert manifests == []
        assert not list(tmp_path.glob("*.json"))
        assert list(tmp_path.glob("*.damaged"))

    def test_cells_that_two_sweeps_ran_are_read_once(self, tmp_path):
        write(tmp_path)
        results.write_chunk(tmp_path, ["b", "c"], ROWS.assign(key=["b", "b", "c"]), {})
        rows, _ = results.read_chunks(tmp_path)
        assert rows.groupby("key").size().to_dict() in ({"a": 2, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 1})

    def test_rows_without_manifest_are_not_read(self, tmp_path):
        """The manifest is written last: without it the chunk was never finished."""
        _, manifest = write(tmp_path)
        manifest.unlink()
        assert results.read_chunks(tmp_path)[0].empty

    def test_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "x.csv"
        storage.write_atomically(path, b"old")

        def fail(_):
            raise OSError("disk full")

        monkeypatch.setattr(storage.os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            storage.write_atomically(path, b"new and longer")
        assert path.read_bytes() == b"old"


class TestIdentity:
    def test_digest_separates_its_parts(self):
        assert storage.digest("ab", "c") != storage.digest("a", "bc")

    def test_code_is_identified_up_to_comments_and_docstrings(self, tmp_path):
        names = ["one.py", "two.py", "three.py"]
        texts = ['"""A."""\nx = 1  # y\n', '"""B."""\nx   = 1\n', '"""A."""\nx = 2  # y\n']
        for name, text in zip(names, texts, strict=True):
            (tmp_path / name).write_text(text)
        one, two, three = (results.source_digest(tmp_path / name) for name in names)
        assert one == two != three

    def test_theory_does_not_belong_to_a_run(self):
        names = {path.name for path in results.numerical_sources()}
        assert {"run.py", "cosine.py", "maml.py", "hvp.py"} <= names
        assert not any("theory" in path.parts for path in results.numerical_sources())

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

    def row(self, measured, bound=1.0, **more):
        return judging.at_most("E00", "part", "statement", "costs", "derived", measured, bound, **more)

    def test_at_most(self):
        assert self.row(0.5).verdict == "holds"
        assert self.row(0.5).slack == 2.0
        assert self.row(0.5, sharp=False).verdict == "holds, not sharp"
        assert self.row(1.5).verdict == "fails as stated"

    def test_the_end_of_the_interval_counts(self):
        assert self.row(Interval(0.9, 0.7, 1.1, 5)).verdict == "fails as stated"
        assert self.row(Interval(0.9, 0.85, 0.95, 5)).verdict == "holds"

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite_never_holds(self, value):
        assert self.row(value, 2.0).verdict == "fails as stated"
        assert not self.row(value, 2.0).slack >= 1

    def test_violated_condition(self):
        row = self.row(0.5, also=False, note="alpha is above its range")
        assert row.verdict == "fails as stated"
        assert row.note.startswith("a condition of this row is violated")

    def test_within(self):
        def verdict(measured, **more):
            return judging.within("E00", "p", "s", "costs", "derived", measured, 2.0, 0.1, **more).verdict

        assert verdict(2.05) == "holds"
        assert verdict(1.85) == "fails as stated"
        assert verdict(Interval(2.0, 1.8, 2.2, 3)) == "fails as stated"
        assert verdict(np.nan) == "fails as stated"

    def test_at_least(self):
        def verdict(measured, **more):
            return judging.at_least("E00", "p", "s", "costs", "derived", measured, 2.0, **more).verdict

        assert verdict(2.1) == "holds"
        assert verdict(2.1, also=False) == "fails as stated"
        assert verdict(1.9) == "fails as stated"
        assert verdict(Interval(2.1, 1.9, 2.3, 3)) == "fails as stated"
        assert verdict(np.nan) == "fails as stated"
        assert verdict(np.inf) == "fails as stated"

    def test_untested_has_a_reason(self):
        row = judging.untested("E00", "p", "s", "costs", "derived", "no data")
        assert (row.verdict, row.note) == ("not tested", "no data")
