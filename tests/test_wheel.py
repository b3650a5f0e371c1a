"""The wheel, installed in an environment that has nothing else: the README runs, and the command line."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `bin` folder of an environment with the wheel and its extra `advice`, by the pinned versions."""
    folder = tmp_path_factory.mktemp("wheel")
    # The build leaves files beside the sources.
    sources = folder / "sources"
    ignored = shutil.ignore_patterns(".*", "results", "tests", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, sources, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(sources)], check=True)
    (wheel,) = folder.glob("jaxmaml-*.whl")
    venv.create(folder / "venv", with_pip=True)
    inside = [str(folder / "venv" / "bin" / "python"), *pip[1:]]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*inside, "install", *constraints, f"{wheel}[advice]"], check=True)
    return folder / "venv" / "bin"


def run(folder, *words):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment, check=False)


@pytest.mark.exhaustive
@pytest.mark.xdist_group("wheel")
class TestWheel:
    def test_the_readme_runs(self, installed, tmp_path):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        assert len(blocks) > 2
        (tmp_path / "readme.py").write_text("\n".join(blocks))
        done = run(tmp_path, installed / "python", "readme.py")
        assert done.returncode == 0, done.stderr

    def test_the_suite_is_not_in_it(self, installed, tmp_path):
        assert run(tmp_path, installed / "python", "-c", "import experiments").returncode == 1

    def test_advice(self, installed, tmp_path):
        page = (ROOT / "docs" / "advise.md").read_text()
        (tmp_path / "mine.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1))
        words = "advise", "mine:problem", "--alpha", "0.03", "--steps", "12", "--json", "advice.json"
        done = run(tmp_path, installed / "jaxmaml", *words)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "advice.json").exists()

    def test_training_says_what_it_needs(self, installed, tmp_path):
        done = run(tmp_path, installed / "jaxmaml", "train", "sinusoid")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "pip install 'jaxmaml[training]'" in done.stderr
