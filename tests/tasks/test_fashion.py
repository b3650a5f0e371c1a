"""IDX files, sound and damaged, and the family of Fashion-MNIST on small files and on the real ones."""

import gzip
import hashlib
import re

import numpy as np
import pytest

from jaxmaml.tasks import _idx, digits, fashion

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def encoded(array):
    header = bytes([0, 0, _idx.UNSIGNED_BYTE, array.ndim])
    return header + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def written(path, data):
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["images", "images.gz"])
class TestIdx:
    def test_round_trip(self, tmp_path, name):
        path = written(tmp_path / name, encoded(ARRAY))
        total = hashlib.sha256(encoded(ARRAY)).hexdigest()
        for shape in ((2, 3, 4), (-1, 3, 4), (-1, -1, -1)):
            np.testing.assert_array_equal(_idx.read(path, shape, total), ARRAY)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "begins with the bytes of an empty file; allowed: 00 00 08"),
            (b"\x89PNG....", "begins with the bytes 89 50 4e 47; allowed: 00 00 08"),
            (b"\0\0\x0d" + encoded(ARRAY)[3:], "begins with the bytes 00 00 0d 03; allowed: 00 00 08"),
            (encoded(ARRAY)[:9], "is cut short: 9 bytes; allowed: a header of 16 bytes"),
            (encoded(ARRAY)[:-1], "is cut short: 39 bytes; allowed: 40 bytes for dimensions (2, 3, 4)"),
            (encoded(ARRAY) + b"x", "is too long: 41 bytes; allowed: 40 bytes for dimensions (2, 3, 4)"),
            (encoded(ARRAY[0]), "has dimensions (3, 4); allowed: (-1, 3, 4), where -1 is any length"),
            (encoded(ARRAY[:, :2]), "has dimensions (2, 2, 4); allowed: (-1, 3, 4)"),
        ],
    )
    def test_bad_file(self, tmp_path, name, data, message):
        path = written(tmp_path / name, data)
        with pytest.raises(ValueError, match="^" + re.escape(f"{path} {message}")):
            _idx.read(path, (-1, 3, 4))

    def test_other_contents(self, tmp_path, name):
        path = written(tmp_path / name, encoded(ARRAY))
        wanted = "0" * 64
        found = hashlib.sha256(encoded(ARRAY)).hexdigest()
        with pytest.raises(ValueError, match=f"{path} has other contents: sha256 {found}.*{wanted}"):
            _idx.read(path, (2, 3, 4), wanted)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-12], "is cut short: .* compressed bytes; allowed: a whole gzip file"),
        (lambda whole: b"no gzip" + whole, "is damaged .*; allowed: a gzip file"),
        (lambda whole: whole[:20] + b"\xff\xff\xff" + whole[23:], "is damaged .*; allowed: a gzip file"),
    ],
)
def test_damaged_gzip(tmp_path, damage, message):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(encoded(ARRAY))))
    with pytest.raises(ValueError, match=f"{path} {message}"):
        _idx.read(path, (2, 3, 4))


class TestAreaMeans:
    images = np.random.default_rng(0).random((3, 28, 28))

    @pytest.mark.parametrize("side", [1, 4, 7, 14, 28])
    def test_whole_pixels(self, side):
        k = 28 // side
        expected = self.images.reshape(3, side, k, side, k).mean(axis=(2, 4))
        np.testing.assert_allclose(fashion.area_means(self.images, side), expected, rtol=1e-12)

    def test_shared_pixels(self):
        """8 areas of 3.5 pixels: the same as the means over 7 half pixels."""
        halves = self.images.repeat(2, axis=1).repeat(2, axis=2)
        expected = halves.reshape(3, 8, 7, 8, 7).mean(axis=(2, 4))
        np.testing.assert_allclose(fashion.area_means(self.images, 8), expected, rtol=1e-12)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with 6 random images of each class, whose sums the module takes for the right ones."""
    rng = np.random.default_rng(1)
    classes = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 6))
    images = rng.integers(0, 256, (60, 28, 28), np.uint8)
    # The class can be read off the first pixel.
    images[:, 0, 0] = 25 * classes
    data = {fashion.IMAGES: encoded(images), fashion.LABELS: encoded(classes)}
    written(tmp_path / f"{fashion.IMAGES}.gz", data[fashion.IMAGES])
    written(tmp_path / fashion.LABELS, data[fashion.LABELS])
    for name, contents in data.items():
        monkeypatch.setitem(fashion.SHA256, name, hashlib.sha256(contents).hexdigest())
    return tmp_path


class TestFamily:
    def test_tasks_are_balanced_pairs(self, small):
        family = fashion.make(tasks=45, pool=12, path=small, side=28)
        x, y = family.tasks
        assert x.shape == (45, 12, 28**2 + 1)
        assert np.linalg.norm(x, axis=2).max() == pytest.approx(1)
        classes = np.round(x[..., 0] / x[..., -1] * 255 / 25)
        low, high = classes[:, :6], classes[:, 6:]
        assert np.all(low == low[:, :1])
        assert np.all(high == high[:, :1])
        assert {(a, b) for a, b in zip(low[:, 0], high[:, 0], strict=True)} == set(digits.PAIRS)
        assert np.all(y[:, :6] == -1)
        assert np.all(y[:, 6:] == 1)

    def test_where_the_files_are_looked_for(self, small, monkeypatch):
        monkeypatch.setenv(fashion.VARIABLE, str(small))
        assert fashion.make(tasks=2, pool=4).dim == 65
        with pytest.raises(FileNotFoundError, match="/nowhere"):
            fashion.make(path="/nowhere")
        monkeypatch.delenv(fashion.VARIABLE)
        assert str(fashion.folder()) == fashion.DEBIAN

    def test_absent(self, tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            fashion.make(path=tmp_path)
        said = str(caught.value)
        assert "\n" not in said
        for part in (str(tmp_path), "dataset-fashion-mnist", fashion.VARIABLE, *fashion.SHA256):
            assert part in said
        assert fashion.SHA256[fashion.IMAGES] in said

    def test_absent_labels_are_named(self, small):
        (small / fashion.LABELS).unlink()
        with pytest.raises(FileNotFoundError, match=f"neither {fashion.LABELS}.gz nor {fashion.LABELS};"):
            fashion.make(path=small)

    def test_other_contents(self, small, monkeypatch):
        monkeypatch.setitem(fashion.SHA256, fashion.LABELS, "0" * 64)
        with pytest.raises(ValueError, match=f"{fashion.LABELS} has other contents"):
            fashion.make(path=small)

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ({"tasks": 46}, "tasks = 46, pool = 100; allowed: at most 45 tasks, an even pool of at most 12"),
            ({"pool": 14}, "pool = 14; allowed: at most 45 tasks, an even pool of at most 12"),
            ({"pool": 3}, "pool = 3; allowed: at most 45 tasks, an even pool"),
            ({"side": 0}, "side = 0; allowed: an integer >= 1"),
            ({"side": 29}, "side = 29; allowed: at most 28"),
        ],
    )
    def test_bad_numbers(self, small, numbers, message):
        with pytest.raises(ValueError, match=message):
            fashion.make(path=small, **numbers)


class TestRealFiles:
    @pytest.fixture(autouse=True)
    def present(self):
        try:
            fashion.make(tasks=1, pool=2)
        except FileNotFoundError as absent:
            pytest.skip(str(absent))

    def test_training_images(self):
        family = fashion.make()
        assert family.tasks.x.shape == (20, 100, 65)
        assert family.constants().L <= 0.25 + 1e-3
        assert fashion.make(tasks=1, pool=12_000, side=1).dim == 2
        with pytest.raises(ValueError, match="an even pool of at most 12000"):
            fashion.make(pool=12_002)

    @pytest.mark.parametrize("name", fashion.SHA256)
    def test_sums(self, name):
        found = [p for p in (fashion.folder() / f"{name}.gz", fashion.folder() / name) if p.exists()]
        if not found:
            pytest.skip(f"{name} is not in {fashion.folder()}; no task needs it")
        _idx.read(found[0], (-1, 28, 28) if "images" in name else (-1,), fashion.SHA256[name])


def test_claim_goes_on_without_the_files(monkeypatch):
    from experiments.claims import real_data

    monkeypatch.setenv(fashion.VARIABLE, "/nowhere")
    assert {labels["data"] for labels, _ in real_data.grid("default")} == {"digits"}
    assert "dataset-fashion-mnist" in real_data._absence("default")
