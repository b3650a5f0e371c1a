"""Handwritten characters, Omniglot (Lake, Salakhutdinov, Tenenbaum 2015): 20 drawings of each character.

The published zip files are read as they are, nothing is unpacked to disk. They are not part of the package:
the public repository brendenlake/omniglot has them under python/. Reading them needs Pillow.
"""

import hashlib
import io
import os
import pathlib
import re
import zipfile
import zlib

import numpy as np

from jaxmaml.data import _pictures
from jaxmaml.data._arrays import area_means

VARIABLE = "JAXMAML_OMNIGLOT"
"""the environment variable that names the folder of the zip files."""
PUBLISHED, SIDE = 105, 28
"""pixels on a side, as published and as returned."""
SMALL = ("images_background_small1.zip", "images_background_small2.zip")
FULL = ("images_background.zip", "images_evaluation.zip")
SHA256 = {
    "images_background_small1.zip": "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    "images_background_small2.zip": "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
}
"""those of the full sets as tensorflow/datasets and pytorch/vision list them."""
MOST_BYTES, MOST_DRAWINGS, MOST_OF_A_DRAWING = 2**26, 2**16, 2**16
"""what is read: of a zip file (the largest has 9.5 million bytes and 19,280 drawings), of a drawing (some 200
bytes)."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, SyntaxError, ValueError, RuntimeError)
"""what is raised for a drawing: Pillow reports damage of a PNG as SyntaxError and ValueError too; a member
may be encrypted (RuntimeError), or packed in another way (NotImplementedError, one of these)."""
DRAWING = re.compile(r"[^/]+/[^/]+/character\d+/[^/]+\.png")
LAYOUT = "<set>/<alphabet>/character<number>/<drawing>.png"


def classes(path: str | os.PathLike[str] | None = None, full: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Characters of one set, as they are and turned by 90, 180 and 270 degrees, for training; of another for
    tests, without the alphabets that training has.

    uint8, ink 255 on 0, 28 x 28 means over equal areas. From the two small background sets: shapes
    (544, 20, 28, 28) and (106, 20, 28, 28). The second set has 156 characters, but Greek and Latin, 50 of
    them, are in the first too, drawing for drawing. With `full` from the background and the evaluation set,
    which share no alphabet: 3856 and 659 classes. A turned character is a class of its own, as in Santoro et
    al. (2016). Classes are sorted by alphabet and character within each rotation, drawings by name.

    Args:
      path: the folder with the two zip files; else the environment variable JAXMAML_OMNIGLOT names it.
      full: the full sets instead of the small ones.

    Raises:
      FileNotFoundError: they are not there; says what to put where.
      ValueError: files that are damaged or have another layout, images or contents.
      ImportError: without Pillow (pip install 'jaxmaml[training]').
    """
    names = FULL if full else SMALL
    paths = [_find(path, name, names) for name in names]
    first, second = (read(path, SHA256[path.name]) for path in paths)
    unseen = [pixels for alphabet, pixels in second.items() if alphabet not in first]
    if not unseen:
        raise ValueError(
            f"{paths[1]} has the alphabets {', '.join(second)}; allowed: one that {paths[0]} lacks"
        )
    return with_rotations(np.concatenate(list(first.values()))), np.concatenate(unseen)


def with_rotations(pixels: np.ndarray) -> np.ndarray:
    """(C, M, n, n) -> (4 C, M, n, n): class k C + c is class c turned by 90 k degrees, anticlockwise."""
    return np.concatenate([np.rot90(pixels, k, axes=(2, 3)) for k in range(4)])


def read(path: pathlib.Path, sha256: str | None = None) -> dict[str, np.ndarray]:
    """The characters of one zip file by alphabet, uint8, shape (C, M, 28, 28).

    Args:
      path: the file; its layout is <set>/<alphabet>/character<number>/<drawing>.png.
      sha256: of the file, checked where given.

    Raises:
      ValueError, ImportError: see `classes`; the message names the file, what was found and what is allowed.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{path} has {size} bytes; allowed: at most {MOST_BYTES}")
    data = path.read_bytes()
    if sha256 is not None and (other := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(f"{path} has other contents: sha256 {other}; allowed: sha256 {sha256}")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(
            f"{path} is cut short or no zip file ({size} bytes, {error}); allowed: a whole zip file"
        ) from error
    with archive:
        characters = _characters(path, archive)
        found: dict[str, list[np.ndarray]] = {}
        for character, names in characters.items():
            ink = np.stack([_ink(path, archive, name) for name in names])
            found.setdefault(character.split("/")[1], []).append(_reduced(ink))
    return {alphabet: np.stack(pixels) for alphabet, pixels in found.items()}


def _characters(path: pathlib.Path, archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """The names of the drawings of each character, both sorted."""
    if (count := len(archive.namelist())) > MOST_DRAWINGS:
        raise ValueError(f"{path} holds {count} files; allowed: at most {MOST_DRAWINGS}")
    characters: dict[str, list[str]] = {}
    for name in sorted(name for name in archive.namelist() if not name.endswith("/")):
        if not DRAWING.fullmatch(name):
            raise ValueError(f"{path} holds {name!r}; allowed: {LAYOUT}")
        characters.setdefault(name.rpartition("/")[0], []).append(name)
    if not characters:
        raise ValueError(f"{path} holds no file; allowed: {LAYOUT}")
    count = len(next(iter(characters.values())))
    for character, names in characters.items():
        if len(names) != count:
            raise ValueError(
                f"{path} holds {len(names)} drawings of {character}; "
                f"allowed: {count}, as of the first character"
            )
    return characters


def _ink(path: pathlib.Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Where a drawing has ink, bool, shape (105, 105): its pixels are 0 there, and 1 on the paper."""
    pillow = _pictures.pillow("Omniglot")
    size = archive.getinfo(name).file_size  # what is read of it, whatever it holds
    if size > MOST_OF_A_DRAWING:
        raise ValueError(f"{path}: {name} has {size} bytes; allowed: at most {MOST_OF_A_DRAWING}")
    try:
        with pillow.open(io.BytesIO(archive.read(name)), formats=("PNG",)) as image:
            size, mode = image.size, image.mode
            pixels = np.asarray(image) if size == (PUBLISHED, PUBLISHED) and mode == "1" else None
    except (*_DAMAGED, pillow.DecompressionBombError) as error:
        raise ValueError(f"{path}: {name} is damaged ({error}); allowed: a PNG file") from error
    if pixels is None:
        raise ValueError(
            f"{path}: {name} has {size[0]} x {size[1]} pixels of mode {mode!r}; "
            f"allowed: {PUBLISHED} x {PUBLISHED} of mode '1', black and white"
        )
    return ~pixels


def _reduced(ink: np.ndarray) -> np.ndarray:
    return np.rint(area_means(255 * ink, SIDE)).astype(np.uint8)


def _find(path: str | os.PathLike[str] | None, name: str, needed: tuple[str, ...]) -> pathlib.Path:
    where = path or os.environ.get(VARIABLE)
    if where and (file := pathlib.Path(where) / name).is_file():
        return file
    lacks = f"{where} has no {name}" if where else "no folder is named"
    sums = " and ".join(f"{some} (sha256 {SHA256[some]})" for some in needed)
    raise FileNotFoundError(
        f"Omniglot: {lacks}; set {VARIABLE} to a folder with {sums}, from the public repository "
        "brendenlake/omniglot, folder python"
    )
