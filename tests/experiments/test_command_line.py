"""The command line as a user meets it: what is typed wrong gets one clear line."""

import pathlib
import subprocess
import sys

import pytest

import jaxmaml
from experiments import __main__, claims, pipeline

ROOT = pathlib.Path(__file__).parents[2]
HEAVY = (
    "jax",
    "jaxlib",
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
    "flax",
    "optax",
    "orbax",
)
SUBCOMMANDS = "run", "plot", "report", "reproduce", "list", "train", "head-to-head", "advise"


def command(*words, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *words], capture_output=True, text=True, cwd=cwd, check=False
    )


def imported_by(*words, module="experiments.__main__"):
    """Which of HEAVY a command imports, and its exit status."""
    program = f"""
import sys
from {module} import main
sys.argv = ["program", *{words!r}]
try:
    status = main()
except SystemExit as stop:
    status = stop.code
print("\\nimported", status, *sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    word, status, *heavy = done.stdout.splitlines()[-1].split()
    assert word == "imported"
    return heavy, int(status)


def test_list_names_every_claim():
    done = command("list")
    assert done.returncode == 0
    expected = [f"{name:20s} {claim.title}" for name, claim in claims.claims().items()]
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize("name", claims.names())
def test_title_is_read_as_it_is(name):
    assert claims.titles()[name] == claims.get(name).title


def test_title_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HERE", tmp_path)
    for text in ("claims = {}", 'claim = Claim("E99", "a".upper())', 'claim = Claim("E99")'):
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(
            ValueError, match=r'mine.py declares no claim; allowed: claim = Claim\("E99", "one'
        ):
            claims.titles()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["list"], 0),
        *(([word, "--help"], 0) for word in SUBCOMMANDS),
        (["train", "sinusoid", "--help"], 0),
        (["lsit"], 2),
        *(([word, "--experiment", "fo_flor"], 2) for word in ("run", "plot", "reproduce")),
        (["run", "--scale", "smokey"], 2),
        (["run", "--executor", "dusk"], 2),
        (["train", "digitz"], 2),
        (["advise", "digitz"], 2),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_quick_starts_import_nothing_heavy(words, status):
    assert imported_by(*words) == ([], status)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["advise", "--help"], 0),
        (["trian"], 2),
        (["advise", "digitz"], 2),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_quick_starts_of_the_library(words, status):
    assert imported_by(*words, module="jaxmaml.command_line") == ([], status)


def test_version():
    done = subprocess.run(
        [sys.executable, "-m", "jaxmaml", "--version"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == f"jaxmaml {jaxmaml.__version__}\n"


def test_the_command_line_without_its_extra():
    """One line that says what to install."""
    program = "import sys; sys.modules['tyro'] = None; import jaxmaml.command_line"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: the command line needs tyro; pip install 'jaxmaml[advice]' or 'jaxmaml[training]'\n"
    )


def test_reproduce_runs_plots_and_reports(monkeypatch):
    called = []
    for name in ("run", "plot", "report"):
        monkeypatch.setattr(__main__, name, lambda *words, name=name, **_: called.append((name, *words)))
    __main__.reproduce("smoke", "fo_floor")
    assert called == [("run", "smoke", "fo_floor"), ("plot", "smoke", "fo_floor"), ("report", "smoke")]


def test_unknown_experiment():
    done = command("run", "--experiment", "fo_flor")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown experiment 'fo_flor'; known: adaptive_step, all, ")
    assert done.stderr.rstrip().endswith("Did you mean 'fo_floor'?")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--executor", "dusk"),
            "unknown executor 'dusk'; known: dask, local, loky, slurm. Did you mean 'dask'?",
        ),
        (("--executor", "loky", "--workers", "0"), "workers = 0; allowed: >= 1"),
        (("--executor", "dask"), "executor = 'dask' needs its scheduler: --scheduler tcp://host:8786, or "),
        (
            ("--workers", "2"),
            "executor = 'local'; --workers, --platform, --scheduler and --slurm are for the others",
        ),
        (("--executor", "slurm", "--slurm.cluster", "slum"), "slurm.cluster = 'slum'; "),
    ],
)
def test_where_cells_cannot_run(words, message):
    done = command("run", "--experiment", "fo_floor", "--scale", "smoke", *words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1


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
    for word in ("--scale", "smoke", "--experiment", "--chunk-cells", "killed sweep", "--executor"):
        assert word in done.stdout
