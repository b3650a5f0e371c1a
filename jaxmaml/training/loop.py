"""The training run: intervals of compiled outer steps, each followed by an evaluation and a checkpoint."""

import contextlib
import pathlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

import jax
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxmaml import statistics
from jaxmaml.training import problem as problems
from jaxmaml.training import store
from jaxmaml.training.presets import Preset
from jaxmaml.training.problem import Functions, State, TrainingProblem

STOPPED = 143
"""exit status after SIGTERM, as shells have it."""


def train(preset: Preset, *, quiet: bool = False) -> int:
    """Runs a preset to its last step, from its checkpoint if there is one; returns the exit status.

    Every evaluation.every steps: evaluation on the fixed episodes, curve.csv, a checkpoint. SIGTERM is
    heeded there; a kill loses what came after the last one. A resumed run is bitwise equal to an
    uninterrupted one, since every draw is a function of the seed and the step.
    """
    problems.check_preset(preset)
    where = store.folder(preset)
    problem = problems.build(preset)
    functions = problems.functions(preset, problem, problems.devices(preset))
    console = Console(highlight=False, soft_wrap=True, quiet=quiet)
    with store.Store(where, preset) as kept, _terminated() as stop, _bar(console, quiet) as bar:
        state, curve = kept.resume(functions.start())
        begun = int(state.step)
        if begun > preset.outer.steps:
            raise ValueError(f"outer.steps = {preset.outer.steps}; allowed: >= {begun}, where {where} stands")
        console.print(f"{preset.name}: {where}" + (f", going on from step {begun}" if begun else ""))
        job = bar.add_task("", total=preset.outer.steps, completed=begun)
        clock = _Clock(curve)
        if curve.empty:
            curve = _evaluate(functions, problem, state, curve, 0.0)
            kept.save(state, curve)
        compiled = functions.advance.lower(state, preset.outer.steps, problem.training).compile()
        while int(state.step) < preset.outer.steps and not stop:
            at = int(state.step)
            every = preset.evaluation.every
            until = min(preset.outer.steps, (at // every + 1) * every)
            with clock:
                state = jax.block_until_ready(compiled(state, until, problem.training))
            if not _finite(state.params):
                raise FloatingPointError(
                    f"parameters are not finite after step {until} (finite at {at}); try a smaller "
                    f"inner.alpha or outer.rate; the state of step {at} is kept in {where}"
                )
            curve = _evaluate(functions, problem, state, curve, clock.seconds)
            kept.save(state, curve)
            bar.update(job, completed=until, description=_line(problem, curve, (until - at) / clock.last))
    last = curve[curve.step == curve.step.max()]
    for row in last.itertuples():
        console.print(
            f"step {row.step}, {row.inner_steps} inner steps: {problem.unit} {row.value:.4f} "
            f"[{row.low:.4f}, {row.high:.4f}] (95 %, n = {row.n}), loss {row.loss:.4f}"
        )
    if int(state.step) < preset.outer.steps:
        console.print(f"stopped at step {int(state.step)}; the same command goes on from there")
        return STOPPED
    if not quiet:
        _draw(where, preset, problem, state)
    return 0


def _evaluate(
    functions: Functions,
    problem: TrainingProblem,
    state: State,
    curve: pd.DataFrame,
    seconds: float,
) -> pd.DataFrame:
    """The curve with a row for each number of inner steps."""
    rows = []
    for inner_steps, (losses, values) in functions.measure(state, problem.test).items():
        found = statistics.interval(np.asarray(values, float))
        step = int(state.step)
        gradients = functions.gradients_a_step * step
        loss = float(np.mean(np.asarray(losses, float)))
        measured = (found.mean, found.low, found.high, found.n)
        rows.append([step, inner_steps, seconds, gradients, loss, *measured])
    new = pd.DataFrame(rows, columns=list(store.CURVE))
    return new if curve.empty else pd.concat([curve, new], ignore_index=True)


def _draw(where: pathlib.Path, preset: Preset, problem: TrainingProblem, state: State) -> None:
    from jaxmaml.training import figures

    for path in figures.draw(where, preset, problem, state):
        print(path)


def _line(problem: TrainingProblem, curve: pd.DataFrame, rate: float) -> str:
    row = curve.iloc[-1]
    return f"loss {row.loss:.3f}  {problem.unit} {row.value:.3f}  {rate:.0f} steps/s"


def _finite(tree: object) -> bool:
    return all(bool(np.all(np.isfinite(np.asarray(x)))) for x in jax.tree.leaves(tree))


class _Clock:
    """Seconds of training, without compiling and evaluating, over all sittings of a run."""

    def __init__(self, curve: pd.DataFrame) -> None:
        self.seconds = 0.0 if curve.empty else float(curve.seconds.iloc[-1])
        self.last = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.last = time.perf_counter() - self._started
        self.seconds += self.last


@contextlib.contextmanager
def _terminated() -> Iterator[list[int]]:
    """A list that SIGTERM fills; the signal does nothing else until the block ends."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGTERM, before)


def _bar(console: Console, quiet: bool) -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
