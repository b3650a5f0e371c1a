"""Attacks on the readers of files from outside: IDX files, zip files of drawings."""

import gzip
import hashlib
import io
import pathlib
import random
import resource
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from attacks import tools
from jaxmaml.data import _idx, omniglot

MEMORY = 2**29
"""bytes by which the process may grow while it reads damaged files."""
BOMB = 2**22
"""zeros that are packed behind a sound beginning."""


# What is attacked


def idx_bytes(array: np.ndarray) -> bytes:
    """An IDX file, uncompressed."""
    header = bytes([0, 0, _idx.UNSIGNED_BYTE, array.ndim])
    return header + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def drawing(ink: np.ndarray) -> bytes:
    """A PNG file as Omniglot has them: 0 where there is ink, 1 on the paper."""
    file = io.BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert("1").save(file, "PNG")
    return file.getvalue()


def drawings(alphabets: tuple[str, ...], characters: int, each: int) -> dict[str, bytes]:
    """Random ink, by the name of the file in the archive."""
    rng = np.random.default_rng(len(alphabets[0]))
    side = omniglot.PUBLISHED
    return {
        f"set/{alphabet}/character{c:02}/{c:04}_{i:02}.png": drawing(rng.random((side, side)) < 0.3)
        for alphabet in alphabets
        for c in range(1, characters + 1)
        for i in range(1, each + 1)
    }


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def omniglot_folder(folder: pathlib.Path) -> pathlib.Path:
    """The two small sets, with random ink."""
    folder.mkdir(parents=True)
    for name, alphabets in zip(omniglot.SMALL, (("Greek", "Latin"), ("Angelic", "Tifinagh")), strict=True):
        (folder / name).write_bytes(zipped(drawings(alphabets, 4, 20)))
    return folder


def know(folder: pathlib.Path) -> None:
    """Takes the zip files of a folder for the published ones, for as long as this process lasts."""
    for path in folder.glob("*.zip"):
        omniglot.SHA256[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()


def refused_or(read: Callable[[], object], right: Callable[[object], bool], path: pathlib.Path) -> str:
    """A file is read as what it holds, or an error names it."""
    try:
        found = read()
    except ValueError as error:
        return "" if str(path) in str(error) and "allowed" in str(error) else f"{error} does not name {path}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if right(found) else "was read as something else"


def grown() -> int:
    """The most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# Attacks


def damaged_idx_files(folder: pathlib.Path) -> Iterator[str]:
    """An IDX file is damaged, packed or before it was packed, or has a bomb behind it: it is named, or read
    as what it holds, in bounded memory."""
    draw, path, before = random.Random(0), folder / "images.gz", grown()
    array = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    plain = idx_bytes(array)
    packed, total = gzip.compress(plain), hashlib.sha256(plain).hexdigest()
    for trial in range(5000):
        if trial % 2:
            path.write_bytes(tools.flipped(packed, draw))
            yield refused_or(
                lambda: _idx.read(path, (-1, 28, 28), total), lambda found: np.array_equal(found, array), path
            )
            continue
        # Half of the time the header alone, which decides how much is read.
        changed = tools.flipped(plain[:16], draw) + plain[16:] if trial % 4 else tools.flipped(plain, draw)
        if trial % 200 == 0:
            changed = plain + bytes(BOMB)
        path.write_bytes(gzip.compress(changed, 1))
        yield refused_or(
            lambda: _idx.read(path, (-1, 28, 28)),
            lambda found, changed=changed: idx_bytes(found) == changed,
            path,
        )
    yield "" if grown() - before < MEMORY else f"{grown() - before} bytes of memory"


def damaged_zip_files(folder: pathlib.Path) -> Iterator[str]:
    """A zip file of drawings is damaged, or a drawing before it was packed, or a drawing is a bomb: it is
    named, or read as what it holds, in bounded memory."""
    draw, path, before = random.Random(0), folder / "characters.zip", grown()
    files = drawings(("Greek",), 2, 2)
    packed = zipped(files)
    path.write_bytes(packed)
    whole = omniglot.read(path)["Greek"]
    names = sorted(files)
    for trial in range(5000):
        if trial % 2:
            path.write_bytes(tools.flipped(packed, draw))
            yield refused_or(
                lambda: omniglot.read(path),
                lambda found: list(found) == ["Greek"] and np.array_equal(found["Greek"], whole),
                path,
            )
            continue
        name = draw.choice(names)
        changed = tools.flipped(files[name], draw) if trial % 200 else files[name] + bytes(BOMB)
        path.write_bytes(zipped(files | {name: changed}))
        yield refused_or(
            lambda: omniglot.read(path),
            lambda found, name=name: _but_for(found["Greek"], whole, names.index(name)),
            path,
        )
    yield "" if grown() - before < MEMORY else f"{grown() - before} bytes of memory"


def _but_for(found: np.ndarray, whole: np.ndarray, one: int) -> bool:
    """Whether all drawings but one are as they were: what that one holds may be another drawing."""
    if found.shape != whole.shape or found.dtype != whole.dtype:
        return False
    kept = np.arange(whole.shape[0] * whole.shape[1]) != one
    return np.array_equal(*(x.reshape(-1, *whole.shape[2:])[kept] for x in (found, whole)))
