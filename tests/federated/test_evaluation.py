"""Clients adapt on their training samples and are measured on held-out ones; the last round is the last."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from federated_oracle import KEY, START, gradient, loss, samples, tree, value

import jaxmaml
from jaxmaml import federated, statistics

ALPHA, STEPS = 0.3, (0, 1, 4)


@functools.cache
def split():
    return federated.hold_out(samples(), share=0.4, seed=2)


def wrong_sign(params, batch):
    """A measure that is no loss: the share of samples on the wrong side."""
    x, y = batch
    w = jnp.concatenate([params["a"], params["b"][None]])
    return jnp.mean(jnp.where(y * (x @ w) > 0, 0.0, 1.0))


@functools.cache
def found(measure=None):
    return federated.evaluate(loss, tree(START), *split(), alpha=ALPHA, steps=STEPS, measure=measure)


def reference(adapt_on, measure_on, score):
    values = np.empty((len(STEPS), len(adapt_on)))
    for column, name in enumerate(adapt_on):
        for row, nu in enumerate(STEPS):
            w = START
            for _ in range(nu):
                w = w - ALPHA * gradient(w, *adapt_on[name])
            values[row, column] = score(w, *measure_on[name])
    return values


def errors(w, x, y):
    return np.mean(y * (x @ w) <= 0)


@pytest.mark.parametrize(("measure", "score"), [(None, value), (wrong_sign, errors)], ids=["loss", "measure"])
def test_equals_numpy(measure, score):
    training, test = split()
    ours = found(measure)
    np.testing.assert_allclose(ours.values, reference(training, test, score), rtol=1e-10)
    assert ours.names == tuple(test)
    assert ours.sizes == tuple(len(y) for _, y in test.values())
    assert len(set(ours.sizes)) > 2
    assert ours.of("client 2") == dict(zip(STEPS, ours.values[:, 2], strict=True))
    # Adapting on the test samples would be seen, and so would be measuring on those it adapts on.
    for mistake in (reference(test, test, score), reference(training, training, score)):
        assert np.max(np.abs(mistake - ours.values)) > 1e-3


def test_test_samples_change_nothing_of_what_adapts():
    """With a measure of the parameters alone, other test samples and labels give the same values."""

    def of_params(params, batch):
        return jnp.sum(params["a"]) + 0 * jnp.sum(batch[0])

    training, test = split()
    packed = [federated.pack(clients) for clients in (training, test)]
    other = jax.tree.map(lambda array: 7 * array + 3, packed[1])
    values = [
        federated.client_values(
            loss, tree(START), packed[0], held_out, alpha=ALPHA, steps=STEPS, measure=of_params
        )
        for held_out in (packed[1], other)
    ]
    np.testing.assert_array_equal(*values)
    assert np.ptp(values[0], axis=1)[1:].min() > 1e-3


def test_training_samples_are_refused_as_tests():
    with pytest.raises(ValueError, match="training and test are the same samples; allowed: held-out ones"):
        federated.evaluate(loss, tree(START), split()[0], split()[0], alpha=ALPHA)


def test_means_and_intervals():
    ours = found()
    x, n = ours.values[1], ours.values.shape[1]
    uniform = ours.mean(1)
    half = scipy.stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / np.sqrt(n)
    np.testing.assert_allclose([uniform.mean, uniform.high], [x.mean(), x.mean() + half])
    # By size: the mean over all held-out samples.
    training, test = split()
    pooled = []
    for name, (samples_of, labels) in test.items():
        w = START - ALPHA * gradient(START, *training[name])
        pooled += [value(w, a[None], b[None]) for a, b in zip(samples_of, labels, strict=True)]
    np.testing.assert_allclose(ours.mean(1, "size").mean, np.mean(pooled), rtol=1e-12)
    assert str(ours).count("\n") == len(STEPS)
    with pytest.raises(ValueError, match="steps = 2; allowed: 0, 1, 4"):
        ours.mean(2)
    with pytest.raises(ValueError, match="unknown weights 'sizes'.*Did you mean 'size'"):
        ours.mean(1, "sizes")


def test_weighted_interval():
    """Of equal weights it is Student's; for unequal ones it covers the mean 95 times of 100."""
    x = np.array([1.0, 4.0, 2.5, -3.0])
    plain, weighted = statistics.interval(x), statistics.interval(x, weights=np.full(4, 7.0))
    np.testing.assert_allclose([plain.mean, plain.low], [weighted.mean, weighted.low], rtol=1e-12)
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 2, 40)
    covered = []
    for _ in range(1000):
        one = statistics.interval(3 + rng.standard_normal(40), weights=p)
        covered.append(one.low < 3 < one.high)
    assert 0.93 < np.mean(covered) < 0.97
    for bad in ([1.0, 2.0], [0.0] * 4, [1, 1, 1, -1]):
        with pytest.raises(ValueError, match="weights = .*; allowed: one for each of 4 values"):
            statistics.interval(x, weights=bad)


def test_the_last_round_is_the_last_and_the_best_is_named():
    """A run that becomes worse: what is reported is the last round, and the best one says which it is."""
    training, test = split()
    good = federated.fedavg(loss, tree(START), training, beta=0.3, rounds=4, key=KEY, batch_size=4, every=1)
    # Its history backwards, from the last round to the first.
    run = good._replace(
        history=jax.tree.map(lambda h: h[::-1], good.history),
        params=jax.tree.map(lambda h: h[0], good.history),
    )
    for some in (good, run):
        curve = federated.curve(loss, some, training, test, alpha=ALPHA, steps=(1,))
        last = federated.evaluate(loss, some.params, training, test, alpha=ALPHA, steps=(1,))
        np.testing.assert_allclose(curve.last.values, last.values, rtol=1e-12)
        assert curve.rounds == (1, 2, 3, 4)
        means = [one.mean(1).mean for one in curve.evaluations]
        at, best = curve.best(1, largest=False)
        assert curve.rounds.index(at) == np.argmin(means)
        assert curve.rounds.index(curve.best(1)[0]) == np.argmax(means)
        assert best.mean(1).mean == min(means) < max(means) - 1e-3
    assert means[-1] == max(means)


def test_masks_updates_and_few_clients_at_a_time():
    training, test = split()
    inner = jaxmaml.InnerLoop(mask={"a": False, "b": True})
    ours = federated.evaluate(
        loss, tree(START), training, test, alpha=optax.sgd(ALPHA), steps=(1,), inner=inner, client_chunk=2
    )
    for column, name in enumerate(training):
        w = START - ALPHA * np.array([0, 0, 1]) * gradient(START, *training[name])
        np.testing.assert_allclose(ours.values[0, column], value(w, *test[name]), rtol=1e-10)


def centred(params, batch):
    """The loss of a network that normalises by the batch at hand."""
    x, y = batch
    return loss(params, (x - jnp.mean(x, axis=0), y))


def test_batch_statistics():
    """Of clients of equal sizes they are those of the whole batch; of unequal ones they are refused."""
    with pytest.raises(ValueError, match="loss of a batch is .*, the mean over its samples .*equal sizes"):
        federated.evaluate(centred, tree(START), *split(), alpha=ALPHA)
    with pytest.raises(ValueError, match="measure of a batch is"):
        federated.evaluate(
            loss, tree(START), *split(), alpha=ALPHA, measure=lambda p, b: len(b[0]) * wrong_sign(p, b) + 1
        )
    training, test = ({name: (x[:3], y[:3]) for name, (x, y) in part.items()} for part in split())
    ours = federated.evaluate(centred, tree(START), training, test, alpha=ALPHA, steps=(1,))

    def alone(name):
        (x, y), (u, v) = training[name], test[name]
        w = START - ALPHA * gradient(START, x - x.mean(axis=0), y)
        return value(w, u - u.mean(axis=0), v)

    np.testing.assert_allclose(ours.values[0], [alone(name) for name in training], rtol=1e-10)
