"""The wheel and the source archive, tried as users install them, on every supported Python and JAX.

    make wheels            # PYTHONS="python3.11 python3.13": those alone

Each line of VERSIONS is an environment that has nothing else: the newest packages that the wheel's own bounds
allow, with that JAX. There every one of TRIES runs in an empty folder. Renews the table of docs/install.md.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "install.md"
VERSIONS = (("3.11", "0.10"), ("3.12", "0.11"), ("3.12", "0.12"), ("3.13", "0.12"))
"""Python, JAX."""
EXTRA = "training"
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def build(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """(wheel, source archive); the wheel is built from the archive, as an installer would."""
    # A build leaves files beside the sources.
    sources = folder / "sources"
    ignored = shutil.ignore_patterns(".*", "results", "tests", "build", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, sources, ignore=ignored)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(sources)],
        check=True,
        capture_output=True,
    )
    (sdist,) = folder.glob("jaxmaml-*.tar.gz")
    (wheel,) = folder.glob("jaxmaml-*.whl")
    return wheel, sdist


def environment(folder: pathlib.Path, python: str, requirements: Sequence[str]) -> pathlib.Path:
    """The `bin` folder of a new environment with these."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    inside = folder / "bin" / "python"
    subprocess.run([str(inside), *PIP, "install", *requirements], check=True)
    return folder / "bin"


def run(folder: pathlib.Path, *words: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder, where nothing of this repository is found."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, cwd=folder, env=kept, check=False
    )


def blocks(page: str) -> list[str]:
    """The examples of a page, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


Try = Callable[[pathlib.Path, pathlib.Path], subprocess.CompletedProcess[str]]


def example(page: str) -> Try:
    def of_page(bin: pathlib.Path, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
        (folder / "example.py").write_text("\n".join(blocks(page)))
        return run(folder, bin / "python", "example.py")

    return of_page


def command(*words: str) -> Try:
    return lambda bin, folder: run(folder, bin / "jaxmaml", *words)


def advice(bin: pathlib.Path, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    (folder / "mine.py").write_text(blocks("docs/advise.md")[0])
    return run(folder, bin / "jaxmaml", "advise", "mine:problem", "--alpha", "0.03", "--steps", "12")


TRIES: dict[str, Try] = {
    "the README's example": example("README.md"),
    "the examples of fit": example("docs/fit.md"),
    "`jaxmaml --version`": command("--version"),
    "`jaxmaml train digits`": command("train", "digits", "--outer.steps", "4", "--evaluation.every", "2"),
    "`jaxmaml advise`": advice,
}


def versions(bin: pathlib.Path) -> str:
    names = ("jax", "flax", "optax", "numpy")
    code = f"from importlib.metadata import version as v; print(*map(v, {names!r}))"
    found = run(bin, bin / "python", "-c", code).stdout.split()
    return ", ".join(f"{name} {version}" for name, version in zip(names, found, strict=True))


def table(rows: Sequence[Sequence[str]]) -> str:
    head = ["Python", "packages", *TRIES]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """0 if everything ran everywhere; the page is renewed only then, and only by all versions."""
    rows, failures = [], []
    with tempfile.TemporaryDirectory() as temporary:
        there = pathlib.Path(temporary)
        wheel, _ = build(there)
        for python, jax in VERSIONS:
            name = f"python{python}"
            if shutil.which(name) is None or run(there, name, "--version").returncode:
                failures.append(f"{name} is not installed")
                continue
            bin = environment(there / f"{python}-{jax}", name, [f"{wheel}[{EXTRA}]", f"jax=={jax}.*"])
            row = [python, versions(bin)]
            for title, attempt in TRIES.items():
                folder = pathlib.Path(tempfile.mkdtemp(dir=there))
                done = attempt(bin, folder)
                row.append("runs" if done.returncode == 0 else f"status {done.returncode}")
                if done.returncode:
                    failures.append(f"Python {python}, JAX {jax}, {title}:\n{done.stderr[-2000:]}")
            rows.append(row)
            print(" | ".join(row), flush=True)
            shutil.rmtree(bin.parent)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if not failures:
        begin, end = "<!-- wheels -->\n", "\n<!-- end -->"
        before, rest = PAGE.read_text().split(begin)
        PAGE.write_text(f"{before}{begin}{table(rows)}{end}{rest.split(end)[1]}")
    return len(failures) > 0


if __name__ == "__main__":
    sys.exit(main())
