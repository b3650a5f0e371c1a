"""Zip files of characters: small ones built here, sound and damaged, and the published ones."""

import hashlib
import io
import os
import pathlib
import re
import struct
import sys
import zipfile
import zlib

import chex
import numpy as np
import pytest
from PIL import Image

from jaxmaml.data import omniglot
from jaxmaml.data._arrays import area_means

PUBLISHED = pathlib.Path(__file__).resolve().parents[3] / "shared/data/omniglot"
CHARACTERS = ("Beta_(old)/character01", "Beta_(old)/character02", "Alpha/character10", "Alpha/character02")
OTHERS = ("Gamma/character01", "Alpha/character10", "Delta/character01", "Delta/character02")


def png(ink, mode="1"):
    """A drawing as published: 0 where there is ink, 1 on the paper."""
    file = io.BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADER_TOO_SHORT = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(5)) + chunk(b"IEND", b"")


def drawings(seed=0, characters=CHARACTERS):
    """Random ink, 3 drawings a character, by the name of the file in the archive, in an order not sorted."""
    rng = np.random.default_rng(seed)
    return {
        f"some_set/{character}/00{c}_{i:02}.png": rng.random((105, 105)) < 0.3
        for c, character in enumerate(characters)
        for i in reversed(range(3))
    }


def zipped(path, files):
    """A zip file of these contents by name; as in the published ones, folders have entries of their own."""
    folders = {"/".join(name.split("/")[:k]) + "/" for name in files for k in range(1, name.count("/") + 1)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted(folders):
            archive.writestr(folder, b"")
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def files():
    return {name: png(ink) for name, ink in drawings().items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with all four sets, small, whose sums the module takes for the right ones.

    Sets to train on have the alphabets Beta_(old) and Alpha, sets to test on Alpha, Gamma and Delta.
    """
    for seed, name in enumerate(omniglot.SHA256):
        characters = CHARACTERS if name in (omniglot.SMALL[0], omniglot.FULL[0]) else OTHERS
        path = zipped(tmp_path / name, {n: png(ink) for n, ink in drawings(seed, characters).items()})
        monkeypatch.setitem(omniglot.SHA256, name, hashlib.sha256(path.read_bytes()).hexdigest())
    return tmp_path


class TestRead:
    def test_characters_sorted_by_name(self, tmp_path, files):
        alphabets = omniglot.read(zipped(tmp_path / "a.zip", files))
        assert list(alphabets) == ["Alpha", "Beta_(old)"]
        assert all(pixels.shape == (2, 3, 28, 28) for pixels in alphabets.values())
        found = np.concatenate(list(alphabets.values()))
        assert found.dtype == np.uint8
        ink = drawings()
        for c, character in enumerate(sorted(CHARACTERS)):
            names = sorted(name for name in ink if f"/{character}/" in name)
            for i, name in enumerate(names):
                # Rounded to the nearest of the levels.
                assert np.abs(found[c, i] - 255 * area_means(ink[name], 28)).max() <= 0.5

    def test_ink_is_bright(self, tmp_path):
        ink = np.zeros((105, 105), bool)
        ink[:15, 30:60] = True
        files = {f"s/A/character01/{i}.png": png(some) for i, some in enumerate((ink, ~ink))}
        found = omniglot.read(zipped(tmp_path / "a.zip", files))["A"][0]
        # 15 pixels are 4 areas of 3.75.
        expected = np.zeros((28, 28), int)
        expected[:4, 8:16] = 255
        np.testing.assert_array_equal(found, [expected, 255 - expected])

    def test_sum(self, tmp_path, files):
        path = zipped(tmp_path / "a.zip", files)
        total = hashlib.sha256(path.read_bytes()).hexdigest()
        chex.assert_trees_all_equal(omniglot.read(path, total), omniglot.read(path))
        with pytest.raises(ValueError, match=f"{path} has other contents: sha256 {total}; .*{'0' * 64}"):
            omniglot.read(path, "0" * 64)

    @pytest.mark.parametrize("keep", [0, 10, -1, -200])
    def test_cut_short(self, tmp_path, files, keep):
        path = zipped(tmp_path / "a.zip", files)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(
            ValueError, match=f"^{path} is cut short or no zip file .*; allowed: a whole zip file$"
        ):
            omniglot.read(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda files: files.clear(), "holds no file; allowed: <set>/<alphabet>/character<number>/"),
            (
                lambda files: files.update({"some_set/README.txt": b"read me"}),
                "holds 'some_set/README.txt'; allowed: <set>/<alphabet>/character<number>/<drawing>.png",
            ),
            (
                lambda files: files.update({"Alpha/character02/1.png": png(np.eye(105))}),
                "holds 'Alpha/character02/1.png'; allowed: <set>/<alphabet>/character<number>/<drawing>.png",
            ),
            (
                lambda files: files.pop("some_set/Beta_(old)/character01/000_01.png"),
                "holds 2 drawings of some_set/Beta_(old)/character01; allowed: 3, as of the first character",
            ),
        ],
    )
    def test_another_layout(self, tmp_path, files, change, message):
        change(files)
        path = zipped(tmp_path / "a.zip", files)
        with pytest.raises(ValueError, match="^" + re.escape(f"{path} {message}")):
            omniglot.read(path)

    @pytest.mark.parametrize(
        ("drawing", "message"),
        [
            (png(np.eye(100)), "has 100 x 100 pixels of mode '1'; allowed: 105 x 105 of mode '1'"),
            (png(np.eye(105), "L"), "has 105 x 105 pixels of mode 'L'; allowed: 105 x 105 of mode '1'"),
            (b"no image", "is damaged (cannot identify image file"),
            (png(np.eye(105))[:-40], "is damaged ("),
            (HEADER_TOO_SHORT, "is damaged (Truncated IHDR chunk)"),
        ],
        ids=["size", "mode", "no-image", "cut-short", "header"],
    )
    def test_another_image(self, tmp_path, files, drawing, message):
        name = "some_set/Alpha/character10/002_01.png"
        files[name] = drawing
        path = zipped(tmp_path / "a.zip", files)
        with pytest.raises(ValueError, match="^" + re.escape(f"{path}: {name} {message}")) as caught:
            omniglot.read(path)
        assert "\n" not in str(caught.value)

    def test_a_flipped_byte(self, tmp_path, files):
        """In the middle of a compressed drawing: the zip file's own sums tell, also without sha256."""
        path = zipped(tmp_path / "a.zip", files)
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("some_set/Alpha/character02/003_00.png")
        data = bytearray(path.read_bytes())
        where = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
        data[where] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(ValueError, match=re.escape(f"{path}: {info.filename} is damaged (")):
            omniglot.read(path)

    def test_contents_are_known_before_they_are_opened(self, tmp_path, files, monkeypatch):
        path = zipped(tmp_path / "a.zip", files)
        monkeypatch.setattr(zipfile, "ZipFile", None)
        with pytest.raises(ValueError, match="has other contents"):
            omniglot.read(path, "0" * 64)

    def test_a_drawing_that_is_large_when_unpacked(self, tmp_path, files):
        name = "some_set/Alpha/character10/002_01.png"
        files[name] = bytes(2**24)
        path = zipped(tmp_path / "a.zip", files)
        assert path.stat().st_size < 2**17
        with pytest.raises(
            ValueError, match=re.escape(f"{path}: {name} has {2**24} bytes; allowed: at most")
        ):
            omniglot.read(path)

    @pytest.mark.parametrize(
        ("limit", "said"), [("MOST_BYTES", "bytes; allowed: at most 5"), ("MOST_DRAWINGS", "files; allowed:")]
    )
    def test_more_than_is_read(self, tmp_path, files, monkeypatch, limit, said):
        monkeypatch.setattr(omniglot, limit, 5)
        with pytest.raises(ValueError, match=said):
            omniglot.read(zipped(tmp_path / "a.zip", files))

    @pytest.mark.parametrize(
        ("offset", "value", "said"),
        [
            (8, 99, "is damaged .*compression"),  # packed in a way that nobody knows
            (6, 1, "is damaged .*encrypted"),
            (4, 99, "is cut short or no zip file .*version"),
        ],
    )
    def test_a_zip_file_of_another_kind(self, tmp_path, files, offset, value, said):
        """Bytes of the entries, in both their places: method, flags, version."""
        path = zipped(tmp_path / "a.zip", files)
        data = bytearray(path.read_bytes())
        for mark, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
            for at in [m.start() for m in re.finditer(mark, data)]:
                data[at + offset + shift] = value
        path.write_bytes(data)
        with pytest.raises(ValueError, match=said):
            omniglot.read(path)

    def test_without_pillow(self, tmp_path, files, monkeypatch):
        path = zipped(tmp_path / "a.zip", files)
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(ImportError, match="Omniglot needs Pillow: pip install"):
            omniglot.read(path)


class TestClasses:
    @pytest.mark.parametrize("full", [False, True])
    def test_rotations_train_and_new_alphabets_test(self, folder, full):
        training, test = omniglot.classes(folder, full=full)
        names = omniglot.FULL if full else omniglot.SMALL
        first, second = (omniglot.read(folder / name) for name in names)
        unturned = np.concatenate([first["Alpha"], first["Beta_(old)"]])
        assert training.shape == (16, 3, 28, 28)
        for k in range(4):
            np.testing.assert_array_equal(training[4 * k : 4 * k + 4], np.rot90(unturned, k, axes=(2, 3)))
        assert set(second) == {"Alpha", "Delta", "Gamma"}
        np.testing.assert_array_equal(test, np.concatenate([second["Delta"], second["Gamma"]]))

    def test_no_new_alphabet(self, folder, monkeypatch):
        first, second = (folder / name for name in omniglot.SMALL)
        second.write_bytes(first.read_bytes())
        monkeypatch.setitem(omniglot.SHA256, second.name, omniglot.SHA256[first.name])
        with pytest.raises(
            ValueError, match="has the alphabets Alpha, Beta_.old.; allowed: one that .* lacks"
        ):
            omniglot.classes(folder)

    def test_rotations_are_those_of_the_drawings(self, tmp_path):
        """Turning and averaging commute: turned drawings make the same classes."""
        ink = {
            f"s/A/character01/{i}.png": np.random.default_rng(i).random((105, 105)) < 0.4 for i in range(2)
        }
        path = zipped(tmp_path / "a.zip", {name: png(some) for name, some in ink.items()})
        classes = omniglot.with_rotations(omniglot.read(path)["A"])
        assert classes.shape == (4, 2, 28, 28)
        for k, degrees in enumerate((0, 90, 180, 270)):
            turned = {
                name: png(np.asarray(Image.fromarray(some).rotate(degrees))) for name, some in ink.items()
            }
            found = omniglot.read(zipped(tmp_path / f"{k}.zip", turned))["A"][0]
            # Means that end in one half may be rounded either way.
            assert np.abs(found.astype(int) - classes[k]).max() <= 1
            assert np.mean(found != classes[k]) < 0.01

    def test_where_the_files_are_looked_for(self, folder, monkeypatch):
        monkeypatch.setenv(omniglot.VARIABLE, str(folder))
        assert omniglot.classes()[1].shape == (3, 3, 28, 28)
        with pytest.raises(FileNotFoundError, match="/nowhere has no images_background_small1.zip"):
            omniglot.classes("/nowhere")
        monkeypatch.delenv(omniglot.VARIABLE)
        with pytest.raises(FileNotFoundError, match="Omniglot: no folder is named; set JAXMAML_OMNIGLOT"):
            omniglot.classes()

    @pytest.mark.parametrize(("full", "lost"), [(False, 0), (False, 1), (True, 0), (True, 1)])
    def test_absent(self, folder, full, lost):
        names = omniglot.FULL if full else omniglot.SMALL
        (folder / names[lost]).unlink()
        with pytest.raises(FileNotFoundError) as caught:
            omniglot.classes(folder, full=full)
        said = str(caught.value)
        assert "\n" not in said
        assert f"{folder} has no {names[lost]};" in said
        for part in (omniglot.VARIABLE, "brendenlake/omniglot", *names, *(omniglot.SHA256[n] for n in names)):
            assert part in said

    def test_the_sets_are_told_apart(self, folder):
        """One set under the name of another is not taken for it."""
        first, second = (folder / name for name in omniglot.SMALL)
        second.write_bytes(first.read_bytes())
        with pytest.raises(ValueError, match=f"{second} has other contents"):
            omniglot.classes(folder)


@pytest.fixture(scope="module")
def published():
    """The folder of the two small sets; without them a skip that says what to put where."""
    folder = pathlib.Path(os.environ.get(omniglot.VARIABLE) or PUBLISHED)
    try:
        omniglot.classes(folder)
    except FileNotFoundError as absent:
        pytest.skip(str(absent))
    return folder


@pytest.fixture(scope="module")
def small(published):
    return omniglot.classes(published)


class TestPublished:
    def test_shapes(self, small):
        training, test = small
        assert training.shape == (544, 20, 28, 28)
        assert test.shape == (106, 20, 28, 28)
        assert training.dtype == test.dtype == np.uint8

    def test_alphabets(self, published):
        first, second = (omniglot.read(published / name) for name in omniglot.SMALL)
        counts = [{alphabet: len(pixels) for alphabet, pixels in some.items()} for some in (first, second)]
        assert counts == [
            {"Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Korean": 40, "Latin": 26},
            {"Greek": 24, "Japanese_(katakana)": 47, "Latin": 26, "Sanskrit": 42, "Tagalog": 17},
        ]
        # Why those two are left out of the test classes.
        for alphabet in ("Greek", "Latin"):
            np.testing.assert_array_equal(first[alphabet], second[alphabet])

    def test_rotations(self, small):
        training, _ = small
        for k in range(1, 4):
            turned = np.rot90(training[:136], k, axes=(2, 3))
            np.testing.assert_array_equal(training[136 * k : 136 * (k + 1)], turned)
            assert not np.array_equal(turned, training[:136])

    def test_no_drawing_is_in_both(self, small):
        training, test = ({image.tobytes() for image in some.reshape(-1, 28, 28)} for some in small)
        assert not training & test

    def test_thin_bright_strokes(self, small):
        """In every drawing there is ink, on less than half of the page; corners are paper."""
        for pixels in small:
            share = pixels.mean(axis=(2, 3)) / 255
            assert share.min() > 0
            assert share.max() < 0.5
            assert np.median(pixels[:, :, 0, 0]) == 0

    @pytest.mark.parametrize("lost", [slice(-1000, None), slice(1000), slice(500_000, 501_000)])
    def test_cut_short(self, published, tmp_path, lost):
        """Copies without the last, the first and a middle kilobyte."""
        for name in omniglot.SMALL:
            (tmp_path / name).write_bytes((published / name).read_bytes())
        copy = tmp_path / omniglot.SMALL[0]
        damaged = bytearray(copy.read_bytes())
        del damaged[lost]
        copy.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"^{copy} (is cut short or no zip file|has other contents)"):
            omniglot.classes(tmp_path)
