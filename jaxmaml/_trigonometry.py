"""sin and cos in float64 at the speed of their arithmetic.

XLA's CPU backend evaluates float64 sines one by one, about 4 times slower than a vectorised polynomial, and
they are most of the cost of a step on the cosine families, which takes 2 to 5 times as long with them (JAX
0.10 and 0.12). Reduction modulo pi in three parts (Cody and
Waite), then a polynomial on [-pi/2, pi/2]: absolute error below 4e-16 for |x| <= 1e5. Other precisions
use jax.numpy.
"""

import math

import jax
import jax.numpy as jnp

# pi in three parts; the first two have 33 bits, so that k times them is exact for |k| < 2^20.
_PI = (
    2 * 1.57079632673412561417e00,
    2 * 6.07710050630396597660e-11,
    2 * 2.02226624879595063154e-21,
)
_TERMS = 11
_COS = [(-1) ** j / math.factorial(2 * j) for j in range(_TERMS)]
_SIN = [(-1) ** j / math.factorial(2 * j + 1) for j in range(_TERMS)]


@jax.custom_jvp
def _cos(x: jax.Array) -> jax.Array:
    """cos x, x in radians, |x| <= 1e5 in float64."""
    if x.dtype != jnp.float64:
        return jnp.cos(x)
    r, sign = _reduce(x)
    return sign * _polynomial(_COS, r * r)


@jax.custom_jvp
def _sin(x: jax.Array) -> jax.Array:
    """sin x, x in radians, |x| <= 1e5 in float64."""
    if x.dtype != jnp.float64:
        return jnp.sin(x)
    r, sign = _reduce(x)
    return sign * r * _polynomial(_SIN, r * r)


@_cos.defjvp
def _cos_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,), (t,) = primals, tangents
    return cos(x), -sin(x) * t


@_sin.defjvp
def _sin_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,), (t,) = primals, tangents
    return sin(x), cos(x) * t


# Under jit, so that a program which calls them many times traces them once a shape.
cos, sin = jax.jit(_cos), jax.jit(_sin)


def _reduce(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """r in [-pi/2, pi/2] and the sign (-1)^k with x = k pi + r."""
    k = jnp.round(x * (1 / math.pi))
    r = x
    for part in _PI:
        r = r - k * part
    # Beyond the range of the reduction (a run that diverges) the result stays bounded.
    return jnp.clip(r, -1.6, 1.6), 1 - 2 * (k - 2 * jnp.floor(k / 2))


def _polynomial(coefficients: list[float], s: jax.Array) -> jax.Array:
    value = jnp.full_like(s, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * s + coefficient
    return value
