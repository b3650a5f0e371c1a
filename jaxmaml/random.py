"""Random numbers at the cost of their random bits."""

import jax
import jax.numpy as jnp
import numpy as np


def standard_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """N(0, 1) at the default precision, from float32 draws.

    In float64 runs too: a law that is normal to 1e-7, at half the bits. `jax.random.normal` spends a
    block of the generator on every 32-bit word; 64-bit words use the whole block, which halves the
    cost of a noisy step (results/benchmarks.md). The draw is flat, because the generator vectorises over
    the last axis only.
    """
    count = int(np.prod(shape))
    if not jax.config.read("jax_enable_x64"):
        return jax.random.normal(key, (count,)).reshape(shape)
    words = jax.random.bits(key, ((count + 1) // 2,), jnp.uint64)
    bits = jax.lax.bitcast_convert_type(words, jnp.uint32).reshape(-1)[:count]
    return normal_of_bits(bits).astype(float).reshape(shape)


def normal_of_bits(bits: jax.Array) -> jax.Array:
    """The standard normal quantile of 32 random bits, float32, finite for every pattern of bits."""
    # 23 random bits as the mantissa of a number in [1, 2), then the odd multiples of 2^-23 in (-1, 1):
    # every step is exact in float32, and the ends, where erf_inv is infinite, are never reached.
    mantissa = jax.lax.bitcast_convert_type((bits >> 9) | jnp.uint32(0x3F800000), jnp.float32)
    uniform = 2 * (mantissa - 1.5) + np.float32(2.0**-23)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)
