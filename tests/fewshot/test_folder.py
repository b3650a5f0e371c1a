"""A folder of images, one subfolder a class."""

import re

import jax
import numpy as np
import pytest
from picture_files import coloured, encoded, png_bomb

from jaxmaml import fewshot
from jaxmaml.data import _pictures

IMAGES = {"car": coloured(8, 5), "boat": coloured(8, 7), "plane": coloured(8, 6)}


@pytest.fixture
def folder(tmp_path):
    for name, images in IMAGES.items():
        (tmp_path / name).mkdir()
        for i, pixels in enumerate(images):
            (tmp_path / name / f"{i}.png").write_bytes(encoded(pixels))
    (tmp_path / "labels.csv").write_text("beside the classes")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "car" / ".DS_Store").write_bytes(b"")
    (tmp_path / "car" / "Thumbs.db").write_bytes(b"")
    return tmp_path


def test_images_and_their_classes(folder):
    x, y = fewshot.read_folder(folder, size=8)
    np.testing.assert_array_equal(y, ["boat"] * 7 + ["car"] * 5 + ["plane"] * 6)
    np.testing.assert_array_equal(x, np.concatenate([IMAGES[c] for c in ("boat", "car", "plane")]))
    x, y = fewshot.read_folder(folder, size=4, channels=1, classes=["plane", "car"])
    assert x.shape == (11, 4, 4, 1)
    assert list(y) == ["plane"] * 6 + ["car"] * 5


def test_tasks(folder):
    """Those of `from_arrays`, of classes of unequal size and in colour."""
    found = fewshot.from_folder(folder, size=8, ways=2, support=1, query=2, min_samples=6)
    np.testing.assert_array_equal(found.x, np.concatenate([IMAGES["boat"], IMAGES["plane"]]))
    x, y = fewshot.read_folder(folder, size=8)
    training, test = fewshot.partition(y, (2, 1))
    alone = fewshot.from_folder(folder, size=8, classes=training, ways=2, support=1, query=2)
    both = fewshot.from_arrays(x, y, classes=training, ways=2, support=1, query=2)
    for a, b in zip(*map(jax.tree.leaves, (alone, both)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(test) == 1


def test_grey_and_colour_together(folder):
    (folder / "car" / "grey.png").write_bytes(encoded(np.full((8, 8), 70, np.uint8)))
    x, y = fewshot.read_folder(folder, size=8)
    assert x.shape == (19, 8, 8, 3)
    assert (x[y == "car"][5] == 70).all()
    for path in sorted(folder.rglob("*.png")):
        if path.name != "grey.png":
            path.unlink()
    x, _ = fewshot.read_folder(folder, size=8, classes=["car"])
    assert x.shape == (1, 8, 8, 1)


BAD = {
    "damaged": (
        lambda f: (f / "car" / "2.png").write_bytes(b"no"),
        {},
        r"car/2.png cannot be read \(.*allowed:",
    ),
    "bomb": (
        lambda f: (f / "car" / "2.png").write_bytes(png_bomb(9000)),
        {},
        "car/2.png has 9000 x 9000 pixels; al",
    ),
    "notes": (
        lambda f: (f / "car" / "notes.txt").write_text("x"),
        {},
        "car/notes.txt is no image file; allowed: f",
    ),
    "folder": (
        lambda f: (f / "car" / "red.png").mkdir(),
        {},
        "car/red.png is no image file; allowed: files with",
    ),
    "empty": (
        lambda f: (f / "bus").mkdir(),
        {},
        "bus holds no image; allowed: files with the endings .png, .jpg",
    ),
    "unknown": (
        None,
        {"classes": ["cars"]},
        "unknown class 'cars'; known: 'boat', 'car', 'plane'. Did you mean 'car'",
    ),
    "size": (None, {"size": 0}, "size = 0; allowed: an integer >= 1"),
    "channels": (None, {"channels": 2}, r"channels = 2; allowed: 1 \(grey\), 3 \(colour\) or None"),
    "path": (None, {"path": ""}, "path = ''; allowed: a path"),
}


@pytest.mark.parametrize(("spoil", "options", "message"), BAD.values(), ids=BAD)
def test_bad_folder(folder, spoil, options, message):
    if spoil:
        spoil(folder)
    with pytest.raises(ValueError, match=message):
        fewshot.read_folder(**{"path": folder, "size": 8} | options)


def test_no_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=f"path = '{tmp_path}/none' is no folder; allowed: a folder with"
    ):
        fewshot.read_folder(tmp_path / "none", size=8)
    with pytest.raises(
        ValueError, match=f"path = '{tmp_path}' has no subfolder; allowed: a subfolder of images"
    ):
        fewshot.read_folder(tmp_path, size=8)


def test_too_many_for_the_memory(folder, monkeypatch):
    monkeypatch.setattr(_pictures, "MOST", 1000)
    message = re.escape("18 images of 8 x 8 pixels are 3456 bytes; allowed: 1000")
    with pytest.raises(ValueError, match=message):
        fewshot.read_folder(folder, size=8)
