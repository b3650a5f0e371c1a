"""Files of images, by what they hold, and those that are refused."""

import io
import re

import numpy as np
import pytest
from picture_files import RNG, encoded, png_bomb
from PIL import Image

from jaxmaml.data import _pictures

COLOUR = RNG.integers(0, 256, (6, 6, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (6, 6)).astype(np.uint8)


def read(tmp_path, data, side=6, channels=None, name="one.png"):
    (tmp_path / name).write_bytes(data)
    return _pictures.read(tmp_path / name, side, channels)


def test_pixels_are_those_of_the_file(tmp_path):
    for kind in ("PNG", "BMP", "PPM", "GIF"):
        np.testing.assert_array_equal(read(tmp_path, encoded(GREY, kind), channels=1)[..., 0], GREY)
    for kind in ("PNG", "BMP", "PPM"):
        np.testing.assert_array_equal(read(tmp_path, encoded(COLOUR, kind)), COLOUR)
    near = read(tmp_path, encoded(np.full((6, 6, 3), (200, 30, 90), np.uint8), "JPEG", quality=95))
    assert np.abs(near - np.array([200.0, 30, 90])).max() < 5


def test_grey_and_colour(tmp_path):
    assert read(tmp_path, encoded(GREY)).shape == (6, 6, 1)
    np.testing.assert_array_equal(read(tmp_path, encoded(GREY), channels=3), np.repeat(GREY[..., None], 3, 2))
    luminance = COLOUR @ [0.299, 0.587, 0.114]
    assert np.abs(read(tmp_path, encoded(COLOUR), channels=1)[..., 0] - luminance).max() <= 1
    ink = GREY > 127
    np.testing.assert_array_equal(read(tmp_path, encoded(ink))[..., 0], 255 * ink)


def test_middle_square_and_means_over_equal_areas(tmp_path):
    """9 x 4 pixels to 2 x 2: rows 2 to 5 are the middle ones."""
    tall = RNG.integers(0, 256, (9, 4, 3)).astype(np.uint8)
    expected = np.rint(tall[2:6].reshape(2, 2, 2, 2, 3).mean(axis=(1, 3)))
    np.testing.assert_array_equal(read(tmp_path, encoded(tall), 2), expected)
    wide = tall.transpose(1, 0, 2)
    np.testing.assert_array_equal(read(tmp_path, encoded(wide), 2), expected.transpose(1, 0, 2))


def test_transparent_is_white(tmp_path):
    alpha = np.where(np.arange(6) < 2, 0, 255).astype(np.uint8) * np.ones((6, 1), np.uint8)
    found = read(tmp_path, encoded(np.dstack([COLOUR, alpha])))
    np.testing.assert_array_equal(found, np.where(np.arange(6)[:, None] < 2, 255, COLOUR))
    found = read(tmp_path, encoded(np.dstack([GREY, alpha])))
    np.testing.assert_array_equal(found[..., 0], np.where(np.arange(6) < 2, 255, GREY))


def test_turned_as_the_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    found = read(tmp_path, encoded(COLOUR, exif=exif.tobytes()))
    np.testing.assert_array_equal(found, np.rot90(COLOUR, -1))


def sixteen_bits():
    file = io.BytesIO()
    Image.fromarray(np.full((6, 6), 1000, np.uint16)).save(file, "PNG")
    return file.getvalue()


REFUSED = {
    "empty": (b"", "cannot be read (cannot identify image file"),
    "text": (b"no image", "cannot be read (cannot identify image file"),
    "cut short": (encoded(COLOUR)[:-30], "cannot be read ("),
    "damaged": (encoded(COLOUR).replace(b"IDAT", b"IDAX"), "cannot be read ("),
    "many pixels": (png_bomb(8200), "has 8200 x 8200 pixels; allowed: at most 67108864 in all"),
    "more pixels": (png_bomb(10_000), "cannot be read (Image size (100000000 pixels) exceeds limit"),
    "most pixels": (png_bomb(60_000), "cannot be read (Image size (3600000000 pixels) exceeds limit"),
    "16 bits": (
        sixteen_bits(),
        "has pixels of mode 'I;16'; allowed: 1, L, LA, P, PA, RGB, RGBA, CMYK, YCbCr (at",
    ),
    "another kind": (encoded(COLOUR, "TIFF"), "cannot be read (cannot identify image file"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=f"^{tmp_path}/one.png " + re.escape(message)):
        read(tmp_path, data)


def test_large_files_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(_pictures, "MOST_BYTES", 50)
    with pytest.raises(ValueError, match="one.png has [0-9]* bytes; allowed: at most 50"):
        read(tmp_path, encoded(COLOUR))


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="none.png cannot be read .*No such file"):
        _pictures.read(tmp_path / "none.png", 6)


def test_sum_of_several_files(tmp_path):
    """That of what sha256sum prints."""
    (tmp_path / "b").mkdir()
    paths = [tmp_path / "b" / "x", tmp_path / "a"]
    for path in paths:
        path.write_bytes(path.name.encode())
    import hashlib

    lines = "".join(f"{hashlib.sha256(name[-1].encode()).hexdigest()}  {name}\n" for name in ("a", "b/x"))
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert _pictures.sha256(tmp_path, paths) == expected
    _pictures.check_sha256(tmp_path, paths, expected)
    with pytest.raises(
        ValueError, match=f"has other contents: sha256 {expected}; allowed: sha256 {'0' * 64}"
    ):
        _pictures.check_sha256(tmp_path, paths, "0" * 64)
