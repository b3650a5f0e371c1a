"""The theorems' step size as an optax transformation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmaml.checks import check_nonnegative, check_norms, check_positive
from jaxmaml.types import PyTree, Scalar


class TheoremStepState(NamedTuple):
    """What the last update used."""

    step_size: jax.Array
    """beta = c / L~(w), unit u^2/phi."""
    smoothness: jax.Array
    """L~(w), unit phi/u^2."""


def estimated_smoothness(L: Scalar, rho: Scalar, alpha: Scalar, task_grad_norms: jax.Array) -> jax.Array:
    """L~(w) = 4 L + 2 rho alpha mean_j ||grad f_j(w; D_beta)||; with exact norms over all tasks, L(w).

    Raises:
      ValueError: no norms, or negative ones; inside jit, where values are not known, negative ones give NaN.
    """
    check_norms("task_grad_norms", task_grad_norms)
    task_grad_norms = jnp.where(jnp.asarray(task_grad_norms) < 0, jnp.nan, task_grad_norms)
    return 4 * L + 2 * rho * alpha * jnp.mean(task_grad_norms)


def scale_by_theorem_step(
    c: Scalar, L: Scalar, rho: Scalar, alpha: Scalar
) -> optax.GradientTransformationExtraArgs:
    """Updates -beta G with beta = c / L~(w): the step of all three theorems (as summarised).

    c = 1/12 for MAML, 1/18 for FO-MAML, 1/25 for HF-MAML. `update` requires the keyword
    `task_grad_norms`, the norms ||grad f_j(w; D_beta^j)|| at the current w, shape (B',), of tasks drawn
    independently of those in the direction; without it: TypeError. The norm of the updates is never
    read. The state keeps (step_size, smoothness); before the first update these are c/(4L) and 4L.

    Raises:
      ValueError: c or L not finite and > 0, rho or alpha negative or not finite. `update`: as
        `estimated_smoothness`.
    """
    check_positive("c", c)
    check_positive("L", L)
    check_nonnegative("rho", rho)
    check_nonnegative("alpha", alpha)

    def init(params: PyTree) -> TheoremStepState:
        del params
        return TheoremStepState(jnp.asarray(c / (4 * L)), jnp.asarray(4.0 * L))

    def update(
        updates: PyTree,
        state: TheoremStepState,
        params: PyTree | None = None,
        *,
        task_grad_norms: jax.Array,
        **extra: Any,
    ) -> tuple[PyTree, TheoremStepState]:
        del state, params, extra
        current = estimated_smoothness(L, rho, alpha, task_grad_norms)
        step = c / current
        scaled = jax.tree.map(lambda g: -step.astype(g.dtype) * g, updates)
        return scaled, TheoremStepState(step, current)

    return optax.GradientTransformationExtraArgs(init, update)
