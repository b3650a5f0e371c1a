"""miniImageNet in both layouts, on small files that the test makes."""

import pickle
import re

import numpy as np
import pytest
from picture_files import TEST, TRAIN, by_part, cache, encoded, write_caches, write_mini_imagenet

from jaxmaml import data
from jaxmaml.data import mini_imagenet

IMAGES = by_part(mini_imagenet.SIDE)


def stacked(part):
    return np.stack([IMAGES[part][name] for name in sorted(IMAGES[part])])


@pytest.fixture(params=[write_mini_imagenet, write_caches], ids=["csv", "pkl"])
def folder(request, tmp_path):
    request.param(tmp_path, IMAGES)
    return tmp_path


def test_classes(folder, monkeypatch):
    for read in (lambda: mini_imagenet.classes(folder), lambda: data.classes("mini_imagenet", folder)):
        training, test = read()
        np.testing.assert_array_equal(training, stacked("train"))
        np.testing.assert_array_equal(test, stacked("test"))
    images, names = mini_imagenet.part(folder, "val")
    assert names == ["shark"]
    np.testing.assert_array_equal(images, stacked("val"))
    assert mini_imagenet.part(folder, "train")[1] == sorted(TRAIN)
    assert mini_imagenet.part(folder, "test")[1] == sorted(TEST)
    monkeypatch.setenv(mini_imagenet.VARIABLE, str(folder))
    np.testing.assert_array_equal(mini_imagenet.classes()[1], stacked("test"))


def test_checksum(folder):
    found = mini_imagenet.checksum(folder)
    mini_imagenet.classes(folder, sha256=found)
    (folder / "readme.txt").write_text("beside")
    assert mini_imagenet.checksum(folder) == found
    name = next(p for p in sorted(folder.rglob("*")) if p.suffix in (".jpg", ".pkl"))
    name.write_bytes(name.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=f"^{folder} has other contents: sha256 .*; allowed: sha256 {found}"):
        mini_imagenet.classes(folder, sha256=found)


def test_images_of_another_size(tmp_path):
    """Photographs of 168 x 252: the middle square, means of 2 x 2."""
    write_mini_imagenet(tmp_path, by_part(4))
    photograph = np.random.default_rng(1).integers(0, 256, (168, 252, 3)).astype(np.uint8)
    (tmp_path / "images" / "apple0000.jpg").write_bytes(encoded(photograph))
    training, _ = mini_imagenet.classes(tmp_path)
    expected = photograph[:, 42:210].reshape(84, 2, 84, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(training[0, 0], np.rint(expected))
    assert training.shape == (3, 6, 84, 84, 3)


def test_absent(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="miniImageNet: .*none is no folder; set JAXMAML_MINI_IMAGENET to"
    ):
        mini_imagenet.classes(tmp_path / "none")
    with pytest.raises(
        FileNotFoundError, match="mini-imagenet-cache-train.pkl is missing; set .* train.csv, val"
    ):
        mini_imagenet.classes(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train.csv begins with ''; allowed: filename,label and lines like that"),
        ("filename,label\n", "train.csv begins with 'filename,label'; allowed: filename,label and lines"),
        ("a.jpg,apple\n", "train.csv begins with 'a.jpg,apple'; allowed: filename,label"),
        ("filename,label\na.jpg\n", "train.csv has the line 'a.jpg'; allowed: filename,label"),
        (
            "filename,label\na.jpg,apple,x\n",
            "train.csv has the line 'a.jpg,apple,x'; allowed: filename,label",
        ),
        ("filename,label\nnone.jpg,apple\n", "train.csv names 'none.jpg', which .*images lacks; allowed"),
        (
            "filename,label\n../train.csv,apple\n",
            "train.csv names '../train.csv'; allowed: a name in .*images",
        ),
        ("filename,label\nbowl0000.jpg,bowl\n", "has 'bowl' for training and for tests; allowed: once"),
    ],
)
def test_bad_lists(tmp_path, text, message):
    write_mini_imagenet(tmp_path, {"train": {}, "test": {"bowl": IMAGES["test"]["bowl"]}, "val": {}})
    (tmp_path / "train.csv").write_text(text)
    (tmp_path / "val.csv").write_text("filename,label\nbowl0000.jpg,other\n")
    with pytest.raises(ValueError, match=message):
        mini_imagenet.classes(tmp_path)


GOOD = cache(IMAGES["val"])


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([1, 2], "holds list; allowed: a dict of image_data and class_dict"),
        ({"data": 1}, r"holds \['data'\]; allowed: a dict of image_data and class_dict"),
        (GOOD | {"image_data": 3}, r"image_data is int; allowed: \(n, height, width, 3\)"),
        (
            GOOD | {"image_data": GOOD["image_data"][..., :1]},
            r"image_data is \(6, 84, 84, 1\); allowed: \(n,",
        ),
        (GOOD | {"class_dict": {}}, "class_dict is dict; allowed: numbers of images by label"),
        (
            GOOD | {"class_dict": {"shark": [0, 6]}},
            r"class_dict\['shark'\]; allowed: numbers of images, 0 to 5",
        ),
        (
            GOOD | {"class_dict": {"shark": [0, -1]}},
            r"class_dict\['shark'\]; allowed: numbers of images, 0 to",
        ),
        (
            GOOD | {"class_dict": {"shark": [0, 1], "eel": [2]}},
            "class 'shark' has 2 images; allowed: 1, as many",
        ),
        (
            GOOD | {"class_dict": {"shark": [0, 1], "eel": [2, 1]}},
            "class_dict names an image twice; allowed: once",
        ),
    ],
)
def test_bad_caches(tmp_path, held, message):
    path = tmp_path / "mini-imagenet-cache-val.pkl"
    path.write_bytes(pickle.dumps(held))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{message}"):
        mini_imagenet.part(tmp_path, "val")
