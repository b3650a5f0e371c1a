"""What the three theorems ask for and promise, with given constants: NumPy and jaxmaml.theory alone.

Every promise is at alpha = min(the rate asked for, the largest for which the constants are derived). Batches
for an accuracy epsilon, D_h being what the theorem asks for:

* as summarised: the fewest evaluations a step, B (D_in + D_o + 2 D_h) + B' D_beta, with the summarised floor
  at most epsilon; the iterations lack the theorem's O(1);
* derived: the fewest evaluations N(epsilon) [B (D_in + D_o + 2 D_h) + B' D_beta] in all.

An evaluation is the gradient of one sample, and a product with a Hessian counts as two. The part of both
floors that depends on batches is

    s sigma^2 + o sigma~^2/D_o + t sigma^2/B + u sigma~^2/(B D_o) + q sigma~^2/D_in <= A,

so that D_in follows from (B, D_o): a search over two integers remains.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmaml import theory
from jaxmaml.theory import drift, hf_maml, maml, smoothness, step_moments
from jaxmaml.theory.convergence import Theorem
from jaxmaml.theory.drift import NoiseCoefficients
from jaxmaml.theory.gradient_comparison import comparison_constants
from jaxmaml.types import BatchSizes, Constants

MOST = 1e18
"""the largest B and D_o that the search looks at."""
AFFORDABLE = 1e12
"""evaluations in all beyond which a promise is called out of reach."""
REPAIRED = "hf_maml, repaired"
PRODUCT = {"fo_maml": 0}
"""evaluations of a product with a Hessian, a sample; 2 for those not named."""


@dataclass(frozen=True)
class Plan:
    """Batches with which a theorem promises epsilon."""

    B: float
    D_in: float
    D_o: float
    D_h: float
    """0 where there is no Hessian."""
    floor: float
    iterations: float
    evaluations: float
    """in all."""


@dataclass(frozen=True)
class Promise:
    """One theorem with numbers."""

    name: str
    alpha_max: float
    """derived."""
    alpha_max_summary: float
    alpha: float
    """of everything below."""
    F: float
    """F(w0), unit phi."""
    grad_norm: float
    """||grad F(w0)||, unit phi/u."""
    epsilon: float
    """asked for, else a tenth of that."""
    gap: float | None
    """Delta as asked for, else F(w0) for a loss that is not negative; None: unknown, and iterations are those
    for Delta = 1."""
    c: float
    step: float
    """c / L(w0)."""
    arc: float | None
    """delta ||v||: inf for rho = 0, where every delta is exact; None without a difference."""
    D_h: float
    B_prime: float
    D_beta: float
    violated: tuple[str, ...]
    """conditions that the batches in force do not meet."""
    floor: float
    """derived, with the batches in force."""
    floor_summary: float | None
    least_floor: float
    """derived, with all tasks and samples; the repair's eta then tends to 0, and so does its floor."""
    summarised: Plan | None
    derived: Plan | None
    """None: no batches do."""


def promises(
    constants: Constants,
    alpha: float,
    sizes: BatchSizes,
    mean_norm: float,
    start: Callable[[float], tuple[float, float]],
    *,
    nonnegative: bool,
    epsilon: float | None = None,
    gap: float | None = None,
) -> list[Promise]:
    """Those of all theorems, and of HF-MAML's repair, eta = min(1/6, 1/sqrt(B)).

    Args:
      constants: with L > 0.
      alpha: in force, unit u^2/phi.
      sizes: in force.
      mean_norm: E_i ||grad f_i(w0)||, unit phi/u.
      start: alpha -> (F(w0), ||grad F(w0)||).
      nonnegative: whether the loss is, so that F(w0) bounds Delta.
      epsilon: asked for, unit phi/u.
      gap: Delta as asked for, unit phi.

    Raises:
      ValueError: grad F(w0) = 0 without an epsilon.
    """
    theorems = theory.theorems()
    chosen: dict[str, Callable[[int], Theorem]] = {n: _constant(theorems[n]) for n in maml_first(theorems)}
    chosen[REPAIRED] = hf_maml.repaired
    found = []
    for name, at in chosen.items():
        theorem = at(int(sizes.B or MOST))
        rate = min(alpha, theorem.alpha_max(constants.L))
        F, norm = start(rate)
        if epsilon is None and norm == 0:
            raise ValueError("epsilon = None with grad F(w0) = 0; allowed: a number > 0")
        accuracy = norm / 10 if epsilon is None else epsilon
        delta = gap if gap is not None else F if nonnegative else None
        summarised = name in theory.theorems()
        over = 1.0 if delta is None else delta
        promise = Promise(
            name=name,
            alpha_max=theorem.alpha_max(constants.L),
            alpha_max_summary=theorem.alpha_max_summary(constants.L),
            alpha=rate,
            F=F,
            grad_norm=norm,
            epsilon=accuracy,
            gap=delta,
            c=theorem.c,
            step=theorem.c / smoothness.smoothness(constants, rate, mean_norm),
            arc=_arc(name, constants, rate, int(sizes.B or MOST)),
            D_h=hessian_samples(theorem, constants, rate),
            **_step_sizes(constants, rate),
            violated=tuple(c.name for c in theorem.conditions(constants, rate, sizes) if not c.holds),
            floor=theorem.floor(constants, rate, sizes),
            floor_summary=theorem.floor_summary(constants, rate, sizes) if summarised else None,
            least_floor=0.0 if name == REPAIRED else theorem.floor(constants, rate, BatchSizes()),
            summarised=plan_summarised(theorem, constants, rate, accuracy, over) if summarised else None,
            derived=plan_derived(at, constants, rate, accuracy, over),
        )
        found.append(promise)
    return found


def _constant(theorem: Theorem) -> Callable[[int], Theorem]:
    """B -> theorem."""
    return lambda _: theorem


def _step_sizes(constants: Constants, alpha: float) -> dict[str, float]:
    B_prime, D_beta = step_moments.step_batch_conditions(constants, alpha)
    return {"B_prime": float(B_prime), "D_beta": float(D_beta)}


def maml_first(names: Iterable[str]) -> list[str]:
    """What the others are compared with comes first."""
    return sorted(names, key=lambda name: (name != maml.theorem.name, name))


def _arc(name: str, constants: Constants, alpha: float, B: int) -> float | None:
    if name not in (hf_maml.theorem.name, REPAIRED):
        return None
    eta = min(hf_maml.ETA, 1 / math.sqrt(B)) if name == REPAIRED else hf_maml.ETA
    return eta / (constants.rho * alpha) if constants.rho > 0 else math.inf


def hessian_samples(theorem: Theorem, constants: Constants, alpha: float) -> float:
    """The least D_h, 0 where the estimator has no Hessian."""
    if PRODUCT.get(theorem.name) == 0:
        return 0.0
    return float(max(1, math.ceil(theorem.hessian_samples(constants, alpha))))


def plan_summarised(
    theorem: Theorem, constants: Constants, alpha: float, epsilon: float, gap: float
) -> Plan | None:
    """The smallest batches whose summarised floor is at most epsilon; None if none has."""
    unit, C = constants.rho * alpha / constants.L, theorem.summary_constant
    allowed = epsilon**2 / (C * (1 + unit * constants.sigma))
    if unit > 0:
        allowed = min(allowed, epsilon / (C * unit))
    noise = NoiseCoefficients(theorem.persistent(alpha * constants.L), 0.0, 1.0, 1.0, 1.0)
    extra, fixed = _others(theorem, constants, alpha)
    # The last factor leaves room for rounding, so that the floor is below epsilon and not equal to it.
    allowed *= 1 - 1e-9

    def cost(B: np.ndarray, D_o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left = allowed - _without_inner(noise, constants, B, D_o)
        D_in = _ratio(noise.inner * constants.sigma_tilde**2, left)
        return B * (D_in + D_o + extra) + fixed, D_in

    sizes = _search(cost, extra / 2)
    if sizes is None:
        return None
    floor = theorem.floor_summary(constants, alpha, sizes)
    steps = float(theorem.iterations_summary(epsilon, gap, constants, alpha, sizes))
    return _plan(sizes, floor, steps, extra, fixed)


def plan_derived(
    at: Callable[[int], Theorem], constants: Constants, alpha: float, epsilon: float, gap: float
) -> Plan | None:
    """The batches with the fewest evaluations in all until the derived line is at epsilon; None if none do.

    With P = D_o + 2 D_h + B' D_beta / B, a part A of the noise left for D_in and Q = q sigma~^2, the product
    (D + P) / (A - Q/D) is least at D = (Q + sqrt(Q^2 + A Q P)) / A.
    """
    extra, fixed = _others(at(int(MOST)), constants, alpha)
    L = constants.L

    def cost(B: np.ndarray, D_o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [_row(at(int(b)), float(b), D_o[0]) for b in B[:, 0]]
        total, D_in = (np.stack(parts) for parts in zip(*rows, strict=True))
        return total, D_in

    def _row(theorem: Theorem, B: float, D_o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kappa, noise = theorem.drift(constants, alpha)
        c1, _, c3 = comparison_constants(alpha * L)
        smooth = 4 * L + 2 * constants.rho * alpha * (c3 * constants.sigma + c1 * epsilon)
        left = 4 * L * kappa * epsilon**2 / smooth - _without_inner(noise, constants, np.asarray(B), D_o)
        inner = noise.inner * constants.sigma_tilde**2
        rest = D_o + extra + fixed / B
        above = _ratio(inner + np.sqrt(inner**2 + np.maximum(left, 0) * inner * rest), left)
        both = np.stack(
            [above, np.maximum(above - 1, 1.0)]
        )  # convex in D_in: a neighbour of the minimum is best
        h = left - inner / both
        with np.errstate(invalid="ignore", over="ignore"):
            total = np.where(h > 0, B * (both + rest) / np.where(h > 0, h, 1), np.inf)
        which = np.argmin(total, axis=0)[None]
        return np.take_along_axis(total, which, 0)[0], np.take_along_axis(both, which, 0)[0]

    sizes = _search(cost, extra / 2)
    if sizes is None:
        return None
    theorem = at(int(sizes.B or MOST))
    steps = float(theorem.iterations(epsilon, gap, constants, alpha, sizes))
    return _plan(sizes, theorem.floor(constants, alpha, sizes), steps, extra, fixed)


def _others(theorem: Theorem, constants: Constants, alpha: float) -> tuple[float, float]:
    """(2 D_h, B' D_beta)."""
    B_prime, D_beta = step_moments.step_batch_conditions(constants, alpha)
    samples = hessian_samples(theorem, constants, alpha)
    return PRODUCT.get(theorem.name, 2) * samples, float(B_prime * D_beta)


def _without_inner(
    noise: NoiseCoefficients, constants: Constants, B: np.ndarray, D_o: np.ndarray
) -> np.ndarray:
    s2, t2 = constants.sigma**2, constants.sigma_tilde**2
    return (
        noise.sigma * s2 + noise.outer * t2 / D_o + noise.tasks * s2 / B + noise.outer_tasks * t2 / (B * D_o)
    )


def _ratio(above: Any, below: np.ndarray) -> np.ndarray:
    """D_in = above / below rounded up, at least 1; inf where nothing is left below."""
    positive = below > 0
    D = np.ceil(np.asarray(above) / np.where(positive, below, 1.0))
    return np.where(positive, np.maximum(D, 1.0), np.inf)


def _search(
    cost: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], D_h: float
) -> BatchSizes | None:
    """(B, D_o) with the least cost, on grids that close in on it.

    Larger batches are possible wherever smaller ones are, so that the first grid cannot miss all of them.
    Sizes are rounded up, so that the neighbours of what is best on a grid may be better: the last one has
    all integers around, as far as they are not too many.
    """
    least = np.array([drift.LEAST_TASKS, 1.0])
    low, high = least, np.array([MOST, MOST])
    for grid in (*[_geometric] * 6, _linear):
        axes = [grid(*ends) for ends in zip(low, high, strict=True)]
        with np.errstate(over="ignore", invalid="ignore"):
            value, D_in = cost(axes[0][:, None], axes[1][None, :])
        if not np.isfinite(value).any():
            return None
        i, j = divmod(int(np.argmin(value)), value.shape[1])
        best = np.array([axes[0][i], axes[1][j]])
        shrink = np.sqrt(high / low) ** (1 / 12)
        low, high = np.maximum(least, best / np.maximum(shrink, 1.4)), best * np.maximum(shrink, 1.4) + 1
    return BatchSizes(int(best[0]), float(D_in[i, j]), float(best[1]), D_h or None)


def _geometric(low: float, high: float) -> np.ndarray:
    return np.unique(np.ceil(np.geomspace(low, high, 49)))


def _linear(low: float, high: float) -> np.ndarray:
    return np.unique(np.round(np.linspace(low, high, 160)))


def _plan(sizes: BatchSizes, floor: float, iterations: float, extra: float, fixed: float) -> Plan:
    B, D_in, D_o = (float(x) for x in (sizes.B, sizes.D_in, sizes.D_o))  # type: ignore[arg-type]
    total = iterations * (B * (D_in + D_o + extra) + fixed)
    return Plan(B, D_in, D_o, float(sizes.D_h or 0), floor, iterations, total)
