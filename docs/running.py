"""How the examples of the gallery are run: each in its own names, all in the process that builds the site."""

import jax

from tests import settings  # Most programs of an example run once, as those of a test do.

jax.config.update("jax_compilation_cache_dir", str(settings.CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

FIRST = ("own_loss", "few_shot_images", "federated_clients", "which_method", "from_learn2learn")
"""What most readers come for; the others follow by name."""


def reset(_gallery: object, _script: str) -> None:
    """Settings as a new process has them, before each example."""
    jax.config.update("jax_enable_x64", False)


def order(file: str) -> tuple[int, str]:
    """The place of an example in the gallery."""
    name = file.removesuffix(".py")
    return (FIRST.index(name) if name in FIRST else len(FIRST)), name
