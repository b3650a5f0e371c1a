"""A multilayer perceptron."""

import math
from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmaml.checks import check_step_count
from jaxmaml.models.activations import ACTIVATIONS, SMOOTH, known


class MLP(nnx.Module):
    """z = W_K s(... s(W_1 x + b_1) ...) + b_K,  s = tanh, softplus or relu.

    With tanh and softplus the loss is infinitely often differentiable, so that the theory's Assumptions 2
    and 3 (Lipschitz gradient and Hessian) hold on every bounded set of parameters; with relu both fail at
    the kinks, where the gradient jumps. Not transductive: a sample's output depends on that sample alone.

    params["head"] is the last layer, params["body"] the others by number ("body" is absent for two sizes).

    Args:
      sizes: (inputs, hidden ..., outputs).
      activation: "tanh", "softplus" or "relu".
      rngs: nnx.Rngs(seed). Kernels are LeCun normal, biases zero.
      param_dtype: float32 or float64.

    Raises:
      ValueError: fewer than two sizes, a size < 1, an unknown activation; at a call, inputs that do not
        hold sizes[0] numbers a sample.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "tanh",
        *,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> None:
        if len(sizes) < 2:
            raise ValueError(f"sizes = {sizes!r}; allowed: at least two, (inputs, hidden ..., outputs)")
        for index, size in enumerate(sizes):
            check_step_count(f"sizes[{index}]", size)
        layers = [
            nnx.Linear(before, after, param_dtype=param_dtype, rngs=rngs) for before, after in pairwise(sizes)
        ]
        self.body = nnx.List(layers[:-1])
        self.head = layers[-1]
        self.inputs = sizes[0]
        self.activation = known(activation)

    @property
    def smooth(self) -> bool:
        """Whether the loss is smooth in the parameters (Assumption 3 on bounded sets)."""
        return self.activation in SMOOTH

    @property
    def transductive(self) -> bool:
        """Whether a sample's output depends on the other samples of its batch."""
        return False

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs, shape (n, sizes[-1]), of x, shape (n, ...) with sizes[0] numbers a sample."""
        shape = jnp.shape(x)
        if not shape or math.prod(shape[1:]) != self.inputs:
            raise ValueError(
                f"inputs have shape {shape}; allowed: (n, ...) with {self.inputs} numbers a sample"
            )
        hidden = jnp.reshape(x, (shape[0], self.inputs))
        for layer in self.body:
            hidden = ACTIVATIONS[self.activation](layer(hidden))
        return self.head(hidden)
