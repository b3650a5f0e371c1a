"""CIFAR-FS in the layout of its authors, on small files that the test makes."""

import re

import numpy as np
import pytest
from picture_files import EACH, TEST, TRAIN, by_part, encoded, write_cifar_fs

from jaxmaml import data
from jaxmaml.data import cifar_fs

IMAGES = by_part(cifar_fs.SIDE)


@pytest.fixture
def folder(tmp_path):
    write_cifar_fs(tmp_path, IMAGES)
    return tmp_path


def stacked(part):
    return np.stack([IMAGES[part][name] for name in sorted(IMAGES[part])])


def test_classes(folder, monkeypatch):
    for read in (lambda: cifar_fs.classes(folder), lambda: data.classes("cifar_fs", folder)):
        training, test = read()
        np.testing.assert_array_equal(training, stacked("train"))
        np.testing.assert_array_equal(test, stacked("test"))
    monkeypatch.setenv(cifar_fs.VARIABLE, str(folder))
    np.testing.assert_array_equal(cifar_fs.classes()[1], stacked("test"))


def test_parts(folder):
    images, names = cifar_fs.part(folder, "val")
    assert names == ["shark"]
    np.testing.assert_array_equal(images, stacked("val"))
    assert cifar_fs.part(folder, "train")[1] == sorted(TRAIN)
    assert cifar_fs.part(folder, "test")[1] == sorted(TEST)
    with pytest.raises(ValueError, match="name = 'valid'; allowed: train, val, test"):
        cifar_fs.part(folder, "valid")


def test_checksum(folder):
    """It is of all that is read, and of nothing else."""
    found = cifar_fs.checksum(folder)
    cifar_fs.classes(folder, sha256=found)
    (folder / "readme.txt").write_text("beside")
    assert cifar_fs.checksum(folder) == found
    changed = IMAGES["val"]["shark"][0].copy()
    changed[0, 0, 0] ^= 1
    (folder / "data" / "shark" / "000.png").write_bytes(encoded(changed))
    other = cifar_fs.checksum(folder)
    message = f"{folder} has other contents: sha256 {other}; allowed: sha256 {found}"
    with pytest.raises(ValueError, match="^" + message):
        cifar_fs.classes(folder, sha256=found)


def test_absent(tmp_path, monkeypatch):
    monkeypatch.delenv(cifar_fs.VARIABLE, raising=False)
    with pytest.raises(
        FileNotFoundError, match="CIFAR-FS: no folder is named; set JAXMAML_CIFAR_FS to one with"
    ):
        cifar_fs.classes()
    with pytest.raises(FileNotFoundError, match=f"CIFAR-FS: {tmp_path}/none is no folder; set JAXMAML"):
        cifar_fs.classes(tmp_path / "none")
    with pytest.raises(
        FileNotFoundError, match=f"CIFAR-FS: {tmp_path}/data is missing; set JAXMAML_CIFAR_FS to"
    ):
        cifar_fs.classes(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(
        FileNotFoundError, match=f"CIFAR-FS: {tmp_path}/splits/bertinetto/train.txt is missing"
    ):
        cifar_fs.classes(tmp_path)


LISTS = "splits/bertinetto/{}.txt"
BAD = {
    "class in two parts": (
        LISTS.format("val"),
        "otter\n",
        "train.txt and .*val.txt hold 'otter' twice; allowed: once",
    ),
    "class twice": (
        LISTS.format("train"),
        "ray\nray\n",
        "train.txt and .*train.txt hold 'ray' twice; allowed: once",
    ),
    "no class": (LISTS.format("train"), "\n", "train.txt holds no class; allowed: a class a line"),
    "unknown class": (
        LISTS.format("train"),
        "eel\n",
        "train.txt names 'eel', which .*data lacks; allowed: a name in",
    ),
    "outside": (LISTS.format("train"), "../data\n", "train.txt names '../data'; allowed: a name in .*data"),
    "a file too many": ("data/ray/none.txt", "", "data/ray/none.txt is no image file; allowed: files with"),
    "an image too many": (
        "data/ray/x.png",
        encoded(np.zeros((32, 32, 3), np.uint8)),
        "class 'ray' has 7 images; all",
    ),
    "damaged": ("data/tank/003.png", "no image", "data/tank/003.png cannot be read "),
    "no text": (LISTS.format("train"), b"\xff\xfe\xfd", "train.txt is no text .*; allowed: UTF-8"),
}


@pytest.mark.parametrize(("name", "contents", "message"), BAD.values(), ids=BAD)
def test_bad_files(folder, name, contents, message):
    (folder / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(ValueError, match=message):
        cifar_fs.classes(folder)


def test_size_of_the_classes_is_said(folder):
    (folder / "data" / "otter" / "005.png").unlink()
    message = f"class 'otter' has 5 images; allowed: {EACH}, as many as 'apple' has"
    with pytest.raises(ValueError, match=re.escape(message)):
        cifar_fs.classes(folder)
