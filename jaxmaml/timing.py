"""Medians of alternating repetitions: what else the machine does hits all candidates alike."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np


def medians(calls: Mapping[str, Callable[[], object]], repeats: int = 15) -> dict[str, float]:
    """Median seconds of each call, after one warm-up each; the calls take turns."""
    for call in calls.values():
        jax.block_until_ready(call())
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            taken[name].append(time.perf_counter() - started)
    return {name: float(np.median(times)) for name, times in taken.items()}


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]
