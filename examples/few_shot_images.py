"""
Few-shot images
===============

Five samples of each of three classes, and a network that has never seen these classes: how well does it tell
them apart? The images are handwritten digits of 8 x 8 pixels. Seven digits train, three others test.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import jaxmaml
from jaxmaml import fewshot, models, plotting
from jaxmaml.data import digits

x, y = digits.load()
x = x.reshape(len(x), -1) / 16.0
seen, unseen = fewshot.partition(y, (0.7, 0.3), seed=1)
params, apply = models.split(models.MLP((64, 64, 3), "tanh", rngs=nnx.Rngs(0)))

# %%
# Tasks of three digits, a loss, a measure, training for one step. From one to ten, more need not be better.

training = fewshot.from_arrays(x, y, ways=3, support=5, query=10, classes=seen)
test = fewshot.from_arrays(x, y, ways=3, support=5, query=10, classes=unseen)
loss, accuracy = models.cross_entropy(apply), models.accuracy(apply)
learner = jaxmaml.fit(
    loss, params, training, alpha=0.1, steps=300, test=test, apply=apply, measure=accuracy,
    optimizer=optax.adam(3e-3), every=300, quiet=True,
)  # fmt: skip
found = jaxmaml.evaluate(learner, test, steps=(0, 1, 2, 5, 10))

for measured in found.values():
    print(measured)

# %%
# One task of unseen digits, as the network sees it: what it adapts to, and what it then says of other images.

task = jax.tree.map(lambda samples: samples[0], test.episodes(jax.random.key(7), 1))
adapted = learner.adapt(task.inner, steps=10)
names = learner.predict(adapted, task.outer[0]).argmax(axis=1)

with plotting.style():
    _, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    measures = [m.measure for m in found.values()]
    error = [m.high - m.mean for m in measures]
    left.errorbar(list(found), [m.mean for m in measures], error, color="0.2", marker="o", capsize=2)
    left.axhline(1 / 3, color="0.6", linestyle=":", label="chance")
    left.set(xlabel="steps on 15 images", ylabel="accuracy on other images")
    left.legend()
    pictures = np.pad(task.outer[0].reshape(3, 10, 8, 8)[:, :6], ((0, 0), (0, 0), (5, 0), (2, 2)))
    right.imshow(pictures.transpose(0, 2, 1, 3).reshape(39, 72), cmap="gray_r")
    right.set(title="three unseen digits, as the network calls them", xticks=[], yticks=[])
    for i, name in enumerate(names.reshape(3, 10)[:, :6].flatten()):
        right.text(12 * (i % 6) + 4, 13 * (i // 6) + 3, "ABC"[name])
plt.show()
