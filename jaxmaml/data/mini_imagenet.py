"""Photographs, miniImageNet (Vinyals et al. 2016) with the classes of Ravi and Larochelle (2017).

100 classes of 600 images, 64 for training, 16 for validation and 20 for tests. Two layouts are read:

    train.csv, val.csv, test.csv           filename,label a line, below these two words
    images/<filename>

or the arrays that many keep instead, of which nothing but plain arrays is read (`_pickled`):

    mini-imagenet-cache-train.pkl, -val.pkl, -test.pkl
        {"image_data": uint8 (n, height, width, 3), "class_dict": {label: [number of an image, ...]}}

The data are not part of the package, and no checksum of them was known when this was written: `checksum`
gives that of your copy, to be compared with one from elsewhere, and `sha256` is checked where you give it.
"""

import os
import pathlib
from typing import Any

import numpy as np

from jaxmaml.data import _pickled, _pictures, _places

VARIABLE = "JAXMAML_MINI_IMAGENET"
"""the environment variable that names the folder."""
SIDE, CHANNELS = 84, 3
PARTS = ("train", "val", "test")
LAYOUT = (
    "train.csv, val.csv, test.csv (filename,label) and images/, or "
    "mini-imagenet-cache-train.pkl, -val.pkl, -test.pkl"
)
WHAT = "miniImageNet"


def classes(
    path: str | os.PathLike[str] | None = None, sha256: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The classes for training and those for tests, each sorted by label: uint8, of the whole data set of
    shapes (64, 600, 84, 84, 3) and (20, 600, 84, 84, 3). Those for validation: `part(path, "val")`.

    Images of another size are made square and reduced as in `jaxmaml.fewshot.read_folder`. Where both layouts
    are there, the csv files are read.

    Args:
      path: the folder; else the environment variable JAXMAML_MINI_IMAGENET names it.
      sha256: what `checksum` should give; None: not checked.

    Raises:
      FileNotFoundError: they are not there; says what to put where.
      ValueError: files that cannot be read or have other contents, a class in two parts, classes of unequal
        size, a pickle that would run code.
      ImportError: without Pillow, for images (pip install 'jaxmaml[training]').
    """
    folder = _folder(path)
    _pictures.check_sha256(folder, _every(folder), sha256)
    (train, names), (test, others) = part(folder, "train"), part(folder, "test")
    if both := sorted(set(names) & set(others)):
        raise ValueError(f"{folder} has {both[0]!r} for training and for tests; allowed: once")
    return train, test


def part(path: str | os.PathLike[str] | None, name: str) -> tuple[np.ndarray, list[str]]:
    """(images, labels) of the classes of one part, "train", "val" or "test": uint8, (C, M, 84, 84, 3)."""
    if name not in PARTS:
        raise ValueError(f"name = {name!r}; allowed: {', '.join(PARTS)}")
    folder = _folder(path)
    if _has_lists(folder):
        files = _files(folder, name)
        return _pictures.of_classes(files, SIDE, CHANNELS), list(files)
    return _of_pickle(_cache(folder, name))


def checksum(path: str | os.PathLike[str] | None = None) -> str:
    """sha256 of the lines that `sha256sum` prints for all files that belong to it, sorted by name."""
    folder = _folder(path)
    return _pictures.sha256(folder, _every(folder))


def _folder(path: str | os.PathLike[str] | None) -> pathlib.Path:
    return _places.folder(WHAT, VARIABLE, path, LAYOUT)


def _has_lists(folder: pathlib.Path) -> bool:
    return (folder / "train.csv").exists()


def _list(folder: pathlib.Path, name: str) -> pathlib.Path:
    return _places.present(WHAT, VARIABLE, folder / f"{name}.csv", LAYOUT)


def _cache(folder: pathlib.Path, name: str) -> pathlib.Path:
    return _places.present(WHAT, VARIABLE, folder / f"mini-imagenet-cache-{name}.pkl", LAYOUT)


def _every(folder: pathlib.Path) -> list[pathlib.Path]:
    if not _has_lists(folder):
        return [_cache(folder, name) for name in PARTS]
    images = [p for name in PARTS for some in _files(folder, name).values() for p in some]
    return [*(_list(folder, name) for name in PARTS), *images]


def _files(folder: pathlib.Path, name: str) -> dict[str, list[pathlib.Path]]:
    """The images of one part by label; labels sorted, images as they are listed."""
    path = _list(folder, name)
    images = _places.present(WHAT, VARIABLE, folder / "images", LAYOUT)
    first, *lines = _places.listed(path) or [""]
    if first != "filename,label" or not lines:
        raise ValueError(f"{path} begins with {first[:80]!r}; allowed: filename,label and lines like that")
    found: dict[str, list[pathlib.Path]] = {}
    for line in lines:
        filename, comma, label = line.partition(",")
        if not (filename and comma and label) or "," in label:
            raise ValueError(f"{path} has the line {line[:80]!r}; allowed: filename,label")
        found.setdefault(label, []).append(_places.member(images, filename, path))
    return dict(sorted(found.items()))


def _of_pickle(path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    found = _pickled.read(path)
    if not isinstance(found, dict) or not {"image_data", "class_dict"} <= set(found):
        what = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{path} holds {what}; allowed: a dict of image_data and class_dict")
    pixels, numbers = found["image_data"], found["class_dict"]
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.ndim != 4
        or pixels.shape[3] != CHANNELS
        or not pixels.size
    ):
        shape = getattr(pixels, "shape", type(pixels).__name__)
        raise ValueError(f"{path}: image_data is {shape}; allowed: (n, height, width, {CHANNELS})")
    labels = _checked(path, numbers, len(pixels))
    chosen = np.asarray([numbers[label] for label in labels])
    flat = [_pictures.square(image, SIDE) for image in pixels[chosen.ravel()]]
    return np.stack(flat).reshape(*chosen.shape, SIDE, SIDE, CHANNELS), labels


def _checked(path: pathlib.Path, numbers: Any, count: int) -> list[str]:
    """The labels, sorted: each of as many images, which are there, and belong to no other."""
    if not isinstance(numbers, dict) or not numbers:
        raise ValueError(
            f"{path}: class_dict is {type(numbers).__name__}; allowed: numbers of images by label"
        )
    labels = sorted(numbers, key=str)
    least = numbers[labels[0]]
    for label in labels:
        some = numbers[label]
        if not isinstance(some, list) or not some or not all(type(i) is int and 0 <= i < count for i in some):
            raise ValueError(f"{path}: class_dict[{label!r}]; allowed: numbers of images, 0 to {count - 1}")
        if len(some) != len(least):
            raise ValueError(
                f"{path}: class {label!r} has {len(some)} images; allowed: {len(least)}, as many as "
                f"{labels[0]!r} has"
            )
    every = [i for label in labels for i in numbers[label]]
    if len(set(every)) != len(every):
        raise ValueError(f"{path}: class_dict names an image twice; allowed: once")
    return labels
