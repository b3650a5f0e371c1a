"""What the searches for worst cases share: the cell, the table, the rows and the figure.

The ascent follows closed forms. The instance it ends at is evaluated by the library, and its bound by
`jaxmaml.theory`: that ratio is what counts, and it is void unless the closed form agrees with the library.
Units in which L = rho = 1, so that lambda = alpha L = alpha; everything is at w = 0.
"""

import re

import numpy as np

from experiments.judging import largest
from experiments.search import Search, ascent, spread
from jaxmaml import plotting
from jaxmaml.types import Constants

EFFORT = {"smoke": (64, 150), "default": (256, 300), "full": (2048, 1500)}
"""restarts, steps of the ascent."""
ROUNDING = 1e-6
"""of a ratio: differences of F over a distance of 0.003 keep seven digits."""
VECTORS = {"slope", "curvature", "chance", "H", "H'"}
"""facts of every task (or every entry of a matrix)."""
ANY = ((0.01, 1.0),)
SUMMARY = {"source": "as summarised"}


def constants(x):
    """sigma of the tasks at w; noise where there is any."""
    sigma = float(np.sqrt(spread(x["slope"], x["chance"])))
    return Constants(1.0, 1.0, sigma, float(x["noise"]), float(x["twist"]))


def found(part, cell, bounds, text):
    """A row of the table: the ratio at the instance, nan where L or rho exceeds 1, or a number is missing."""
    x = {name: values.to_numpy() for name, values in part.items()}
    known = all(np.isfinite(values).all() for values in x.values() if values.dtype.kind == "f")
    x = {name: values if name in VECTORS else values[0] for name, values in x.items()}
    bound = next(b for b in bounds if b.name == x["name"])
    valid = known and max(x.get("L", 1.0), x.get("rho", 1.0)) <= 1 + ROUNDING
    ratio, closed = (float(bound.ratio(x, x[v])) if valid else np.nan for v in ("measured", "formula"))
    return {
        "ratio": ratio,
        "closed": closed,
        "residual": x.get("residual", 0.0),
        "reached": x["reached"],
        "restarts": len(cell.ascent.starts),
        "instance": text(x) if valid else "",
    }


def numbers(name, values):
    return f"{name}=({', '.join(f'{v:.3g}' for v in values)})"


def told(x):
    """The tasks, in units of L = rho = 1."""
    pairs = {"p": "chance", "f'": "slope", "f''": "curvature"}.items()
    return ", ".join(numbers(name, x[key]) for name, key in pairs) + f", lambda={x['lam']:.3g}"


def noisy(x):
    """Likewise, with its noise."""
    return f"{told(x)}, sigma~={x['noise']:.2g}, sigma_H={x['twist']:.2g}"


def declare(claim, bounds, subject, parameters, text=told):
    """Cells, table and rows: every bound from the same starts."""

    @claim.cells
    def cells(scale):
        shared = ascent(EFFORT[scale], parameters)
        for which, bound in enumerate(bounds):
            for alpha in bound.alphas:
                cell = Search(shared, which, np.array(alpha), bound.least_slope, subject)
                yield {"name": bound.name, "at": alpha[1]}, cell

    @claim.per("name", "at")
    def measured(part, cell):
        return found(part, cell, bounds, text)

    @claim.rows
    def rows(table, row):
        yield from judged(table, row, bounds)


def judged(table, row, bounds):
    """The largest ratio of each bound."""
    for bound in bounds:
        part = table[table.name == bound.name]
        disagreement = largest((part.ratio - part.closed).abs())
        tightest = part.iloc[int(np.argmax(part.ratio.to_numpy()))]
        note = (
            f"{tightest.instance}; best of {tightest.restarts} restarts, {tightest.reached:.0%} of them end "
            "within 0.01 of it: a lower bound of the worst case"
        )
        if len(part) > 1:
            every = ", ".join(f"{r:.4f} at {at:.3g}" for r, at in zip(part.ratio, part["at"], strict=True))
            note = f"{every}; {note}"
        yield row.at_most(
            f"tightest instance found: {bound.name}",
            bound.statement,
            largest(part.ratio),
            1.0 + ROUNDING,
            also=disagreement <= ROUNDING and largest(part.residual) <= 1e-9,
            note=note,
            **(bound.about or {}),
        )


FORMULAS = {
    "E[1/L~^2]": r"$E[1/\tilde L^2]$",
    "E[1/L~]": r"$E[1/\tilde L]$",
    "F-hat": r"$\hat F$",
    "grad F": r"$\nabla F$",
    "phi": r"$\phi$",
    "sigma~^2/(B D_o)": r"$\tilde\sigma^2/(BD_o)$",
    "sigma~^2/D_in": r"$\tilde\sigma^2/D_{in}$",
    "sigma^2/B": r"$\sigma^2/B$",
    "sigma^2": r"$\sigma^2$",
}


def drawn(table, bounds, title):
    """One line a bound, one mark a search; a method's where the bound is one of a method."""
    drawing, (axis,) = plotting.panels(1, height=0.9 + 0.21 * len(bounds))
    names = [bound.name for bound in bounds]
    sources = {bound.name: (bound.about or {}).get("source", "derived") for bound in bounds}
    for name, part in table.groupby("name", sort=False):
        # The longest name: that of MAML ends others.
        ends = [e for e, shown in plotting.LABELS.items() if name.endswith(shown)]
        method = max(ends, key=lambda e: len(plotting.label(e)), default=None)
        stated = sources[name] != "derived"
        look = plotting.neutral(0, hollow=stated) if method is None else plotting.look(method, hollow=stated)
        shown = (
            f"share of the bound, {sources[name]}"
            if method is None
            else f"{plotting.label(method)}, {sources[name]}"
        )
        heights = np.full(len(part), names.index(name))
        axis.plot(part.ratio, heights, label=shown, **look | {"linestyle": "none", "markersize": 5})
    axis.axvline(1.0, label="bound, attained", **plotting.theory("derived"))
    plain = "|".join(map(re.escape, sorted(FORMULAS, key=len, reverse=True)))
    axis.set_yticks(range(len(names)), [re.sub(plain, lambda m: FORMULAS[m[0]], name) for name in names])
    axis.set(xlim=(min(0.0, 1.05 * table.ratio.min()), 1.05 * max(1.0, table.ratio.max())))
    axis.set(ylim=(len(names) - 0.5, -0.5), xlabel="tightest found / bound [1]", ylabel="bound [name]")
    return plotting.finish(drawing, title, columns=4)
