"""IDX, the format of MNIST and its kin: two zero bytes, a type, the number of dimensions, their lengths as
big-endian uint32, then the values in C order."""

import contextlib
import gzip
import hashlib
import math
import pathlib
import zlib
from collections.abc import Iterator
from typing import IO, cast

import numpy as np

UNSIGNED_BYTE = 0x08
"""the type that images and labels have, and the only one read here."""
MOST = 2**28
"""bytes of a file, uncompressed; the largest of MNIST has 47 million."""


def read(path: pathlib.Path, shape: tuple[int, ...], sha256: str | None = None) -> np.ndarray:
    """The array of an IDX file of unsigned bytes, plain or, by the ending .gz, compressed.

    Args:
      path: the file.
      shape: the dimensions that it must have; -1 allows any length.
      sha256: of the uncompressed bytes, checked where given: compressed files differ between distributions.

    Raises:
      ValueError: another kind of file, one that is cut short or too long, other dimensions or contents;
        the message names the file, what was found and what is allowed.
    """
    with _opened(path) as file:
        data = file.read(4)
        if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UNSIGNED_BYTE:
            raise ValueError(
                f"{path} begins with the bytes {data[:4].hex(' ') or 'of an empty file'}; allowed: 00 00 08 "
                "and the number of dimensions, an IDX file of unsigned bytes"
            )
        header = 4 + 4 * data[3]
        data += file.read(header - 4)
        if len(data) < header:
            raise ValueError(f"{path} is cut short: {len(data)} bytes; allowed: a header of {header} bytes")
        found = tuple(int(n) for n in np.frombuffer(data, ">u4", data[3], 4))
        if len(found) != len(shape) or any(n not in (-1, m) for m, n in zip(found, shape, strict=True)):
            raise ValueError(f"{path} has dimensions {found}; allowed: {shape}, where -1 is any length")
        expected = header + math.prod(found)
        if expected > MOST:
            raise ValueError(f"{path} has dimensions {found}, {expected} bytes; allowed: {MOST} bytes")
        # A byte more than there should be, and no more: a small file may hold many when uncompressed.
        data += file.read(expected - header + 1)
    if len(data) != expected:
        what = f"cut short: {len(data)}" if len(data) < expected else f"too long: more than {expected}"
        raise ValueError(f"{path} is {what} bytes; allowed: {expected} bytes for dimensions {found}")
    if sha256 is not None and (other := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(
            f"{path} has other contents: sha256 {other} (uncompressed); allowed: sha256 {sha256}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(found)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """The file, uncompressed as it is read."""
    if path.suffix != ".gz":
        with path.open("rb") as plain:
            yield plain
        return
    try:
        with gzip.open(path) as file:
            yield cast(IO[bytes], file)
    except EOFError as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} is cut short: {size} compressed bytes; allowed: a whole gzip file"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); allowed: a gzip file") from error
