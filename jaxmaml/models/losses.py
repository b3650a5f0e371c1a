"""Losses of a network's outputs, loss(params, (x, y)) -> the mean over the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmaml.types import Loss, PyTree

Apply = Callable[..., jax.Array]
"""apply(params, x) -> outputs, sample axis first."""


def cross_entropy(apply: Apply) -> Loss:
    """loss(params, (x, y)) = mean_i [log sum_c exp z_ic - z_(i, y_i)],  z = apply(params, x).

    z has shape (n, ways); y, shape (n,), holds integers 0 .. ways - 1; any other label gives NaN. Unit: nats.

    Raises:
      ValueError: by the loss, while tracing, for labels that are no integers or shapes that do not fit.
    """

    def loss(params: PyTree, batch: tuple[Any, Any]) -> jax.Array:
        x, y = batch
        scores = apply(params, x)
        labels = _labels(scores, y)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1, mode="fill")
        # A negative index would count from the end.
        return -jnp.mean(jnp.where(labels[:, None] < 0, jnp.nan, chosen))

    return loss


def squared_error(apply: Apply) -> Loss:
    """loss(params, (x, y)) = mean over samples and outputs of (apply(params, x) - y)^2.

    Unit: that of y, squared.

    Raises:
      ValueError: by the loss, while tracing, if y has another shape than the outputs: (n,) beside (n, 1)
        would broadcast to (n, n).
    """

    def loss(params: PyTree, batch: tuple[Any, Any]) -> jax.Array:
        x, y = batch
        outputs = apply(params, x)
        if jnp.shape(y) != outputs.shape:
            raise ValueError(f"y has shape {jnp.shape(y)}; allowed: {outputs.shape}, that of the outputs")
        return jnp.mean(jnp.square(outputs - y))

    return loss


def accuracy(apply: Apply) -> Loss:
    """measure(params, (x, y)) = the fraction of samples whose largest output is the labelled one.

    NaN where the largest output of a sample is not known, because an output of it is NaN.
    Shapes and errors as for `cross_entropy`; its derivative is zero.
    """

    def measure(params: PyTree, batch: tuple[Any, Any]) -> jax.Array:
        x, y = batch
        scores = apply(params, x)
        right = jnp.argmax(scores, axis=1) == _labels(scores, y)
        known = ~jnp.isnan(scores).any(axis=1)
        return jnp.mean(jnp.where(known, right.astype(scores.dtype), jnp.nan))

    return measure


def _labels(scores: jax.Array, y: Any) -> jax.Array:
    labels = jnp.asarray(y)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"y is {labels.dtype} of shape {labels.shape} beside outputs of shape {scores.shape}; "
            "allowed: integers of shape (n,) beside outputs (n, ways)"
        )
    return labels
