"""The digits by class, against scikit-learn's own arrays."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxmaml.data import digits


def test_classes():
    training, test = digits.classes()
    assert training.shape == (6, 174, 8, 8)
    assert test.shape == (4, 174, 8, 8)
    found = np.concatenate([training, test])
    assert found.dtype == np.uint8
    data = load_digits()
    for digit in range(10):
        expected = data.images[data.target == digit][:174]
        # The nearest of 256 levels is at most half a level off.
        assert np.abs(found[digit] / 255 - expected / 16).max() <= 0.5 / 255
    assert np.bincount(data.target).min() == 174


def test_all_of_them():
    images, labels = digits.load()
    data = load_digits()
    np.testing.assert_array_equal(images, data.images)
    np.testing.assert_array_equal(labels, data.target)
    assert images.dtype == np.uint8
    assert images.max() == digits.LEVELS


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="the digits need scikit-learn: pip install"):
        digits.classes()
