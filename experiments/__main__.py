"""Command line: python -m experiments run | plot | report | reproduce | list | train | head-to-head | advise.

Every start is quick: what is imported here needs neither JAX nor pandas, and each command imports the rest
when its arguments are known to be good.
"""

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import claims
from experiments.advice.options import Options, check, precision
from experiments.training.presets import DESCRIPTIONS, PRESETS, Preset

Scale = Literal["smoke", "default", "full"]
Experiment = Annotated[str, tyro.conf.arg(help="a claim's name (see `list`), or all")]


def run(scale: Scale = "default", experiment: Experiment = "all", chunk_cells: int | None = None) -> None:
    """Run the sweeps that are not on disk yet, measure, and judge.

    Args:
      scale: how many cells, seeds and steps.
      chunk_cells: cells in one call of a program; a killed sweep loses at most this many.
    """
    claims.select(experiment)
    prepare_devices()
    from experiments import pipeline

    started = time.perf_counter()
    pipeline.run(scale, pipeline.select(experiment), chunk_cells)
    print(f"total: {time.perf_counter() - started:.0f} s")


def plot(scale: Scale = "default", experiment: Experiment = "all") -> None:
    """Draw the figures from the tables."""
    claims.select(experiment)
    from experiments import pipeline

    pipeline.plot(scale, pipeline.select(experiment))


def report(scale: Scale = "default") -> None:
    """Collect the ledger of claims and print it."""
    from experiments import pipeline

    pipeline.report(scale)


def reproduce(scale: Scale = "default", experiment: Experiment = "all") -> None:
    """Run, plot and report, in one process."""
    run(scale, experiment)
    plot(scale, experiment)
    report(scale)


def list_() -> None:
    """Name every claim with its statement."""
    for name, title in claims.titles().items():
        print(f"{name:20s} {title}")


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
    configure(float64=preset.precision == "float64")
    from experiments.training import loop

    return loop.train(preset)


def head_to_head(scale: Literal["smoke", "default"] = "default", path: str | None = None) -> None:
    """Train every method on real data, under equal steps, gradient evaluations and seconds.

    Args:
      scale: smoke takes two settings, few steps and few episodes.
      path: folder of the Omniglot zip files.
    """
    configure(float64=False)
    from experiments.training import head_to_head as training
    from experiments.training import head_to_head_figures as figures

    for made in figures.draw(training.run(scale, path)):
        print(made)


def advise(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Measure a problem, and advise on the method, alpha, delta, batches and the outer step.

    One to seven minutes on 2 cores, by the preset. docs/advise.md says how to read what is printed.
    """
    check(options)
    configure(float64=precision(options) == "float64")
    from experiments import advise as advice
    from experiments.advice import text

    found = advice.advise(options, say=lambda stage: print(f"{stage} ...", file=sys.stderr))
    print(text.text(found))
    if options.json:
        advice.write(found, options.json)


def prepare_devices() -> None:
    """float64, and one CPU device a core for the cells of a sweep."""
    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    configure(float64=True)


def configure(float64: bool) -> None:
    """The precision, and compiled programs kept on disk.

    Matrix products have the full precision of their type; without this, GPUs round float32 to 11 bits
    (docs/gpu.md).
    """
    import jax

    jax.config.update("jax_enable_x64", float64)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_compilation_cache_dir", os.path.abspath(".cache/jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def main() -> int:
    commands: dict[str, Any] = {"run": run, "plot": plot, "report": report, "reproduce": reproduce}
    commands |= {"list": list_, "train": train, "head-to-head": head_to_head, "advise": advise}
    try:
        status: int | None = tyro.extras.subcommand_cli_from_dict(commands, prog="python -m experiments")
    except (ValueError, FileNotFoundError, ImportError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
