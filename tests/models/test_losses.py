"""Cross-entropy, squared error, accuracy against closed forms, at extremes and with bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from jaxmaml.models import accuracy, cross_entropy, squared_error


def scores(params, x):
    return x @ params


RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 3)) * 2 + 1
W = RNG.standard_normal((3, 4)) * 3 - 0.5
Y = np.array([0, 3, 2, 2, 1, 0, 3])


class TestCrossEntropy:
    def test_value(self):
        z = X @ W
        expected = np.mean(logsumexp(z, axis=1) - z[np.arange(7), Y])
        np.testing.assert_allclose(cross_entropy(scores)(W, (X, Y)), expected, rtol=1e-13)

    def test_hessian(self):
        """In the scores of one sample it is diag(p) - p p'."""
        z = X[:1] @ W
        loss = cross_entropy(lambda params, _: params)
        p = softmax(z[0])
        found = jax.hessian(loss)(jnp.asarray(z), (None, jnp.array([2])))[0, :, 0, :]
        np.testing.assert_allclose(found, np.diag(p) - np.outer(p, p), rtol=1e-10, atol=1e-15)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_large_scores(self, dtype):
        z = np.array([[1e4, 0.0, -1e4]], dtype)
        loss = cross_entropy(lambda params, _: params)
        for label, expected in enumerate([0.0, 1e4, 2e4]):
            value, gradient = jax.value_and_grad(loss)(jnp.asarray(z), (None, jnp.array([label])))
            assert value == expected
            assert value.dtype == dtype
            np.testing.assert_array_equal(gradient[0], np.eye(3)[0] - np.eye(3)[label])

    @pytest.mark.parametrize("label", [-1, 4])
    def test_label_out_of_range_is_never_a_number(self, label):
        assert np.isnan(cross_entropy(scores)(W, (X, np.where(Y == 1, label, Y))))


def test_squared_error():
    y = RNG.standard_normal((7, 4))
    expected = np.mean((X @ W - y) ** 2)
    np.testing.assert_allclose(squared_error(scores)(W, (X, y)), expected, rtol=1e-13)


def test_accuracy():
    z = X @ W
    labels = z.argmax(axis=1)
    labels[[1, 4]] = (labels[[1, 4]] + 1) % 4
    found = accuracy(scores)(W.astype(np.float32), (X.astype(np.float32), labels))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 5 / 7, rtol=1e-6)


@pytest.mark.parametrize("measure", [cross_entropy, accuracy])
@pytest.mark.parametrize("y", [Y.astype(float), np.eye(4)[Y], Y[:, None], Y[:5], np.array(2)], ids=str)
def test_bad_labels(measure, y):
    with pytest.raises(
        ValueError, match=r"y is .*beside outputs of shape \(7, 4\); allowed: integers of shape"
    ):
        measure(scores)(W, (X, y))


def test_targets_that_would_broadcast():
    column = W[:, :1]
    with pytest.raises(ValueError, match=r"y has shape \(7,\); allowed: \(7, 1\), that of the outputs"):
        squared_error(scores)(column, (X, np.zeros(7)))
    with pytest.raises(ValueError, match=r"y has shape \(\); allowed"):
        squared_error(scores)(column, (X, 0.0))


class TestWeights:
    """sum_i p_i l_i / sum_i p_i, against NumPy."""

    P = RNG.uniform(0.1, 3, 7)
    Z = X @ W

    def each(self, loss):
        """The loss of each sample, and what it is beside: (x, y) of the batch."""
        if loss is cross_entropy:
            return Y, logsumexp(self.Z, axis=1) - self.Z[np.arange(7), Y]
        if loss is accuracy:
            return Y, (self.Z.argmax(axis=1) == Y).astype(float)
        y = np.arange(28.0).reshape(7, 4)
        return y, np.mean((self.Z - y) ** 2, axis=1)

    @pytest.mark.parametrize("loss", [cross_entropy, squared_error, accuracy])
    def test_weighted_mean(self, loss):
        y, each = self.each(loss)
        f = jax.jit(loss(scores))
        for p in (self.P, 1e9 * self.P, np.arange(7), np.arange(7) % 2 == 0, np.ones(7)):
            np.testing.assert_allclose(f(W, (X, y, p)), np.sum(p * each) / np.sum(p), rtol=1e-12)
        np.testing.assert_allclose(f(W, (X, y, np.full(7, 2))), loss(scores)(W, (X, y)), rtol=1e-12)

    @pytest.mark.parametrize("loss", [cross_entropy, squared_error, accuracy])
    def test_without_any_weight_there_is_no_mean(self, loss):
        y, _ = self.each(loss)
        assert np.isnan(loss(scores)(W, (X, y, np.zeros(7))))
        assert np.isnan(loss(scores)(W, (X, y, np.zeros(7, bool))))

    def test_samples_of_weight_0_do_not_count(self):
        """Neither in the value nor in the gradient: a batch that is filled up is the batch."""
        f = cross_entropy(scores)
        there = np.arange(7) < 5
        filled = jax.value_and_grad(f)(W, (np.where(there[:, None], X, 0), np.where(there, Y, 0), there))
        alone = jax.value_and_grad(f)(W, (X[:5], Y[:5]))
        for a, b in zip(filled, alone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)

    def test_type_is_that_of_the_outputs(self):
        narrow = [a.astype(np.float32) for a in (W, X)]
        assert cross_entropy(scores)(narrow[0], (narrow[1], Y, self.P)).dtype == jnp.float32

    @pytest.mark.parametrize("loss", [cross_entropy, squared_error, accuracy])
    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            (np.array([1, 1, 1, 1, 1, 1, -1.0]), "weight = array.*; allowed: finite and >= 0"),
            (np.full(7, np.nan), "weight = array.*; allowed: finite and >= 0"),
            (np.ones(6), r"weight has shape \(6,\); allowed: \(7,\), a weight for each sample"),
            (np.ones((7, 1)), r"weight has shape \(7, 1\); allowed: \(7,\)"),
            (1.0, r"weight has shape \(\); allowed: \(7,\)"),
        ],
        ids=str,
    )
    def test_bad_weights(self, loss, weight, message):
        y, _ = self.each(loss)
        with pytest.raises(ValueError, match=message):
            loss(scores)(W, (X, y, weight))

    def test_parts_of_a_batch(self):
        with pytest.raises(ValueError, match=r"batch has 4 parts; allowed: \(x, y\) or \(x, y, weight\)"):
            cross_entropy(scores)(W, (X, Y, self.P, self.P))
        with pytest.raises(ValueError, match=r"batch has dict; allowed: \(x, y\)"):
            cross_entropy(scores)(W, {"x": X, "y": Y})
