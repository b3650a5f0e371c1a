"""Exact gradients: accuracy epsilon within N(epsilon) = O(epsilon^-2) steps (E12, E27).

As summarised, MAML, FO-MAML and HF-MAML need O(1) Delta (L + rho alpha (sigma + epsilon)) / epsilon^2 steps above
their floors. For exact gradients over all tasks the constant is explicit (derived, N_det in docs/theory.md).

A count is the first step k with ||grad F(w_k)|| <= epsilon; every step is looked at. The accuracies are chosen before
a run, 24 a decade, and a run is as long as its line is at the last of them: an accuracy that it does not
reach fails. Beside the lines, which are upper ones, stand the counts themselves:

  * on the log-spaced spectrum (a') every count is that of a closed form. In the middle of the spectrum the slope
    in epsilon tends to -2 as the spectrum widens, a known factor ln(range) / (1 - c/2) below the line;
  * a slow tail (e) has slope -(1 + 1/p), as near to -2 as one likes, without any spectrum;
  * on a ramp (f) the count is the time of travel, and the line's up to 1/(1 - c/2), 4 % for a long ramp: the
    constant of both lines is sharp;
  * on the nonconvex family and on real images the first accuracies are those of the same run in closed forms.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.cells import theorem_run
from experiments.claim import Claim
from experiments.claims import _closed_forms as closed
from experiments.claims import _log_spectrum, _real_data
from experiments.claims._first_hits import Watched, epsilons
from experiments.judging import largest, place_of, smallest
from jaxmaml import plotting, statistics, theory
from jaxmaml.tasks import cosine, log_spectrum, ramp, slow_tail

WIDTHS = {"smoke": (2.5, 3.0, 3.5, 4.0), "default": (3.5, 4.0, 4.5, 5.0), "full": (4.5, 5.0, 5.5, 6.0)}
"""decades of the spectra (a')."""
MODES = {"smoke": 32, "default": 40, "full": 48}
"""steps from the smallest of their modes to the largest."""
TAIL = 0.1
"""q of the slow tail (e)."""
TAIL_DECADES = {"smoke": 1.75, "default": 2.0, "full": 2.5}
RAMP = {"smoke": 40.0, "default": 400.0, "full": 4000.0}
"""length of the ramp (f), slope 0.1."""
ONLY_MAML = ("log_spectrum", "slow_tail", "ramp")
"""families of which one method says it all."""
REAL = {"maml": 0.5, "fo_maml": 0.25, "hf_maml": 0.25}
"""decades of accuracies on real images: FO-MAML's and HF-MAML's lines end at their floors."""
REPLAYED = 4
"""accuracies whose counts are computed again in closed forms."""
SHARE = 0.1
"""of FO-MAML's floor, which MAML goes below."""
TITLES = {
    "log_spectrum": "log-spaced spectrum (a')",
    "slow_tail": "slow tail (e)",
    "ramp": "ramp (f)",
    "cosine": "nonconvex family (c)",
    "digits from far": "handwritten digits, from far",
    "fashion from far": "Fashion-MNIST, from far",
}
SHARP = "iterations of MAML on ramp"

claim = Claim(
    "E12",
    "exact first hits against epsilon: (a'), (e), (f), (c), digits and clothes",
    place="MAML theorem",
)


def _families(scale):
    """Family and the coordinate of the start, by name; the start of (a') is that of its family."""
    few = scale == "smoke"
    real = _real_data.families(scale)
    return {
        "cosine": (cosine.make(n=20 if few else 50, d=4 if few else 10, seed=3), 4.0),
        "digits": (real["digits"], 0.0),
        **{f"{name} from far": (family, _real_data.FAR) for name, family in real.items()},
        "slow_tail": (slow_tail.make(q=TAIL), 1.0),
        "ramp": (ramp.make(length=RAMP[scale], slope=0.1), 0.0),
    }


@claim.cells
def cells(scale):
    maml = theory.theorems()["maml"]
    for width in WIDTHS[scale]:
        family = log_spectrum.make(decades=width, modes_per_decade=MODES[scale] / width)
        alpha = maml.alpha_max(family.constants().L)
        cell = _cell(family, "maml", alpha, log_spectrum.start(family, alpha), 0.25 + WIDTHS[scale][-1] / 4)
        yield _labels("log_spectrum", cell, width), _also(cell, _log_spectrum.middle(family)[0])
    for name, (family, coordinate) in _families(scale).items():
        decades = {"cosine": 1.0, "slow_tail": TAIL_DECADES[scale], "ramp": 0.5}.get(name)
        for estimator, theorem in theory.theorems().items():
            if name in ONLY_MAML and estimator != "maml":
                continue
            # The largest rate that the theorem allows: 1/6, 1/10, 1/6 over L.
            alpha, w0 = theorem.alpha_max(family.constants().L), np.full(family.dim, coordinate)
            cell = _cell(family, estimator, alpha, w0, decades or REAL[estimator])
            if name == "cosine" and estimator == "maml":
                cell = _also(cell, SHARE * _fo_floor(cell.run))
            yield _labels(name, cell), cell


def _cell(family, estimator, alpha, w0, decades):
    """A run as long as its line, with the sigma of its start where only a bound of it is known."""
    accuracies = epsilons(closed.grad_norm(family, w0, alpha), decades)
    run = theorem_run(family, estimator, alpha, w0, record=(0, 1))
    return Watched(run, accuracies, int(np.ceil(_line(run, closed.spread(family, w0), accuracies)[-1])))


def _also(cell, epsilon):
    return replace(cell, epsilons=np.append(cell.epsilons, epsilon))


def _labels(name, cell, width=0.0):
    return {"family": name, "estimator": cell.run.estimator, "alpha": cell.run.alpha, "width": width}


def _gap(run):
    return closed.objective(run.family, run.w0, run.alpha) - run.family.infimum(run.alpha).value


def _known(run, sigma):
    """The constants; Assumption 4 is needed at the iterates only: sigma there, where only a bound is known."""
    constants = run.family.constants()
    if constants.kind("sigma") != "upper bound":
        return constants
    return replace(constants, sigma=float(sigma) if np.isfinite(sigma) else np.inf)


def _line(run, sigma, accuracies):
    theorem = theory.theorems()[run.estimator]
    return theorem.exact_iterations(accuracies, _gap(run), _known(run, sigma), run.alpha)


def _fo_floor(run):
    """||grad F|| where exact FO-MAML from the same start ends, at the same rate."""
    return run.family.fo_floor(run.family.fo_limit(run.w0, run.alpha), run.alpha)


@claim.per("family", "estimator", "width")
def measured(part, cell):
    """One row an accuracy: the count, its line, the count in closed form where there is one."""
    run, accuracies = cell.run, np.asarray(cell.epsilons)
    theorem, sigma = theory.theorems()[run.estimator], largest(part.spread)
    exact = np.full((2, len(accuracies)), np.nan)
    name, gap = part.family.iloc[0], _gap(run)
    if name == "log_spectrum":
        exact = np.array([_log_spectrum.first_hit(run, e) for e in accuracies]).T
    elif name == "ramp":
        x = np.linspace(0, run.family.tasks.length[0] + 8 * run.family.width, 400_001)
        exact[0] = closed.travel_time(run, np.stack([x, 0 * x], axis=1), accuracies)
    else:
        exact[:, :REPLAYED] = closed.first_hits(run, accuracies[:REPLAYED], cell.length)
    posterior = np.nan
    if run.estimator == "maml":
        posterior = theorem.posterior_line(gap, part.step_sum.to_numpy() / run.c)
    h = np.asarray(getattr(run.family, "eigenvalues", 1.0))
    found = {
        "alpha": run.alpha,
        "start": closed.grad_norm(run.family, run.w0, run.alpha),
        "epsilon": accuracies,
        "step": part.hit,
        "grad_norm": part.grad_norm,
        "line": _line(run, sigma, accuracies),
        "length": cell.length,
        "floor": theorem.exact_floor(_known(run, sigma), run.alpha),
        "posterior": posterior,
        "exact": exact[0],
        "exact_norm": exact[1],
        "rise": part.rise,
        "end": part.end_norm,
        "fo_floor": _fo_floor(run) if name == "cosine" else np.nan,
        "gap": gap,
        "rho": run.rho,
        "c": run.c,
        "range": h.max() / h.min(),
        "unit": _log_spectrum.middle(run.family)[1] if name == "log_spectrum" else np.nan,
    }
    table = pd.DataFrame({key: np.broadcast_to(value, len(accuracies)) for key, value in found.items()})
    return table.sort_values("epsilon", ascending=False)


@claim.rows
def rows(table, row):
    for (name, estimator), part in _plain(table).groupby(["family", "estimator"], sort=False):
        yield _iterations(row, name, estimator, part)
        if name != "ramp":
            yield _curve(row, name, estimator, part)
    maml = table[table.estimator == "maml"]
    by_name = dict(iter(_plain(maml).groupby("family", sort=False)))
    for name, part in by_name.items():
        if name in ("cosine", "digits", "digits from far", "fashion from far", "ramp"):
            yield _posterior(row, name, part)
    yield from _log_spectrum.rows(row, maml[maml.family == "log_spectrum"])
    tail = by_name["slow_tail"]
    # A quarter of a decade apart.
    order = statistics.limit_slope(tail.epsilon[-25::6], tail.step[-25::6])
    yield row.contains(
        "order of MAML's iteration count on slow_tail",
        r"$N(\varepsilon)$ is of order $\varepsilon^{-(1+1/p)}$, $p=1+2q$, $q=0.1$",
        order,
        -slow_tail.make(q=TAIL).order(),
        0.05,
        note="limit of the log-log slopes over the last decade of accuracies",
    )
    yield from _on_ramp(row, by_name["ramp"])
    wave = by_name["cosine"].iloc[-1]
    yield row.at_most(
        "MAML on cosine goes below FO-MAML's floor",
        r"MAML reaches every $\varepsilon$: here a tenth of $\alpha\|\mathrm{Cov}_i(H_i,g_i)\|$, where FO-MAML stops",
        float(wave.end / wave.fo_floor),
        SHARE,
        start=float(wave.start / wave.fo_floor),
        note=f"||grad F|| over FO-MAML's floor {wave.fo_floor:.3g}, after {wave.step:.0f} steps, where the run ends",
        source="as summarised",
    )


def _plain(table):
    """Of the spectra, the widest."""
    return table[(table.family != "log_spectrum") | (table.width == largest(table.width))]


def _number(name):
    return "E27" if "digits" in name or "fashion" in name else "E12"


def _iterations(row, name, estimator, part):
    """One run against its line, at every accuracy at which that is no longer than the run may be."""
    decided = part[part.line <= part.length]
    # Above the floor of its line a method must never raise F (up to rounding).
    descends = largest(part.rise) <= part.floor.iloc[0]
    what = (
        f"iterations of {plotting.label(estimator)} on {name}",
        r"$N(\varepsilon)\le\Delta\,(4L+2\rho\alpha(C_3\sigma+C_1\varepsilon))/(c\,P(\varepsilon))$, exact gradients",
    )
    about = {
        "number": _number(name),
        "place": place_of(estimator),
        "source": "as summarised; constant derived",
    }
    if len(decided) == 0 and descends:
        return row.untested(*what, f"no line above its floor within {part.length.iloc[0]} steps", **about)
    companion = SHARP if estimator == "maml" else ""
    return row.at_most(
        *what,
        # An accuracy that is not reached counts as infinitely many steps.
        largest(decided.step.fillna(np.inf) / decided.line),
        1.0,
        also=descends,
        companion="" if what[0] == companion else companion,
        note=f"largest first hit / line, {largest(decided.epsilon):.3g} >= eps >= {smallest(decided.epsilon):.3g}, "
        f"of ||grad F(w_0)|| = {part.start.iloc[0]:.3g}",
        **about,
    )


def _curve(row, name, estimator, part):
    """The norms at the first hits against those of the same run in closed forms."""
    known = part[part.exact_norm.notna()]
    spectral = name == "log_spectrum"
    return row.within(
        f"{plotting.label(estimator)}'s curve on {name} equals {'the exact one' if spectral else 'its closed form'}",
        r"$\|\nabla F(w_k)\|^2=\sum_h h^2(1-\alpha h)^4(1-\beta p)^{2k}(w_0-\bar c)_h^2$"
        if spectral
        else r"$w_{k+1}=w_k-\frac c{4L+2\rho\alpha E\|\nabla f_i(w_k)\|}G(w_k)$, every derivative in closed form",
        largest((known.grad_norm / known.exact_norm - 1).abs()),
        0.0,
        1e-8,
        note=f"largest relative difference of ||grad F|| at {len(known)} first hits, up to k = {largest(known.exact):.0f}",
        number=_number(name),
        place=place_of(estimator),
    )


def _posterior(row, name, part):
    """One run of MAML against the line that the run itself gives."""
    return row.at_most(
        f"a-posteriori line of MAML on {name}",
        r"$\min_{j<K}\|\nabla F(w_j)\|^2\le\Delta\big/\big(c(1-\frac c2)\sum_{j<K}1/L(w_j)\big)$",
        # Before the first hit K of epsilon the smallest norm exceeds epsilon.
        largest((part.epsilon / part.posterior)[part.line <= part.length]),
        1.0,
        companion="" if name == "ramp" else "a-posteriori line of MAML on ramp",
        note="largest epsilon / line at the first hit K",
        number=_number(name),
    )


def _on_ramp(row, part):
    first = part.iloc[0]
    g, q = first.start, first.epsilon / first.start
    W = first.gap / g
    left = W - np.log(q / (1 - q))
    # Beside W: what is left of the slope's fall, alpha g in w+, alpha f'' in F', and rho alpha g in L(w).
    rest = ((1 - q) / q + 2 * first.alpha * g) / left + first.rho * first.alpha * g / 2
    expected = W / left / q**2 / (1 - first.c / 2)
    least = 100 * (first.line / first.step - 1)
    yield row.within(
        "constant of MAML's line on ramp",
        r"line / measured $=\frac1{1-c/2}\frac W{W-\ln199}\frac1{0.995^2}$ at $\varepsilon=0.995\,g$, slope $g$",
        float(first.line / first.step),
        expected,
        expected * rest,
        note=f"the constant of the line cannot be improved by more than {least:.0f} %, 4 % for a long ramp",
    )
    yield row.within(
        "MAML's counts on ramp equal the time of travel",
        r"$N=\lceil\int\frac{L(w)}{c\,\|\nabla F(w)\|}dw+\frac12\ln\frac{\beta\|\nabla F\|}{\beta_0\|\nabla F(w_0)\|}\rceil$",
        largest((part.step - np.ceil(part.exact)).abs()),
        0.0,
        1.0,
        note=f"largest difference in steps, of up to {largest(part.exact):.0f}; one for rounding",
    )


@claim.figure
def figure(table):
    """Outer steps until the gradient is as small as asked for, beside the number that the theory allows.

    MAML reaches every accuracy; the allowance of FO-MAML and HF-MAML ends where the bound has its floor.
    """
    shown = ("log_spectrum", "slow_tail", "cosine", "digits from far")
    drawing, axes = plotting.panels(2, 2)
    for axis, name in zip(axes, shown, strict=True):
        here = _plain(table[table.family == name])
        axis.set(xscale="log", yscale="log", xlabel=r"accuracy $\varepsilon$ [$\varphi/u$]")
        for estimator in plotting.ordered(here.estimator):
            part, label = here[here.estimator == estimator], plotting.label(estimator)
            look = plotting.look(estimator)
            axis.plot(part.epsilon, part.step, label=label, **look | {"markersize": 3, "linewidth": 0.8})
            allowed = plotting.theory("derived", look["color"]) | {"label": f"{label}, allowed (derived)"}
            axis.plot(part.epsilon, part.line.where(np.isfinite(part.line)), **allowed)
            floor = part.floor.iloc[0]
            if floor > part.epsilon.min() / 3:
                wall = plotting.theory("as summarised", look["color"]) | {"linewidth": 0.9}
                axis.axvline(floor, **wall, label=f"{label}'s floor")
        if name == "log_spectrum":
            exact = plotting.theory("exact") | {"linewidth": 2, "zorder": 3}
            axis.plot(part.epsilon, part.exact, label="exact count", **exact)
        title = {
            "log_spectrum": "quadratics, curvatures of many sizes",
            "slow_tail": "a slowly flattening valley",
            "cosine": "nonconvex family",
            "digits from far": "handwritten digits, from far",
        }
        axis.set_title(title[name])
        axis.set_ylabel(r"steps to $\|\nabla F\|\leq\varepsilon$ [1]")
    return plotting.finish(drawing, "Exact gradients: how many steps an accuracy takes", columns=4)
