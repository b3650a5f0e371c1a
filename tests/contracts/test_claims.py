"""What every discovered claim must do; its verdicts at smoke scale."""

import pathlib
import re
import warnings
from dataclasses import replace
from typing import NamedTuple

import figure_checks
import jax
import matplotlib as mpl
import mutations
import numpy as np
import pandas as pd
import pytest

from experiments import claims, judging, pipeline, results, sweep
from experiments.report import page
from jaxmaml import plotting, storage

mpl.use("Agg")
RESULTS = pathlib.Path(__file__).parents[2] / "results"
CLAIMS = claims.claims()
# The tests of a claim run in one process, which computes its smoke scale once.
every = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in CLAIMS]
)
# Rows whose verdict is not that the statement holds, with the verdict.
EXCEPTIONS = dict.fromkeys(
    (
        "HF-MAML's accuracy with exact gradients and the theorem's delta",
        "HF-MAML's accuracy on hf_blind with exact gradients",
        "HF-MAML's accuracy on shared_curvature with exact gradients",
        "HF-MAML's accuracy on hf_blind at B >= 10000 from the root",
        "HF-MAML's accuracy in the plane at B >= 10000 from every start far out",
        "MAML's iterations at alpha = 1/L within the constant of alpha <= 0.35/L",
    ),
    "fails as stated",
)
# Rows that some mutation of the code turns, or some wrong method; or whose wrong methods that pass are named.
POWER = pd.read_csv(RESULTS / "power.csv")
KNOWN = {*pd.read_csv(mutations.FLIPPED).part, *POWER.part[POWER.outcome.isin(["turned", "holds"])]}
VERDICTS = {"holds", "holds, not sharp", "fails as stated", "not tested"}


class Done(NamedTuple):
    rows: pd.DataFrame
    table: pd.DataFrame
    verdicts: pd.DataFrame
    report: sweep.Report


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Every claim at smoke scale, each computed when first asked for."""
    folder = tmp_path_factory.mktemp("smoke")
    done = {}

    def get(name):
        if name not in done:
            claim = CLAIMS[name]
            labelled = claim.grid("smoke")
            rows, report = sweep.sweep(labelled, folder, quiet=True)
            table_path, verdict_path = folder / f"{name}.csv", folder / f"{name}.verdicts.csv"
            storage.write_table(table_path, claim.measure(rows, labelled))
            table = pd.read_csv(table_path)
            storage.write_table(verdict_path, results.ledger(claim.judge(table)))
            verdicts = pd.read_csv(verdict_path, keep_default_na=False)
            done[name] = Done(rows, table, verdicts, report)
        return done[name]

    return get


@every
class TestEveryClaim:
    def test_is_described(self, name):
        claim = CLAIMS[name]
        assert re.search(r"\(E\d\d", claim.about), "the docstring names the experiment"
        assert re.search("derived|as summarised|as stated", claim.about.lower())
        assert len(claim.title) <= 90

    @pytest.mark.parametrize("scale", pipeline.SCALES)
    def test_grid(self, name, scale):
        labelled = CLAIMS[name].grid(scale)
        keys = [sweep.cell_key(cell, sweep.signature(cell)) for _, cell in labelled]
        assert len(set(keys)) == len(keys), "cells differ"
        for _, cell in labelled:
            cell.check()
        assert len(sweep.group([cell for _, cell in labelled])) <= 12

    def test_verdicts(self, name, smoke):
        ledger = smoke(name).verdicts
        assert len(ledger) > 0
        assert not ledger.duplicated(["claim", "part"]).any()
        for row in ledger.itertuples():
            assert row.verdict in VERDICTS
            assert re.fullmatch(r"E\d\d", row.claim)
            assert row.place in page.PLACES
            page.formulas(row.statement, row.part)
            page.formulas(row.note, row.part)
            if row.verdict == "not tested":
                assert row.note, "not tested needs a reason"
            else:
                expected = EXCEPTIONS.get(row.part, "holds")
                assert row.verdict.startswith(expected), f"{row.part}: {row.note}"
                assert row.low <= row.measured <= row.high
                if row.verdict == "holds":
                    assert row.part in KNOWN, f"{row.part}: of unknown power; make mutations renews the lists"

    def test_one_trace_a_program(self, name, smoke):
        assert smoke(name).report.programs == len(
            sweep.group([cell for _, cell in CLAIMS[name].grid("smoke")])
        )

    def test_diverged_runs_never_hold(self, name, smoke):
        """If every cell of the sweep had diverged at its first step, no row would hold; if one had, or if its
        last step alone were missing, some would not."""
        labelled, rows = CLAIMS[name].grid("smoke"), smoke(name).rows
        verdicts = smoke(name).verdicts
        known = {"cell", "step", "arc", *labelled[0][0]}
        measured = [c for c in rows.select_dtypes("floating") if c not in known]

        def held(missing, diverged=True):
            broken = rows.copy()
            broken.loc[missing, measured] = np.nan
            if diverged and "diverged_at" in broken:
                broken.loc[missing, "diverged_at"] = 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                judged = CLAIMS[name].judge(CLAIMS[name].measure(broken, labelled))
            return {row.part for row in judged if row.verdict.startswith("holds")}

        all_of_them = set(verdicts.part[verdicts.verdict.str.startswith("holds")])
        first = rows.cell == 0
        assert held(rows.cell >= 0) == set()
        assert held(first) < all_of_them
        assert held(first & (rows.index == rows.index[first][-1]), diverged=False) < all_of_them

    def test_figure(self, name, smoke):
        table = smoke(name).table
        with plotting.style():
            figure = CLAIMS[name].draw(table)
            assert not figure_checks.complaints(figure)
            assert not figure_checks.complaints(figure, figure_checks.narrow(figure))
        assert figure.legends
        assert figure.get_suptitle()
        left = min(axis.get_position().x0 for axis in figure.axes)
        for axis in figure.axes:
            assert re.search(r"\[.+\]", axis.get_xlabel()), "axes carry units"
            if np.isclose(axis.get_position().x0, left):
                assert re.search(r"\[.+\]", axis.get_ylabel())
        theory = [t.get_text() for t in figure.legends[0].get_texts()]
        assert any(re.search("derived|summarised|exact", text) for text in theory), theory


@pytest.mark.xdist_group("hf_floor")
def test_counterexample_turns(smoke):
    """HF-MAML without its bias would hold; runs that have not settled say nothing."""
    hf_floor = CLAIMS["hf_floor"]
    table = smoke("hf_floor").table
    stated = table.rule == "theorem"
    exact = table.assign(grad_norm=table.grad_norm.where(~stated, 1e-13))
    judge = hf_floor.judge
    assert judge(table)[0].verdict == "fails as stated"
    assert judge(exact)[0].verdict.startswith("holds")
    assert judge(table.assign(direction_norm=1.0))[0].verdict == "not tested"


@pytest.mark.xdist_group("noisy_line")
def test_violated_condition_is_said_in_ledger_and_figure(smoke):
    """A rate above the theorem's range: the run goes on, its rows are not tested, and the title says why."""
    claim = CLAIMS["noisy_line"]
    cells = [
        (about, replace(cell, alpha=1.001 * cell.alpha) if cell.estimator == "fo_maml" else cell)
        for about, cell in claim.grid("smoke")
    ]
    table = claim.measure(smoke("noisy_line").rows, cells)
    ledger = results.ledger(claim.judge(table))
    untested = ledger[ledger.verdict == "not tested"]
    # Line and floor, on the family (c) and on digits.
    assert len(untested) == 4
    assert untested.part.str.contains("FO-MAML").all()
    assert (untested.note == "conditions violated: alpha, alpha (derived)").all()
    with plotting.style():
        titles = [" ".join(axis.get_title().split()) for axis in claim.draw(table).axes]
    said = ", conditions violated: alpha, alpha (derived)"
    assert titles[:3] == ["MAML", f"FO-MAML{said}", "HF-MAML"]
    assert titles[3:] == ["MAML, digits", f"FO-MAML, digits{said}", "HF-MAML, digits"]


def test_pipeline_recomputes_nothing(results_here, capsys):
    """run, plot and report twice; the second time everything is read from disk."""
    name = "difference_error"
    selected = pipeline.select(name)
    pipeline.run("smoke", selected)
    pipeline.plot("smoke", selected)
    files = {f: f.stat().st_mtime_ns for f in results_here.rglob("*") if f.is_file()}
    drawn = {f.name for f in (results_here / "smoke" / "figures").glob(f"{name}.*")}
    assert drawn == {f"{name}.svg", f"{name}.pdf"}
    capsys.readouterr()
    pipeline.run("smoke", selected)
    pipeline.plot("smoke", selected)
    said = capsys.readouterr().out
    assert "all read from disk, nothing to compute" in said
    assert "figure is up to date" in said
    changed = {f.name for f, t in files.items() if f.stat().st_mtime_ns != t}
    assert changed <= {"manifest.json"}


def test_report_is_a_table(results_here, monkeypatch):
    """Every line of the report has the columns of its header, whatever the statements contain."""
    name = "difference_error"
    monkeypatch.setattr(claims, "names", lambda: [name])
    claim = CLAIMS[name]
    judge = claim.judge
    nothing = judging.Rows("E20", "costs", "derived").untested("part", "statement", "no data")
    monkeypatch.setattr(claim, "judge", lambda table: [*judge(table), nothing])
    monkeypatch.setattr(claims, "get", lambda _: claim)
    pipeline.run("smoke", [claim])
    pipeline.plot("smoke", [claim])
    pipeline.report("smoke")
    assert name in (results_here / "smoke" / "report" / "index.html").read_text()
    lines = (results_here / "smoke" / "report.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) > 5
    assert any(r"\|x\|" in line for line in rows)
    assert any("| not tested |  | no data |" in line for line in rows)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {10}


def test_report_asks_for_what_is_missing(results_here):
    pipeline.run("smoke", pipeline.select("difference_error"))
    with pytest.raises(FileNotFoundError, match="make run-sweep SCALE=smoke EXPERIMENT="):
        pipeline.report("smoke")


def test_methods_have_distinct_colours():
    assert len(set(plotting.COLORS.values())) == len(plotting.COLORS)
    assert jax.config.read("jax_enable_x64")
