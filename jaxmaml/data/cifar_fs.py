"""Small photographs, CIFAR-FS (Bertinetto, Henriques, Torr, Vedaldi 2019): CIFAR-100 for few-shot learning.

100 classes of 600 images, 64 for training, 16 for validation and 20 for tests, in the layout of its authors:

    data/<class>/<image>.png
    splits/bertinetto/train.txt, val.txt, test.txt      a class a line

The data are not part of the package, and no checksum of them was known when this was written: `checksum`
gives that of your copy, to be compared with one from elsewhere, and `sha256` is checked where you give it.
"""

import os
import pathlib

import numpy as np

from jaxmaml.data import _pictures, _places

VARIABLE = "JAXMAML_CIFAR_FS"
"""the environment variable that names the folder."""
SIDE, CHANNELS = 32, 3
PARTS = ("train", "val", "test")
LAYOUT = "data/<class>/<image>.png and splits/bertinetto/train.txt, val.txt, test.txt"
WHAT = "CIFAR-FS"


def classes(
    path: str | os.PathLike[str] | None = None, sha256: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The classes for training and those for tests, each sorted by name: uint8, of the whole data set of
    shapes (64, 600, 32, 32, 3) and (20, 600, 32, 32, 3). Those for validation: `part(path, "val")`.

    Args:
      path: the folder with data/ and splits/; else the environment variable JAXMAML_CIFAR_FS names it.
      sha256: what `checksum` should give; None: not checked.

    Raises:
      FileNotFoundError: they are not there; says what to put where.
      ValueError: files that cannot be read or have other contents, a class in two parts, classes of unequal
        size.
      ImportError: without Pillow (pip install 'jaxmaml[training]').
    """
    folder = _folder(path)
    files = {name: _files(folder, name) for name in PARTS}
    _pictures.check_sha256(folder, _every(folder, files), sha256)
    train, test = (_pictures.of_classes(files[name], SIDE, CHANNELS) for name in ("train", "test"))
    return train, test


def part(path: str | os.PathLike[str] | None, name: str) -> tuple[np.ndarray, list[str]]:
    """(images, names) of the classes of one part, "train", "val" or "test": uint8, (C, M, 32, 32, 3)."""
    if name not in PARTS:
        raise ValueError(f"name = {name!r}; allowed: {', '.join(PARTS)}")
    files = _files(_folder(path), name)
    return _pictures.of_classes(files, SIDE, CHANNELS), list(files)


def checksum(path: str | os.PathLike[str] | None = None) -> str:
    """sha256 of the lines that `sha256sum` prints for all files that belong to it, sorted by name."""
    folder = _folder(path)
    return _pictures.sha256(folder, _every(folder, {name: _files(folder, name) for name in PARTS}))


def _folder(path: str | os.PathLike[str] | None) -> pathlib.Path:
    return _places.folder(WHAT, VARIABLE, path, LAYOUT)


def _list(folder: pathlib.Path, name: str) -> pathlib.Path:
    return _places.present(WHAT, VARIABLE, folder / "splits" / "bertinetto" / f"{name}.txt", LAYOUT)


def _files(folder: pathlib.Path, name: str) -> dict[str, list[pathlib.Path]]:
    """The images of the classes of one part, by class."""
    data = _places.present(WHAT, VARIABLE, folder / "data", LAYOUT)
    lists = {other: _places.listed(_list(folder, other)) for other in PARTS}
    names = lists[name]
    if not names:
        raise ValueError(f"{_list(folder, name)} holds no class; allowed: a class a line")
    for other, theirs in lists.items():
        both = names if other == name else [*set(names), *set(theirs)]
        if twice := [c for c in sorted(set(both)) if both.count(c) > 1]:
            raise ValueError(
                f"{_list(folder, name)} and {_list(folder, other)} hold {twice[0]!r} twice; allowed: once"
            )
    return {c: _pictures.files(_places.member(data, c, _list(folder, name))) for c in sorted(names)}


def _every(folder: pathlib.Path, files: dict[str, dict[str, list[pathlib.Path]]]) -> list[pathlib.Path]:
    images = [path for of_part in files.values() for paths in of_part.values() for path in paths]
    return [*images, *(_list(folder, name) for name in PARTS)]
