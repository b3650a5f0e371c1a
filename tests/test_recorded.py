"""The record of tests that have passed: a change of what they depend on runs them again."""

import ast
import importlib
import json
import pathlib
import types

import pytest
import recorded

from jaxmaml import estimators, identity

HERE = pathlib.Path(__file__).parent


class Item:
    """As much of a test as `recorded` looks at."""

    def __init__(self, module, *marks):
        self.module, self.path = module, pathlib.Path(module.__file__)
        self.marks, self.user_properties = {mark.name: mark for mark in marks}, []

    def get_closest_marker(self, name):
        return self.marks.get(name)

    def add_marker(self, mark):
        self.marks[mark.name] = mark


def report(item, nodeid, passed=True):
    return types.SimpleNamespace(user_properties=item.user_properties, nodeid=nodeid, passed=passed)


@pytest.fixture
def module():
    return importlib.import_module("test_recorded")


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "RECORD", tmp_path / "recorded.json")
    return recorded.RECORD


def test_what_has_passed_is_not_run_again_until_its_code_changes(module, record, monkeypatch):
    item = Item(module, pytest.mark.recorded.mark)
    assert recorded.select([item], renewing=False) == []
    found = recorded.code("test_recorded.py", module)
    record.write_text(json.dumps({"test_recorded.py": found}))
    assert recorded.select([item], renewing=False) == ["test_recorded.py"]
    assert "exhaustive" in item.marks
    sums = identity.code(module)
    name = next(name for name in sums if name.startswith("jaxmaml.identity:"))
    monkeypatch.setattr(identity, "code", lambda *_: sums | {name: "another"})
    changed = Item(module, pytest.mark.recorded.mark)
    assert recorded.select([changed], renewing=False) == []
    assert "exhaustive" not in changed.marks


def test_tests_without_the_mark_are_run(module, record):
    record.write_text(json.dumps({"test_recorded.py": recorded.code("test_recorded.py", module)}))
    item = Item(module)
    assert recorded.select([item], renewing=False) == []
    assert not item.marks


@pytest.mark.parametrize(
    ("passed", "entered"), [([True, True], True), ([True, False], False), ([True], False)], ids=str
)
def test_a_unit_is_entered_when_all_of_its_tests_have_passed(module, record, passed, entered):
    items = [Item(module, pytest.mark.recorded.mark) for _ in range(2)]
    recorded.select(items, renewing=True)
    renewal = recorded.Renewal()
    for i, (item, each) in enumerate(zip(items, passed, strict=False)):
        renewal.pytest_runtest_logreport(report(item, f"setup of {i}"[-1]))
        renewal.pytest_runtest_logreport(report(item, f"call of {i}"[-1], each))
    renewal.pytest_sessionfinish()
    assert ("test_recorded.py" in recorded.read()) == entered


def test_a_unit_whose_file_is_not_collected_whole_is_not_entered(module, record):
    item = Item(module, pytest.mark.recorded.mark)
    recorded.select([item], renewing=True)
    renewal = recorded.Renewal()
    renewal.pytest_collectreport(types.SimpleNamespace(failed=True, nodeid="tests/test_a.py::TestClass"))
    renewal.pytest_runtest_logreport(report(item, "tests/test_a.py::test_b"))
    renewal.pytest_sessionfinish()
    assert recorded.read() == {}


def test_a_claim_depends_on_itself_not_on_the_others(monkeypatch):
    monkeypatch.syspath_prepend(HERE / "contracts")
    contract = importlib.import_module("test_claims_run")
    one, other = (recorded.code(name, contract) for name in ("difference_error", "objective_gap"))
    assert one != other
    found = recorded.dependencies("difference_error", contract)
    assert any(name.startswith("experiments.claims.difference_error:") for name in found)
    assert not any(name.startswith("experiments.claims.objective_gap:") for name in found)
    assert any(name.startswith("figure_checks:") for name in found)


def test_what_a_test_names_is_found(monkeypatch):
    """Estimators are found by discovery; the tests name the function that finds them."""
    monkeypatch.syspath_prepend(HERE / "contracts")
    found = recorded.dependencies("", importlib.import_module("test_estimators"))
    assert {f"jaxmaml.estimators.{name}:{name}" for name in estimators.estimators()} <= set(found)


MARKED = [path for path in sorted(HERE.rglob("test_*.py")) if "pytest.mark.recorded" in path.read_text()]


@pytest.mark.parametrize("path", MARKED, ids=lambda path: path.name)
def test_marked_tests_depend_on_code_alone(path):
    """They start no process and read no file of the repository: nobody would see that those have changed."""
    if path.name == pathlib.Path(__file__).name:
        return
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not names & {"subprocess", "pathlib", "multiprocessing", "__file__", "open"}
