"""The three methods side by side: accuracy, iterations, samples and cost, beside the theorems' orders."""

import pathlib

import numpy as np
import pandas as pd

from experiments.claims import operations
from jaxmaml import plotting, statistics, storage, theory

NEEDED = ("fo_floor", "hf_floor", "iteration_count", "noisy_line", "operations", "samples")
SHARE = 0.1
"""of the first gradient norm: the accuracy at which iterations are counted."""


def write(where: pathlib.Path) -> pd.DataFrame:
    """Writes where/summary.csv from the claims' tables: one row a quantity, texts with formulas."""
    tables = {name: storage.read_table(where / "tables" / f"{name}.csv") for name in NEEDED}
    methods = pd.DataFrame([_column(name, tables) for name in plotting.ordered(theory.theorems())])
    table = methods.set_index("method").T.reset_index(names="quantity")
    storage.write_table(where / "summary.csv", table)
    return table


def _column(estimator: str, tables: dict[str, pd.DataFrame]) -> dict[str, str]:
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
        "exact gradients, family (c)": rf"{_best(estimator, tables):.2g} $\alpha L\sigma$",
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
        "cost in gradients": f"{equivalents[estimator]:.3g}"
        + (f"; Hessian formed {equivalents['full_hessian']:.0f}" if estimator == "maml" else ""),
    }


def _ascending(run: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """log epsilon and log of the line, by increasing epsilon."""
    some = run[run.step > 0].drop_duplicates("epsilon").sort_values("epsilon")
    return np.log(some.epsilon.to_numpy()), np.log(some.line.to_numpy())


def _best(estimator: str, tables: dict[str, pd.DataFrame]) -> float:
    """||grad F|| at the end in units of alpha L sigma, at the largest rate that was run."""
    if estimator == "hf_maml":
        part = tables["hf_floor"]
        part = part[(part.family == "cosine") & (part.rule == "theorem")]
    else:
        part = tables["fo_floor"]
        part = part[(part.family == "cosine") & (part.estimator == estimator) & (part.task_spread == 1)]
    end = part.sort_values("alpha").iloc[-1]
    return float(end.grad_norm / end.alpha_L_sigma)
