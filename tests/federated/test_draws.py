"""The statistics of what a round draws."""

import functools

import jax
import numpy as np
from federated_oracle import BATCHES, SIZES, samples
from test_rounds import plan

from jaxmaml import federated
from jaxmaml.federated import rounds

N = 4000
OFFSETS = np.cumsum((0, *SIZES[:-1]))


@functools.cache
def drawn(sampling="uniform", batches=BATCHES):
    packed = federated.pack(samples())
    keys = jax.random.split(jax.random.key(1), N)
    draw = jax.jit(
        jax.vmap(lambda key: rounds.draw(packed, key, plan(sampling=sampling, local_steps=2), batches))
    )
    return jax.tree.map(np.asarray, draw(keys))


def test_batches_are_disjoint_samples_of_the_own_client():
    who, rows = drawn()
    assert [at.shape for at in rows] == [(N, 3, 2, size) for size in BATCHES]
    every = np.concatenate(rows, axis=-1)
    assert (np.diff(np.sort(every, axis=-1), axis=-1) > 0).all()
    start = OFFSETS[who][..., None, None]
    assert (every >= start).all()
    assert (every < start + np.array(SIZES)[who][..., None, None]).all()


def test_every_sample_is_as_likely_in_every_batch():
    who, rows = drawn()
    for at in rows:
        for client, n in enumerate(SIZES):
            own = at[who == client].reshape(-1) - OFFSETS[client]
            counts = np.bincount(own, minlength=n)
            expected = len(own) / n
            assert np.sum((counts - expected) ** 2 / expected) < n + 6 * np.sqrt(2 * n)


def test_local_steps_and_clients_draw_independently():
    """Of two steps the first sample of D_in is the same with probability 1/n, and so for two rounds."""
    who, (inner, _, _) = drawn()
    same = inner[:, :, 0, 0] == inner[:, :, 1, 0]
    expected = 1 / np.array(SIZES)[who]
    assert abs(same.mean() - expected.mean()) < 5 * np.sqrt(expected.mean() / same.size)
    # Places of two clients in one round: uncorrelated.
    place = (inner[:, :, 0, 0] - OFFSETS[who]) / (np.array(SIZES)[who] - 1)
    assert abs(np.corrcoef(place[:, 0], place[:, 1])[0, 1]) < 5 / np.sqrt(N)


def test_clients_are_sampled_without_replacement():
    uniform, by_size = drawn()[0], drawn("size")[0]
    for who in (uniform, by_size):
        assert (np.diff(np.sort(who, axis=1), axis=1) > 0).all()
    shares = np.bincount(uniform.reshape(-1), minlength=5) / N
    np.testing.assert_allclose(shares, 3 / 5, atol=5 * np.sqrt(0.24 / N))
    first = np.bincount(by_size[:, 0], minlength=5) / N
    p = np.array(SIZES) / sum(SIZES)
    np.testing.assert_allclose(first, p, atol=5 * np.sqrt(0.25 / N))
    # The second of those that are left, given the first.
    second = sum(p[1] / (1 - p[i]) * p[i] for i in range(5) if i != 1)
    assert abs((by_size[:, 1] == 1).mean() - second) < 5 * np.sqrt(0.25 / N)


def test_integers_below():
    """The high word of the product, for small and large n; about as often each."""
    bits = np.array([0, 1, 2**31, 2**32 - 1, 0x12345678, 0xFFFF0000, 0x0000FFFF], np.uint32)
    for n in (1, 2, 7, 65535, 65536, 65537, 1_000_003, 2**31 - 1):
        expected = [int(b) * n >> 32 for b in bits]
        np.testing.assert_array_equal(rounds.below(bits, np.int32(n)), expected)


def test_common_random_numbers():
    """D_in and D_o are the same whatever the size of D_h; D_in is that of FedAvg, and so are the clients."""
    packed = federated.pack(samples())
    sizes = [(2, 3, 3), (2, 0, 3), (2, 4, 3), (2, 0, 0)]
    draw = functools.partial(rounds.draw, packed, jax.random.key(1), plan(local_steps=2))
    (who, (inner, _, outer)), *others = jax.jit(lambda: [draw(of) for of in sizes])()
    for (other, rows), of in zip(others, sizes[1:], strict=True):
        np.testing.assert_array_equal(who, other)
        np.testing.assert_array_equal(inner, rows[0])
        assert tuple(at.shape[-1] for at in rows) == of
    for _, rows in others[:2]:
        np.testing.assert_array_equal(outer, rows[2])
