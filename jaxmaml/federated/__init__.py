"""Personalised federated learning, simulated on one machine: Per-FedAvg, and FedAvg as the reference.

Clients are a dict {name: (x, y)} of arrays of unequal sizes:

    training, test = federated.hold_out(clients)
    run = federated.per_fedavg(
        loss, params, training, estimator=jaxmaml.maml, alpha=0.1, beta=0.1, rounds=100, key=jax.random.key(0)
    )
    found = federated.evaluate(loss, run.params, training, test, alpha=0.1, steps=(0, 1, 5))
    found.mean(1), found.of(name)

The method is after Fallah, Mokhtari, Ozdaglar (NeurIPS 2020), whose text was not at hand: what counts is the
algorithm as `rounds` describes it.
"""

from jaxmaml.federated.clients import Clients, hold_out, pack
from jaxmaml.federated.evaluation import Curve, Evaluation, client_values, curve, evaluate
from jaxmaml.federated.rounds import Run, fedavg, per_fedavg
from jaxmaml.federated.splits import dirichlet, unequal_classes

__all__ = [
    "Clients",
    "Curve",
    "Evaluation",
    "Run",
    "client_values",
    "curve",
    "dirichlet",
    "evaluate",
    "fedavg",
    "hold_out",
    "pack",
    "per_fedavg",
    "unequal_classes",
]
