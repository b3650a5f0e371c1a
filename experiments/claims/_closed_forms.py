"""Exact gradients in NumPy: derivatives in closed form, and what follows from them, apart from JAX."""

import numpy as np

from jaxmaml.tasks.cosine import Cosine
from jaxmaml.tasks.finite_data import FiniteData
from jaxmaml.tasks.ramp import Ramp
from jaxmaml.tasks.shared_quadratic import SharedQuadratic
from jaxmaml.tasks.slow_tail import SlowTail

# f_i, its gradient, and its Hessian times v_i, of every task i: w and v have shape (d,) or (n, d).


def losses(family, w):
    match family:
        case FiniteData():
            _, y, z = _scores(family, w)
            return np.logaddexp(0, -y * z).mean(axis=1) + 0.5 * family.mu * np.sum(w**2, axis=-1)
        case Cosine():
            waves = family.a * np.cos(family.omega * w + family.tasks.phases)
            return np.sum(0.5 * family.mu * (w - family.tasks.centers) ** 2 + waves, axis=1)
        case SlowTail():
            return np.sum((1 + (w - family.tasks.centers) ** 2) ** -family.q, axis=1) / (2 * family.q)
        case SharedQuadratic():
            return 0.5 * np.sum(family.eigenvalues * (w - family.tasks.centers) ** 2, axis=1)
        case Ramp():
            end = np.logaddexp(0, (family.tasks.length - w[..., 0]) / family.width)
            return family.slope * family.width * end + 0.5 * w[..., 1] ** 2


def gradients(family, w):
    match family:
        case FiniteData():
            x, y, z = _scores(family, w)
            return ((-y * _sigmoid(-y * z))[:, None] @ x)[:, 0] / x.shape[1] + family.mu * w
        case Cosine():
            return family.task_gradients(w)
        case SlowTail():
            x = w - family.tasks.centers
            return -x * (1 + x**2) ** (-family.q - 1)
        case SharedQuadratic():
            return family.eigenvalues * (w - family.tasks.centers)
        case Ramp():
            slope = -family.slope * _sigmoid((family.tasks.length - w[..., 0]) / family.width)
            return np.stack(np.broadcast_arrays(slope, w[..., 1]), axis=-1)


def products(family, w, v):
    match family:
        case FiniteData():
            x, _, z = _scores(family, w)
            weights = _sigmoid(z) * _sigmoid(-z) * (x @ v[..., None])[..., 0]
            return (weights[:, None] @ x)[:, 0] / x.shape[1] + family.mu * v
        case Cosine():
            return family.task_hessians(w) * v
        case SlowTail():
            x = w - family.tasks.centers
            return (1 + x**2) ** (-family.q - 2) * ((2 * family.q + 1) * x**2 - 1) * v
        case SharedQuadratic():
            return family.eigenvalues * v
        case Ramp():
            s = _sigmoid((family.tasks.length - w[..., 0]) / family.width)
            return np.stack([family.slope / family.width * s * (1 - s) * v[..., 0], v[..., 1]], axis=-1)


def _scores(family, w):
    x, y = family.tasks
    return x, y, (x @ w[..., None])[..., 0]


def _sigmoid(z):
    return 0.5 * (1 + np.tanh(0.5 * z))


# F and the runs


def objective(family, w, alpha):
    """F(w)"""
    return losses(family, w - alpha * gradients(family, w)).mean()


def adapted(family, w, alpha):
    """grad f_i(w), grad f_i(w_i+) and grad F_i(w) of every task, shape (n, d)."""
    inner = gradients(family, w)
    outer = gradients(family, w - alpha * inner)
    return inner, outer, outer - alpha * products(family, w, outer)


def grad_norm(family, w, alpha):
    """||grad F(w)||"""
    return np.linalg.norm(adapted(family, w, alpha)[2].mean(axis=0))


def spread(family, w):
    """(E_i ||grad f_i(w) - grad f(w)||^2)^{1/2}"""
    found = gradients(family, w)
    return np.sqrt(np.mean(np.sum((found - found.mean(axis=0)) ** 2, axis=1)))


def first_hits(run, accuracies, most):
    """The first steps at these accuracies, and ||grad F|| there, of w_{k+1} = w_k - c / L(w_k) G(w_k); nan
    where they take more than `most` steps."""
    w, found = np.asarray(run.w0, float), []
    for k in range(most):
        inner, outer, full = adapted(run.family, w, run.alpha)
        norm = np.linalg.norm(full.mean(axis=0))
        found += [(k, norm)] * int(np.sum(norm <= accuracies[len(found) :]))
        if len(found) == len(accuracies):
            break
        direction = {"maml": full, "fo_maml": outer}.get(run.estimator)
        if direction is None:
            step = run.arguments["delta"].arc / np.linalg.norm(outer, axis=1, keepdims=True)
            ahead, behind = (gradients(run.family, w + s * step * outer) for s in (1, -1))
            direction = outer - run.alpha * (ahead - behind) / (2 * step)
        w = w - run.c / _smoothness(run, inner).mean() * direction.mean(axis=0)
    found += [(np.nan, np.nan)] * (len(accuracies) - len(found))
    return np.array(found).T


def travel_time(run, path, accuracies):
    """Steps of MAML's run along a line in which ||grad F|| <= accuracy, from the time int L(w) / (c ||grad F||) ds.

    Steps h v of a speed v take int ds/(h v) + log(h v / (h v)_0) / 2 of them (Euler's sum), up to h^2.

    Args:
      path: points of the line from w_0 on, shape (m, d), so close that trapezia are exact enough.
    """
    inner, _, full = adapted(run.family, path, run.alpha)
    norms = np.linalg.norm(full, axis=1)
    speed = run.c * norms / _smoothness(run, inner)
    times = np.concatenate(
        [[0], np.cumsum((1 / speed[1:] + 1 / speed[:-1]) / 2 * np.linalg.norm(np.diff(path, axis=0), axis=1))]
    )
    times = times + 0.5 * np.log(speed / speed[0])
    lowest = np.minimum.accumulate(norms)
    return np.interp(-np.asarray(accuracies), -lowest, times)


def _smoothness(run, inner):
    return 4 * run.L + 2 * run.rho * run.alpha * np.linalg.norm(inner, axis=-1)
