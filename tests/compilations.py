"""Which programs XLA compiles, and how thoroughly."""

import contextlib
import functools
from collections.abc import Iterator

import jax
import settings

# As users' programs are compiled, where the tests' settings leave that out.
optimised_jit = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 3}
    | ({"xla_cpu_use_fusion_emitters": True} if settings.FUSION_EMITTERS else {}),
)

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
