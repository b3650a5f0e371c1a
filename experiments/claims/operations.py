"""What one direction costs, by method and architecture: floating-point operations, memory and seconds (E26).

As summarised, MAML costs O(d^2 B D_h) an iteration because of the Hessian, and HF-MAML avoids that. Derived, from the
products of matrices alone: with m_1 of them in the first layer, whose input is data, m_w in further layers, and m_a
between activations (attention), in multiplications of a forward pass,

  * a gradient takes 2 m_1 + 3 m_w + 3 m_a;
  * the exact product H v, jvp of grad, takes 3 m_1 + 8 m_w + 9 m_a: the tangent of a product is two products, and
    the gradient itself is not asked for. On one linearisation with D_in it adds 2 m_1 + 6 m_w + 6 m_a;
  * the central difference takes two gradients; forming the Hessian takes d, and d^2 memory.

So H v is O(d) everywhere. On linear scores, m_1 alone, it costs 1.5 gradients, less than the difference; on networks
up to 8/3, or 3 where activations are multiplied, which is more (a relu network of two layers, where some of the
gradient drops out, costs 2). On one batch it costs at most 2. A direction is that and two gradients more.

Operations are those that XLA counts in the program before its optimisation, the same on every machine; seconds are
medians of alternating repetitions, and judge only where they differ by a large factor. On linear scores a direction
that differs from its closed form has cost nan, as have then those of its method on networks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.claim import Claim
from experiments.claims._architectures import NETWORKS, Products
from experiments.claims._directions import (
    ESTIMATORS,
    FORMED,
    METHODS,
    REPEATS,
    SAMPLES,
    SIZES,
    TASKS,
    Directions,
    allowed,
    calls,
    counted,
    direction,
    on,
    pools,
)
from experiments.judging import largest, smallest
from experiments.run import draw
from jaxmaml import plotting
from jaxmaml.statistics import Interval

LINEAR = "linear scores"
"""The architecture of the logistic family."""
DIMS = {"smoke": (512,), "default": (128, 2048), "full": (128, 512, 2048, 4096)}
COUNTED = (32, 64, 128)
"""dimensions whose programs are counted, and run only where DIMS has them too."""
COSTS = ["flops", "gradient_flops", "temporary_bytes", "seconds", "gradient_seconds"]
"""columns that are nan where a direction is wrong."""

claim = Claim(
    "E26", "operations, memory and seconds of one direction, by method and architecture", place="costs"
)


@claim.cells
def cells(scale):
    for dim in DIMS[scale]:
        yield {"d": dim, "networks": scale != "smoke"}, Directions(*pools(dim), dim)


@functools.cache
def on_scores(dim, timed):
    """The costs on linear scores."""
    family, w = pools(dim)
    shapes = jax.eval_shape(lambda: (w, draw(family, jax.random.key(0), SIZES)[0]))
    data = jax.tree.map(lambda x: jnp.full(x.shape, 0.1, x.dtype), shapes)
    costs = counted({name: direction(method, family) for name, method in calls(FORMED).items()}, data, timed)
    # Linear scores have a first layer alone.
    goals = {method: Products(1.0).direction(method) for method in ESTIMATORS} | {FORMED: 2.0 + dim}
    return costs.assign(architecture=LINEAR, d=dim, derived=costs.method.map(goals))


@functools.cache
def on_network(name, timed):
    """The costs on a small network."""
    net = NETWORKS[name]()
    data = jax.tree.map(jnp.asarray, (net.params, net.episode))
    costs = counted({method: on(net, call) for method, call in calls().items()}, data, timed)
    size = sum(x.size for x in jax.tree.leaves(net.params))
    return costs.assign(architecture=name, d=size, derived=costs.method.map(net.products.direction))


@claim.table
def measured(rows, cells):
    """What a gradient and every method cost: on linear scores by d, and on small networks (`networks`: timed)."""
    found = {
        int(d): pd.DataFrame({"method": METHODS, "difference": part.difference.to_numpy()}).assign(
            allowed=[allowed(method, cells[int(part.cell.iloc[0])][1].w) for method in METHODS]
        )
        for d, part in rows.groupby("d", sort=False)
    }
    every = pd.concat(found.values())
    right = (every.difference <= every.allowed).groupby(every.method).all()
    table = []
    for dim in sorted({*COUNTED, *found}):
        costs = on_scores(dim, dim in found)
        table.append(costs.merge(found[dim], on="method") if dim in found else costs)
    timed = bool(rows.networks.all())
    table = pd.concat([*table, *(on_network(name, timed) for name in NETWORKS)], ignore_index=True)
    table.loc[~table.method.map(right), COSTS] = np.nan
    columns = ["architecture", "d", "method", "derived", "flops", "gradient_flops"]
    return table.set_index(columns).reset_index()


def gradient_equivalents(table):
    """Operations of each method's direction over those of one gradient, on linear scores at the largest d."""
    linear = table[table.architecture == LINEAR]
    last = linear[linear.d == largest(linear.d)]
    return {str(row.method): float(row.flops / row.gradient_flops) for row in last.itertuples()}


ORDERS = (
    (
        "operations with the Hessian formed are of order d^2",
        r"with $\nabla^2f_i$ formed, a direction takes $4BDd^2$ operations and lower powers of $d$: $O(d^2BD_h)$",
        "as summarised; constant derived",
        {FORMED: 1.0},
        "holds for forming the matrix",
    ),
    (
        "operations with the exact product are of order d",
        r"$v-\alpha Hv$ by jvp of grad takes $14BDd$ operations, on one batch $12BDd$, and a constant: $O(dBD_h)$",
        "derived; as summarised O(d^2 B D_h)",
        {"maml": 3.5, "maml_same_batch": 3.0},
        "the summarised order is that of forming the matrix, which MAML does not need",
    ),
    (
        "operations of FO-MAML and HF-MAML are of order d",
        r"without $\nabla^2f_i$ a direction takes $8BDd$ and $16BDd$ operations and a constant: $O(d)$",
        "as summarised; constant derived",
        {"fo_maml": 2.0, "hf_maml": 4.0},
        "both methods",
    ),
)


def polynomial(d, counts, degree):
    """The leading coefficient of counts in d, and how far they are from a polynomial, relative."""
    fit = np.polynomial.Polynomial.fit(d, counts, degree)
    return fit.convert().coef[-1], largest(np.abs(fit(d) / counts - 1))


@claim.rows
def rows(table, row):
    table = table.assign(gradients=table.flops / table.gradient_flops)
    table["times"] = table.seconds / table.gradient_seconds
    linear, networks = table[table.architecture == LINEAR], table[table.architecture != LINEAR]
    dim, ran = int(largest(linear.d)), linear[linear.allowed.notna()]
    others, difference = ran[ran.method != FORMED], ran[ran.method == "hf_maml"]
    last = linear[linear.d == dim].set_index("method")
    yield row.at_most(
        "the directions that are counted equal their closed forms",
        r"MAML's exact product equals $v-\alpha Hv$ with $H$ formed, FO-MAML and the same batch likewise",
        largest(ran.difference[ran.method != "hf_maml"]),
        1e-10,
        also=largest(difference.difference / difference.allowed) <= 1,
        note="relative to ||v||, largest over d and the methods without a difference step; "
        f"HF-MAML differs by {largest(difference.difference):.2g}, within truncation and rounding",
    )
    yield row.within(
        "counted operations of one gradient",
        r"$Xw$ and $X^\top r$ take $4Dd$ operations a task",
        spread(last.gradient_flops / (4 * TASKS * SAMPLES * dim)),
        1.0,
        0.1,
        note=f"over 4 B D d, at d = {dim}",
    )
    for part, statement, source, constants, note in ORDERS:
        degree = 2 if FORMED in constants else 1
        leading, off = [], []
        for method, constant in constants.items():
            one = linear[linear.method == method]
            found = polynomial(one.d.to_numpy(float), one.flops.to_numpy(), degree)
            leading.append(found[0] / (4 * TASKS * SAMPLES * constant))
            off.append(found[1])
        yield row.within(
            part,
            statement,
            spread(leading),
            1.0,
            0.05,
            also=largest(off) <= 1e-6,
            note=f"leading coefficient over the derived one; the counts are polynomials of degree {degree} "
            f"in d to {largest(off):.1g}, and vectors of d beside the products are at most 1/20; {note}",
            source=source,
        )
    for method in ESTIMATORS:
        one = last.loc[method]
        yield row.within(
            f"gradients in one direction of {plotting.label(method)}",
            rf"a direction costs {one.derived:g} gradients (linear scores)",
            one.gradients,
            one.derived,
            0.1,
            note=f"operations at d = {dim}; median time ratio {one.times:.3g}",
        )
    formed = last.loc[FORMED]
    yield row.within(
        "gradients in one direction with the Hessian formed",
        r"a direction costs $2+d$ gradients",
        (formed.gradients - 2) / dim,
        1.0,
        0.1,
        note=f"(number - 2) / d at d = {dim}; median time ratio {formed.times:.3g}",
    )
    for name, part in networks.groupby("architecture", sort=False):
        for method in ("maml", "maml_same_batch"):
            one = part[part.method == method].iloc[0]
            yield row.within(
                f"gradients in one direction of {plotting.label(method)}, {name}",
                rf"a direction costs {one.derived:.3g} gradients, from the products of matrices",
                one.gradients,
                one.derived,
                0.1,
                note=f"operations, d = {one.d}{told([one.times])}",
            )
    for method, constant in (("fo_maml", 2), ("hf_maml", 4)):
        part = networks[networks.method == method]
        yield row.within(
            f"gradients in one direction of {plotting.label(method)}, networks",
            rf"a direction costs {constant} gradients whatever the architecture",
            spread(part.gradients),
            constant,
            0.1,
            note=f"operations of {', '.join(part.architecture)}{told(part.times)}",
        )
    yield from comparisons(table, row, last)
    yield row.at_least(
        "memory with the Hessian formed is of order d^2",
        r"the matrix $\nabla^2f_i$ takes $d^2$ numbers a task",
        formed.temporary_bytes / (8 * TASKS * dim**2),
        1.0,
        note=f"bytes of temporaries over 8 B d^2 at d = {dim}",
    )
    yield row.at_most(
        "memory of MAML, FO-MAML and HF-MAML is of order d",
        r"without $\nabla^2f_i$ formed, a direction takes at most 10 vectors of $d+D$ numbers a task",
        largest(others.temporary_bytes / (8 * TASKS * (others.d + SAMPLES))),
        10.0,
        note="bytes of temporaries over 8 B (d + D), largest over d and the methods; "
        "HF-MAML names most vectors: 10 of d, 8 of D",
    )


def comparisons(table, row, last):
    """The product against the difference, and both against the matrix."""
    flops = table.pivot(index=["architecture", "d"], columns="method", values="flops")
    linear, networks = flops.loc[[LINEAR]], flops.drop(index=LINEAR, level="architecture")
    times = table.pivot(index=["architecture", "d"], columns="method", values="seconds")
    slower = (times.maml / times.hf_maml).drop(index=LINEAR, level="architecture")
    yield row.at_most(
        "MAML with the exact product against HF-MAML",
        r"an exact product $Hv$ costs no more than the central difference on linear scores",
        largest(linear.maml / linear.hf_maml),
        1.0,
        note="largest ratio of operations over d; "
        "HF-MAML saves against the Hessian formed, not against the product",
        source="derived; as summarised HF-MAML is the faster to compute",
    )
    ratio = networks.maml / networks.hf_maml
    yield row.at_least(
        "MAML with the exact product against HF-MAML, networks",
        r"an exact product $Hv$ on $D_h$ of its own takes more operations than the difference on these networks, "
        r"a direction up to $\frac54$ of HF-MAML's",
        spread(ratio),
        1.0,
        also=largest(ratio) <= 5 / 4,
        note=f"ratios of operations, {', '.join(f'{x[0]} {v:.3g}' for x, v in ratio.items())}{told(slower)}",
        source="derived; as summarised HF-MAML is the faster to compute",
    )
    yield row.at_most(
        "MAML on one batch against HF-MAML, every architecture",
        r"with $D_h=D_{in}$ the exact product costs no more than the central difference",
        largest(flops.maml_same_batch / flops.hf_maml),
        1.0,
        note="largest ratio of operations",
    )
    yield row.at_most(
        "HF-MAML against MAML with the Hessian formed",
        "HF-MAML is faster to compute, since it forms no Hessian",
        largest(linear.hf_maml / linear[FORMED]),
        1.0,
        note="largest ratio of operations over d",
        source="as summarised",
    )
    slow = float(last.seconds[FORMED] / last.seconds["maml"])
    yield row.at_least(
        "seconds with the Hessian formed against the exact product",
        r"$v-\alpha Hv$ with $\nabla^2f_i$ formed takes more than 3 times as long as with the exact product",
        Interval(slow, slow, slow, REPEATS, "median of timings"),
        3.0,
        note=f"at d = {int(last.d.iloc[0])}, of this machine",
    )


def told(times):
    """Ratios of median times, for a note; nothing where none was measured."""
    values = np.asarray(times, float)
    if not np.isfinite(values).all():
        return ""
    return "; ratio of median times " + ", ".join(f"{x:.3g}" for x in values)


def spread(values):
    """From the smallest to the largest, around the mean; nan if any is."""
    array = np.asarray(values, float)
    return Interval(float(np.mean(array)), smallest(array), largest(array), array.size, "range")


@claim.figure
def figure(table):
    """An exact Hessian product costs about as much as a difference of gradients, whatever the dimension.

    Forming the Hessian costs as many gradients as there are parameters, and the square of that in memory.
    """
    drawing, axes = plotting.panels(2, 2)
    linear, networks = table[table.architecture == LINEAR], table[table.architecture != LINEAR]
    shown = pd.concat([linear[linear.d == largest(linear.d)], networks])
    shown = shown[shown.method != FORMED]
    places = {name: j for j, name in enumerate(shown.architecture.unique())}
    methods = [*plotting.ordered(ESTIMATORS), FORMED]
    for j, method in enumerate(methods):
        formed = method == FORMED
        name = "Hessian formed" if formed else plotting.label(method)
        look = (plotting.neutral(1) if formed else plotting.look(method)) | {"linestyle": "none"}
        part, one = linear[linear.method == method], shown[shown.method == method]
        axes[0].loglog(part.d, part.flops / part.gradient_flops, label=name, **look)
        line = plotting.theory("derived", look["color"])
        axes[0].loglog(part.d, part.derived, label=f"_{name}", **line)
        axes[1].loglog(part.d, part.temporary_bytes, label=name, **look)
        if formed:
            continue
        x = one.architecture.map(places).to_numpy(float) + 0.16 * (j - 1.5)
        for axis, values in (
            (axes[2], one.flops / one.gradient_flops),
            (axes[3], one.seconds / one.gradient_seconds),
        ):
            axis.plot(x, values, label=name, **look)
        count = {"marker": "_", "color": plotting.INK, "markersize": 9, "linestyle": "none"}
        axes[2].plot(x, one.derived, label="derived from matrix products", **count)
    axes[0].plot([], [], **plotting.theory("derived"), label="derived")
    dims = np.sort(linear.d[linear.temporary_bytes.notna()].unique())
    least = plotting.theory("derived") | {"label": "size of the Hessians, derived"}
    axes[1].loglog(dims, 8 * TASKS * dims**2, **least)
    axes[0].set(title="operations, linear scores", ylabel="operations [gradients]")
    axes[1].set(title="memory, linear scores", ylabel="temporaries [bytes]")
    axes[2].set(title="operations, by architecture", ylabel="operations [gradients]", ylim=(0, None))
    axes[3].set(title="time, by architecture", ylabel="median time [gradients]", ylim=(0, None))
    for axis in axes[:2]:
        axis.set_xlabel("dimension $d$ [1]")
    for axis in axes[2:]:
        axis.set_xlabel("architecture [name]")
        axis.set_xticks(list(places.values()), [name.split()[0] for name in places])
        axis.set_xlim(-0.5, len(places) - 0.5)
    return plotting.finish(drawing, "Cost of one direction: operations, time and memory", columns=4)
