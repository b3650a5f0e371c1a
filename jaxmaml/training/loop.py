"""The training run: intervals of compiled outer steps, each followed by an evaluation and a checkpoint."""

import contextlib
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxmaml import identity, statistics
from jaxmaml.training import metrics, processes, store
from jaxmaml.training import problem as problems
from jaxmaml.training.outer import Functions, Recipe, State, TrainingProblem
from jaxmaml.training.presets import Preset

STOPPED = 143
"""exit status after SIGTERM, as shells have it."""


class Diverged(FloatingPointError):
    """The parameters are not finite."""

    status = 3
    """exit status."""


def train(preset: Preset, *, quiet: bool = False) -> int:
    """Runs a preset to its last step, from its checkpoint if there is one; returns the exit status.

    Every evaluation.every steps: evaluation on the fixed episodes, a checkpoint, curve.csv. SIGTERM is
    heeded there; a kill loses what came after the last one. A resumed run is bitwise equal to an
    uninterrupted one, since every draw is a function of the seed and the step.

    Raises:
      Diverged: the parameters are not finite; the last state that was is kept.
      Further those of `store.opened`, and of `problem.build` and `problem.functions`; they write nothing.
    """
    problems.check_preset(preset)
    problem = problems.build(preset)
    functions = problems.functions(preset, problem, problems.devices(preset))
    opening = store.opened(store.folder(preset), store.of_preset(preset), code_identity(), problem.ascending)
    state, _ = run(
        problems.recipe(preset),
        problem,
        functions,
        opening,
        metrics_to=preset.metrics,
        draw=lambda where, state: _draw(where, preset, problem, state),
        quiet=quiet,
    )
    return STOPPED if int(state.step) < preset.outer.steps else 0


def run(
    recipe: Recipe,
    problem: TrainingProblem,
    functions: Functions,
    opening: contextlib.AbstractContextManager[store.Store] | None,
    *,
    metrics_to: str | None = None,
    draw: Callable[[pathlib.Path, State], None] | None = None,
    quiet: bool = False,
) -> tuple[State, pd.DataFrame]:
    """(state, curve) of the last step, or of the one where SIGTERM stopped it.

    Args:
      opening: the run's folder; None keeps nothing, and leaves SIGTERM alone.
      draw: makes the figures of a finished run.
    """
    with contextlib.ExitStack() as stack:
        kept = None
        if opening is not None:
            kept = processes.of_first(lambda: stack.enter_context(opening))
        stop = stack.enter_context(_terminated()) if opening is not None else []
        silent = quiet or not processes.is_first()
        follow = _follow(metrics_to, problem, kept)
        with _Report(recipe, problem, silent) as report:
            state, curve = _run(recipe, problem, functions, kept, stop, report, follow)
        step = int(state.step)
        report.end(step, curve, kept)
        if step < recipe.steps:
            report.say(f"stopped at step {step}; the same command goes on from there")
            return state, curve
        if draw is not None and kept is not None and not quiet:
            draw(kept.where, jax.tree.map(np.asarray, state))
        report.say(f"finished at step {step}")
    return state, curve


def code_identity() -> dict[str, str]:
    """The sums of the definitions that a run's numbers depend on."""
    return identity.code(problems.build, problems.functions, _measured)


def _run(
    recipe: Recipe,
    problem: TrainingProblem,
    functions: Functions,
    kept: store.Store | None,
    stop: list[int],
    report: "_Report",
    follow: Callable[[pd.DataFrame], None],
) -> tuple[State, pd.DataFrame]:
    """(the last state, the curve of this sitting's process); the first process has the store and keeps it."""
    state = jax.tree.map(np.asarray, functions.start())
    curve = pd.DataFrame(columns=list(store.CURVE))
    if kept is not None:
        state, curve = kept.resume(state)
    state, is_new = processes.from_first((state, np.array(curve.empty)))
    state, training, test = functions.place((state, problem.training, problem.test))
    follow(curve)
    report.begin(kept, int(state.step))
    clock = _Clock(curve)

    def evaluate(state: State, curve: pd.DataFrame) -> pd.DataFrame:
        with processes.watched():
            found = jax.tree.map(np.asarray, functions.measure(state, test))
        curve = _measured(functions, int(state.step), found, curve, clock.seconds)
        if kept is not None:
            kept.save(state, curve)
        follow(curve)
        report.evaluated(curve, clock)
        return curve

    if is_new:
        curve = evaluate(state, curve)
    compiled = functions.advance.lower(state, recipe.steps, training).compile()
    report.since = time.perf_counter(), int(state.step)
    while int(state.step) < recipe.steps and not processes.any_of(bool(stop)):
        at = int(state.step)
        until = min(recipe.steps, (at // recipe.every + 1) * recipe.every)
        with clock.counting(until - at), processes.watched():
            state = jax.block_until_ready(compiled(state, until, training))
        if not _finite(state.params):
            where = "" if kept is None else f"; the state of step {at} is kept in {kept.where}"
            raise Diverged(
                f"parameters are not finite after step {until} (finite at {at}); try a smaller "
                f"inner rate (alpha) or outer rate{where}"
            )
        curve = evaluate(state, curve)
    return state, curve


def _measured(
    functions: Functions, step: int, each: dict[int, tuple], curve: pd.DataFrame, seconds: float
) -> pd.DataFrame:
    """The curve with a row for each number of inner steps, from (loss, measure) of each episode."""
    rows = []
    for inner_steps, (losses, values) in each.items():
        found = statistics.interval(np.asarray(values, float))
        gradients = functions.gradients_a_step * step
        loss = float(np.mean(np.asarray(losses, float)))
        measured = (found.mean, found.low, found.high, found.n)
        rows.append([step, inner_steps, seconds, gradients, loss, *measured])
    new = pd.DataFrame(rows, columns=list(store.CURVE))
    return new if curve.empty else pd.concat([curve, new], ignore_index=True)


def _follow(
    path: str | None, problem: TrainingProblem, kept: store.Store | None
) -> Callable[[pd.DataFrame], None]:
    """What adds the curve's new evaluations to a file."""
    if path is None or kept is None:
        return lambda _: None
    return metrics.stream(pathlib.Path(path), kept.run, problem.unit)


def _draw(where: pathlib.Path, preset: Preset, problem: TrainingProblem, state: State) -> None:
    from jaxmaml.training import figures

    for path in figures.draw(where, preset, problem, state):
        print(path)


def _finite(tree: object) -> bool:
    return all(bool(np.all(np.isfinite(np.asarray(x)))) for x in jax.tree.leaves(tree))


class _Clock:
    """Seconds of training, without compiling and evaluating, over all sittings of a run."""

    def __init__(self, curve: pd.DataFrame) -> None:
        self.seconds = 0.0 if curve.empty else float(curve.seconds.iloc[-1])
        self.rate = np.nan
        """steps a second in the last interval."""

    @contextlib.contextmanager
    def counting(self, steps: int) -> Iterator[None]:
        started = time.perf_counter()
        yield
        taken = time.perf_counter() - started
        self.seconds += taken
        self.rate = steps / taken


class _Report:
    """What a run says: a bar on a terminal; elsewhere a line an evaluation, for logs."""

    def __init__(self, recipe: Recipe, problem: TrainingProblem, quiet: bool) -> None:
        self.console = Console(highlight=False, soft_wrap=True, quiet=quiet)
        self.say = self.console.print
        self.steps, self.unit = recipe.steps, problem.unit
        self.with_loss = problem.measure is not problem.loss
        self.inner_steps = recipe.measured[0]
        self.since = time.perf_counter(), 0
        """when the interval began, and its first step."""
        self.name = recipe.name
        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> "_Report":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def begin(self, kept: store.Store | None, step: int) -> None:
        if kept is not None:
            self.say(f"{self.name}: {kept.where}" + (f", going on from step {step}" if step else ""))
        self.job = self.bar.add_task("compiling ...", total=self.steps, completed=step)

    def evaluated(self, curve: pd.DataFrame, clock: _Clock) -> None:
        row = curve[curve.inner_steps == self.inner_steps].iloc[-1]
        text = f"loss {row.loss:.4g}, " * self.with_loss + f"{self.unit} {row.value:.4g}"
        now, step = time.perf_counter(), int(row.step)
        if step > 0:
            (then, before), self.since = self.since, (now, step)
            left = (now - then) / (step - before) * (self.steps - step)
            text += f", {clock.rate:.3g} steps/s"
            self.bar.update(self.job, completed=step, description=text)
            text += f", {_duration(left)} left"
        if not self.console.is_terminal:
            self.say(f"step {step} of {self.steps}: {text}")

    def end(self, step: int, curve: pd.DataFrame, kept: store.Store | None) -> None:
        """The last evaluation, as the last; and which was best of those that are kept, as what it is."""
        for row in curve[curve.step == step].itertuples():
            self.say(f"step {row.step}, {self._result(row)}")
        if kept is None or kept.last is None:
            return
        best = kept.last.best
        row = next(curve[(curve.step == best) & (curve.inner_steps == self.inner_steps)].itertuples())
        if best != step:
            self.say(f"best of {curve.step.nunique()} evaluations, step {best}, {self._result(row)}")

    def _result(self, row: Any) -> str:
        loss = f", loss {row.loss:.4f}" * self.with_loss
        return (
            f"{row.inner_steps} inner step{'' if row.inner_steps == 1 else 's'}: {self.unit} {row.value:.4f} "
            f"[{row.low:.4f}, {row.high:.4f}] (95 %, n = {row.n}){loss}"
        )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def _terminated() -> Iterator[list[int]]:
    """A list that SIGTERM fills; the signal does nothing else until the block ends.

    Python lets no thread but the main one say what signals do.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGTERM, before)
