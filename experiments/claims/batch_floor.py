"""The accuracy floor against the batch sizes, where it is known exactly (E18).

On quadratics that share a Hessian the iterates are a linear recursion with additive noise, so that
E||grad F(w_k)||^2 is known for every k (derived): the floor is proportional to 1/sqrt(B) in all of its
parts, that of sigma, of sigma~/sqrt(D_o) and of alpha L sigma~/sqrt(D_in). The theorem's floor, as
summarised, and the derived one are upper lines, below the gradient from where the runs start.
"""

import numpy as np
import pandas as pd

from experiments.cells import theorem_run
from experiments.claim import Claim
from experiments.judging import floor_statement, largest, place_of, smallest
from experiments.run import log_steps
from jaxmaml import plotting, statistics, theory
from jaxmaml.tasks import shared_quadratic
from jaxmaml.types import BatchSizes

LAMBDA = 1 / 10
START = (3.0, 3.0, 3.0, 40.0)
"""w_0, far out along the largest eigenvalue, where it is forgotten first: the floors lie below the gradient there."""
SEEDS = {"smoke": 24, "default": 96, "full": 1024}
STEPS = {"smoke": 2000, "default": 4000, "full": 10_000}
METHODS = ("maml", "fo_maml", "hf_maml")
SERIES = (
    *((e, B, 4.0) for e in METHODS for B in (20, 80, 320)),
    *(("maml", 20, D_o) for D_o in (1.0, 16.0, 64.0)),
)
# smoke: MAML at two B, the others at one.
SMOKE = tuple(s for s in SERIES if s[1] == 20 or s[:2] == ("maml", 80))

claim = Claim("E18", "stationary accuracy against B and D_o, on the exact stochastic line")


@claim.cells
def cells(scale):
    family = shared_quadratic.make(n=20, d=4, smallest=0.3, largest=1.5, tau=6.0, seed=2)
    alpha, w0 = LAMBDA / family.constants().L, np.array(START)
    record = log_steps(STEPS[scale], per_decade=8, tail=20)
    for estimator, B, D_o in SMOKE if scale == "smoke" else SERIES:
        # rho = 0: any number is the right step of the difference.
        arguments = {"delta": 0.7} if estimator == "hf_maml" else {}
        sizes = BatchSizes(B=B, D_in=8.0, D_o=D_o, D_h=1.0, B_prime=1, D_beta=None)
        about = {"record": record, "arguments": arguments, "sizes": sizes}
        for seed in range(SEEDS[scale]):
            cell = theorem_run(family, estimator, alpha, w0, seed=seed, **about)
            yield {"estimator": estimator, "B": B, "D_o": D_o, "seed": seed}, cell


@claim.per("estimator", "B", "D_o")
def measured(part, cell):
    """E||grad F(w_k)||^2 over seeds a recorded step, and its mean over the last half (step = -1)."""
    theorem, constants = theory.theorems()[cell.estimator], cell.family.constants()
    squares = part.pivot(index="step", columns="seed", values="grad_norm") ** 2
    steps = squares.index.to_numpy()
    exact = cell.family.exact_line(steps, cell.w0, cell.estimator, cell.alpha, theorem.c, cell.sizes)
    late = steps >= steps[-1] / 2
    each = squares.to_numpy()
    values = np.vstack([each, np.mean(each[late], axis=0)])
    found = [statistics.interval(x) for x in values]
    return pd.DataFrame(
        {
            "step": [*steps, -1],
            "square": [i.mean for i in found],
            "error": np.std(values, axis=1, ddof=1) / np.sqrt(squares.shape[1]),
            "low": [i.low for i in found],
            "high": [i.high for i in found],
            "exact": [*exact, np.mean(exact[late])],
            "start": np.sqrt(largest(squares.iloc[0])),
            "seeds": squares.shape[1],
            "floor": theorem.floor(constants, cell.alpha, cell.sizes),
            "floor_summary": theorem.floor_summary(constants, cell.alpha, cell.sizes),
        }
    )


@claim.rows
def rows(table, row):
    late = table[table.step == -1]
    for estimator in METHODS:
        one, name = late[late.estimator == estimator], plotting.label(estimator)
        width, root = largest(row.z * one.error / one.square), np.sqrt(one.square)
        yield row.agrees(
            f"stationary ||grad F||^2 of {name} equals the exact line",
            r"$E\|\nabla F(w_k)\|^2=\sum_h h^2(1-\alpha h)^4\big[(1-\beta p)^{2k}r_h^2+"
            r"\frac{\beta\Sigma_h}{p(2-\beta p)}(1-(1-\beta p)^{2k})\big]$, $k\to\infty$",
            one.square,
            one.exact,
            one.error,
            # Wide intervals would tell nothing: B off by 4 changes the square by that factor.
            also=width <= 0.75,
            note=f"over B and D_o; intervals within {width:.2g} of the value",
            place=place_of(estimator),
        )
        yield row.at_most(
            f"stationary accuracy of {name} against its theorem",
            floor_statement(theory.theorems()[estimator]),
            row.worst(root, one.error / (2 * root), one.floor_summary),
            1.0,
            start=smallest(one.start / one.floor_summary),
            sharper=largest(one.floor / one.floor_summary),
            note="largest (E||grad F||^2)^(1/2) over the floor",
            place=place_of(estimator),
            source="as summarised",
        )
    maml = late[(late.estimator == "maml") & (late.D_o == 4.0)]
    root = np.sqrt(maml.square)
    yield row.contains(
        "the floor of MAML is proportional to 1/sqrt(B)",
        r"floor of order $1/\sqrt B$ in $\sigma$, $\tilde\sigma/\sqrt{D_o}$ and $\alpha L\tilde\sigma/\sqrt{D_{in}}$",
        row.slope(maml.B, root, maml.error / (2 * root)),
        -0.5,
        0.1,
        note="log-log slope",
        place="MAML theorem",
        source="derived; as summarised without 1/B on the last",
    )


@claim.figure
def figure(table):
    """Noisy runs on quadratics with one Hessian settle exactly where the closed form says, far below the theorems' floors.

    The level falls like one over the root of the number of tasks, and with the samples of the outer gradient.
    """
    drawing, axes = plotting.panels(3, height=2.6, sharey=True)
    curves = table[(table.step > 0) & (table.D_o == 4.0) & (table.B == 20)]
    late = table[table.step == -1]
    for estimator in plotting.ordered(curves.estimator):
        name, dots = plotting.label(estimator), plotting.look(estimator) | {"linestyle": "none"}
        exact = plotting.theory("exact", dots["color"]) | {"label": f"_{name}"}
        part = curves[curves.estimator == estimator]
        axes[0].loglog(part.step, np.sqrt(part.square), **dots | {"markersize": 2.5}, label=name)
        axes[0].loglog(part.step, np.sqrt(part.exact), **exact)
        for axis, column, fixed in ((axes[1], "B", {"D_o": 4.0}), (axes[2], "D_o", {"B": 20})):
            mine = late[late.estimator == estimator]
            one = mine[(mine[list(fixed)] == list(fixed.values())).all(axis=1)].sort_values(column)
            if one[column].nunique() < 2:
                continue
            middle = np.sqrt(one.square)
            ends = [middle - np.sqrt(one.low), np.sqrt(one.high) - middle]
            axis.errorbar(one[column], middle, ends, capsize=2, label=name, **dots)
            axis.loglog(one[column], np.sqrt(one.exact), **exact)
            if estimator == "maml":
                axis.loglog(
                    one[column],
                    one.floor,
                    **plotting.theory("derived", dots["color"]),
                    label="MAML's floor, derived",
                )
                stated = plotting.theory("as summarised", dots["color"])
                axis.loglog(one[column], one.floor_summary, **stated, label="MAML's floor, as summarised")
    one = late[(late.estimator == "maml") & (late.D_o == 4.0)].sort_values("B")
    plotting.fitted(axes[1], one.B, np.sqrt(one.square))
    axes[0].plot([], [], **plotting.theory("exact"), label="exact level")
    axes[0].set(title="a run, 20 tasks a step", xlabel="outer step $k$ [1]")
    axes[1].set(title="settled, by tasks", xlabel="tasks a step $B$ [1]")
    axes[2].set(title="settled, by samples", xlabel="outer samples $D_o$ [1]")
    axes[0].set_ylabel(r"$(E\|\nabla F\|^2)^{1/2}$ [$\varphi/u$]")
    return plotting.finish(drawing, "One Hessian for all tasks: the level of the noise, exactly")
