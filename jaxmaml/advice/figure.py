"""The advice in one figure: the error of every method against the planned steps, its parts, and alpha."""

import math
import pathlib

import numpy as np

from jaxmaml import plotting
from jaxmaml.advice import rules
from jaxmaml.advice.advise import Advice
from jaxmaml.advice.differences import FLOAT

PARTS = {"lasting": ("bias", "o"), "noise": ("noise", "^"), "start": ("start", "s")}
REACH = 2.0**8
"""planned steps are shown from so many times fewer to so many times more."""


def save(advice: Advice, path: str) -> None:
    """Draws to a file, as its suffix says."""
    point, pilot, N = advice.points[-1], advice.pilot, advice.outer_steps
    # Of a method whose direction leads away there is nothing to show.
    shown = {d.estimator: d for d in point.differences if d.delta in ("", FLOAT)}
    names = [name for name in plotting.ordered(shown) if pilot.scales[name] > 0]
    ratio = {name: advice.prices[name] / advice.prices["maml"] for name in names}

    def error(name: str, steps: float) -> rules.Error:
        return rules.error(shown[name], point, pilot, steps, ratio[name])

    with plotting.style():
        figure, (over, parts, alphas) = plotting.panels(3)

        steps = N * np.geomspace(1 / REACH, REACH, 65)
        steps = steps[steps >= 1]
        for name in names:
            out = name in pilot.out
            over.loglog(
                steps,
                [error(name, n).total for n in steps],
                color=plotting.color(name),
                linestyle=":" if out else "-",
                label=plotting.label(name) + (", out" if out else ""),
            )
        over.axvline(N, color="0.5", linewidth=0.8, linestyle="--", label="as planned")
        # A strip below the curves tells which method is chosen.
        for turn in rules.turns(point, pilot, advice.prices, N):
            low, high = max(turn.low, steps[0]), min(turn.high, steps[-1])
            if low < high:
                over.axvspan(low, high, 0, 0.05, color=plotting.color(turn.estimator), linewidth=0)
        over.set_xlabel("planned steps of MAML's price [1]")
        over.set_ylabel(r"error [$\varphi/u$]")
        over.set_title("method; the strip is the choice")

        for part, (text, marker) in PARTS.items():
            found = [(getattr(error(name, N), part), i) for i, name in enumerate(names)]
            there = [x for x in found if x[0] > 0]
            look = {"color": "0.2", "fillstyle": "none" if part == "start" else "full"}
            if there:
                parts.semilogx(*zip(*there, strict=True), marker, label=text, **look)
        prices = [f"{plotting.label(name)}\nprice {ratio[name]:.2f}" for name in names]
        parts.set_yticks(range(len(names)), prices)
        parts.set_ylim(len(names) - 0.5, -0.5)
        parts.set_xlabel(r"part of the error [$\varphi/u$]")
        parts.set_title("its parts, as planned")

        scan = advice.scan
        for values, text, line in ((scan.sampled, "to D_in", "-"), (scan.whole, "to all samples", "--")):
            alphas.semilogx(scan.alphas, values, line, color="0.2", label=f"adapted {text}")
        # From the least of both to where they begin, nearly without adaptation; far up, a loss may overflow.
        least = min(value for value in (*scan.sampled, *scan.whole) if math.isfinite(value))
        begin = max(scan.sampled[0], scan.whole[0], scan.sampled[len(scan.alphas) // 2])
        room = max(begin - least, 1e-9)
        alphas.set_ylim(least - 0.1 * room, least + 1.3 * room)
        alphas.axvline(advice.alpha, color="0.5", linewidth=0.8, label="advised")
        if advice.before != advice.alpha:
            alphas.axvline(advice.before, color="0.5", linewidth=0.8, linestyle=":", label="in force")
        alphas.set_xlabel(r"$\alpha$ [$u^2/\varphi$]")
        alphas.set_ylabel(r"loss [$\varphi$]")
        alphas.set_title(f"alpha, limited by {advice.recommendation.limit}")

        plotting.finish(figure, f"Use {plotting.label(advice.recommendation.estimator)}", columns=5)
        plotting.save(figure, [pathlib.Path(path)])
