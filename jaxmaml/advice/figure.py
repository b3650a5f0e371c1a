"""The advice in one figure: the error of every method against the planned steps, its parts, and alpha."""

import pathlib

import numpy as np

from jaxmaml import plotting
from jaxmaml.advice import rules
from jaxmaml.advice.advise import Advice

PARTS = {"lasting": ("bias", "o"), "noise": ("noise", "^"), "start": ("start", "s")}
REACH = 2.0**8
"""planned steps are shown from so many times fewer to so many times more."""


def save(advice: Advice, path: str) -> None:
    """Draws to a file, as its suffix says."""
    point, pilot, N = advice.points[-1], advice.pilot, advice.outer_steps
    chosen = {d.estimator: d for _, d in rules.ranked(point, pilot, advice.prices, N)}
    names = plotting.ordered(chosen)
    ratio = {name: advice.prices[name] / advice.prices["maml"] for name in names}
    with plotting.style():
        figure, (over, parts, alphas) = plotting.panels(3)

        steps = N * np.geomspace(1 / REACH, REACH, 65)
        steps = steps[steps >= 1]
        for name in names:
            errors = [rules.error(chosen[name], point, pilot, n, ratio[name]).total for n in steps]
            over.loglog(steps, errors, color=plotting.color(name), label=plotting.label(name))
        over.axvline(N, color="0.5", linewidth=0.8, linestyle="--", label="as planned")
        # A strip below the curves tells which method is chosen.
        for turn in rules.turns(point, pilot, advice.prices, N):
            low, high = max(turn.low, steps[0]), min(turn.high, steps[-1])
            if low < high:
                over.axvspan(low, high, 0, 0.04, color=plotting.color(turn.estimator), linewidth=0)
        over.set_xlabel("planned outer steps, in steps of MAML's price")
        over.set_ylabel("error, a norm of the gradient")
        over.set_title("which method: the strip is the choice")

        for part, (text, marker) in PARTS.items():
            found = [getattr(rules.error(chosen[m], point, pilot, N, ratio[m]), part) for m in names]
            there = [i for i, x in enumerate(found) if x > 0]
            where = [found[i] for i in there]
            parts.plot(
                there, where, marker, color="0.2", label=text, fillstyle="none" if part == "start" else "full"
            )
        parts.set_yscale("log")
        parts.set_xticks(
            range(len(names)),
            [f"{plotting.label(m)}\nprice {ratio[m]:.2f}" for m in names],
            rotation=30,
            ha="right",
        )
        parts.set_xlim(-0.5, len(names) - 0.5)
        parts.set_ylabel("part of the error as planned")
        parts.set_title("what it is made of; price over MAML's")

        scan = advice.scan
        for values, text, line in (
            (scan.sampled, "adapted to D_in", "-"),
            (scan.whole, "adapted to all", ":"),
        ):
            alphas.semilogx(scan.alphas, values, line, color="0.2", label=text)
        least = min(scan.sampled)
        here = scan.sampled[len(scan.alphas) // 2]
        top = max(advice.points[-1].f, here)
        alphas.set_ylim(least - 0.1 * (top - least), top + 0.3 * (top - least))
        alphas.axvline(advice.alpha, color="0.5", linewidth=0.8, label="advised alpha")
        if advice.before != advice.alpha:
            alphas.axvline(advice.before, color="0.5", linewidth=0.8, linestyle=":", label="alpha in force")
        alphas.set_xlabel("alpha")
        alphas.set_ylabel("loss after adaptation, at the pilot's end")
        alphas.set_title(f"alpha, limited by {advice.recommendation.limit}")

        plotting.finish(figure, f"Advice: {advice.recommendation.estimator}", columns=4)
        plotting.save(figure, [pathlib.Path(path)])
