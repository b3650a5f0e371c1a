"""Second derivatives: finite for every network, at ties too, and right where they exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from compilations import optimised_jit
from jax.flatten_util import ravel_pytree
from variants import EVERY, FULL, build, episodes, labelled, name

from jaxmaml import hvp
from jaxmaml.models import cross_entropy
from jaxmaml.models.conv4 import pool2x2

pytestmark = pytest.mark.recorded


def with_a_dead_channel(params):
    return params | {
        "body": jax.tree.map(lambda x: jnp.asarray(np.where(last(x) == 0, 0.0, x)), params["body"])
    }


def last(x):
    """The index on the last axis, broadcast."""
    return np.broadcast_to(np.arange(x.shape[-1]), x.shape)


# The usual network with XLA's own optimisations too.
@pytest.mark.parametrize(
    ("variant", "compiler"),
    [(v, jax.jit) for v in EVERY + FULL] + [(("task", "relu", "max"), optimised_jit)],
    ids=[name(v) for v in EVERY + FULL] + ["task-relu-max-optimised"],
)
def test_finite_under_jit(variant, compiler):
    """Two tasks under vmap; a quarter of each image is constant, where all maxima are ties."""
    _, params, apply, shape = build(variant)
    loss = jax.jit(cross_entropy(apply))  # traced once, not once a derivative
    batches = episodes(shape).inner
    params = with_a_dead_channel(params)
    direction = jax.tree.map(lambda x: np.cos(3 * np.asarray(x)), params)

    @compiler
    def products(p, d, batches):
        return jax.vmap(lambda batch: hvp.exact(loss, p, d, batch))(batches)

    found = jax.tree.map(np.asarray, products(params, direction, batches))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert any(np.any(x != 0) for x in jax.tree.leaves(found))


@pytest.mark.parametrize("variant", [v for v in EVERY if variants.smooth(v)], ids=name)
def test_smooth_networks_against_dense_differences(variant):
    """The truncation error is measured: that of 2h is four times that of h, so a third of their distance."""
    _, params, apply, shape = build(variant, seed=2, channels=2, groups=1, shape=(9, 10, 1))
    batch = labelled(np.random.default_rng(3), shape, 3)
    loss = jax.jit(cross_entropy(apply))  # traced once, not once a derivative
    w, unravel = ravel_pytree(jax.tree.map(np.asarray, params))
    direction = np.cos(np.arange(w.size) * 1.7)

    @jax.jit
    def measure(w, points, batch):
        def f(v):
            return loss(unravel(v), batch)

        product = ravel_pytree(hvp.exact(loss, unravel(w), unravel(direction), batch))[0]
        return jax.grad(f)(w), product, jax.lax.map(jax.value_and_grad(f), points)

    # (h or 2h, ahead or behind, coordinate, d)
    h = np.array([1e-4, 2e-4])
    shifts = h[:, None, None, None] * np.array([1, -1])[:, None, None] * np.eye(w.size)
    gradient, product, at = measure(w, (w + shifts).reshape(-1, w.size), batch)
    values, gradients = (np.asarray(x).reshape(2, 2, w.size, *x.shape[1:]) for x in at)
    slopes = (values[:, 0] - values[:, 1]) / (2 * h[:, None])
    hessians = (gradients[:, 0] - gradients[:, 1]) / (2 * h[:, None, None])
    for exact, (near, far) in ((gradient, slopes), (product, direction @ hessians)):
        size = np.linalg.norm(exact)
        truncation = np.linalg.norm(far - near) / 3
        assert truncation < 1e-4 * size
        # Rounding: a hundred eps of values of order one, over h, in each of d coordinates.
        rounding = 1e-14 / 1e-4 * np.sqrt(w.size) * np.linalg.norm(direction)
        assert np.linalg.norm(exact - near) <= 2 * truncation + rounding
        assert size > 1e-2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 5, 7, 2), (3, 2, 2, 1)])
def test_pool_derivatives(shape, kind, dtype):
    """Up to the second, of a nonlinear function on both sides, against slices."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape) * 2 + 0.5, dtype)

    def by_slices(x):
        rows, columns = shape[1] // 2 * 2, shape[2] // 2 * 2
        corners = [x[:, i:rows:2, j:columns:2] for i in (0, 1) for j in (0, 1)]
        stacked = jnp.stack(corners)
        if kind == "average":
            return stacked.sum(0) / 4
        # A choice by index has a derivative without ties.
        return jnp.take_along_axis(stacked, jnp.argmax(stacked, axis=0)[None], axis=0)[0]

    def measure(pool, x):
        def f(x):
            return jnp.sum(jnp.sin(pool(jnp.square(x) + x)))

        return pool(x), jax.grad(f)(x), jax.jvp(jax.grad(f), (x,), (jnp.cos(2 * x),))[1]

    found, expected = jax.jit(lambda x: (measure(lambda v: pool2x2(v, kind), x), measure(by_slices, x)))(x)
    tolerance = 100 * np.finfo(dtype).eps
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def test_no_reduced_precision():
    """JAX computes second derivatives of a windowed maximum with fewer digits on GPUs."""
    x = jnp.ones((2, 4, 6, 3), np.float32)
    program = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(jnp.exp(pool2x2(x, "max")))))(x)
    assert "reduce_window" not in str(program)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_what_is_not_a_number_is_seen(kind):
    pool = jax.jit(lambda x: pool2x2(x, kind)[0, 0, :, 0])
    for corner in range(4):
        x = np.arange(8.0).reshape(1, 2, 4, 1)
        x[0, corner // 2, corner % 2, 0] = np.nan
        found = pool(x)
        assert np.isnan(found[0])
        assert np.isfinite(found[1])


def test_ties_of_a_maximum():
    """The first of the four takes the whole derivative, as in torch; the second derivative is finite."""

    def f(x):
        return jnp.sum(jnp.exp(pool2x2(x, "max")))

    x = np.full((2, 4, 6, 3), 0.7)
    tangent = np.arange(x.size, dtype=float).reshape(x.shape)
    gradient, product = jax.jit(lambda x: jax.jvp(jax.grad(f), (x,), (tangent,)))(x)
    chosen = np.asarray(gradient) / np.exp(0.7)
    windows = chosen.reshape(2, 2, 2, 3, 2, 3)
    np.testing.assert_allclose(windows[:, :, 0, :, 0], 1, rtol=1e-12)
    np.testing.assert_allclose(windows.sum(axis=(2, 4)), 1, rtol=1e-12)
    np.testing.assert_allclose(product, np.exp(0.7) * chosen * tangent, rtol=1e-12)
