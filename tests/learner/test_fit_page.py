"""docs/fit.md is what it says: its code runs as written, the part for a new process in one."""

import pathlib
import re
import subprocess
import sys

import numpy as np

import jaxmaml

ROOT = pathlib.Path(__file__).parents[2]
CODE = re.findall(r"```python\n(.*?)```", (ROOT / "docs/fit.md").read_text(), re.DOTALL)


def test_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in CODE[:2]:
        exec(code, names)
    learner, found, clients = names["learner"], names["found"], names["clients"]
    assert len([line for line in CODE[1].splitlines() if line.strip()]) == 5
    assert found[5].loss.high < found[0].loss.low
    x, y = clients[names["unseen"][0]]
    grid = np.linspace(-2, 2, 9)[:, None]
    before, after = (np.mean((learner.predict(w, x) - y) ** 2) for w in (learner.params, names["adapted"]))
    assert after < before
    assert names["y"].shape == grid.shape

    line = [sys.executable, "-c", CODE[2]]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=None)
    assert done.returncode == 0, done.stderr
    said = np.array(re.findall(r"-?\d+\.\d+(?:e-?\d+)?", done.stdout), float)
    x = np.linspace(-2, 2, 9, dtype="float32")[:, None]
    here = jaxmaml.load("model", loss=names["loss"], apply=names["apply"])
    expected = here.predict(here.adapt((x, np.cos(x)), steps=5), x)
    np.testing.assert_allclose(said, np.ravel(expected), rtol=1e-4, atol=1e-6)
