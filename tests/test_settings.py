"""The suite's own ground: a claim's tests share one process, which computes its smoke scale once."""

import subprocess
import sys

GROUPED = """
import os, pathlib, pytest

@pytest.mark.parametrize("i", [pytest.param(i, marks=pytest.mark.xdist_group("one")) for i in range(8)])
def test_where(i, request):
    path = pathlib.Path(request.config.rootpath) / f"ran-{i}"
    path.write_text(os.environ["PYTEST_XDIST_WORKER"])
"""


def test_tests_of_one_group_run_in_one_process(tmp_path):
    (tmp_path / "test_grouped.py").write_text(GROUPED)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist",
        "loadgroup",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    ran = sorted(tmp_path.glob("ran-*"))
    assert len(ran) == 8
    assert len({path.read_text() for path in ran}) == 1
