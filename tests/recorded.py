"""Tests that have passed with the code that is there: `make test` does not run them again.

A test marked `recorded` belongs to a unit: its module, or the claim that the mark names. recorded.json has
for each unit the sum of all that its tests depend on: the definitions that they name, directly or through
others (`jaxmaml.identity`), and the versions of what computes. Where that is what it was when the tests
passed, they count as exhaustive, and only `make test-all` runs them. A change runs the tests it reaches.

Only tests whose outcome follows from code that they name may be marked: none that starts processes, or reads
files of the repository. `make record` runs the units that are not as recorded, and enters those whose tests
have all passed.
"""

import json
import pathlib
import platform
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

from jaxmaml import identity, storage

HERE = pathlib.Path(__file__).parent
RECORD = HERE / "recorded.json"
EVERYWHERE = (HERE / "conftest.py", HERE / "settings.py")
ALWAYS = ("difference_error", "objective_gap", "outer_gradient")
"""claims that are always run: they are quick, and so the contract of claims is always tried."""


def unit(item: pytest.Item) -> str | None:
    """The name of the unit that a test belongs to, if any."""
    mark = item.get_closest_marker("recorded")
    if mark is None:
        return None
    return str(mark.args[0] if mark.args else item.path.relative_to(HERE))


def dependencies(name: str, module: ModuleType) -> dict[str, str]:
    """The definitions that the tests of a unit depend on, with the sums of their text; `module` is theirs."""
    from experiments import claims

    found = identity.code(module)
    if name in claims.names():  # which a test gets by its name: it depends on this one, not on all
        claim, own = claims.get(name), f"{claims.__name__}."
        found = {key: value for key, value in found.items() if not key.startswith(own)}
        found |= claim.code() | claim.drawing()
    return found


def code(name: str, module: ModuleType) -> str:
    """Identifies all that the outcome of a unit depends on."""
    versions = identity.environment() | {"python": platform.python_version_tuple()[1]}
    found = identity.summary(dependencies(name, module) | versions)
    return storage.digest(found, *(path.read_text() for path in EVERYWHERE))[:16]


def read() -> dict[str, str]:
    return dict(json.loads(RECORD.read_text())) if RECORD.exists() else {}


# Called by conftest.py


def select(items: Sequence[Any], renewing: bool) -> list[str]:
    """Marks the tests of units that are as recorded as exhaustive; returns these units.

    When renewing, each test is told its unit, the sum, and how many tests a full run of the unit has.
    """
    record = read()
    units: dict[str, list[Any]] = {}
    for item in items:
        name = unit(item)
        if name is not None and item.get_closest_marker("exhaustive") is None:
            units.setdefault(name, []).append(item)
    same = []
    for name, tests in units.items():
        found = code(name, tests[0].module)
        if renewing:
            for item in tests:
                item.user_properties.append(("recorded", [name, found, len(tests)]))
        if record.get(name) == found and name not in ALWAYS:
            same.append(name)
            for item in tests:
                item.add_marker(pytest.mark.exhaustive)
    return same


class Renewal:
    """A plugin that enters units of which every test has passed."""

    def __init__(self) -> None:
        self.passed: dict[tuple[str, str, int], dict[str, bool]] = {}
        self.uncollected: set[str] = set()
        """files of which not all tests were found."""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.uncollected.add(report.nodeid.split("::")[0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for key, value in report.user_properties:
            if key == "recorded":
                tests = self.passed.setdefault(tuple(value), {})
                tests[report.nodeid] = tests.get(report.nodeid, True) and report.passed

    def pytest_sessionfinish(self) -> None:
        record = read()
        for (name, found, count), tests in self.passed.items():
            files = {nodeid.split("::")[0] for nodeid in tests}
            if len(tests) == count and all(tests.values()) and not files & self.uncollected:
                record[name] = found
        RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")
