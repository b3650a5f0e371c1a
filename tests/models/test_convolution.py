"""The 3x3 convolution: both methods against nnx.Conv and NumPy, derivatives, the choice by machine."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from flax import nnx

from jaxmaml.models.convolution import METHODS, Conv3x3, conv3x3

SHAPES = [(2, 5, 6, 3), (1, 7, 7, 1), (3, 4, 9, 2), (2, 1, 1, 4), (1, 1, 2, 3), (2, 8, 3, 5)]


def problem(shape, outputs=4, dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape) * 1.7 + 0.4
    kernel = rng.standard_normal((3, 3, shape[-1], outputs)) * 2 - 0.3
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
class TestBothMethods:
    def test_equals_nnx_conv(self, shape, stride, method):
        x, kernel = problem(shape)
        layer = nnx.Conv(shape[-1], 4, (3, 3), stride, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        layer.kernel[...], layer.bias[...] = kernel, jnp.arange(4.0)
        own = Conv3x3(shape[-1], 4, stride=stride, method=method, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        own.kernel[...], own.bias[...] = kernel, jnp.arange(4.0)
        np.testing.assert_allclose(own(x), layer(x), rtol=1e-12, atol=1e-12)

    def test_equals_numpy(self, shape, stride, method):
        x, kernel = problem(shape)
        whole = np.stack([variants.convolve(image, kernel) for image in np.asarray(x)])
        if stride == 2:
            whole = whole[:, 1 - shape[1] % 2 :: 2, 1 - shape[2] % 2 :: 2]
        np.testing.assert_allclose(conv3x3(x, kernel, stride, method), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_derivatives_agree_with_a_kernel_for_each_task(stride):
    """Gradients and Hessian-vector products of a nonlinear function, three tasks under vmap."""
    x, kernel = problem((6, 5, 6, 3))
    x = x.reshape(3, 2, 5, 6, 3)
    kernels = jnp.stack([kernel, kernel * 0.1, kernel - 1]) / 10

    def products(method):
        def f(x, k):
            return jnp.sum(jnp.sin(conv3x3(x, k, stride, method)))

        def product(x, k):
            return jax.jvp(jax.grad(f, (0, 1)), (x, k), (jnp.cos(x), jnp.sin(3 * k)))

        return jax.jit(jax.vmap(product))(x, kernels)

    chex.assert_trees_all_close(products("patches"), products("lax"), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_the_wider_type_wins(method):
    x, kernel = problem((2, 5, 6, 3), dtype=np.float32)
    assert conv3x3(x, kernel, 1, method).dtype == jnp.float32
    assert conv3x3(x, kernel.astype(jnp.float64), 1, method).dtype == jnp.float64
    whole = conv3x3(jnp.ones((1, 4, 4, 3), jnp.uint8), kernel, 1, method)
    np.testing.assert_allclose(whole[0, 1, 1], kernel.sum((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("machine", "uses"), [("cpu", "dot_general"), ("gpu", "conv_general"), ("tpu", "conv_general")]
)
def test_chosen_by_the_machine(monkeypatch, machine, uses):
    monkeypatch.setattr(jax, "default_backend", lambda: machine)
    program = str(jax.make_jaxpr(lambda x, k: conv3x3(x, k))(*problem((2, 5, 6, 3))))
    assert uses in program
    other = {"dot_general": "conv_general", "conv_general": "dot_general"}[uses]
    assert other not in program


def test_unknown_method():
    with pytest.raises(
        ValueError, match="unknown convolution 'patch'; known: lax, patches. Did you mean 'patches'"
    ):
        conv3x3(*problem((2, 5, 6, 3)), 1, "patch")
    with pytest.raises(ValueError, match="unknown convolution 'fft'"):
        Conv3x3(1, 2, method="fft", rngs=nnx.Rngs(0))
