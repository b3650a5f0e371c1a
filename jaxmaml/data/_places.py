"""Where the files of a data set are that is not part of the package."""

import os
import pathlib


def folder(what: str, variable: str, path: str | os.PathLike[str] | None, needed: str) -> pathlib.Path:
    """`path`, else the folder that the environment variable names.

    Raises:
      FileNotFoundError: no folder is named, or it is not there; says what to put where.
    """
    where = path or os.environ.get(variable)
    if not where:
        raise FileNotFoundError(f"{what}: no folder is named; set {variable} to one with {needed}")
    if not pathlib.Path(where).is_dir():
        raise FileNotFoundError(f"{what}: {where} is no folder; set {variable} to one with {needed}")
    return pathlib.Path(where)


def present(what: str, variable: str, path: pathlib.Path, needed: str) -> pathlib.Path:
    """The file or folder, which must be there."""
    if not path.exists():
        raise FileNotFoundError(f"{what}: {path} is missing; set {variable} to a folder with {needed}")
    return path


def listed(path: pathlib.Path, most: int = 2**26) -> list[str]:
    """The lines of a text file that hold something."""
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path} has {size} bytes; allowed: at most {most}")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}); allowed: UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def member(root: pathlib.Path, name: str, path: pathlib.Path) -> pathlib.Path:
    """A file or folder in `root` whose name a file `path` gives; nothing outside of it."""
    if name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{path} names {name!r}; allowed: a name in {root}")
    if not (found := root / name).exists():
        raise ValueError(f"{path} names {name!r}, which {root} lacks; allowed: a name in it")
    return found
