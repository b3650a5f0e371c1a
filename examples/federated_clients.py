"""
Personalised federated learning, clients of unequal size
========================================================

Each client holds images of a few handwritten digits, of kinds and in numbers of its own. A server trains one
model on 16 of the clients; 8 others come later, and each fits the model to its own images in a few steps.
Per-FedAvg trains for these steps, FedAvg for the model as it is.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import jaxmaml
from jaxmaml import federated, models, plotting
from jaxmaml.data import digits

x, y = digits.load()
x = x.reshape(len(x), -1) / np.float32(digits.LEVELS)
clients = federated.unequal_classes(x, y, clients=24, a=12, seed=0)
training, test = federated.hold_out(clients, share=0.4, seed=0)
old, new = list(clients)[:16], list(clients)[16:]
server = {name: training[name] for name in old}  # all that training sees
sizes = [len(labels) for _, labels in training.values()]
print(f"images to train on, a client: {min(sizes)} to {max(sizes)}")

# %%
# Both methods: 60 rounds of ten clients, and in each of these five steps of gradient descent.

params, apply = models.split(models.MLP((64, 32, 10), rngs=nnx.Rngs(0)))
loss, accuracy = models.cross_entropy(apply), models.accuracy(apply)
common = {"beta": 0.3, "rounds": 60, "sampled": 10, "local_steps": 5, "key": jax.random.key(0)}
meta = {"estimator": jaxmaml.maml, "alpha": 0.1, "batch_sizes": (6, 6, 6)}
runs = {
    "FedAvg": federated.fedavg(loss, params, server, batch_size=6, **common),
    "Per-FedAvg": federated.per_fedavg(loss, params, server, **meta, **common),
}

# %%
# A new client adapts on its own images; what counts are images that it has put aside.

STEPS = (0, 1, 5)
own, held_out = ({name: part[name] for name in new} for part in (training, test))
with plotting.style():
    _, axis = plt.subplots(figsize=(4, 3), layout="constrained")
    for place, (method, run) in enumerate(runs.items()):
        found = federated.evaluate(loss, run.params, own, held_out, alpha=0.1, steps=STEPS, measure=accuracy)
        means = [found.mean(steps) for steps in STEPS]  # over clients, with 95 % intervals
        print(f"{method} after 0, 1, 5 steps:", *(f"{m.mean:.2f}" for m in means))
        error = [m.high - m.mean for m in means]
        look = {"color": "0.2", "linestyle": "-:"[place], "capsize": 2, "label": method}
        axis.errorbar(STEPS, [m.mean for m in means], error, **look)
    axis.set(xlabel="steps on a new client's images", ylabel="accuracy on its other images")
    axis.legend()
plt.show()
