"""The types that every layer shares: an episode, batch sizes, declared constants, and the protocols.

Units, with the parameters in units of u and the loss in units of phi (see docs/notation.md):
L, sigma_h ~ phi/u^2;  rho ~ phi/u^3;  sigma, sigma_tilde ~ phi/u;  alpha, beta, delta ~ u^2/phi.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np

PyTree = Any
Array = jax.Array | np.ndarray
Scalar = jax.Array | float
Loss = Callable[[PyTree, PyTree], jax.Array]
"""loss(params, batch) -> scalar, the mean over the batch."""

Kind = Literal["exact", "upper bound", "measured"]


class Episode(NamedTuple):
    """Three independent batches of one task, any pytrees with the sample axis first.

    With a leading task axis on every leaf it holds the episodes of B tasks.
    """

    inner: PyTree
    """D_in: the inner gradient step."""
    hessian: PyTree
    """D_h: the Hessian of the correction I - alpha H."""
    outer: PyTree
    """D_o: the gradient after adaptation."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BatchSizes:
    """How many tasks and samples one iteration draws; `None` means all of them (exact).

    `B` and `B_prime` set array shapes, so they are part of the compile signature; the sample sizes are
    numbers that may be traced.
    """

    B: int | None = field(default=None, metadata={"static": True})
    """tasks in the direction, i.i.d. with replacement."""
    D_in: Scalar | None = None
    """samples of the inner gradient."""
    D_o: Scalar | None = None
    """samples of the outer gradient."""
    D_h: Scalar | None = None
    """samples of the Hessian."""
    B_prime: int | None = field(default=None, metadata={"static": True})
    """tasks in the step size, drawn independently of `B`."""
    D_beta: Scalar | None = None
    """samples of each task gradient in the step size."""


@dataclass(frozen=True)
class Constants:
    """The constants of Assumptions 2 to 5, each with its kind.

    Assumption 2: ||grad f_i(w) - grad f_i(u)|| <= L ||w - u||.
    Assumption 3: ||hess f_i(w) - hess f_i(u)|| <= rho ||w - u|| (spectral norm).
    Assumption 4: E_i ||grad f_i(w) - grad f(w)||^2 <= sigma^2.
    Assumption 5: E ||grad f_i(w, theta) - grad f_i(w)||^2 <= sigma_tilde^2,
                  E ||hess f_i(w, theta) - hess f_i(w)||^2 <= sigma_h^2 (spectral norm).
    """

    L: float
    rho: float
    sigma: float
    sigma_tilde: float = 0.0
    sigma_h: float = 0.0
    zeta: float = math.inf
    """Lipschitz constant of the third derivative (phi/u^4); inf where none is known."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """kind of each constant by field name; a constant that is not listed is exact."""

    def __post_init__(self) -> None:
        for name in ("L", "rho", "sigma", "sigma_tilde", "sigma_h", "zeta"):
            value = getattr(self, name)
            real = isinstance(value, int | float | np.ndarray | np.generic | jax.Array)
            if not (real and not np.iscomplexobj(value) and value >= 0):
                raise ValueError(f"{name} = {value!r}; allowed: a number >= 0")

    def kind(self, name: str) -> Kind:
        return self.kinds.get(name, "exact")


class Infimum(NamedTuple):
    """A value that inf F is known to be (exact) or known not to fall below (lower bound)."""

    value: float
    kind: Literal["exact", "lower bound"]


Adapted = Callable[..., PyTree]
"""adapted(loss, params, episode, *, alpha, ...) -> w_K of one task. The gradient in params of f(w_K; D_o)
is an estimator; the derivative of w_K is its choice."""


class Estimator(Protocol):
    """An estimator of the meta-gradient of one task: no random keys, all draws are in the episode."""

    def __call__(
        self, loss: Loss, params: PyTree, episode: Episode, *, alpha: PyTree, **kwargs: Any
    ) -> PyTree: ...


class Family(Protocol):
    """A distribution of tasks whose constants are known: a pytree, so that cells of a sweep can stack it."""

    @property
    def tasks(self) -> PyTree:
        """The task parameters, every leaf with the leading axis n (tasks are equiprobable)."""

    @property
    def dim(self) -> int:
        """Number of parameters d; w has shape (d,)."""

    @property
    def max_batch(self) -> int | None:
        """The largest batch that `sample` can draw; None where any size is possible."""

    def loss(self, w: jax.Array, task: PyTree, batch: PyTree) -> jax.Array:
        """f_i(w, batch): the mean over the batch, for one task (no leading axis)."""

    def full(self, task: PyTree) -> PyTree:
        """The batch with which `loss` is exactly f_i."""

    def sample(self, key: jax.Array, who: jax.Array, sizes: jax.Array) -> PyTree:
        """A batch of i.i.d. samples for each of m tasks: leaves of the result have m first.

        who, shape (m,), are indices of tasks; sizes, shape (m,), may be traced. One call for all of them,
        because the random generator is fast on one large draw and slow (to run and to compile) on many
        small ones.
        """

    def constants(self) -> Constants:
        """L, rho, sigma, sigma_tilde, sigma_h of Assumptions 2 to 5."""

    def infimum(self, alpha: float) -> Infimum:
        """inf F for this inner rate, or a lower bound of it."""
