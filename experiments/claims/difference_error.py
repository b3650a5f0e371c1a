"""The central difference errs by at most rho delta ||v||^2 / 2, plus rounding (E20).

As summarised, the Hessian-vector product [grad f(w + delta v) - grad f(w - delta v)] / (2 delta) errs by at
most rho delta ||v||^2. Half of that holds, and is attained by f(x) = rho |x|^3 / 6 at 0 (derived).
Where the third derivative is Lipschitz the error falls like delta^2 instead, until rounding of order
eps (||grad f|| + L ||w||) / delta takes over: the step 1 / (6 rho alpha ||v||) of the theorem lies far on
the truncation side, and the best step near ||delta v|| = eps^(1/3).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import AtPoints, Quantity
from experiments.claim import Claim
from experiments.judging import largest, smallest
from jaxmaml import hvp, objective, plotting, statistics, tree
from jaxmaml.tasks import cosine
from jaxmaml.theory import finite_difference

KINK_RHO = 3.0
LAMBDA = 1 / 6
POINTS = {"smoke": 48, "default": 96, "full": 192}

claim = Claim(
    "E20",
    "error of the central difference against its step, float32 and float64",
    place="Hessian-free product",
)


@Quantity
def wave_error(family, arc, alpha, w, vector):
    """||d - H v|| / ||v|| of the first task at the step ||delta v|| = arc."""
    del alpha
    task = jax.tree.map(lambda x: x[0], family.tasks)
    loss, batch = functools.partial(objective.task_loss, family), (task, family.full(task))
    d = hvp.central_difference(loss, w, vector, batch, arc / tree.norm(vector))
    error = tree.norm(d - hvp.exact(loss, w, vector, batch)) / tree.norm(vector)
    return {
        "arc": arc,
        "error": error,
        "grad_norm": tree.norm(jax.grad(loss)(w, batch)),
        "w_norm": tree.norm(w),
    }


@Quantity
def kink_error(rho, arc, alpha):
    """The same for rho |x|^3 / 6 at 0, whose Hessian is Lipschitz, 0 at 0 and not differentiable there."""
    del alpha
    w, one = jnp.zeros(1, arc.dtype), jnp.ones(1, arc.dtype)

    def loss(x, _):
        return rho / 6 * jnp.sum(jnp.abs(x) ** 3)

    zero = jnp.zeros((), arc.dtype)
    return {
        "arc": arc,
        "error": tree.norm(hvp.central_difference(loss, w, one, None, arc)),
        "grad_norm": zero,
        "w_norm": zero,
    }


@claim.cells
def cells(scale):
    rng = np.random.default_rng(5)
    family, w, vector = (
        cosine.make(n=1, d=10, seed=5),
        2.0 * rng.standard_normal(10),
        3.0 * rng.standard_normal(10),
    )
    arcs, alpha = np.logspace(-10, 1, POINTS[scale]), LAMBDA / family.constants().L
    for precision in ("float64", "float32"):
        as_precision = functools.partial(np.asarray, dtype=precision)
        wave = AtPoints(wave_error, family, alpha, arcs, {"w": w, "vector": vector})
        for name, cell in (("cosine", wave), ("kink", AtPoints(kink_error, KINK_RHO, alpha, arcs))):
            yield {"precision": precision, "function": name}, jax.tree.map(as_precision, cell)


@claim.per("precision", "function")
def measured(part, cell):
    """A row a step, with the bound, and the bound with the sharp order."""
    table = part[["arc", "error", "grad_norm", "w_norm"]].reset_index(drop=True)
    eps, nothing = float(np.finfo(cell.points.dtype).eps), np.nan
    if cell.function == kink_error:
        truncation = 0.5 * KINK_RHO * table.arc
        # It is evaluated at 0, where its gradient is as small as the step: rounding is relative there.
        return table.assign(
            truncation=truncation,
            truncation_smooth=nothing,
            rounding=8 * eps * truncation,
            theorem_arc=nothing,
            best_arc=nothing,
        )
    constants = cell.family.constants()
    grad_scale = table.grad_norm + constants.L * table.w_norm
    truncation = np.minimum(0.5 * constants.rho * table.arc, 2 * constants.L)
    rounding = finite_difference.rounding(eps, table.grad_norm, constants.L, table.w_norm, table.arc)
    return table.assign(
        truncation=truncation,
        truncation_smooth=constants.zeta * table.arc**2 / 6,
        rounding=rounding + 8 * eps * truncation,
        theorem_arc=1 / (6 * constants.rho * cell.alpha),
        best_arc=finite_difference.optimal_arc_smooth(eps, grad_scale, constants.zeta),
    )


@claim.rows
def rows(table, row):
    for precision in ("float64", "float32"):
        every = table[table.precision == precision]
        yield row.at_most(
            f"error of the difference in {precision}",
            r"$\|d-Hv\|\le\frac12\rho\delta\|v\|^2$, and rounding",
            largest(every.error / (every.truncation + every.rounding)),
            1.0,
            note="largest ratio of error and bound over both functions",
            source="as summarised with twice this constant; derived",
        )
        smooth = every[every.function == "cosine"]
        best = smooth.iloc[int(np.argmin(smooth.error.to_numpy()))]
        yield row.within(
            f"best step of the difference in {precision}",
            r"$\|\delta v\|=(3C\epsilon(\|\nabla f\|+L\|w\|)/\zeta)^{1/3}$, $C=4$",
            float(np.log10(best.arc / best.best_arc)),
            0.0,
            1.0,
            note=f"log10 of measured over predicted; error there {best.error:.2g}",
        )
    exact = table[table.precision == "float64"]
    branch = on_truncation(exact[exact.function == "cosine"])
    yield row.within(
        "order of the difference on a smooth function",
        r"error of order $\delta^2$ where the third derivative is Lipschitz",
        statistics.slope(branch.arc, branch.error),
        2.0,
        0.02,
        note="log-log slope",
    )
    kink = exact[(exact.function == "kink") & (exact.arc > 1e-6)]
    yield row.within(
        "the constant 1/2 is attained by rho |x|^3 / 6",
        r"$\|d-Hv\|=\frac12\rho\delta\|v\|^2$ for $f=\frac16\rho|x|^3$ at 0",
        smallest(kink.error / kink.truncation),
        1.0,
        1e-9,
        note=f"and its slope is {statistics.slope(kink.arc, kink.error).mean:.6g}",
    )


def on_truncation(smooth):
    """Steps at which truncation is all of the error."""
    return smooth[(smooth.arc > 1e-4) & (smooth.arc < 1e-2)]


@claim.figure
def figure(table):
    drawing, axes = plotting.panels(2)
    shades = {"float64": plotting.color("hf_maml"), "float32": plotting.OTHER[1]}
    titles = {"cosine": "smooth task of family (c)", "kink": r"$f=\rho|x|^3/6$ at 0"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        part = table[table.function == name]
        for precision, shade in shades.items():
            one = part[part.precision == precision]
            axis.loglog(one.arc, one.error, ".", color=shade, label=f"measured, {precision}")
        wide = part[part.precision == "float64"]
        half = r"$\frac{1}{2}\rho\|\delta v\|$, derived"
        axis.loglog(wide.arc, wide.truncation, "--", color="k", label=half)
        if name == "cosine":
            branch = on_truncation(wide)
            plotting.fitted(axis, branch.arc, branch.error)
            sharp = {"color": "0.4", "label": r"$\frac{1}{6}\zeta\|\delta v\|^2$, derived"}
            axis.loglog(wide.arc, wide.truncation_smooth, "-.", **sharp)
            step = {"color": "0.6", "label": r"theorem's $\delta$, $\alpha L=\frac{1}{6}$"}
            axis.axvline(wide.theorem_arc.iloc[0], linewidth=0.8, **step)
        axis.set(ylim=(1e-12, 1e2), title=title, xlabel=r"step $\|\delta v\|$ [$u$]")
    axes[0].set_ylabel(r"$\|d-Hv\|\,/\,\|v\|$ [$\varphi/u^2$]")
    return plotting.finish(drawing, "Central differences: truncation against rounding")
