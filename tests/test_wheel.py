"""The wheel, built from the source archive and installed where nothing else is, on this Python.

`make wheels` tries all versions.
"""

import sys
import tarfile
import zipfile

import pytest
import wheels

from jaxmaml.version import __version__


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return wheels.build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The `bin` folder of an environment with the wheel and its extra `advice`, by the pinned versions."""
    pinned = ["-c", str(wheels.ROOT / "constraints.txt")]
    return wheels.environment(
        tmp_path_factory.mktemp("env"), sys.executable, [*pinned, f"{built[0]}[advice]"]
    )


def test_every_version_is_tried():
    """The table of docs/install.md has what the classifiers and the requirement of JAX promise."""
    project = (wheels.ROOT / "pyproject.toml").read_text()
    promised = {v for v in ("3.11", "3.12", "3.13", "3.14") if f"Python :: {v}" in project}
    assert {python for python, _ in wheels.VERSIONS} == promised
    lowest = project.split('"jax>=')[1].split('"')[0]
    assert min(jax for _, jax in wheels.VERSIONS) == lowest


def test_examples_of_the_tries_are_there():
    assert [len(wheels.blocks(page)) > 0 for page in ("README.md", "docs/fit.md", "docs/advise.md")] == [
        True
    ] * 3


@pytest.mark.exhaustive
@pytest.mark.xdist_group("wheel")
class TestWheel:
    def test_what_is_in_it(self, built):
        wheel, sdist = built
        names = zipfile.ZipFile(wheel).namelist()
        assert {"jaxmaml/py.typed", "jaxmaml/__init__.pyi"} <= set(names)
        assert any(name.endswith("/licenses/LICENSE") for name in names)
        assert {name.split("/")[0] for name in names} == {"jaxmaml", f"jaxmaml-{__version__}.dist-info"}
        sources = {str(p.relative_to(wheels.ROOT)) for p in (wheels.ROOT / "jaxmaml").rglob("*.py")}
        assert sources <= set(names)
        top = f"jaxmaml-{__version__}/"
        with tarfile.open(sdist) as file:
            archived = set(file.getnames())
        assert {top + name for name in ("LICENSE", "README.md", "pyproject.toml", *sources)} <= archived

    def test_the_readme_runs(self, installed, tmp_path):
        done = wheels.TRIES["the README's example"](installed, tmp_path)
        assert done.returncode == 0, done.stderr

    def test_the_suite_is_not_in_it(self, installed, tmp_path):
        assert wheels.run(tmp_path, installed / "python", "-c", "import experiments").returncode == 1

    def test_version(self, installed, tmp_path):
        assert wheels.TRIES["`jaxmaml --version`"](installed, tmp_path).stdout.split() == [
            "jaxmaml",
            __version__,
        ]

    def test_advice(self, installed, tmp_path):
        done = wheels.TRIES["`jaxmaml advise`"](installed, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "alpha" in done.stdout

    def test_training_says_what_it_needs(self, installed, tmp_path):
        done = wheels.TRIES["`jaxmaml train digits`"](installed, tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "pip install 'jaxmaml[training]'" in done.stderr
