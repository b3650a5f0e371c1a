"""The cost of one meta-gradient, whose Hessian product is exact, a difference, or of the matrix formed."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.claims._directions import FORMED
from experiments.claims.operations import LINEAR
from experiments.story._lines import DERIVED, TALL, Look, named
from jaxmaml import plotting

TITLE = "A Hessian product costs about what a difference costs, unless the Hessian is formed"
TABLES = ("operations",)
LABELS = {
    "fo_maml": "FO-MAML: no product",
    "maml_same_batch": "MAML, same batch: exact product",
    "maml": "MAML: exact product",
    "hf_maml": "HF-MAML: difference",
    FORMED: "MAML: Hessian formed",
}
"""in the order of what they cost on linear scores."""
APART = 0.18
"""of the marks of an architecture, in distances between architectures."""
FORMED_LINE, FLAT = "$2+d$, derived", "2, 3, 3.5, 4, derived"
PRODUCTS = "derived from the products of matrices"
SHORT = DERIVED | {"linestyle": (0, (1.5, 1))}
"""a dashed line that is short."""
DODGE = 1.07
"""factor in d between the marks of a dimension, which would lie on each other."""


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """A meta-gradient of MAML with an exact Hessian-vector product costs 3.5 to 4.7 gradients, about what
    one of HF-MAML with its difference costs, in operations and in time. Only forming the Hessian grows with
    the number of parameters d: it takes d gradients more, and 200 times the time of a gradient at d =
    2048."""
    table = tables["operations"]
    linear, networks = table[table.architecture == LINEAR], table[table.architecture != LINEAR]
    drawing, axes = plotting.panels(2, 2, height=TALL)
    for upper, lower in zip(axes[:2], axes[2:], strict=True):
        lower.sharex(upper)
        lower.sharey(upper)
    for (left, right), unit in zip((axes[:2], axes[2:]), ("flops", "seconds"), strict=True):
        _by_dimension(left, linear, unit)
        _by_architecture(right, networks, unit)
    axes[0].set(title="linear scores, by dimension", ylabel="operations [gradients]", ylim=(0.8, None))
    axes[1].set(title="networks, by architecture", ylim=(0, 5.5))
    axes[2].set(xlabel="parameters $d$ [1]", ylabel="time [gradients]")
    axes[1].set(ylabel="operations [gradients]")
    axes[3].set(xlabel="architecture [1]", ylabel="time [gradients]")
    formed = linear[linear.method == FORMED].sort_values("d")
    named(axes[0], formed.d.iloc[-1], formed.derived.iloc[-1], FORMED_LINE, offset=(-22, -6), ha="right")
    named(axes[0], 512, 4, FLAT, offset=(0, 4), ha="center")
    named(axes[1], -0.4, 5.1, PRODUCTS)
    return plotting.finish(drawing, TITLE, columns=3)


def _look(method: str) -> Look:
    """MAML with the Hessian formed is MAML: its colour and marker, hollow."""
    formed = method == FORMED
    return plotting.look("maml" if formed else method, hollow=formed) | {"linestyle": "none"}


def _by_dimension(axis: Axes, linear: pd.DataFrame, unit: str) -> None:
    for j, (method, label) in enumerate(LABELS.items()):
        part = linear[linear.method == method].sort_values("d")
        d = part.d if method == FORMED else part.d * DODGE ** (j - 1.5)
        axis.loglog(d, part[unit] / part[f"gradient_{unit}"], label=label, **_look(method))
        if unit == "flops":
            name = FORMED_LINE if method == FORMED else FLAT
            axis.loglog(part.d, part.derived, color=plotting.INK, label=f"_{name}", **DERIVED)


def _by_architecture(axis: Axes, networks: pd.DataFrame, unit: str) -> None:
    names = list(networks.architecture.unique())
    for j, method in enumerate(method for method in LABELS if method != FORMED):
        part = networks[networks.method == method]
        x = part.architecture.map(names.index).to_numpy(float) + APART * (j - 1.5)
        axis.plot(x, part[unit] / part[f"gradient_{unit}"], label=f"_{LABELS[method]}", **_look(method))
        if unit == "flops":
            axis.hlines(
                part.derived,
                x - 0.6 * APART,
                x + 0.6 * APART,
                color=plotting.INK,
                label=f"_{PRODUCTS}",
                **SHORT,
            )
    axis.set_xticks(range(len(names)), [name.split()[0] for name in names])
    axis.set_xlim(-0.5, len(names) - 0.5)
