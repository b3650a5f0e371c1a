"""The table of attacks in docs/reliability.md is that of the last run of all of them, without failures."""

import numpy as np
import pytest
from attacks import calls, command_lines, ledger, readers, tools

from jaxmaml import storage


def test_page_says_what_was_tried():
    found = storage.read_table(ledger.TABLE)
    assert list(found.attack) == list(ledger.ATTACKS), "make attack renews it"
    assert (found.failures == 0).all()
    assert (found.tried > 0).all()
    assert ledger.parts(ledger.PAGE.read_text())[1] == ledger.lines(found)


def test_an_attack_that_succeeds_is_told(tmp_path, monkeypatch):
    """A reader without sums takes what it finds: the attack says so."""
    monkeypatch.setattr(storage, "_sum", lambda _: "0" * 64)
    path = tmp_path / "x"
    storage.write(path, b"contents of some length")
    whole = path.read_bytes()
    found = list(tools.damaged(path, 20, lambda: storage.read(path), lambda x: x == whole))
    assert all("was read as something else" in text for text in found)


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (2, "error: alpha = -1.0; allowed: finite and > 0\n", ""),
        ("began", "", "exit status began, not 2"),
        (0, "error: alpha = -1.0; allowed: finite and > 0\n", "exit status 0, not 2"),
        (2, "error: alpha = -1.0\n", "what is allowed is not said"),
        (2, "error: outer.alpha = -1.0; allowed: finite and > 0\n", "the option is not named"),
        (2, "error: alpha = -1.0; allowed:\nfinite\n", "more than one line"),
        (2, "Traceback (most recent call last)\nalpha; allowed: finite\n", "a traceback"),
    ],
)
def test_a_command_line_that_is_not_refused_is_told(status, said, told):
    assert command_lines.wrong(status, said, "alpha") == told


def test_values_that_are_not_allowed():
    """The rule: by the type of an option, and by a table of text and of least counts."""
    assert {"0", "-1", "1.5", "x", str(2**63)} <= set(command_lines.bad("outer.tasks", int))
    assert "0" not in command_lines.bad("seed", int)
    assert {"1", "0"} & set(command_lines.bad("data.ways", int)) == {"1"}
    assert {"0", "nan"} <= set(command_lines.bad("alpha", float | None))
    assert "None" not in command_lines.bad("alpha", float | None)
    assert command_lines.bad("slurm.partition", str | None) == ("",)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda alpha: float(np.sqrt(alpha)), "gives nan"),
        (lambda alpha: alpha.steps, "AttributeError: "),
        (lambda alpha: [][alpha], "says: list indices"),
        (lambda alpha: np.linalg.cholesky(np.full((2, 2), alpha)), "LinAlgError: "),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_call_that_is_not_refused_is_told(call, told):
    assert calls.refused(call, {"alpha": np.float64(-1)}).removeprefix("numpy.linalg.").startswith(told)


def test_a_file_that_is_read_as_another_is_told(tmp_path):
    def fails():
        raise OSError(f"{tmp_path}; allowed: another")

    found = (
        readers.refused_or(lambda: 1, lambda x: x == 2, tmp_path),
        readers.refused_or(fails, bool, tmp_path),
    )
    assert found[0] == "was read as something else"
    assert found[1].startswith("OSError: ")
    assert not readers.refused_or(lambda: 1, lambda x: x == 1, tmp_path)
