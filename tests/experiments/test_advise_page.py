"""docs/advise.md is what it says: its example runs as written, its table is that of the run."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pandas as pd
import pytest

from experiments import advice as against
from experiments.advice_problems import CASES, HELD_BACK
from jaxmaml import estimators, measure, theory
from jaxmaml.advice import rules, text
from jaxmaml.types import BatchSizes, Constants

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "advise.md").read_text()


def test_the_page_runs():
    """The file of docs/advise.md, from its own folder: text, JSON, and numbers that agree.

    The folder stays, because compiled programs are kept in it, and know its name.
    """
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    words = re.search(r"\n(jaxmaml advise mine.*)", PAGE).group(1).split()
    folder = ROOT / ".cache" / "advise-page"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.py").write_text(code)
    (folder / "advice.json").unlink(missing_ok=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            *words,
            "--steps",
            "12",
            "--pilot",
            "3",
            "--evidence",
            "--figure",
            "advice.svg",
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= text.WIDTH
    assert [line[:2] for line in lines if re.match(r"\d\. ", line)] == ["1.", "2.", "3.", "4.", "5."]
    written = json.loads((folder / "advice.json").read_text())
    assert [p["where"] for p in written["points"]] == ["w0", "w3"]
    assert written["before"] == 0.03
    assert written["dtype"] == "float32"
    assert written["environment"]["jax"] == jax.__version__
    assert len(written["code"]) == 64
    # The verdict comes first.
    said = " ".join(" ".join(lines).split())
    assert len(written["recommendation"]["verdict"]) == 5
    for sentence in written["recommendation"]["verdict"]:
        assert sentence in said[: said.index("Evidence for")]
    assert (folder / "advice.svg").read_text().count("<path") > 10
    found = Constants(**{name: written["constants"][name]["value"] for name in measure.UNITS})
    maml = written["promises"][0]
    assert maml["alpha"] == pytest.approx(min(written["alpha"], 1 / 6 / found.L))
    plan = maml["derived"]
    sizes = BatchSizes(int(plan["B"]), plan["D_in"], plan["D_o"], plan["D_h"])
    count = theory.theorems()["maml"].iterations(maml["epsilon"], maml["gap"], found, maml["alpha"], sizes)
    assert plan["iterations"] == count
    assert re.search(rf"iterations +{rules.number(count)} ", done.stdout)
    assert re.search(rf"L +{rules.number(found.L)} ", done.stdout)
    costs = written["costs"]
    compared = {"maml", "fo_maml", "hf_maml", "maml_same_batch"}  # of one objective
    assert {d["estimator"] for d in written["points"][0]["differences"]} == compared
    assert set(costs) == set(estimators.estimators()) > compared
    assert "Of another objective than this loss, and not ranked: fo_b_maml, imaml, reptile." in said
    assert costs["fo_maml"]["time"] == 1
    for cost in costs.values():
        assert cost["time"] == pytest.approx(cost["seconds"] / costs["fo_maml"]["seconds"])
        assert cost["memory"] >= 0


def test_the_page_shows_the_table_of_the_run():
    """docs/advise.md holds what `python -m experiments advice` wrote, and every problem is in it."""
    found = pd.read_csv(ROOT / "results" / "advice.csv")
    assert list(found.problem) == list(CASES | HELD_BACK)
    assert "".join(line + "\n" for line in against.table(found)) in PAGE
    assert len(CASES) >= 12
    # Right as the table says it: the gap's interval reaches zero, or the gap is no share worth the name.
    assert list(found.right) == list((found.gap_low <= 0) | (found.gap <= against.SHARE))
    assert found.right.all()
