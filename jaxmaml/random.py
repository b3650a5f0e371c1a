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
    if not jax.config.jax_enable_x64:
        return jax.random.normal(key, (count,)).reshape(shape)
    words = jax.random.bits(key, ((count + 1) // 2,), jnp.uint64)
    bits = jax.lax.bitcast_convert_type(words, jnp.uint32).reshape(-1)[:count]
    # 23 random bits as the mantissa of a number in [1, 2), then the centred uniform in (-1, 1).
    mantissa = (bits >> 9) | jnp.uint32(0x3F800000)
    uniform = 2 * jax.lax.bitcast_convert_type(mantissa, jnp.float32) - (3 - 2.0**-23)
    return (np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)).astype(float).reshape(shape)
