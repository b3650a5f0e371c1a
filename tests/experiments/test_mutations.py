"""The code broken on purpose: the recorded rows of the ledger turn. See tests/mutations.

A mutation is run again where the code that it breaks, or the claim, is not as recorded; the library's own
always are, on their quickest claim. The others are exhaustive: make test-all.
"""

import mutations
import pandas as pd
import pytest

RECORDED = pd.read_csv(mutations.FLIPPED)


def _recorded(name, claim):
    return RECORDED[(RECORDED.mutation == name) & (RECORDED.claim == claim)]


def _case(name, claim):
    always = name in mutations.LIBRARY and claim == mutations.MUTATIONS[name].claims[0]
    same = set(_recorded(name, claim).sources) == {mutations.sources(name, claim)}
    marks = [pytest.mark.exhaustive] if same and not always else []
    return pytest.param(name, claim, marks=marks, id=f"{name}, {claim}")


@pytest.mark.parametrize(("name", "claim"), [_case(*pair) for pair in mutations.pairs()])
def test_broken_code_turns_its_rows(name, claim, tmp_path):
    verdicts = mutations.judge(mutations.MUTATIONS[name], tmp_path / "sources", claim)
    recorded = _recorded(name, claim)
    assert len(recorded) > 0, "a mutation that turns nothing shows nothing"
    again = {row.part for row in recorded.itertuples() if verdicts.get(row.part) == row.verdict}
    assert again == set(recorded.part)


def test_recorded_mutations_are_those_that_run():
    assert set(zip(RECORDED.mutation, RECORDED.claim, strict=True)) == set(mutations.pairs())


def test_piece_to_break_occurs_once(tmp_path):
    gone = mutations.MUTATIONS["no inner step"]._replace(old="no such line")
    with pytest.raises(ValueError, match="occurs 0 times in jaxmaml/inner.py"):
        mutations.judge(gone, tmp_path / "sources", "operations")
