"""Per-FedAvg on handwritten digits, shared out unequally: python examples/federated.py [picture.png]

Trains on 16 clients, adapts on these and on 8 others, prints and draws accuracies with 95 % intervals over
seeds. Needs pip install 'jaxmaml[training]'; half a minute of one core.
"""

import sys

import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import jaxmaml
from jaxmaml import federated, models, statistics
from jaxmaml.data import digits

STEPS = (0, 1, 2, 5, 10)


def main(picture="federated.png", rounds=60, seeds=range(5)):
    x, y = digits.load()
    x = x.reshape(len(x), -1) / np.float32(digits.LEVELS)
    params, apply = models.split(models.MLP((64, 32, 10), rngs=nnx.Rngs(0)))
    loss, accuracy = models.cross_entropy(apply), models.accuracy(apply)
    common = {"beta": 0.3, "rounds": rounds, "sampled": 10, "local_steps": 5}
    meta = {"estimator": jaxmaml.maml, "alpha": 0.1, "batch_sizes": (6, 6, 6), **common}
    values = {}  # one mean accuracy over clients a seed
    for seed in seeds:
        clients = federated.unequal_classes(x, y, clients=24, a=12, seed=seed)
        training, test = federated.hold_out(clients, 0.4, seed)
        names = {"seen": list(clients)[:16], "unseen": list(clients)[16:]}
        server = {name: training[name] for name in names["seen"]}
        key = jax.random.key(seed)
        trained = {
            "FedAvg": federated.fedavg(loss, params, server, key=key, batch_size=6, **common),
            "Per-FedAvg": federated.per_fedavg(loss, params, server, key=key, **meta),
        }
        for (method, run), kind in ((one, kind) for one in trained.items() for kind in names):
            own, held_out = ({name: part[name] for name in names[kind]} for part in (training, test))
            found = federated.evaluate(
                loss, run.params, own, held_out, alpha=0.1, steps=STEPS, measure=accuracy
            )
            values.setdefault(f"{method}, {kind}", []).append([found.mean(nu).mean for nu in STEPS])
    figure = Figure(figsize=(4, 3), layout="constrained")
    axis = figure.add_subplot(xlabel="steps on a client's own samples", ylabel="accuracy on held-out samples")
    print("steps" + " " * 16, *(f"{nu:<20d}" for nu in STEPS))
    for name, of_seeds in values.items():
        found = [statistics.interval(column) for column in np.transpose(of_seeds)]
        print(f"{name:21s}", *(f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" for i in found))
        axis.errorbar(STEPS, [i.mean for i in found], [i.high - i.mean for i in found], label=name, capsize=2)
    axis.legend()
    figure.savefig(picture)
    return values


if __name__ == "__main__":
    main(*sys.argv[1:2])
