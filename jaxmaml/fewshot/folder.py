"""N-way K-shot tasks from a folder of images, one subfolder a class."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmaml.checks import check_step_count
from jaxmaml.data import _pictures
from jaxmaml.data.ragged import ClassTasks
from jaxmaml.fewshot import _arrays
from jaxmaml.fewshot.arrays import from_arrays
from jaxmaml.paths import check_path


def from_folder(
    path: str | os.PathLike[str],
    *,
    size: int,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> ClassTasks:
    """`from_arrays` of `read_folder`: ways, support, query and the other options go to the former.

    To split classes for training and tests by `partition`, read the folder once and call `from_arrays` twice.
    """
    x, y = read_folder(path, size=size, channels=channels, classes=classes)
    return from_arrays(x, y, classes=classes, **options)


def read_folder(
    path: str | os.PathLike[str],
    *,
    size: int,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Images and the names of their subfolders: path/<class>/<image>.png, .jpg, .bmp, .gif, .ppm or .webp.

    Of an image the square in its middle is taken, and of that the means over size x size equal areas.
    Photographs are turned as the camera says, what is transparent lies on white. Files beside the subfolders
    are not read, nor what begins with a dot.

    Args:
      path: the folder.
      size: pixels on a side, as returned.
      channels: 1 (grey), 3 (colour), or None: grey if all images are, else colour.
      classes: the subfolders to read; None: all.

    Returns:
      uint8, shape (n, size, size, channels), and the classes, strings of shape (n,).

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: no subfolder, an unknown class, a subfolder that holds no image or something else, a file
        that cannot be read or is too large; the message names it.
      ImportError: without Pillow (pip install 'jaxmaml[training]').
    """
    check_step_count("size", size, 1, 2**14)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels = {channels!r}; allowed: 1 (grey), 3 (colour) or None (as they are)")
    folder = check_path("path", path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"path = {str(path)!r} is no folder; allowed: a folder with a subfolder a class"
        )
    known = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not known:
        raise ValueError(
            f"path = {str(path)!r} has no subfolder; allowed: a subfolder of images for each class"
        )
    names = known if classes is None else list(classes)
    _arrays.check_known("class", names, known)
    by_class = {name: _pictures.files(pathlib.Path(folder, name)) for name in names}
    images = _pictures.together([p for paths in by_class.values() for p in paths], size, channels)
    return images, np.repeat(names, [len(paths) for paths in by_class.values()])
