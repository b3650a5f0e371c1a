"""Every figure, in print and 400 pixels across: nothing cut off, no text upon text, no data covered."""

import dataclasses
import re
from types import SimpleNamespace

import figure_checks
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from experiments import claims, head_to_head_figures, pipeline
from experiments.story import STORIES
from jaxmaml import plotting
from jaxmaml.data.sinusoid import Wave
from jaxmaml.training import figures
from jaxmaml.training import problem as problems
from jaxmaml.training.presets import PRESETS, Inner
from jaxmaml.types import Episode

mpl.use("Agg")
HEAD_TO_HEAD = pipeline.ROOT / "head_to_head"
TABLES = pipeline.ROOT / "tables"


def check(figure):
    """Both sizes; the narrow one last, for it lays the figure out anew."""
    assert not figure_checks.complaints(figure)
    assert not figure_checks.complaints(figure, figure_checks.narrow(figure))


@pytest.fixture(autouse=True)
def style():
    with plotting.style():
        yield


@pytest.mark.parametrize("name", claims.claims())
def test_of_a_claim(name):
    check(claims.get(name).draw(pd.read_csv(TABLES / f"{name}.csv")))


@pytest.mark.parametrize("story", STORIES.values(), ids=list(STORIES))
def test_of_a_story(story):
    check(story.draw({name: pd.read_csv(TABLES / f"{name}.csv") for name in story.tables}))


def test_of_a_violated_condition():
    """The longest title of a panel."""
    table = pd.read_csv(TABLES / "noisy_line.csv")
    check(claims.get("noisy_line").draw(table.assign(violated="alpha, alpha (derived)")))


def head_to_head(name):
    return pd.read_csv(HEAD_TO_HEAD / f"{name}.csv")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: head_to_head_figures.methods(head_to_head("curves")),
        lambda: head_to_head_figures.budgets(head_to_head_figures.on_test_tasks(head_to_head("summary"))),
        lambda: head_to_head_figures.theory_step(head_to_head("theory"), head_to_head("curves")),
    ],
    ids=["methods", "budgets", "theory_step"],
)
def test_of_the_head_to_head(draw):
    check(draw())


@pytest.mark.parametrize("name", PRESETS)
def test_learning_curve(name):
    preset = PRESETS[name]
    unit = "mean squared error" if preset.data.name == "sinusoid" else "accuracy"
    rows = [
        (steps, step, 1 / (1 + step), value, value - 0.1, value + 0.1, 1000)
        for steps in (0, *preset.evaluation.steps)
        for step, value in ((0, 0.3), (35_000, 0.6), (70_000, 0.8))
    ]
    curve = pd.DataFrame(rows, columns=["inner_steps", "step", "loss", "value", "low", "high", "n"])
    figure = figures.learning_curve(preset, unit, curve)
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"before adaptation", figures.steps_text(preset.inner.steps, preset)} <= named
    check(figure)


@pytest.mark.parametrize("name", PRESETS)
def test_gallery(name, monkeypatch):
    """With parameters that are not adapted; what is drawn is made up."""
    preset, rng = PRESETS[name], np.random.default_rng(0)
    monkeypatch.setattr(figures.outer, "adapted", lambda *_: None)
    monkeypatch.setattr(figures.outer, "alpha_of", lambda *_: None)
    if preset.data.name == "sinusoid":
        batch = (rng.uniform(-5, 5, (figures.TASKS, 10, 1)), rng.uniform(-5, 5, (figures.TASKS, 10, 1)))
        tasks = SimpleNamespace(waves=lambda *_: Wave(np.full(figures.TASKS, 5.0), np.zeros(figures.TASKS)))
    else:
        labels = np.tile(np.arange(preset.data.ways), (figures.TASKS, 10))
        batch = (rng.uniform(size=(*labels.shape, 28, 28, 1)), labels)
        tasks = SimpleNamespace()
    tasks.episodes = lambda *_: Episode(batch, batch, batch)

    def apply(_, x):
        return np.sin(x) if preset.data.name == "sinusoid" else rng.normal(size=(len(x), preset.data.ways))

    problem, state = SimpleNamespace(test=tasks, apply=apply, loss=None), SimpleNamespace(params=None)
    figure = figures.gallery(preset, problem, state)
    words = " ".join(text.get_text() for text in figure.findobj(mpl.text.Text)).replace("\n", " ")
    for steps in (0, preset.inner.steps, *preset.evaluation.steps):
        assert re.search(rf"\b{steps}: \d+ %|{figures.steps_text(steps, preset)}", words), steps
    check(figure)


def test_what_is_drawn_was_trained():
    """Before, after the inner steps of training, and after those of evaluations."""
    preset = dataclasses.replace(PRESETS["sinusoid"], inner=Inner(steps=3))
    assert problems.recipe(preset).counts == (0, 1, 3, 10)
    assert figures.steps_text(3, preset) == "3 inner steps, as in training"
    assert figures.steps_text(10, preset) == "10 inner steps"


class TestOfTheTest:
    """A bad figure of each kind is found, and a good one is not."""

    def figure(self):
        """A line from the lower left to the upper right, with the title of a claim."""
        figure, (axis,) = plotting.panels(1)
        axis.plot([0, 1], [0, 1], "o-", label="a line")
        return figure, axis

    def test_good(self):
        figure, axis = self.figure()
        axis.tick_params(axis="x", rotation=40)
        axis.set_xticks(np.linspace(0, 1, 9), [f"long name {i}" for i in range(9)])
        axis.text(0.7, 0.1, "beside")
        axis.legend(loc="upper left")
        check(figure)

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (lambda f, _: f.legend(["long " * 20], loc="outside lower center"), "beyond the canvas"),
            (lambda _, a: a.text(1.2, 0.5, "beyond it", in_layout=False), "'beyond it' reaches"),
            (lambda _, a: a.set_title("long " * 20), "beyond the canvas"),
            (lambda f, _: f.text(0.5, 0.99, "one text", va="top"), "'a title' and 'one text' overlap"),
            (lambda _, a: a.set_xticks([0.5, 0.52], ["left", "right"]), "'left' and 'right' overlap"),
            (lambda _, a: a.legend(loc="center"), "an axes' legend covers data"),
            (lambda _, a: a.text(0.4, 0.5, "over it"), "'over it' covers data"),
            (lambda _, a: a.text(0.95, 0.96, "."), "'.' covers data"),
            (lambda f, _: f.legend(loc="center"), "the figure's legend lies over the panel"),
        ],
        ids=lambda value: value.strip("'") if isinstance(value, str) else "",
    )
    @pytest.mark.parametrize("narrow", [False, True], ids=["print", "narrow"])
    def test_bad(self, spoil, says, narrow):
        figure, axis = self.figure()
        figure.suptitle("a title")
        spoil(figure, axis)
        found = figure_checks.complaints(figure, figure_checks.narrow(figure) if narrow else None)
        assert any(says in what for what in found), found

    @pytest.mark.parametrize("kind", ["fill_between", "scatter", "errorbar", "axvline", "bar", "imshow"])
    def test_what_is_data(self, kind):
        """A text over anything that is plotted is found."""
        figure, (axis,) = plotting.panels(1)
        x = np.linspace(0, 1, 50)
        arguments = {"axvline": (0.5,), "imshow": (np.ones((3, 3)),), "fill_between": (x, x + 1, x - 1)}
        getattr(axis, kind)(*arguments.get(kind, (x, x)), **({"yerr": 0.1} if kind == "errorbar" else {}))
        check(figure)
        axis.text(0.5, 0.5, "over it", transform=axis.transAxes, ha="center", va="center")
        assert figure_checks.complaints(figure)


class TestFinish:
    """What `plotting.finish` does for labels that do not fit as they are."""

    def test_long_texts(self):
        """Each breaks between words, never in a formula, and all is within the figure."""
        figure, axes = plotting.panels(2)
        label = "one of several words $a + b$ " * 5 + "end"
        axes[0].plot([0, 1], label=label)
        axes[1].plot([0, 1], label="short")
        for axis in axes:
            axis.set(xlabel="what is on this axis " * 3, ylabel="and on that " * 5, title="a panel " * 8)
        plotting.finish(figure, "the title of it all, " * 8, columns=5)
        check(figure)
        text = figure.legends[0].get_texts()[0].get_text()
        assert text.count("\n") == 1
        assert text.replace("\n", " ") == label
        assert text.count("$a + b$") == 5

    def test_at_most_the_columns_asked_for(self):
        figure, (axis,) = plotting.panels(1)
        for line in "abcd":
            axis.plot([0, 1], label=line)
        plotting.finish(figure, "title", columns=2)
        figure.draw_without_rendering()
        left = {round(text.get_window_extent().x0) for text in figure.legends[0].get_texts()}
        assert len(left) == 2

    @pytest.mark.parametrize(("low", "high", "labels"), [(20, 320, 4), (1e-3, 1, 4), (0.02, 0.09, 2)])
    def test_a_logarithmic_axis_has_labels_to_read_it_by(self, low, high, labels):
        figure, (axis,) = plotting.panels(1)
        axis.loglog([low, high], [1, 1e4])
        plotting.finish(figure, "title")
        shown = [t for t in axis.get_xticks() if low <= t <= high]
        assert len(shown) == labels
        check(figure)
