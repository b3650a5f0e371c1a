"""Files are whole, sound and one writer's: what is read back is what was written, whoever was killed."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from jaxmaml import storage

# Not forks of this process, in which JAX may run.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["jaxmaml.storage"])


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class TestNamed:
    def test_round_trip(self, tmp_path):
        path = tmp_path / "a" / "x.json"
        storage.write_json(path, {"b": [1, 2]})
        assert storage.read_json(path) == {"b": [1, 2]}
        storage.write_json(path, {"b": 3})
        assert storage.read_json(path) == {"b": 3}
        table = pd.DataFrame({"x": [0.1, np.nan], "y": ["p", "q"]})
        storage.write_table(tmp_path / "t.csv", table)
        pd.testing.assert_frame_equal(storage.read_table(tmp_path / "t.csv"), table)

    def test_sums_are_those_of_sha256sum(self, tmp_path):
        for name in ("one", "two"):
            storage.write(tmp_path / name, name.encode())
        done = subprocess.run(["sha256sum", "-c", storage.SUMS], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == "one: OK\ntwo: OK\n"

    def test_every_flipped_bit_is_noticed(self, tmp_path):
        path = tmp_path / "x"
        storage.write(path, b"some contents")
        for bit in range(8 * 13):
            path.write_bytes(flipped(b"some contents", bit))
            with pytest.raises(storage.Damaged, match="x was changed since it was written"):
                storage.read(path)
        path.write_bytes(b"some contents")
        assert storage.read(path) == b"some contents"

    @pytest.mark.parametrize("damage", ["cut", "nul", "longer", "empty"])
    def test_damage_is_named(self, tmp_path, damage):
        path = tmp_path / "x"
        storage.write(path, b"contents")
        path.write_bytes({"cut": b"conte", "nul": bytes(8), "longer": b"contents\n", "empty": b""}[damage])
        assert not storage.is_sound(path)
        with pytest.raises(storage.Damaged, match="was changed"):
            storage.read(path)

    def test_damaged_sums_know_no_file(self, tmp_path):
        storage.write(tmp_path / "x", b"contents")
        (tmp_path / storage.SUMS).write_bytes(bytes(100))
        with pytest.raises(storage.Damaged, match="x is not listed in SHA256SUMS"):
            storage.read(tmp_path / "x")

    def test_what_others_wrote_is_kept_aside(self, tmp_path):
        path = tmp_path / "x"
        storage.write(path, b"ours")
        for own in (b"theirs", b"theirs again"):
            path.write_bytes(own)
            storage.write(path, b"ours")
            assert storage.read(path) == b"ours"
        assert {p.read_bytes() for p in tmp_path.glob("*.damaged")} == {b"theirs", b"theirs again"}

    def test_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "x.csv"
        storage.write(path, b"old")

        def fail(_):
            raise OSError("disk full")

        monkeypatch.setattr(storage.os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            storage.write(path, b"new and longer")
        assert storage.read(path) == b"old"
        assert not list(tmp_path.glob(".*.part"))

    @pytest.mark.parametrize("call", range(1, 12))
    def test_a_kill_anywhere_leaves_the_old_or_the_new(self, tmp_path, call):
        """The process ends at its n-th rename or fsync."""
        path = tmp_path / "x"
        storage.write(path, b"old")
        process = PROCESSES.Process(target=_killed_at, args=(path, call))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert storage.read(path) in (b"old", b"new")
        storage.write(path, b"newest")
        assert storage.read(path) == b"newest"
        assert not list(tmp_path.glob("*.damaged"))

    def test_abandoned_temporary_files_are_removed(self, tmp_path):
        old, young = tmp_path / ".x.1.part", tmp_path / ".x.2.part"
        for part in (old, young):
            part.write_bytes(b"half")
        os.utime(old, (1, 1))
        storage.write(tmp_path / "x", b"whole")
        assert not old.exists()
        assert young.exists()

    def test_many_writers_and_readers(self, tmp_path):
        """No torn file, no false alarm, no sum lost; the processes have one id, as containers may."""
        writers = [PROCESSES.Process(target=_writes, args=(tmp_path, j)) for j in range(4)]
        for process in writers:
            process.start()
        while any(process.is_alive() for process in writers):
            if (tmp_path / "shared").exists():
                assert set(storage.read(tmp_path / "shared")) <= set(b"0123")
        assert [process.exitcode for process in writers] == [0] * 4
        assert all(storage.read(tmp_path / f"own{j}") == b"24" for j in range(4))


def _killed_at(path, call):
    count = iter(range(1, 100))

    def counted(function):
        def wrapped(*arguments):
            if next(count) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return wrapped

    os.fsync, pathlib.Path.replace = counted(os.fsync), counted(pathlib.Path.replace)
    storage.write(path, b"new")


def _writes(folder, j):
    os.getpid = lambda: 1
    for k in range(25):
        storage.write(folder / "shared", str(j).encode() * 5000)
        storage.write(folder / f"own{j}", str(k).encode())


class TestNamedBySum:
    def test_damaged_files_are_set_aside(self, tmp_path):
        paths = [storage.add(tmp_path, bytes([j]) * 100, ".part.bin") for j in range(3)]
        assert storage.add(tmp_path, bytes(100), ".part.bin") == paths[0]
        paths[1].write_bytes(flipped(paths[1].read_bytes(), 17))
        with pytest.warns(UserWarning, match=f"{paths[1].name} was changed .*set aside"):
            found = dict(storage.sound(tmp_path, ".part.bin"))
        assert sorted(found) == sorted([paths[0], paths[2]])
        assert not paths[1].exists()
        assert dict(storage.sound(tmp_path, ".part.bin")) == found

    def test_writers_of_one_process_id_keep_apart(self, tmp_path, monkeypatch):
        """One writes the same file while the other one is half-way; containers may have equal process ids."""
        fsync, half_way = os.fsync, [True]

        def during(file):
            if half_way:
                half_way.pop()
                storage.add(tmp_path, b"common", ".bin")
            fsync(file)

        monkeypatch.setattr(os, "getpid", lambda: 1)
        monkeypatch.setattr(os, "fsync", during)
        path = storage.add(tmp_path, b"common", ".bin")
        assert dict(storage.sound(tmp_path, ".bin")) == {path: b"common"}
        assert not list(tmp_path.glob(".*.part"))


class TestExclusive:
    PROGRAM = """
import pathlib, sys, time
from jaxmaml import storage
with storage.exclusive(pathlib.Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""

    def test_second_is_told_who_is_first(self, tmp_path):
        with storage.exclusive(tmp_path), storage.exclusive(tmp_path / "other"):
            pass
        words = [sys.executable, "-c", self.PROGRAM, str(tmp_path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
            assert first.stdout.readline() == "mine\n"
            with (
                pytest.raises(storage.Held, match=f"is in use by process {first.pid} on .* since"),
                storage.exclusive(tmp_path),
            ):
                pass
            first.kill()
        with storage.exclusive(tmp_path):  # the lock died with its process
            pass
