"""
A new estimator
===============

An estimator is an inner loop whose derivative is chosen: here the part of Gauss and Newton in the place of
the Hessian. It needs no second derivatives, and is near to the Hessian where the network fits well.
"""

import jax
import matplotlib.pyplot as plt
import optax
from flax import nnx

import jaxmaml
from jaxmaml import models, plotting
from jaxmaml.data.sinusoid import Sinusoid

params, apply = models.split(models.MLP((1, 40, 40, 1), "tanh", rngs=nnx.Rngs(0)))
loss = models.squared_error(apply)


def product(_loss, w, vector, batch):  # 2 J'J v / n in the place of the Hessian times v
    outputs, pushed = jax.jvp(lambda w: apply(w, batch[0]), (w,), (vector,))
    return jax.vjp(lambda w: apply(w, batch[0]), w)[1](2 * pushed / outputs.size)[0]


@jaxmaml.estimators.of_adaptation
def gauss_newton(loss, params, episode, *, alpha):
    direction = jaxmaml.inner_gradient(loss, product)(params, episode.inner, episode.hessian)
    return jax.tree.map(lambda w, d: w - alpha * d, params, direction)


# %%
# It goes wherever the methods of jaxmaml go. How far is each from MAML, on the same tasks, while MAML trains?


@jax.jit
def step(w, state, key):
    methods, tasks = (jaxmaml.maml, jaxmaml.fo_maml, gauss_newton), Sinusoid().episodes(key, 100)
    exact, *others = (jaxmaml.meta_gradient(f, loss, w, tasks, alpha=0.02) for f in methods)
    off = [optax.tree.norm(optax.tree.sub(g, exact)) / optax.tree.norm(exact) for g in others]
    updates, state = adam.update(exact, state)
    return optax.apply_updates(w, updates), state, off


adam = optax.adam(3e-3)
state, off = adam.init(params), []
for key in jax.random.split(jax.random.key(0), 400):
    params, state, distances = step(params, state, key)
    off.append([float(d) for d in distances])
fo, own = (sum(each[-100:]) / 100 for each in zip(*off, strict=True))
print(f"distance from MAML's gradient, relative: FO-MAML {fo:.2f}, Gauss-Newton {own:.2f}")
with plotting.style():
    _, axis = plt.subplots(figsize=(4, 3), layout="constrained")
    axis.set_prop_cycle(color=[plotting.color("fo_maml"), "0.3"])
    axis.semilogy(off, linewidth=0.7, label=["FO-MAML", "Gauss-Newton"])
    axis.set(xlabel="outer step", ylabel="relative distance from MAML's gradient")
    axis.legend()
plt.show()
