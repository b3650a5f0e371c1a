"""Brute force in NumPy: explicit loops, dense Hessians, no automatic differentiation, nothing of jaxmaml.

A task is a pair of functions gradient(w, batch) -> (d,) and hessian(w, batch) -> (d, d); alpha may be a
vector, a rate a coordinate: w+ = w - alpha * g, and the correction is H (alpha * v).
"""

import numpy as np


def outer(gradient, w, batches, alpha):
    inner, _, outer_batch = batches
    adapted = w - alpha * gradient(w, inner)
    return gradient(adapted, outer_batch)


def maml(gradient, hessian, w, batches, alpha):
    v = outer(gradient, w, batches, alpha)
    return v - hessian(w, batches[1]) @ (alpha * v)


def maml_same_batch(gradient, hessian, w, batches, alpha):
    v = outer(gradient, w, batches, alpha)
    return v - hessian(w, batches[0]) @ (alpha * v)


def fo_maml(gradient, hessian, w, batches, alpha):
    return outer(gradient, w, batches, alpha)


def hf_maml(gradient, hessian, w, batches, alpha, delta):
    """delta: a number, or a function of the norm of the direction; a scalar alpha here."""
    v = outer(gradient, w, batches, alpha)
    step = delta(np.sqrt(np.sum(v**2))) if callable(delta) else delta
    ahead = gradient(w + step * v, batches[1])
    behind = gradient(w - step * v, batches[1])
    return v - alpha * (ahead - behind) / (2 * step)


def reptile(gradient, hessian, w, batches, alpha):
    """One step."""
    return gradient(w, batches[0])


def imaml(gradient, hessian, w, batches, alpha):
    """One step of its solver; (I + H a) G = v with the dense matrix."""
    phi = w - alpha * gradient(w, batches[0])
    system = np.eye(len(w)) + hessian(phi, batches[0]) * alpha  # H diag(a)
    return np.linalg.solve(system, gradient(phi, batches[2]))


def fo_b_maml(gradient, hessian, w, batches, alpha, nu=2.0 ** (-52 / 3)):
    """One step of its solver on either side."""
    inner, _, outer_batch = batches
    sides = []
    for s in (nu, -nu):
        phi = w - alpha * (gradient(w, inner) + s * gradient(w, outer_batch))
        sides.append(gradient(phi, inner) + s * gradient(phi, outer_batch))
    return (sides[0] - sides[1]) / (2 * nu)


METHODS = {
    "maml": maml,
    "fo_maml": fo_maml,
    "hf_maml": hf_maml,
    "maml_same_batch": maml_same_batch,
    "imaml": imaml,
    "fo_b_maml": fo_b_maml,
    "reptile": reptile,
}


def logistic_gradient(w, batch):
    """Mean over the batch of grad log(1 + exp(-y (x^T w - 1/2))) + 0.1 w + (w - 1)^3."""
    x, y = batch
    total = np.zeros_like(w)
    for xn, yn in zip(x, y, strict=True):
        total += -yn * xn / (1 + np.exp(yn * (xn @ w - 0.5)))
    return total / len(y) + 0.1 * w + (w - 1) ** 3


def logistic_hessian(w, batch):
    x, y = batch
    total = np.zeros((len(w), len(w)))
    for xn, yn in zip(x, y, strict=True):
        p = 1 / (1 + np.exp(yn * (xn @ w - 0.5)))
        total += p * (1 - p) * np.outer(xn, xn)
    return total / len(y) + 0.1 * np.eye(len(w)) + np.diag(3 * (w - 1) ** 2)


def cosine_task(mu, a, omega, center, phase, nu=0.0):
    """Gradient and Hessian of mu/2 ||w - c||^2 + a sum cos(omega w + phi) with the noise
    <xi, w> + sum p cos(nu w) + q sin(nu w); a batch is (xi, p, q) with xi, p, q of shape (d,) or 0."""

    def gradient(w, batch):
        xi, p, q = batch
        exact = mu * (w - center) - a * omega * np.sin(omega * w + phase)
        return exact + xi - nu * p * np.sin(nu * w) + nu * q * np.cos(nu * w)

    def hessian(w, batch):
        _, p, q = batch
        exact = mu - a * omega**2 * np.cos(omega * w + phase)
        return np.diag(exact - nu**2 * (p * np.cos(nu * w) + q * np.sin(nu * w)))

    return gradient, hessian


EXACT = (0.0, 0.0, 0.0)
