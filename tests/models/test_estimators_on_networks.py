"""Every estimator on every network."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from variants import COVERING, FULL, build, episodes, grouped, name

import jaxmaml
from jaxmaml import InnerLoop, meta_gradient
from jaxmaml.models import cross_entropy, squared_error

pytestmark = pytest.mark.recorded

ALPHA = 0.05


def adapted_loss(loss, params, episode, steps=1):
    """f(w_K; D_o), written out."""
    for _ in range(steps):
        gradient = jax.grad(loss)(params, episode.inner)
        params = jax.tree.map(lambda w, g: w - ALPHA * g, params, gradient)
    return loss(params, episode.outer)


def mean_over_tasks(f, some):
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.vmap(f)(some))


def wide(x):
    return np.asarray(x, np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def network(variant, dtype):
    """Of one block, but for FULL, whose blocks follow each other; of two in `test_several_steps`."""
    return build(variant, dtype=dtype, **({} if variant[0] == "mlp" or variant in FULL else {"blocks": 1}))


@functools.cache
def directions(variant):
    """Every estimator's direction, by name; in float64, at parameters and data that float32 has too."""
    _, params, apply, shape = network(variant, np.float32)
    loss = jax.jit(cross_entropy(apply))  # traced once, not once a derivative

    @jax.jit
    def every(p, some):
        def of(estimator, **more):
            return meta_gradient(estimator, loss, p, some, alpha=ALPHA, **more)

        delta = jaxmaml.float_optimal_delta(np.float64)
        return {
            "maml": of(jaxmaml.maml),
            "same": of(jaxmaml.maml_same_batch),
            "same by autodiff": mean_over_tasks(
                lambda episode: jax.grad(lambda p: adapted_loss(loss, p, episode))(p), some
            ),
            "fo": of(jaxmaml.fo_maml),
            "hf": of(jaxmaml.hf_maml, delta=delta),
        }

    return every(*jax.tree.map(wide, (params, episodes(shape, dtype=np.float32))))


@pytest.mark.parametrize("variant", grouped(COVERING + FULL[:1]))
class TestEveryNetwork:
    def test_all_four(self, variant):
        found = jax.tree.map(np.asarray, directions(variant))
        params = network(variant, np.float64)[1]
        for value in found.values():
            chex.assert_trees_all_equal_shapes_and_dtypes(value, params)
        flat = {key: np.concatenate([x.ravel() for x in jax.tree.leaves(v)]) for key, v in found.items()}
        assert all(np.isfinite(x).all() for x in flat.values())
        scale = np.linalg.norm(flat["same"])
        assert np.linalg.norm(flat["same"] - flat["same by autodiff"]) <= 1e-10 * scale
        # The estimators are different ones.
        assert np.linalg.norm(flat["maml"] - flat["same"]) > 1e-4 * scale
        assert np.linalg.norm(flat["maml"] - flat["fo"]) > 1e-4 * scale
        if variants.smooth(variant):
            # Exact up to eps^(2/3) = 4e-11, in units of derivatives that are here below 1e3.
            assert np.linalg.norm(flat["maml"] - flat["hf"]) <= 4e-8 * scale

    def test_float32(self, variant):
        """Finite and of the same type; within rounding of float64 where there are no kinks."""
        _, params, apply, shape = network(variant, np.float32)
        loss = cross_entropy(apply)

        @jax.jit
        def direction(p, some):
            return meta_gradient(jaxmaml.maml_same_batch, loss, p, some, alpha=ALPHA)

        found = direction(params, episodes(shape, dtype=np.float32))
        chex.assert_trees_all_equal_shapes_and_dtypes(found, params)
        flat, expected = (
            np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
            for tree in (found, directions(variant)["same"])
        )
        assert np.isfinite(flat).all()
        if variants.smooth(variant):
            # Three passes of some hundred roundings of 6e-8 each.
            assert np.linalg.norm(flat - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("variant", [("mlp", "softplus"), ("group", "tanh", "average")], ids=name)
def test_several_steps(variant):
    _, params, apply, shape = build(variant)
    loss, some = jax.jit(cross_entropy(apply)), episodes(shape)

    @jax.jit
    def both(p):
        inner = InnerLoop(steps=3)
        found = meta_gradient(jaxmaml.maml_same_batch, loss, p, some, alpha=ALPHA, inner=inner)
        expected = mean_over_tasks(
            lambda episode: jax.grad(lambda p: adapted_loss(loss, p, episode, steps=3))(p), some
        )
        return found, expected

    found, expected = both(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-8, atol=1e-11)


def test_chunks_of_tasks():
    _, params, apply, shape = build(("task", "relu", "max"))
    loss, some = jax.jit(cross_entropy(apply)), episodes(shape, tasks=3)

    @jax.jit
    def directions(p):
        return [
            meta_gradient(jaxmaml.maml_same_batch, loss, p, some, alpha=ALPHA, task_chunk=chunk)
            for chunk in (None, 1, 2)
        ]

    whole, *chunked = directions(params)
    for found in chunked:
        chex.assert_trees_all_close(found, whole, rtol=1e-10, atol=1e-12)


def test_regression():
    """squared_error and an outer step that lowers the adapted loss."""
    _, params, apply, shape = build(("mlp", "softplus"))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 6, *shape)))
    batch = (x, jnp.sin(x.reshape(2, 6, 6)[..., :3]))
    some = jaxmaml.Episode(batch, batch, batch)
    loss = squared_error(apply)

    def value(p):
        return mean_over_tasks(lambda episode: adapted_loss(loss, p, episode), some)

    @jax.jit
    def fall(p):
        gradient = meta_gradient(jaxmaml.maml_same_batch, loss, p, some, alpha=ALPHA)
        moved = jax.tree.map(lambda w, g: w - 1e-5 * g, p, gradient)
        return value(p) - value(moved), sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))

    # To first order the loss falls by the step times the squared norm.
    found, norm = fall(params)
    np.testing.assert_allclose(found, 1e-5 * norm, rtol=1e-3)
