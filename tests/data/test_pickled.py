"""Arrays are read from a pickle, and nothing in it is run."""

import os
import pickle
import re
import struct

import numpy as np
import pytest

from jaxmaml.data import _pickled

ARRAY = np.random.default_rng(0).integers(0, 256, (3, 4, 2)).astype(np.uint8)
HELD = {"data": ARRAY, "names": {"a": [0, 1], "b": [2]}, "more": (1, 2.5, None, True, "text", b"\xff")}


def read(tmp_path, data):
    path = tmp_path / "arrays.pkl"
    path.write_bytes(data)
    return _pickled.read(path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY), ARRAY[::2]], ids=["C", "F", "strided"])
def test_what_python_3_writes(tmp_path, protocol, array):
    found = read(tmp_path, pickle.dumps(HELD | {"data": array}, protocol))
    np.testing.assert_array_equal(found["data"], array)
    assert found["data"].dtype == np.uint8
    assert found["names"] == HELD["names"]
    assert found["more"] == list(HELD["more"])


def test_what_python_2_writes(tmp_path):
    """Its text is bytes, an array's too: {"data": array of 3} as Python 2.7 with NumPy pickled it."""
    data = (
        b"\x80\x02}q\x01U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00"
        b"\x85U\x01b\x87Rq\x05(K\x01K\x03\x85cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03\x01\xff\x07tbs."
    )
    np.testing.assert_array_equal(read(tmp_path, data)["data"], [1, 255, 7])


class Runs:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_is_run(tmp_path):
    data = pickle.dumps({"data": ARRAY, "x": Runs(str(tmp_path / "made"))})
    with pytest.raises(
        ValueError, match=f"{tmp_path}/arrays.pkl names posix.mkdir, which loading would call; allow"
    ):
        read(tmp_path, data)
    assert not (tmp_path / "made").exists()
    pickle.loads(data)
    assert (tmp_path / "made").exists()


def calling(module, name, *arguments):
    """The pickle of module.name(*arguments)."""
    data = pickle.dumps(arguments, 2)[:-1]
    return data[:2] + f"c{module}\n{name}\n".encode() + data[2:] + b"R."


@pytest.mark.parametrize(
    "data",
    [
        calling("builtins", "eval", "1"),
        calling("numpy", "load", "x"),
        calling("numpy.core.multiarray", "frombuffer", b""),
        calling("jaxmaml.data._pickled", "read", "x"),
        b"\x80\x02\x82\x01.",  # an extension
        pickle.dumps(np.float64(1)),
        pickle.dumps(np.array([None])),
    ],
)
def test_other_names(tmp_path, data):
    with pytest.raises(ValueError, match="arrays.pkl .*allowed: .*arrays of bytes"):
        read(tmp_path, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle",
        pickle.dumps(HELD)[:-40],
        pickle.dumps(ARRAY.astype(np.int16)),
        pickle.dumps(ARRAY > 3),
        pickle.dumps({1, 2}),
        b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"abc.",  # more bytes than there are
        b"\x80\x04r\xff\xff\xff\xff.",  # a place in the memo far away
        b"\x80\x02c_codecs\nencode\n}X\x08\x00\x00\x00__name__X\x01\x00\x00\x00xsb.",  # changes a function
        b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",  # a list in a list in a list ...
    ],
    ids=lambda data: repr(data[:12]),
)
def test_damaged(tmp_path, data):
    with pytest.raises(ValueError, match="^.*arrays.pkl .*allowed: "):
        read(tmp_path, data)


def test_one_list_may_be_there_often(tmp_path):
    """Ten times in a list that is there ten times in a list ..., 10^30 in all."""
    held = [1]
    for _ in range(30):
        held = [held] * 10
    found = read(tmp_path, pickle.dumps(held))
    assert found[9] is found[0]


def test_any_byte_may_be_wrong(tmp_path):
    """It is named, or read as arrays and plain values."""
    sound = pickle.dumps(HELD, 2)
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[rng.integers(len(sound))] = rng.integers(256)
        try:
            read(tmp_path, bytes(damaged))
        except ValueError as error:
            said = str(error)
            assert re.search("arrays.pkl .*allowed: ", said), said
