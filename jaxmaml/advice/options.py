"""What `advise` can be asked: its options, which the command line shows and checks before JAX is imported."""

import importlib.util
import pathlib
from dataclasses import dataclass
from typing import Literal

import tyro

from jaxmaml.names import nearest
from jaxmaml.paths import check_file, check_path
from jaxmaml.training.presets import PRESETS

FORMATS = (".svg", ".pdf", ".png")


@dataclass(frozen=True)
class Options:
    """What `advise` can be asked."""

    target: tyro.conf.Positional[str]
    """a training preset, or package.module:function, which takes no arguments and returns a
    jaxmaml.measure.Problem (the current folder is searched too)."""
    alpha: float | None = None
    """inner rate; None: the preset's, else the largest for which all theorems are derived, 1/(10 L)."""
    inner_steps: int | None = None
    """inner steps of what is measured; None: the preset's, else 1. The theorems are about one."""
    epsilon: float | None = None
    """gradient norm to reach; None: no target (the theorems' numbers are for a tenth of ||grad F(w0)||)."""
    gap: float | None = None
    """Delta = F(w0) - inf F; None: bounded by F(w0) where the loss is not negative."""
    tasks: int | None = None
    """tasks of a step (B); None: the preset's, else 20, or as many as there are."""
    D_in: int | None = None
    """samples of the inner gradient; None: the preset's, else 10."""
    D_h: int | None = None
    """samples of the Hessian; None: the preset's, else 10."""
    D_o: int | None = None
    """samples of the outer gradient; None: the preset's, else 10."""
    quick: tyro.conf.DisallowNone[bool | None] = None
    """fewer searches, draws, pools and samples; None: for a preset with a convolutional network."""
    steps: int | None = None
    """steps that are drawn to measure how far the estimators differ; None: 48, quick 12."""
    outer_steps: int | None = None
    """outer steps of the run that is planned, of maml with the batches in force; None: the preset's, else
    1000."""
    price: Literal["time", "gradients"] = "time"
    """what methods are given equally much of: time as measured here, or gradients of samples."""
    pilot: int | None = None
    """outer steps of the pilots, at whose end the methods are compared; None: 200, quick 20, and no more than
    are planned."""
    task_chunk: int | None = None
    """tasks vectorised together; None: the preset's, else all of them."""
    path: str | None = None
    """preset: folder with the files of its data set."""
    pools: int | None = None
    """preset: tasks drawn from its distribution, and taken for all there are; None: 24, quick 5."""
    pool: int | None = None
    """preset: samples of each of them, as far as there are; None: 120, quick 10."""
    seed: int = 0
    """of every draw, from 0 to 2^32 - 1."""
    precision: Literal["float32", "float64"] | None = None
    """None: the preset's, else float32."""
    evidence: bool = False
    """print what the verdict rests on as well: constants, theory, differences, costs."""
    figure: str | None = None
    """draw the errors of the methods against the planned steps to this file (.svg, .pdf or .png)."""
    json: str | None = None
    """write the advice, with its evidence, to this file as well."""


def check(options: Options) -> None:
    """One clear error for numbers out of range; called before anything is computed."""
    for name in ("json", "figure"):
        if getattr(options, name) is not None:
            check_file(name, getattr(options, name))
    if options.figure is not None and pathlib.Path(options.figure).suffix not in FORMATS:
        raise ValueError(f"figure = {options.figure!r}; allowed: a name that ends in {', '.join(FORMATS)}")
    if options.figure is not None and importlib.util.find_spec("matplotlib") is None:
        raise ImportError("a figure needs matplotlib: pip install matplotlib")
    if options.path is not None:
        check_path("path", options.path)
    if ":" in options.target and options.path is not None:
        raise ValueError(f"path = {options.path!r}; allowed: with a preset")
    if ":" in options.target and "" in options.target.split(":", 1):
        raise ValueError(f"target = {options.target!r}; allowed: a preset, or package.module:function")
    if ":" not in options.target and options.target not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        hint = nearest(options.target, PRESETS)
        raise ValueError(
            f"unknown preset {options.target!r}; known: {known}, or your own package.module:function.{hint}"
        )
    from jaxmaml.checks import check_positive, check_seed, check_step_count

    for name in ("alpha", "epsilon", "gap"):
        if getattr(options, name) is not None:
            check_positive(name, getattr(options, name))
    check_seed("seed", options.seed)
    least = {"steps": 3, "pools": 2, "pool": 2}
    for name in (
        "tasks",
        "D_in",
        "D_h",
        "D_o",
        "inner_steps",
        "steps",
        "outer_steps",
        "pilot",
        "task_chunk",
        "pools",
        "pool",
    ):
        if getattr(options, name) is not None:
            check_step_count(name, getattr(options, name), least.get(name, 1))


def precision(options: Options) -> Literal["float32", "float64"]:
    """float32 or float64, before anything of the target is imported or built."""
    preset = PRESETS.get(options.target)
    return options.precision or (preset.precision if preset else "float32")
