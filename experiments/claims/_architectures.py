"""Small networks whose directions are counted, with the multiplications of their forward pass."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmaml.models import MLP, Conv4, cross_entropy, split
from jaxmaml.types import Episode


class Products(NamedTuple):
    """Multiplications of a forward pass in products of matrices."""

    first: float
    """in the layer whose input is data."""
    weights: float = 0.0
    """in further layers."""
    activations: float = 0.0
    """between activations."""

    @property
    def gradient(self) -> float:
        return 2 * self.first + 3 * self.weights + 3 * self.activations

    def direction(self, method: str) -> float:
        """Gradients in one direction of a method (derived)."""
        separate = 3 * self.first + 8 * self.weights + 9 * self.activations
        shared = 2 * self.first + 6 * self.weights + 6 * self.activations
        product = {"fo_maml": 0.0, "hf_maml": 2 * self.gradient, "maml": separate, "maml_same_batch": shared}
        return 2 + product[method] / self.gradient


class Network(NamedTuple):
    loss: Callable[..., jax.Array]
    params: Any
    episode: Episode
    products: Products


def mlp(width: int = 64, layers: int = 3, samples: int = 128) -> Network:
    """Layers of one width, tanh."""
    module = MLP((width,) * (layers + 1), rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    params, apply = split(module)
    each = samples * width**2
    data = _labelled((samples, width), width)
    return Network(cross_entropy(apply), params, data, Products(each, (layers - 1) * each))


def conv4(channels: int = 8, side: int = 16, ways: int = 5, samples: int = 10) -> Network:
    """Four blocks with stride 2 and tanh: smooth, and quicker to compile than the usual pooling."""
    module = Conv4(
        ways,
        channels,
        (side, side, 1),
        "none",
        "tanh",
        "stride",
        convolution="patches",
        rngs=nnx.Rngs(0),
        param_dtype=jnp.float64,
    )
    params, apply = split(module)
    further = sum(9 * channels**2 * (side // 2**j) ** 2 for j in (2, 3, 4)) + channels * ways
    products = Products(samples * 9 * channels * (side // 2) ** 2, samples * further)
    return Network(cross_entropy(apply), params, _labelled((samples, side, side, 1), ways), products)


def transformer(width: int = 32, heads: int = 2, length: int = 16, sequences: int = 4) -> Network:
    """One causal block between an embedding and a head; as many tokens as the width."""
    rng = np.random.default_rng(0)
    shapes = {"embed": (width, width), "qkv": (width, 3 * width), "out": (width, width)}
    shapes |= {"up": (width, 4 * width), "down": (4 * width, width), "head": (width, width)}
    params = {name: rng.standard_normal(shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}
    causal = np.tril(np.ones((length, length), bool))

    def normalised(x: jax.Array) -> jax.Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)

    def loss(p: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
        x = p["embed"][tokens[:, :-1]]
        parts = jnp.split(normalised(x) @ p["qkv"], 3, axis=-1)
        q, k, v = (y.reshape(*y.shape[:2], heads, -1) for y in parts)
        scores = jnp.einsum("nqhc,nkhc->nhqk", q, k) / math.sqrt(width / heads)
        shares = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
        x = x + jnp.einsum("nhqk,nkhc->nqhc", shares, v).reshape(x.shape) @ p["out"]
        x = x + jax.nn.gelu(normalised(x) @ p["up"]) @ p["down"]
        logits = jax.nn.log_softmax(normalised(x) @ p["head"])
        return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1))

    batches = (rng.integers(0, width, (sequences, length + 1)) for _ in range(3))
    tokens = sequences * length
    # What attends is an embedding, no data; scores and their use are products of activations.
    products = Products(0.0, 13 * tokens * width**2, 2 * tokens * length * width)
    return Network(loss, params, Episode(*batches), products)


def _labelled(shape: tuple[int, ...], classes: int) -> Episode:
    rng = np.random.default_rng(1)
    return Episode(*((rng.standard_normal(shape), rng.integers(0, classes, shape[0])) for _ in range(3)))


NETWORKS = {"MLP": mlp, "Conv4": conv4, "transformer block": transformer}
