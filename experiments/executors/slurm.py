"""Jobs of Slurm, by submitit; with `--slurm.cluster local`, processes of this machine in their place."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from experiments.executors import Options, Workers

AT_ONCE = 8


class _Again:
    """A job that is queued again when Slurm stops it in time: what it has written is not run again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit queues instead of a job that was stopped."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


class _Jobs(concurrent.futures.Executor):
    """A thread waits for each job, so that there are `at_once` of them."""

    def __init__(self, queue: Any, at_once: int) -> None:
        self.queue, self.running = queue, set[Any]()
        self.waiting = concurrent.futures.ThreadPoolExecutor(at_once, thread_name_prefix="slurm")

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        return self.waiting.submit(self._wait, _Again(function), *arguments, **named)

    def _wait(self, function: _Again, *arguments: Any) -> Any:
        job = self.queue.submit(function, *arguments)
        self.running.add(job)
        try:
            return job.result()
        finally:
            self.running.discard(job)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for job in list(self.running):
            job.cancel(check=False)
        self.waiting.shutdown(wait, cancel_futures=cancel_futures)


@contextlib.contextmanager
def workers(options: Options) -> Iterator[Workers]:
    import submitit

    asked, at_once = options.slurm, options.workers or AT_ONCE
    try:
        queue = submitit.AutoExecutor(asked.folder.absolute(), cluster=asked.cluster)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"slurm.cluster = {asked.cluster!r}; {error}") from error
    queue.update_parameters(
        timeout_min=asked.timeout_min,
        cpus_per_task=asked.cpus_per_task,
        gpus_per_node=asked.gpus_per_node,
        slurm_partition=asked.partition,
    )
    jobs = _Jobs(queue, at_once)
    try:
        # Each job starts Python anew: as few as there are at once.
        yield Workers(
            f"slurm ({asked.cluster})", jobs, at_once, devices=asked.cpus_per_task, share=1, retries=1
        )
    finally:
        jobs.shutdown(cancel_futures=True)
