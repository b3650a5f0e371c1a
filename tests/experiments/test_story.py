"""The stories: drawn from committed tables that each declares, and by `plot` where these are there."""

import ast
import functools
import pathlib
import re

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from experiments import pipeline, story
from experiments.story import STORIES
from jaxmaml import discover, plotting, storage

mpl.use("Agg")
RESULTS = pathlib.Path(__file__).parents[2] / "results"
METHODS = ("maml", "maml_same_batch", "fo_maml", "hf_maml")
HERE = pathlib.Path(story.__file__).parent


class Asked(dict):
    """Tables that remember which of them were asked for."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __missing__(self, name):
        self.names.add(name)
        return pd.read_csv(RESULTS / "tables" / f"{name}.csv")


@functools.cache
def drawn(name):
    """A story from committed tables, and the tables that it asked for."""
    tables = Asked()
    with plotting.style():
        return STORIES[name].draw(tables), tables.names


@pytest.mark.parametrize("name", STORIES)
class TestEveryStory:
    def test_needs_the_tables_that_it_declares(self, name):
        assert drawn(name)[1] == set(STORIES[name].tables)

    def test_is_told_in_two_sentences(self, name):
        assert len(re.findall(r"[a-z0-9]\. [A-Z]|\.$", STORIES[name].caption)) == 2

    def test_shows_measured_values_in_the_colours_of_methods(self, name):
        """At most four panels, with units; what is neither dashed nor a mark is a method's curve."""
        figure, _ = drawn(name)
        assert len(figure.axes) <= 4
        methods = {plotting.COLORS[name].lower() for name in METHODS}
        for axis in figure.axes:
            shown = [axis.get_xlabel(), axis.get_ylabel()]
            assert all(re.search(r"\[.+\]", text) for text in shown if text), shown
            for line in axis.lines:
                if line.get_linestyle() == "-" or line.get_marker() not in ("None", "", None):
                    assert to_hex(line.get_color()) in methods
        assert figure.legends

    def test_reads_tables_alone(self, name):
        tree = ast.parse((HERE / f"{name}.py").read_text())
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not used & {"Run", "theorem_run", "sweep", "grid", "jax", "jnp", "objective"}


def test_every_module_is_a_story():
    assert set(STORIES) == {name for name in discover.modules(story) if not name.startswith("_")}


def copy(name, folder):
    """A committed table, as if it were of the scale smoke."""
    storage.write(
        folder / "smoke" / "tables" / f"{name}.csv", (RESULTS / "tables" / f"{name}.csv").read_bytes()
    )


def test_plot_draws_those_that_need_the_claim(results_here, capsys):
    copy("operations", results_here)
    pipeline.plot("smoke", pipeline.select("operations"))
    figures = results_here / "smoke" / "figures"
    assert {f.name for f in figures.glob("story_*")} == {"story_costs.svg", "story_costs.pdf"}
    capsys.readouterr()
    pipeline.plot("smoke", pipeline.select("operations"))
    assert "story_costs: figure is up to date" in capsys.readouterr().out


def test_plot_skips_those_without_their_tables(results_here, capsys):
    copy("hf_floor", results_here)
    pipeline.plot("smoke", pipeline.select("hf_floor"))
    said = capsys.readouterr().out.splitlines()
    assert "story_floors: not drawn, for it needs the tables of fo_floor, hf_blind" in said
    assert not list((results_here / "smoke" / "figures").glob("story_*"))
