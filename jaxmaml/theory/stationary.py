"""The stationary level of a stochastic method near a nondegenerate stationary point (derived, no bound)."""

import numpy as np


def stationary_grad_norm_squared(
    J: np.ndarray, hessian_F: np.ndarray, Sigma: np.ndarray, beta: float, b_det: float = 0.0
) -> float:
    """E||grad F||^2 ~ b_det^2 + tr(hess F P hess F),  J P + P J^T = beta Sigma.

    To leading order in beta: J the Jacobian of the mean direction, Sigma its covariance, b_det the norm of
    grad F at the deterministic limit. Shapes (d, d); unit (phi/u)^2.
    """
    identity = np.eye(len(J))
    operator = np.kron(J, identity) + np.kron(identity, J)
    P = np.linalg.solve(operator, beta * Sigma.reshape(-1)).reshape(J.shape)
    return float(b_det**2 + np.trace(hessian_F @ P @ hessian_F))
