"""Area means of images against whole and half pixels, and images sorted by class."""

import numpy as np
import pytest

from jaxmaml.data._arrays import area_means, by_class


class TestAreaMeans:
    images = np.random.default_rng(0).random((3, 28, 28))

    @pytest.mark.parametrize("side", [1, 4, 7, 14, 28])
    def test_whole_pixels(self, side):
        k = 28 // side
        expected = self.images.reshape(3, side, k, side, k).mean(axis=(2, 4))
        np.testing.assert_allclose(area_means(self.images, side), expected, rtol=1e-12)

    def test_shared_pixels(self):
        """8 areas of 3.5 pixels: the same as the means over 7 half pixels."""
        halves = self.images.repeat(2, axis=1).repeat(2, axis=2)
        expected = halves.reshape(3, 8, 7, 8, 7).mean(axis=(2, 4))
        np.testing.assert_allclose(area_means(self.images, 8), expected, rtol=1e-12)


class TestByClass:
    labels = np.array([2, 0, 1, 2, 0, 1, 2, 1, 2])
    images = np.arange(9, dtype=np.uint8)[:, None, None] * np.ones((2, 3), np.uint8)

    def test_as_many_as_the_rarest_has(self):
        """0 is the rarest, also where only others are asked for."""
        found = by_class(self.images, self.labels, (2, 1))
        np.testing.assert_array_equal(found[:, :, 1, 2], [[0, 3], [2, 5]])
        assert found.shape == (2, 2, 2, 3)
        assert found.dtype == np.uint8

    def test_equal_classes_are_whole(self):
        found = by_class(self.images[:6], self.labels[:6], (0, 1, 2))
        np.testing.assert_array_equal(found[..., 0, 0], [[1, 4], [2, 5], [0, 3]])
