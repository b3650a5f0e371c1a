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
from jaxmaml.training import outer, store
from jaxmaml.training import problem as problems
from jaxmaml.training.outer import State, TrainingProblem
from jaxmaml.training.presets import Preset
from jaxmaml.types import PyTree

TASKS = 3
CLASSES = 5
"""of a task that support images are shown of."""
QUERIES = 4
"""images of a task that predictions are shown of."""
FEW = 12
"""evaluations of which each is marked."""


def draw(where: pathlib.Path, preset: Preset, problem: TrainingProblem, state: State) -> list[pathlib.Path]:
    """learning_curve and gallery as SVG and PDF in the run's folder; the SVG files' paths."""
    curve = store.read(where).table()
    made = []
    with plotting.style():
        for name, figure in (
            ("learning_curve", learning_curve(preset, problem.unit, curve)),
            ("gallery", gallery(preset, problem, state)),
        ):
            plotting.save(figure, plotting.files(where, name))
            made.append(where / f"{name}.svg")
    return made


def learning_curve(preset: Preset, unit: str, curve: pd.DataFrame) -> Figure:
    """Loss and accuracy, or error, on test tasks during training, before adaptation and after inner steps.

    Bands are 95 % intervals of the mean over the episodes.
    """
    chance = unit == "accuracy"
    # The measure of a regression is its loss.
    figure, axes = plotting.panels(2 if chance else 1, height=2.7)
    for j, (steps, rows) in enumerate(curve.groupby("inner_steps")):
        look, name = _look(j), steps_text(steps, preset)
        look["markevery"] = max(len(rows) // FEW, 1)
        if chance:
            axes[0].plot(rows.step, rows.loss, label=name, **look)
        axes[-1].plot(rows.step, rows.value, label=name, **look)
        band = {"alpha": 0.2, "linewidth": 0, "color": look["color"], "label": f"_{name}"}
        axes[-1].fill_between(rows.step, rows.low, rows.high, **band)
    for axis in axes:
        axis.set_xlabel("outer steps [1]")
    if chance:
        axes[0].set_ylabel("query loss [nats]")
        axes[1].set(ylabel="query accuracy [1]", ylim=(0, 1.02))
        axes[1].axhline(1 / preset.data.ways, **plotting.theory("exact"), label="chance, exact")
    else:
        axes[0].set(ylabel=f"query {unit} [squared units of y]", yscale="log")
    n = int(curve.n.iloc[-1])
    title = f"{title_of(preset)}\n{n} fixed test episodes, bands are 95 % intervals of the mean"
    return plotting.finish(figure, title, columns=4)


def _look(place: int) -> dict[str, Any]:
    """Of the place-th number of inner steps: none is hollow."""
    return plotting.neutral(place, hollow=place == 0)


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
    """Predictions on the first test tasks, before and after adaptation to a few of their samples."""
    key = jax.random.key(preset.evaluation.seed)
    if preset.data.name == "sinusoid":
        return _waves(preset, problem, state, key)
    return _images(preset, problem, state, key)


def _waves(preset: Preset, problem: TrainingProblem, state: State, key: jax.Array) -> Figure:
    tasks = min(TASKS, preset.evaluation.episodes)
    figure, axes = plotting.panels(tasks, height=2.3, sharey=True)
    episodes = problem.test.episodes(key, preset.evaluation.episodes)
    waves = problem.test.waves(key, preset.evaluation.episodes)  # type: ignore[attr-defined]
    x = jnp.linspace(-5, 5, 201)[:, None]
    for task, axis in enumerate(axes):
        support = jax.tree.map(lambda a, t=task: a[t], episodes.inner)
        wave = jax.tree.map(lambda a, t=task: a[t], waves)
        axis.plot(x[:, 0], wave(x)[:, 0], label="the task, exact", **plotting.theory("exact"))
        for j, (steps, w) in enumerate(_adapted(preset, problem, state, support).items()):
            curve = _look(j) | {"markevery": 25}
            axis.plot(x[:, 0], problem.apply(w, x)[:, 0], label=steps_text(steps, preset), **curve)
        given: dict[str, Any] = {"color": plotting.INK, "marker": "x", "markersize": 6, "linestyle": "none"}
        axis.plot(support[0][:, 0], support[1][:, 0], label="support", **given)
        axis.set(xlabel="x [units of x]", title=f"test task {task + 1}")
    axes[0].set_ylabel("y [units of y]")
    return plotting.finish(figure, f"{title_of(preset)}: predictions", columns=3)


def _images(preset: Preset, problem: TrainingProblem, state: State, key: jax.Array) -> Figure:
    """A row a task: one support image of each class, then query images; under each what is predicted."""
    ways = min(preset.data.ways, CLASSES)
    shown = min(QUERIES, ways * (preset.evaluation.query or preset.data.query))
    tasks = min(TASKS, preset.evaluation.episodes)
    counts = problems.recipe(preset).counts
    figure, axes = plotting.panels(ways + 1 + shown, tasks, height=1.05 + 0.16 * len(counts))
    episodes = problem.test.episodes(key, preset.evaluation.episodes)
    rng = np.random.default_rng(0)
    for task in range(tasks):
        support, query = (
            jax.tree.map(lambda a, t=task: np.asarray(a[t]), batch)
            for batch in (episodes.inner, episodes.outer)
        )
        row = axes[task * (ways + 1 + shown) : (task + 1) * (ways + 1 + shown)]
        for label in range(ways):
            _image(row[label], support[0][np.argmax(support[1] == label)], f"class {label + 1}")
        chosen = rng.permutation(len(query[1]))[:shown]
        row[ways].axis("off")
        row[ways].set_box_aspect(1)  # as large as an image: their lines are level
        for axis, j in zip(row[ways + 1 :], chosen, strict=True):
            _image(axis, query[0][j], f"is {query[1][j] + 1}")
        for line, (steps, w) in enumerate(_adapted(preset, problem, state, support).items()):
            predicted = np.argmax(np.asarray(problem.apply(w, query[0])), axis=1)
            right = predicted == query[1]
            _below(row[ways], line, f"{steps}: {100 * np.mean(right):.0f} %", "0.2")
            for axis, j in zip(row[ways + 1 :], chosen, strict=True):
                color = plotting.INK if right[j] else plotting.SHADES[1]
                _below(axis, line, f"{predicted[j] + 1}", color, bold=not right[j])
    title = (
        f"{title_of(preset)}\nA row a test task: a support image of each class, then query images with the "
        f"class predicted after {_listed(counts)} inner steps (wrong ones bold), and the accuracy on all "
        f"queries. Trained with {steps_text(preset.inner.steps)}."
    )
    return plotting.finish(figure, title)


def _adapted(preset: Preset, problem: TrainingProblem, state: State, batch: PyTree) -> dict[int, PyTree]:
    """Parameters before and after, by the numbers of inner steps of training and of evaluations."""
    recipe = problems.recipe(preset)
    value, alpha = problem.loss, outer.alpha_of(recipe, state)
    return {k: outer.adapted(value, state.params, alpha, recipe.inner, batch, k) for k in recipe.counts}


def _image(axis: Axes, image: np.ndarray, text: str) -> None:
    if image.shape[2] == 3:
        axis.imshow(image)
    else:
        axis.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.set_title(text, fontsize=8)
    for spine in axis.spines.values():
        spine.set(visible=True, color="0.2")


def _below(axis: Axes, line: int, text: str, color: str, bold: bool = False) -> None:
    """A line of text under a panel."""
    axis.annotate(
        text,
        (0.5, 0),
        (0, -3 - 10 * line),
        "axes fraction",
        "offset points",
        ha="center",
        va="top",
        fontsize=8,
        color=color,
        weight="bold" if bold else "normal",
    )


def _listed(counts: tuple[int, ...]) -> str:
    *first, last = map(str, counts)
    return f"{', '.join(first)} and {last}"


def steps_text(steps: int, preset: Preset | None = None) -> str:
    """Of a preset: whether it was trained with so many."""
    trained = ", as in training" if preset is not None and steps == preset.inner.steps else ""
    if steps == 0:
        return "before adaptation"
    return f"{steps} inner step{'' if steps == 1 else 's'}{trained}"
