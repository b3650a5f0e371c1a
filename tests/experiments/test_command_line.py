"""The command line as a user meets it: what is typed wrong gets one clear line."""

import pathlib
import subprocess
import sys

import pytest

from experiments import claims, pipeline

ROOT = pathlib.Path(__file__).parents[2]


def command(*words, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *words], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_list_names_every_claim():
    done = command("list")
    assert done.returncode == 0
    for name, module in claims.claims().items():
        assert f"{name} " in done.stdout
        assert module.TITLE in done.stdout


def test_unknown_experiment():
    done = command("run", "--experiment", "fo_flor")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown experiment 'fo_flor'; known: adaptive_step, all, ")
    assert done.stderr.rstrip().endswith("Did you mean 'fo_floor'?")
    assert "Traceback" not in done.stderr


def test_unknown_scale():
    done = command("run", "--scale", "smokey")
    assert done.returncode == 2
    assert "smoke" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_scale_of_the_pipeline():
    with pytest.raises(ValueError, match="unknown scale 'smokey'.*Did you mean 'smoke'"):
        pipeline.folder("smokey")


@pytest.mark.parametrize("word", ["plot", "report"])
def test_nothing_to_draw(word, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments", word],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 2
    assert "is missing; make it with: make run-sweep SCALE=default EXPERIMENT=" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches():
    done = command("run", "--help")
    assert done.returncode == 0
    for word in ("--scale", "smoke", "--experiment", "--chunk-cells", "killed sweep"):
        assert word in done.stdout
