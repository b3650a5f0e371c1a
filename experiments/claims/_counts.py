"""Recorded curves of exact runs against the theorems' lines, for real_data."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.judging import at_most, largest, place_of, untested
from experiments.results import LedgerRow
from jaxmaml import plotting, theory
from jaxmaml.types import BatchSizes, Family

PER_DECADE = 24


def curve_and_lines(part: pd.DataFrame, family: Family, estimator: str) -> pd.DataFrame:
    """One exact run with the lines at its smallest gradient norms so far, one row a recorded step."""
    theorem, constants = theory.theorems()[estimator], family.constants()
    if constants.kind("sigma") == "upper bound":
        # Assumption 4 is needed at the iterates only, and there sigma is known exactly.
        sigma = largest(part.spread)
        constants = replace(constants, sigma=sigma if np.isfinite(sigma) else np.inf)
    alpha = float(part.alpha.iloc[0])
    gap = float(part.objective.iloc[0]) - family.infimum(alpha).value
    best = np.minimum.accumulate(part.grad_norm.to_numpy())
    posterior = np.full(len(part), np.nan)
    if estimator == "maml":
        # The run adds up beta_j = c / L(w_j) over every step, recorded or not.
        posterior[1:] = theorem.posterior_line(gap, part.step_sum.to_numpy()[1:] / theorem.c)
    return pd.DataFrame(
        {
            "estimator": estimator,
            "alpha": alpha,
            "step": part.step.to_numpy(),
            "grad_norm": part.grad_norm.to_numpy(),
            "epsilon": best,
            "line": theorem.exact_iterations(best, gap, constants, alpha),
            "order": theorem.iterations_summary(best, gap, constants, alpha, BatchSizes()),
            "posterior": posterior,
            "objective": part.objective.to_numpy(),
            "diverged_at": part.diverged_at.to_numpy(),
            "gap": gap,
            "c": theorem.c,
        }
    )


def iterations_row(claim: str, estimator: str, where: str, part: pd.DataFrame) -> LedgerRow:
    """One run of `curve_and_lines` against its line."""
    new = part[(part.step > 0) & np.isfinite(part.line)]
    # The line bounds the smallest of w_0, ..., w_{N-1}: step k is the (k + 1)st.
    ratio = (new.step + 1) / new.line
    # Above the floor of its line a method must never raise F (up to rounding).
    above = part.objective[np.isfinite(part.line)]
    rises = np.diff(above) > 1e-12 * np.abs(part.objective.iloc[0])
    about = (
        claim,
        f"iterations of {plotting.label(estimator)} on {where}",
        r"$N(\varepsilon)\le\Delta\,(4L+2\rho\alpha(C_3\sigma+C_1\varepsilon))/(c\,P(\varepsilon))$, exact gradients",
        place_of(estimator),
        "as summarised; constant derived",
    )
    stayed = bool((part.diverged_at < 0).all())
    if len(new) == 0 and stayed:
        low = part.epsilon.max()
        return untested(*about, f"||grad F|| <= {low:.3g} from the start, below the floor of the line")
    return at_most(
        *about,
        largest(ratio),
        1.0,
        also=stayed and not rises.any(),
        note=f"largest measured / line, {new.epsilon.max():.3g} >= eps >= {new.epsilon.min():.3g}",
    )


def posterior_row(claim: str, where: str, maml: pd.DataFrame) -> LedgerRow:
    """One run of MAML against the line that the run itself gives."""
    # The line at K bounds the smallest of w_0, ..., w_{K-1}: the record before K, at the latest.
    before = maml.epsilon.shift()[maml.step > 0]
    return at_most(
        claim,
        f"a-posteriori line of MAML on {where}",
        r"$\min_{j<K}\|\nabla F(w_j)\|^2\le\Delta\big/\big(c(1-\frac c2)\sum_{j<K}1/L(w_j)\big)$",
        "MAML theorem",
        "derived",
        largest(before / maml.posterior[maml.step > 0]),
        1.0,
        note="largest ratio over all recorded K",
    )


def draw_counts(axis: Axes, here: pd.DataFrame) -> None:
    """The measured counts of each method over epsilon, with their lines."""
    for estimator in plotting.ordered(here.estimator):
        part = here[here.estimator == estimator]
        shade = plotting.color(estimator)
        first = part.drop_duplicates("epsilon")
        axis.loglog(
            first.epsilon,
            first.step,
            color=shade,
            label=f"{plotting.label(estimator)}, measured",
        )
        line = part[np.isfinite(part.line)].drop_duplicates("epsilon")
        axis.loglog(
            line.epsilon,
            line.line,
            "--",
            color=shade,
            label=rf"{plotting.label(estimator)}, $N_{{det}}(\varepsilon)$ derived",
        )
    maml = here[here.estimator == "maml"].drop_duplicates("epsilon")
    axis.loglog(maml.epsilon, maml.order, ":", color="k", label=r"order as summarised, $O(1)=1$")
    # Far below its start a method that converges linearly says nothing about the order.
    axis.set_xlim(2 * here.epsilon.max(), max(here.epsilon.min(), 1e-5 * here.epsilon.max()))
    axis.set_ylim(1, 1e4 * here.step.max())
