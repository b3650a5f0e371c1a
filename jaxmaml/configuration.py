"""The settings of JAX that the command lines choose; importing the library changes none."""

import os


def configure(float64: bool) -> None:
    """The precision, and compiled programs kept on disk.

    Matrix products have the full precision of their type; without this, GPUs round float32 to 11 bits
    (docs/gpu.md).
    """
    import jax

    jax.config.update("jax_enable_x64", float64)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_compilation_cache_dir", os.path.abspath(".cache/jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
