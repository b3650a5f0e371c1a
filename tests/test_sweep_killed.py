"""A sweep that is killed loses what has not finished, and nothing else."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
from test_sweep import cells, run

PROGRAM = """
    import sys
    sys.path.insert(0, {here!r})
    import settings
    settings.configure()
    import pathlib, test_sweep, test_sweep_killed
    test_sweep.run(test_sweep_killed.slow_cells(), pathlib.Path(sys.argv[1]), chunk_cells=4)
"""


def slow_cells():
    return cells(40, record=(0, 30_000))


def start(folder):
    text = textwrap.dedent(PROGRAM.format(here=str(pathlib.Path(__file__).parent)))
    return subprocess.Popen([sys.executable, "-c", text, str(folder)])


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed)
    deadline = time.monotonic() + 120
    while len(list(killed.rglob("*.parquet"))) < 3:
        assert process.poll() is None, "finished before it could be killed: make slow_cells slower"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in killed.rglob("*.parquet")}

    resumed, report = run(slow_cells(), killed, chunk_cells=4)
    assert report.cells == 80
    assert 4 * len(finished) <= report.reused < report.cells
    for path, before in finished.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == before, "a finished chunk ran again"

    uninterrupted, report = run(slow_cells(), whole, chunk_cells=4)
    assert report.reused == 0
    pd.testing.assert_frame_equal(resumed, uninterrupted, check_exact=True)
