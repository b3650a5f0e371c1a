"""FO-B-MAML: the loss after a proximal step, differentiated by a symmetric difference of inner problems."""

import jax
import jax.numpy as jnp

from jaxmaml import tree
from jaxmaml.checks import check_positive, scalar
from jaxmaml.estimators import _proximal
from jaxmaml.estimators._adapted import PROXIMAL, beside, check, differentiable
from jaxmaml.inner import ONE_STEP, InnerLoop
from jaxmaml.types import Episode, Loss, PyTree, Scalar


def adaptation(
    loss: Loss,
    params: PyTree,
    episode: Episode,
    *,
    alpha: PyTree,
    lam: Scalar | None = None,
    nu: Scalar | None = None,
    inner: InnerLoop = ONE_STEP,
) -> PyTree:
    """phi_K of the inner problem itself."""
    del nu
    return _proximal.solve(loss, params, episode.inner, alpha, lam, inner)


@beside(adaptation, gradients=lambda K: 4 * (K + 1), objective=PROXIMAL)
def fo_b_maml(
    loss: Loss,
    params: PyTree,
    episode: Episode,
    *,
    alpha: PyTree,
    lam: Scalar | None = None,
    nu: Scalar | None = None,
    inner: InnerLoop = ONE_STEP,
    learn_alpha: bool = False,
) -> PyTree:
    """G = [g_+(phi_+) - g_-(phi_-)] / (2 nu),  g_s = grad (f(.; D_in) + s nu f(.; D_o)),  s = +-1,

    with phi_s the minimum of f(phi; D_in) + s nu f(phi; D_o) + ||phi - w||^2 / (2 a), and a = alpha or 1/lam.
    Let E(nu, w) be that least value. Its derivative in w is (w - phi_s)/a = g_s(phi_s), and in nu it is
    f(phi_s; D_o), as phi_s is a minimum. So G is the gradient of

        F_nu(w) = [E(nu, w) - E(-nu, w)] / (2 nu) = f(phi(w); D_o) + O(nu^2),

    the objective of `imaml`, by gradients alone: no product with a Hessian, and memory that does not grow
    with the number of inner steps. `episode.hessian` is not used.

    Not solved: phi_s is the K-th iterate of `inner`, and G tends for nu -> 0, with the same order, to
    grad f(phi_K; D_o) + H (d phi_K / d nu), H = hess f(phi_K; D_in), which comes as near to the gradient as
    the derivative of the solver does: (alpha L)^K without lam, up to a factor K. After one step without lam
    it is grad f(w+; D_o) - H(w+; D_in) alpha grad f(w; D_o), w+ MAML's. Where the solver diverges (alpha L
    beyond 1, an inner problem whose Hessian is not definite) so does G.

    Args:
      alpha, lam, inner: as for `imaml`.
      nu: > 0, of no unit. Truncation is of the order nu^2, rounding of the order eps / nu, relative to the
        inner gradient; None: eps^(1/3) of the parameters' type.
      learn_alpha: return (G, dF_nu/dalpha) = (G, -<G, (g_+ + g_-)/2>) as well; without lam.

    Other arguments, returns and errors as for `maml`; ValueError as for `imaml`, and for nu <= 0. The value
    in `meta_value_and_gradient` is f(phi_K; D_o), which costs K gradients more. Derived here; the method is
    that of Chayti and Jaggi (2024), "A new first-order meta-learning algorithm with convergence guarantees"
    (as remembered: the paper was not at hand).
    """
    _proximal.check(alpha, lam, inner, learn_alpha)
    check(params, episode, alpha, learn_alpha, inner)
    loss = scalar(loss)
    params, alpha = differentiable(params, alpha, episode)
    if nu is None:
        nu = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).eps) ** (1 / 3)
    check_positive("nu", nu)

    def side(s: jax.Array) -> tuple[PyTree, PyTree]:
        """Both gradients at phi_s; s is nu or -nu."""

        def perturbed(phi: PyTree, batch: PyTree) -> jax.Array:
            found = loss(phi, batch)
            return found + s.astype(found.dtype) * loss(phi, episode.outer)

        phi = _proximal.solve(perturbed, params, episode.inner, alpha, lam, inner)
        return jax.grad(loss)(phi, episode.inner), jax.grad(loss)(phi, episode.outer)

    # As in `hvp.central_difference`: where products are rounded to fewer digits, the difference is rounding.
    with jax.default_matmul_precision("highest"):
        g_in, g_out = jax.vmap(side)(jnp.stack([nu, -nu]))
    G = jax.tree.map(lambda x, y, w: (_half(x) / nu + _mean(y)).astype(w.dtype), g_in, g_out, params)
    if not learn_alpha:
        return G
    slope = jax.tree.map(lambda x, y: _mean(x) + nu * _half(y), g_in, g_out)
    moved, _ = tree.partition((G, slope), (inner.mask, inner.mask))
    _, pull = jax.vjp(lambda a: tree.scale(a, moved[1]), alpha)
    return G, jax.tree.map(jnp.negative, pull(moved[0])[0])


def _half(x: jax.Array) -> jax.Array:
    """Half of the difference of the two sides."""
    return (x[0] - x[1]) / 2


def _mean(x: jax.Array) -> jax.Array:
    return (x[0] + x[1]) / 2
