"""Where exact FO-MAML and HF-MAML stop (derived)."""

import math

from jaxmaml.theory.finite_difference import chi
from jaxmaml.types import Constants


def fo_limit_bound(constants: Constants, alpha: float, hessian_half_range: float | None = None) -> float:
    """||grad F|| = alpha ||Cov_i(H_i, g_i)|| <= alpha L (1 + lam / (1 - lam^2)^{1/2}) sigma.

    At any point with E_i g_i = 0, lam = alpha L < 1; L may be replaced by half the range of the
    spectra of the H_i where that is known, e.g. L/2 for convex tasks. Unit phi/u.
    """
    lam = alpha * constants.L
    if not 0 < lam < 1:
        raise ValueError(f"alpha = {alpha!r}; allowed: 0 < alpha < 1/L = {1 / constants.L!r}")
    spread = constants.L if hessian_half_range is None else hessian_half_range
    return alpha * spread * (1 + lam / math.sqrt(1 - lam**2)) * constants.sigma


def hf_limit_bound(lam: float, eta: float, mean_adapted_grad_norm: float) -> float:
    """||grad F|| = alpha ||E_i t_i|| <= min{eta/2, 2 lam} E_i ||g_i||, t_i the truncation errors."""
    return chi(lam, eta) * mean_adapted_grad_norm
