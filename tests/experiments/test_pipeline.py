"""The files of the pipeline: what is damaged, or depends on changed code, is named and made again."""

import json
import shutil

import pytest

from experiments import pipeline
from jaxmaml import identity, storage

NAME = "difference_error"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Results of one claim: swept, measured, judged and drawn."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "ROOT", folder)
        pipeline.run("smoke", pipeline.select(NAME))
        pipeline.plot("smoke", pipeline.select(NAME))
    return folder


@pytest.fixture
def done(finished, results_here):
    """The folder of the scale in a copy of these results."""
    shutil.copytree(finished, results_here)
    return results_here / "smoke"


DAMAGE = {
    "cut": lambda data: data[:300],
    "header alone": lambda data: data.splitlines(keepends=True)[0],
    "nul": lambda data: bytes(len(data)),
    "one digit": lambda data: data.replace(b"1", b"2", 1),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("folder", ["tables", "verdicts"])
def test_damaged_table_is_named_and_made_again(done, monkeypatch, folder, how):
    path = done / folder / f"{NAME}.csv"
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[how](whole))
    reads = pipeline.plot if folder == "tables" else lambda scale, _: pipeline.report(scale)
    monkeypatch.setattr(pipeline.claims, "names", lambda: [NAME])
    remedy = f"{NAME}.csv was changed since .*; make it with: make run-sweep SCALE=smoke EXPERIMENT={NAME}"
    with pytest.raises(storage.Damaged, match=remedy):
        reads("smoke", pipeline.select(NAME))
    pipeline.run("smoke", pipeline.select(NAME))
    assert path.read_bytes() == whole
    assert path.with_name(f"{NAME}.csv.damaged").read_bytes() == DAMAGE[how](whole)


def test_damaged_manifest_and_stamp_are_made_again(done, capsys):
    manifest = done / "manifest.json"
    (stamp,) = pipeline.ROOT.glob(f"raw/stamps/*{NAME}-measured")
    for path in (manifest, stamp):
        path.write_bytes(path.read_bytes()[:20])
    pipeline.run("smoke", pipeline.select(NAME))
    assert NAME in json.loads(manifest.read_text())["claims"]
    assert storage.is_sound(stamp)
    capsys.readouterr()
    pipeline.run("smoke", pipeline.select(NAME))
    assert "nothing to compute" in capsys.readouterr().out


def test_older_tables_of_the_repository_are_measured_again(done):
    """A table that is sound, but not the one that this code made."""
    path = done / "tables" / f"{NAME}.csv"
    whole = path.read_bytes()
    storage.write(path, whole.replace(b"1", b"2"))
    pipeline.run("smoke", pipeline.select(NAME))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("step", ["cells", "rows", "figure"])
def test_changed_code_is_followed(done, monkeypatch, capsys, step):
    """Another helper of the cells, of the judgement, of the figure: what follows from it is made anew."""
    helper = {
        "cells": "jaxmaml.hvp:central_difference",
        "rows": "experiments.judging:Rows",
        "figure": "jaxmaml.plotting:finish",
    }[step]
    claim = pipeline.select(NAME)[0]
    cell = claim.grid("smoke")[0][1]
    reached = {"cells": identity.code(cell), "rows": claim.code(), "figure": claim.drawing()}
    assert helper in reached[step]
    source = identity._source
    monkeypatch.setattr(
        identity, "_source", lambda *node: "other" if ":".join(node) == helper else source(*node)
    )
    identity._code.cache_clear()
    judge, judged = claim.judge, []
    monkeypatch.setattr(claim, "judge", lambda table: judged.append(1) or judge(table))
    capsys.readouterr()
    try:
        pipeline.run("smoke", pipeline.select(NAME))
        ran = capsys.readouterr().out
        pipeline.plot("smoke", pipeline.select(NAME))
        drew = capsys.readouterr().out
    finally:
        identity._code.cache_clear()
    assert ("to run in" in ran) == (step == "cells")
    assert bool(judged) == (step != "figure")
    assert ("up to date" not in drew) == (step == "figure")
