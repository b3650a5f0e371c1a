"""float64, full matrix products, two CPU devices (so that sharding is exercised), repeatable properties."""

import os

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_num_cpu_devices", 2)
# Many tests compile the same program; the cache is keyed by the program itself.
jax.config.update("jax_compilation_cache_dir", os.path.abspath(".cache/jax-tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def results_here(tmp_path, monkeypatch):
    """An empty results folder for the pipeline."""
    from experiments import pipeline

    monkeypatch.setattr(pipeline, "ROOT", tmp_path / "results")
    return tmp_path / "results"
