"""Normalisation without state, by the statistics of the batch at hand."""

import jax
import jax.numpy as jnp
from flax import nnx

EPSILON = 1e-5
"""What is added to a variance (unit of the activations, squared), here and in group normalisation."""


class TaskBatchNorm(nnx.Module):
    """y = scale (x - m) / sqrt(s + epsilon) + bias,  m and s per channel over samples and positions.

    The batch normalisation of the few-shot literature, with the statistics of the batch that is given in
    training and in testing alike (Finn et al. 2017, code). Nothing is carried from one batch to another.

    Transductive: the test batch's own statistics are used, so that a sample's output depends on the other
    samples; say so beside every accuracy, and do not compare it with one that is not. (The TaskNorm of
    Bronskill et al. 2020 is another one, made to avoid that.)

    Args:
      channels: the size of the last axis.
      epsilon: unit of x, squared.
      rngs: not drawn from; every nnx layer takes them.
      param_dtype: float32 or float64.
    """

    def __init__(
        self,
        channels: int,
        *,
        epsilon: float = EPSILON,
        rngs: nnx.Rngs | None = None,  # noqa: ARG002
        param_dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> None:
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Like x, shape (n, ..., channels)."""
        axes = tuple(range(x.ndim - 1))
        centred = x - jnp.mean(x, axis=axes)
        # Of the centred values: E x^2 - (E x)^2 loses every digit where the mean is large.
        variance = jnp.mean(jnp.square(centred), axis=axes)
        return centred * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]
