"""Labels: integers or strings, and which of them are for training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmaml.checks import check_nonnegative, check_seed
from jaxmaml.fewshot._arrays import array


def labels(name: str, y: Any) -> np.ndarray:
    """One label a sample, integers or strings, shape (n,); none missing.

    bool and whole floating-point numbers become integers, bytes become text.
    """
    found = array(name, y)
    if found.ndim != 1:
        hint = " (of one-hot rows: y.argmax(axis=1))" if found.ndim == 2 and found.shape[1] > 1 else ""
        raise ValueError(f"{name} has shape {found.shape}; allowed: (n,), a label for each sample{hint}")
    if found.dtype.kind == "O":
        found = _of_objects(name, found)
    if found.dtype.kind == "S":
        found = np.char.decode(found, "utf-8")
    if found.dtype.kind == "f":
        return _whole(name, found)
    if found.dtype.kind not in "biuU":
        raise TypeError(f"{name} has dtype {found.dtype}; allowed: integers or strings")
    if found.dtype.kind == "U" and (found == "").any():
        raise ValueError(f"{name}[{int(np.argmax(found == ''))}] = '': a label is missing; allowed: a label")
    return found.astype(int) if found.dtype.kind == "b" else found


def _of_objects(name: str, found: np.ndarray) -> np.ndarray:
    """As of pandas: all strings, or all integers."""
    for i, label in enumerate(found):
        if not isinstance(label, str | int | np.integer) or isinstance(label, bool):
            raise ValueError(f"{name}[{i}] = {label!r}: no label; allowed: an integer or a string")
    kinds = {isinstance(label, str) for label in found}
    if len(kinds) > 1:
        raise ValueError(f"{name} has both strings and integers; allowed: labels of one kind")
    return found.astype(str if kinds == {True} else np.int64)


def _whole(name: str, found: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(found) | (found != np.rint(found))
    if bad.any():
        i = int(np.argmax(bad))
        missing = ": a label is missing" if np.isnan(found[i]) else ""
        raise ValueError(
            f"{name}[{i}] = {found[i]}{missing}; allowed: integers or strings (for numbers to be predicted: "
            "from_tasks)"
        )
    return found.astype(np.int64)


def partition(
    labels: Sequence[Any] | np.ndarray, shares: Sequence[float] = (0.8, 0.2), seed: int = 0
) -> tuple[list[Any], ...]:
    """Labels in random order, cut into parts that share none, e.g. for training and for tests.

        training, validation, test = partition(y, (64, 16, 20))
        seen, unseen = partition(list(clients), (0.8, 0.2), seed=1)

    Args:
      labels: integers or strings; one that is there often counts once. Names of clients are labels too.
      shares: in proportion to which the labels are shared out, rounded so that the parts add up; > 0.
      seed: of the order; the same labels, in whatever order, and seed give the same parts.

    Returns:
      A sorted list of labels for each share.

    Raises:
      ValueError: labels that are missing, shares that are not > 0, fewer labels than parts, a part that
        would be empty.
    """
    distinct = np.unique(_labels("labels", labels))
    check_seed("seed", seed)
    parts = np.asarray(shares)
    if parts.ndim != 1 or len(parts) == 0:
        raise ValueError(f"shares = {shares!r}; allowed: a number > 0 for each part")
    check_nonnegative("shares", parts)
    if not (parts > 0).all():
        raise ValueError(f"shares = {shares!r}; allowed: numbers > 0")
    ends = np.rint(np.cumsum(parts) / parts.sum() * len(distinct)).astype(int)
    counts = np.diff(ends, prepend=0)
    if not counts.all():
        raise ValueError(
            f"shares = {shares!r} of {len(distinct)} labels give parts of {counts.tolist()}; "
            "allowed: at least one label in each"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    return tuple(np.sort(distinct[part]).tolist() for part in np.split(order, ends[:-1]))


_labels = labels
