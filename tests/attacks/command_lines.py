"""Attacks on the command line: values that are not allowed, of every option of every command.

The options are read off the dataclasses; which values are not allowed follows from an option's type, and for
text from a table. Where the work would begin, `Began` is raised.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal
from unittest import mock

from experiments import __main__, executors, head_to_head, pipeline, sweep
from jaxmaml import command_line, measure
from jaxmaml.advice.options import Options
from jaxmaml.training import loop
from jaxmaml.training.presets import PRESETS, Preset

FILE, FOLDER = "a-file", "a-folder"
"""in the folder that the commands start in."""
TEXT = ("", "x", FILE, FOLDER)
NO_WHOLE_NUMBER = ("nan", "inf", "1e999", "1.5", *TEXT)
NOT_POSITIVE = ("0", "-1", "-0.0", "1e-999", "nan", "inf", "-inf", "1e999", *TEXT)
TOO_MANY = (str(2**31), str(2**63))
LEAST = {
    "seed": 0,
    "evaluation.seed": 0,
    "slurm.gpus_per_node": 0,
    "data.ways": 2,
    "pools": 2,
    "pool": 2,
}
"""of whole numbers, where it is not 1; advise wants 3 steps."""
BAD_TEXT = {
    "data.name": TEXT,
    "data.path": ("",),
    "method.estimator": TEXT,
    "out": ("", FILE, f"{FILE}/below"),
    "metrics": ("", FOLDER, f"{FILE}/below"),
    "path": ("",),
    "json": ("", FOLDER, "no/such", f"{FILE}/below"),
    "figure": ("", FOLDER, "no/such", f"{FILE}/below", "x.gif"),
    "executor": TEXT,
    "platform": TEXT,
    "scheduler": ("",),
    "slurm.partition": ("",),
    "slurm.folder": (FILE, f"{FILE}/below"),  # a path that is empty is the folder one is in
    "slurm.cluster": TEXT,
    "experiment": TEXT,
}
"""of text everything else is allowed, or not known before the work begins."""
CALLED = {"data.name": "data set", "method.estimator": "estimator"}
"""in a message, where it is not the name of the option."""
ALLOWED = re.compile("allowed|known|needed|needs|expected one of|error parsing|invalid|helptext", re.I)


class Began(BaseException):
    """The work began."""


# What is typed


def options(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, type) of every option of a dataclass that takes a value, as group.name."""
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from options(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def bad(name: str, hint: Any) -> tuple[str, ...]:
    """The values that an option of this name and type does not allow."""
    if hint in (str, pathlib.Path):
        return BAD_TEXT.get(name, ())
    if hint is bool:
        return ()
    if hint is int:
        seed, least = name.endswith("seed"), LEAST.get(name, 1)
        most = (str(2**32), str(2**63)) if seed else TOO_MANY
        return (str(least - 1), "-1", *most, *NO_WHOLE_NUMBER)
    if hint is float:
        return NOT_POSITIVE
    if typing.get_origin(hint) is Literal:
        return ("0", "nan", *TEXT)
    parts = [each for each in typing.get_args(hint) if each not in (types.NoneType, ...)]
    sets = [set(bad(name, each)) for each in parts]
    return tuple(sorted(set.intersection(*sets)))


def lines() -> Iterator[tuple[str, list[str], str]]:
    """(program, words, the option that they give a value that is not allowed)."""
    for preset in PRESETS:
        for name, hint in options(Preset):
            # Whether an estimator is known is said when the data are read, and not every data set is there.
            if name != "name" and (hint is not str or preset in ("sinusoid", "digits")):
                for value in bad(name, hint):
                    yield "jaxmaml", ["train", preset, *_given(name, value)], name
    for name, hint in options(Options):
        if name == "target":
            for value in (*TEXT, "x:", ":x", "x:y"):
                yield "jaxmaml", ["advise", value], "preset|module|target"
        else:
            for value in bad(name, hint):
                yield "jaxmaml", ["advise", "digits", *_given(name, value)], name
    yield "jaxmaml", ["advise", "digits", "--steps", "2"], "steps"
    for name, hint in options(executors.Options):
        executor = {"scheduler": "dask"}.get(name, "slurm" if name.startswith("slurm") else "loky")
        there = [] if name == "executor" else ["--executor", executor]
        for value in bad(name, hint):
            for command in ("run", "reproduce"):
                yield "experiments", [command, *there, *_given(name, value)], name
    for command in ("run", "plot", "report", "reproduce", "head-to-head"):
        for value in ("0", "nan", *TEXT):
            yield "experiments", [command, "--scale", value], "scale"
    for command in ("run", "plot", "reproduce"):
        for value in BAD_TEXT["experiment"]:
            yield "experiments", [command, "--experiment", value], "experiment"
    for value in bad("chunk_cells", int):
        yield "experiments", ["run", "--chunk-cells", value], "chunk_cells"
    yield "experiments", ["head-to-head", "--path", ""], "path"
    for program, known in (("jaxmaml", command_line.COMMANDS), ("experiments", dict.fromkeys(COMMANDS))):
        for value in TEXT:
            yield program, [value], value or "subcommands"
        for command in known:
            target = ["digits"] * (command in ("train", "advise"))
            yield program, [command, *target, "--no-such-option", "1"], "no-such-option"
            yield program, [command, *target, "one-word-more"], "one-word-more"


COMMANDS = ("run", "plot", "report", "reproduce", "list", "head-to-head")


def _given(name: str, value: str) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}"]


# What is answered


def answered(program: str, words: list[str]) -> tuple[object, str]:
    """(exit status, what was said on stderr); the status is "began" where the work would have begun."""
    main: Callable[[], int] = {"jaxmaml": command_line.main, "experiments": __main__.main}[program]
    said = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [program, *words]),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            status: object = main()
        except SystemExit as stop:
            status = stop.code
        except Began:
            status = "began"
        except Exception as error:
            status = f"{type(error).__name__}: {error}"
    return status, said.getvalue()


def wrong(status: object, said: str, name: str) -> str:
    """Right are status 2 and one line, or the box of the parser, with the option and what is allowed."""
    if status != 2:
        return f"exit status {status}, not 2"
    if "Traceback" in said:
        return "a traceback"
    ours = said.startswith("error: ")
    if ours and said.count("\n") != 1:
        return "more than one line"
    names = f"{name}|{CALLED.get(name, name)}".replace("_", "[-_]")
    if not re.search(rf"(?<![\w.])({names})\b", said):
        return "the option is not named"
    if not ALLOWED.search(said):
        return "what is allowed is not said"
    return ""


def began(*_: object, **__: object) -> None:
    raise Began


@contextlib.contextmanager
def without_work(folder: pathlib.Path) -> Iterator[None]:
    """In the folder, with `Began` in place of training, measuring, sweeping, drawing and starting workers."""
    import distributed
    import loky

    here, shown = pathlib.Path.cwd(), warnings.formatwarning
    nothing = lambda *_, **__: None  # noqa: E731
    work = [(loop.store, "opened"), (measure, "constants"), (head_to_head, "run")]
    work += [(pipeline, name) for name in ("run", "plot", "report")]
    work += [(loky, "get_reusable_executor"), (distributed, "Client")]
    # What is set before JAX starts; here it has.
    done = [(command_line, "configure"), (__main__, "configure"), (sweep, "prepare_devices")]
    os.chdir(folder)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, {"COLUMNS": "300"}))
            for module, name in work:
                stack.enter_context(mock.patch.object(module, name, began))
            for module, name in done:
                stack.enter_context(mock.patch.object(module, name, nothing))
            yield
    finally:
        os.chdir(here)
        warnings.formatwarning = shown


def bad_command_lines(folder: pathlib.Path) -> Iterator[str]:
    """Every option of every command with values that are not allowed: one line names the option and what is
    allowed, the exit status is 2, and no work begins."""
    (folder / FILE).touch()
    (folder / FOLDER).mkdir()
    with without_work(folder):
        for program, words, name in lines():
            status, said = answered(program, words)
            text = wrong(status, said, name)
            yield f"{program} {' '.join(words)!r}: {text}: {said.strip()[:300]}" if text else ""
        for words in (["train", "digits"], ["advise", "digits"]):
            status, said = answered("jaxmaml", words)
            yield "" if status == "began" else f"{words}, which is allowed, began no work: {status}, {said}"
