"""The command line as a user meets it: what is typed wrong gets one clear line."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import tyro

import jaxmaml
from experiments import __main__, claims, pipeline
from jaxmaml import command_line
from jaxmaml.advice.options import Options
from jaxmaml.training.problem import check_preset

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
SUBCOMMANDS = (
    "run",
    "plot",
    "report",
    "reproduce",
    "list",
    "train",
    "head-to-head",
    "federated",
    "advice",
    "advise",
)


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
        (("--executor", "loky", "--workers", "0"), "workers = 0; allowed: an integer >= 1"),
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "digits", "--out", "file"], "out = 'file' is a file; allowed: a folder"),
        (["train", "digits", "--out="], "out = ''; allowed: a path"),
        (["train", "digits", "--out", "file/below"], "cannot be written to"),
        (["advise", "digits", "--json", "."], "json = '.' is a folder; allowed: a file"),
        (["advise", "digits", "--json="], "json = ''; allowed: a path"),
        (["advise", "digits", "--path="], "path = ''; allowed: a path"),
        (["advise", ":x"], "target = ':x'; allowed: a preset, or package.module:function"),
    ],
    ids=" ".join,
)
def test_places_are_looked_at_before_anything_is_imported(tmp_path, monkeypatch, capsys, words, said):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["jaxmaml", *words])
    monkeypatch.setattr(command_line, "configure", None)  # the first step of the work
    assert command_line.main() == 2
    err = capsys.readouterr().err
    assert re.fullmatch(f"error: .*{re.escape(said)}.*\n", err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--seed", "9223372036854775808"],
            "seed = 9223372036854775808; allowed: an integer >= 0 and <= 4294967295",
        ),
        (["--seed", "4294967296"], "seed = 4294967296; allowed"),
        (["--evaluation.seed", "-1"], "evaluation.seed = -1; allowed: an integer >= 0"),
        (
            ["--outer.steps", "4294967296"],
            "outer.steps = 4294967296; allowed: an integer >= 1 and <= 2147483647",
        ),
        (["--evaluation.query", "0"], "evaluation.query = 0; allowed: an integer >= 1"),
        (["--method.task-chunk", "0"], "method.task_chunk = 0; allowed: an integer >= 1"),
        (["--data.ways", "1"], "data.ways = 1; allowed: an integer >= 2"),
        (["--inner.alpha", "1e300"], "inner.alpha = 1e+300 in float32 = inf; allowed: finite and > 0"),
        (["--method.delta", "nan"], "method.delta = nan; allowed: finite and > 0"),
        (["--data.path="], "data.path = ''; allowed: a path"),
        (["--model.hidden", "0"], "model.hidden[0] = 0; allowed: an integer >= 1"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_numbers_of_a_training_run(tmp_path, words, said):
    """By the check that `loop.train` begins with."""
    preset = tyro.cli(command_line.Choice, args=["digits", *words])
    with pytest.raises(ValueError, match=re.escape(said)):
        check_preset(preset)


def test_cells_of_a_chunk(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for count in ("0", "-1"):
        monkeypatch.setattr(sys, "argv", ["experiments", "run", "--chunk-cells", count])
        assert __main__.main() == 2
        assert capsys.readouterr().err == f"error: chunk_cells = {count}; allowed: an integer >= 1\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(28, "No space left on device", "/a/b"),
            "error: /a/b: No space left on device; allowed: files",
        ),
        (OSError(30, "Read-only file system", "/a"), "error: /a: Read-only file system; allowed: files"),
        (IsADirectoryError(21, "Is a directory", "/a"), "error: /a: Is a directory; allowed: files"),
        (PermissionError(13, "Permission denied"), "error: Permission denied; allowed: files"),
        (FileNotFoundError("x is missing; make it with: y"), "error: x is missing; make it with: y"),
    ],
)
def test_errors_of_the_file_system_are_one_line(monkeypatch, capsys, error, said):
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["program", "fail"])
    assert command_line.answer({"fail": fail, "other": fail}, "program") == 2
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("\n") == 1


OWN = """
import jax.numpy as jnp
from jaxmaml import measure
def reads(): return open("/not/there")
def breaks():
    def loss(w, b): raise KeyError("mine")
    return measure.from_pools(loss, jnp.ones(2), jnp.ones((3, 4, 2)))
"""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "own:reads",
            "error: own:reads failed: FileNotFoundError: [Errno 2] No such file or directory: '/not/there'",
        ),
        ("own:breaks", "error: the loss of own:breaks failed: KeyError: 'mine'"),
        ("own_module:f", "error: module 'own_module' failed: ZeroDivisionError: division by zero"),
    ],
)
def test_errors_of_the_users_own_function(monkeypatch, capsys, tmp_path, target, said):
    """They keep their traceback; the last line says whose function it was."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own_module.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("own", "own_module"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "argv", ["jaxmaml", "advise", target])
    monkeypatch.setattr(command_line, "configure", lambda **_: None)
    assert command_line.main() == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == said
    assert "Traceback" in err
    assert str(tmp_path) in err


def test_help_in_a_narrow_terminal():
    done = subprocess.run(
        [sys.executable, "-m", "jaxmaml", "train", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "5", "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=120,
    )
    assert done.returncode == 0
    assert "sinusoid" in done.stdout


def test_a_reader_that_has_seen_enough():
    program = f"{sys.executable} -m experiments list | head -n 1"
    done = subprocess.run(program, shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "quick"),
    [
        (["digits"], None),
        (["digits", "--quick"], True),
        (["--quick", "digits"], True),
        (["digits", "--no-quick"], False),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_quick_alone(words, quick):
    assert tyro.cli(Options, args=words).quick is quick
