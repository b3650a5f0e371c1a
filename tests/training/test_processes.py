"""One run in several processes: the numbers of one, one writer, and an end when one is lost."""

import os
import socket
import subprocess
import sys
import time

import chex
import numpy as np
import pytest
from runs import REPOSITORY
from test_store import seals, train

from jaxmaml.training import processes, store

GROUPS = {"outer": {"steps": 4000, "tasks": 5}, "precision": "float64"}

PROGRAM = """
import pathlib, sys
sys.path[:0] = ["tests", "tests/training"]
import settings
settings.configure()
import jax
jax.config.update("jax_num_cpu_devices", 1)
from jaxmaml.training import loop, processes
from runs import small
from test_processes import GROUPS

with processes.joined():
    groups = GROUPS | {"outer": GROUPS["outer"] | {"steps": int(sys.argv[2])}}
    sys.exit(loop.train(small(pathlib.Path(sys.argv[1]), **groups)))
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(where, steps):
    """Two processes with a device each."""
    address, line = f"127.0.0.1:{free_port()}", [sys.executable, "-c", PROGRAM, str(where), str(steps)]
    return [
        subprocess.Popen(
            line,
            cwd=REPOSITORY,
            env=os.environ | dict(zip(processes.PLACE, (address, "2", str(number)), strict=True)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.exhaustive)])
def test_two_processes(tmp_path, victim):
    """One is killed, the other ends with a message; one process goes on, and ends as one alone."""
    where = tmp_path / "two"
    both = start(where, 4000)
    while seals(where) < 10:
        assert all(each.poll() is None for each in both), both[0].communicate()
        time.sleep(0.05)
    both[victim].kill()
    other = both[1 - victim]
    said, errors = other.communicate(timeout=2 * processes.HEARTBEAT)
    both[victim].communicate()
    if victim == 1:
        # Without the first process JAX itself may end the others, before they can say anything.
        assert other.returncode == processes.Lost.status
        assert "error: another process of the run ended or cannot be reached" in errors
        assert "going on from step" not in said
    assert other.returncode != 0
    steps = seals(where) + 10
    for folder in (where, tmp_path / "one"):
        groups = GROUPS | {"outer": {"tasks": 5, "steps": steps}}
        assert train(folder, **groups) == 0
    chex.assert_trees_all_close(store.load(where), store.load(tmp_path / "one"), rtol=1e-8, atol=1e-10)
    curves = [store.read(each).table().drop(columns="seconds") for each in (where, tmp_path / "one")]
    np.testing.assert_allclose(*(curve.to_numpy() for curve in curves), rtol=1e-8, atol=1e-10)


def test_refused_by_all(tmp_path):
    """What the first process refuses, no other goes on with."""
    train(tmp_path / "run", 10)
    both = start(tmp_path / "run", 10)
    ends = [each.communicate(timeout=300) for each in both]
    assert [each.returncode for each in both] == [2, 2]
    assert "holds a run with outer.tasks = 4, not 5" in ends[0][1]
    assert "the first process refused the run" in ends[1][1]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (("a:1", "2", ""), "JAX_PROCESS_ID is not set; allowed: all of"),
        (("a:1", "two", "0"), "JAX_NUM_PROCESSES = 'two'; allowed: an integer"),
        (("a:1", "2", "2"), "JAX_PROCESS_ID = 2; allowed with JAX_NUM_PROCESSES = 2"),
    ],
)
def test_place_in_the_environment(monkeypatch, place, says):
    for name, value in zip(processes.PLACE, place, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=says):
        processes._place()


def test_place_of_a_cluster(monkeypatch):
    for name in processes.PLACE:
        monkeypatch.delenv(name, raising=False)
    assert processes._place() == {}
