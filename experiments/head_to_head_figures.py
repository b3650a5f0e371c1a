"""Figures and the table of the head to head, from its CSV files alone."""

import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmaml import plotting, storage

NAMES = {
    "sinusoid": "Sinusoid, 10-shot",
    "digits": "Digits, 3-way 5-shot",
    "fashion_mnist": "Fashion-MNIST, 3-way 5-shot",
    "omniglot_1shot": "Omniglot, 5-way 1-shot",
    "omniglot_5shot": "Omniglot, 5-way 5-shot",
}
FILLS = {"hf_maml, repaired": "left", "hf_maml, float": "none"}
DELTAS = {"theorem": "theorem's delta", "repaired": "repaired delta", "float": "float-optimal delta"}
BUDGETS = {"steps": "equal steps", "gradients": "equal gradient evaluations", "seconds": "equal seconds"}
PANELS = 4
BEYOND = 10.0
"""times MAML's error, or that of the start: what is more is drawn as diverged."""
MARKED = 6
"""points of a curve that carry its marker."""


def draw(where: pathlib.Path) -> list[pathlib.Path]:
    """methods, budgets and theory_step as SVG and PDF, and table.md, in the folder of the tables."""
    tables = {}
    for name in ("curves", "summary", "theory"):
        path = where / f"{name}.csv"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; make it with: python -m experiments head-to-head")
        tables[name] = storage.read_table(path)
    made = []
    with plotting.style():
        for name, figure in (
            ("methods", methods(tables["curves"])),
            ("budgets", budgets(on_test_tasks(tables["summary"]))),
            ("theory_step", theory_step(tables["theory"], tables["curves"])),
        ):
            plotting.save(figure, plotting.svg_and_pdf(where, name))
            made.append(where / f"{name}.svg")
    storage.write(where / "table.md", table(tables["summary"], tables["theory"]).encode())
    return [*made, where / "table.md"]


def on_test_tasks(summary: pd.DataFrame) -> pd.DataFrame:
    return summary[summary.measure == "value"]


def label(method: str) -> str:
    """The legend label of a method, with its rule for delta."""
    estimator, _, delta = method.partition(", ")
    return plotting.label(estimator) + (f", {DELTAS[delta]}" if delta else "")


def look(method: str) -> dict[str, Any]:
    """Colour and marker of the method; the marker's filling tells the rule for delta."""
    found = plotting.look(method.partition(", ")[0])
    return found | {"fillstyle": FILLS.get(method, "full"), "markerfacecoloralt": "white"}


def unit(setting: str) -> str:
    return "mean squared error" if setting == "sinusoid" else "accuracy"


def shown(settings: Iterable[object]) -> list[str]:
    """The settings that have a panel; of too many, digits are left out, which are like Fashion-MNIST."""
    names = list(map(str, dict.fromkeys(settings)))
    return names if len(names) <= PANELS else [name for name in names if name != "digits"][:PANELS]


def _grid(settings: list[str]) -> tuple[Figure, list[Axes]]:
    """A panel for each setting."""
    columns = min(2, len(settings))
    figure, axes = plotting.panels(columns, -(-len(settings) // columns), height=2.3)
    for axis in axes[len(settings) :]:
        axis.set_visible(False)
    return figure, axes[: len(settings)]


def methods(curves: pd.DataFrame) -> Figure:
    """Test error or accuracy of every method against the gradients spent, with 95 % intervals over seeds.

    A cross marks where a run diverged, as did what leaves its panel; digits are in the table.
    """
    settings = shown(curves.setting)
    figure, axes = _grid(settings)
    for axis, setting in zip(axes, settings, strict=True):
        if setting == "sinusoid":
            axis.set_yscale("log")
        rows = curves[(curves.setting == setting) & (curves.step > 0)]
        for method, line in rows.groupby("method", sort=False):
            name, found = label(str(method)), look(str(method))
            # HF-MAML often lies upon MAML, which shows below it.
            curve = {"linewidth": 3.0 if method == "maml" else 1.1, "markevery": max(len(line) // MARKED, 1)}
            axis.plot(line.gradients, line.value, label=name, **found | curve)
            band = {"color": found["color"], "alpha": 0.1, "linewidth": 0, "label": f"_{name}"}
            axis.fill_between(line.gradients, line.low, line.high, **band)
            finite = line[np.isfinite(line.value)]
            if len(finite) < len(line):
                end = {"color": found["color"], "marker": "x", "markersize": 7, "linestyle": "none"}
                axis.plot(finite.gradients[-1:], finite.value[-1:], label=f"_{name}", **end)
        if setting == "sinusoid":
            start = curves[(curves.setting == setting) & (curves.step == 0)].value.max()
            axis.set_ylim(0.8 * rows.value.min(), BEYOND * start)
        axis.set(xlabel="gradients spent [batches of one task]", title=NAMES[setting])
        axis.set_ylabel(f"test {unit(setting)} [{'squared units' if setting == 'sinusoid' else '1'}]")
        axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
    return plotting.finish(figure, "Every method with tuned Adam and one inner step, 5 seeds", columns=4)


def budgets(summary: pd.DataFrame) -> Figure:
    """Test error over that of MAML at equal budgets, on the same seeds: left of the line a method is better.

    Bars are 95 % intervals over seeds; what diverged, or has ten times MAML's error, stands at the right.
    """
    settings = list(dict.fromkeys(summary.setting))
    names = list(dict.fromkeys(summary.method))[1:]
    step = len(names) + 2
    figure, axes = plotting.panels(len(BUDGETS), height=0.7 + 0.115 * step * len(settings), sharey=True)
    ratios = summary.assign(**relative(summary))
    inside = ratios[ratios.ratio < BEYOND]
    least, most = 0.8 * inside.ratio.min(), 1.3 * max(inside.ratio.max(), 1.0)
    for axis, (budget, title) in zip(axes, BUDGETS.items(), strict=True):
        axis.set_xscale("log", nonpositive="clip")
        axis.set_xlim(least, most)
        for y, (setting, method) in enumerate_rows(settings, names):
            part = ratios[(ratios.setting == setting) & (ratios.budget == budget) & (ratios.method == method)]
            found = look(method) | {"linestyle": "none"}
            for one in part.itertuples():
                if one.ratio < BEYOND:
                    ends = [[one.ratio - one.ratio_low], [one.ratio_high - one.ratio]]
                    axis.errorbar(
                        one.ratio, y, xerr=ends, capsize=1.5, linewidth=0.8, label=label(method), **found
                    )
                else:
                    edge = axis.get_yaxis_transform()
                    axis.plot(
                        0.98, y, transform=edge, label=f"{label(method)}, beyond", **found | {"marker": "x"}
                    )
        axis.axvline(1, linewidth=1.0, label="MAML", color=plotting.color("maml"))
        axis.set(title=title, xlabel="test error / MAML's [1]")
        axis.set_ylim(step * len(settings) - 1.5, -1.5)
        axis.grid(visible=False, axis="y")
    middles = [step * j + (len(names) - 1) / 2 for j in range(len(settings))]
    axes[0].set_yticks(middles, [NAMES[setting].replace(", ", "\n") for setting in settings])
    axes[0].set_ylabel("setting [name]")
    return plotting.finish(figure, "Every method against MAML at equal budgets, 5 seeds", columns=4)


def enumerate_rows(settings: list[str], names: list[str]) -> Iterator[tuple[int, tuple[str, str]]]:
    """The height of each method of each setting."""
    for j, setting in enumerate(settings):
        for i, name in enumerate(names):
            yield (len(names) + 2) * j + i, (setting, name)


def relative(summary: pd.DataFrame) -> dict[str, pd.Series]:
    """Test error over that of MAML, with its interval: mean squared error, or the share of wrong answers."""
    squared = summary.setting == "sinusoid"
    whole = (summary.value - summary.difference).where(squared, 1 - (summary.value - summary.difference))
    sign = np.where(squared, 1, -1)
    ends = [1 + sign * summary[f"difference_{end}"] / whole for end in ("low", "high")]
    return {
        "ratio": 1 + sign * summary.difference / whole,
        "ratio_low": np.minimum(*ends),
        "ratio_high": np.maximum(*ends),
    }


def theory_step(theory: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """With the step of the theorem MAML hardly moves on images; a thousand times that comes near tuned Adam.

    The loss is that of training tasks; digits, which are like Fashion-MNIST, are in the table.
    """
    settings = shown(theory.setting)
    figure, axes = _grid(settings)
    for axis, setting in zip(axes, settings, strict=True):
        rows = theory[theory.setting == setting]
        for j, (multiple, line) in enumerate(rows.groupby("multiple")):
            factor = "the theorem's step" if multiple == 1 else f"{multiple:g} times that"
            every = {"markevery": max(len(line) // MARKED, 1)}
            axis.plot(line.step, line.training, label=factor, **plotting.neutral(j) | every)
        adam = curves[(curves.setting == setting) & (curves.method == "maml")]
        adam = adam[adam.step <= rows.step.max()]
        every = {"markevery": max(len(adam) // MARKED, 1)}
        axis.plot(
            adam.step,
            adam.training,
            label="MAML with tuned Adam",
            linewidth=2,
            **plotting.look("maml") | every,
        )
        axis.set(xlabel="outer steps [1]", title=NAMES[setting], yscale="log")
        axis.set_ylabel(f"training loss [{'squared units' if setting == 'sinusoid' else 'nats'}]")
        axis.set_ylim(top=1.5 * float(rows.training[rows.step == 0].iloc[0]))
    return plotting.finish(
        figure, "MAML with the theorem's step, from measured constants, and multiples", columns=3
    )


def best_multiple(theory: pd.DataFrame) -> pd.DataFrame:
    """By setting: the multiple of the theorem's step with the least final loss on training tasks."""
    rows = []
    for setting, group in theory.groupby("setting", sort=False):
        final = group[group.step == group.step.max()].dropna(subset=["training"])
        best = final.loc[final.training.idxmin()]
        plain = final[final.multiple == 1].iloc[0]
        start = group[group.step == 0].training.iloc[0]
        rows.append(
            [
                setting,
                best.L,
                best.rho,
                best.alpha * best.L,
                start,
                plain.training,
                best.multiple,
                best.training,
            ]
        )
    names = ["setting", "L", "rho", "alpha_L", "start", "theorem", "multiple", "best"]
    return pd.DataFrame(rows, columns=names)


def table(summary: pd.DataFrame, theory: pd.DataFrame) -> str:
    """Both tables in Markdown."""
    lines = ["# Head to head on real data", ""]
    lines += [
        "One inner step, Adam with a rate tuned for each method, the same seeds and draws for all; mean over",
        "seeds with its 95 % interval, which does not hold the chance in the episodes: they are the same for",
        "all. Cost: of a step, in MAML's. Accuracies of Omniglot are transductive. Diverged: a run of one",
        "seed did.",
        "",
        "## Test tasks: mean squared error, accuracy",
        "",
        *compared(on_test_tasks(summary)),
        "## Training tasks: the loss that is minimised, on fixed episodes",
        "",
        *compared(summary[summary.measure == "training"]),
        "\\* differs from MAML on the same seeds (paired 95 % interval without 0).",
        "",
    ]
    lines += [
        "## The theorem's step",
        "",
        "MAML with beta = c / L~(w), L and rho measured near the initial network (lower estimates, so that",
        "the true step is smaller still); loss on training tasks at the start and after all steps, and the",
        "best multiple tried. The theory asks for alpha L <= 1.",
        "",
        "| setting | L >= | rho >= | alpha L >= | start | theorem's step | best multiple | its loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    most = theory.multiple.max()
    for row in best_multiple(theory).itertuples():
        before = [row.L, row.rho, row.alpha_L, row.start, row.theorem]
        cells = [NAMES[str(row.setting)], *(f"{x:.3g}" for x in before)]
        cells += [f"{row.multiple:g}" + (" (the largest)" if row.multiple == most else ""), f"{row.best:.3g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def entry(row: pd.Series) -> str:
    """Mean and interval; "diverged" where a seed's run did."""
    if not math.isfinite(row.value):
        return "diverged"
    differs = row.difference_low > 0 or row.difference_high < 0
    value, low, high = (f"{x:.3f}" if abs(x) < 100 else f"{x:.3g}" for x in (row.value, row.low, row.high))
    return f"{value} [{low}, {high}]" + (" *" if differs else "")


def compared(summary: pd.DataFrame) -> list[str]:
    """One measure of every method, as the lines of a table."""
    lines = [
        "| setting | method | Adam | gradients | seconds | equal steps | equal gradients | equal seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (setting, method), rows in summary.groupby(["setting", "method"], sort=False):
        by = rows.set_index("budget")
        values = [entry(by.loc[b]) for b in BUDGETS]
        cost = [f"{by.loc[b].cost:.2f}" for b in ("gradients", "seconds")]
        cells = [NAMES[str(setting)], label(str(method)), f"{by.rate.iloc[0]:g}", *cost, *values]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]
