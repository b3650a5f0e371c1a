"""The three methods side by side: accuracy, iterations, samples and cost, beside the theorems' orders."""

import pathlib

import numpy as np
import pandas as pd

from experiments.claims import operations
from jaxmaml import plotting, statistics, storage, theory

NEEDED = ("fo_floor", "hf_floor", "iteration_count", "noisy_line", "operations", "samples")
PRODUCT = "a product with the Hessian, in gradients"
SHARE = 0.1
"""of the first gradient norm: the accuracy at which iterations are counted."""


def write(where: pathlib.Path) -> pd.DataFrame:
    """Writes where/summary.csv from the claims' tables: one row a quantity, texts with formulas."""
    tables = {name: storage.read_table(where / "tables" / f"{name}.csv") for name in NEEDED}
    names = plotting.ordered(theory.theorems())
    rates = _rates(names, tables)
    methods = pd.DataFrame([_column(name, tables, rates) for name in names])
    table = methods.set_index("method").T.reset_index(names="quantity")
    storage.write_table(where / "summary.csv", table)
    return table


def _column(estimator: str, tables: dict[str, pd.DataFrame], rates: list[int]) -> dict[str, str]:
    counts = tables["iteration_count"]
    run = counts[(counts.family == "cosine") & (counts.estimator == estimator)]
    epsilon = SHARE * float(run.start.iloc[0])
    # An accuracy of the table, up to rounding.
    reached = run[(run.epsilon <= epsilon * (1 + 1e-9)) & run.step.notna()].head(1)
    line = np.interp(np.log(epsilon), *_ascending(run))
    steps = f"{reached.step.iloc[0]:.0f} steps" if len(reached) else "not reached"
    bound = f"at most {np.exp(line):.2g}" if np.isfinite(line) else "no bound: below the floor of the line"
    noisy = tables["noisy_line"]
    level = noisy[(noisy.estimator == estimator) & (noisy.family == "cosine")].iloc[-1]
    equivalents = operations.gradient_equivalents(tables["operations"])
    samples = tables["samples"][tables["samples"].rule == "summarised floor"]
    order = statistics.slope(*(samples[samples.epsilon < 0.1][c] for c in ("epsilon", "samples"))).mean
    stays = estimator != "maml"
    return {
        "method": plotting.label(estimator),
        "best accuracy, order": {
            "maml": r"every $\varepsilon$",
            "fo_maml": r"$\alpha L\sigma$",
            "hf_maml": r"every $\varepsilon$ as summarised; with its $\delta$ at most of order "
            r"$\min(\frac\eta2,\lambda)\,\sigma$ (derived)",
        }[estimator],
        r"$\lVert\nabla F\rVert$ at the end, exact gradients, family (c)": _ends(
            _exact(estimator, tables), rates
        ),
        "noisy, B = 20, family (c)": f"{level.level:.2g}; floor as summarised {level.floor_summary:.2g}",
        "iterations, order": r"$\Delta(L+\rho\alpha(\sigma+\varepsilon))/\varepsilon^2$"
        + (" above the floor" if stays else ""),
        "iterations to a tenth of the first gradient, family (c)": f"{steps}; {bound}",
        "samples an iteration, order": r"$\varepsilon^{-4}$" + (" above the floor" if stays else ""),
        "samples, by the summarised floor": f"exponent {order:.3g}" if estimator == "maml" else "as MAML",
        "cost an iteration, order": {
            "maml": r"$d^2$ as summarised; $d$ by a product (derived)",
            "fo_maml": r"$d$",
            "hf_maml": r"$d$",
        }[estimator],
        PRODUCT: _product(estimator, tables["operations"]),
        "a direction, in gradients": f"{equivalents[estimator]:.3g}"
        + (f"; Hessian formed {equivalents['full_hessian']:.0f}" if estimator == "maml" else ""),
    }


def _ascending(run: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """log epsilon and log of the line, by increasing epsilon."""
    some = run[run.step > 0].drop_duplicates("epsilon").sort_values("epsilon")
    return np.log(some.epsilon.to_numpy()), np.log(some.line.to_numpy())


def _exact(estimator: str, tables: dict[str, pd.DataFrame]) -> pd.Series:
    """||grad F|| at the end with exact gradients, by 1 / (alpha L)."""
    if estimator == "hf_maml":
        part = tables["hf_floor"]
        part = part[(part.family == "cosine") & (part.rule == "theorem")]
    else:
        part = tables["fo_floor"]
        part = part[(part.family == "cosine") & (part.estimator == estimator) & (part.task_spread == 1)]
    return part.set_index("inverse_lambda").grad_norm


def _rates(estimators: list[str], tables: dict[str, pd.DataFrame]) -> list[int]:
    """1 / (alpha L): the largest and the smallest rate of those at which every method was run, if any."""
    common = set.intersection(*(set(_exact(name, tables).index) for name in estimators))
    return sorted({min(common), max(common)}) if common else []


def _ends(norms: pd.Series, rates: list[int]) -> str:
    """At these rates, or without any at the method's own largest: without its rate a number says nothing."""
    return "; ".join(rf"{norms[rate]:.2g} at $\alpha L=1/{rate}$" for rate in rates or [norms.index.min()])


def _product(estimator: str, table: pd.DataFrame) -> str:
    """What its product with the Hessian adds to the two gradients of FO-MAML, in operations."""
    if estimator == "fo_maml":
        return "none"
    last = table[table.d == table.groupby("architecture").d.transform("max")]
    ratios = (last.flops / last.gradient_flops).set_axis(
        pd.MultiIndex.from_frame(last[["method", "architecture"]])
    )
    added = ratios[estimator] - ratios["fo_maml"]
    networks = added.drop(operations.LINEAR)
    linear, low, high = added[operations.LINEAR], networks.min(), networks.max()
    return f"{linear:.2g} on linear scores, {low:.2g} to {high:.2g} on networks"
