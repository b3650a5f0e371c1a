"""Figures and the table of the head to head, from its CSV files alone."""

import math
import pathlib
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from jaxmaml import plotting, storage

NAMES = {
    "sinusoid": "Sinusoid, 10-shot",
    "digits": "Digits, 3-way 5-shot",
    "fashion_mnist": "Fashion-MNIST, 3-way 5-shot",
    "omniglot_1shot": "Omniglot, 5-way 1-shot",
    "omniglot_5shot": "Omniglot, 5-way 5-shot",
}
DASHES = {"hf_maml, theorem": "-", "hf_maml, repaired": "--", "hf_maml, float": ":"}
DELTAS = {"theorem": "theorem's delta", "repaired": "repaired delta", "float": "float-optimal delta"}
BUDGETS = {"steps": "equal steps", "gradients": "equal gradient evaluations", "seconds": "equal seconds"}
SHADES = ("#000000", "#56B4E9", "#E69F00", "#CC79A7", "#D55E00")


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
            plotting.save(figure, [where / f"{name}.{kind}" for kind in ("svg", "pdf")])
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
    # HF-MAML often lies upon MAML, which shows below it.
    width = 3.0 if method == "maml" else 1.2
    line = DASHES.get(method, "-")
    return {"color": plotting.color(method.partition(", ")[0]), "linestyle": line, "linewidth": width}


def unit(setting: str) -> str:
    return "mean squared error" if setting == "sinusoid" else "accuracy"


def methods(curves: pd.DataFrame) -> Figure:
    """Test value against gradient evaluations; bands are 95 % intervals over seeds."""
    settings = list(curves.setting.unique())
    figure, axes = plotting.panels(min(3, len(settings)), -(-len(settings) // 3))
    for axis, setting in zip(axes, settings, strict=False):
        rows = curves[(curves.setting == setting) & (curves.step > 0)]
        for method, line in rows.groupby("method", sort=False):
            axis.plot(line.gradients, line.value, label=label(str(method)), **look(str(method)))
            band = {"color": look(str(method))["color"], "alpha": 0.12, "linewidth": 0}
            axis.fill_between(line.gradients, line.low, line.high, **band)
        axis.set(xlabel="gradients of one task's batch", ylabel=f"test {unit(setting)}", title=NAMES[setting])
        axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
        if setting == "sinusoid":
            axis.set_yscale("log")
    for axis in axes[len(settings) :]:
        axis.set_visible(False)
    return plotting.finish(
        figure, "Tuned Adam, one inner step; means and 95 % intervals over 5 seeds", columns=3
    )


def budgets(summary: pd.DataFrame) -> Figure:
    """Difference to MAML at equal budgets, paired by seed."""
    settings = list(summary.setting.unique())
    figure, axes = plotting.panels(len(BUDGETS), len(settings))
    figure.set_figheight(1.35 * len(settings) + 0.9)
    names = list(summary.method.unique())
    for row, setting in enumerate(settings):
        for column, (budget, title) in enumerate(BUDGETS.items()):
            axis = axes[row * len(BUDGETS) + column]
            some = summary[(summary.setting == setting) & (summary.budget == budget)].set_index("method")
            for y, method in enumerate(names[1:]):
                one = some.loc[method]
                estimator = method.partition(", ")[0]
                error = [[one.difference - one.difference_low], [one.difference_high - one.difference]]
                axis.errorbar(
                    one.difference,
                    y,
                    xerr=error,
                    color=plotting.color(estimator),
                    capsize=2,
                    marker=plotting.MARKERS[estimator],
                    linestyle="none",
                )
            axis.axvline(0, color=plotting.color("maml"), linewidth=0.8)
            axis.locator_params(axis="x", nbins=4)
            axis.set_yticks(range(len(names) - 1), [label(n) if column == 0 else "" for n in names[1:]])
            axis.invert_yaxis()
            if row == 0:
                axis.set_title(title)
            maml = some.loc[names[0]].value
            axis.set_xlabel(f"{unit(setting)} - MAML's {maml:.3g}")
            if column == 0:
                axis.annotate(
                    NAMES[setting],
                    (0, 1.1),
                    xycoords="axes fraction",
                    ha="right",
                    fontsize=7,
                    fontweight="bold",
                )
    return plotting.finish(figure, "Difference to MAML on the same seeds, 95 % intervals over 5 seeds")


def theory_step(theory: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Loss of MAML on training tasks with multiples of the theorem's step, beside tuned Adam."""
    settings = list(theory.setting.unique())
    figure, axes = plotting.panels(min(3, len(settings)), -(-len(settings) // 3))
    for axis, setting in zip(axes, settings, strict=False):
        rows = theory[theory.setting == setting]
        for color, (multiple, line) in zip(SHADES, rows.groupby("multiple"), strict=False):
            factor = "the theorem's step" if multiple == 1 else f"{multiple:g} times that"
            axis.plot(line.step, line.training, color=color, label=factor)
        adam = curves[(curves.setting == setting) & (curves.method == "maml")]
        adam = adam[adam.step <= rows.step.max()]
        axis.plot(adam.step, adam.training, color=plotting.color("maml"), linestyle="--", label="tuned Adam")
        squared = setting == "sinusoid"
        axis.set(xlabel="outer steps", title=NAMES[setting], yscale="log")
        axis.set_ylabel(f"loss on training tasks ({'squared units of y' if squared else 'nats'})")
        start = float(rows.training[rows.step == 0].iloc[0])
        axis.set_ylim(top=1.5 * start)
    for axis in axes[len(settings) :]:
        axis.set_visible(False)
    return plotting.finish(
        figure, "MAML: the step c / L~(w) with measured L and rho, and multiples", columns=6
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
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" + (" *" if differs else "")


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
