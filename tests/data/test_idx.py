"""IDX files, sound and damaged."""

import gzip
import hashlib
import re

import numpy as np
import pytest

from jaxmaml.data import _idx

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
            (
                encoded(ARRAY) + b"x",
                "is too long: more than 40 bytes; allowed: 40 bytes for dimensions (2, 3, 4)",
            ),
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
        (lambda whole: whole[:-8] + bytes(4) + whole[-4:], "is damaged .CRC.*; allowed: a gzip file"),
    ],
)
def test_damaged_gzip(tmp_path, damage, message):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(encoded(ARRAY))))
    with pytest.raises(ValueError, match=f"{path} {message}"):
        _idx.read(path, (2, 3, 4))


def test_no_more_is_read_than_the_file_should_have(tmp_path, monkeypatch):
    """A gigabyte of zeros in a megabyte, behind a sound header; and a header that asks for as much."""
    asked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n=-1: asked.append(n) or read(self, n))
    path = tmp_path / "images.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(encoded(ARRAY))
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match="is too long: more than 40 bytes; allowed: 40 bytes"):
        _idx.read(path, (-1, 3, 4))
    assert min(asked) >= 0
    assert sum(asked) <= 41
    written(path, bytes([0, 0, _idx.UNSIGNED_BYTE, 1]) + np.array([2**32 - 1], ">u4").tobytes())
    with pytest.raises(ValueError, match=f"4294967303 bytes; allowed: {_idx.MOST} bytes"):
        _idx.read(path, (-1,))
