"""Clients as arrays, splits of data into clients, and bad input: one clear error before anything compiles."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from federated_oracle import SIZES, START, loss, samples, tree

import jaxmaml
from jaxmaml import federated


def test_pack_is_flat_in_order():
    packed = federated.pack(samples())
    assert packed.sizes == SIZES
    rows, there = packed.rows()
    assert rows.shape == (len(SIZES), max(SIZES))
    for i, (x, y) in enumerate(samples().values()):
        np.testing.assert_array_equal(packed.x[rows[i][there[i]]], x)
        np.testing.assert_array_equal(packed.y[rows[i][there[i]]], y)
        assert (rows[i][~there[i]] == packed.offsets[i] + len(y) - 1).all()
    assert federated.pack(packed) is packed


def test_hold_out():
    clients = samples()
    training, test = federated.hold_out(clients, share=0.3, seed=5)
    for name, (x, _) in clients.items():
        (a, _), (b, _) = training[name], test[name]
        assert len(b) == round(0.3 * len(x))
        together = np.concatenate([a, b])
        np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(x, axis=0))
        # Samples are distinct, and labels go with them.
        assert not (a[:, None] == b[None]).all(axis=2).any()
        for part, held in (training[name], test[name]):
            at = [np.flatnonzero((x == one).all(axis=1))[0] for one in part]
            np.testing.assert_array_equal(clients[name][1][at], held)
    again, other = (federated.hold_out(clients, share=0.3, seed=s)[1] for s in (5, 6))
    np.testing.assert_array_equal(again["client 1"][0], test["client 1"][0])
    assert not np.array_equal(other["client 1"][0], test["client 1"][0])


def labelled(per_class=120, classes=10):
    y = np.repeat(np.arange(classes), per_class)
    return np.arange(len(y))[:, None] * 1.0, y


def test_unequal_classes():
    x, y = labelled()
    clients = federated.unequal_classes(x, y, clients=20, a=8, seed=1)
    rows = np.concatenate([part[:, 0] for part, _ in clients.values()])
    assert len(np.unique(rows)) == len(rows)
    kinds = {tuple(np.bincount(labels, minlength=10)) for _, labels in list(clients.values())[::2]}
    assert kinds == {(8,) * 5 + (0,) * 5}
    others = [np.bincount(labels, minlength=10) for _, labels in list(clients.values())[1::2]]
    for counts in others:
        assert sorted(counts[:5]) == [0, 0, 0, 0, 4]
        assert sorted(counts[5:]) == [0, 0, 0, 0, 16]
    assert (np.sum(others, axis=0) == [8] * 5 + [32] * 5).all()
    for part, labels in clients.values():
        np.testing.assert_array_equal(y[part[:, 0].astype(int)], labels)


def test_dirichlet():
    x, y = labelled()
    unequal, equal = (
        federated.dirichlet(x, y, clients=6, concentration=c, least=20, seed=3) for c in (0.2, 1e4)
    )
    for clients in (unequal, equal):
        rows = np.concatenate([part[:, 0] for part, _ in clients.values()])
        np.testing.assert_array_equal(np.sort(rows), np.arange(len(x)))
    sizes = [[len(labels) for _, labels in clients.values()] for clients in (unequal, equal)]
    assert min(sizes[0]) >= 20
    assert np.ptp(sizes[0]) > 50
    np.testing.assert_allclose(sizes[1], 200, rtol=0.1)
    # E p_1^2 = (c + 1) / (6 (6 c + 1)) for Dirichlet(c, ..., c).
    many = [
        np.sum(federated.dirichlet(x, y, clients=6, concentration=0.5, seed=s)["2"][1] == 4) / 120
        for s in range(400)
    ]
    np.testing.assert_allclose(np.mean(np.square(many)), 1.5 / (6 * 4), atol=0.012)


def without(name):
    return {key: pair for key, pair in samples().items() if key != name}


GOOD = {"alpha": 0.1, "beta": 0.1, "rounds": 2, "key": jax.random.key(0), "batch_sizes": (2, 3, 4)}
X, Y = samples()["client 0"]
BAD_RUNS = [
    ({"clients": {}}, "clients = {}; allowed: at least one client"),
    ({"clients": [(X, Y)]}, "clients is list; allowed: a dict {name: (x, y)} of arrays"),
    ({"clients": {"a": X}}, "client 'a' is ndarray; allowed: a pair (x, y)"),
    ({"clients": {"a": (X, Y[:5])}}, "client 'a': x has 12 samples and y 5"),
    ({"clients": {"a": (X[:0], Y[:0])}}, "client 'a': x has 0 samples"),
    (
        {"clients": {"a": (X, Y), "b": (X[:, :2], Y)}},
        "client 'b': a sample's x has shape (2,); allowed: (3,)",
    ),
    ({"clients": {"a": (X, Y), "b": (X, Y * 1.0)}}, "client 'b': y has dtype float64; allowed: like int64"),
    ({"clients": {"a": (X * np.nan, Y)}}, "client 'a': x holds numbers that are not finite"),
    ({"clients": {"a": (X, ["yes"] * 12)}}, "client 'a': y has shape (12,) and dtype <U3"),
    ({"batch_sizes": (4, 3, 4)}, "client 'client 2' has 9 samples; allowed: at least 11"),
    ({"batch_sizes": (4, 3)}, "batch_sizes = (4, 3); allowed: three sizes"),
    ({"batch_sizes": (0, 3, 4)}, "batch_sizes: D_in = 0; allowed: an integer >= 1"),
    ({"batch_sizes": (2, 0, 4)}, "episode.hessian = None; allowed: a batch"),
    ({"sampled": 6}, "sampled = 6; allowed: at most 5"),
    ({"sampled": 0}, "sampled = 0; allowed: an integer >= 1"),
    ({"local_steps": 0}, "local_steps = 0; allowed: an integer >= 1"),
    ({"rounds": 2.5}, "rounds = 2.5; allowed: an integer >= 1"),
    ({"every": 0}, "every = 0; allowed: an integer >= 1"),
    ({"every": 3, "rounds": 4}, "every = 3; allowed: a divisor of rounds = 4"),
    ({"alpha": -0.1}, "alpha = -0.1; allowed: finite and >= 0"),
    ({"beta": 0.0}, "beta = 0.0; allowed: finite and > 0"),
    ({"beta": [0.1, 0.2]}, "beta = [0.1, 0.2]; allowed: finite and > 0"),
    ({"estimator": jaxmaml.hf_maml, "delta": 0.0}, "delta = 0.0; allowed: finite and > 0"),
    ({"estimator": jaxmaml.hf_maml}, "hf_maml: missing a required argument: 'delta'"),
    ({"delta": 0.1}, "maml: got an unexpected keyword argument 'delta'"),
    ({"learn_alpha": True}, "learn_alpha; allowed: a fixed alpha"),
    ({"weights": "sizes"}, "unknown weights 'sizes'; known: size, uniform. Did you mean 'size'"),
    ({"sampling": "all"}, "unknown sampling 'all'"),
    ({"server": 0.1}, "server = 0.1; allowed: an optax transformation"),
    ({"key": 0}, "key = 0; allowed: a key, jax.random.key(seed)"),
    ({"params": {"a": jnp.arange(2)}}, "params['a'] has dtype int64"),
    ({"client_chunk": 0}, "client_chunk = 0; allowed: an integer >= 1"),
]


@pytest.mark.parametrize(("change", "message"), BAD_RUNS, ids=[m[:40] for _, m in BAD_RUNS])
def test_bad_runs(change, message):
    arguments = {"params": tree(START), "clients": samples(), **GOOD, **change}
    with compilations() as compiled, pytest.raises((ValueError, TypeError), match=re.escape(message)):
        federated.per_fedavg(loss, arguments.pop("params"), arguments.pop("clients"), **arguments)
    assert not [name for name in compiled if "_run" in name]


BAD_EVALUATIONS = [
    ({"test": without("client 1")}, "training and test clients differ: client 1"),
    ({"test": dict(reversed(samples().items()))}, "training and test clients differ: the order"),
    ({"steps": ()}, "steps = (); allowed: at least one"),
    ({"steps": (1, -1)}, "steps = -1; allowed: an integer >= 0"),
    ({"alpha": -1.0}, "alpha = -1.0; allowed: finite and >= 0"),
    ({"measure": 3}, "measure = 3; allowed: measure(params, batch)"),
]


@pytest.mark.parametrize(("change", "message"), BAD_EVALUATIONS, ids=[m[:40] for _, m in BAD_EVALUATIONS])
def test_bad_evaluations(change, message):
    training, test = federated.hold_out(samples())
    arguments = {"training": training, "test": test, "alpha": 0.1, **change}
    if len(arguments["test"]) == len(training) and "test" in change:
        arguments["training"] = samples()
    with compilations() as compiled, pytest.raises((ValueError, TypeError), match=re.escape(message)):
        federated.evaluate(loss, tree(START), **arguments)
    assert not [name for name in compiled if "_values" in name]


BAD_SPLITS = [
    (lambda x, y: federated.unequal_classes(x, y, clients=21, a=8), "clients = 21; allowed: an even number"),
    (lambda x, y: federated.unequal_classes(x, y, clients=20, a=7), "a = 7; allowed: an even number"),
    (
        lambda x, y: federated.unequal_classes(x, y, clients=40, a=8),
        "a = 8 and clients = 40 need 176 samples of class 0: it has 120",
    ),
    (
        lambda x, y: federated.unequal_classes(x[y > 0], y[y > 0], clients=4, a=2),
        "the number of classes = 9; allowed: an even number",
    ),
    (lambda x, y: federated.dirichlet(x, y[:3], clients=4, concentration=1.0), "y shape (3,)"),
    (lambda x, y: federated.dirichlet(x, y * 1.0, clients=4, concentration=1.0), "dtype float64; allowed: a"),
    (lambda x, y: federated.dirichlet(x, y, clients=4, concentration=0.0), "concentration = 0.0; allowed"),
    (
        lambda x, y: federated.dirichlet(x, y, clients=4, concentration=0.01, least=290),
        "least = 290 with concentration = 0.01",
    ),
    (lambda x, y: federated.hold_out({"a": (x, y)}, share=1.0), "share = 1.0; allowed: 0 < share < 1"),
    (lambda x, y: federated.hold_out({"a": (x[:1], y[:1])}), "client 'a' has 1 sample; allowed: at least 2"),
]


@pytest.mark.parametrize(("split", "message"), BAD_SPLITS, ids=[m[:40] for _, m in BAD_SPLITS])
def test_bad_splits(split, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        split(*labelled())
