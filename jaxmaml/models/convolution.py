"""The 3x3 convolution, in a form that is fast when every task has weights of its own."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmaml.names import unknown

METHODS = ("lax", "patches")
LARGE, BLOCK = 2**24, 2**22
"""bytes of patches: above the first they are made for as many images at a time as give the second, which a
core's cache holds. In memory they cost more than the product."""


def conv3x3(x: jax.Array, kernel: jax.Array, stride: int = 1, method: str | None = None) -> jax.Array:
    """y[n, i, j, o] = sum_{a, b, c} x[n, s i + a - p, s j + b - q, c] kernel[a, b, c, o], zero outside.

    The sum runs over a, b = 0, 1, 2 and the channels c. p and q are the "SAME" padding of stride s: 1 for
    s = 1; for s = 2, 0 for an even and 1 for an odd side.

    Args:
      x: shape (n, height, width, c).
      kernel: shape (3, 3, c, o).
      stride: s, 1 or 2.
      method: "lax" is XLA's convolution. "patches" is nine shifted slices and one matrix product: the
        meta-gradient needs kernels that differ between tasks, and XLA's convolution with a task axis on
        the kernel is several times slower than that on CPU. None takes "patches" on CPU, "lax" elsewhere,
        by `jax.default_backend()` while tracing.

    Returns:
      Shape (n, ceil(height / s), ceil(width / s), o).

    Raises:
      ValueError: an unknown method.
    """
    if method is None:
        method = "patches" if jax.default_backend() == "cpu" else "lax"
    if method not in METHODS:
        unknown("convolution", method, METHODS)
    dtype = jnp.promote_types(jnp.result_type(x), kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if method == "lax":
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)
    rows, columns = (-(-side // stride) for side in x.shape[1:3])
    size = x.shape[0] * rows * columns * 9 * x.shape[3] * dtype.itemsize
    if size <= LARGE:
        return _by_patches(x, kernel, stride)
    # Computed again on the way back, so that patches are never kept.
    one = jax.checkpoint(lambda image: _by_patches(image[None], kernel, stride)[0])
    return jax.lax.map(one, x, batch_size=max(1, x.shape[0] * BLOCK // size))


def _by_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    n, height, width, channels = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    edges = [jax.lax.padtype_to_pads((side,), (3,), (stride,), "SAME")[0] for side in (height, width)]
    padded = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    shifted = [
        padded[:, a : a + stride * (rows - 1) + 1 : stride, b : b + stride * (columns - 1) + 1 : stride]
        for a in range(3)
        for b in range(3)
    ]
    patches = jnp.concatenate(shifted, axis=-1).reshape(n * rows * columns, 9 * channels)
    return (patches @ kernel.reshape(9 * channels, -1)).reshape(n, rows, columns, -1)


class Conv3x3(nnx.Module):
    """`conv3x3` with a bias.

    Args:
      inputs, outputs: channels c and o.
      stride, method: as for `conv3x3`.
      rngs: for the kernel, Glorot uniform as in Finn et al. 2017 (code); the bias is zero.
      param_dtype: float32 or float64.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        method: str | None = None,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> None:
        if method is not None and method not in METHODS:
            unknown("convolution", method, METHODS)
        draw = nnx.initializers.glorot_uniform()
        self.kernel = nnx.Param(draw(rngs.params(), (3, 3, inputs, outputs), param_dtype))
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype))
        self.stride = stride
        self.method = method

    def __call__(self, x: jax.Array) -> jax.Array:
        return conv3x3(x, self.kernel[...], self.stride, self.method) + self.bias[...]
