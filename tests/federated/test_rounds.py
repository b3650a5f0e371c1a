"""Per-FedAvg and FedAvg equal loops of NumPy, and would not if they made the mistakes of others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from federated_oracle import BATCHES, KEY, MISTAKES, SIZES, START, draws, flat, loss, samples, train, tree

import jaxmaml
from jaxmaml import federated
from jaxmaml.federated.rounds import _Plan

pytestmark = pytest.mark.recorded

ALPHA, BETA, DELTA = 0.4, 0.15, 0.05
METHODS = ("fedavg", "maml", "fo_maml", "hf_maml")


def plan(**other):
    return _Plan(**{**PLAN, **other})


PLAN = {
    "rounds": 4,
    "local_steps": 3,
    "sampled": 3,
    "weights": "size",
    "sampling": "uniform",
    "every": 1,
    "client_chunk": None,
}


def ours(method, start=START, *, alpha=ALPHA, beta=BETA, delta=DELTA, **other):
    arguments = {**PLAN, "beta": beta, "key": KEY, **other}
    if method == "fedavg":
        arguments["batch_size"] = arguments.pop("batch_sizes", BATCHES)[0]
        return federated.fedavg(loss, tree(start), samples(), **arguments)
    arguments.setdefault("batch_sizes", BATCHES)
    if method == "hf_maml":
        arguments["delta"] = delta
    estimator = getattr(jaxmaml, method)
    return federated.per_fedavg(loss, tree(start), samples(), estimator=estimator, alpha=alpha, **arguments)


@functools.cache
def run(method):
    return ours(method)


def history(found):
    return np.stack(
        [flat(jax.tree.map(lambda x, i=i: x[i], found.history)) for i in range(len(found.rounds))]
    )


def reference(method, start=START, alpha=ALPHA, beta=BETA, delta=DELTA, wrong=None, **other):
    batches = (BATCHES[0], 0, 0) if method == "fedavg" else other.pop("batch_sizes", BATCHES)
    return train(
        method, start, plan(**other), alpha=alpha, beta=beta, delta=delta, batches=batches, wrong=wrong
    )


@pytest.mark.parametrize("method", METHODS)
def test_equals_numpy_at_every_round(method):
    found = run(method)
    expected = reference(method)
    np.testing.assert_allclose(history(found), expected, rtol=1e-10)
    np.testing.assert_array_equal(flat(found.params), history(found)[-1])
    assert found.finite.all()
    # Moved, scaled, with other rates: the same program.
    with compilations() as compiled:
        moved = ours(method, 0.1 * START - 0.3, alpha=0.05, beta=0.9, delta=0.3)
    assert "jit(_run)" not in compiled
    expected = reference(method, 0.1 * START - 0.3, alpha=0.05, beta=0.9, delta=0.3)
    np.testing.assert_allclose(history(moved), expected, rtol=1e-10)


@pytest.mark.parametrize("method", ["maml", "hf_maml"])
@pytest.mark.parametrize("wrong", MISTAKES)
def test_mistakes_of_others_would_be_seen(method, wrong):
    """Each differs from ours by far more than the equality allows."""
    mistaken = reference(method, wrong=wrong)[-1]
    assert np.max(np.abs(mistaken - flat(run(method).params))) > 1e-4


def test_methods_differ():
    ends = [flat(run(method).params) for method in METHODS]
    for i, end in enumerate(ends):
        for other in ends[:i]:
            assert np.max(np.abs(end - other)) > 1e-5


def test_uniform_weights_sampling_by_size_and_few_clients_at_a_time():
    other = {"weights": "uniform", "sampling": "size", "client_chunk": 2}
    found = ours("maml", **other)
    np.testing.assert_allclose(history(found), reference("maml", **other), rtol=1e-10)


def test_all_clients_and_history():
    """Without `sampled` all clients take part; what is kept on the way changes nothing."""
    found = ours("fedavg", sampled=None, every=2)
    np.testing.assert_allclose(history(found), reference("fedavg", sampled=None)[1::2], rtol=1e-10)
    np.testing.assert_array_equal(found.rounds, [2, 4])
    np.testing.assert_array_equal(np.sort(found.sampled, axis=1), np.tile(np.arange(len(SIZES)), (4, 1)))


def test_longer_run_begins_as_the_shorter():
    longer = ours("fedavg", rounds=6, every=1)
    np.testing.assert_allclose(history(longer)[:4], history(run("fedavg")), rtol=1e-13)


def test_server_optimiser_takes_the_pseudo_gradient():
    """w <- w - 0.3 (w - mean): the first round goes 0.3 of the way."""
    server = optax.sgd(0.3)
    found = history(ours("fedavg", server=server))
    first = reference("fedavg")[0]
    np.testing.assert_allclose(found[0], START + 0.3 * (first - START), rtol=1e-10)
    # Adam's first step has the length of its rate, whatever the gradient.
    adam = history(ours("fedavg", server=optax.adam(0.01)))
    np.testing.assert_allclose(np.abs(adam[0] - START), 0.01, rtol=1e-4)
    np.testing.assert_array_equal(np.sign(adam[0] - START), np.sign(first - START))


def test_vmap_over_keys_and_rates_gives_single_runs():
    keys = jnp.stack([KEY, jax.random.key(9)])
    betas = jnp.array([BETA, 0.02])
    packed = federated.pack(samples())

    @jax.jit
    @jax.vmap
    def lanes(key, beta):
        return federated.per_fedavg(
            loss,
            tree(START),
            packed,
            alpha=ALPHA,
            beta=beta,
            key=key,
            rounds=4,
            local_steps=3,
            sampled=3,
            batch_sizes=BATCHES,
        ).params

    found = lanes(keys, betas)
    for lane in range(2):
        alone = ours("maml", key=keys[lane], beta=float(betas[lane])).params
        np.testing.assert_allclose(flat(jax.tree.map(lambda x, i=lane: x[i], found)), flat(alone), rtol=1e-11)


def test_divergence_is_seen():
    """A rate that is far too large: finite says from which round on."""

    def quartic(w, batch):
        return jnp.mean((batch[0] @ w) ** 4)

    clients = {name: (x, y.astype(float)) for name, (x, y) in samples().items()}
    found = federated.fedavg(quartic, jnp.asarray(START), clients, beta=1.0, rounds=6, key=KEY, batch_size=4)
    assert not found.finite[-1]
    assert not np.isfinite(found.params).any()


@functools.cache
def with_running_mean():
    """A model whose loss normalises by the batch's mean and whose running mean is kept for tests."""

    def centred(params, batch):
        x, y = batch
        return jnp.mean(jax.nn.softplus(-y * ((x - x.mean(axis=0)) @ params["w"])))

    def refresh(params, batch):
        return {**params, "mean": 0.8 * params["mean"] + 0.2 * batch[0].mean(axis=0)}

    params = {"w": jnp.asarray(START), "mean": jnp.array([5.0, -1.0, 2.0])}
    arguments = {**PLAN, "alpha": ALPHA, "beta": BETA, "key": KEY, "batch_sizes": BATCHES}
    return [
        federated.per_fedavg(centred, params, samples(), estimator=jaxmaml.fo_maml, refresh=r, **arguments)
        for r in (refresh, None)
    ]


def test_running_statistics_are_averaged_like_parameters():
    """Refreshed by D_o in every local step of a client, averaged with the weights of the parameters."""
    found, without = with_running_mean()
    x = np.concatenate([x for x, _ in samples().values()])
    mean = np.array([5.0, -1.0, 2.0])
    stale = last = mean
    for who, (_, _, outer) in draws(plan(), BATCHES, samples()):
        ends = []
        for place in range(len(who)):
            own = mean
            for step in range(PLAN["local_steps"]):
                own = 0.8 * own + 0.2 * x[outer[place, step]].mean(axis=0)
            ends.append(own)
        mean, last = np.average(ends, axis=0, weights=np.array(SIZES)[who]), ends[-1]
    np.testing.assert_allclose(found.params["mean"], mean, rtol=1e-10)
    for wrong in (stale, last, np.mean(ends, axis=0)):  # not aggregated, the last client's, uniform
        assert np.max(np.abs(wrong - found.params["mean"])) > 1e-3
    np.testing.assert_array_equal(without.params["mean"], stale)
    np.testing.assert_allclose(found.params["w"], without.params["w"], rtol=1e-12)
