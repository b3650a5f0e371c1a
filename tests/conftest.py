"""The settings of every test, repeatable properties, and an empty results folder."""

import os

import settings

settings.configure()

import hypothesis  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def results_here(tmp_path, monkeypatch):
    """An empty results folder for the pipeline."""
    from experiments import pipeline

    monkeypatch.setattr(pipeline, "ROOT", tmp_path / "results")
    return tmp_path / "results"
