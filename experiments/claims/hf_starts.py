"""HF-MAML on hf_blind from other starts than its root, and a plane where every start is caught (E21).

As summarised, HF-MAML comes to E||grad F(w_k)|| <= 6 ((1 + rho alpha sigma/L) S)^(1/2) at some k. On the line hf_blind
its limit lies above that from B = 10^4 on (`hf_blind`), but a run from elsewhere may pass a zero of F' on its way, and
is then below the floor at that k. Whether it does is known in one dimension (derived): if F' has a zero between the
start and the root.

In the plane a path misses the zeros of grad F. With a second coordinate, f_s(x) + mu y^2 / 10, the constants and the
root are as on the line (derived). As long as |y| is large, so is ||grad F||; when y is gone, x is at the root. So the
theorem, as summarised, fails at B >= 10^4 from every start far out in y, at every k.
"""

import numpy as np

from experiments.cells import FirstHits, theorem_run
from experiments.claim import Claim
from experiments.claims._blind import BlindPlane, blind_root, counted
from experiments.claims._floors import REPAIR, counterexample
from experiments.judging import largest
from experiments.run import log_steps
from jaxmaml import plotting, theory
from jaxmaml.tasks import hf_blind
from jaxmaml.types import BatchSizes

ALPHA = 1.0
LINE = (-0.5, -0.1, -0.02, 0.01, 0.03, 0.06, 0.3, 0.5)
PLANE = {"smoke": (-3.0, -0.03577, 0.10906), "default": (-3.0, -0.03577, 0.10906, 0.18892, 3.0)}
"""x_0, the three zeros of F' among them."""
FAR = 5.0
"""y_0."""
EXACT = {"smoke": 7, "default": 25, "full": 601}
"""values of x_0 in [-3, 3] for exact gradients."""
TASKS = {"smoke": (100_000,), "default": (10_000, 100_000)}
SEEDS = {"smoke": 4, "default": 6, "full": 32}
STEPS = {"line": 4000, "plane": 14_000}

claim = Claim(
    "E21", "HF-MAML's bias at finite B from other starts, in the plane from all", place="HF-MAML theorem"
)


@claim.cells
def cells(scale):
    line = hf_blind.make(alpha=ALPHA)
    plane = BlindPlane(*(getattr(line, name) for name in line.__dataclass_fields__), ridge=line.mu / 5)
    starts = [(x,) for x in LINE], [(x, FAR) for x in PLANE.get(scale, PLANE["default"])]
    for (name, steps), family, points in zip(STEPS.items(), (line, plane), starts, strict=True):
        record = log_steps(steps, per_decade=48, tail=20)
        for B in (100_000,) if name == "line" else TASKS.get(scale, TASKS["default"]):
            for w0 in points:
                for seed in range(SEEDS[scale]):
                    run = theorem_run(family, "hf_maml", ALPHA, np.array(w0), record=record, seed=seed)
                    yield {"place": name, "B": B, "x": w0[0], "seed": seed}, counted(run, B)
    # Below its limit, just: at no step.
    limit = abs(line.grad_objective(np.array([blind_root(line, ALPHA)]), ALPHA)[0])
    for x in np.linspace(-3, 3, EXACT[scale]):
        run = theorem_run(plane, "hf_maml", ALPHA, np.array([x, FAR]), record=(0, STEPS["plane"]))
        hits = FirstHits(run, limit * np.array([1.01, 1 - 1e-6]))
        yield {"place": "exact", "B": np.inf, "x": x, "seed": 0}, hits


@claim.per("place", "B", "x")
def measured(part, cell):
    """Of a start: the least mean on the way and at the end beside the floor, or when exact gradients are at it."""
    run = getattr(cell, "run", cell)
    family, root = run.family, blind_root(run.family, ALPHA)
    found = {"limit": float(np.abs(family.grad_objective(np.array([root]), ALPHA))[0])}
    if part.place.iloc[0] == "exact":
        return found | {"reached": part.hit.iloc[0], "below": part.hit.iloc[1]}
    norms = part.pivot(index="step", columns="seed", values="grad_norm").to_numpy()
    means, error = norms.mean(axis=1), norms.std(axis=1, ddof=1) / np.sqrt(norms.shape[1])
    # argmin takes nan first.
    j = int(np.argmin(means - 5 * error))
    way = family.grad_objective(np.linspace(float(run.w0[0]), root, 20_001), ALPHA)
    sizes = BatchSizes(B=int(part.B.iloc[0]))
    return found | {
        "start": means[0],
        "least": means[j],
        "least_error": error[j],
        "recorded": len(means),
        "end": means[-1],
        "floor_summary": theory.theorems()["hf_maml"].floor_summary(family.constants(), ALPHA, sizes),
        "zero_on_the_way": float(np.ptp(np.sign(way)) > 0),
    }


@claim.rows
def rows(table, row):
    line, plane, exact = (table[table.place == place] for place in ("line", "plane", "exact"))
    # Each of the recorded steps could have been the least.
    row.compared += int(np.sum(table.recorded[table.place != "exact"].to_numpy())) - len(plane)
    above = (line.least - row.z * line.least_error) / line.floor_summary > 1
    below = (line.least + row.z * line.least_error) / line.floor_summary <= 1
    passed = line.zero_on_the_way == 1
    ratios = ", ".join(f"{r.least / r.floor_summary:.2g} from {r.x:g}" for r in line.itertuples())
    yield row.within(
        "which starts on hf_blind pass below the floor on their way",
        r"$\min_kE\|\nabla F(w_k)\|$ is below the floor if $F'$ has a zero between the start and the root, else above it",
        float((~np.where(passed, below, above)).sum()),
        0.0,
        0.0,
        also=bool((line.start > line.floor_summary).all() and (line.end > line.floor_summary).all()),
        note=f"starts where it is otherwise, of {len(line)} that begin above the floor, B = 100000; least over floor: {ratios}",
    )
    yield counterexample(
        row,
        "HF-MAML's accuracy in the plane at B >= 10000 from every start far out",
        r"$E\|\nabla F\|\le6\sqrt{(1+\frac{\rho\alpha}L\sigma)\sigma^2/B}$ for every $B\ge20$",
        row.least(plane.least, plane.least_error, plane.floor_summary),
        1.0,
        note=f"least mean of all recorded steps over the floor, smallest over {len(set(plane.x))} starts with y = {FAR:g} "
        f"and |x| up to 3, B = {', '.join(f'{B:g}' for B in sorted(set(plane.B)))}; {REPAIR}",
        source="as summarised",
    )
    yield row.within(
        "exact HF-MAML in the plane comes down to its limit and never below it",
        r"$\|\nabla F(w_k)\|\ge\|\nabla F(w_*)\|$ at every $k$ from every start far out",
        float((~((exact.reached > 0) & exact.below.isna())).sum()),
        0.0,
        0.0,
        note=f"starts where it is otherwise, of {len(exact)} with y = {FAR:g} and |x| up to 3; every step is looked at; it has "
        f"come to within 1 % after {largest(exact.reached):g} steps",
    )


@claim.figure
def figure(table):
    """On a line, runs of HF-MAML that pass a zero of the gradient dip below the stated floor.

    In the plane every start far out stays above it at every step, so that the floor fails there.
    """
    drawing, axes = plotting.panels(2, height=2.8)
    titles = {"line": "on the line", "plane": rf"in the plane, from $y_0={FAR:g}$"}
    least = max(TASKS["default"])
    for axis, (place, title) in zip(axes, titles.items(), strict=True):
        for B, part in table[table.place == place].groupby("B"):
            unit, shown = part.floor_summary, f"HF-MAML, $10^{{{np.log10(B):.0f}}}$ tasks a step"
            bars = 5 * part.least_error / unit
            look = plotting.look("hf_maml", hollow=least != B) | {"linestyle": "none", "capsize": 2}
            axis.errorbar(part.x, part.least / unit, bars, label=shown, **look)
            axis.plot(
                part.x, part.limit / unit, label="limit without noise, exact", **plotting.theory("exact")
            )
        floor = plotting.theory("as summarised", named=True)
        axis.axhline(1.0, label="stated floor, as summarised", **floor)
        axis.set(yscale="log", title=title, xlabel="start $x_0$ [u]")
        axis.set_ylabel(r"least $E\|\nabla F(w_k)\|$ / floor [1]")
    axes[1].set_ylim(0.7, 5)
    return plotting.finish(drawing, "HF-MAML from other starts than its root", columns=3)
