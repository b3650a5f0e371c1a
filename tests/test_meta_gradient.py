"""The mean over tasks: bad input, chunks, memory. Its values are in contracts/test_estimators.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmaml
from jaxmaml import Episode, meta_gradient


def loss(w, batch):
    return jnp.mean((batch @ w) ** 4)


def episodes(tasks=4, samples=3):
    rng = np.random.default_rng(0)
    return Episode(*(jnp.asarray(rng.standard_normal((tasks, samples, 2))) for _ in range(3)))


W = jnp.array([0.3, -0.7])


def test_task_axes_differ():
    some = episodes()
    broken = some._replace(outer=some.outer[:3])
    with pytest.raises(ValueError, match=r"differ in their task axis: .*\(4, 3, 2\).*\(3, 3, 2\)"):
        meta_gradient(jaxmaml.maml, loss, W, broken, alpha=0.1)


def test_no_task():
    none = jax.tree.map(lambda x: x[:0], episodes())
    with pytest.raises(ValueError, match="episodes hold no task"):
        meta_gradient(jaxmaml.maml, loss, W, none, alpha=0.1)


def test_scalar_leaf():
    some = episodes()._replace(hessian=jnp.array(3.0))
    with pytest.raises(ValueError, match=r"episodes.hessian is a scalar"):
        meta_gradient(jaxmaml.maml, loss, W, some, alpha=0.1)


def test_empty_batch():
    some = jax.tree.map(lambda x: x[:, :0], episodes())
    with pytest.raises(ValueError, match="the batch is empty"):
        meta_gradient(jaxmaml.maml, loss, W, some, alpha=0.1)


@pytest.mark.parametrize("chunk", [0, -1, 1.5])
def test_bad_chunk(chunk):
    with pytest.raises(ValueError, match=f"task_chunk = {chunk}; allowed: an integer >= 1, or None"):
        meta_gradient(jaxmaml.maml, loss, W, episodes(), alpha=0.1, task_chunk=chunk)


def test_params_without_leaves():
    with pytest.raises(ValueError, match="params has no leaves"):
        meta_gradient(jaxmaml.maml, loss, {}, episodes(), alpha=0.1)


def test_own_estimator():
    """Anything with the signature of an estimator will do."""

    def reptile(loss, params, episode, *, alpha, steps):
        moved = params
        for _ in range(steps):
            moved = jaxmaml.adapt(loss, moved, episode.inner, alpha)
        return (params - moved) / alpha

    found = meta_gradient(reptile, loss, W, episodes(), alpha=0.1, steps=2, task_chunk=3)
    assert found.shape == W.shape
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize("chunk", [None, 3])
def test_own_estimator_that_counts(chunk):
    """The mean of whole numbers is none."""

    def count(loss, params, episode, *, alpha):
        return jnp.sum(episode.inner > 0)

    drawn = episodes()
    found = meta_gradient(count, loss, W, drawn, alpha=0.1, task_chunk=chunk)
    assert float(found) == np.sum(np.asarray(drawn.inner) > 0) / 4
    assert float(found) % 1 != 0


def test_chunks_bound_memory():
    """Peak temporary memory grows with the chunk, not with the number of tasks."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((64, 16, 8)))
    params = {"a": jnp.ones((8, 256)), "b": jnp.ones((256, 256))}

    def network(p, batch):
        return jnp.mean(jnp.tanh(jnp.tanh(batch @ p["a"]) @ p["b"]) ** 2)

    def memory(chunk):
        def call(p, e):
            return meta_gradient(jaxmaml.maml, network, p, e, alpha=0.1, task_chunk=chunk)

        compiled = jax.jit(call).lower(params, Episode(x, x, x)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(4) < memory(None) / 4


def test_loss_with_aux():
    def both(w, batch):
        return loss(w, batch), {"size": len(batch)}

    found = meta_gradient(jaxmaml.maml, both, W, episodes(), alpha=0.1, has_aux=True, task_chunk=3)
    np.testing.assert_allclose(
        found, meta_gradient(jaxmaml.maml, loss, W, episodes(), alpha=0.1, task_chunk=3), rtol=1e-12
    )
    with pytest.raises(TypeError, match=r"loss returned tuple; allowed: a scalar, or .* has_aux=True"):
        meta_gradient(jaxmaml.maml, both, W, episodes(), alpha=0.1)
    with pytest.raises(TypeError, match=r"allowed: \(scalar, aux\)"):
        meta_gradient(jaxmaml.maml, loss, W, episodes(), alpha=0.1, has_aux=True)
