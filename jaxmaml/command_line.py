"""The command line `jaxmaml`: train | advise.

A start is quick: what is imported here needs no JAX, and a command imports the rest when its arguments are
known to be good.
"""

import contextlib
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from jaxmaml import paths
from jaxmaml.failures import Failure
from jaxmaml.version import __version__

try:
    import tyro
except ModuleNotFoundError as error:
    if error.name != "tyro":
        raise
    sys.exit("error: the command line needs tyro; pip install 'jaxmaml[advice]' or 'jaxmaml[training]'")

from jaxmaml.advice.options import Options, check, precision
from jaxmaml.configuration import configure, cores
from jaxmaml.training.presets import DESCRIPTIONS, PRESETS, ROOT, Preset

if TYPE_CHECKING:
    Choice = Preset
else:
    Choice = Annotated[
        tyro.extras.subcommand_type_from_defaults(PRESETS, DESCRIPTIONS, prefix_names=False),
        tyro.conf.arg(name=""),
    ]


def train(preset: Choice) -> int:
    """Train a network: MAML, FO-MAML or HF-MAML on few-shot tasks.

    Checkpoints, the learning curve, the resolved configuration and figures go to a folder of
    results/training. Stopped or killed, the same command goes on from the last evaluation.
    """
    where = ROOT if preset.out is None else preset.out
    if not preset.distributed:  # only the first process writes
        paths.check_folder("out", where)
    devices = int(os.environ.get("JAX_NUM_CPU_DEVICES", cores()))
    configure(float64=preset.precision == "float64", devices=devices)
    try:
        from jaxmaml.training import loop, processes
    except ModuleNotFoundError as error:
        raise ImportError(f"training needs {error.name}: pip install 'jaxmaml[training]'") from error

    several = processes.joined() if preset.distributed else contextlib.nullcontext()
    with several, paths.naming(where):
        return loop.train(preset)


def advise(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Measure a problem, and advise on the method, alpha, the batch of tasks and the outer step.

    One to seven minutes on 2 cores, by the preset. docs/advise.md says how to read what is printed.
    """
    check(options)
    configure(float64=precision(options) == "float64")
    from jaxmaml.advice import advise as advice
    from jaxmaml.advice import text

    found = advice.advise(options, say=lambda stage: print(f"{stage} ...", file=sys.stderr))
    print(text.verdict(found))
    if options.evidence:
        print()
        print(text.evidence(found))
    if options.figure:
        from jaxmaml.advice import figure

        figure.save(found, options.figure)
    if options.json:
        advice.write(found, options.json)


NARROWEST = 40
"""columns of a terminal: in fewer, help does not fit, and tyro does not end."""

COMMANDS: dict[str, Callable[..., Any]] = {"train": train, "advise": advise}


def answer(commands: dict[str, Callable[..., Any]], program: str, **arguments: Any) -> int:
    """Runs what the command line asks for; the exit status.

    A user's mistake, a warning, and a file that cannot be read or written, is one line. What fails in a
    function of the user's own keeps its traceback, and a line says which it was.
    """
    warnings.formatwarning = lambda message, *_: f"note: {message}\n"
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    try:
        status: int | None = tyro.extras.subcommand_cli_from_dict(commands, prog=program, **arguments)
        sys.stdout.flush()
    except Failure as error:
        traceback.print_exception(error.__cause__)
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Who reads has seen enough (`| head`); Python would say so once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, FloatingPointError, ChildProcessError) as error:
        print(f"error: {_line(error)}", file=sys.stderr)
        return getattr(error, "status", 2)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    return status or 0


def _line(error: Exception) -> str:
    """What the error says, and of one of the operating system the path and what to do."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}; allowed: {paths.REMEDY}"


def main() -> int:
    if sys.argv[1:] == ["--version"]:
        print(f"jaxmaml {__version__}")
        return 0
    return answer(COMMANDS, "jaxmaml", description="Meta-gradients: train a network, or advise on a method.")
