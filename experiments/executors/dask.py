"""The workers of a dask scheduler, on any machines: `dask worker`, Kubernetes, an institute's cluster."""

import contextlib
import logging
import os
from collections.abc import Iterator

from experiments.executors import Options, Workers

PATIENCE = 10.0
"""seconds to wait for the scheduler's answer."""


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
        yield Workers(
            f"dask at {address}",
            client.get_executor(pure=False),
            count=options.workers or max(len(found), 1),
            devices=threads,
        )
    finally:
        client.close(timeout=2)
