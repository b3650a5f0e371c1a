"""What one iteration costs: floating-point operations and memory (E26), and samples (E25).

E26. As summarised, MAML costs O(d^2 B D_h) an iteration because of the Hessian, and HF-MAML avoids that. Derived,
on the logistic family (d), where a gradient of a batch of D takes 4 D d operations (X w, then X^T r):

  * forming the Hessian by differentiation takes d gradients, 4 D d^2, and d^2 memory;
  * the exact product H v, jvp of grad, takes X w, X v and X^T r': 1.5 gradients, so it is O(d) as well, and
    cheaper than the central difference, which takes 2. On one linearisation with D_in it takes 1.

The whole direction is then 2 gradients for FO-MAML, 4 for HF-MAML, 3.5 for MAML, 3 on the same batch and 2 + d
with the Hessian formed. Operations are those that XLA counts in the program before its optimisation, the same
on every machine; seconds are recorded beside them and judge nothing. The cost of a direction that differs
from its closed form is nan.

E25. Derived from the floors, the summary gives no such order: B and D_in of order eps^-2 with D_o = 1 make
the summarised floor eps, at B (D_in + D_o + D_h) of order eps^-4 samples an iteration. The inner noise biases the
outer gradient by at most rho alpha^2 sigma~^2 / (2 D_in), hence D_in of order 1/eps suffices, and eps^-3.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cells, theorem_run
from experiments.judging import at_most, largest, smallest, within
from experiments.results import LedgerRow
from experiments.run import draw, log_steps
from jaxmaml import estimators, hvp, objective, plotting, statistics, theory, tree
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml.estimators.hf_maml import ArcDelta
from jaxmaml.inner import adapt
from jaxmaml.statistics import Interval
from jaxmaml.tasks import cosine, finite_data, shared_quadratic
from jaxmaml.tasks.cosine import Cosine, first_zero
from jaxmaml.tasks.finite_data import FiniteData
from jaxmaml.tasks.shared_quadratic import SharedQuadratic
from jaxmaml.theory import finite_difference, inner_bias, stationary
from jaxmaml.timing import medians
from jaxmaml.types import BatchSizes, Constants, Episode, Loss, PyTree

TITLE = "operations, memory and samples of one iteration, by method"

# E26
TASKS, SAMPLES = 2, 128
SIZES = BatchSizes(B=TASKS, D_in=float(SAMPLES), D_o=float(SAMPLES), D_h=float(SAMPLES))
DIMS = {
    "smoke": (256, 1024),
    "default": tuple(2**j for j in range(5, 12)),
    "full": tuple(2**j for j in range(5, 13)),
}
ALPHA, MU, ARC = 1.0, 1e-3, 1e-5
EQUIVALENTS = {"fo_maml": 2.0, "hf_maml": 4.0, "maml": 3.5, "maml_same_batch": 3.0}
"""gradients in one direction (derived), without terms of relative order 1/D and 1/d."""
FORMED = "full_hessian"
METHODS = (*EQUIVALENTS, FORMED)

# E25
LAMBDA = 1 / 6
RUN = {"summarised floor": (3.0, 1.5), "second-order bias": (2.0, 1.0)}
"""accuracies whose sizes are also run, by rule; smoke: the first."""
ASYMPTOTIC = (1e-2, 1e-3, 1e-4)
SEEDS = {"smoke": 64, "default": 128, "full": 512}
STEPS = 3000


def full_hessian(loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree) -> PyTree:
    """MAML's direction with the d x d Hessian formed."""
    v = jax.grad(loss)(adapt(loss, params, episode.inner, alpha), episode.outer)
    return v - hvp.dense(loss, params, tree.scale(alpha, v), episode.hessian)


def _gradient(loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree) -> PyTree:
    del alpha
    return jax.grad(loss)(params, episode.inner)


def _direction(method: Callable[..., PyTree], family: FiniteData) -> Callable[..., jax.Array]:
    """(w, episodes) -> the mean of a method over the tasks."""
    takes = inspect.signature(method).parameters
    more: dict[str, Any] = {"delta": ArcDelta(ARC)} if "delta" in takes else {}

    def direction(w: jax.Array, episodes: Episode) -> jax.Array:
        loss = functools.partial(objective.task_loss, family)
        return meta_gradient(method, loss, w, episodes, alpha=ALPHA, **more)

    return direction


def _methods() -> dict[str, Callable[..., PyTree]]:
    return {name: estimators.get(name) for name in EQUIVALENTS} | {FORMED: full_hessian}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Directions:
    """The directions of all methods on the same episodes, against their closed forms."""

    family: FiniteData
    w: np.ndarray
    seed: int

    @property
    def cost(self) -> int:
        return self.family.dim

    def check(self) -> None:
        """Nothing can be wrong."""

    def execute(self) -> dict[str, jax.Array]:
        """||G - closed form|| / E_i||v_i|| in the order of METHODS."""
        w = jnp.asarray(self.w)
        episodes = draw(self.family, jax.random.key(self.seed), SIZES)[0]
        expected, norms = jax.vmap(lambda e: _closed_forms(w, e))(episodes)
        found = jnp.stack([_direction(f, self.family)(w, episodes) for f in _methods().values()])
        distance = jnp.linalg.norm(found - jnp.mean(expected, axis=0), axis=1)
        return {"difference": distance / jnp.mean(norms)}


def _closed_forms(w: jax.Array, episode: Episode) -> tuple[jax.Array, jax.Array]:
    """The directions of one task in the order of METHODS from the matrix H, shape (5, d), and ||v||."""

    def slopes(u: jax.Array, batch: Any) -> jax.Array:
        x, y, weights = map(jnp.asarray, batch[1])
        return x.T @ (-weights * y * jax.nn.sigmoid(-y * (x @ u))) + MU * u

    def hessian(batch: Any) -> jax.Array:
        x, _, weights = map(jnp.asarray, batch[1])
        s = jax.nn.sigmoid(x @ w)
        return (x.T * (weights * s * (1 - s))) @ x + MU * jnp.eye(w.size)

    v = slopes(w - ALPHA * slopes(w, episode.inner), episode.outer)
    maml = v - ALPHA * hessian(episode.hessian) @ v
    by_name = {"fo_maml": v, "maml_same_batch": v - ALPHA * hessian(episode.inner) @ v}
    return jnp.stack([by_name.get(name, maml) for name in METHODS]), jnp.linalg.norm(v)


def _start(dim: int) -> np.ndarray:
    return np.random.default_rng(dim + 1).standard_normal(dim)


def _allowed(method: str, dim: int) -> float:
    """What a direction may differ by from its closed form, relative to ||v||: rounding, and for HF-MAML the
    truncation alpha zeta arc^2 / 6 too. Features of norm 1 give L <= 1/4 + mu, rho <= c3 and zeta <= 1/8."""
    if method != "hf_maml":
        return 1e-10
    constants = Constants(L=0.25 + MU, rho=finite_data.LOSSES["logistic"].c3, sigma=0.0, zeta=1 / 8)
    norm = float(np.linalg.norm(_start(dim)))
    eps = float(np.finfo(float).eps)
    rounding = finite_difference.rounding(eps, 1 + MU * norm, constants.L, norm, ARC)
    return ALPHA * (finite_difference.truncation(constants, ARC, 1.0) + rounding)


def _pools(dim: int) -> FiniteData:
    rng = np.random.default_rng(dim)
    x = rng.standard_normal((4, 80, dim))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    y = np.where(rng.standard_normal((4, 80)) > 0, 1.0, -1.0)
    return finite_data.from_pools(x, y, "logistic", mu=MU, max_batch=SAMPLES)


@functools.cache
def _problem(rule: str) -> tuple[SharedQuadratic | Cosine, float, np.ndarray]:
    """Family, alpha and the zero of grad F: (a), whose stationary level is exact, or (c), with an inner
    bias; d = 1."""
    if rule == "summarised floor":
        quadratic = shared_quadratic.make(n=20, d=1, smallest=1.0, tau=1.0)
        return quadratic, LAMBDA / quadratic.constants().L, np.asarray(quadratic.tasks.centers).mean(axis=0)
    family = cosine.make(n=20, d=1, spread=0.3, tau=12.0)
    alpha = LAMBDA / family.constants().L
    center = float(np.mean(family.tasks.centers))
    # d = 1: points broadcast against the tasks.
    zero = first_zero(lambda x: family.grad_objective(x, alpha), center, 1e-3)
    return family, alpha, np.array([zero])


def _floor(rule: str, B: float, D_in: float) -> float:
    """MAML's floor with D_o = D_h = 1: as summarised, or derived with the second-order inner bias e.

    The latter has sigma~^2 / D_in from the squared bias, (alpha L sigma~)^2 / D_in, and from the variance with B = 20:
    at most (e / (alpha L))^2 + 20 sigma~^2 / (B D_in) takes its place.
    """
    family, alpha, _ = _problem(rule)
    constants, maml = family.constants(), theory.theorems()["maml"]
    if rule == "summarised floor":
        return maml.floor_summary(constants, alpha, BatchSizes(B=B, D_in=D_in, D_o=1.0))  # type: ignore[arg-type]
    bias = inner_bias.bias(constants, alpha, D_in) / (alpha * constants.L * constants.sigma_tilde)
    inner = bias**2 + 20 / (B * D_in)
    return maml.floor(constants, alpha, BatchSizes(B=B, D_in=1 / inner, D_o=1.0))  # type: ignore[arg-type]


def _sizes(rule: str, eps: float) -> BatchSizes:
    """B for a floor of eps / sqrt(2) without inner noise, then the least D_in for a floor of eps."""

    import scipy.optimize

    def least(floor: Callable[[float], float]) -> int:
        root = scipy.optimize.brentq(lambda t: floor(np.exp(t)) - eps, -5.0, 50.0)
        return max(1, int(np.ceil(np.exp(root))))

    B = max(20, least(lambda size: np.sqrt(2) * _floor(rule, size, 1e30)))
    D_in = least(lambda size: _floor(rule, B, size))
    return BatchSizes(B=B, D_in=float(D_in), D_o=1.0, D_h=1.0)


def _expected_square(rule: str, sizes: BatchSizes) -> float:
    """The stationary E||grad F||^2: exact on (a), on (c) to leading order in the step and the inner noise."""
    family, alpha, w = _problem(rule)
    c = theory.theorems()["maml"].c
    if isinstance(family, SharedQuadratic):
        late = np.arange(STEPS // 2, STEPS)
        return float(family.exact_line(late, w, "maml", alpha, c, sizes).mean())
    constants = family.constants()
    D_in, D_o = float(sizes.D_in), float(sizes.D_o)  # type: ignore[arg-type]
    damping = 1 - alpha * family.task_hessians(w)
    adapted = family.adapted(w, alpha)
    spread = np.var(damping * family.task_gradients(adapted))
    noise = 1 / D_o + (alpha * family.task_hessians(adapted)) ** 2 / D_in
    variance = (spread + constants.sigma_tilde**2 * np.mean(damping**2 * noise)) / (sizes.B or 1)
    h = 1e-5
    curvature = np.diff(family.grad_objective(w + np.array([-h, h]), alpha)) / (2 * h)
    bias = float(np.abs(np.mean(damping * family.inner_bias(w, alpha, D_in))))
    norms = np.abs(family.task_gradients(w))
    beta = c / (4 * constants.L + 2 * constants.rho * alpha * np.mean(norms))
    J = curvature.reshape(1, 1)
    return stationary.stationary_grad_norm_squared(J, J, variance.reshape(1, 1), float(beta), bias)


def grid(scale: str) -> Cells:
    nothing = {"rule": "", "epsilon": np.nan, "seed": 0}
    cells: Cells = []
    for dim in DIMS[scale]:
        cell = _Directions(_pools(dim), _start(dim), dim)
        cells.append(({"experiment": "E26", "d": dim} | nothing, cell))
    for rule, accuracies in RUN.items():
        family, alpha, w = _problem(rule)
        for eps in accuracies[: 1 if scale == "smoke" else None]:
            sizes = _sizes(rule, eps)
            for seed in range(SEEDS[scale]):
                labels = {"experiment": "E25", "d": 1, "rule": rule, "epsilon": eps, "seed": seed}
                record = log_steps(STEPS, per_decade=2, tail=50)
                run = theorem_run(family, "maml", alpha, w, record=record, sizes=sizes, seed=seed)
                cells.append((labels, run))
    return cells


def measure(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """E26: one row a dimension and method. E25: one row a rule and accuracy; where run, the stationary level."""
    del scale
    table: list[dict[str, Any]] = []
    directions = rows[rows.experiment == "E26"]
    for dim in map(int, directions.d.unique()):
        counted = _counts(dim)
        part = directions[directions.d == dim]
        for method, row in zip(METHODS, part.itertuples(), strict=True):
            allowed = _allowed(method, dim)
            right = row.difference <= allowed
            table.append(
                {
                    "experiment": "E26",
                    "d": dim,
                    "method": method,
                    "difference": row.difference,
                    "allowed": allowed,
                    "gradient_flops": counted["gradient"].flops if right else np.nan,
                    "flops": counted[method].flops if right else np.nan,
                    "temporary_bytes": counted[method].temporary_bytes if right else np.nan,
                    "seconds_ratio": counted[method].seconds / counted["gradient"].seconds,
                }
            )
    runs = rows[rows.experiment == "E25"]
    for rule in RUN:
        one = runs[runs.rule == rule]
        for eps in (*one.epsilon.unique(), *ASYMPTOTIC):
            sizes = _sizes(rule, eps)
            B, D_in = float(sizes.B or 0), float(sizes.D_in)  # type: ignore[arg-type]
            about = {
                "experiment": "E25",
                "rule": rule,
                "epsilon": eps,
                "B": B,
                "D_in": D_in,
                "samples": B * (D_in + 2),
                "floor": _floor(rule, B, D_in),
            }
            part = one[one.epsilon == eps]
            if len(part):
                squares = part.pivot(index="step", columns="seed", values="grad_norm") ** 2
                late = statistics.interval(squares[squares.index >= STEPS / 2].mean(axis=0))
                about |= {"square": late.mean, "low": late.low, "high": late.high, "seeds": late.n}
                about["expected"] = _expected_square(rule, sizes)
            table.append(about)
    return pd.DataFrame(table)


class _Count(NamedTuple):
    flops: float
    temporary_bytes: float
    seconds: float
    """median."""


@functools.cache
def _counts(dim: int) -> dict[str, _Count]:
    """What every method and one gradient cost."""
    family = _pools(dim)
    shapes = jax.eval_shape(lambda: (jnp.zeros(dim), draw(family, jax.random.key(0), SIZES)[0]))
    data = jax.tree.map(lambda x: jnp.full(x.shape, 0.1, x.dtype), shapes)
    counts = {}
    for name, method in ({"gradient": _gradient} | _methods()).items():
        lowered = jax.jit(_direction(method, family)).lower(*data)
        compiled = lowered.compile()
        # One at a time: a formed Hessian would empty the caches of what runs next.
        seconds = medians({name: functools.partial(compiled, *data)}, 7)[name]
        memory = compiled.memory_analysis()
        analysis = lowered.cost_analysis()
        if memory is None or analysis is None:
            raise RuntimeError("this backend of XLA reports neither operations nor memory")
        counts[name] = _Count(float(analysis["flops"]), float(memory.temp_size_in_bytes), seconds)
    return counts


def gradient_equivalents(table: pd.DataFrame) -> dict[str, float]:
    """Operations of each method's direction over those of one gradient, at the largest d."""
    cost = table[(table.experiment == "E26") & (table.d == table.d.max())]
    return {str(row.method): float(row.flops / row.gradient_flops) for row in cost.itertuples()}


def judge(table: pd.DataFrame) -> list[LedgerRow]:
    return _judge_costs(table[table.experiment == "E26"]) + _judge_samples(table[table.experiment == "E25"])


def _judge_costs(cost: pd.DataFrame) -> list[LedgerRow]:
    exact = cost[cost.method != "hf_maml"]
    difference = cost[cost.method == "hf_maml"]
    others = cost[cost.method != FORMED]
    dim = int(cost.d.max())
    last = cost[cost.d == dim]
    orders = (
        (
            "operations with the Hessian formed are of order d^2",
            r"with $\nabla^2f_i$ formed, an iteration costs $O(d^2BD_h)$",
            "as summarised",
            (FORMED,),
            2.0,
            "holds for forming the matrix",
        ),
        (
            "operations with the exact product are of order d",
            r"$v-\alpha Hv$ by jvp of grad costs $O(dBD_h)$",
            "derived; as summarised O(d^2 B D_h)",
            ("maml", "maml_same_batch"),
            1.0,
            "the summarised order is that of forming the matrix, which MAML does not need",
        ),
        (
            "operations of FO-MAML and HF-MAML are of order d",
            r"without $\nabla^2f_i$ an iteration costs $O(d)$",
            "derived",
            ("fo_maml", "hf_maml"),
            1.0,
            "all methods of the row",
        ),
    )
    return [
        at_most(
            "E26",
            "the directions that are counted equal their closed forms",
            r"MAML's exact product equals $v-\alpha Hv$ with $H$ formed, FO-MAML and the same batch likewise",
            "costs",
            "derived",
            largest(exact.difference),
            1e-10,
            also=largest(difference.difference / difference.allowed) <= 1,
            note="relative to ||v||, largest over d and the methods without a difference step; "
            f"HF-MAML differs by {largest(difference.difference):.2g}, within truncation and rounding",
        ),
        within(
            "E26",
            "counted operations of one gradient",
            r"$Xw$ and $X^\top r$ take $4Dd$ operations a task",
            "costs",
            "derived",
            _range(last.gradient_flops / (4 * TASKS * SAMPLES * dim)),
            1.0,
            0.1,
            note=f"over 4 B D d, at d = {dim}",
        ),
        *(
            within(
                "E26",
                part,
                statement,
                "costs",
                source,
                _range(_slope(cost, method, "flops") for method in methods),
                order,
                0.05,
                note=f"log-log slopes over the largest decade of d; {note}",
            )
            for part, statement, source, methods, order, note in orders
        ),
        *_judge_equivalents(cost, dim),
        within(
            "E26",
            "memory with the Hessian formed is of order d^2",
            r"the matrix $\nabla^2f_i$ takes $d^2$ numbers a task",
            "costs",
            "derived",
            _slope(cost, FORMED, "temporary_bytes"),
            2.0,
            0.05,
            note="log-log slope of the bytes of temporaries over the largest decade of d",
        ),
        at_most(
            "E26",
            "memory of MAML, FO-MAML and HF-MAML is of order d",
            r"without $\nabla^2f_i$ formed, a direction takes at most 10 vectors of $d+D$ numbers a task",
            "costs",
            "derived",
            largest(others.temporary_bytes / (8 * TASKS * (others.d + SAMPLES))),
            10.0,
            note="bytes of temporaries over 8 B (d + D), largest over d and the methods; "
            "HF-MAML names most vectors: 10 of d, 8 of D",
        ),
    ]


def _range(values: Iterable[float]) -> Interval:
    """From the smallest to the largest, around the mean; nan if any is."""
    array = np.asarray(list(values), float)
    return Interval(float(array.mean()), smallest(array), largest(array), 1)


def _judge_equivalents(cost: pd.DataFrame, dim: int) -> list[LedgerRow]:
    equivalents = gradient_equivalents(cost)
    last = cost[cost.d == dim].set_index("method").seconds_ratio
    rows = [
        within(
            "E26",
            f"gradients in one direction of {plotting.label(method)}",
            rf"a direction costs {expected:g} gradients (linear scores)",
            "costs",
            "derived",
            equivalents[method],
            expected,
            0.1,
            note=f"operations at d = {dim}; median time ratio {last[method]:.3g}",
        )
        for method, expected in EQUIVALENTS.items()
    ]
    rows.append(
        within(
            "E26",
            "gradients in one direction with the Hessian formed",
            r"a direction costs $2+d$ gradients",
            "costs",
            "derived",
            (equivalents[FORMED] - 2) / dim,
            1.0,
            0.1,
            note=f"(number - 2) / d at d = {dim}; median time ratio {last[FORMED]:.3g}",
        )
    )
    by_method = cost.pivot(index="d", columns="method", values="flops")
    rows.append(
        at_most(
            "E26",
            "MAML with the exact product against HF-MAML",
            r"an exact product $Hv$ costs no more than the central difference",
            "costs",
            "derived; as summarised HF-MAML is the faster to compute",
            largest(by_method.maml / by_method.hf_maml),
            1.0,
            note="largest ratio of operations over d; "
            "HF-MAML saves against the Hessian formed, not against the product",
        )
    )
    rows.append(
        at_most(
            "E26",
            "HF-MAML against MAML with the Hessian formed",
            "HF-MAML is faster to compute, since it forms no Hessian",
            "costs",
            "as summarised",
            largest(by_method.hf_maml / by_method[FORMED]),
            1.0,
            note="largest ratio of operations over d",
        )
    )
    return rows


def _slope(cost: pd.DataFrame, method: str, column: str) -> float:
    part = cost[(cost.method == method) & (cost.d >= cost.d.max() / 10)]
    return statistics.slope(part.d, part[column]).mean


def _judge_samples(table: pd.DataFrame) -> list[LedgerRow]:
    rows = []
    # (order, relative error of the expected level, sizes); the linearisation on (c) is not exact.
    about = {
        "summarised floor": (-4.0, 0.0, r"$B,D_{in}\propto\varepsilon^{-2}$", "exact"),
        "second-order bias": (
            -3.0,
            0.1,
            r"$B\propto\varepsilon^{-2}$, $D_{in}\propto\varepsilon^{-1}$",
            "linearised",
        ),
    }
    for rule, (order, tolerance, sizes, kind) in about.items():
        part = table[table.rule == rule]
        run = part[part.epsilon > max(ASYMPTOTIC)]
        error = (run.high - run.low) / 4
        reached = largest(np.sqrt(run.square + 5 * error) / run.epsilon)
        off = largest((run.square - run.expected).abs() / (5 * error + tolerance * run.expected))
        precise = largest(error / run.expected) <= 0.06
        right = off <= 1 and reached <= 1 and precise and largest(part.floor / part.epsilon) <= 1 + 1e-9
        small = part[part.epsilon <= max(ASYMPTOTIC)]
        slope = statistics.slope(small.epsilon, small.samples).mean
        rows.append(
            within(
                "E25",
                f"samples an iteration by the {rule}",
                rf"with {sizes} and $D_o=1$, $B(D_{{in}}+D_o+D_h)\propto\varepsilon^{{{order:g}}}$ "
                r"samples an iteration are enough for $E\|\nabla F\|\le\varepsilon$: an upper order",
                "costs",
                "derived",
                slope if right else np.nan,
                order,
                0.05,
                note=f"log-log slope; runs at these sizes reach {reached:.2g} of eps, their distance "
                f"from the {kind} level is {off:.2g} of what is allowed",
            )
        )
    return rows


def figure(table: pd.DataFrame) -> Figure:
    drawing, axes = plotting.panels(3)
    cost = table[table.experiment == "E26"]
    for method in (*plotting.ordered(EQUIVALENTS), FORMED):
        part = cost[cost.method == method]
        look: dict[str, Any] = {
            "color": plotting.COLORS.get(method, plotting.OTHER[1]),
            "marker": plotting.MARKERS.get(method, "v"),
            "linestyle": "none",
            "label": "MAML, Hessian formed" if method == FORMED else plotting.label(method),
        }
        expected = EQUIVALENTS.get(method, 2 + part.d)
        axes[0].loglog(part.d, part.flops / part.gradient_flops, **look)
        line = {"color": look["color"], "linewidth": 0.8}
        axes[0].loglog(part.d, expected + 0 * part.d, "--", **line)
        axes[1].loglog(part.d, part.temporary_bytes, **look)
    axes[0].plot([], [], "--", color="k", linewidth=0.8, label="derived")
    dims = np.sort(cost.d.unique())
    axes[1].loglog(dims, 8 * TASKS * dims**2, "--", color="k", linewidth=0.8)
    axes[0].set_ylabel("operations [gradients]")
    axes[0].set_title("derived: 2, 3, 3.5, 4 and $2+d$")
    axes[1].set_title(r"derived: $8Bd^2$, $\nabla^2f_i$ formed")
    axes[1].set_ylabel("temporaries [bytes]")
    for axis in axes[:2]:
        axis.set_xlabel("dimension $d$ [1]")
    samples = table[table.experiment == "E25"]
    for j, (rule, order) in enumerate(zip(RUN, (-4, -3), strict=True)):
        part = samples[samples.rule == rule].sort_values("epsilon")
        shade = plotting.OTHER[3 * j]
        run = part.square.notna()
        name = f"sizes from the {rule}"
        axes[2].loglog(part.epsilon[run], part.samples[run], "o", color=shade, label=f"{name}, run")
        axes[2].loglog(part.epsilon[~run], part.samples[~run], "o", color=shade, mfc="none", label=name)
        first = part.iloc[0]
        axes[2].loglog(
            part.epsilon,
            first.samples * (part.epsilon / first.epsilon) ** order,
            "--",
            color=shade,
            linewidth=0.8,
            label=rf"slope ${order}$, derived",
        )
    axes[2].set_xlabel(r"accuracy $\varepsilon$ [$\varphi/u$]")
    axes[2].set_ylabel("samples an iteration [1]")
    return plotting.finish(drawing, "Cost of one iteration: operations, memory, samples", columns=4)
