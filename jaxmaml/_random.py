"""Random numbers at the cost of their arithmetic.

A noisy step of a sweep with `jax.random` in their place takes longer, on two cores: with its normals 2 to 5
times as long (JAX 0.10 and 0.12), with its bits 1.1 to 2 times, with its integers 1.2 times (0.10) and as
long (0.12).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def standard_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """N(0, 1) at the default precision, from float32 draws: a law that is normal to 1e-7, at half the bits.

    The draw is flat, because the generator vectorises over the last axis only.
    """
    count = int(np.prod(shape))
    return normal_of_bits(bits(key, count)).astype(float).reshape(shape)


def integers(key: jax.Array, count: int, n: int) -> jax.Array:
    """`count` integers, uniform on 0, ..., n - 1 up to n / 2^32: the high word of 32 random bits times n."""
    if n >= 2**16:
        return jax.random.randint(key, (count,), 0, n)
    drawn = bits(key, count)
    factor = np.uint32(n)
    high = (drawn >> 16) * factor + (((drawn & 0xFFFF) * factor) >> 16)
    return (high >> 16).astype(int)


@functools.partial(jax.jit, static_argnames="count")
def bits(key: jax.Array, count: int) -> jax.Array:
    """`count` uniform uint32: the two halves of the words of jax.random.bits(key, ..., uint64), one after
    the other.

    The same generator, Threefry-2x32 with 20 rounds (Salmon et al., SC 2011), with its rounds unrolled, so
    that they fuse with what uses them: JAX rolls them into a loop on CPU, which makes a noisy step of a sweep
    half as slow again (results/benchmarks.md). Keys of other generators take JAX's own path.
    """
    words = jax.random.key_data(key)
    if words.shape != (2,):
        return jax.random.bits(key, (count,), jnp.uint32)
    counter = jax.lax.iota(jnp.uint32, (count + 1) // 2)
    high, low = _threefry(words[0], words[1], jnp.zeros_like(counter), counter)
    return jnp.concatenate([high, low])[:count]


def _threefry(k0: jax.Array, k1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation)))
        x0 = x0 + keys[(block + 1) % 3]
        x1 = x1 + keys[(block + 2) % 3] + np.uint32(block + 1)
    return x0, x1


def normal_of_bits(bits: jax.Array) -> jax.Array:
    """The standard normal quantile of 32 random bits, float32, finite for every pattern of bits."""
    # 23 random bits as the mantissa of a number in [1, 2), then the odd multiples of 2^-23 in (-1, 1):
    # every step is exact in float32, and the ends, where erf_inv is infinite, are never reached.
    mantissa = jax.lax.bitcast_convert_type((bits >> 9) | jnp.uint32(0x3F800000), jnp.float32)
    uniform = 2 * (mantissa - 1.5) + np.float32(2.0**-23)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)
