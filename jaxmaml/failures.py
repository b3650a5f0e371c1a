"""Whose function failed: an error inside a function of the user's own is not one of ours."""

import contextlib
from collections.abc import Iterator


class Failure(Exception):
    """A function of the user's own failed; the cause is what it raised."""


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Whatever is raised inside is a failure of `what`; of the innermost, where such blocks are nested."""
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        raise failure(what, error) from error


def failure(what: str, error: Exception) -> Failure:
    """The failure of `what` by this error, said in one line."""
    said = " ".join(str(error).split())
    return Failure(f"{what} failed: {type(error).__name__}: {said}".removesuffix(": "))
