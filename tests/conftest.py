"""The settings of every test, repeatable properties, and an empty results folder."""

import os

import settings

settings.configure()

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import recorded  # noqa: E402

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def results_here(tmp_path, monkeypatch):
    """An empty results folder for the pipeline."""
    from experiments import pipeline

    monkeypatch.setattr(pipeline, "ROOT", tmp_path / "results")
    return tmp_path / "results"


def pytest_addoption(parser):
    parser.addoption(
        "--record", action="store_true", help="enter the units whose tests pass (tests/recorded.py)"
    )


def pytest_configure(config):
    if config.getoption("--record") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(recorded.Renewal())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    recorded.select(items, config.getoption("--record"))
