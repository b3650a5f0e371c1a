"""Figures of one run: the learning curve, and a gallery of predictions on test tasks after adaptation."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmaml import plotting
from jaxmaml.training import problem as problems
from jaxmaml.training import store
from jaxmaml.training.presets import Preset
from jaxmaml.training.problem import State, TrainingProblem

SHADES = ("0.6", "#0072B2", "#D55E00", "#009E73")
"""by number of inner steps: none in grey, then colours that stay apart for the colour-blind."""
DASHES = (":", "-", "--", "-.")
TASKS = 3


def draw(where: pathlib.Path, preset: Preset, problem: TrainingProblem, state: State) -> list[pathlib.Path]:
    """learning_curve and gallery as SVG and PDF in the run's folder; the SVG files' paths."""
    curve = store.read(where).table()
    made = []
    with plotting.style():
        for name, figure in (
            ("learning_curve", learning_curve(preset, problem.unit, curve)),
            ("gallery", gallery(preset, problem, state)),
        ):
            plotting.save(figure, [where / f"{name}.{kind}" for kind in ("svg", "pdf")])
            made.append(where / f"{name}.svg")
    return made


def learning_curve(preset: Preset, unit: str, curve: pd.DataFrame) -> Figure:
    """Loss and measure on the test episodes against outer steps, by number of inner steps."""
    chance = unit == "accuracy"
    # The measure of a regression is its loss.
    figure, axes = plotting.panels(2 if chance else 1, width=plotting.WIDTH * (1 if chance else 1.6))
    for j, (steps, rows) in enumerate(curve.groupby("inner_steps")):
        look: dict[str, Any] = {"color": SHADES[j % 4], "linestyle": DASHES[j % 4]}
        if chance:
            axes[0].plot(rows.step, rows.loss, **look)
        axes[-1].plot(rows.step, rows.value, label=steps_text(steps), **look)
        axes[-1].fill_between(rows.step, rows.low, rows.high, alpha=0.2, linewidth=0, color=look["color"])
    if chance:
        axes[0].set(xlabel="outer steps", ylabel="query loss (nats)")
        axes[1].set(xlabel="outer steps", ylabel="query accuracy", ylim=(0, 1.02))
        axes[1].axhline(1 / preset.data.ways, color="0.4", linewidth=0.8, label="chance")
    else:
        axes[0].set(xlabel="outer steps", ylabel=f"query {unit} (squared units of y)", yscale="log")
    n = int(curve.n.iloc[-1])
    title = f"{title_of(preset)}\n{n} fixed test episodes, bands are 95 % intervals of the mean"
    return plotting.finish(figure, title, columns=4)


def title_of(preset: Preset) -> str:
    """What was trained, in a line."""
    data, method = preset.data, plotting.label(preset.method.estimator)
    if data.name == "sinusoid":
        return f"Sinusoid, {data.support}-shot, {method}"
    names = {"fashion_mnist": "Fashion-MNIST", "cifar_fs": "CIFAR-FS", "mini_imagenet": "miniImageNet"}
    name = names.get(data.name, data.name.capitalize())
    transductive = preset.model.kind == "conv4" and preset.model.norm == "task"
    note = " (transductive)" if transductive else ""
    return f"{name}, {data.ways}-way {data.support}-shot, {method}{note}"


def gallery(preset: Preset, problem: TrainingProblem, state: State) -> Figure:
    """Predictions on the first test episodes, before and after adaptation."""
    key = jax.random.key(preset.evaluation.seed)
    if preset.data.name == "sinusoid":
        return _waves(preset, problem, state, key)
    return _images(preset, problem, state, key)


def _waves(preset: Preset, problem: TrainingProblem, state: State, key: jax.Array) -> Figure:
    tasks = min(TASKS, preset.evaluation.episodes)
    figure, axes = plotting.panels(tasks)
    episodes = problem.test.episodes(key, preset.evaluation.episodes)
    waves = problem.test.waves(key, preset.evaluation.episodes)  # type: ignore[attr-defined]
    x = jnp.linspace(-5, 5, 201)[:, None]
    for task, axis in enumerate(axes):
        support = jax.tree.map(lambda a, t=task: a[t], episodes.inner)
        wave = jax.tree.map(lambda a, t=task: a[t], waves)
        axis.plot(x[:, 0], wave(x)[:, 0], color="#000000", linewidth=0.8, label="the task")
        for j, steps in enumerate((0, *preset.evaluation.steps)):
            w = problems.adapted(preset, problem, state, support, steps)
            y = problem.apply(w, x)[:, 0]
            axis.plot(x[:, 0], y, color=SHADES[j % 4], linestyle=DASHES[j % 4], label=steps_text(steps))
        axis.plot(support[0][:, 0], support[1][:, 0], "v", color="#CC79A7", label="support")
        axis.set(xlabel="x", ylabel="y", title=f"test task {task + 1}")
    return plotting.finish(figure, f"{title_of(preset)}: predictions", columns=5)


def _images(preset: Preset, problem: TrainingProblem, state: State, key: jax.Array) -> Figure:
    """A row a task: one support image of each class, then query images with what is predicted."""
    ways = preset.data.ways
    shown = min(7, ways * (preset.evaluation.query or preset.data.query))
    steps = preset.evaluation.steps[-1]
    tasks = min(TASKS, preset.evaluation.episodes)
    figure, axes = plotting.panels(ways + shown, tasks, width=0.75)
    figure.set_figheight(0.95 * tasks + 0.6)
    episodes = problem.test.episodes(key, preset.evaluation.episodes)
    rng = np.random.default_rng(0)
    for task in range(tasks):
        support, query = (
            jax.tree.map(lambda a, t=task: np.asarray(a[t]), batch)
            for batch in (episodes.inner, episodes.outer)
        )
        w = problems.adapted(preset, problem, state, support, steps)
        predicted = np.argmax(np.asarray(problem.apply(w, query[0])), axis=1)
        row = axes[task * (ways + shown) : (task + 1) * (ways + shown)]
        for label in range(ways):
            _image(row[label], support[0][np.argmax(support[1] == label)], f"class {label + 1}", "0.2")
        for axis, j in zip(row[ways:], rng.permutation(len(query[1]))[:shown], strict=True):
            right = predicted[j] == query[1][j]
            text = f"{predicted[j] + 1}" if right else f"{predicted[j] + 1}, is {query[1][j] + 1}"
            _image(axis, query[0][j], text, "#0072B2" if right else "#D55E00", bold=not right)
    title = (
        f"{title_of(preset)}\none support image a class, then query images with the class predicted after "
        f"{steps_text(steps)} (wrong ones bold, with the true class)"
    )
    return plotting.finish(figure, title)


def _image(axis: Axes, image: np.ndarray, text: str, color: str, bold: bool = False) -> None:
    if image.shape[2] == 3:
        axis.imshow(image)
    else:
        axis.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.set_title(text, fontsize=7, color=color, fontweight="bold" if bold else "normal")
    for spine in axis.spines.values():
        spine.set(visible=True, color=color)


def steps_text(steps: int) -> str:
    return f"{steps} inner step" + ("" if steps == 1 else "s")
