"""The table of attacks in docs/reliability.md is that of the last run of all of them, without failures."""

from attacks import ledger, tools

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
