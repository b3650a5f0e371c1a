"""
Your own loss, in an optax loop
===============================

:func:`jaxmaml.meta_gradient` takes any loss and any pytree of parameters, and gives the gradient of the loss
*after* adaptation; :func:`jaxmaml.meta_value_and_gradient` gives its value too. optax does the rest.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

import jaxmaml
from jaxmaml import models, plotting
from jaxmaml.data.sinusoid import Sinusoid

tasks = Sinusoid(support=10, query=10)  # a task is a sine wave: 10 samples adapt, 10 others judge
w, apply = models.split(models.MLP((1, 40, 40, 1), "tanh", rngs=nnx.Rngs(0)))


def loss(w, batch):  # yours, the mean over a batch: here log cosh, on which a far sample weighs less
    x, y = batch
    return jnp.mean(optax.losses.log_cosh(apply(w, x), y))


@jax.jit
def step(w, state, key):
    method = jaxmaml.maml_same_batch  # the gradient through the inner step; maml, fo_maml, hf_maml ...
    found = jaxmaml.meta_value_and_gradient(method, loss, w, tasks.episodes(key, 25), alpha=0.05)
    updates, state = adam.update(found.gradient, state)
    return optax.apply_updates(w, updates), state, found.value


adam = optax.adam(5e-3)
state, curve = adam.init(w), []
for key in jax.random.split(jax.random.key(3), 2000):
    w, state, value = step(w, state, key)
    curve.append(float(value))

# %%
# A wave that was not in training. One step on its ten samples, and the loss on ten others:

(x, y), _, query = jax.tree.map(lambda samples: samples[0], tasks.episodes(jax.random.key(9), 1))
adapted = jaxmaml.adapt(loss, w, (x, y), 0.05)
print(f"loss before adaptation {loss(w, query):.3f}, after {loss(adapted, query):.3f}")

with plotting.style():
    _, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    left.plot(curve, color="0.3", linewidth=0.5)
    left.set(xlabel="outer step", ylabel="loss after one inner step")
    line = jnp.linspace(-5, 5, 200)[:, None]
    right.plot(x, y, "k.", label="ten samples")
    right.plot(line, apply(w, line), ":", color="0.5", label="before")
    right.plot(line, apply(adapted, line), color="0.2", label="after one step")
    right.legend()
plt.show()
