"""A small smooth network and a problem for it, shifted and scaled."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml import Episode

HEAD = {"body": False, "head": True}
"""the mask with which the head alone adapts"""


def network(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])
    return jnp.mean((hidden @ params["head"][0] + params["head"][1] - y) ** 2)


def problem(dtype=np.float64, tasks=None):
    rng = np.random.default_rng(8)
    params = {
        "body": {"kernel": rng.standard_normal((2, 5)), "bias": rng.standard_normal(5) + 0.3},
        "head": [1.7 * rng.standard_normal(5), np.array(0.4)],
    }
    lead = () if tasks is None else (tasks,)

    def batch(count):
        return 1.3 * rng.standard_normal((*lead, count, 2)) + 0.5, 2 * rng.standard_normal((*lead, count))

    # Different sizes: a swapped batch cannot go unnoticed.
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, Episode(batch(4), batch(6), batch(5))))
