"""Eight tasks of linear regression. Inputs of different size give their losses different curvatures."""

import jax
import jax.numpy as jnp

from jaxmaml import measure


def problem():
    size = jnp.linspace(0.3, 1.5, 8)[:, None, None]
    x = size * jax.random.normal(jax.random.key(0), (8, 60, 3))  # 60 samples each
    y = x @ jnp.array([1.0, -2.0, 0.5]) + jnp.arange(8)[:, None] * x[..., 0]
    y += 0.1 * jax.random.normal(jax.random.key(1), y.shape)

    def loss(w, batch):
        return jnp.mean((batch[0] @ w["slope"] - batch[1]) ** 2)

    return measure.from_pools(loss, {"slope": jnp.zeros(3)}, (x, y))
