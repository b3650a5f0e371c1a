"""The networks that the tests run over, and the same networks in NumPy with loops."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.signal import correlate2d

from jaxmaml import Episode, models

NORMS = ("task", "group", "none")
ACTIVATIONS = ("tanh", "softplus", "relu")
POOLS = ("max", "average", "stride")
# Sides 9 -> 4 -> 2 with pooling, 9 -> 5 -> 3 with strides: odd and even ones.
CHANNELS, GROUPS, WAYS, SHAPE, BLOCKS = 4, 2, 3, (9, 10, 2), 2

CONV4 = list(itertools.product(NORMS, ACTIVATIONS, POOLS))
MLPS = [("mlp", activation) for activation in ACTIVATIONS]
EVERY = MLPS + CONV4
# The four blocks of the literature, for a few.
FULL = [("task", "relu", "max", "4"), ("group", "softplus", "average", "4"), ("none", "tanh", "stride", "4")]
# Every pair of a norm, an activation and a pool is in one of these.
COVERING = MLPS + [
    (norm, ACTIVATIONS[(i + j) % 3], pool) for i, norm in enumerate(NORMS) for j, pool in enumerate(POOLS)
]


def name(variant):
    return "-".join(variant)


def parts(variant, **more):
    """(a function that makes the module, shape of a sample)."""
    if variant[0] == "mlp":
        return functools.partial(models.MLP, (6, 5, 4, WAYS), variant[1]), (3, 2)
    size = {"blocks": 4, "shape": (17, 20, 2)} if variant[3:] else {"blocks": BLOCKS, "shape": SHAPE}
    more = {"channels": CHANNELS, "groups": GROUPS} | size | more
    norm, activation, pool = variant[:3]
    make = functools.partial(models.Conv4, WAYS, norm=norm, activation=activation, pool=pool, **more)
    return make, more["shape"]


@functools.cache
def abstract(variant, **more):
    """(module, params, jitted apply, apply), the parameters without values: drawing them compiles a program
    for each shape."""
    make, _ = parts(variant, **more)
    module = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    params, apply = models.split(module)
    return module, params, jax.jit(apply), apply


def build(variant, seed=0, dtype=np.float64, **more):
    """The module, with parameters away from zero and one: (module, params, apply, shape of a sample)."""
    module, params, _, apply = abstract(variant, **more)
    rng = np.random.default_rng(seed)

    def draw(path, x):
        """As at the start (kernels by their inputs, biases 0, scales 1), and moved."""
        kind = path[-1].key
        value = np.full(x.shape, kind == "scale", float)
        if kind == "kernel":
            value = rng.standard_normal(x.shape) / np.sqrt(np.prod(x.shape[:-1]))
        return jnp.asarray(value + 0.3 * rng.standard_normal(x.shape), dtype)

    return module, jax.tree_util.tree_map_with_path(draw, params), apply, parts(variant, **more)[1]


def program(variant, **more):
    """The jitted apply, the same object at each call: tests share what it has compiled."""
    return abstract(variant, **more)[2]


def grouped(some):
    """The variants as parameters of a test; what one of them compiles, one worker compiles for all tests."""
    return [pytest.param(v, marks=pytest.mark.xdist_group("network " + name(v)), id=name(v)) for v in some]


def smooth(variant):
    return "relu" not in variant and "max" not in variant


def labelled(rng, shape, n, tasks=None, dtype=np.float64):
    """Images at a shifted, scaled point with large constant areas, where maxima and relu have ties."""
    lead = (n,) if tasks is None else (tasks, n)
    x = 0.7 * rng.standard_normal((*lead, *shape)) + 0.4
    if len(shape) == 3:
        x[..., : shape[0] // 2, : shape[1] // 2, :] = 0.0
    return jnp.asarray(x, dtype), jnp.asarray(rng.integers(0, WAYS, lead))


def episodes(shape, tasks=2, dtype=np.float64, seed=1):
    """Batches of different sizes: a swapped one cannot go unnoticed."""
    rng = np.random.default_rng(seed)
    return Episode(*(labelled(rng, shape, n, tasks, dtype) for n in (3, 5, 4)))


def forward(variant, params, x):
    """The outputs by NumPy in float64, one image, channel and window at a time."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.asarray(x, np.float64)
    if variant[0] == "mlp":
        hidden = x.reshape(len(x), -1)
        for layer in params["body"].values():
            hidden = activate(variant[1], hidden @ layer["kernel"] + layer["bias"])
        return hidden @ params["head"]["kernel"] + params["head"]["bias"]
    norm, activation, pool, *_ = variant
    for block in params["body"].values():
        x = np.stack([convolve(image, block["conv"]["kernel"]) for image in x]) + block["conv"]["bias"]
        if pool == "stride":
            # "SAME" pads an even side at the end only: there the first window is centred on the second row.
            x = x[:, 1 - x.shape[1] % 2 :: 2, 1 - x.shape[2] % 2 :: 2]
        if norm != "none":
            x = normalise(norm, x) * block["norm"]["scale"] + block["norm"]["bias"]
        x = activate(activation, x)
        if pool != "stride":
            x = windows(x, {"max": np.max, "average": np.mean}[pool])
    hidden = x.mean(axis=(1, 2)) if pool == "stride" else x.reshape(len(x), -1)
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def activate(activation, x):
    return {"tanh": np.tanh, "softplus": lambda v: np.logaddexp(0, v), "relu": lambda v: np.maximum(v, 0)}[
        activation
    ](x)


def convolve(image, kernel):
    """Stride one, zeros outside: (h, w, c), (3, 3, c, o) -> (h, w, o)."""
    inputs, outputs = kernel.shape[2:]
    return np.stack(
        [
            sum(correlate2d(image[..., c], kernel[..., c, o], mode="same") for c in range(inputs))
            for o in range(outputs)
        ],
        axis=-1,
    )


def normalise(norm, x):
    result = np.empty_like(x)
    if norm == "task":
        for c in range(x.shape[-1]):
            result[..., c] = (x[..., c] - x[..., c].mean()) / np.sqrt(x[..., c].var() + 1e-5)
        return result
    size = x.shape[-1] // GROUPS
    for i in range(len(x)):
        for g in range(GROUPS):
            part = x[i, ..., g * size : (g + 1) * size]
            result[i, ..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return result


def windows(x, reduce):
    result = np.empty((len(x), x.shape[1] // 2, x.shape[2] // 2, x.shape[3]))
    for i in range(result.shape[1]):
        for j in range(result.shape[2]):
            result[:, i, j] = reduce(x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], axis=(1, 2))
    return result
