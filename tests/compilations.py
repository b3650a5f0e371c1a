"""Which programs XLA compiles, and how thoroughly."""

import contextlib
import functools
from collections.abc import Iterator

import jax

# Nearly all the time of the tests is spent compiling programs that run once or twice, on small arrays. With
# these options a network's second derivatives compile in a tenth of the time; what is computed is the same
# function, optimised less. Programs whose optimisation is in question use jax.jit.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)

_COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of the programs that are compiled inside, those found in the cache on disk too."""
    names: list[str] = []

    def listen(event: str, _: float, fun_name: str = "", **__: str) -> None:
        if event == _COMPILED:
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
