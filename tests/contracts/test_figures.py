"""Every figure, in print and 400 pixels across: nothing cut off, no text upon text, no data covered.

And in the art direction of `jaxmaml.plotting`, with a caption.
"""

import dataclasses
import inspect
import re
from types import SimpleNamespace

import figure_checks
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from experiments import claims, federated, head_to_head_figures, pipeline
from experiments.story import STORIES
from jaxmaml import plotting, storage
from jaxmaml.advice import figure as advice
from jaxmaml.advice.rules import Error, Turn
from jaxmaml.data.sinusoid import Wave
from jaxmaml.training import figures
from jaxmaml.training import problem as problems
from jaxmaml.training.presets import PRESETS, Inner
from jaxmaml.types import Episode

mpl.use("Agg")
HEAD_TO_HEAD = pipeline.ROOT / "head_to_head"
TABLES = pipeline.ROOT / "tables"


def check(figure, draw):
    """Art direction and caption, then both sizes; the narrow one last, for it draws the figure anew."""
    assert not figure_checks.faults(figure, inspect.getdoc(draw) or "")
    fits(figure)


def fits(figure):
    assert not figure_checks.complaints(figure)
    assert not figure_checks.complaints(figure, figure_checks.narrow(figure))


@pytest.fixture(autouse=True)
def style():
    with plotting.style():
        yield


@pytest.mark.parametrize("name", claims.claims())
def test_of_a_claim(name):
    claim = claims.get(name)
    check(claim.draw(pd.read_csv(TABLES / f"{name}.csv")), claim._figure)


@pytest.mark.parametrize("story", STORIES.values(), ids=list(STORIES))
def test_of_a_story(story):
    check(story.draw({name: pd.read_csv(TABLES / f"{name}.csv") for name in story.tables}), story.draw)


def test_of_a_violated_condition():
    """The longest title of a panel."""
    table, claim = pd.read_csv(TABLES / "noisy_line.csv"), claims.get("noisy_line")
    check(claim.draw(table.assign(violated="alpha, alpha (derived)")), claim._figure)


def head_to_head(name):
    return pd.read_csv(HEAD_TO_HEAD / f"{name}.csv")


def with_nine_methods(table):
    """Three more than six: one diverges at once, one on the way, one is as good as MAML."""
    table = table[~table.method.isin(["imaml", "fo_b_maml", "reptile"])]
    maml = table[table.method == "maml"]
    numbers = [name for name in ("value", "low", "high", *table.filter(like="difference")) if name in table]
    late = maml.step > maml.step.median() if "gradients" in maml else maml.step >= 0
    more = [
        maml.assign(method="imaml"),
        maml.assign(method="fo_b_maml", **dict.fromkeys(numbers, np.nan)),
        maml.assign(method="reptile", **{name: maml[name].mask(late) for name in numbers}),
    ]
    return pd.concat([table, *more])


@pytest.mark.parametrize("change", [lambda table: table, with_nine_methods], ids=["as run", "nine methods"])
class TestHeadToHead:
    def test_methods(self, change):
        draw = head_to_head_figures.methods
        check(draw(change(head_to_head("curves"))), draw)

    def test_budgets(self, change):
        draw, of_tests = head_to_head_figures.budgets, head_to_head_figures.on_test_tasks
        check(draw(change(of_tests(head_to_head("summary")))), draw)

    def test_theory_step(self, change):
        draw = head_to_head_figures.theory_step
        check(draw(head_to_head("theory"), change(head_to_head("curves"))), draw)


def test_errors_relative_to_maml():
    """Twice the squared error, and half the wrong answers; the interval turns round with the sign."""
    rows = {
        "setting": ["sinusoid", "digits"],
        "value": [4.0, 0.9],
        "difference": [2.0, 0.1],
        "difference_low": [1.0, 0.05],
        "difference_high": [3.0, 0.15],
    }
    found = pd.DataFrame(head_to_head_figures.relative(pd.DataFrame(rows)))
    np.testing.assert_allclose(found, [[2.0, 1.5, 2.5], [0.5, 0.25, 0.75]])


def test_of_federated_learning():
    check(federated.figure(pd.read_csv(pipeline.ROOT / "federated" / "summary.csv")), federated.figure)


def test_of_the_advice(monkeypatch):
    """With numbers that are made up: a method that is out, and an inner rate that is not the one in force."""
    names = ["maml", "fo_maml", "hf_maml", "maml_same_batch"]
    differences = [SimpleNamespace(estimator=name, delta="") for name in names]

    def error(shown, point, pilot, steps, ratio):
        j = names.index(shown.estimator)
        return Error(0.02 * j, (1 + j) * 30 / steps**0.5, 100 / steps, 0.0)

    turns = (Turn(0, 1000, "fo_maml"), Turn(1000, np.inf, "maml"))
    monkeypatch.setattr(advice.rules, "error", error)
    monkeypatch.setattr(advice.rules, "turns", lambda *_: turns)
    alphas = np.geomspace(1e-3, 1, 20)
    known = SimpleNamespace(
        points=[SimpleNamespace(differences=differences)],
        pilot=SimpleNamespace(scales=dict.fromkeys(names, 1.0), out={"hf_maml": 1}),
        outer_steps=2000,
        prices={"maml": 4.0, "fo_maml": 2.0, "hf_maml": 4.2, "maml_same_batch": 3.5},
        scan=SimpleNamespace(alphas=alphas, sampled=1 + (alphas - 0.2) ** 2, whole=(alphas - 0.3) ** 2),
        alpha=0.2,
        before=0.01,
        recommendation=SimpleNamespace(limit="the scan", estimator="maml"),
    )
    check(advice.drawn(known), advice.drawn)


@pytest.mark.parametrize("folder", ["figures", "head_to_head", "federated", "tables", "verdicts", "."])
def test_sums_are_those_of_what_is_committed(folder):
    """PDFs are made beside, and have their sums beside."""
    where = pipeline.ROOT / folder
    listed = {line.split("  ")[1] for line in (where / storage.SUMS).read_text().splitlines()}
    assert not {name for name in listed if name.endswith(".pdf")}
    assert {f.name for f in where.glob("*.svg")} <= listed
    for name in listed:
        assert storage.is_sound(where / name), name
    for drawing in where.glob("*.svg"):
        # The first thing that is drawn: a white card.
        ground = re.search(
            r'<g id="patch_1">\s*<path d="([^"]*)"\s*style="fill: #ffffff"', drawing.read_text()
        )
        assert ground, drawing


def test_what_diverged_stands_at_the_edge():
    """A loss of ten times MAML's, or of the start, does not make the others a point."""
    summary = head_to_head_figures.on_test_tasks(head_to_head("summary"))
    far = summary.copy()
    there = (far.setting == "digits") & (far.method == "reptile")
    far.loc[there, ["value", "difference"]] -= 9.0  # 1 - accuracy is some 20 times MAML's
    for table, methods in ((summary, {"FO-B-MAML", "iMAML"}), (far, {"FO-B-MAML", "iMAML", "Reptile"})):
        figure = head_to_head_figures.budgets(table)
        names = {text.get_text() for text in figure.legends[0].get_texts()}
        assert {name.removesuffix(", beyond") for name in names if name.endswith(", beyond")} == methods
        assert all(axis.get_xlim()[1] < 1.3 * head_to_head_figures.BEYOND for axis in figure.axes)
    curves = head_to_head("curves")
    start = curves[(curves.setting == "sinusoid") & (curves.step == 0)].value.max()
    top = head_to_head_figures.methods(curves).axes[0].get_ylim()[1]
    assert start < top <= head_to_head_figures.BEYOND * start < curves.value.max()


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
    check(figure, figures.learning_curve)


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
    check(figure, figures.gallery)


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
        fits(figure)

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (lambda f, _: f.legend(["long " * 60], loc="outside lower center"), "beyond the canvas"),
            (lambda _, a: a.text(1.2, 0.5, "beyond it", in_layout=False), "'beyond it' reaches"),
            (lambda _, a: a.set_title("long " * 60), "beyond the canvas"),
            (lambda f, _: f.text(0.5, 0.99, "one text", va="top"), "'a title' and 'one text' overlap"),
            (lambda _, a: a.set_xticks([0.5, 0.52], ["left", "right"]), "'left' and 'right' overlap"),
            (lambda _, a: a.legend(loc="center"), "an axes' legend covers data"),
            (lambda _, a: a.text(0.48, 0.5, "over it"), "'over it' covers data"),
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
        fits(figure)
        axis.text(0.5, 0.5, "over it", transform=axis.transAxes, ha="center", va="center")
        assert figure_checks.complaints(figure)


class TestOfTheArtDirection:
    """A fault of each kind is found, and a figure without one has none."""

    CAPTION = "The gradient falls to the floor, and no further."

    def figure(self, panels=1):
        figure, axes = plotting.panels(panels)
        for axis in axes:
            look = plotting.look("fo_maml")
            axis.errorbar([0, 1], [0, 1], [0.1, 0.1], label="FO-MAML", capsize=2, **look)
            axis.fill_between([0, 1], [0, 1], alpha=0.2, color=look["color"], label="_FO-MAML")
            axis.axhline(0.5, label="bound, derived", **plotting.theory("derived", named=True))
            axis.plot([0, 1], [1, 0], label="float32", **plotting.neutral(0))
            axis.set(xlabel="steps [1]", ylabel="error [1]")
        return plotting.finish(figure, "A good figure"), axes

    def faults(self, figure, caption=CAPTION):
        return figure_checks.faults(figure, caption)

    @pytest.mark.parametrize("panels", [1, 4])
    def test_good(self, panels):
        assert not self.faults(self.figure(panels)[0])

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (lambda _, a: a.set_xlabel("steps"), "the x axis 'steps' of the panel '' has no unit"),
            (lambda _, a: a.set_ylabel(""), "the y axis '' of the panel '' has no unit"),
            (
                lambda _, a: a.plot([0, 1], color=plotting.color("maml"), label="float32"),
                "'float32' has the colour of MAML",
            ),
            (
                lambda _, a: a.axvspan(0, 1, color=plotting.color("imaml"), label="float32"),
                "has the colour of iMAML",
            ),
            (
                lambda _, a: a.text(0, 0, "float32", color=plotting.color("hf_maml")),
                "has the colour of HF-MAML",
            ),
            (
                lambda _, a: a.scatter([0], [1], color=plotting.color("maml"), label="FO-MAML"),
                "has the colour of MAML",
            ),
            (lambda _, a: a.plot([0], "o", color="0.5", label="float32"), "has the marker of MAML"),
            (lambda _, a: a.lines[-1].set_label("MAML"), "'MAML' has not the colour of MAML"),
            (
                lambda _, a: a.plot([0], color=plotting.color("maml"), marker="s", label="MAML"),
                "the marker {'s'} of another method than MAML",
            ),
            (lambda _, a: a.plot([0, 1], [0, 1], color="0.5"), "has no name that is shown: '_child"),
            (lambda _, a: a.bar([0], [1], color="0.5", label="a bar"), "has no name that is shown: 'a bar'"),
            (lambda _, a: a.tick_params(labelsize=5), "has letters of"),
            (lambda f, _: f.set_figwidth(12), "has letters of 3.7 pixels on 400; at least 6"),
            (lambda f, _: f.set_facecolor("0.9"), "the ground is not white"),
            (lambda _, a: a.patch.set_alpha(0), "the ground is not white"),
            (lambda _, a: a.set_title("two cosine tasks (c2)"), "is not in plain words"),
            (lambda f, _: f.suptitle("E21"), "is not in plain words"),
            (lambda f, _: f.suptitle(""), "no title"),
        ],
    )
    def test_bad(self, spoil, says):
        figure, (axis,) = self.figure()
        spoil(figure, axis)
        found = self.faults(figure)
        assert any(says in what for what in found), found

    def test_five_panels(self):
        assert self.faults(self.figure(5)[0]) == ["5 panels; at most 4"]

    @pytest.mark.parametrize("hidden", [False, True])
    def test_a_shared_axis_is_named_once(self, hidden):
        figure, axes = plotting.panels(2, sharey=True)
        for axis in axes:
            axis.set_xlabel("steps [1]")
        axes[0].set_ylabel("" if hidden else "error [1]")
        assert bool(self.faults(plotting.finish(figure, "title"))) == hidden

    @pytest.mark.parametrize(
        "caption",
        ["", "no end", "One. Two. Three.", "It holds on (c2).", "Row E21 fails.", "On hf_blind it fails."],
    )
    def test_bad_captions(self, caption):
        assert self.faults(self.figure()[0], caption)

    def test_names_of_methods(self):
        named = figure_checks.methods_named
        assert named("FO-MAML's floor") == {"fo_maml"}
        assert named("MAML, same\nbatch, repaired") == {"maml_same_batch"}
        assert named("HF-MAML at MAML's rate") == {"hf_maml", "maml"}
        assert not named("the FO theorem, MAMLs")


class TestNames:
    """A name stands at its line where that covers nothing, else in the legend."""

    def test_beside(self):
        figure, (axis,) = plotting.panels(1)
        axis.plot([0, 1], [0.2, 0.2], label="low", **plotting.theory("derived", named=True))
        axis.plot([0, 1], [0.8, 0.8], label="high", **plotting.theory("exact", named=True))
        plotting.finish(figure, "title")
        fits(figure)
        assert not figure.legends
        heights = {text.get_text(): text.get_position()[1] for text in axis.texts}
        assert heights["low"] < 0.5 < heights["high"]

    def test_no_room(self):
        figure, (axis,) = plotting.panels(1)
        look = plotting.theory("derived", named=True)
        axis.plot([0, 1], [0.5, 0.5], label="a name", **look)
        axis.fill_between([0, 1], [-1, -1], [2, 2], color="0.8", label="all over")
        plotting.finish(figure, "title")
        assert not axis.texts
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a name", "all over"]

    def test_an_estimator_without_a_look(self):
        look = plotting.look("mine")
        assert look["color"] not in plotting.COLORS.values()
        assert look["marker"] not in plotting.MARKERS.values()
        assert plotting.label("mine") == "mine"

    def test_what_is_no_method_looks_like_none(self):
        assert not {*plotting.SHADES, plotting.INK} & set(plotting.COLORS.values())
        assert not {*plotting.MARKS} & set(plotting.MARKERS.values())


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
        fits(figure)
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
        fits(figure)
