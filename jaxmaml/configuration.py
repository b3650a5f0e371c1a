"""The settings of JAX that the command lines choose; importing the library changes none."""

import os


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def configure(float64: bool, devices: int | None = None) -> None:
    """The precision, the devices that a CPU counts as, and compiled programs kept on disk.

    Matrix products have the full precision of their type; without this, GPUs round float32 to 11 bits
    (docs/gpu.md).
    """
    import gc

    import jax

    # A tenth of the time of tracing is Python's search for garbage.
    gc.set_threshold(200_000, 50, 50)
    if devices is not None:
        jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_x64", float64)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_compilation_cache_dir", os.path.abspath(".cache/jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
