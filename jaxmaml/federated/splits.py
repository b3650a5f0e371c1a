"""Labelled data shared out among clients, unequally. Every sample goes to one client at most."""

import numpy as np

from jaxmaml.checks import check_positive, check_seed, check_step_count
from jaxmaml.federated.clients import Samples
from jaxmaml.types import Array

TRIES = 100
"""draws of `dirichlet`, until every client has enough."""


def unequal_classes(x: Array, y: Array, *, clients: int, a: int, seed: int = 0) -> Samples:
    """Half of the clients have a samples of each class of the lower half of the classes; of the others, each
    has a/2 of one of these classes and 2a of one of the upper half.

    With ten classes the first have 5a samples, the others 2.5a. After the experiment of Fallah, Mokhtari,
    Ozdaglar (NeurIPS 2020). Clients 0, 2, ... are of the first kind, 1, 3, ... of the second; their classes
    take turns.

    Args:
      x, y: samples, shape (N, ...), and their classes, integers of shape (N,).
      clients: an even number.
      a: an even number.
      seed: of the samples that each one gets.

    Returns:
      {"0": (x, y), "1": ...}.

    Raises:
      ValueError: labels that do not fit, an odd number of classes or one alone, odd clients or a, or a class
        with too few samples, which is named.
    """
    x, y = _labelled(x, y)
    check_step_count("clients", clients, 2)
    check_step_count("a", a, 2)
    check_seed("seed", seed)
    classes = np.unique(y)
    for name, value in (("clients", clients), ("a", a), ("the number of classes", len(classes))):
        if value % 2:
            raise ValueError(f"{name} = {value}; allowed: an even number")
    lower, upper = np.split(classes, 2)

    def wanted(client: int) -> dict[int, int]:
        turn = client // 2 % len(lower)
        return {lower[turn]: a // 2, upper[turn]: 2 * a} if client % 2 else dict.fromkeys(lower, a)

    needed = {c: sum(wanted(i).get(c, 0) for i in range(clients)) for c in classes}
    for c, count in needed.items():
        if count > (there := int(np.sum(y == c))):
            raise ValueError(
                f"a = {a} and clients = {clients} need {count} samples of class {c}: it has {there}"
            )
    rng = np.random.default_rng(seed)
    left = {c: rng.permutation(np.flatnonzero(y == c)) for c in classes}
    shares = {}
    for client in range(clients):
        rows = []
        for c, count in wanted(client).items():
            rows.append(left[c][:count])
            left[c] = left[c][count:]
        shares[str(client)] = np.concatenate(rows)
    return {name: (x[rows], y[rows]) for name, rows in shares.items()}


def dirichlet(
    x: Array, y: Array, *, clients: int, concentration: float, least: int = 1, seed: int = 0
) -> Samples:
    """The samples of each class in proportions ~ Dirichlet(concentration, ..., concentration).

    A small concentration gives clients with few classes and very unequal sizes, a large one equal clients
    (Hsu, Qi, Brown 2019). Drawn again, up to 100 times, until every client has `least` samples.

    Args and returns as for `unequal_classes`.

    Raises:
      ValueError: labels that do not fit, a concentration that is not > 0, or no draw with enough samples.
    """
    x, y = _labelled(x, y)
    check_step_count("clients", clients)
    check_step_count("least", least)
    check_positive("concentration", concentration)
    check_seed("seed", seed)
    rng = np.random.default_rng(seed)
    for _ in range(TRIES):
        owner = np.empty(len(y), int)
        for c in np.unique(y):
            rows = rng.permutation(np.flatnonzero(y == c))
            ends = np.cumsum(rng.dirichlet(np.full(clients, concentration))) * len(rows)
            owner[rows] = np.minimum(np.searchsorted(ends, np.arange(len(rows)), "right"), clients - 1)
        if np.bincount(owner, minlength=clients).min() >= least:
            return {str(i): (x[owner == i], y[owner == i]) for i in range(clients)}
    raise ValueError(
        f"least = {least} with concentration = {concentration:g}, clients = {clients} and {len(y)} samples: "
        f"none of {TRIES} draws has as many for each client; allowed: fewer, or a larger concentration"
    )


def _labelled(x: Array, y: Array) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if y.ndim != 1 or len(x) != len(y) or not len(y) or y.dtype.kind not in "iu":
        raise ValueError(
            f"x has shape {x.shape}, y shape {y.shape} and dtype {y.dtype}; allowed: a label, an integer, "
            "for each sample, and at least one"
        )
    return x, y
