"""L, rho and sigma of the small families by gradient ascent on dense derivatives, and least values of F.

Searched once a family and process; `param` marks the tests of a family for one process.
"""

import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import threadpoolctl
from small_families import NOISE, SIZES

from jaxmaml import objective, tasks
from jaxmaml.tasks.finite_data import LOSSES


class Summit(NamedTuple):
    value: float
    at: np.ndarray
    """the point; for rho, the direction follows it."""


def instances():
    """(name, family) of every family and loss; where its data are absent, what to install in its place."""
    for name, make in tasks.families().items():
        takes = inspect.signature(make).parameters
        numbers = SIZES.get(name, {}) | {key: value for key, value in NOISE.items() if key in takes}
        for loss in LOSSES if "loss" in takes else (None,):
            if not (name in ("digits", "fashion") and loss == "cauchy"):
                try:
                    family = make(**numbers, **({"loss": loss} if loss else {}))
                except FileNotFoundError as absent:
                    family = str(absent)
                yield f"{name}-{loss}" if loss else name, family


FAMILIES = dict(instances())


def param(name):
    """The name as a parameter of a test, with a skip where the data are absent."""
    family = FAMILIES[name]
    marks = [pytest.mark.xdist_group(f"family {name}")]
    if isinstance(family, str):
        marks.append(pytest.mark.skip(reason=family))
    return pytest.param(name, id=name, marks=marks)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The threads of BLAS wait for each other longer than small matrices and L-BFGS have work for them."""
    with threadpoolctl.threadpool_limits(1):
        yield


def points(family, count=6, seed=0):
    """Random points; where sigma holds on a ball, inside it."""
    directions = np.random.default_rng(seed).standard_normal((count, family.dim))
    if hasattr(family, "radius"):
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        scale = family.radius * np.linspace(0.1, 1, count)[:, None]
        return family.ball_center() + scale * directions
    return 2.5 * directions + 0.3


def hessians(family, w):
    """hess f_i(w) of every task, shape (n, d, d)."""
    batches = objective.full_episodes(family).inner
    return jax.vmap(lambda b: jax.hessian(objective.task_loss, argnums=1)(family, w, b))(batches)


def third_along(family, w, v):
    """(hess f_i(w), d/dt hess f_i(w + t v) at 0), both of shape (n, d, d)."""
    return jax.jvp(lambda x: hessians(family, x), (w,), (v,))


def spectral(matrices):
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh(matrices)))


# What is climbed, of (family, x, alpha); x has shape (2 d,), of which all but rho reads the first half.


def _curvature(family, x, _):
    return spectral(hessians(family, x[: family.dim]))


def _slope(family, x, _):
    w, v = x[: family.dim], x[family.dim :]
    return spectral(third_along(family, w, v / jnp.linalg.norm(v))[1])


def _spread(family, x, _):
    gradients = objective.task_gradients(family, x[: family.dim])
    return jnp.sqrt(jnp.mean(jnp.sum((gradients - gradients.mean(axis=0)) ** 2, axis=1)))


def _depth(family, x, alpha):
    return -objective.F(family, x[: family.dim], alpha)


HEIGHTS = {"L": _curvature, "rho": _slope, "sigma": _spread, "infimum": _depth}


@functools.partial(jax.jit, static_argnums=0)
def _climb(names, which, family, x, alpha):
    """(-height, its gradient) of one of these heights: one program a family, of which one branch runs."""

    def branch(name):
        return jax.value_and_grad(lambda y: -HEIGHTS[name](family, y, alpha))

    return jax.lax.switch(which, [branch(name) for name in names], x)


def _exact(family):
    """The constants that are exact and not 0, and whether inf F is."""
    constants = family.constants()
    names = [n for n in ("L", "rho", "sigma") if constants.kind(n) == "exact" and getattr(constants, n) > 0]
    return (*names, *(["infimum"] if family.infimum(0.2 / constants.L).kind == "exact" else []))


@functools.cache
def suprema(name):
    """The largest local maximum found by gradient ascent from several starts, by what is exact."""
    family = FAMILIES[name]
    names, alpha, d = _exact(family), 0.2 / family.constants().L, family.dim
    at_rest = np.zeros((40, d))
    starts = {
        "L": np.concatenate([points(family, 12), at_rest[:12]], axis=1),
        "rho": np.concatenate([points(family, 24), points(family, 24, seed=1)], axis=1),
        "sigma": np.concatenate([points(family, 12), at_rest[:12]], axis=1),
        "infimum": np.concatenate([0.6 * np.random.default_rng(1).standard_normal((40, d)), at_rest], axis=1),
    }
    device = jax.device_put(family)

    def largest(which, starts):
        def negated(x):
            value, slope = _climb(names, which, device, x, alpha)
            return float(value), np.nan_to_num(np.asarray(slope, float))

        found = (scipy.optimize.minimize(negated, start, jac=True, method="L-BFGS-B") for start in starts)
        best = min(found, key=lambda result: result.fun)
        return Summit(-best.fun, best.x)

    return {name: largest(which, starts[name]) for which, name in enumerate(names)}
