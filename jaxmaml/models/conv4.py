"""The four-block convolutional network of the few-shot literature."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmaml.checks import check_step_count
from jaxmaml.models.activations import ACTIVATIONS, SMOOTH, known
from jaxmaml.models.convolution import Conv3x3
from jaxmaml.models.normalisation import EPSILON, TaskBatchNorm
from jaxmaml.names import unknown

NORMS = ("group", "none", "task")
POOLS = ("average", "max", "stride")


class Conv4(nnx.Module):
    """Four blocks (3x3 convolution, normalisation, activation, 2x2 pooling), then one linear layer.

    Sources: Vinyals et al. 2016 (matching networks), Finn et al. 2017 (MAML). The usual network is
    norm = "task", activation = "relu", with pool = "max" for mini-ImageNet and "stride" for Omniglot.

    Smooth (`smooth` is True) with tanh or softplus and pool "average" or "stride": the loss is infinitely
    often differentiable, so that the theory's Assumptions 2 and 3 (Lipschitz gradient and Hessian) hold on
    every bounded set of parameters. With relu or max-pool both fail at the kinks, where the gradient jumps.

    Transductive (`transductive` is True) with norm = "task": the test batch's own statistics are used, and
    a sample's output depends on the other samples of its batch. "group" and "none" are not.
    nnx.BatchNorm is not offered: its running statistics carry one batch, a test batch too, to the next.

    params["head"] is the linear layer, params["body"] the blocks by number, each with "conv" and, unless
    norm = "none", "norm".

    Args:
      ways: outputs, the classes of a task.
      channels: of every block; 64 in both papers, Finn et al. take 32 for mini-ImageNet.
      shape: (height, width, channels) of an image.
      norm: "task" (statistics of the batch, `TaskBatchNorm`), "group" (nnx.GroupNorm) or "none".
      activation: "relu", "softplus" or "tanh".
      pool: "max" or "average" over 2x2, a last odd row or column left out; "stride" is convolution with
        stride 2 in place of pooling, and the mean over the positions that are left (Finn et al., code).
      blocks: fewer for images with sides below 16.
      groups: of norm = "group"; must divide channels.
      convolution: "patches", "lax" or None, see `convolution.conv3x3`; all give the same function.
      rngs: nnx.Rngs(seed).
      param_dtype: float32 or float64.

    Raises:
      ValueError: unknown names, sizes < 1, groups that do not divide channels, images that vanish before
        the last block; at a call, images of another shape.
    """

    def __init__(
        self,
        ways: int,
        channels: int = 64,
        shape: tuple[int, int, int] = (28, 28, 1),
        norm: str = "task",
        activation: str = "relu",
        pool: str = "max",
        *,
        blocks: int = 4,
        groups: int = 8,
        convolution: str | None = None,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> None:
        for name, value in (("ways", ways), ("channels", channels), ("blocks", blocks), ("groups", groups)):
            check_step_count(name, value)
        if norm not in NORMS:
            unknown("norm", norm, NORMS)
        if pool not in POOLS:
            unknown("pool", pool, POOLS)
        if norm == "group" and channels % groups:
            raise ValueError(f"groups = {groups}; allowed: a divisor of channels = {channels}")
        smallest = 1 if pool == "stride" else 2**blocks
        if len(shape) != 3 or min(shape[:2]) < smallest or shape[2] < 1:
            raise ValueError(
                f"shape = {shape!r}; allowed: (height, width, channels), "
                f"sides >= {smallest} for pool = {pool!r}"
            )
        self.shape, self.pool = tuple(shape), pool
        self.norm, self.activation = norm, known(activation)
        self.body = nnx.List(
            Block(
                before,
                channels,
                norm,
                self.activation,
                pool,
                groups=groups,
                convolution=convolution,
                rngs=rngs,
                param_dtype=param_dtype,
            )
            for before in (shape[2], *[channels] * (blocks - 1))
        )
        places = 1 if pool == "stride" else math.prod(side // 2**blocks for side in shape[:2])
        self.head = nnx.Linear(places * channels, ways, param_dtype=param_dtype, rngs=rngs)

    @property
    def smooth(self) -> bool:
        """Whether the loss is smooth in the parameters (Assumption 3 on bounded sets)."""
        return self.activation in SMOOTH and self.pool != "max"

    @property
    def transductive(self) -> bool:
        """Whether a sample's output depends on the other samples of its batch."""
        return self.norm == "task"

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs, shape (n, ways), of images x, shape (n, height, width, channels)."""
        if jnp.ndim(x) != 4 or jnp.shape(x)[1:] != self.shape:
            raise ValueError(
                f"images have shape {jnp.shape(x)}; allowed: (n, {', '.join(map(str, self.shape))})"
            )
        for block in self.body:
            x = block(x)
        if self.pool == "stride":
            return self.head(jnp.mean(x, axis=(1, 2)))
        return self.head(x.reshape(x.shape[0], -1))


class Block(nnx.Module):
    """Convolution, normalisation, activation, pooling; arguments as for `Conv4`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: str,
        activation: str,
        pool: str,
        *,
        groups: int,
        convolution: str | None,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike,
    ) -> None:
        stride = 2 if pool == "stride" else 1
        self.conv = Conv3x3(
            inputs, outputs, stride=stride, method=convolution, rngs=rngs, param_dtype=param_dtype
        )
        if norm == "task":
            self.norm: nnx.Module = TaskBatchNorm(outputs, rngs=rngs, param_dtype=param_dtype)
        elif norm == "group":
            # The fast variance, E x^2 - (E x)^2, loses every digit where the mean is large.
            self.norm = nnx.GroupNorm(
                outputs, groups, epsilon=EPSILON, use_fast_variance=False, rngs=rngs, param_dtype=param_dtype
            )
        self.normalised = norm != "none"
        self.activation, self.pool = activation, pool

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        if self.normalised:
            x = self.norm(x)
        x = ACTIVATIONS[self.activation](x)
        return x if self.pool == "stride" else pool2x2(x, self.pool)


def pool2x2(x: jax.Array, kind: str) -> jax.Array:
    """Maximum or average over 2x2 windows, shape (n, floor(height / 2), floor(width / 2), c).

    The maximum is taken by comparing the four corners, the first of equal ones: second derivatives of
    `reduce_window` have reduced precision on GPUs, those of a maximum over axes share ties among all.
    """
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    (a, b), (c, d) = ([x[:, i:height:2, j:width:2] for j in (0, 1)] for i in (0, 1))
    if kind == "max":
        return _first_maximum(_first_maximum(a, b), _first_maximum(c, d))
    return (a + b + c + d) / 4


def _first_maximum(a: jax.Array, b: jax.Array) -> jax.Array:
    """NaN where either is."""
    return jnp.where((b > a) | jnp.isnan(b), b, a)
