"""The power of the ledger's rows: wrong methods are changes of cells; the recorded outcomes are today's."""

import dataclasses
import pathlib

import mutations
import numpy as np
import pandas as pd
import pytest

from experiments import claims, power
from experiments.cells import FirstHits, theorem_run
from jaxmaml.tasks import cosine
from jaxmaml.types import BatchSizes

RESULTS = pathlib.Path(__file__).parents[2] / "results"
RECORDED = pd.read_csv(RESULTS / "power.csv")
SIZES = BatchSizes(B=20, D_in=8.0, D_o=2.0, D_h=4.0, B_prime=1, D_beta=1.0)


def run(estimator="maml"):
    family = cosine.make(n=5, d=2, tau=0.5, beta0=0.3, nu=1.0)
    alpha = 0.1 / family.constants().L
    return theorem_run(family, estimator, alpha, np.ones(2), record=(0, 10), sizes=SIZES)


def changed(name, cell):
    """The fields that the wrong method changes, and its cell."""
    wrong = power.WRONG[name](cell)
    fields = [f.name for f in dataclasses.fields(cell)]
    return {f for f in fields if repr(getattr(wrong, f)) != repr(getattr(cell, f))}, wrong


def test_wrong_methods_change_one_thing():
    assert changed("alpha twice", run())[0] == {"alpha"}
    assert changed("c twice", run())[0] == {"c"}
    assert changed("constant step", run())[0] == {"rho"}
    assert changed("D_in and D_o swapped", run())[1].sizes == dataclasses.replace(SIZES, D_in=2.0, D_o=8.0)
    assert changed("one task for B", run())[1].sizes == dataclasses.replace(SIZES, B=1)
    assert changed("D_h exact", run())[1].sizes == dataclasses.replace(SIZES, D_h=None)
    longer = changed("arc of delta 4 times", run("hf_maml"))[1]
    assert longer.arguments["delta"].arc == pytest.approx(4 * run("hf_maml").arguments["delta"].arc)
    assert changed("arc of delta 4 times", run("maml"))[0] == set()


def test_another_method():
    fields, wrong = changed("HF-MAML for MAML", run())
    assert fields == {"estimator", "arguments"}
    assert wrong.arguments["delta"].arc == pytest.approx(run("hf_maml").arguments["delta"].arc)
    assert changed("MAML for HF-MAML", run("hf_maml"))[1].arguments == {}
    assert changed("HF-MAML for FO-MAML", run())[0] == set()


def test_a_run_inside_a_cell_is_changed_too():
    cell = FirstHits(run(), np.array([0.1]))
    assert power.WRONG["c twice"](cell).run.c == pytest.approx(2 * cell.run.c)


def test_hessian_on_the_inner_batch():
    import jax

    from experiments.run import draw

    right, wrong = run(), power.WRONG["D_h = D_in"](run())
    wrong.check()
    episodes, _ = draw(right.family, jax.random.key(0), SIZES)
    same = episodes._replace(hessian=episodes.inner)
    np.testing.assert_array_equal(wrong.direction(right.w0, episodes), right.direction(right.w0, same))
    assert not np.allclose(wrong.direction(right.w0, episodes), right.direction(right.w0, episodes))


def test_outcomes():
    row = claims.get("gradient_comparison").judge
    table = pd.read_csv(RESULTS / "tables" / "gradient_comparison.csv")
    right = row(table)[0]
    assert power._outcome(right, right) == "unchanged"
    assert power._outcome(right, dataclasses.replace(right, measured=0.5)) == "holds"
    failed = dataclasses.replace(right, measured=1.5, verdict="fails as stated")
    assert power._outcome(right, failed) == "turned"
    assert power._outcome(right, dataclasses.replace(failed, measured=1e121)) == "void"
    assert power._outcome(right, dataclasses.replace(failed, measured=np.nan)) == "void"


def test_every_claim_is_recorded():
    assert set(RECORDED.experiment) <= set(claims.names())


def _case(name):
    """A claim whose code is as recorded is only run again by `make test-all`."""
    same = set(RECORDED.sources[RECORDED.experiment == name]) <= {power.sources(claims.get(name))}
    marks = [pytest.mark.xdist_group(name), *([pytest.mark.exhaustive] if same else [])]
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [_case(name) for name in claims.names()])
def test_recorded_outcomes_are_those_of_the_code(name, tmp_path):
    found = power.outcomes(claims.get(name), tmp_path)
    kept = RECORDED[RECORDED.experiment == name]
    key = ["part", "wrong", "outcome"]
    assert set(map(tuple, found[key].values)) == set(map(tuple, kept[key].values)), "make mutations renews it"


BATCHES = {"one task for B", "D_in and D_o swapped", "D_in exact", "D_o exact"}
RUNS = {"alpha twice", "c twice", "constant step", *BATCHES}
HESSIAN = {"D_h = D_in", "D_h exact"}
CAUGHT = {
    "MAML theorem": {"FO-MAML for MAML", "HF-MAML for MAML", *RUNS, *HESSIAN},
    "FO-MAML theorem": {"MAML for FO-MAML", "HF-MAML for FO-MAML", *RUNS},
    "HF-MAML theorem": {"MAML for HF-MAML", "FO-MAML for HF-MAML", "arc of delta 4 times", *RUNS, *HESSIAN},
    "smoothness lemma": {"alpha twice", "c twice", "constant step"},
    "step-size lemma": {"alpha twice"},
    "bias lemma": {"alpha twice", "D_in and D_o swapped"},
    "F and F-hat": {"alpha twice"},
    "costs": {"FO-MAML for MAML", "alpha twice", *BATCHES},
}
"""The wrong methods that some row about this part of the paper must tell from the right one. FO-MAML has no
Hessian, MAML no delta. The Hessian-free product has no method in it: tests/mutations breaks its code."""


@pytest.mark.parametrize("place", CAUGHT)
def test_every_part_of_the_paper_has_rows_that_turn(place):
    ledger = pd.read_csv(RESULTS / "claims.csv")
    parts = set(ledger.part[ledger.place == place])
    turned = set(RECORDED.wrong[RECORDED.part.isin(parts) & (RECORDED.outcome == "turned")])
    assert turned >= CAUGHT[place]


def test_every_row_that_holds_is_of_known_power():
    """Some mutation of the code turns it, or some wrong method; or its wrong methods that pass are named.

    Wrong methods are run at smoke scale, which does without the files of Fashion-MNIST.
    """
    ledger = pd.read_csv(RESULTS / "claims.csv")
    ledger = ledger[~ledger.part.str.contains(r"\bfashion\b")]
    known = {*pd.read_csv(mutations.FLIPPED).part}
    known |= {*RECORDED.part[RECORDED.outcome.isin(["turned", "holds"])]}
    assert set(ledger.part[ledger.verdict == "holds"]) <= known, "make mutations renews the lists"


def test_what_passes_a_wrong_method_is_said():
    """The ledger names the wrong methods, and a loose bound that they pass is not called sharp."""
    ledger = pd.read_csv(RESULTS / "claims.csv", dtype={"also_holds_for": str}).fillna({"also_holds_for": ""})
    named = dict(zip(ledger.part, ledger.also_holds_for, strict=True))
    for part, wrong in power.also_holds_for(RECORDED).items():
        assert named[part] == wrong
    loose = ledger[(ledger.slack > 1.25) & ledger.companion.isna()]
    assert not loose.verdict.eq("holds").any()
