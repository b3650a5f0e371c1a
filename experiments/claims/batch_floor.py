"""The accuracy floor against the batch sizes, where it is known exactly (E18).

On quadratics that share a Hessian the iterates are a linear recursion with additive noise, so that
E||grad F(w_k)||^2 is known for every k (derived): the floor is proportional to 1/sqrt(B) in all of its
parts, that of sigma, of sigma~/sqrt(D_o) and of alpha L sigma~/sqrt(D_in). The theorem's floor, as
summarised, and the derived one are upper lines.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cells, theorem_run
from experiments.judging import at_most, floor_statement, largest, place_of, smallest, within
from experiments.results import LedgerRow
from experiments.run import log_steps
from jaxmaml import plotting, statistics, theory
from jaxmaml.tasks import shared_quadratic
from jaxmaml.tasks.shared_quadratic import SharedQuadratic
from jaxmaml.types import BatchSizes

TITLE = "stationary accuracy against B and D_o, on the exact stochastic line"
LAMBDA = 1 / 10
D_IN = 8.0
SEEDS = {"smoke": 32, "default": 256, "full": 1024}
STEPS = {"smoke": 2000, "default": 4000, "full": 10_000}
SERIES = (
    *((e, B, 4.0) for e in ("maml", "fo_maml", "hf_maml") for B in (20, 80, 320)),
    *(("maml", 20, D_o) for D_o in (1.0, 16.0, 64.0)),
)
# smoke: MAML at all B, the others at one.
SMOKE = tuple(s for s in SERIES if s[0] == "maml" or s[1] == 20)


def _family() -> SharedQuadratic:
    return shared_quadratic.make(n=20, d=4, smallest=0.3, largest=1.5, tau=6.0, seed=2)


def _sizes(B: int, D_o: float) -> BatchSizes:
    return BatchSizes(B=B, D_in=D_IN, D_o=D_o, D_h=1.0, B_prime=1, D_beta=None)


def _start(family: SharedQuadratic) -> np.ndarray:
    return np.full(family.dim, 3.0)


def grid(scale: str) -> Cells:
    family = _family()
    constants = family.constants()
    record = log_steps(STEPS[scale], per_decade=8, tail=20)
    cells = []
    for estimator, B, D_o in SMOKE if scale == "smoke" else SERIES:
        for seed in range(SEEDS[scale]):
            cell = theorem_run(
                family,
                estimator,
                LAMBDA / constants.L,
                _start(family),
                record=record,
                # rho = 0: any number is the right step of the difference.
                arguments={"delta": 0.7} if estimator == "hf_maml" else {},
                sizes=_sizes(B, D_o),
                seed=seed,
            )
            cells.append(({"estimator": estimator, "B": B, "D_o": D_o, "seed": seed}, cell))
    return cells


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """E||grad F(w_k)||^2 over seeds a recorded step, and its mean over the last half (step = -1)."""
    del scale
    family = _family()
    constants = family.constants()
    alpha = LAMBDA / constants.L
    table = []
    for (estimator, B, D_o), part in rows.groupby(["estimator", "B", "D_o"], sort=False):
        theorem = theory.theorems()[estimator]
        sizes = _sizes(B, D_o)
        squares = part.pivot(index="step", columns="seed", values="grad_norm") ** 2
        steps = squares.index.to_numpy()
        exact = family.exact_line(steps, _start(family), estimator, alpha, theorem.c, sizes)
        late = steps >= steps[-1] / 2
        shared = {
            "estimator": estimator,
            "B": B,
            "D_o": D_o,
            "floor": theorem.floor(constants, alpha, sizes),
            "floor_summary": theorem.floor_summary(constants, alpha, sizes),
        }
        values = [
            (k, statistics.interval(v), e) for k, v, e in zip(steps, squares.to_numpy(), exact, strict=True)
        ]
        values.append((-1, statistics.interval(squares[late].mean(axis=0)), exact[late].mean()))
        table += [
            shared | {"step": k, "square": i.mean, "low": i.low, "high": i.high, "exact": e, "seeds": i.n}
            for k, i, e in values
        ]
    return pd.DataFrame(table)


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    rows = []
    late = table[table.step == -1]
    for estimator in ("maml", "fo_maml", "hf_maml"):
        one = late[late.estimator == estimator]
        # Half the interval is about 2 standard errors; the ratio is a z-score of the late mean.
        z = largest(2 * (one.square - one.exact).abs() / (0.5 * (one.high - one.low)))
        width = largest((one.high - one.low) / one.square)
        rows.append(
            at_most(
                "E18",
                f"stationary ||grad F||^2 of {plotting.label(estimator)} equals the exact line",
                r"$E\|\nabla F(w_k)\|^2=\sum_h h^2(1-\alpha h)^4\big[(1-\beta p)^{2k}r_h^2+"
                r"\frac{\beta\Sigma_h}{p(2-\beta p)}(1-(1-\beta p)^{2k})\big]$, $k\to\infty$",
                place_of(estimator),
                "derived",
                z,
                4.0,
                also=width <= 0.5,
                note=f"largest distance in standard errors over B and D_o; intervals within {width:.2g}",
            )
        )
        worst = one.iloc[int(np.argmax((one.high / one.floor_summary**2).to_numpy()))]
        tight = smallest(one.floor / np.sqrt(one.high))
        rows.append(
            at_most(
                "E18",
                f"stationary accuracy of {plotting.label(estimator)} against its theorem",
                floor_statement(theory.theorems()[estimator]),
                place_of(estimator),
                "as summarised",
                float(np.sqrt(worst.high)),
                float(worst.floor_summary),
                also=tight >= 1,
                sharp=False,
                note=f"the derived floor has slack {tight:.3g}",
            )
        )
    maml = late[(late.estimator == "maml") & (late.D_o == 4.0)]
    # Half a 95 % interval of the square is two standard errors of it, four of the root in relative terms.
    errors = (maml.high - maml.low) / (8 * np.sqrt(maml.square))
    fit = statistics.slope(maml.B, np.sqrt(maml.square), errors=errors)
    rows.append(
        within(
            "E18",
            "the floor of MAML is proportional to 1/sqrt(B)",
            r"floor of order $1/\sqrt B$ in $\sigma$, $\tilde\sigma/\sqrt{D_o}$ and $\alpha L\tilde\sigma/\sqrt{D_{in}}$",
            "MAML theorem",
            "derived; as summarised without 1/B on the last",
            fit,
            -0.5,
            0.05,
            note="log-log slope",
        )
    )
    return rows


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(2)
    curves = table[(table.step > 0) & (table.D_o == 4.0) & (table.B == 20)]
    for estimator in plotting.ordered(curves.estimator):
        part = curves[curves.estimator == estimator]
        axes[0].loglog(
            part.step,
            np.sqrt(part.square),
            plotting.MARKERS[estimator],
            markersize=2.5,
            color=plotting.color(estimator),
            label=plotting.label(estimator),
        )
        axes[0].loglog(part.step, np.sqrt(part.exact), "-.", linewidth=0.9, color=plotting.color(estimator))
    axes[0].plot([], [], "-.", color="k", label="exact line")
    axes[0].set_xlabel("outer step $k$ [1]")
    axes[0].set_ylabel(r"$(E\|\nabla F(w_k)\|^2)^{1/2}$ [$\varphi/u$]")
    axes[0].set_title("$B=20$")
    late = table[(table.step == -1) & (table.D_o == 4.0)]
    for estimator in plotting.ordered(late.estimator):
        part = late[late.estimator == estimator]
        middle = np.sqrt(part.square)
        axes[1].errorbar(
            part.B,
            middle,
            [middle - np.sqrt(part.low), np.sqrt(part.high) - middle],
            fmt=plotting.MARKERS[estimator],
            capsize=2,
            color=plotting.color(estimator),
            label=plotting.label(estimator),
        )
    one = late[late.estimator == "maml"].sort_values("B")
    axes[1].loglog(one.B, np.sqrt(one.exact), "-.", color="0.4", label="MAML, exact")
    plotting.fitted(axes[1], one.B, np.sqrt(one.square))
    axes[1].loglog(one.B, one.floor, "--", color="k", label="MAML floor, derived")
    axes[1].loglog(one.B, one.floor_summary, ":", color="k", label="MAML floor, as summarised")
    axes[1].set_xlabel("tasks $B$ [1]")
    axes[1].set_title("stationary")
    return plotting.finish(drawing, "Quadratics with a shared Hessian: the stochastic floor, exactly")
