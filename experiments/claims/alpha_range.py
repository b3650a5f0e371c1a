"""MAML's theorem cannot hold for alpha up to 1/L with one constant (E24).

As summarised, for alpha <= 1/L MAML needs at most O(1) Delta (L + rho alpha (sigma + eps)) / eps^2 steps. One task
in one dimension, f'' = L - s (3/2 + cos(omega w)/2), so that I - alpha H lies between s/L and 2s/L at alpha = 1/L:
F' is of order (s/L)^2 L w, while L(w) = 4L + 2 rho alpha |f'| is as large as for any other rate. Derived
(docs/findings/alpha-range.md): from w_0 = R the steps to |F'| <= eps = s^2 (L - 2s) R / (2 L^2) are at least
R L omega / (8 c s), and steps over allowance exceeds L^2 (1 - 2s/L) / (16 c s^2) as omega -> inf: no constant will do.
Up to alpha L = 0.35 the same problem is well within the constant that is proved there.

Counts are exact first hits. At alpha = 1/L no step turns omega w by more than 4 c s / L, and a count is the
time of travel; at the other rates it is that of the same run in closed forms.
"""

import math

import numpy as np

from experiments.cells import FirstHits
from experiments.claim import Claim
from experiments.claims import _closed_forms as closed
from experiments.judging import largest, smallest
from experiments.run import Run
from jaxmaml import plotting, statistics, theory
from jaxmaml.tasks._noise import make_noise
from jaxmaml.tasks.cosine import Cosine, CosineTasks

L, START = 1.0, 10.0
PROVEN = 0.35
MAML = theory.theorems()["maml"]
CONSTANT = MAML.explicit_constants(PROVEN)[2]
GAPS = (0.2, 0.14, 0.1, 0.07, 0.05, 0.035)
"""s, with omega = 1.6 / s^3."""
COUNTS = {"smoke": 4, "default": 5, "full": 6}
LAMBDAS = (0.1, 0.2, PROVEN, 1.0)

claim = Claim(
    "E24",
    "MAML's range of alpha: the iteration count at alpha = 1/L and up to 0.35/L",
    place="MAML theorem",
)


def _family(s):
    """f'' = (L - 3s/2) - s/2 cos(omega w); omega so that s omega R >> 4 L by the same factor for every s."""
    omega = 1.6 / s**3
    tasks = CosineTasks(np.zeros((1, 1)), np.zeros((1, 1)))
    return Cosine(L - 1.5 * s, 0.5 * s / omega**2, omega, tasks, make_noise())


@claim.cells
def cells(scale):
    w0 = np.array([START])
    for s in GAPS[: COUNTS[scale]]:
        family = _family(s)
        edge = closed.grad_norm(family, w0, 1 / L)
        # Four times the least number at the smallest s: a run that has not arrived by then is no run of MAML.
        last = GAPS[COUNTS[scale] - 1]
        steps = round(4 * _least(last, _family(last).omega))
        for lam in LAMBDAS:
            # At alpha = 1/L the accuracy is that of the argument; elsewhere the same share of the start.
            eps = s**2 * (L - 2 * s) * START / (2 * L**2) / edge * closed.grad_norm(family, w0, lam / L)
            run = Run(family, "maml", lam / L, MAML.c, L, 0.5 * s * family.omega, w0, record=(0, steps))
            yield {"s": s, "lam": lam}, FirstHits(run, np.array([eps]))


def _least(s, omega):
    return START * L * omega / (8 * MAML.c * s)


@claim.per("s", "lam")
def measured(part, cell):
    """One row a run: the steps to the accuracy, its allowance without the O(1), what they should be by closed
    forms, and the derived least number."""
    (s, lam), run, eps = part[["s", "lam"]].iloc[0], cell.run, cell.epsilons[0]
    omega, edge = run.family.omega, lam == 1
    # F >= 0: the value at the start bounds the gap.
    gap = closed.objective(run.family, run.w0, run.alpha)
    if edge:
        # |F'| >= s^2 (L - 2s) |w| / L^2 <= eps not before R/2, and not after R/4; 128 points a wave
        path = np.linspace(START, START / 4, round(0.75 * START * omega / (2 * np.pi) * 128))
        exact = closed.travel_time(run, path[:, None], [eps])[0]
    else:
        exact = _first_hit(run, eps)
    return {
        "omega": omega,
        "epsilon": eps,
        "steps": part.hit.iloc[0],
        "exact": exact,
        "allowance": gap * (L + run.rho * run.alpha * eps) / eps**2,
        "least": _least(s, omega) if edge else np.nan,
        "limit": L**2 * (1 - 2 * s / L) / (16 * run.c * s**2) if edge else np.nan,
    }


def _first_hit(run, eps):
    """The first k with |F'(w_k)| <= eps, every derivative in closed form."""
    mu, a, omega = run.family.mu, run.family.a, run.family.omega

    def slope(w):
        return mu * w - a * omega * math.sin(omega * w)

    w = START
    for k in range(10**6):
        inner, curvature = slope(w), mu - a * omega**2 * math.cos(omega * w)
        outer = (1 - run.alpha * curvature) * slope(w - run.alpha * inner)
        if abs(outer) <= eps:
            return k
        w -= run.c / (4 * run.L + 2 * run.rho * run.alpha * abs(inner)) * outer
    return math.nan


@claim.rows
def rows(table, row):
    edge, proven = table[table.lam == 1], table[table.lam <= PROVEN]
    statement = r"$N\le249\,\Delta\,(L+\rho\alpha(\sigma+\varepsilon))/\varepsilon^2$"
    # Of steps that turn omega w by x at most Euler's sum leaves a share of x^2 / 12; and the end is rounded.
    allowed = (4 * MAML.c * edge.s / L) ** 2 / 12 + 1 / edge.exact
    difference = (edge.steps / edge.exact - 1).abs()
    right = largest(difference / allowed) <= 1
    about = (
        "MAML's iterations at alpha = 1/L within the constant of alpha <= 0.35/L",
        statement + r" for $\alpha\le1/L$, with the constant that is proved for $\alpha\le0.35/L$",
    )
    told = {"source": "range as summarised; constant derived"}
    # Runs that are not the method's are no counterexample.
    if right:
        note = f"first hit / allowance at s = {smallest(edge.s):g}; repair: alpha <= 1/(6L), or 0.35/L with the constant 249"
        yield row.at_most(*about, largest(edge.steps / edge.allowance), CONSTANT, note=note, **told)
    else:
        yield row.untested(*about, "a run has not reached its accuracy, or is not the method's", **told)
    yield row.within(
        "MAML's iterations at alpha = 1/L equal the time of travel",
        r"$N=\int\frac{L(w)}{c\,|F'(w)|}dw+\frac12\ln\frac{\beta|F'|}{\beta_0|F'(w_0)|}$, up to the first $w$ with $|F'|\le\varepsilon$",
        largest(difference / allowed),
        0.0,
        1.0,
        note=f"difference over what Euler's sum leaves, at most {largest(difference):.1g} of up to {largest(edge.exact):.0f} steps",
    )
    yield row.contains(
        "no constant bounds MAML's iterations at alpha = 1/L",
        r"$N/[\Delta(L+\rho\alpha\varepsilon)/\varepsilon^2]$ grows like $s^{-2}$ as $s\to0$, $\omega\propto s^{-3}$",
        statistics.limit_slope(1 / edge.s, edge.steps / edge.allowance),
        2.0,
        0.1,
        also=right,
        note=f"limit of the log-log slopes in 1/s over {len(edge)} values",
    )
    yield row.at_least(
        "MAML's iterations at alpha = 1/L against their derived least number",
        r"$N\ge RL\omega/(8cs)$, so that no constant is large enough: $N$ over the allowance exceeds $L^2(1-2s/L)/(16cs^2)$ as $\omega\to\infty$",
        smallest(edge.steps / edge.least),
        1.0,
        also=right,
        note="smallest ratio",
    )
    yield row.at_most(
        "MAML's iterations up to alpha = 0.35/L",
        statement + r", $\alpha\le0.35/L$",
        largest(proven.steps.fillna(np.inf) / proven.allowance),
        CONSTANT,
        also=right,
        note="the same tasks, the same accuracy relative to the start",
        source="as summarised; constant derived",
    )
    yield row.within(
        "MAML's iterations up to alpha = 0.35/L equal their closed form",
        r"$N$ is the first $k$ with $|F'(w_k)|\le\varepsilon$, $w_{k+1}=w_k-\frac c{4L+2\rho\alpha|f'(w_k)|}F'(w_k)$, every derivative in closed form",
        largest((proven.steps - proven.exact).abs()),
        0.0,
        1.0,
        note=f"largest difference in steps, of up to {largest(proven.exact):.0f}; one for rounding",
    )


@claim.figure
def figure(table):
    """At the largest inner rate of the summary, MAML's steps outgrow its allowance without end as the curvature nears its bound.

    Up to 0.35 of that rate they stay within one constant.
    """
    drawing, (axis,) = plotting.panels(1, height=3.4)
    fills = dict(zip(LAMBDAS, ("none", "bottom", "left", "full"), strict=True))
    for lam, part in table.groupby("lam"):
        look = plotting.look("maml") | {"fillstyle": fills[lam], "markersize": 6, "linewidth": 0.8}
        shown = rf"MAML, $\alpha L={lam:g}$"
        axis.loglog(part.s, part.steps / part.allowance, label=shown, markerfacecoloralt="white", **look)
    edge = table[table.lam == 1].sort_values("s")
    ratio = edge.exact / edge.allowance
    axis.loglog(
        edge.s,
        ratio,
        label="time of travel, exact",
        **plotting.theory("exact") | {"linewidth": 2.2, "zorder": 1},
    )
    least = plotting.theory("derived", plotting.SHADES[1], named=True)
    axis.loglog(edge.s, edge.limit, label=r"least ratio at $\alpha L=1$, derived", **least)
    label = rf"constant up to $\alpha L={PROVEN:g}$, derived"
    axis.axhline(CONSTANT, label=label, **plotting.theory("derived", named=True))
    axis.set(xlabel=r"gap $s$ of the curvature to $L$ [$\varphi/u^2$]", ylabel="steps / allowance [1]")
    return plotting.finish(drawing, "One task: at $\\alpha=1/L$ MAML's count has no constant", key="right")
