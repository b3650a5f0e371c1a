"""What every process of the tests sets before NumPy and JAX start; for tests and the claims that they run.

XLA_FLAGS and OPENBLAS_NUM_THREADS of the environment have precedence: XLA_FLAGS= compiles as users do.
"""

import gc
import os
import pathlib

# Matrices are small, and two workers share the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax

FUSION_EMITTERS = jax.__version_info__ < (0, 11)
"""Whether XLA has the option of that name; later versions stop at it."""

# Most of the tests' time is spent compiling programs that run once: not optimised, in a third of the time.
# XLA reads the flags when its first program is compiled.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * FUSION_EMITTERS,
)

CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax-tests"


def configure() -> None:
    """float64, full matrix products, two CPU devices (so that sharding is exercised), and one cache of
    compiled programs, keyed by the program itself."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # A tenth of the time of tracing is Python's search for garbage.
    gc.set_threshold(200_000, 50, 50)
