"""Clients: a dict {name: (x, y)} of arrays of unequal sizes, or all of them in one array on the device."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml.checks import check_seed
from jaxmaml.types import Array

Samples = Mapping[Hashable, tuple[Any, Any]]
"""{name: (x, y)}, sample axis first."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clients:
    """All samples of all clients; made by `pack`. Arrays are leaves, names and sizes are static."""

    x: Array
    """shape (N, ...): the samples of the first client, of the second, ..."""
    y: Array
    """shape (N, ...)."""
    names: tuple[Hashable, ...] = field(metadata={"static": True})
    sizes: tuple[int, ...] = field(metadata={"static": True})
    """n_i, samples of each; their sum is N."""

    @property
    def offsets(self) -> np.ndarray:
        """Where each client's samples begin, shape (C,)."""
        return np.cumsum((0, *self.sizes[:-1]))

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows of x and y, whether they are the client's), both of shape (C, largest size).

        A client with fewer samples has its last one again, and again.
        """
        place, sizes = np.arange(max(self.sizes)), np.asarray(self.sizes)[:, None]
        return self.offsets[:, None] + np.minimum(place, sizes - 1), place < sizes


def pack(clients: Samples | Clients) -> Clients:
    """The clients on the device, in the order of the dict.

    Raises:
      TypeError: not a dict of pairs.
      ValueError: no client, one without samples, with x and y of different lengths, with samples of another
        shape or kind than the first one's, or with numbers that are not finite; the message names it.
    """
    if isinstance(clients, Clients):
        return clients
    if not isinstance(clients, Mapping):
        raise TypeError(f"clients is {type(clients).__name__}; allowed: a dict {{name: (x, y)}} of arrays")
    if not clients:
        raise ValueError("clients = {}; allowed: at least one client, {name: (x, y)}")
    arrays = {name: _pair(name, pair) for name, pair in clients.items()}
    first = next(iter(arrays))
    for name, pair in arrays.items():
        for part, own, other in zip("xy", pair, arrays[first], strict=True):
            if own.shape[1:] != other.shape[1:]:
                raise ValueError(
                    f"client {name!r}: a sample's {part} has shape {own.shape[1:]}; allowed: "
                    f"{other.shape[1:]}, as in client {first!r}"
                )
            if own.dtype.kind != other.dtype.kind:
                raise ValueError(
                    f"client {name!r}: {part} has dtype {own.dtype}; allowed: like {other.dtype}, as in "
                    f"client {first!r}"
                )
    x, y = (jnp.asarray(np.concatenate(parts)) for parts in zip(*arrays.values(), strict=True))
    return Clients(x, y, tuple(arrays), tuple(len(pair[0]) for pair in arrays.values()))


def _pair(name: Hashable, pair: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"client {name!r} is {type(pair).__name__}; allowed: a pair (x, y) of arrays")
    x, y = map(np.asarray, pair)
    for part, array in (("x", x), ("y", y)):
        if array.ndim == 0 or array.dtype.kind not in "fiub":
            raise ValueError(
                f"client {name!r}: {part} has shape {array.shape} and dtype {array.dtype}; allowed: numbers, "
                "sample axis first"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"client {name!r}: {part} holds numbers that are not finite; allowed: finite")
    if len(x) != len(y) or not len(x):
        raise ValueError(
            f"client {name!r}: x has {len(x)} samples and y {len(y)}; allowed: as many, and at least 1"
        )
    return x, y


def hold_out(clients: Samples, share: float = 0.25, seed: int = 0) -> tuple[Samples, Samples]:
    """(training, test): of each client round(share n_i) samples at random for tests, at least one of each.

    Raises:
      ValueError: share outside (0, 1), or a client with a single sample.
      Further those of `pack`.
    """
    if not isinstance(share, float) or not 0 < share < 1:
        raise ValueError(f"share = {share!r}; allowed: 0 < share < 1")
    check_seed("seed", seed)
    packed = pack(clients)
    rng = np.random.default_rng(seed)
    training, test = {}, {}
    for name, n in zip(packed.names, packed.sizes, strict=True):
        if n < 2:
            raise ValueError(f"client {name!r} has {n} sample; allowed: at least 2, to hold one out")
        order = rng.permutation(n)
        count = min(max(1, round(share * n)), n - 1)
        x, y = map(np.asarray, clients[name])
        training[name], test[name] = ((x[at], y[at]) for at in (order[count:], order[:count]))
    return training, test
