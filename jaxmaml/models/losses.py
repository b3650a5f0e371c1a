"""Losses of a network's outputs, loss(params, (x, y)) -> the mean over the batch.

A batch may have weights of its samples as well, (x, y, weight) with weight_i >= 0 or bools, shape (n,): the
mean is then sum_i weight_i l_i / sum_i weight_i, and NaN where all of them are 0. Samples that only fill up a
batch have weight 0; their x and y must be possible ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmaml import tree
from jaxmaml.checks import check_nonnegative
from jaxmaml.types import Loss, PyTree

Apply = Callable[..., jax.Array]
"""apply(params, x) -> outputs, sample axis first."""


def cross_entropy(apply: Apply) -> Loss:
    """loss(params, (x, y)) = mean_i [log sum_c exp z_ic - z_(i, y_i)],  z = apply(params, x).

    z has shape (n, ways); y, shape (n,), holds integers 0 .. ways - 1; any other label gives NaN. Unit: nats.
    With (x, y, weight) the weighted mean.

    Raises:
      ValueError: by the loss, while tracing, for labels that are no integers or shapes that do not fit;
        outside jit for weights that are negative or not finite.
    """

    def loss(params: PyTree, batch: tuple[Any, ...]) -> jax.Array:
        x, y, *weight = _parts(batch)
        scores = apply(params, x)
        labels = _labels(scores, y)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1, mode="fill")
        # A negative index would count from the end.
        return -_mean(jnp.where(labels[:, None] < 0, jnp.nan, chosen), *weight)

    return loss


def squared_error(apply: Apply) -> Loss:
    """loss(params, (x, y)) = mean over samples and outputs of (apply(params, x) - y)^2.

    Unit: that of y, squared. With (x, y, weight) the weighted mean over samples.

    Raises:
      ValueError: by the loss, while tracing, if y has another shape than the outputs: (n,) beside (n, 1)
        would broadcast to (n, n); weights as for `cross_entropy`.
    """

    def loss(params: PyTree, batch: tuple[Any, ...]) -> jax.Array:
        x, y, *weight = _parts(batch)
        outputs = apply(params, x)
        if jnp.shape(y) != outputs.shape:
            raise ValueError(f"y has shape {jnp.shape(y)}; allowed: {outputs.shape}, that of the outputs")
        return _mean(jnp.square(outputs - y), *weight)

    return loss


def accuracy(apply: Apply) -> Loss:
    """measure(params, (x, y)) = the fraction of samples whose largest output is the labelled one.

    NaN where the largest output of a sample is not known, because an output of it is NaN.
    Shapes, weights and errors as for `cross_entropy`; its derivative is zero.
    """

    def measure(params: PyTree, batch: tuple[Any, ...]) -> jax.Array:
        x, y, *weight = _parts(batch)
        scores = apply(params, x)
        right = jnp.argmax(scores, axis=1) == _labels(scores, y)
        known = ~jnp.isnan(scores).any(axis=1)
        return _mean(jnp.where(known, right.astype(scores.dtype), jnp.nan), *weight)

    return measure


def _parts(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(f"batch has {what}; allowed: (x, y) or (x, y, weight)")
    return tuple(batch)


def _mean(values: jax.Array, weight: Any = None) -> jax.Array:
    """Of values of shape (n, ...) over all axes, the first one weighted."""
    if weight is None:
        return jnp.mean(values)
    if jnp.shape(weight) != values.shape[:1]:
        raise ValueError(
            f"weight has shape {jnp.shape(weight)}; allowed: {values.shape[:1]}, a weight for each sample"
        )
    if jnp.result_type(weight) != jnp.bool_:
        check_nonnegative("weight", weight)
    each = jnp.mean(values.astype(tree.wide(values.dtype)), axis=tuple(range(1, values.ndim)))
    weight = jnp.asarray(weight, each.dtype)
    return (jnp.sum(weight * each) / jnp.sum(weight)).astype(values.dtype)


def _labels(scores: jax.Array, y: Any) -> jax.Array:
    labels = jnp.asarray(y)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"y is {labels.dtype} of shape {labels.shape} beside outputs of shape {scores.shape}; "
            "allowed: integers of shape (n,) beside outputs (n, ways)"
        )
    return labels
