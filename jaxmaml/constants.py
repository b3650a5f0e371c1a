"""L, rho, sigma, sigma_tilde and sigma_h of Assumptions 2 to 5, measured for any loss, model and data.

With H_i = hess f_i, T_i the third derivative of f_i and theta a sample of task i, the assumptions ask for the
least numbers with, for every w and i,

    L >= ||H_i(w)||,    rho >= ||T_i(w)|| = max T_i(w)[u, v, x] over unit vectors u, v, x,
    sigma^2 >= E_i ||grad f_i(w) - grad f(w)||^2,
    sigma_tilde^2 >= E_theta ||grad f_i(w, theta) - grad f_i(w)||^2,
    sigma_h^2 >= E_theta ||hess f_i(w, theta) - H_i(w)||^2  (spectral norm).

Measured is the largest at some points w, which can only be too small: a lower estimate. Norms of Hessians are
extreme Ritz values of Lanczos's method (1950); those of T_i are found by maximising over u, v and x in turn
(the higher-order power method of De Lathauwer, De Moor and Vandewalle, 2000). Both need products alone
(`jaxmaml.hvp.exact`), no d x d matrix. docs/constants.md says how to read the result.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxmaml import hvp, objective, tree
from jaxmaml.checks import check_params, check_positive, check_step_count
from jaxmaml.random import integers
from jaxmaml.types import Constants, Family, Loss, PyTree

UNITS = {"L": "phi/u^2", "rho": "phi/u^3", "sigma": "phi/u", "sigma_tilde": "phi/u", "sigma_h": "phi/u^2"}
"""the measured constants, and their units."""

FINALISTS = 8
"""(point, task) pairs that are looked at again after a first look at all of them."""
FRESH = 16
"""how many times as many draws the later looks at the noise have as the first."""
FIRST_STEPS = 6
"""Lanczos steps where only a rank or a scale is wanted."""
ROUNDS = (3, 24)
"""rounds of the maximisation over u, v, x in the first look and in the second, 3 products with T each."""
ENTRIES = 2**27
"""numbers in the vectors that are kept at once; tasks and draws are taken in parts that fit."""
ROUNDING = 128
"""in units of eps L, what is subtracted from differences of Hessians as an allowance for rounding."""


# A problem


@dataclass(frozen=True)
class Problem:
    """A few-shot or personalised problem: n equiprobable tasks, a loss and a model."""

    loss: Loss
    """loss(params, batch) -> scalar, the mean over the batch."""
    params: PyTree
    """where to begin, any pytree of floating-point arrays (unit u)."""
    full: PyTree
    """the batches, task axis first, with which `loss` is f_i: each task's whole pool, or a large sample."""
    sample: Callable[[jax.Array, jax.Array, int], PyTree]
    """sample(key, who, size): `size` i.i.d. samples for each task index in who, shape (m,); the leaves have m
    first. It is traced, with `size` an int."""


def from_pools(loss: Loss, params: PyTree, pools: PyTree) -> Problem:
    """The problem of your own data: leaves of `pools` have shape (n tasks, N samples, ...).

    A sample is drawn uniformly with replacement from the task's own pool, so that the whole pool is exact.

    Raises:
      ValueError: leaves that differ in their numbers of tasks or samples, or have none.
    """
    shapes = {
        "pools" + jax.tree_util.keystr(path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(pools)
    }
    sizes = {shape[:2] for shape in shapes.values()}
    if len(sizes) != 1 or 0 in (size := next(iter(sizes))) or len(size) < 2:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no leaves"
        raise ValueError(f"pools have {found}; allowed: leaves (tasks, samples, ...), equal in both")
    pools = jax.tree.map(jnp.asarray, pools)
    return Problem(loss, params, pools, Partial(_draw, pools))


def from_family(family: Family, w: PyTree) -> Problem:
    """The problem of a family at w, shape (d,); a batch is (task, samples)."""
    full = objective.full_episodes(family).inner
    return Problem(Partial(objective.task_loss, family), w, full, Partial(_family_sample, family))


def _draw(pools: PyTree, key: jax.Array, who: jax.Array, size: int) -> PyTree:
    count = jax.tree.leaves(pools)[0].shape[1]
    index = integers(key, who.size * size, count).reshape(who.size, size)
    return jax.tree.map(lambda x: x[who[:, None], index], pools)


def _family_sample(family: Family, key: jax.Array, who: jax.Array, size: int) -> PyTree:
    if family.max_batch is not None and size > family.max_batch:
        raise ValueError(f"size = {size!r}; allowed: at most {family.max_batch}, the family's max_batch")
    tasks = jax.tree.map(lambda x: jnp.asarray(x)[who], family.tasks)
    return tasks, family.sample(key, who, jnp.full(who.shape, float(size)))


# What is measured


@dataclass(frozen=True)
class Estimate:
    """A measured constant."""

    value: float
    low: float
    high: float
    """[low, high] is about the points that were measured: a 95 % interval for sigma_tilde and sigma_h, from
    the largest Ritz value to its residual above it for L, the value itself for rho and sigma. What other
    points may hold is told by `kind`."""
    kind: Literal["lower estimate", "upper bound", "exact"]
    n: int
    """how many: (point, task) pairs for L, with those of neighbouring points for rho, points for sigma, draws
    for sigma_tilde and sigma_h."""
    how: str
    """how and where, in a phrase."""


@dataclass(frozen=True)
class MeasuredConstants:
    """The five constants, and what they cost."""

    L: Estimate
    rho: Estimate
    sigma: Estimate
    sigma_tilde: Estimate
    sigma_h: Estimate
    points: int
    tasks: int
    products: int
    """Hessian-vector products with a task's batch or one sample; a product with T counts as two."""

    def constants(self) -> Constants:
        """The values as `jaxmaml.types.Constants`, every kind "measured"."""
        values = {name: getattr(self, name).value for name in UNITS}
        return Constants(**values, kinds=dict.fromkeys(UNITS, "measured"))

    def __str__(self) -> str:
        rows = [f"{'':11} {'value':>10} {'low':>10} {'high':>10}  unit"]
        for name, unit in UNITS.items():
            e = getattr(self, name)
            numbers = f"{e.value:10.4g} {e.low:10.4g} {e.high:10.4g}"
            rows.append(f"{name:11} {numbers}  {unit:7}  {e.kind}: {e.how}")
        rows.append(
            f"{self.points} points, {self.tasks} tasks, {self.products} products of a Hessian and a vector"
        )
        return "\n".join(rows)


def measure(
    problem: Problem,
    *,
    key: jax.Array,
    points: Sequence[PyTree] | None = None,
    iterations: int = 24,
    starts: int = 3,
    samples: int = 16,
    tolerance: float = 1e-3,
    task_chunk: int | None = None,
) -> MeasuredConstants:
    """The largest of each quantity in the docstring of this module, over the points and the tasks.

    * L: the largest |Ritz value| of every H_i(w). While the residual of the largest is above `tolerance`,
      it is measured again, with twice the steps, up to 8 times as many.
    * rho: the largest of ||T_i(w)||, and of ||H_i(w) - H_i(w')|| / ||w - w'|| for consecutive points.
    * sigma: exact at every point, for the n tasks and as far as `full` is exact.
    * sigma_tilde, sigma_h: the largest of many noisy means is too large on average. So a first look chooses
      8 candidates, fresh draws choose one of them, and the value is that of fresh draws once more.

    Cost in Hessian-vector products, for P points and n tasks: P n (3 iterations + 18 starts + 3 samples) in
    the first look, and at most 1152 starts + 8 samples (48 + iterations) in those after it, whatever P and n.
    Everything is compiled, and vectorised over tasks and draws, with matrix products at the full precision
    of their type: the default of GPUs for float32 would drown the differences.

    Args:
      problem: of `from_pools`, `from_family` or your own.
      key: of the draws, and of the directions that the searches start from.
      points: parameters like problem.params, e.g. those of a run, in its order; None: `points_near`.
      iterations: Lanczos steps. From d on the norms are exact, except in the looks that choose.
      starts: of the search for rho, at each point and task; the first is in the direction of the gradient.
      samples: draws for each point and task in the first look; a fourth as many, at least 2, of Hessians.
      tolerance: of the residual of the largest Ritz value, relative.
      task_chunk: tasks that are vectorised together, as in `meta_gradient`; None takes all that fit.

    Returns:
      MeasuredConstants. Every kind is "lower estimate", but for the sigma of a single task: 0, exact.

    Raises:
      ValueError: no points, points unlike params, samples < 2, a task axis that is not first, a loss that is
        not a scalar, a derivative that is not finite at a point.
      TypeError: parameters that are not floating point.

    Warns:
      UserWarning: the mean gradient of the samples is not that of `full`.
    """
    for name, value, least in (("iterations", iterations, 2), ("starts", starts, 1), ("samples", samples, 2)):
        check_step_count(name, value, least)
    check_positive("tolerance", tolerance)
    keys = jax.random.split(key, 5)
    products = 0
    with jax.default_matmul_precision("highest"):
        survey = _survey(problem, points, task_chunk)
        iterations = min(iterations, survey.dim)
        if points is None:
            products += survey.tasks * min(FIRST_STEPS, iterations)
            survey = survey._replace(points=_near(survey, keys[0], 3, 3, iterations))
        sigma = _spread(survey)  # first, because it names a gradient that is not finite
        L, cost = _curvature(survey, keys[1], iterations, tolerance)
        rho, more = _third_derivative(survey, keys[2], iterations, starts, L.value)
        sigma_tilde, _ = _noise(survey, keys[3], samples, None)
        sigma_h, most = _noise(survey, keys[4], max(2, samples // 4), iterations)
    products += cost + more + most
    return MeasuredConstants(L, rho, sigma, sigma_tilde, sigma_h, len(survey.points), survey.tasks, products)


def points_near(
    problem: Problem,
    key: jax.Array,
    *,
    steps: int = 3,
    perturbations: int = 3,
    task_chunk: int | None = None,
) -> list[PyTree]:
    """2 + `steps` + `perturbations` points near the start w, such as the theory needs the constants at.

    w; gradient steps on f = E_i f_i with rate 1/L, L measured at w; w after the inner step with this rate of
    the task with the largest gradient; random points at the distances r, r/3, r/9, ... from w, where r is the
    larger of ||w|| and the length of that inner step. No other length enters, so that units do not matter;
    where L = 0 (no curvature) or r = 0 there are fewer points.
    """
    for name, value in (("steps", steps), ("perturbations", perturbations)):
        check_step_count(name, value, 0)
    with jax.default_matmul_precision("highest"):
        survey = _survey(problem, None, task_chunk)
        return _near(survey, key, steps, perturbations, min(FIRST_STEPS, survey.dim))


# The set-up


class _Survey(NamedTuple):
    """What every stage needs: the problem with its functions as pytrees, and its sizes."""

    loss: Partial
    sample: Partial
    points: list[PyTree]
    full: PyTree
    tasks: int
    dim: int
    task_chunk: int


def _survey(problem: Problem, points: Sequence[PyTree] | None, task_chunk: int | None) -> _Survey:
    check_params(problem.params)
    params = jax.tree.map(jnp.asarray, problem.params)
    if points is not None and len(points) == 0:
        raise ValueError("points has length 0; allowed: at least one, or None for points near params")
    checked = [params] if points is None else [_point(params, p, j) for j, p in enumerate(points)]
    tasks = _task_axis(problem.full)
    if task_chunk is not None:
        check_step_count("task_chunk", task_chunk)
    # As pytrees: those made here hold arrays, and problems of equal shapes then share one compiled program.
    loss, sample = (f if isinstance(f, Partial) else Partial(f) for f in (problem.loss, problem.sample))
    full = jax.tree.map(jnp.asarray, problem.full)
    _check_functions(loss, sample, params, full)
    dim = sum(x.size for x in jax.tree.leaves(params))
    return _Survey(loss, sample, checked, full, tasks, dim, min(task_chunk or tasks, tasks))


def _point(params: PyTree, point: PyTree, j: int) -> PyTree:
    found, allowed = (str(jax.tree.structure(t)) for t in (point, params))
    if found != allowed:
        raise ValueError(f"points[{j}] is {found}; allowed: like params, {allowed}")
    shapes = [[np.shape(x) for x in jax.tree.leaves(t)] for t in (point, params)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"points[{j}] has shapes {shapes[0]}; allowed: those of params, {shapes[1]}")
    return jax.tree.map(lambda x, w: jnp.asarray(x, w.dtype), point, params)


def _task_axis(full: PyTree) -> int:
    shapes = {
        "full" + jax.tree_util.keystr(path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(full)
    }
    leading = {shape[:1] for shape in shapes.values()}
    if len(leading) != 1 or leading & {(), (0,)}:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no leaves"
        raise ValueError(f"full has {found}; allowed: leaves with the task axis first, of at least 1 task")
    return int(next(iter(leading))[0])


def _check_functions(loss: Partial, sample: Partial, params: PyTree, full: PyTree) -> None:
    """`sample` has the task axis first, and `loss` is a scalar on its batches and on those of `full`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    m, size = 3, 2  # different, so that axes in the wrong order show
    drawn = jax.eval_shape(lambda k: sample(k, jnp.zeros(m, int), size), key)
    for path, leaf in jax.tree_util.tree_leaves_with_path(drawn):
        if leaf.shape[:1] != (m,):
            raise ValueError(
                f"sample(key, who, {size}){jax.tree_util.keystr(path)} has shape {leaf.shape} for a who of "
                f"shape ({m},); allowed: the task axis first, ({m}, {size}, ...)"
            )

    def first(batches: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x[0], batches)

    one = jax.eval_shape(lambda k: first(sample(k, jnp.zeros(1, int), 1)), key)
    for name, batch in (("one sample", one), ("full", jax.eval_shape(first, full))):
        shape = getattr(jax.eval_shape(loss, params, batch), "shape", None)
        if shape != ():
            raise ValueError(f"loss on {name} has shape {shape}; allowed: (), the mean over the batch")


def _check_finite(what: str, p: int, who: np.ndarray, values: Any) -> None:
    """Values of the tasks `who`, which come first."""
    finite = np.all(np.isfinite(np.asarray(values)), axis=tuple(range(1, np.ndim(values))))
    if not finite.all():
        task = who[np.argmin(finite)]
        raise ValueError(f"the {what} of task {task} is not finite at points[{p}]; allowed: finite")


def _chunks(survey: _Survey, width: int) -> Iterator[tuple[np.ndarray, int]]:
    """(indices of tasks, how many of them came before), where `width` vectors are kept for each.

    Of equal sizes, so that one program does for all: the last chunk overlaps the one before.
    """
    n = survey.tasks
    size = max(1, min(survey.task_chunk, ENTRIES // (width * survey.dim)))
    for start in range(0, n, size):
        begin = min(start, n - size)
        yield np.arange(begin, begin + size), start - begin


def _batches(full: PyTree, who: jax.Array) -> PyTree:
    """Those of the tasks `who`; all of them, which come in order, without a copy."""
    every = jax.tree.leaves(full)[0].shape[0] == who.size
    return full if every else jax.tree.map(lambda x: x[who], full)


def _flat(params: PyTree) -> tuple[jax.Array, Callable[[Any], PyTree]]:
    """The parameters as one vector, of float32 at least, and the way back."""
    vector, unravel = ravel_pytree(params)
    wide = vector.astype(jnp.promote_types(vector.dtype, jnp.float32))
    return wide, lambda x: unravel(x.astype(vector.dtype))


def _largest(values: np.ndarray) -> list[tuple[int, int]]:
    """(point, task) of the FINALISTS."""
    order = np.argsort(values, axis=None)[::-1][:FINALISTS]
    return [(int(j) // values.shape[1], int(j) % values.shape[1]) for j in order]


def _near(survey: _Survey, key: jax.Array, steps: int, perturbations: int, room: int) -> list[PyTree]:
    start = survey.points[0]
    flat, unravel = _flat(start)
    w = np.asarray(flat)
    first, second = jax.random.split(key)
    rough = min(FIRST_STEPS, room)
    parts = [_norms_of_hessians(survey, 0, who, first, rough, room) for who, _ in _chunks(survey, room)]
    found, L, inner = [start], max(norms.max() for norms, _ in parts), np.zeros_like(w)
    if L > 0:
        x = w
        for _ in range(steps):
            x = x - np.asarray(_mean_gradient(survey, found[-1])[0]) / w.dtype.type(L)
            found.append(unravel(x))
        _, sizes = _mean_gradient(survey, start)
        who = np.array([np.argmax(sizes)])
        inner = np.asarray(_gradients(survey.loss, survey.full, who, start)[0][0]) / w.dtype.type(L)
        found.append(unravel(w - inner))
    radius = max(np.linalg.norm(w), np.linalg.norm(inner))
    directions = np.asarray(jax.random.normal(second, (perturbations, w.size), w.dtype))
    for j, direction in enumerate(directions if radius > 0 else ()):
        found.append(unravel(w + w.dtype.type(radius / 3**j / np.linalg.norm(direction)) * direction))
    return found


# The spread of the tasks


def _spread(survey: _Survey) -> Estimate:
    values = np.zeros(len(survey.points))
    for p, w in enumerate(survey.points):
        mean, norms = _mean_gradient(survey, w)
        _check_finite("gradient", p, np.arange(survey.tasks), norms)
        deviations = np.zeros(survey.tasks)
        for who, _ in _chunks(survey, 2):
            deviations[who] = _deviations(survey.loss, survey.full, who, w, mean)
        values[p] = _root_mean_square(deviations)
    if survey.tasks == 1:
        return Estimate(0.0, 0.0, 0.0, "exact", values.size, "one task")
    value = float(values.max())
    how = f"spread over {survey.tasks} equiprobable tasks, the largest at point {values.argmax()}"
    return Estimate(value, value, value, "lower estimate", values.size, how)


def _mean_gradient(survey: _Survey, w: PyTree) -> tuple[jax.Array, np.ndarray]:
    """(grad f(w), ||grad f_i(w)|| of every task)."""
    total: Any = 0.0
    norms = np.zeros(survey.tasks)
    for who, seen in _chunks(survey, 2):
        gradients, norms[who] = _gradients(survey.loss, survey.full, who, w)
        total = total + (gradients[seen:] if seen else gradients).sum(axis=0)
    return total / survey.tasks, norms


@jax.jit
def _gradients(loss: Partial, full: PyTree, who: jax.Array, w: PyTree) -> tuple[jax.Array, jax.Array]:
    """grad f_i(w), shape (c, d), and their norms, (c,)."""
    gradients = jax.vmap(lambda batch: _gradient(loss, w, batch))(_batches(full, who))
    return gradients, jax.vmap(tree.norm)(gradients)


@jax.jit
def _deviations(loss: Partial, full: PyTree, who: jax.Array, w: PyTree, mean: jax.Array) -> jax.Array:
    return jax.vmap(lambda batch: tree.norm(_gradient(loss, w, batch) - mean))(_batches(full, who))


def _gradient(loss: Partial, w: PyTree, batch: PyTree) -> jax.Array:
    return _flat(jax.grad(loss)(w, batch))[0]


def _root_mean_square(x: np.ndarray) -> float:
    """Scaled, so that no square under- or overflows."""
    largest = float(np.max(x))
    return largest * math.sqrt(float(np.mean((x / largest) ** 2))) if largest > 0 else 0.0


# Norms of Hessians


def lanczos(
    product: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    steps: int | jax.Array,
    room: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The tridiagonal T = V^T A V of a symmetric A on the Krylov space of `start`, fully reorthogonalised.

    Args:
      product: v -> A v, both of shape (d,).
      start: the first direction, shape (d,).
      steps: k <= d, the dimension of the space and the number of products; may be traced if `room` is given.
      room: the most steps that there is room for; None: `steps`.

    Returns:
      The diagonal of T and the entries beside it, both of shape (room,), of which the first k count. The k-th
      entry beside it is outside T and tells what the space leaves out (`ritz`).
    """
    d, size = start.shape[0], int(steps) if room is None else room
    dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def away(basis: jax.Array, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = x - dot(dot(basis, x), basis)
        return x

    def step(j: jax.Array, carry: tuple) -> tuple:
        diagonal, beside, basis, v = carry
        basis = basis.at[j].set(v)
        x = product(v)
        a = dot(v, x)
        x = away(basis, x)
        # Once more at unit length: where the space is exhausted x is rounding, and any new direction will do.
        v = _unit(away(basis, _unit(x)))
        return diagonal.at[j].set(a), beside.at[j].set(tree.norm(x)), basis, v

    zeros = jnp.zeros(size, start.dtype)
    begin = (zeros, zeros, jnp.zeros((size, d), start.dtype), _unit(start))
    diagonal, beside, *_ = jax.lax.fori_loop(0, steps, step, begin)
    return diagonal, beside


def ritz(diagonal: Any, beside: Any) -> tuple[np.ndarray, np.ndarray]:
    """(max |theta|, ||A y - theta y||) over the Ritz pairs of tridiagonals of `lanczos`, shape (..., k).

    max |theta| is at most ||A||, and an eigenvalue of A lies within the residual of theta. NumPy, on the
    host: LAPACK inside a sharded program can deadlock.
    """
    diagonal, beside = np.asarray(diagonal, float), np.asarray(beside, float)
    k = diagonal.shape[-1]
    T = np.zeros((*diagonal.shape, k))
    T[..., range(k), range(k)] = diagonal
    T[..., range(1, k), range(k - 1)] = beside[..., :-1]  # eigh reads the lower triangle alone
    values, vectors = np.linalg.eigh(T)
    top = np.argmax(np.abs(values), axis=-1)[..., None]
    last = np.take_along_axis(vectors[..., -1, :], top, -1)[..., 0]
    return np.abs(np.take_along_axis(values, top, -1))[..., 0], np.abs(beside[..., -1] * last)


def _unit(x: jax.Array) -> jax.Array:
    norm = tree.norm(x)
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)


def _hessian(loss: Partial, w: PyTree, batch: PyTree) -> Callable[[jax.Array], jax.Array]:
    """v -> H(w; batch) v on vectors."""
    _, unravel = _flat(w)
    return lambda v: _flat(hvp.exact(loss, w, unravel(v), batch))[0]


@functools.partial(jax.jit, static_argnames="room")
def _tridiagonals(
    loss: Partial,
    full: PyTree,
    who: jax.Array,
    w: PyTree,
    u: PyTree | None,
    key: jax.Array,
    steps: jax.Array,
    room: int,
) -> tuple[jax.Array, jax.Array]:
    """Of H_i(w), or of H_i(w) - H_i(u), for the tasks `who`: shape (c, room)."""
    flat, _ = _flat(w)

    def one(batch: PyTree, task: jax.Array) -> tuple[jax.Array, jax.Array]:
        terms = [_hessian(loss, x, batch) for x in (w, u) if x is not None]
        start = jax.random.normal(jax.random.fold_in(key, task), flat.shape, flat.dtype)
        return lanczos(lambda v: functools.reduce(jnp.subtract, [H(v) for H in terms]), start, steps, room)

    return jax.vmap(one)(_batches(full, who), who)


def _norms_of_hessians(
    survey: _Survey, p: int, who: np.ndarray, key: jax.Array, steps: int, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """(||H_i(w)||, residual) for the tasks `who`, at a point."""
    at = jax.random.fold_in(key, p)
    T = _tridiagonals(survey.loss, survey.full, who, survey.points[p], None, at, steps, room)
    _check_finite("Hessian", p, who, T[0])
    return ritz(*(np.asarray(x)[:, :steps] for x in T))


def _curvature(survey: _Survey, key: jax.Array, iterations: int, tolerance: float) -> tuple[Estimate, int]:
    """L and the number of products."""
    norms, residuals = np.zeros((2, len(survey.points), survey.tasks))
    for p in range(len(survey.points)):
        for who, _ in _chunks(survey, iterations):
            norms[p, who], residuals[p, who] = _norms_of_hessians(survey, p, who, key, iterations, iterations)
    products, steps = norms.size * iterations, iterations
    for _ in range(3):
        p, i = divmod(int(np.argmax(norms + residuals)), survey.tasks)
        if residuals[p, i] <= tolerance * norms.max():
            break
        steps = min(2 * steps, survey.dim)
        (found,), (residuals[p, i],) = _norms_of_hessians(survey, p, np.array([i]), key, steps, steps)
        norms[p, i] = max(norms[p, i], found)
        products += steps
    value, high = float(norms.max()), float((norms + residuals).max())
    p, i = divmod(int(norms.argmax()), survey.tasks)
    how = f"Lanczos, the largest of {norms.size} Hessians at point {p}, task {i}"
    if high > (1 + tolerance) * value:
        how += f"; not converged in {steps} steps: more iterations"
    return Estimate(value, value, high, "lower estimate", norms.size, how), products


# Third derivatives


def _third_derivative(
    survey: _Survey, key: jax.Array, iterations: int, starts: int, L: float
) -> tuple[Estimate, int]:
    """rho from ||T_i(w)|| and from pairs of points, and the number of products."""
    local = np.zeros((len(survey.points), survey.tasks))

    def look(p: int, who: np.ndarray, at: jax.Array, rounds: int) -> None:
        found = _third_norms(survey.loss, survey.full, who, survey.points[p], at, starts, rounds)
        _check_finite("third derivative", p, who, found)
        local[p, who] = np.maximum(local[p, who], found)

    short, long = ROUNDS
    first, second, third = jax.random.split(key, 3)
    for p in range(len(survey.points)):
        for who, _ in _chunks(survey, 4 * starts):
            look(p, who, jax.random.fold_in(first, p), short)
    finalists = _largest(local)
    for p, i in finalists:
        look(p, np.array([i]), jax.random.fold_in(second, p), long)
    pairs, cost = _pairs(survey, third, iterations, L)
    cost += 6 * starts * (short * local.size + long * len(finalists))
    p, i = divmod(int(local.argmax()), survey.tasks)
    value, how = float(local[p, i]), f"the largest of {local.size} third derivatives at point {p}, task {i}"
    if pairs.size and pairs.max() > value:
        p, i = divmod(int(pairs.argmax()), survey.tasks)
        value, how = float(pairs[p, i]), f"difference of Hessians between points {p} and {p + 1}, task {i}"
    return Estimate(value, value, value, "lower estimate", local.size + pairs.size, how), cost


def _pairs(survey: _Survey, key: jax.Array, iterations: int, L: float) -> tuple[np.ndarray, int]:
    """||H_i(w) - H_i(w')|| / ||w - w'|| for consecutive points, less the rounding; shape (P - 1, n)."""
    ratios, products = np.zeros((len(survey.points) - 1, survey.tasks)), 0
    for p, (w, u) in enumerate(zip(survey.points[:-1], survey.points[1:], strict=True)):
        there, here = (np.asarray(_flat(x)[0]) for x in (w, u))
        distance = float(np.linalg.norm(there - here))
        if distance == 0:
            continue
        rounding = ROUNDING * float(np.finfo(here.dtype).eps) * L
        at = jax.random.fold_in(key, p)
        for who, _ in _chunks(survey, iterations):
            T = _tridiagonals(survey.loss, survey.full, who, w, u, at, iterations, iterations)
            found, _ = ritz(*T)
            ratios[p, who] = np.maximum(found - rounding, 0) / distance
        products += 2 * iterations * survey.tasks
    return ratios, products


@functools.partial(jax.jit, static_argnames=("starts", "rounds"))
def _third_norms(
    loss: Partial, full: PyTree, who: jax.Array, w: PyTree, key: jax.Array, starts: int, rounds: int
) -> jax.Array:
    """Lower estimates of ||T_i(w)||, shape (c,). A round sets each of three directions to the best for the
    other two: the product with the last two takes the place of the oldest."""
    flat, unravel = _flat(w)

    def one(batch: PyTree, task: jax.Array) -> jax.Array:
        def product(u: jax.Array, v: jax.Array) -> jax.Array:
            """T[u, v, .] = d/dt H(w + t u) v at t = 0."""
            moved = jax.jvp(lambda z: hvp.exact(loss, z, unravel(v), batch), (w,), (unravel(u),))
            return _flat(moved[1])[0]

        def climb(directions: jax.Array) -> jax.Array:
            def improve(carry: tuple, _: None) -> tuple:
                old, new = carry
                best = product(old, new)
                return (new, _unit(best)), tree.norm(best)

            start = directions[1], directions[0]
            return jnp.max(jax.lax.scan(improve, start, None, length=3 * rounds)[1])

        begin = jax.random.normal(jax.random.fold_in(key, task), (starts, 2, flat.size), flat.dtype)
        gradient = _gradient(loss, w, batch)
        begin = begin.at[0, 0].set(jnp.where(tree.norm(gradient) > 0, gradient, begin[0, 0]))
        return jnp.max(jax.vmap(climb)(jax.vmap(jax.vmap(_unit))(begin)))

    return jax.vmap(one)(_batches(full, who), who)


# The noise of a sample


def _noise(survey: _Survey, key: jax.Array, samples: int, room: int | None) -> tuple[Estimate, int]:
    """sigma_tilde (room None) or sigma_h, with this many Lanczos steps, and the number of products."""
    steps = room or 0
    rough = min(FIRST_STEPS, steps)
    first, second, third = jax.random.split(key, 3)
    values = np.zeros((len(survey.points), survey.tasks))
    for p in range(len(survey.points)):
        for who, _ in _chunks(survey, samples * (room or 2)):
            at = jax.random.fold_in(first, p * survey.tasks + int(who[0]))
            norms, _ = _draws(survey, p, who, at, samples, rough, room)
            values[p, who] = [_root_mean_square(x) for x in norms]
    count, finalists = FRESH * samples, _largest(values)
    again = [0.0]
    if len(finalists) > 1:
        keys = jax.random.split(second, len(finalists))
        again = [
            _root_mean_square(_draws(survey, p, np.array([i]), at, count, rough, room)[0])
            for (p, i), at in zip(finalists, keys, strict=True)
        ]
    p, i = finalists[int(np.argmax(again))]
    norms, off = _draws(survey, p, np.array([i]), third, count, steps, room)
    if room is None:
        _check_unbiased(norms, off, f"at points[{p}], task {i}")
    how = f"{count} fresh draws at point {p}, task {i}, the largest of {values.size} in a first look"
    looks = len(finalists) if len(finalists) > 1 else 0
    products = 2 * (samples * values.size + count * looks) * rough + 2 * count * steps
    return _interval(norms[0], how), products


def _interval(norms: np.ndarray, how: str) -> Estimate:
    """The root of the mean square with its 95 % t interval."""
    n, largest = norms.size, float(norms.max())
    if largest == 0:
        return Estimate(0.0, 0.0, 0.0, "lower estimate", n, how)
    squares = (norms / largest) ** 2
    mean = float(squares.mean())
    # The normal quantile with the first correction of Student's law: 0.1 % off at n = 32, the least there is.
    half = (1.96 + (1.96**3 + 1.96) / (4 * (n - 1))) * float(squares.std(ddof=1)) / math.sqrt(n)
    share = 1 / (n * mean)
    if share > max(0.2, 8 / n):
        how += f"; heavy tail: one draw is {share:.0%} of the mean square, the interval is too short"
    low, value, high = (largest * math.sqrt(max(x, 0.0)) for x in (mean - half, mean, mean + half))
    return Estimate(value, low, high, "lower estimate", n, how)


def _check_unbiased(norms: np.ndarray, off: np.ndarray, where: str) -> None:
    """n |mean deviation|^2 / mean square is 1 on average; above 30 in 4 cases of 1e8 for one parameter."""
    ratio = float(np.linalg.norm(off)) / (_root_mean_square(norms) or 1.0)
    if norms.size * ratio**2 > 30:
        warnings.warn(
            f"the mean gradient of {norms.size} samples {where} is off that of full by {ratio:.2f} of the "
            "noise of one: does sample draw from the tasks that who names, and is full large enough?",
            stacklevel=4,
        )


def _draws(
    survey: _Survey, p: int, who: np.ndarray, key: jax.Array, count: int, steps: int, room: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """||deviations|| of `count` samples, (c, count), of Hessians or, with room None, of gradients.

    And of gradients the mean deviation, (c, d).
    """
    block = max(1, min(count, ENTRIES // (who.size * (room or 2) * survey.dim)))
    norms: list[np.ndarray] = []
    off: Any = np.zeros(1)
    for j in range(-(-count // block)):
        at = jax.random.fold_in(key, j)
        arguments = (survey.loss, survey.sample, survey.full, who, survey.points[p], at, block)
        if room is None:
            found, mean = _gradient_noise(*arguments)
            off = off + np.asarray(mean, float)
            _check_finite("gradient of a sample", p, who, found)
        else:
            T = _hessian_noise(*arguments, steps, room)
            _check_finite("Hessian of a sample", p, who, T[0])
            found, _ = ritz(*(np.asarray(x)[..., :steps] for x in T))
        norms.append(np.asarray(found, float))
    return np.concatenate(norms, axis=1)[:, :count], off / len(norms)


def _samples(sample: Partial, who: jax.Array, key: jax.Array, count: int) -> PyTree:
    """`count` batches of one sample for each task, leaves (c, count, 1, ...)."""
    drawn = sample(key, jnp.repeat(jnp.asarray(who), count), 1)
    return jax.tree.map(lambda x: x.reshape(who.size, count, *x.shape[1:]), drawn)


@functools.partial(jax.jit, static_argnames="count")
def _gradient_noise(
    loss: Partial, sample: Partial, full: PyTree, who: jax.Array, w: PyTree, key: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """||grad f_i(w, theta) - grad f_i(w)||, shape (c, count), and the mean of these deviations, (c, d)."""

    def one(batch: PyTree, drawn: PyTree) -> tuple[jax.Array, jax.Array]:
        exact = _gradient(loss, w, batch)
        deviations = jax.vmap(lambda theta: _gradient(loss, w, theta) - exact)(drawn)
        return jax.vmap(tree.norm)(deviations), deviations.mean(axis=0)

    return jax.vmap(one)(_batches(full, who), _samples(sample, who, key, count))


@functools.partial(jax.jit, static_argnames=("count", "room"))
def _hessian_noise(
    loss: Partial,
    sample: Partial,
    full: PyTree,
    who: jax.Array,
    w: PyTree,
    key: jax.Array,
    count: int,
    steps: jax.Array,
    room: int,
) -> tuple[jax.Array, jax.Array]:
    """Tridiagonals of hess f_i(w, theta) - H_i(w), shape (c, count, room)."""
    flat, _ = _flat(w)
    draw, begin = jax.random.split(key)

    def one(batch: PyTree, drawn: PyTree, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        exact = _hessian(loss, w, batch)

        def tridiagonal(theta: PyTree, start: jax.Array) -> tuple[jax.Array, jax.Array]:
            noisy = _hessian(loss, w, theta)
            return lanczos(lambda v: noisy(v) - exact(v), start, steps, room)

        return jax.vmap(tridiagonal)(drawn, starts)

    starts = jax.random.normal(begin, (who.size, count, flat.size), flat.dtype)
    return jax.vmap(one)(_batches(full, who), _samples(sample, who, draw, count), starts)
