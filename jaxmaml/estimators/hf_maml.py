"""HF-MAML: the Hessian-free estimator, and the rules for its difference step delta."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxmaml import hvp, tree
from jaxmaml.checks import check_positive
from jaxmaml.estimators._adapted import gradient, through
from jaxmaml.hvp import DeltaRule
from jaxmaml.inner import ONE_STEP, InnerLoop, descend, is_optax
from jaxmaml.types import Episode, Loss, PyTree, Scalar


def adapted(
    loss: Loss,
    params: PyTree,
    episode: Episode,
    *,
    alpha: PyTree,
    delta: Scalar | DeltaRule,
    inner: InnerLoop = ONE_STEP,
) -> PyTree:
    """w_K, whose derivative has differences of gradients on D_h in the place of products with Hessians."""
    along = hvp.difference(delta)
    rates = [] if is_optax(alpha) else [jnp.max(jnp.abs(a)) for a in map(jnp.asarray, jax.tree.leaves(alpha))]
    largest = jax.lax.stop_gradient(jnp.stack(rates).max() if rates else jnp.ones(()))
    safe = jnp.where(largest > 0, largest, 1.0)

    def product(loss: Loss, w: PyTree, u: PyTree, batch: PyTree) -> PyTree:
        # What comes back through the update is alpha v; delta is meant for v.
        return tree.scale(largest, along(loss, w, tree.scale(1 / safe, u), batch))

    return descend(product, loss, params, (episode.inner, episode.hessian), alpha, inner)


@through(adapted, gradients=lambda K: 3 * K + 1)
def hf_maml(
    loss: Loss,
    params: PyTree,
    episode: Episode,
    *,
    alpha: PyTree,
    delta: Scalar | DeltaRule,
    inner: InnerLoop = ONE_STEP,
    learn_alpha: bool = False,
) -> PyTree:
    """G = v - alpha d,  d = [grad f(w + delta v; D_h) - grad f(w - delta v; D_h)] / (2 delta).

    v = grad f(w - alpha grad f(w; D_in); D_o), and both gradients of d use the same D_h. With a rate per
    subtree, weight or step, v in d is weighted by alpha / max(alpha), and d stays the product H (alpha v).
    With several steps every product of the chain is such a difference, at its own w_k and in its direction.

    Args:
      delta: a number > 0 (unit u^2/phi), or a function of ||v|| such as `theorem_delta(rho, alpha)` or
        `float_optimal_delta(dtype)`. Small steps lose digits: in float32 below ||delta v|| = 1e-4.

    Other arguments, returns and errors as for `maml`; ValueError for delta <= 0.
    """
    return gradient(adapted, loss, params, episode, alpha, learn_alpha, inner=inner, delta=delta)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ArcDelta:
    """delta(||v||) = arc / ||v||: the two points lie at the distance `arc` (unit u) from w.

    Raises (when the rule is asked):
      ValueError: arc or share not finite and > 0.
    """

    arc: Scalar
    share: Scalar | None = None
    """of ||w||: the distance is no less than share ||w||."""

    def __call__(self, norm: jax.Array) -> jax.Array:
        check_positive("arc", self.arc)
        return self.arc / norm

    def around(self, params: PyTree) -> "ArcDelta":
        """The rule at w = params."""
        if self.share is None:
            return self
        check_positive("arc", self.arc)
        check_positive("share", self.share)
        return ArcDelta(jnp.maximum(self.arc, self.share * tree.norm(params)))


def theorem_delta(rho: Scalar, alpha: Scalar, eta: Scalar = 1 / 6) -> ArcDelta:
    """delta = eta / (rho alpha ||v||), with eta = 1/6 in the HF-MAML theorem (as summarised).

    The arc eta / (rho alpha) is at least L / rho for alpha <= 1/(6 L): the truncation error is a fixed
    fraction of ||v||. eta = min(1/6, 1/sqrt(B)) makes it vanish with B (docs/theory.md).

    Raises:
      ValueError: rho, alpha or eta not finite and > 0. For rho = 0 (quadratics) any number does.
    """
    check_positive("rho", rho, why=" (for rho = 0 the difference is exact: give delta a number)")
    check_positive("alpha", alpha)
    check_positive("eta", eta)
    return ArcDelta(eta / (rho * alpha))


def float_optimal_delta(dtype: jax.typing.DTypeLike, length: Scalar = 1.0) -> ArcDelta:
    """delta = arc / ||v||, arc = eps^(1/3) max(length, eps^(1/3) ||w||): truncation and rounding balance.

    Truncation zeta arc^2 / 6 and rounding C eps G / arc are equal up to a factor at
    arc = (3 C eps G / zeta)^(1/3), hence length = (3 C G / zeta)^(1/3) with C ~ 4,
    G = ||grad f|| + L ||w|| and zeta the Lipschitz constant of the third derivative. The default suits
    problems scaled so that parameters and derivatives are of order one.

    The points are rounded by about eps ||w||. Where ||w|| > length / eps^(1/3) (200 lengths in float32), an
    arc that did not grow with it would be lost in that; so no more than a share eps^(1/3) of it is. (A loss
    that changes over a length of 1 at parameters of 10^6 is out of reach of differences in float32.)
    ||w|| is of the parameters that adapt.

    Args:
      dtype: float32 or float64, that of the parameters.
      length: unit u.

    Raises:
      ValueError: length not finite and > 0, a dtype that is not floating point.
    """
    check_positive("length", length)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype = {dtype!r}; allowed: a floating-point type, e.g. 'float32'")
    root = float(jnp.finfo(dtype).eps) ** (1 / 3)
    return ArcDelta(length * root, root**2)
