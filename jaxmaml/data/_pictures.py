"""Files of images, read by Pillow within bounds: photographs, drawings, scans, as bytes of one size."""

import hashlib
import io
import os
import pathlib
import struct
import warnings
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxmaml.data._arrays import area_means

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP")
GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's names for what pixels are: those of 8 bits or fewer. What has more would be cut off without a
word."""
MOST_BYTES, MOST_PIXELS = 2**26, 2**26
"""of one file: a small one may hold many pixels."""
MOST = 2**34
"""bytes of all images together, as they are returned."""
IGNORED = ("Thumbs.db", "desktop.ini")
_DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    RuntimeError,
    struct.error,
    zlib.error,
    LookupError,
    TypeError,
    ArithmeticError,
    Warning,  # of too many pixels
)
"""what Pillow's readers raise for files that are not what they say they are."""


def pillow(what: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"{what} needs Pillow: pip install 'jaxmaml[training]'") from error
    return Image


def read(path: str | os.PathLike[str], side: int, channels: int | None = None) -> np.ndarray:
    """An image as bytes, uint8, shape (side, side, channels).

    The square in its middle (of an odd number of pixels too many, one more is cut off below or to the right),
    and of it the means over side x side equal areas, rounded. A photograph is turned as its
    camera says; what is transparent lies on white.

    Args:
      path: the file.
      side: pixels on a side.
      channels: 1 (grey: 0.299 R + 0.587 G + 0.114 B), 3 (red, green, blue), or None: as the file has them.

    Raises:
      ValueError: a file that cannot be read, is too large, or has pixels of more than 8 bits; names it.
      ImportError: without Pillow.
    """
    image_module = pillow("reading images")
    from PIL import ImageOps

    try:
        size = os.stat(path).st_size
        if size > MOST_BYTES:
            raise _Refused(f"has {size} bytes; allowed: at most {MOST_BYTES}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged notes of cameras
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            data = io.BytesIO(pathlib.Path(path).read_bytes())
            with image_module.open(data, formats=FORMATS) as image:
                _check(image)
                grey = channels == 1 or (channels is None and image.mode in GREY)
                pixels = np.asarray(_plain(ImageOps.exif_transpose(image), "L" if grey else "RGB"))
    except _Refused as refused:
        raise ValueError(f"{path} {refused}") from None
    except (*_DAMAGED, image_module.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read ({error}); allowed: an image file") from error
    return square(pixels.reshape(*pixels.shape[:2], -1), side)


class _Refused(Exception):
    """A sound file that is not taken."""


def _check(image: Any) -> None:
    """Before its pixels are unpacked."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise _Refused(f"has {width} x {height} pixels; allowed: at most {MOST_PIXELS} in all")
    if image.mode not in (*GREY, *COLOUR):
        allowed = ", ".join((*GREY, *COLOUR))
        raise _Refused(f"has pixels of mode {image.mode!r}; allowed: {allowed} (at most 8 bits a channel)")


def _plain(image: Any, mode: str) -> Any:
    """In grey or in colour, on white where it is transparent."""
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = image.copy()
        white.paste((255, 255, 255, 255), (0, 0, *image.size))
        white.alpha_composite(image)
        image = white.convert("RGB")
    return image.convert(mode)


def square(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    middle = pixels[top : top + least, left : left + least]
    if least == side:
        return middle
    return np.rint(area_means(middle.transpose(2, 0, 1), side)).astype(np.uint8).transpose(1, 2, 0)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images of a folder, sorted by name; names that begin with a dot are left out.

    Raises:
      ValueError: it holds no image, or something else.
    """
    found = [p for p in sorted(folder.iterdir()) if not (p.name.startswith(".") or p.name in IGNORED)]
    for path in found:
        if not path.is_file() or path.suffix.lower() not in ENDINGS:
            raise ValueError(f"{path} is no image file; allowed: files with the endings {', '.join(ENDINGS)}")
    if not found:
        raise ValueError(f"{folder} holds no image; allowed: files with the endings {', '.join(ENDINGS)}")
    return found


def together(paths: list[pathlib.Path], side: int, channels: int | None = None) -> np.ndarray:
    """All of them as one array, uint8, shape (n, side, side, channels): grey if all of them are."""
    if (size := len(paths) * side**2 * (channels or 3)) > MOST:
        raise ValueError(f"{len(paths)} images of {side} x {side} pixels are {size} bytes; allowed: {MOST}")
    images = [read(path, side, channels) for path in paths]
    most = max(image.shape[2] for image in images)
    return np.stack([image if image.shape[2] == most else np.repeat(image, most, 2) for image in images])


def sha256(root: pathlib.Path, paths: Iterable[pathlib.Path]) -> str:
    """One sum of several files: of the lines that `sha256sum` prints for them, sorted by name."""
    lines = []
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in paths):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_sha256(root: pathlib.Path, paths: Iterable[pathlib.Path], expected: str | None) -> None:
    """Where a sum is given, it must be that of the files."""
    if expected is not None and (found := sha256(root, paths)) != expected:
        raise ValueError(f"{root} has other contents: sha256 {found}; allowed: sha256 {expected}")


def of_classes(paths: dict[str, list[pathlib.Path]], side: int, channels: int) -> np.ndarray:
    """Classes with as many images each, uint8, shape (C, M, side, side, channels)."""
    counts = {name: len(some) for name, some in paths.items()}
    first = next(iter(counts))
    for name, count in counts.items():
        if count != counts[first]:
            raise ValueError(
                f"class {name!r} has {count} images; allowed: {counts[first]}, as many as {first!r} has "
                "(classes of unequal size: jaxmaml.fewshot.from_folder)"
            )
    flat = together([path for some in paths.values() for path in some], side, channels)
    return flat.reshape(len(paths), -1, *flat.shape[1:])
