"""The cells that claims share: a run as a theorem asks, values at points, sampled expectations."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import Run
from jaxmaml import estimators, objective, theory, tree
from jaxmaml.checks import check_seed
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.types import Array, Constants, Family, Scalar

_SQUARINGS = 24
BLOCK = 64
"""points of `AtPoints` that are computed at once."""

Cells = list[tuple[dict[str, Any], Any]]
"""(labels, cell) pairs, what a claim's `grid` returns."""


class Quantity:
    """A function as a static field of a cell: equal and printed by its name, so that cells keep their keys.

    Decorates a function of a claim's module: the cell's key covers that module's code.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AtPoints:
    """function(family, w, alpha, **arguments), named numbers, at every point w; one row a point."""

    function: Quantity = field(metadata={"static": True})
    family: Any
    alpha: Scalar
    points: Array
    """shape (m, d)."""
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> int:
        return len(self.points)

    def check(self) -> None:
        """Nothing can be wrong."""

    def execute(self) -> dict[str, jax.Array]:
        def one(w: jax.Array) -> dict[str, jax.Array]:
            return self.function(self.family, w, self.alpha, **self.arguments)  # type: ignore[no-any-return]

        # Blocks of one size: a last one that is shorter would be compiled for itself.
        points = jnp.asarray(self.points)
        blocks = -(-len(points) // BLOCK)
        size = -(-len(points) // blocks)
        rest = jnp.broadcast_to(points[-1], (blocks * size - len(points), *points.shape[1:]))
        found = jax.lax.map(one, jnp.concatenate([points, rest]), batch_size=size)
        return {name: x[: len(points)] for name, x in found.items()}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampled:
    """Expectations: function(key, size, family, w, alpha, **arguments) draws `size` values of each quantity.

    A quantity `q` has shape (size, ...); recorded are its mean, and `q_error`, the standard error of that.
    The function gets `estimator` too, if there is one.
    """

    function: Quantity = field(metadata={"static": True})
    family: Any
    w: Array
    alpha: Scalar
    arguments: dict[str, Any]
    seed: int
    blocks: int = field(metadata={"static": True})
    size: int = field(default=1000, metadata={"static": True})
    """of a block: what is drawn at once."""
    estimator: str = field(default="", metadata={"static": True})

    @property
    def cost(self) -> int:
        return self.blocks * self.size // 20

    def check(self) -> None:
        """One clear error before anything compiles."""
        check_seed("seed", self.seed)

    def execute(self) -> dict[str, jax.Array]:
        w = jnp.asarray(self.w)
        named = self.arguments | ({"estimator": self.estimator} if self.estimator else {})

        def block(key: jax.Array) -> dict[str, jax.Array]:
            drawn = self.function(key, self.size, self.family, w, self.alpha, **named)
            return jax.tree.map(lambda x: jnp.stack([x.mean(axis=0), (x**2).mean(axis=0)]), drawn)  # type: ignore[no-any-return]

        keys = jax.random.split(jax.random.key(self.seed), self.blocks)
        found = {}
        for name, moments in jax.lax.map(block, keys).items():
            mean, square = moments.mean(axis=0)
            found[name] = mean
            variance = jnp.maximum(square - mean**2, 0)
            found[f"{name}_error"] = jnp.sqrt(variance / (self.blocks * self.size))
        return found


class _Seen(NamedTuple):
    k: jax.Array
    w: jax.Array
    at: dict[str, jax.Array]
    """what is seen of w."""
    step_sum: jax.Array
    marks: dict[str, jax.Array]
    """at every epsilon, nan before it is reached."""
    kept: dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FirstHits:
    """The first step k with ||grad F(w_k)|| <= epsilon, for every epsilon; one row an epsilon.

    hit = the step, nan where the run does not get there; grad_norm = ||grad F(w_k)|| and
    step_sum = sum_{j<k} beta_j there. Every step is looked at, so that a count is exact. It ends at the
    last epsilon, or the run's last step.
    """

    run: Run
    epsilons: Array
    """shape (A,)."""

    @property
    def cost(self) -> int:
        return self.run.cost

    def check(self) -> None:
        self.run.check()

    # What a kind of its own may see and keep besides.

    def last(self) -> Scalar:
        """The step at which it ends in any case."""
        return self.run.record[-1]

    def see(self, w: jax.Array) -> dict[str, jax.Array]:
        """Named numbers at w, among them norm = ||grad F(w)||."""
        return {"norm": tree.norm(objective.grad_F(self.run.family, w, self.run.alpha))}

    def start(self, at: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """What is kept of the whole run, when w_0 alone is seen."""
        del at
        return {}

    def keep(
        self, kept: dict[str, jax.Array], before: dict[str, jax.Array], at: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """The same after a step."""
        del before, at
        return kept

    def execute(self) -> dict[str, jax.Array]:
        """epsilon, hit, grad_norm, step_sum, and what is kept."""
        run, epsilons = self.run, jnp.asarray(self.epsilons)
        key = jax.random.key(run.seed, impl="threefry2x32")

        def mark(seen: _Seen) -> _Seen:
            now = jnp.isnan(seen.marks["hit"]) & (seen.at["norm"] <= epsilons)
            here = {"hit": seen.k, "grad_norm": seen.at["norm"], "step_sum": seen.step_sum}
            return seen._replace(marks={x: jnp.where(now, here[x], seen.marks[x]) for x in here})

        def step(seen: _Seen) -> _Seen:
            taken = run.step(jax.random.fold_in(key, seen.k), seen.w)
            at = self.see(taken.w)
            kept, total = self.keep(seen.kept, seen.at, at), seen.step_sum + taken.step_size
            return mark(_Seen(seen.k + 1, taken.w, at, total, seen.marks, kept))

        def goes_on(seen: _Seen) -> jax.Array:
            lasts = (seen.k < self.last()) & jnp.any(jnp.isnan(seen.marks["hit"]))
            return lasts & jnp.all(jnp.isfinite(seen.w))

        zero = 0 * jnp.asarray(run.alpha, float)
        w, none = jnp.asarray(run.w0) + zero, zero + jnp.full(epsilons.shape, jnp.nan)
        marks, at = dict.fromkeys(("hit", "grad_norm", "step_sum"), none), self.see(w)
        first = _Seen(zero.astype(int), w, at, zero, marks, self.start(at))
        seen = jax.lax.while_loop(goes_on, step, mark(first))
        return {"epsilon": epsilons, **seen.marks, **seen.kept}


def theorem_run(
    family: Family,
    estimator: str,
    alpha: float,
    w0: Array,
    *,
    record: tuple[int, ...],
    arguments: dict[str, Any] | None = None,
    **rest: Any,
) -> Run:
    """A run with L and rho of the family, c of the estimator's theorem, and, where the estimator takes a
    difference step and `arguments` gives none, delta of the theorem. `rest` as in `Run`: sizes, seed."""
    constants = _constants(family)
    if arguments is None:
        takes = inspect.signature(estimators.get(estimator)).parameters
        arguments = {"delta": theorem_delta(constants.rho, alpha)} if "delta" in takes else {}
    c = theory.theorems()[estimator].c
    return Run(
        family,
        estimator,
        alpha,
        c,
        constants.L,
        constants.rho,
        w0,
        arguments=arguments,
        record=record,
        **rest,
    )


def _constants(family: Family) -> Constants:
    """The constants of a family, computed once while a grid goes through its seeds."""
    if not _latest or _latest[0][0] is not family:
        _latest[:] = [(family, family.constants())]
    return _latest[0][1]


_latest: list[tuple[Family, Constants]] = []


def normal_mean(function: Callable[[float], np.ndarray]) -> np.ndarray:
    """E function(Z) of a standard normal Z, by Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return np.tensordot(weights / weights.sum(), np.stack([function(z) for z in nodes]), axes=1)


def spectral_norm(matrix: jax.Array) -> jax.Array:
    """||M|| = lim ||M^p||^{1/p} of a symmetric matrix, p = 2^24: at most d^{1/2p} too large.

    By matrix products alone: the LAPACK routines of jax.numpy.linalg may wait for each other for ever in
    a program that is sharded over CPU devices.
    """
    scale = jnp.linalg.norm(matrix)
    safe = jnp.where(scale > 0, scale, 1.0)

    def square(state: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        power, log = state
        power = power @ power
        size = jnp.linalg.norm(power)
        return (power / size, 2 * log + jnp.log(size)), None

    start = (matrix / safe, jnp.zeros((), matrix.dtype))
    (_, log), _ = jax.lax.scan(square, start, length=_SQUARINGS)
    return jnp.where(scale > 0, safe * jnp.exp(log / 2**_SQUARINGS), 0.0)
