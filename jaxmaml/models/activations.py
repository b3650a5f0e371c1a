"""Activation functions by name, and which of them the theory covers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmaml.names import unknown

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "relu": jax.nn.relu,
}
SMOOTH = frozenset({"tanh", "softplus"})
"""Infinitely differentiable; the gradient of relu jumps, so Assumption 3 (Lipschitz Hessian) fails."""


def known(name: str) -> str:
    """The name; ValueError with the known names and the nearest one."""
    if name not in ACTIVATIONS:
        unknown("activation", name, ACTIVATIONS)
    return name
