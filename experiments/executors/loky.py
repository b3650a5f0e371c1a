"""Processes of this machine, a core each; one that dies is replaced."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from experiments.executors import Options, Workers
from jaxmaml.configuration import cores


class _Pool(concurrent.futures.Executor):
    """Loky's reusable pool: a broken one is exchanged for a new one at the next job."""

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def get(self) -> Any:
        import loky

        return loky.get_reusable_executor(max_workers=self.processes, timeout=300)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        return self.get().submit(function, *arguments, **named)


@contextlib.contextmanager
def workers(options: Options) -> Iterator[Workers]:
    processes = options.workers or cores()
    pool = _Pool(processes)
    pool.get()
    try:
        # One process that dies takes the pool with it, and so the jobs of the others.
        yield Workers("loky", pool, processes, devices=max(cores() // processes, 1), retries=2)
    finally:
        pool.get().shutdown(kill_workers=True)
