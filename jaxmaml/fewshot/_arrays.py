"""A user's arrays, looked at before anything is drawn or compiled."""

import itertools
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmaml.checks import check_nonnegative, check_step_count
from jaxmaml.data.ragged import too_few
from jaxmaml.names import nearest

WHOLE = np.iinfo(np.int32)
"""the integers that a device holds in float32 mode."""
MOST_NAMES = 20
"""names that a message lists."""


def array(name: str, value: Any) -> np.ndarray:
    """`value` as an array with the sample axis first, and at least one sample."""
    try:
        found = np.asarray(value)
    except ValueError as error:  # NumPy's answer to lists of unequal length
        raise ValueError(f"{name} is no array ({error}); allowed: an array, sample axis first") from error
    if found.ndim == 0:
        raise ValueError(f"{name} = {value!r}; allowed: an array, sample axis first")
    if 0 in found.shape:
        raise ValueError(f"{name} has shape {found.shape}: no samples; allowed: at least one number")
    return found


def numbers(name: str, value: Any) -> np.ndarray:
    """Real numbers, all of them finite and none beyond what a device holds."""
    found = array(name, value)
    floating = jnp.issubdtype(found.dtype, jnp.floating)
    if not floating and found.dtype.kind not in "biu":
        raise TypeError(f"{name} has dtype {found.dtype}; allowed: integers, floating point or bool")
    if floating and not np.isfinite(found).all():
        first = np.argwhere(~np.isfinite(found))[0].tolist()
        raise ValueError(f"{name}{first} = {found[tuple(first)]}; allowed: finite numbers")
    if found.dtype.kind in "iu" and not WHOLE.min <= int(found.min()) <= int(found.max()) <= WHOLE.max:
        raise ValueError(
            f"{name} has integers from {found.min()} to {found.max()}; "
            f"allowed: {WHOLE.min} to {WHOLE.max}, or floating point"
        )
    return found


def inputs(name: str, value: Any) -> np.ndarray:
    """Numbers; bytes of shape (n, height, width) are grey images, which get an axis for their one channel."""
    found = numbers(name, value)
    return found[..., None] if found.dtype == np.uint8 and found.ndim == 3 else found


def check_lengths(name: str, other: str, first: Any, second: Any) -> None:
    if len(first) != len(second):
        raise ValueError(
            f"{name} has {len(first)} samples and {other} {len(second)}; allowed: as many of each"
        )


def check_known(kind: str, names: Sequence[Any], known: Sequence[Any]) -> None:
    """Each of the names is known, and is there once; else the nearest one is suggested."""
    among = set(known)
    for name in names:
        if name not in among:
            near = nearest(name, map(str, known)) if isinstance(name, str) else ""
            raise ValueError(f"unknown {kind} {name!r}; known: {listed(known)}.{near}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ValueError(f"{kind} {twice!r} is named twice; allowed: once")


def listed(names: Sequence[Any]) -> str:
    """The first of them, and how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > MOST_NAMES else ""
    return ", ".join(map(repr, names[:MOST_NAMES])) + more


def weights(name: str, given: Any, names: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """A number >= 0 for each of the names, from a mapping, a sequence in their order, or the word "size".

    Shape (len(names),); not all of them 0.
    """
    if isinstance(given, str):
        if given != "size":
            raise ValueError(f'{name} = {given!r}; allowed: "size", numbers, or a dict of numbers by name')
        return np.asarray(sizes)
    if isinstance(given, Mapping):
        check_known(f"name in {name}", list(given), names)
        missing = [n for n in names if n not in given]
        if missing:
            raise ValueError(f"{name} lacks {listed(missing)}; allowed: a number for each of {listed(names)}")
        given = [given[n] for n in names]
    found = np.asarray(given)
    if found.shape != (len(names),):
        raise ValueError(f"{name} has shape {found.shape}; allowed: ({len(names)},), a number for each")
    check_nonnegative(name, found)
    if not found.any():
        raise ValueError(f"{name} are all 0; allowed: at least one > 0")
    return found


def sample_weights(name: str, given: Any, count: int) -> np.ndarray:
    """A number >= 0 for each sample, of the type that it has on the device."""
    found = np.asarray(given)
    if found.shape != (count,):
        raise ValueError(f"{name} has shape {found.shape}; allowed: ({count},), a number for each sample")
    if found.dtype != bool:
        check_nonnegative(name, found)
    return found.astype(jnp.result_type(float))


def batch_sizes(support: int, query: int, hessian: int | None) -> SimpleNamespace:
    """The three sizes; the Hessian batch has that of the support where none is given."""
    hessian = support if hessian is None else hessian
    for name, size in (("support", support), ("query", query), ("hessian", hessian)):
        check_step_count(name, size)
    return SimpleNamespace(support=support, hessian=hessian, query=query)


def kept(
    kind: str,
    names: Sequence[Any],
    counts: Sequence[int],
    batches: SimpleNamespace,
    least: int | None,
    given: np.ndarray | None,
) -> list[int]:
    """The places of the pools that are drawn from: of a weight > 0, and of `least` samples or more.

    Raises:
      ValueError: one of them has too few samples for the three batches; named with its size. None is left.
    """
    if least is not None:
        check_step_count("min_samples", least)
    used = [i for i in range(len(names)) if given is None or given[i] > 0]
    found = [i for i in used if counts[i] >= (least or 0)]
    if not found:
        largest = max(counts[i] for i in used)
        raise ValueError(
            f"min_samples = {least}; allowed: at most {largest}, the samples of the largest {kind}"
        )
    smallest = min(found, key=lambda i: counts[i])
    needed = batches.support + batches.hessian + batches.query
    if counts[smallest] < needed:
        few = sum(counts[i] < needed for i in found)
        raise ValueError(
            f"{too_few(f'{kind} {names[smallest]!r}', counts[smallest], batches)} (too few in {few} of "
            f"{len(found)}; min_samples={needed} leaves these out)"
        )
    return found


def starts(sizes: Sequence[int]) -> np.ndarray:
    """Where each pool begins in the flat arrays, int32."""
    check_step_count("samples", sum(sizes))
    return np.asarray([0, *itertools.accumulate(sizes)][:-1], np.int32)
