"""The code broken on purpose: the recorded rows of the ledger turn. See tests/mutations."""

import mutations
import pandas as pd
import pytest

RECORDED = pd.read_csv(mutations.FLIPPED)


@pytest.mark.parametrize("name", mutations.MUTATIONS)
def test_broken_code_turns_its_rows(name, tmp_path):
    mutation = mutations.MUTATIONS[name]
    verdicts = mutations.judge(mutation, tmp_path / "sources", mutation.claims)
    recorded = RECORDED[RECORDED.mutation == name]
    assert len(recorded) > 0, "a mutation that turns nothing shows nothing"
    again = {
        part for part, verdict in verdicts.items() if verdict in set(recorded.verdict[recorded.part == part])
    }
    assert again >= set(recorded.part)


def test_recorded_mutations_are_those_that_run(tmp_path):
    assert set(RECORDED.mutation) == set(mutations.MUTATIONS)
    gone = mutations.MUTATIONS["ascent"]._replace(old="no such line")
    with pytest.raises(ValueError, match="occurs 0 times in jaxmaml/run.py"):
        mutations.judge(gone, tmp_path / "sources", ())
