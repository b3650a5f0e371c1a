"""Where the files of Fashion-MNIST are looked for, what is said without them, and the classes in them."""

import hashlib

import numpy as np
import pytest
from test_idx import encoded, written

from jaxmaml.data import _idx, fashion_mnist


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with 6 random images of each class, whose sums the module takes for the right ones."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 6))
    images = rng.integers(0, 256, (60, 28, 28), np.uint8)
    # The class can be read off the first pixel.
    images[:, 0, 0] = 25 * labels
    data = {fashion_mnist.IMAGES: encoded(images), fashion_mnist.LABELS: encoded(labels)}
    written(tmp_path / f"{fashion_mnist.IMAGES}.gz", data[fashion_mnist.IMAGES])
    written(tmp_path / fashion_mnist.LABELS, data[fashion_mnist.LABELS])
    for name, contents in data.items():
        monkeypatch.setitem(fashion_mnist.SHA256, name, hashlib.sha256(contents).hexdigest())
    return tmp_path


class TestClasses:
    def test_six_train_and_four_test(self, small):
        training, test = fashion_mnist.classes(small)
        assert training.shape == (6, 6, 28, 28)
        assert test.shape == (4, 6, 28, 28)
        assert training.dtype == test.dtype == np.uint8
        found = np.concatenate([training, test])[:, :, 0, 0] / 25
        np.testing.assert_array_equal(found, np.arange(10)[:, None] * np.ones(6))

    def test_every_image_once(self, small):
        images, _ = fashion_mnist.load(small)
        found = np.concatenate(fashion_mnist.classes(small)).reshape(60, -1)
        np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(images.reshape(60, -1), axis=0))


class TestFiles:
    def test_where_they_are_looked_for(self, small, monkeypatch):
        monkeypatch.setenv(fashion_mnist.VARIABLE, str(small))
        assert fashion_mnist.load()[0].shape == (60, 28, 28)
        with pytest.raises(FileNotFoundError, match="/nowhere"):
            fashion_mnist.load("/nowhere")
        monkeypatch.delenv(fashion_mnist.VARIABLE)
        assert str(fashion_mnist.folder()) == fashion_mnist.DEBIAN

    def test_absent(self, tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            fashion_mnist.classes(tmp_path)
        said = str(caught.value)
        assert "\n" not in said
        for part in (str(tmp_path), "dataset-fashion-mnist", fashion_mnist.VARIABLE, *fashion_mnist.SHA256):
            assert part in said
        assert fashion_mnist.SHA256[fashion_mnist.IMAGES] in said

    def test_absent_labels_are_named(self, small):
        labels = fashion_mnist.LABELS
        (small / labels).unlink()
        with pytest.raises(FileNotFoundError, match=f"neither {labels}.gz nor {labels};"):
            fashion_mnist.load(small)

    def test_other_contents(self, small, monkeypatch):
        monkeypatch.setitem(fashion_mnist.SHA256, fashion_mnist.LABELS, "0" * 64)
        with pytest.raises(ValueError, match=f"{fashion_mnist.LABELS} has other contents"):
            fashion_mnist.load(small)

    def test_cut_short(self, small):
        images = small / f"{fashion_mnist.IMAGES}.gz"
        images.write_bytes(images.read_bytes()[:-9])
        with pytest.raises(ValueError, match="is cut short: .* allowed: a whole gzip file"):
            fashion_mnist.load(small)


class TestRealFiles:
    @pytest.fixture(autouse=True)
    def present(self):
        try:
            fashion_mnist.load()
        except FileNotFoundError as absent:
            pytest.skip(str(absent))

    def test_classes(self):
        training, test = fashion_mnist.classes()
        assert training.shape == (6, 6000, 28, 28)
        assert test.shape == (4, 6000, 28, 28)

    @pytest.mark.parametrize("name", fashion_mnist.SHA256)
    def test_sums(self, name):
        folder = fashion_mnist.folder()
        found = [p for p in (folder / f"{name}.gz", folder / name) if p.exists()]
        if not found:
            pytest.skip(f"{name} is not in {folder}; nothing reads it")
        _idx.read(found[0], (-1, 28, 28) if "images" in name else (-1,), fashion_mnist.SHA256[name])
