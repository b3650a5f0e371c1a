"""Logistic regression in closed form, in NumPy: everything is a function of the scores z = x^T w.

l' = -y s(-yz), l'' = s(z) s(-z) and l''' = l'' (1 - 2 s(z)), s(z) = 1/(1 + e^{-z}).
"""

from dataclasses import replace

import numpy as np

from jaxmaml.tasks.finite_data import Pools


class Scores:
    """The derivatives of all losses at w, and what follows from them."""

    def __init__(self, family, w):
        import scipy.special

        self.x, y = (np.asarray(leaf) for leaf in family.tasks)
        self.mu, self.w = float(family.mu), w
        z = self.x @ w
        s = scipy.special.expit
        self.first, self.second = -y * s(-y * z), s(z) * s(-z)
        self.third = self.second * (1 - 2 * s(z))

    def sample_gradients(self):
        """(n, N, d)"""
        return self.first[..., None] * self.x + self.mu * self.w

    def gradients(self):
        """(n, d)"""
        return self.sample_gradients().mean(axis=1)

    def hessians(self):
        """(n, d, d)"""
        return self._second_moment(self.second) + self.mu * np.eye(self.w.size)

    def third_along(self, v):
        """d/dt hess f_i(w + t v_i) at 0, shape (n, d, d), for v of shape (n, d)."""
        return self._second_moment(self.third * np.einsum("inp,ip->in", self.x, v))

    def constants(self):
        """What Assumptions 2 to 5 bound, at w."""
        n = len(self.x)
        gradients, hessians = self.gradients(), self.hessians()
        centred = self.sample_gradients() - gradients[:, None]
        pure = hessians - self.mu * np.eye(self.w.size)
        squares = np.mean(self.second**2 * np.sum(self.x**2, axis=2) ** 2, axis=1)
        along = np.broadcast_to(mean_direction(self.x), (n, self.w.size))
        return {
            "L": np.linalg.norm(hessians, 2, axis=(1, 2)).max(),
            "rho": np.linalg.norm(self.third_along(along), 2, axis=(1, 2)).max(),
            "sigma": np.sqrt(np.mean(np.sum((gradients - gradients.mean(axis=0)) ** 2, axis=1))),
            "sigma_tilde": np.sqrt(np.mean(np.sum(centred**2, axis=2), axis=1).max()),
            "sigma_h": np.sqrt((squares - np.sum(pure**2, axis=(1, 2))).max()),
        }

    def _second_moment(self, weights):
        return np.einsum("in,inp,inq->ipq", weights, self.x, self.x, optimize=True) / self.x.shape[1]


def mean_direction(x):
    """The unit vector of the mean features: the Hessians change fastest about there."""
    mean = x.mean(axis=(0, 1))
    return mean / (mean @ mean) ** 0.5


def fo_limit(family, alpha):
    """The zero w of the mean direction E_i g_i by Newton's method from 0, with the floor alpha ||Cov_i(H_i, g_i)|| and
    ||hess F J^{-1}||, J the Jacobian of the direction: (w, floor, amplification); nan where it is not found."""
    w = np.zeros(family.dim)
    for _ in range(20):
        here = Scores(family, w)
        hessians = here.hessians()
        adapted = [Scores(one_task(family, i), x) for i, x in enumerate(w - alpha * here.gradients())]
        g = np.concatenate([a.gradients() for a in adapted])
        after = np.concatenate([a.hessians() for a in adapted])
        factors = np.eye(family.dim) - alpha * hessians
        jacobian = (after @ factors).mean(axis=0)
        if np.linalg.norm(g.mean(axis=0)) <= 1e-15:
            break
        w = w - np.linalg.solve(jacobian, g.mean(axis=0))
    if np.linalg.norm(g.mean(axis=0)) > 1e-12:
        return np.full_like(w, np.nan), np.nan, np.nan
    covariance = np.einsum("ipq,iq->p", hessians - hessians.mean(axis=0), g - g.mean(axis=0)) / len(g)
    hessian_F = (factors @ after @ factors - alpha * here.third_along(g)).mean(axis=0)
    amplification = np.linalg.norm(hessian_F @ np.linalg.inv(jacobian), 2)
    return w, alpha * float(np.linalg.norm(covariance)), float(amplification)


def one_task(family, i):
    """The family of one of its tasks."""
    return replace(family, tasks=Pools(*(leaf[i : i + 1] for leaf in family.tasks)))
