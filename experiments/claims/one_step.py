"""The drift of one step, the heart of the three theorems (E11), and why its step size needs tasks of its own (E28).

Derived, with the constants of docs/theory.md: for at least 20 tasks a batch and beta = c / L~(w),

    E[F(w - beta G)] <= F(w) - c / L(w) (kappa ||grad F(w)||^2 - N).

Measured through the same step as every run, at random points of the nonconvex family (c) with gradient and
Hessian noise. The inequality has slack, so that mean and variance of the direction G are also compared with their
closed forms, on family (c) in one dimension and on quadratics that share a Hessian.

The theorems as summarised do not say that B' is drawn independently of B. It must be (derived): with one batch for
both, steps are short exactly where gradients are long, and E[beta G] does not vanish where grad F does.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import normal_mean, theorem_run
from experiments.claim import Claim
from experiments.judging import largest, place_of
from experiments.run import Run, draw, step_norms
from jaxmaml import objective, plotting, theory
from jaxmaml.estimators.hf_maml import ArcDelta
from jaxmaml.tasks import cosine
from jaxmaml.tasks.cosine import Cosine, CosineTasks
from jaxmaml.types import BatchSizes

B, D_IN, D_O = 20, 20.0, 5.0
SIZES = BatchSizes(B=B, D_in=D_IN, D_o=D_O, D_h=1.0, B_prime=1, D_beta=1.0)
BLOCK = 250
DRAWS = {"smoke": 4, "default": 80, "full": 400}
"""blocks of 250 steps."""
POINTS = {"smoke": 10, "default": 50, "full": 200}
POINT = np.array([1.3])
LINES = ("line", "quadratic")
Z = 5.0
"""standard errors."""

claim = Claim("E11", "the drift of one step; mean and variance of the direction", place="MAML theorem")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drift:
    """Means over many independent first steps of a run."""

    run: Run
    blocks: int = field(metadata={"static": True})
    reused: float | None = None
    """1: the step size comes from the tasks and inner batches of the direction; 0: from its own."""

    @property
    def cost(self) -> int:
        return self.blocks * BLOCK

    def check(self) -> None:
        self.run.check()

    def execute(self) -> dict[str, jax.Array]:
        run, w = self.run, jnp.asarray(self.run.w0)
        start = objective.F(run.family, w, run.alpha)

        def one(key: jax.Array) -> tuple[jax.Array, ...]:
            new, direction, _ = run.step(key, w)
            if self.reused is not None:
                episodes, own = draw(run.family, key, run.sizes)
                norms = [step_norms(run.family, w, batches) for batches in (own, episodes.inner)]
                new, _ = run.move(w, direction, jnp.where(self.reused > 0, norms[1], norms[0]))
            change = objective.F(run.family, new, run.alpha) - start
            return change[None], direction, w - new

        def block(key: jax.Array) -> tuple[jax.Array, ...]:
            found = jax.vmap(one)(jax.random.split(key, BLOCK))
            return tuple(jnp.stack([x.mean(axis=0), jnp.square(x).mean(axis=0)]) for x in found)

        keys = jax.random.split(jax.random.key(run.seed), self.blocks)
        out = {"b": jnp.linalg.norm(objective.grad_F(run.family, w, run.alpha))}
        out["smoothness"] = objective.smoothness_at(run.family, w, run.alpha, run.L, run.rho)
        count = self.blocks * BLOCK
        for name, x in zip(("change", "direction", "moved"), jax.lax.map(block, keys), strict=True):
            mean, square = x.mean(axis=0)
            out[f"{name}_variance"] = (square - mean**2) * count / (count - 1)
            out[f"{name}_error"] = jnp.sqrt(out[f"{name}_variance"] / count)
            out[name] = mean
        # One column for the whole of what `change` is.
        return {k: jnp.broadcast_to(v, w.shape) for k, v in out.items()}


def asymmetric():
    """Ten tasks in one dimension, one of them far away: its gradient is much longer than the others'."""
    rng = np.random.default_rng(1)
    centers = np.append(rng.standard_normal(9), 4000.0)[:, None]
    return Cosine(0.3, 1.0, 2.0, CosineTasks(centers, rng.uniform(0, 2 * np.pi, (10, 1))))


def stationary(family, alpha):
    """A minimum of F near the mean of the centres."""
    import scipy.optimize

    def slope(x):
        return float(family.grad_objective(np.array([x]), alpha)[0])

    grid = float(np.mean(family.tasks.centers)) + np.linspace(-20, 20, 4001)
    values = np.array([slope(x) for x in grid])
    j = int(np.flatnonzero((values[:-1] < 0) & (values[1:] >= 0))[0])
    return np.array([scipy.optimize.brentq(slope, grid[j], grid[j + 1], xtol=1e-13)])


@claim.cells
def cells(scale):
    wave = cosine.make(n=10, d=4, tau=1.58, beta0=1.0, nu=1.73, seed=1)
    line = cosine.make(n=7, d=1, tau=1.2, seed=4)
    # Without waves: quadratics that share the Hessian mu.
    bowl = replace(line, a=0.0)
    size = np.logspace(-1, 1.5, POINTS[scale])[:, None]
    points = size * np.random.default_rng(9).standard_normal((POINTS[scale], 4))

    def cell(family, estimator, w, blocks, seed, sizes=SIZES, reused=None):
        constants, arguments = family.constants(), None
        if constants.rho == 0:
            # Any step of the difference is right; of the type of the theorem's, for one program.
            arguments = {"delta": ArcDelta(0.7)} if estimator == "hf_maml" else {}
        alpha = theory.theorems()[estimator].alpha_max(constants.L)
        about = {"record": (0, 1), "arguments": arguments, "sizes": sizes, "seed": seed}
        return Drift(theorem_run(family, estimator, alpha, w, **about), blocks, reused)

    for estimator in theory.theorems():
        for j, w in enumerate(points):
            labels = {"problem": "cosine", "estimator": estimator, "point": j}
            yield labels, cell(wave, estimator, w, DRAWS[scale], j)
        for problem, family in zip(LINES, (line, bowl), strict=True):
            labels = {"problem": problem, "estimator": estimator, "point": 0}
            yield labels, cell(family, estimator, POINT, 10 * DRAWS[scale], 3)
    family = asymmetric()
    w = stationary(family, theory.theorems()["maml"].alpha_max(family.constants().L))
    sizes = BatchSizes(B=20, B_prime=20)
    for problem, reused in (("independent", 0.0), ("reused", 1.0)):
        labels = {"problem": problem, "estimator": "maml", "point": 0}
        yield labels, cell(family, "maml", w, 10 * DRAWS[scale], 5, sizes, reused)


@claim.per("problem", "estimator", "point")
def measured(part, cell):
    """Decrease against its guarantee, and the z-scores of mean and variance of G."""
    run, theorem, first = cell.run, theory.theorems()[cell.run.estimator], part.iloc[0]
    problem, constants = first.problem, run.family.constants()
    row = {
        "b": first.b,
        "decrease": -first.change,
        "error": first.change_error,
        "moved": float(np.linalg.norm(part.moved)),
        "moved_z": largest(part.moved.abs() / part.moved_error),
        "step": float(theorem.c / first.smoothness),
    }
    if problem == "cosine":
        kappa = theorem.drift(constants, run.alpha).kappa
        noise = theorem.noise(constants, run.alpha, run.sizes)
        violated = [c.name for c in theorem.conditions(constants, run.alpha, run.sizes) if not c.holds]
        row |= {
            "guaranteed": theorem.c / first.smoothness * (kappa * first.b**2 - noise),
            "radius": float(np.linalg.norm(run.w0)),
            "violated": ", ".join(violated) or "none",
        }
    if problem in LINES:
        mean, variance = moments(run)
        row["mean_z"] = largest((part.direction - mean).abs() / part.direction_error)
        row["variance_ratio"] = float(part.direction_variance.sum() / variance)
        row["draws"] = cell.blocks * BLOCK
    return row


def moments(run):
    """E G, shape (1,), and its variance where it is known (quadratic; else nan)."""
    family, alpha, constants = run.family, run.alpha, run.family.constants()
    adapted = family.adapted(POINT, alpha)
    deviation = constants.sigma_tilde / np.sqrt(D_IN)
    outer = normal_mean(lambda z: family.task_gradients(adapted - alpha * deviation * z))
    damping = np.ones_like(outer)
    if run.estimator == "maml" or (run.estimator == "hf_maml" and constants.rho == 0):
        damping = 1 - alpha * family.task_hessians(POINT)
    elif run.estimator == "hf_maml":
        # In one dimension the two points lie at the same distance whatever the direction.
        arc = run.arguments["delta"].arc
        rise = family.task_gradients(POINT + arc) - family.task_gradients(POINT - arc)
        damping = 1 - alpha * rise / (2 * arc)
    mean = np.mean(damping * outer, axis=0)
    if constants.rho > 0:
        return mean, np.nan
    h, q = constants.L, float(damping[0, 0])
    p = q * (1 - alpha * h) * h
    samples = (alpha * h) ** 2 / D_IN + 1 / D_O
    spread = p**2 * np.var(family.tasks.centers) + q**2 * samples * constants.sigma_tilde**2
    return mean, float(spread / B)


@claim.rows
def rows(table, row):
    for estimator in theory.theorems():
        part = table[(table.problem == "cosine") & (table.estimator == estimator)]
        good, rest = part[part.guaranteed > 0], part[~(part.guaranteed > 0)]
        ratio = row.least(good.decrease, good.error, good.guaranteed)
        beyond = row.least(rest.decrease - rest.guaranteed, rest.error)
        yield row.at_least(
            f"decrease of F in one step of {plotting.label(estimator)}",
            r"$F(w)-E[F(w_{k+1})]\ge\frac c{L(w)}(\kappa\|\nabla F(w)\|^2-N)$",
            ratio,
            1.0,
            # Where nothing is guaranteed, a negative guarantee must hold too.
            also=(len(rest) == 0 or beyond.low >= 0) and set(part.violated) == {"none"},
            note=f"smallest decrease / guaranteed over {len(good)} of {len(part)} points, where the guarantee "
            "is positive",
            place=place_of(estimator),
        )
    closed = table[table.problem.isin(LINES)]
    quadratic = closed[closed.problem == "quadratic"]
    yield row.agrees(
        "mean of the direction equals its closed form",
        r"$E[G\mid w]$ on family (c) in one dimension and on quadratics, all three methods",
        closed.mean_z,
        0.0,
        1.0,
    )
    yield row.agrees(
        "variance of the direction equals its closed form",
        r"$\mathrm{Var}\,G=\frac1B[p^2\mathrm{Var}\,c+q^2(\frac{\alpha^2h^2}{D_{in}}+\frac1{D_o})\tau^2]$",
        quadratic.variance_ratio,
        1.0,
        # The variance of a sample variance of nearly normal values, by their number.
        np.sqrt(2 / quadratic.draws),
        note="on quadratics, all three methods",
    )
    one, same = (table[table.problem == name].iloc[0] for name in ("independent", "reused"))
    yield row.at_least(
        "with one batch for step and direction a stationary point is none",
        r"$\nabla F(w)=0$ does not imply $E[\beta G]=0$ unless $\mathcal B'$ is independent of $\mathcal B$",
        float(same.moved_z),
        Z,
        also=one.moved_z <= Z and largest([one.b, same.b]) <= 1e-8,
        note=f"||E[beta G]|| in standard errors, {one.moved_z:.2g} for independent batches; "
        f"as a gradient it would be {same.moved / same.step:.2g}",
        number="E28",
        place="step-size lemma",
        source="derived; the condition is not in the summary",
    )


@claim.figure
def figure(table):
    drawing, axes = plotting.panels(2)
    # Before the data, for margins of these scales.
    axes[0].set_xscale("log")
    axes[0].set_yscale("symlog", linthresh=1e-2)
    axes[1].set(xscale="log", yscale="log")
    part = table[table.problem == "cosine"]
    for estimator in plotting.ordered(part.estimator):
        one, name = part[part.estimator == estimator].sort_values("b"), plotting.label(estimator)
        look = {"color": plotting.color(estimator)}
        bars = look | {"fmt": plotting.MARKERS[estimator], "markersize": 2.5, "linewidth": 0.7}
        good = one[one.guaranteed > 0]
        axes[0].errorbar(one.b, one.decrease, Z * one.error, label=name, **bars)
        axes[0].plot(good.b, good.guaranteed, "--", label=f"{name}, derived", **look)
        axes[1].errorbar(good.b, good.decrease / good.guaranteed, Z * good.error / good.guaranteed, **bars)
    axes[0].set_ylabel(r"expected decrease of $F$ [$\varphi$]")
    axes[1].axhline(1.0, linestyle="--", color="k", label="guaranteed decrease, derived")
    axes[1].set_ylabel("measured / guaranteed [1]")
    for axis in axes:
        axis.set_xlabel(r"$\|\nabla F(w)\|$ [$\varphi/u$]")
    return plotting.finish(drawing, f"One noisy step on the nonconvex family (c) ({Z:g} standard errors)")
