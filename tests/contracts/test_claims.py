"""What every discovered claim must do; its verdicts at smoke scale."""

import pathlib
import re

import jax
import matplotlib as mpl
import pytest

from experiments import claims, judging, pipeline, sweep
from jaxmaml import plotting, storage

mpl.use("Agg")
RESULTS = pathlib.Path(__file__).parents[2] / "results"
CLAIMS = claims.claims()


@pytest.mark.parametrize("name", CLAIMS)
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


def test_pipeline_recomputes_nothing(results_here, capsys):
    """run, plot and report twice; the second time everything is read from disk."""
    name = "difference_error"
    selected = pipeline.select(name)
    pipeline.run("smoke", selected)
    pipeline.plot("smoke", selected)
    files = {f: f.stat().st_mtime_ns for f in results_here.rglob("*") if f.is_file()}
    where = results_here / "smoke" / "figures"
    drawn = {str(f.relative_to(where)) for f in where.rglob(f"{name}.*")}
    assert drawn == {f"{name}.svg", f"pdf/{name}.pdf"}
    # What is committed has its sums apart from what is not.
    assert (where / storage.SUMS).read_text().splitlines()[-1].endswith(f"  {name}.svg")
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
