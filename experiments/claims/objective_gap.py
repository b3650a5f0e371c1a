"""grad F against grad F-hat, the objective whose inner step is stochastic too (E09).

As summarised, with D_test samples in the inner step of F-hat,

    ||grad F-hat(w) - grad F(w)|| <= 2 alpha L sigma~ / sqrt(D_test) + alpha^2 L sigma_h sigma~ / D_test.

Derived: [(1 + alpha L) rho alpha^2 sigma~^2 / 2 + alpha^2 L sigma_h sigma~] / D_test, so that the two gradients
agree to 1/D_test, and exactly on quadratics without Hessian noise; yet F-hat is another objective: there it is
larger than F by alpha^2 / (2 D_test) E<xi, A xi>. Measured by sampling the library's F-hat; on the cosine family
gradient and Hessian noise at a point are independent, and the gap is a one-dimensional integral. On logistic pools
they are correlated, and the second term shows.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import Quantity, Sampled, normal_mean
from experiments.claim import Claim
from experiments.claims._scores import Scores
from experiments.judging import largest
from jaxmaml import hvp, objective, plotting
from jaxmaml.tasks import cosine, finite_data, shared_quadratic
from jaxmaml.theory import objective_gap

LAMBDA = 1 / 4
DRAWS = 100
"""of one estimate of F-hat."""
BLOCKS = {"smoke": 200, "default": 2000, "full": 20_000}
D_TESTS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
STRAIGHT = 16.0
"""from this D_test on the next order, 1/D_test of the first, is far below the sampling error."""

claim = Claim("E09", "grad F and grad F-hat agree to 1/D_test", place="F and F-hat")


@Quantity
def gap(key, size, family, w, alpha, D_test):
    """grad F-hat - grad F and F-hat - F of a family of one task, less what is linear in the noise: its mean is zero."""
    del size  # one estimate
    task = jax.tree.map(lambda x: jnp.asarray(x)[0], family.tasks)
    full = (task, family.full(task))

    def loss(v, batch):
        return objective.task_loss(family, v, batch)

    gradient = jax.grad(loss)(w, full)
    adapted = w - alpha * gradient
    outer = jax.grad(loss)(adapted, full)

    def linear(drawn):
        batch = (task, drawn)
        xi = jax.grad(loss)(w, batch) - gradient
        shift = -alpha * hvp.exact(loss, adapted, xi, full)
        damped = shift - alpha * hvp.exact(loss, w, shift, full)
        twist = hvp.exact(loss, w, outer, batch) - hvp.exact(loss, w, outer, full)
        return -alpha * jnp.vdot(outer, xi), damped - alpha * twist

    def estimate(v):
        return objective.F_hat(family, v, alpha, D_test, key, DRAWS)

    samples = family.sample(key, jnp.zeros(DRAWS, int), jnp.full(DRAWS, D_test))
    values, slopes = (jnp.mean(x, axis=0) for x in jax.vmap(linear)(samples))
    value, slope = jax.value_and_grad(estimate)(w)
    value, slope = value - objective.F(family, w, alpha), slope - objective.grad_F(family, w, alpha)
    return {"value": (value - values)[None], "gap": (slope - slopes)[None]}


@claim.cells
def cells(scale):
    rng = np.random.default_rng(6)
    wave = cosine.make(n=1, d=2, mu=0.8, a=1.3, omega=1.7, tau=0.9, beta0=0.5, nu=1.2, seed=2)
    pools = finite_data.make(n=1, pool=30, p=2, mu=0.01, max_batch=16)
    problems = {
        "cosine": (wave, 1.5 * rng.standard_normal(2)),
        "quadratic": (shared_quadratic.make(n=1, d=3, tau=1.1, seed=1), 2.0 * rng.standard_normal(3)),
        "logistic pools": (pools, 3.0 * rng.standard_normal(2)),
    }
    for problem, (family, w) in problems.items():
        alpha = LAMBDA / family.constants().L
        for seed, D_test in enumerate(D_TESTS):
            if D_test <= (family.max_batch or np.inf):
                cell = Sampled(gap, family, w, alpha, {"D_test": D_test}, seed, BLOCKS[scale], size=1)
                yield {"problem": problem, "D_test": D_test}, cell


@claim.per("problem", "D_test")
def measured(part, cell):
    family, alpha, D_test = cell.family, cell.alpha, cell.arguments["D_test"]
    constants = family.constants()
    expected, value = np.full(len(part), np.nan), np.nan
    if isinstance(family, cosine.Cosine):
        # (1 - alpha f'') e: the noise of the inner gradient is normal, and independent of that of f''.
        deviation = constants.sigma_tilde / np.sqrt(family.dim * D_test)
        adapted = family.adapted(cell.w, alpha)[0]
        outer = normal_mean(lambda z: family.task_gradients(adapted - alpha * deviation * z)[0])
        e = outer - family.task_gradients(adapted)[0]
        expected = (1 - alpha * family.task_hessians(cell.w)[0]) * e
    elif isinstance(family, shared_quadratic.SharedQuadratic):
        spread = alpha**2 * constants.sigma_tilde**2 / (2 * family.dim * D_test)
        expected, value = np.zeros(len(part)), spread * np.sum(family.eigenvalues)
    elif D_test == 1:
        expected = enumerated(family, cell.w, alpha)
    size = np.linalg.norm(part.gap)
    return {
        "gap": size,
        # Of the norm, to first order.
        "gap_error": np.linalg.norm(part.gap * part.gap_error) / size if size > 1e-12 else 0.0,
        "gap_expected": np.linalg.norm(expected),
        "z": largest((part.gap - expected).abs() / part.gap_error) if np.any(expected) else np.nan,
        "coordinates": len(part),
        "value": part.value.iloc[0],
        "value_error": part.value_error.iloc[0],
        "value_expected": value,
        "bound_summary": objective_gap.gap_summary(constants, alpha, D_test),
        "bound": objective_gap.gap(constants, alpha, D_test),
    }


def enumerated(family, w, alpha):
    """The gap for D_test = 1 on logistic pools: the mean over all points of the pool."""

    def derivatives(v):
        """grad and Hessian at v on each point alone."""
        scores = Scores(family, v)
        x = scores.x[0]
        curvatures = scores.second[0][:, None, None] * x[:, :, None] * x[:, None, :]
        return scores.sample_gradients()[0], curvatures + family.mu * np.eye(len(v))

    def adapted(gradient, hessian):
        outer = derivatives(w - alpha * gradient)[0].mean(axis=0)
        return outer - alpha * hessian @ outer

    gradients, hessians = derivatives(w)
    each = [adapted(g, h) for g, h in zip(gradients, hessians, strict=True)]
    return np.mean(each, axis=0) - adapted(gradients.mean(axis=0), hessians.mean(axis=0))


@claim.rows
def rows(table, row):
    wave, quadratic, pools = (
        table[table.problem == name] for name in ("cosine", "quadratic", "logistic pools")
    )
    nonzero = table[table.problem != "quadratic"]
    yield row.agrees(
        "sampled gap of grad F-hat equals its integral on cosine",
        r"$\nabla\hat F_i-\nabla F_i=(I-\alpha\nabla^2f_i)e_i$ where the noises are independent",
        # The largest of the coordinates, each of which is a comparison.
        np.repeat(wave.z, wave.coordinates),
        0.0,
        1.0,
    )
    yield row.at_most(
        "grad F-hat against grad F",
        r"$\|\nabla\hat F-\nabla F\|\le2\alpha L\tilde\sigma/\sqrt{D_{test}}+\alpha^2L\sigma_H\tilde\sigma/D_{test}$",
        row.worst(nonzero.gap, nonzero.gap_error, nonzero.bound_summary),
        1.0,
        sharper=largest(nonzero.bound / nonzero.bound_summary),
        note="largest ratio over D_test; the gap is of order 1/D_test, the bound of order 1/sqrt(D_test)",
        source="as summarised",
    )
    yield row.at_most(
        "grad F-hat against grad F, second order",
        r"$\le[\frac{1+\lambda}2\rho\alpha^2\tilde\sigma^2+\alpha^2L\sigma_H\tilde\sigma]/D_{test}$",
        row.worst(nonzero.gap, nonzero.gap_error, nonzero.bound),
        1.0,
        companion="tightest instance found: gap of F-hat, sharper",
        note="largest ratio over D_test, cosine family and logistic pools",
    )
    straight = wave[wave.D_test >= STRAIGHT]
    yield row.contains(
        "the gap of grad F-hat decays like 1/D_test",
        r"$\|\nabla\hat F-\nabla F\|=O(1/D_{test})$, not $1/\sqrt{D_{test}}$",
        row.slope(straight.D_test, straight.gap, straight.gap_error),
        -1.0,
        0.05,
        note=f"log-log slope over {len(straight)} sizes, cosine family",
    )
    one = pools[pools.D_test == 1]
    yield row.agrees(
        "sampled gap of grad F-hat equals its enumeration on logistic pools",
        r"$\nabla\hat F-\nabla F$ over all points of the pool, $D_{test}=1$: gradient and Hessian noise are correlated",
        np.repeat(one.z, one.coordinates),
        0.0,
        1.0,
    )
    yield row.agrees(
        "on a quadratic grad F-hat equals grad F, and F-hat exceeds F",
        r"$\nabla\hat F=\nabla F$, $\hat F-F=\frac{\alpha^2}{2D_{test}}E\langle\xi,A\xi\rangle$",
        quadratic.value,
        quadratic.value_expected,
        quadratic.value_error,
        also=largest(quadratic.gap) <= 1e-12,
        note=f"of F-hat - F; the gradients differ by {largest(quadratic.gap):.1g}",
    )


@claim.figure
def figure(table):
    """The gradient of the objective with a sampled inner step differs by one over the samples, as the integral says it does.

    The bound as summarised falls only like one over their root.
    """
    drawing, axes = plotting.panels(2, height=2.7)
    titles = {"cosine": "nonconvex family", "logistic pools": "logistic regression"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        part = table[table.problem == name]
        look = plotting.neutral(0) | {"linestyle": "none", "capsize": 2}
        for column, kind, text in (
            ("bound_summary", "as summarised", "bound, as summarised"),
            ("bound", "derived", "bound, derived"),
        ):
            axis.loglog(part.D_test, part[column], label=text, **plotting.theory(kind, named=axis is axes[0]))
        if name == "cosine":
            exact = plotting.theory("exact") | {"label": "integral, exact"}
            axis.loglog(part.D_test, part.gap_expected, **exact)
        else:
            large = plotting.neutral(1, hollow=True) | {"linestyle": "none", "markersize": 9}
            axis.plot(part.D_test, part.gap_expected, label="enumeration, exact", **large)
        axis.errorbar(part.D_test, part.gap, 5 * part.gap_error, label="measured", **look)
        axis.set(title=title, xlabel="samples of the inner step $D_{test}$ [1]")
        axis.set_ylabel(r"$\|\nabla\hat F-\nabla F\|$ [$\varphi/u$]")
    return plotting.finish(drawing, "The objective with a sampled inner step (5 standard errors)")
