"""One run in several processes, each with devices of its own; the first one writes.

The processes find each other by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by what
Slurm and Open MPI tell them. They agree on whatever decides what is computed next; when one is lost, all end.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmaml.types import PyTree

PLACE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT = 60
"""seconds without a sign of life after which a process, or its machine, is taken for lost."""


class Lost(ConnectionError):
    """Another process of the run ended, or cannot be reached."""

    status = 4
    """exit status."""


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the processes of the run; an error inside ends this one at once.

    Python's orderly end would wait for the others, which wait for this one.

    Raises:
      ValueError: the environment names the processes in part, or not at all.
    """
    jax.distributed.initialize(**_place(), heartbeat_timeout_seconds=HEARTBEAT)
    try:
        yield
    except Exception as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(getattr(error, "status", 2))


def is_first() -> bool:
    return jax.process_index() == 0


def of_first(make: Callable[[], Any]) -> Any:
    """What `make` returns on the first process, None on the others; where it fails, all fail."""
    made, failure = None, None
    if is_first():
        try:
            made = make()
        except Exception as error:
            failure = error
    if any_of(failure is not None):
        raise failure or ValueError("the first process refused the run; its message says why")
    return made


def any_of(mine: bool) -> bool:
    """Whether it is so on any process."""
    if jax.process_count() == 1:
        return mine
    with watched():
        return bool(np.any(multihost_utils.process_allgather(np.array(mine))))


def from_first(tree: PyTree) -> PyTree:
    """The first process's arrays, in NumPy; the others give arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree
    with watched():
        return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """What fails inside, where processes wait for each other, failed because one is lost.

    Raises:
      Lost
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if jax.process_count() == 1:
            raise
        why = str(error).splitlines()[0]
        raise Lost(
            f"another process of the run ended or cannot be reached ({why}); "
            "the same command goes on from the last checkpoint"
        ) from error


def _place() -> dict[str, Any]:
    """Arguments of jax.distributed.initialize; none where Slurm or Open MPI say it."""
    given = {name: os.environ[name] for name in PLACE if os.environ.get(name)}
    if not given:
        return {}
    if missing := [name for name in PLACE if name not in given]:
        raise ValueError(f"{missing[0]} is not set; allowed: all of {', '.join(PLACE)}, or none under Slurm")
    numbers = {}
    for name in PLACE[1:]:
        if not given[name].isdecimal():
            raise ValueError(f"{name} = {given[name]!r}; allowed: an integer >= 0")
        numbers[name] = int(given[name])
    count, own = numbers.values()
    if own >= count:
        raise ValueError(f"JAX_PROCESS_ID = {own}; allowed with JAX_NUM_PROCESSES = {count}: less than it")
    return {
        "coordinator_address": given[PLACE[0]],
        "num_processes": count,
        "process_id": own,
        "cluster_detection_method": "deactivate",  # what is said here counts, under Slurm and Kubernetes too
    }
