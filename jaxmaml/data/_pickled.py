"""Arrays in a pickle, without running what is in it.

A pickle is a program: to load it is to call whatever functions it names. Here the few names that a pickle of
plain arrays has stand for the classes below, which keep what they are given and do nothing; any other name
is refused before it is looked up.
"""

import math
import mmap
import pathlib
import pickle
import struct
from typing import Any, ClassVar

import numpy as np

MOST = 2**31
"""bytes of a file; 38 400 images of 84 x 84 pixels are 813 million."""
BYTES = ("u1", "|u1", "uint8")


class _Kept:
    """What was made by a call, and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, ()


class _Array(_Kept):
    """numpy.ndarray: state (version, shape, dtype, Fortran order, bytes), or arguments of `_frombuffer`."""


class _Type(_Kept):
    """numpy.dtype"""


def _text_as_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in old protocols."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding!r}")
    return text.encode("latin1")


_CORES = ("numpy.core.", "numpy._core.")
_NAMES: dict[tuple[str, str], Any] = {
    **{(f"{core}multiarray", "_reconstruct"): lambda *_: _Array() for core in _CORES},
    **{(f"{core}numeric", "_frombuffer"): _Array for core in _CORES},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _text_as_bytes,
}


_InPython: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Reader(_InPython):
    """The one in C makes room for as many values as a few bytes of a pickle ask for."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise _Refused(f"names {module}.{name}, which loading would call") from None

    dispatch: ClassVar[dict[int, Any]] = dict(_InPython.dispatch)

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Kept):
            raise _Refused(f"changes a {type(self.stack[-1]).__name__}")
        self.stack[-1].state = state

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:
        """Without making room for as many as it says there are."""
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(bytes(self.read(min(count, MOST))))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def get_extension(self, code: int) -> Any:
        raise _Refused(f"names the extension {code}, which loading would call")


class _Refused(Exception):
    pass


def read(path: pathlib.Path) -> Any:
    """What the pickle holds: dicts, lists, tuples, numbers and text as they are, arrays of bytes as NumPy's.

    Bytes that are the text of a key become text, as they were in Python 2.

    Raises:
      ValueError: it would call something, is cut short, too large or no pickle; names the file.
    """
    size = path.stat().st_size
    if not 0 < size <= MOST:
        raise ValueError(f"{path} has {size} bytes; allowed: 1 to {MOST}")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _plain(_Reader(data, encoding="bytes").load(), {})
    except _Refused as refused:
        raise ValueError(
            f"{path} {refused}; allowed: arrays of bytes in dicts and lists, which are read without calling "
            "anything"
        ) from None
    except (
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        MemoryError,
        RecursionError,
        AssertionError,
        struct.error,
    ) as error:  # what the reader raises for bytes that are no pickle
        raise ValueError(
            f"{path} is cut short or no pickle of arrays ({type(error).__name__}: {error}); "
            "allowed: dicts and lists with arrays of bytes"
        ) from error


def _plain(found: Any, done: dict[int, Any]) -> Any:
    """Each value once, however often it is there: a short pickle may hold lists of lists without end."""
    if id(found) not in done:
        match found:
            case _Array():
                plain: Any = _array(found)
            case dict():
                plain = {_text(key): _plain(value, done) for key, value in found.items()}
            case list() | tuple():
                plain = [_plain(value, done) for value in found]
            case int() | float() | str() | bytes() | None:
                return found
            case _:
                raise ValueError(f"it holds a {type(found).__name__}")
        done[id(found)] = plain
    return done[id(found)]


def _text(key: Any) -> Any:
    return key.decode("utf-8") if isinstance(key, bytes) else key


def _array(found: _Array) -> np.ndarray:
    if found.state:
        _, shape, dtype, fortran, data = found.state
    else:
        data, dtype, shape, order = found.arguments
        fortran = order == "F"
    if not isinstance(dtype, _Type) or _text(dtype.arguments[0]) not in BYTES:
        raise ValueError("it has an array of another type than uint8")
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    if not (isinstance(data, bytes) and whole and math.prod(shape) == len(data)):
        raise ValueError(f"it has an array of shape {shape!r} with other data than that")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
