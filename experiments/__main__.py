"""Command line: python -m experiments run | plot | report | reproduce | list | head-to-head | ... (--help).

The commands of `jaxmaml` (train, advise) are known here too. Every start is quick: what is imported here
needs neither JAX nor pandas, and each command imports the rest when its arguments are known to be good.
"""

import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import tyro

from experiments import claims, executors
from jaxmaml import command_line
from jaxmaml.configuration import configure
from jaxmaml.names import unknown
from jaxmaml.paths import check_folder, check_path

Scale = Literal["smoke", "default", "full"]
Experiment = Annotated[str, tyro.conf.arg(help="a claim's name (see `list`), or all")]
Where = Annotated[executors.Options, tyro.conf.arg(name="")]
HERE = executors.Options()


def run(
    scale: Scale = "default",
    experiment: Experiment = "all",
    chunk_cells: int | None = None,
    where: Where = HERE,
) -> None:
    """Run the sweeps that are not on disk yet, measure, and judge.

    Args:
      scale: how many cells, seeds and steps.
      chunk_cells: cells in one call of a program; a killed sweep loses at most this many.
    """
    claims.select(experiment)
    check_folder("results", claims.RESULTS)
    if chunk_cells is not None:
        from jaxmaml.checks import check_step_count

        check_step_count("chunk_cells", chunk_cells)
    with executors.start(where) as workers:
        from experiments import pipeline, sweep

        sweep.prepare_devices()
        started = time.perf_counter()
        pipeline.run(scale, pipeline.select(experiment), chunk_cells, workers)
    print(f"total: {time.perf_counter() - started:.0f} s")


def plot(scale: Scale = "default", experiment: Experiment = "all") -> None:
    """Draw the figures from the tables."""
    claims.select(experiment)
    check_folder("results", claims.RESULTS)
    from experiments import pipeline

    pipeline.plot(scale, pipeline.select(experiment))


def report(scale: Scale = "default") -> None:
    """Collect the ledger of claims and print it."""
    check_folder("results", claims.RESULTS)
    from experiments import pipeline

    pipeline.report(scale)


def reproduce(scale: Scale = "default", experiment: Experiment = "all", where: Where = HERE) -> None:
    """Run, plot and report."""
    run(scale, experiment, where=where)
    plot(scale, experiment)
    report(scale)


def list_() -> None:
    """Name every claim with its statement."""
    for name, title in claims.titles().items():
        print(f"{name:20s} {title}")


def head_to_head(scale: Literal["smoke", "default"] = "default", path: str | None = None) -> None:
    """Train every method on real data, under equal steps, gradient evaluations and seconds.

    Args:
      scale: smoke takes two settings, few steps and few episodes.
      path: folder of the Omniglot zip files.
    """
    check_folder("results", claims.RESULTS)
    if path is not None:
        check_path("path", path)
    configure(float64=False)
    from experiments import head_to_head as training
    from experiments import head_to_head_figures as figures

    for made in figures.draw(training.run(scale, path)):
        print(made)


def federated(scale: Literal["smoke", "default"] = "default") -> None:
    """Per-FedAvg against FedAvg with fine-tuning, on unequal clients; six minutes of one core.

    Args:
      scale: smoke takes digits alone, two seeds and few rounds.
    """
    check_folder("results", claims.RESULTS)
    configure(float64=False)
    from experiments import federated as comparison

    print(comparison.run(scale))


def advice(problem: str = "all") -> None:
    """Compare what `advise` says with what training reaches, on problems with known answers (ten minutes).

    Args:
      problem: one of them; only all of them renew results/advice.csv and the table of docs/advise.md.
    """
    check_folder("results", claims.RESULTS)
    configure(float64=True)
    from experiments import advice as against
    from experiments.advice_problems import CASES, HELD_BACK

    if problem != "all" and problem not in CASES | HELD_BACK:
        unknown("problem", problem, CASES | HELD_BACK)
    print(against.run(None if problem == "all" else [problem]))


def main() -> int:
    commands: dict[str, Callable[..., Any]] = {
        "run": run,
        "plot": plot,
        "report": report,
        "reproduce": reproduce,
        "list": list_,
        "head-to-head": head_to_head,
        "federated": federated,
        "advice": advice,
        **command_line.COMMANDS,
    }
    return command_line.answer(commands, "python -m experiments")


if __name__ == "__main__":
    sys.exit(main())
