"""The advice in one figure: the error of every method against the planned steps, its parts, and alpha."""

import math
import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxmaml import plotting
from jaxmaml.advice import rules
from jaxmaml.advice.advise import Advice
from jaxmaml.advice.differences import FLOAT

PARTS = {"lasting": "bias", "noise": "noise", "start": "start"}
REACH = 2.0**8
"""planned steps are shown from so many times fewer to so many times more."""


def save(advice: Advice, path: str) -> None:
    """Draws to a file, as its suffix says."""
    with plotting.style():
        plotting.save(drawn(advice), [pathlib.Path(path)])


def drawn(advice: Advice) -> Figure:
    """The error that each method is expected to leave after so many steps, the best one as a strip below.

    Beside it what the error is made of, and the loss after adaptation against the inner rate.
    """
    point, pilot, N = advice.points[-1], advice.pilot, advice.outer_steps
    # Of a method whose direction leads away there is nothing to show.
    shown = {d.estimator: d for d in point.differences if d.delta in ("", FLOAT)}
    names = [name for name in plotting.ordered(shown) if pilot.scales[name] > 0]
    ratio = {name: advice.prices[name] / advice.prices["maml"] for name in names}

    def error(name: str, steps: float) -> rules.Error:
        return rules.error(shown[name], point, pilot, steps, ratio[name])

    figure, (over, parts, alphas) = plotting.panels(3, height=2.6)
    mark: dict[str, Any] = {"color": plotting.SHADES[3], "linewidth": 1.2}

    steps = N * np.geomspace(1 / REACH, REACH, 65)
    steps = steps[steps >= 1]
    for name in names:
        out = name in pilot.out
        over.loglog(
            steps,
            [error(name, n).total for n in steps],
            **plotting.look(name, hollow=out) | {"linewidth": 0.7 if out else 1.5, "markevery": 16},
            label=plotting.label(name) + (", out" if out else ""),
        )
    over.axvline(N, **mark, label="as planned, or in force")
    # A strip below the curves tells which method is chosen.
    for turn in rules.turns(point, pilot, advice.prices, N):
        low, high = max(turn.low, steps[0]), min(turn.high, steps[-1])
        if low < high:
            look = {"color": plotting.color(turn.estimator), "linewidth": 0}
            over.axvspan(low, high, 0, 0.05, label=f"_{plotting.label(turn.estimator)}", **look)
    over.set(
        xlabel="planned steps [of MAML's price]",
        ylabel=r"error [$\varphi/u$]",
        title="error; strip: the choice",
    )

    for j, (part, text) in enumerate(PARTS.items()):
        found = [(getattr(error(name, N), part), i) for i, name in enumerate(names)]
        there = [x for x in found if x[0] > 0]
        look = plotting.neutral(j, hollow=part == "start") | {"linestyle": "none", "markersize": 5}
        if there:
            parts.semilogx(*zip(*there, strict=True), label=text, **look)
    prices = [f"{plotting.label(name)}\nprice {ratio[name]:.2f}".replace(", ", ",\n") for name in names]
    parts.set_yticks(range(len(names)), prices)
    parts.set(ylim=(len(names) - 0.5, -0.5), ylabel="method [name]", title="its parts, as planned")
    parts.set_xlabel(r"part of the error [$\varphi/u$]")

    scan = advice.scan
    for values, text, width in ((scan.sampled, "to its batch", 1.8), (scan.whole, "to all samples", 0.8)):
        look = {"color": plotting.INK, "linewidth": width}
        alphas.semilogx(scan.alphas, values, label=f"adapted {text}", **look)
    # From the least of both to where they begin, nearly without adaptation; far up, a loss may overflow.
    least = min(value for value in (*scan.sampled, *scan.whole) if math.isfinite(value))
    begin = max(scan.sampled[0], scan.whole[0], scan.sampled[len(scan.alphas) // 2])
    room = max(begin - least, 1e-9)
    alphas.set_ylim(least - 0.1 * room, least + 1.3 * room)
    alphas.axvline(advice.alpha, **mark | {"color": plotting.SHADES[1]}, label="advised")
    if advice.before != advice.alpha:
        alphas.axvline(advice.before, **mark, label="as planned, or in force")
    alphas.set(xlabel=r"inner rate $\alpha$ [$u^2/\varphi$]", ylabel=r"loss [$\varphi$]")
    alphas.set_title(f"rate, limited by {advice.recommendation.limit}")

    return plotting.finish(figure, f"Use {plotting.label(advice.recommendation.estimator)}", columns=4)
