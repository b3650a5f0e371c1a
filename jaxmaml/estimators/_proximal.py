"""The inner problem of the proximal objective, and how it is solved.

    phi(w) = argmin_phi  f(phi; D_in) + ||phi - w||^2 / (2 a),   i.e.   phi = w - a grad f(phi; D_in),

an inner step with the gradient at its end. 1/a is the lambda of Rajeswaran et al. (2019): lam, or 1/alpha
where none is given. Without lam the solver is phi_{k+1} = w - alpha grad f(phi_k), so that its first step is
MAML's; it converges for alpha L < 1, by that factor a step. With lam it is the inner loop of `adapt`, with
rate or optax update alpha, on f + (lam/2) ||phi - w||^2.
"""

import jax
import jax.numpy as jnp

from jaxmaml import tree
from jaxmaml._inner_gradient import inner_gradient
from jaxmaml.checks import check_positive
from jaxmaml.hvp import none
from jaxmaml.inner import InnerLoop, check_inner, descend, is_optax, repeat, update
from jaxmaml.types import Loss, PyTree, Scalar


def check(alpha: PyTree, lam: Scalar | None, inner: InnerLoop, learn_alpha: bool) -> None:
    """One inner problem, whose strength is known."""
    check_inner(inner)
    if inner.batch_per_step:
        raise ValueError(
            "inner.batch_per_step = True with a proximal inner problem; allowed: False, it has one batch"
        )
    if lam is None:
        solver = "an optax transformation" if is_optax(alpha) else "a rate for every step"
        if is_optax(alpha) or inner.rate_per_step:
            raise ValueError(f"lam = None with {solver}; allowed: a number > 0, alpha is then the solver's")
        return
    check_positive("lam", lam)
    if learn_alpha:
        raise ValueError(
            f"learn_alpha = True with lam = {lam!r}; allowed: without lam, as alpha is then 1/lam, not the "
            "rate of a solver"
        )


def strength(alpha: PyTree, lam: Scalar | None) -> PyTree:
    """a, a pytree prefix of the parameters."""
    return alpha if lam is None else 1 / jnp.asarray(lam, float)


def solve(
    loss: Loss, params: PyTree, batch: PyTree, alpha: PyTree, lam: Scalar | None, inner: InnerLoop
) -> PyTree:
    """phi_K; its derivative is meaningless."""
    params = jax.tree.map(jax.lax.stop_gradient, params)
    if lam is not None:

        def pulled(phi: PyTree, batch: PyTree) -> jax.Array:
            squares = jax.tree.map(lambda x, y: jnp.sum(jnp.square(x - y)), phi, params)
            return loss(phi, batch) + lam / 2 * jax.tree.reduce(jnp.add, squares)

        return descend(none, pulled, params, (batch,), alpha, inner)
    free, fixed = tree.partition(params, inner.mask)
    gradient = inner_gradient(loss, none, mask=inner.mask)

    def step(phi: PyTree, batches: tuple[PyTree], alpha: PyTree) -> PyTree:
        return update(free, (), gradient(tree.combine(phi, fixed), *batches), alpha)[0]

    return tree.combine(repeat(step, free, (batch,), alpha, inner), fixed)
