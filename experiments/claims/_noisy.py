"""What the claims about noisy runs share: the means of K steps against epsilon(K), and the method in NumPy.

The NumPy model of a method on the family (c), from closed forms alone, gives two references without free choices
(derived): the mean of a few runs of its own, and the stationary level. Near a stationary point of the mean direction,
J P + P J^T = beta Sigma gives E||grad F||^2 to leading order in beta. The next order takes J, Sigma and grad F as
averages over N(w, P) instead of at w, with the shift of the mean, the step's two moments and the term beta J P J^T.
"""

import functools

import jax
import numpy as np
import pandas as pd

from jaxmaml import statistics, theory
from jaxmaml.theory import stationary

DRAWS, PARTS = 20_000, 4
"""of noise and tasks for a stationary level, and how often it is computed."""
NOISELESS = (0.0, 0.0, 0.0)


def violated(cell):
    """The theorem's conditions that a run violates."""
    theorem, constants = theory.theorems()[cell.estimator], cell.family.constants()
    conditions = theorem.conditions(constants, cell.alpha, cell.sizes)
    return ", ".join(c.name for c in conditions if not c.holds) or "none"


def curve(part, cell):
    """Per recorded K, over seeds: E||grad F(w_K)||, the running mean (trapezia between records), the line; and of
    the last half (E||grad F||^2)^{1/2}, with the floors."""
    theorem, about = theory.theorems()[cell.estimator], (cell.family.constants(), cell.alpha, cell.sizes)
    gap = float(part.objective.iloc[0]) - cell.family.infimum(cell.alpha).value
    norms = part.pivot(index="step", columns="seed", values="grad_norm")
    steps, values = norms.index.to_numpy(), norms.to_numpy()
    means, root = statistics.running_mean(steps, values), np.sqrt(values.shape[1])
    square = late_squares(norms)
    level = np.sqrt(np.mean(square))
    return pd.DataFrame(
        {
            "step": steps[1:],
            "grad_norm": np.mean(values[1:], axis=1),
            "grad_norm_error": np.std(values[1:], axis=1, ddof=1) / root,
            "running_mean": np.mean(means, axis=1),
            "error": np.std(means, axis=1, ddof=1) / root,
            "line": theorem.line(steps[1:], gap, *about),
            "start": np.min(values[0]),
            "floor": theorem.floor(*about),
            "floor_summary": theorem.floor_summary(*about),
            "level": level,
            "level_error": np.std(square, ddof=1) / root / (2 * level),
            "violated": violated(cell),
            "diverged": int((part.diverged_at >= 0).sum()),
            "seeds": values.shape[1],
        }
    )


def late_squares(norms):
    """The mean of ||grad F||^2 over the last half of each run; norms of shape (steps, seeds) by step."""
    return np.mean(norms[norms.index >= norms.index[-1] / 2].to_numpy() ** 2, axis=0)


# The method in NumPy


def once(function):
    """function(cell, *numbers), computed once for cells of the same numbers and structure."""
    known = {}

    @functools.wraps(function)
    def remembered(cell, *numbers):
        leaves, structure = jax.tree.flatten(cell)
        key = structure, *((x.dtype, x.shape, x.tobytes()) for x in map(np.asarray, leaves)), numbers
        if key not in known:
            known[key] = function(cell, *numbers)
        return known[key]

    return remembered


class Model:
    """The directions and steps of a run on the family (c)."""

    def __init__(self, cell, seed=0):
        self.cell, self.family, self.rng = cell, cell.family, np.random.default_rng(seed)
        self.c, self.phi = (np.asarray(x) for x in self.family.tasks)
        self.n, self.d = self.c.shape
        self.numbers = (
            *(float(getattr(self.family, k)) for k in ("mu", "a", "omega")),
            float(self.family.noise.nu or 0),
        )

    def batches(self, count, *sizes, matched=False):
        """The mean noise (xi, p, q) of `count` batches of each size; matched: for who = 0, 1, ..., n - 1, 0, ...,
        with the right variance for every task, and signs with which products of two batches have mean zero."""
        tau, beta0 = (float(x or 0) for x in (self.family.noise.tau, self.family.noise.beta0))
        widths = np.array([tau, beta0 / np.sqrt(2), beta0 / np.sqrt(2)])[:, None, None]

        def one(size, signs):
            if size is None:
                return np.zeros((3, 1, 1))
            z = self.rng.standard_normal((3, count // (4 if matched else 1), self.d))
            if matched:
                tasks = z.reshape(3, -1, self.n, self.d)
                z = (tasks / np.sqrt(np.mean(tasks**2, axis=1, keepdims=True))).reshape(z.shape)
                z = np.concatenate([sign * z for sign in signs], axis=1)
            return widths * z / np.sqrt(self.d * size)

        patterns = ((1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1))
        return [one(size, signs) for size, signs in zip(sizes, patterns, strict=False)]

    def gradient(self, x, who, noise=NOISELESS):
        """Of the tasks `who` at their points x, shape (count, d)."""
        mu, a, omega, nu = self.numbers
        xi, p, q = noise
        field = nu * (q * np.cos(nu * x) - p * np.sin(nu * x)) if np.size(p) > 1 else 0.0
        return mu * (x - self.c[who]) - a * omega * np.sin(omega * x + self.phi[who]) + xi + field

    def hessian(self, x, who, noise=NOISELESS):
        """Its diagonal."""
        mu, a, omega, nu = self.numbers
        _, p, q = noise
        field = nu**2 * (p * np.cos(nu * x) + q * np.sin(nu * x)) if np.size(p) > 1 else 0.0
        return mu - a * omega**2 * np.cos(omega * x + self.phi[who]) - field

    def direction(self, w, who, inner=NOISELESS, outer=NOISELESS, extra=NOISELESS):
        """G of single tasks."""
        alpha, estimator = self.cell.alpha, self.cell.estimator
        g = self.gradient(w - alpha * self.gradient(w, who, inner), who, outer)
        if estimator == "fo_maml":
            return g
        if estimator == "hf_maml":
            delta = self.cell.arguments["delta"](np.linalg.norm(g, axis=-1, keepdims=True))
            ahead, behind = (self.gradient(w + s * delta * g, who, extra) for s in (1, -1))
            return g - alpha * (ahead - behind) / (2 * delta)
        if estimator == "maml_same_batch":
            extra = inner
        return g - alpha * self.hessian(w, who, extra) * g

    def steps(self, w):
        """beta of one draw at every w, shape (count, d)."""
        cell, tasks = self.cell, self.cell.sizes.B_prime
        count = len(w)
        who = np.arange(self.n)[None] if tasks is None else self.rng.integers(0, self.n, (count, tasks))
        points = np.repeat(w, who.shape[1], axis=0)
        who = np.broadcast_to(who, (count, who.shape[1])).ravel()
        norms = np.linalg.norm(
            self.gradient(points, who, *self.batches(len(points), cell.sizes.D_beta)), axis=1
        )
        mean = np.mean(norms.reshape(count, -1), axis=1, keepdims=True)
        return cell.c / (4 * cell.L + 2 * cell.rho * cell.alpha * mean)

    def grad_F(self, w):
        """At every point of w, shape (count, d)."""
        total = np.zeros_like(w)
        for i in range(self.n):
            after = self.gradient(w - self.cell.alpha * self.gradient(w, i), i)
            total += (1 - self.cell.alpha * self.hessian(w, i)) * after
        return total / self.n


@once
def path(cell, runs=100, share=0.5):
    """||grad F(w_k)|| of runs in NumPy, shape (steps + 1, runs), until the mean is `share` of the first."""
    model, sizes = Model(cell), cell.sizes
    tasks = sizes.B or model.n
    w = np.tile(cell.w0, (runs, 1))
    norms = [np.linalg.norm(model.grad_F(w), axis=1)]
    while np.mean(norms[-1]) > share * np.mean(norms[0]):
        who = np.tile(np.arange(model.n), runs)
        if sizes.B:
            who = model.rng.integers(0, model.n, runs * tasks)
        batches = model.batches(runs * tasks, sizes.D_in, sizes.D_o, sizes.D_h)
        G = model.direction(np.repeat(w, tasks, axis=0), who, *batches).reshape(runs, tasks, -1)
        w = w - model.steps(w) * np.mean(G, axis=1)
        norms.append(np.linalg.norm(model.grad_F(w), axis=1))
    return np.stack(norms)


@once
def stationary_level(cell, steps, draws=DRAWS, copies=1):
    """E||grad F||^2 of the stationary law to leading order in beta and to the next, with the standard error of that;
    ||grad F|| at the limit point, and what is left of the direction after `steps` steps without noise."""
    model = Model(cell)
    w, everyone = noiseless(model, steps), np.arange(model.n)
    left = np.linalg.norm(np.mean(model.direction(np.tile(w, (model.n, 1)), everyone), axis=0))
    found = [_level(Model(cell, seed), w, draws, copies) for seed in range(PARTS)]
    each = {name: np.array([one[name] for one in found]) for name in found[0]}
    error = np.std(each["predicted"], ddof=1) / np.sqrt(PARTS)
    means = {name: np.mean(values) for name, values in each.items()}
    return means | {"predicted_error": error, "left": left}


def _level(model, w, draws, copies):
    """From a point near the limit, where every task is there `copies` times."""
    sizes, n = model.cell.sizes, model.n
    count = draws // (4 * n) * 4 * n
    who = np.tile(np.arange(n), count // n)
    batches = model.batches(count, sizes.D_in, sizes.D_o, sizes.D_h, matched=True)
    # Another draw for each, of the same task where all tasks are taken.
    other = model.rng.permutation(count) if sizes.B else np.roll(np.arange(count), n * (count // n // 4))
    others = (who[other], *(x[:, other] if x.size > 3 else x for x in batches))

    def mean(w):
        return np.mean(model.direction(w, who, *batches), axis=0)

    def grad(w):
        return model.grad_F(w[None])[0]

    def covariance(x):
        r = model.direction(x, who, *batches) - model.direction(x, *others)
        return r.T @ r / (2 * count * (sizes.B or n * copies))

    def lyapunov(J, Sigma, rest):
        """P with J P + P J^T - rest J P J^T = (E beta^2 / E beta) Sigma."""
        one = np.eye(model.d)
        operator = np.kron(J, one) + np.kron(one, J) - rest * np.kron(J, J)
        return np.linalg.solve(operator, (size * Sigma).ravel()).reshape(J.shape)

    slope = jacobian(mean, w)
    for _ in range(4):
        w = w - np.linalg.solve(slope, mean(w))
    bias = np.linalg.norm(grad(w))
    beta = model.steps(np.tile(w, (count, 1)))
    size = np.mean(beta**2) / np.mean(beta)
    J, Sigma = jacobian(mean, w), covariance(w)
    leading = stationary.stationary_grad_norm_squared(J, jacobian(grad, w), Sigma, size, bias)
    P, z = lyapunov(J, Sigma, 0.0), model.rng.standard_normal((count, model.d))
    for _ in range(3):
        away = z @ np.linalg.cholesky(P).T
        ahead, behind = (model.direction(w + s * away, who, *batches) for s in (1, -1))
        J = np.linalg.lstsq(away, (ahead - behind) / 2, rcond=None)[0].T
        w = w - np.linalg.solve(J, np.mean(ahead + behind, axis=0) / 2)
        P = lyapunov(J, covariance(w + away), size)
    away = z @ np.linalg.cholesky(P).T
    squares = [np.sum(model.grad_F(w + s * away) ** 2, axis=1) for s in (1, -1)]
    return {"leading": leading, "predicted": np.mean(squares), "bias": bias}


def noiseless(model, steps):
    """Where the method without noise is after so many steps."""
    cell, w, everyone = model.cell, np.asarray(model.cell.w0, float), np.arange(model.n)
    for _ in range(steps):
        mean = np.mean(model.direction(np.tile(w, (model.n, 1)), everyone), axis=0)
        norms = np.linalg.norm(model.gradient(w, everyone), axis=1)
        w = w - cell.c / (4 * cell.L + 2 * cell.rho * cell.alpha * np.mean(norms)) * mean
    return w


def jacobian(function, w, h=1e-6):
    return np.stack([(function(w + h * e) - function(w - h * e)) / (2 * h) for e in np.eye(w.size)], axis=1)
