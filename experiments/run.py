"""One run of a method: a scan over recorded segments, each a loop of outer steps, as one pure function."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml import estimators, objective, step_size, tree
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml._random import integers
from jaxmaml.checks import check_nonnegative, check_positive, check_seed, check_step_count
from jaxmaml.step_size import scale_by_theorem_step
from jaxmaml.types import Array, BatchSizes, Episode, Family, PyTree, Scalar

PRACTICE = ("alpha", "inner", "learn_alpha")
"""Keywords of an estimator that are no further argument of a run: its alpha has a field, and the theory takes
one inner step at that rate."""


def log_steps(steps: int, per_decade: int = 16, tail: int = 0) -> tuple[int, ...]:
    """The recorded steps: 0, then log-spaced integers up to `steps`, and `tail` more over its last half."""
    check_step_count("steps", steps)
    decades = np.log10(steps)
    grid = np.logspace(0, decades, max(2, int(np.ceil(decades * per_decade)) + 1))
    late = np.linspace(steps // 2, steps, tail + 1)[1:] if tail else np.empty(0)
    return (0, *sorted({round(float(k)) for k in (*grid, *late)} | {steps}))


def draw(family: Family, key: jax.Array, sizes: BatchSizes) -> tuple[Episode, PyTree]:
    """What one iteration draws: the episodes of B tasks, and batches of B' other tasks for the step size.

    Tasks are i.i.d. with replacement, the two sets and all batches independent. A batch is (task, samples)
    with leading axis B or B'. All batches that are not exact come from one call: random bits are most
    of the cost of a noisy step, and every separate call of the generator adds to the compile time.
    """
    n = jax.tree.leaves(family.tasks)[0].shape[0]
    key_tasks, key_samples = jax.random.split(key)
    counts = (sizes.B or n, sizes.B_prime or n)
    index = integers(key_tasks, sum(counts), n)
    everyone = jnp.arange(n)
    for_direction = everyone if sizes.B is None else index[: counts[0]]
    for_step = everyone if sizes.B_prime is None else index[counts[0] :]

    def take(who: jax.Array) -> PyTree:
        # No copy where nothing is drawn: XLA then sees that both gradients at w are the same.
        if who is everyone:
            return family.tasks
        return jax.tree.map(lambda x: jnp.asarray(x)[who], family.tasks)

    whose = (for_direction, for_direction, for_direction, for_step)
    wanted = (sizes.D_in, sizes.D_h, sizes.D_o, sizes.D_beta)
    drawn = [j for j, size in enumerate(wanted) if size is not None]
    batches = {j: jax.vmap(family.full)(take(whose[j])) for j in range(4) if j not in drawn}
    if drawn:
        many = jnp.concatenate([jnp.full(whose[j].shape, jnp.asarray(wanted[j], float)) for j in drawn])
        samples = family.sample(key_samples, jnp.concatenate([whose[j] for j in drawn]), many)
        start = 0
        for j in drawn:
            stop = start + whose[j].size
            batches[j] = jax.tree.map(lambda x, a=start, b=stop: x[a:b], samples)
            start = stop
    data = [(take(whose[j]), batches[j]) for j in range(4)]
    return Episode(*data[:3]), data[3]


def step_norms(family: Family, w: jax.Array, batches: PyTree) -> jax.Array:
    """||grad f_j(w; D_beta^j)|| of each task j, shape (B',)."""
    gradients = jax.vmap(lambda b: jax.grad(objective.task_loss, argnums=1)(family, w, b))(batches)
    return jax.vmap(tree.norm)(gradients)


class Step(NamedTuple):
    w: jax.Array
    """w_{k+1}."""
    direction: jax.Array
    """G_k."""
    step_size: jax.Array
    """beta_k."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Run:
    """A cell of a sweep: w_{k+1} = w_k - beta_k G_k with beta_k = c / L~(w_k).

    Numbers and arrays are leaves and may differ between the cells of one compiled program; the estimator,
    the structure and the recorded steps are static. Seeds are common random numbers: tasks and
    samples at step k depend on the seed and k alone, whatever the estimator.
    """

    family: Family
    estimator: str = field(metadata={"static": True})
    alpha: Scalar
    c: Scalar
    L: Scalar
    rho: Scalar
    w0: Array
    """shape (d,)."""
    sizes: BatchSizes = field(default_factory=BatchSizes)
    arguments: dict[str, Any] = field(default_factory=dict)
    """further arguments of the estimator, e.g. delta; their numbers are positive."""
    seed: int = 0
    record: tuple[int, ...] = field(default=(0, 1), metadata={"static": True})
    """the steps k at which metrics of w_k are recorded, increasing from 0; the last ends the run."""
    observe: Callable[..., dict[str, jax.Array]] | None = field(default=None, metadata={"static": True})
    """observe(family, w, alpha): named numbers, recorded beside the others; a `cells.Quantity`."""

    @property
    def cost(self) -> int:
        """Outer steps, for the estimate of the time that a sweep takes."""
        return self.record[-1]

    def check(self) -> None:
        """One clear error before anything compiles."""
        estimators.get(self.estimator)
        for name in ("alpha", "c", "L"):
            check_positive(name, getattr(self, name))
        check_nonnegative("rho", self.rho)
        check_seed("seed", self.seed)
        self._check_arguments()
        if np.shape(self.w0) != (self.family.dim,):
            raise ValueError(f"w0 has shape {np.shape(self.w0)}; allowed: ({self.family.dim},)")
        largest = self.family.max_batch
        for name in ("B", "B_prime"):
            if (size := getattr(self.sizes, name)) is not None:
                check_step_count(name, size)
        for name in ("D_in", "D_o", "D_h", "D_beta"):
            size = getattr(self.sizes, name)
            if size is None:
                continue
            check_positive(name, size)
            if not 1 <= size <= (largest or np.inf):
                limit = "" if largest is None else f" and <= {largest}, the family's max_batch"
                raise ValueError(f"{name} = {size!r}; allowed: None (exact), or >= 1{limit}")
        increasing = all(a < b for a, b in zip(self.record, self.record[1:], strict=False))
        if len(self.record) < 2 or self.record[0] != 0 or not increasing:
            raise ValueError(f"record = {self.record!r}; allowed: increasing steps that begin with 0")

    def _check_arguments(self) -> None:
        known = _keywords(self.estimator)
        needed = {name for name, default in known.items() if default is inspect.Parameter.empty}
        if not needed <= set(self.arguments) <= set(known):
            raise ValueError(
                f"arguments = {sorted(self.arguments)}; allowed for {self.estimator}: {sorted(known)}, "
                f"of which needed: {sorted(needed)}"
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.arguments):
            check_positive("arguments" + jax.tree_util.keystr(path), leaf)

    def execute(self) -> dict[str, jax.Array]:
        """Metrics at the recorded steps k, shape (R,), and when the run diverged.

        step = k, grad_norm = ||grad F(w_k)||, objective = F(w_k), smoothness = L(w_k),
        spread = (E_i ||grad f_i(w_k) - grad f(w_k)||^2)^{1/2}, the sigma at w_k, all exact;
        direction_norm = ||G_{k-1}|| and step_size = beta_{k-1} (nan at 0), step_sum = sum_{j<k} beta_j;
        diverged_at, shape (): the first k at which w_k is not finite, or -1.
        """
        # Made of a number that varies between cells: under vmap the state is then known to vary at once,
        # where else the loops are traced twice to find out.
        zero = 0 * jnp.asarray(self.alpha, float)
        nothing = zero + jnp.nan
        state = _State(jnp.asarray(self.w0) + zero, (zero - 1).astype(int), nothing, nothing, zero)
        key = jax.random.key(self.seed, impl="threefry2x32")

        def segment(state: _State, ends: tuple[jax.Array, jax.Array]) -> tuple[_State, PyTree]:
            start, stop = ends
            state = jax.lax.fori_loop(
                start, stop, lambda k, s: self._step(k, jax.random.fold_in(key, k), s), state
            )
            return state, self._metrics(state)

        stops = jnp.asarray(self.record)
        starts = jnp.concatenate([stops[:1], stops[:-1]])
        state, curves = jax.lax.scan(segment, state, (starts, stops))
        return {"step": stops, **curves, "diverged_at": state.diverged_at}

    def step(self, key: jax.Array, w: jax.Array) -> "Step":
        """One outer step from w, with what `draw` gives for the key."""
        episodes, step_batches = draw(self.family, key, self.sizes)
        direction = self.direction(w, episodes)
        new, used = self.move(w, direction, step_norms(self.family, w, step_batches))
        return Step(new, direction, used)

    def direction(self, w: jax.Array, episodes: Episode) -> jax.Array:
        """G(w), the mean of the estimator over the tasks of `episodes`."""
        # As arrays of JAX, which both precisions may trace in one process.
        family = jax.tree.map(jnp.asarray, self.family)
        return meta_gradient(
            estimators.get(self.estimator),
            lambda v, batch: objective.task_loss(family, v, batch),
            w,
            episodes,
            alpha=self.alpha,
            **self.arguments,
        )

    def move(
        self, w: jax.Array, direction: jax.Array, task_grad_norms: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(w - beta G, beta) with beta = c / L~ of these norms."""
        transform = scale_by_theorem_step(self.c, self.L, self.rho, self.alpha)
        updates, used = transform.update(direction, transform.init(w), task_grad_norms=task_grad_norms)
        return w + updates, used.step_size

    def _step(self, k: jax.Array, key: jax.Array, state: "_State") -> "_State":
        new, direction, used = self.step(key, state.w)
        diverged = (state.diverged_at < 0) & ~jnp.all(jnp.isfinite(new))
        return _State(
            new,
            jnp.where(diverged, (k + 1).astype(state.diverged_at.dtype), state.diverged_at),
            tree.norm(direction),
            used,
            state.step_sum + used,
        )

    def _metrics(self, state: "_State") -> dict[str, jax.Array]:
        gradients = objective.task_gradients(self.family, state.w)
        centred = gradients - jnp.mean(gradients, axis=0)
        observed = self.observe(self.family, state.w, self.alpha) if self.observe else {}
        return observed | {
            "grad_norm": tree.norm(objective.grad_F(self.family, state.w, self.alpha)),
            "objective": objective.F(self.family, state.w, self.alpha),
            "smoothness": step_size.estimated_smoothness(
                self.L, self.rho, self.alpha, jax.vmap(tree.norm)(gradients)
            ),
            "spread": jnp.sqrt(jnp.mean(jnp.sum(jnp.square(centred), axis=1))),
            "direction_norm": state.direction_norm,
            "step_size": state.step_size,
            "step_sum": state.step_sum,
        }


@functools.cache
def _keywords(estimator: str) -> dict[str, Any]:
    """The further arguments of an estimator, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(estimators.get(estimator)).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in PRACTICE
    }


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    w: jax.Array
    diverged_at: jax.Array
    direction_norm: jax.Array
    step_size: jax.Array
    step_sum: jax.Array
