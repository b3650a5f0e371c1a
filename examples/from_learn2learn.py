"""
From learn2learn to here
========================

The training loop that a user of learn2learn writes, in comments, and what stands in its place. Two things
change: parameters are an argument, not a part of the model, and the loop over tasks is one call.
"""

import jax
import matplotlib.pyplot as plt
import optax
from flax import nnx

import jaxmaml
from jaxmaml import models, plotting
from jaxmaml.data.sinusoid import Sinusoid

tasks = Sinusoid(support=10, query=10)

# model = MLP()                                               # a torch.nn.Module
# maml = l2l.algorithms.MAML(model, lr=0.01)                  # first_order=True
# optimizer = torch.optim.Adam(maml.parameters(), lr=0.01)
params, apply = models.split(models.MLP((1, 40, 40, 1), "tanh", rngs=nnx.Rngs(0)))
method, alpha = jaxmaml.maml_same_batch, 0.01  #                jaxmaml.fo_maml
optimizer = optax.adam(0.01)

# loss = torch.nn.MSELoss()
loss = models.squared_error(apply)  # loss(params, (x, y))


@jax.jit
def step(params, state, key):
    # optimizer.zero_grad()
    # for task in range(16):
    #     x_support, y_support, x_query, y_query = sample()
    #     learner = maml.clone()
    #     learner.adapt(loss(learner(x_support), y_support))
    #     query_loss = loss(learner(x_query), y_query)
    #     query_loss.backward()
    episodes = tasks.episodes(key, 16)
    found = jaxmaml.meta_value_and_gradient(method, loss, params, episodes, alpha=alpha)
    # for p in maml.parameters(): p.grad.data.mul_(1.0 / 16)
    # optimizer.step()
    updates, state = optimizer.update(found.gradient, state)
    return optax.apply_updates(params, updates), state, found.value


curve, state = [], optimizer.init(params)
for key in jax.random.split(jax.random.key(0), 1500):
    params, state, value = step(params, state, key)
    curve.append(float(value))
first, last = sum(curve[:100]) / 100, sum(curve[-100:]) / 100
print(f"loss after one inner step, first and last 100: {first:.2f}, {last:.2f}")

with plotting.style():
    _, axis = plt.subplots(figsize=(4, 3), layout="constrained")
axis.plot(curve, color="0.3", linewidth=0.5)
axis.set(xlabel="outer step", ylabel="loss after one inner step")
plt.show()
