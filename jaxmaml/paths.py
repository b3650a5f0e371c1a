"""Places to write to, looked at before the work begins. Imports nothing, so that it is said at once."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

REMEDY = "files that can be read and folders that can be written to (permissions, space left on the disk)"


def check_path(name: str, path: str | os.PathLike[str]) -> pathlib.Path:
    """The path, absolute; it must name something."""
    if not os.fspath(path):
        raise ValueError(f"{name} = ''; allowed: a path")
    if "\0" in os.fspath(path):
        raise ValueError(f"{name} = {path!r}; allowed: a path without null characters")
    return pathlib.Path(path).absolute()


def check_folder(name: str, path: str | os.PathLike[str]) -> None:
    """A folder that can be written to, or that can be made."""
    where = check_path(name, path)
    if where.exists() and not where.is_dir():
        raise ValueError(
            f"{name} = {str(path)!r} is a file; allowed: a folder, or a path where one can be made"
        )
    there = next(parent for parent in (where, *where.parents) if parent.exists())
    _check_writable(name, path, there)


def check_file(name: str, path: str | os.PathLike[str]) -> None:
    """A file that can be written, in a folder that exists."""
    where = check_path(name, path)
    if where.is_dir():
        raise ValueError(f"{name} = {str(path)!r} is a folder; allowed: a file")
    if not where.parent.is_dir():
        raise ValueError(
            f"{name} = {str(path)!r}; allowed: a file in a folder that exists, not {where.parent}"
        )
    # Files are replaced, never changed: what counts is the folder.
    _check_writable(name, path, where.parent)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the file system that name no path (a full disk) name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _check_writable(name: str, path: str | os.PathLike[str], folder: pathlib.Path) -> None:
    """By a file that is made and removed: permissions do not tell of a disk that is mounted read-only."""
    probe = folder / f".writable.{os.urandom(8).hex()}"
    try:
        with probe.open("xb") as file:
            file.write(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        reason = error.strerror or type(error).__name__
        raise ValueError(
            f"{name} = {str(path)!r}: {folder} cannot be written to ({reason}); allowed: {REMEDY}"
        ) from error
