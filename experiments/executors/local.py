"""This process and all its devices."""

import contextlib
from collections.abc import Iterator

from experiments.executors import Options


@contextlib.contextmanager
def workers(options: Options) -> Iterator[None]:
    """None: nothing to start. Other options than `executor` are another executor's."""
    if options != Options():
        raise ValueError(
            "executor = 'local'; --workers, --platform, --scheduler and --slurm are for the others"
        )
    yield None
