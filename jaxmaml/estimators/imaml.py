"""iMAML: the implicit gradient of the loss after a proximal step, by conjugate gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmaml import tree
from jaxmaml._inner_gradient import inner_gradient
from jaxmaml.checks import check_step_count
from jaxmaml.estimators import _proximal
from jaxmaml.estimators._adapted import PROXIMAL, gradient, through
from jaxmaml.inner import ONE_STEP, InnerLoop
from jaxmaml.types import Episode, Loss, PyTree, Scalar

CG_STEPS = 5
"""as in the paper."""


def adapted(
    loss: Loss,
    params: PyTree,
    episode: Episode,
    *,
    alpha: PyTree,
    lam: Scalar | None = None,
    inner: InnerLoop = ONE_STEP,
    cg_steps: int = CG_STEPS,
) -> PyTree:
    """phi_K, with the derivative of a solution: of phi = b - a grad f(phi; D_in) in b is (I + a H)^{-1}."""
    params = jax.tree.map(jnp.asarray, params)
    phi = jax.lax.stop_gradient(_proximal.solve(loss, params, episode.inner, alpha, lam, inner))
    start, fixed = tree.partition(params, inner.mask)
    end, _ = tree.partition(phi, inner.mask)
    a = _proximal.strength(alpha, lam)
    gradient = inner_gradient(loss, mask=inner.mask, remat=False)

    def slope(end: PyTree, fixed: PyTree) -> PyTree:
        return gradient(tree.combine(end, fixed), episode.inner)

    # It varies with w, and through a, what a mask keeps and what the loss closes over.
    b = jax.tree.map(jnp.subtract, start, tree.scale(a, slope(end, fixed)))
    _, hessian = jax.vjp(lambda v: slope(v, jax.lax.stop_gradient(fixed)), end)
    return tree.combine(_tied(cg_steps, end, b, jax.lax.stop_gradient((hessian, a))), fixed)


@through(adapted, gradients=lambda K: K + 2 + 2 * (CG_STEPS + 1), objective=PROXIMAL)
def imaml(
    loss: Loss,
    params: PyTree,
    episode: Episode,
    *,
    alpha: PyTree,
    lam: Scalar | None = None,
    inner: InnerLoop = ONE_STEP,
    cg_steps: int = CG_STEPS,
    learn_alpha: bool = False,
) -> PyTree:
    """G = (I + H a)^{-1} v = v - H u,  u = (1/a + H)^{-1} v,  v = grad f(phi; D_o),  H = hess f(phi; D_in).

    It is the gradient in w of f(phi(w); D_o) where phi(w) minimises f(phi; D_in) + ||phi - w||^2 / (2 a),
    a = alpha or 1/lam: another objective than MAML's, which it meets where alpha is small. Memory does not
    grow with the number of inner steps. `episode.hessian` is not used.

    Not solved: phi is the K-th iterate of `inner`, and all is taken there. The result is then no gradient of
    anything; its error is of the order of ||phi_K - phi||, without lam (alpha L)^K. That solver diverges
    beyond alpha L = 1: give lam = 1/alpha there, and as alpha a rate below 2/(L + lam).
    Few conjugate gradients: after m of them u has, relative to itself, an error of at most 2 q^m in the norm
    of 1/a + H, q = (sqrt(k) - 1)/(sqrt(k) + 1), k the condition number of I + a H; for m = 5 and
    0 <= a H <= 1 that is 3e-4.
    Not definite: where one of their directions p has p'(1/a + H)p <= 0, phi is no minimum, there is no such
    gradient, and the result is NaN (`finite_tasks` names the task). So it is for a rate below 0 inside jit.
    Derivatives of G itself would take phi and H as constants: it is made to be differentiated no further.

    Args:
      alpha: without lam the strength of the proximal step, phi = w - alpha grad f(phi), a number or a pytree
        prefix of params; with lam the rate or optax update of the solver.
      lam: unit phi/u^2, > 0; None: 1/alpha.
      inner: number of steps of the solver, and which parameters adapt.
      cg_steps: of conjugate gradients at most; they end where nothing is left.
      learn_alpha: return (G, -<G, grad f(phi; D_in)>) as well; without lam.

    Other arguments, returns and errors as for `maml`; ValueError for a batch or, without lam, a rate per
    step, and for lam <= 0. Source: Rajeswaran, Finn, Kakade, Levine (2019), "Meta-learning with implicit
    gradients".
    """
    _proximal.check(alpha, lam, inner, learn_alpha)
    check_step_count("cg_steps", cg_steps)
    return gradient(
        adapted, loss, params, episode, alpha, learn_alpha, lam=lam, inner=inner, cg_steps=cg_steps
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _tied(cg_steps: int, phi: PyTree, b: PyTree, held: tuple[Any, PyTree]) -> PyTree:
    """phi, the solution of phi = b - a grad f(phi), of which only b varies."""
    del cg_steps, b, held
    return phi


@_tied.defjvp
def _(cg_steps: int, primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    """(I + a H)^{-1} x = x - s (I + s H s)^{-1} s H x with s = sqrt(a): a symmetric system, for a = 0 too."""
    phi, _, (hessian, a) = primals
    x = tangents[1]
    s = jax.tree.map(jnp.sqrt, a)

    def along(p: PyTree) -> PyTree:
        """s H p"""
        return tree.scale(s, hessian(p)[0])

    def system(p: PyTree) -> PyTree:
        return jax.tree.map(jnp.add, p, along(tree.scale(s, p)))

    solve = functools.partial(conjugate_gradients, steps=cg_steps)
    found = jax.lax.custom_linear_solve(system, along(x), solve, symmetric=True)
    return phi, jax.tree.map(jnp.subtract, x, tree.scale(s, found))


def conjugate_gradients(product: Callable[[PyTree], PyTree], b: PyTree, steps: int) -> PyTree:
    """x ~ M^{-1} b in at most so many steps, M = product, symmetric; NaN where a direction has p'Mp <= 0."""

    def dot(x: PyTree, y: PyTree) -> jax.Array:
        of_leaf = jax.tree.map(lambda x, y: jnp.sum(x * y, dtype=tree.wide(x.dtype)), x, y)
        return jax.tree.reduce(jnp.add, of_leaf)

    def plus(x: PyTree, factor: jax.Array, y: PyTree) -> PyTree:
        return jax.tree.map(lambda x, y: x + (factor * y).astype(x.dtype), x, y)

    def step(state: tuple) -> tuple:
        k, x, r, p, size = state
        Mp = product(p)
        curvature = dot(p, Mp)
        length = jnp.where(curvature > 0, size / curvature, jnp.nan)
        x, r = plus(x, length, p), plus(r, -length, Mp)
        left = dot(r, r)
        return k + 1, x, r, plus(r, left / size, p), left

    size = dot(b, b)
    least = size * jnp.finfo(size.dtype).eps ** 2
    start = 0, jax.tree.map(lambda x: 0 * x, b), b, b, size
    return jax.lax.while_loop(lambda s: (s[0] < steps) & (s[4] > least), step, start)[1]
