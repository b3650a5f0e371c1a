"""The workers of a dask scheduler, on any machines: `dask worker`, Kubernetes, an institute's cluster."""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from experiments.executors import Options, Workers

PATIENCE = 10.0
"""seconds to wait for the scheduler's answer."""


class _Client(concurrent.futures.Executor):
    """Dask's own executor leaves a future waiting for ever if the scheduler is lost while it answers."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        remote = self.client.submit(function, *arguments, pure=False, **named)
        answer = self.client.gather(remote, asynchronous=True)
        return asyncio.run_coroutine_threadsafe(answer, self.client.loop.asyncio_loop)

    def lost(self) -> str:
        return "" if self.client.status == "running" else "the connection to the scheduler is lost"


@contextlib.contextmanager
def workers(options: Options) -> Iterator[Workers]:
    import distributed

    address = options.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS")
    if not address:
        raise ValueError(
            "executor = 'dask' needs its scheduler: --scheduler tcp://host:8786, or DASK_SCHEDULER_ADDRESS"
        )
    # What is lost is said by the sweep, once.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except OSError as error:
        raise ChildProcessError(
            f"scheduler = {address!r}; no answer within {PATIENCE:.0f} s. Is it running, and to be reached?"
        ) from error
    try:
        found = client.scheduler_info(n_workers=-1)["workers"].values()
        threads = min((worker["nthreads"] for worker in found), default=1)
        count = options.workers or max(len(found), 1)
        pool = _Client(client)
        yield Workers(f"dask at {address}", pool, count, devices=threads, lost=pool.lost)
    finally:
        client.close(timeout=2)
