"""The 3x3 convolution: both methods against nnx.Conv and NumPy, derivatives, the choice by machine."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from flax import nnx

from jaxmaml.models import convolution
from jaxmaml.models.convolution import METHODS, Conv3x3, conv3x3

SHAPES = [(2, 5, 6, 3), (1, 7, 7, 1), (3, 4, 9, 2), (2, 1, 1, 4), (1, 1, 2, 3), (2, 8, 3, 5)]


def problem(shape, outputs=4, dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape) * 1.7 + 0.4
    kernel = rng.standard_normal((3, 3, shape[-1], outputs)) * 2 - 0.3
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


@functools.cache
def convolved(shape, stride):
    """(by nnx.Conv, by the layer of each method, by the function of each method), in one program."""

    @jax.jit
    def every(x, kernel, bias):
        def through(layer):
            layer.kernel[...], layer.bias[...] = kernel, bias
            return layer(x)

        sizes, more = (shape[-1], 4), {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        return (
            through(nnx.Conv(*sizes, (3, 3), stride, **more)),
            {m: through(Conv3x3(*sizes, stride=stride, method=m, **more)) for m in METHODS},
            {m: conv3x3(x, kernel, stride, m) for m in METHODS},
        )

    return every(*problem(shape), np.arange(4.0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.xdist_group("convolution")
class TestBothMethods:
    def test_equals_nnx_conv(self, shape, stride, method):
        by_nnx, by_layers, _ = convolved(shape, stride)
        np.testing.assert_allclose(by_layers[method], by_nnx, rtol=1e-12, atol=1e-12)

    def test_equals_numpy(self, shape, stride, method):
        x, kernel = problem(shape)
        whole = np.stack([variants.convolve(image, kernel) for image in np.asarray(x)])
        if stride == 2:
            whole = whole[:, 1 - shape[1] % 2 :: 2, 1 - shape[2] % 2 :: 2]
        np.testing.assert_allclose(convolved(shape, stride)[2][method], whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("images", [None, 1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_derivatives_agree_with_a_kernel_for_each_task(stride, images, monkeypatch):
    """Values, gradients and Hessian-vector products of a nonlinear function, three tasks under vmap.

    Also where the patches are those of some of the three images at a time.
    """
    x, kernel = problem((9, 5, 6, 3))
    if images is not None:
        patches = 27 * x.dtype.itemsize * -(-5 // stride) * (6 // stride)
        monkeypatch.setattr(convolution, "LARGE", patches)
        monkeypatch.setattr(convolution, "BLOCK", images * patches)
    x, kernel = np.asarray(x).reshape(3, 3, 5, 6, 3), np.asarray(kernel)
    kernels = np.stack([kernel, kernel * 0.1, kernel - 1]) / 10

    def products(method):
        def f(x, k):
            return jnp.sum(jnp.sin(conv3x3(x, k, stride, method)))

        def product(x, k):
            return conv3x3(x, k, stride, method), jax.jvp(
                jax.grad(f, (0, 1)), (x, k), (jnp.cos(x), jnp.sin(3 * k))
            )

        return jax.jit(jax.vmap(product))(x, kernels)

    chex.assert_trees_all_close(products("patches"), products("lax"), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_the_wider_type_wins(method):
    x, kernel = map(np.asarray, problem((2, 5, 6, 3), dtype=np.float32))
    convolve = jax.jit(lambda x, kernel: conv3x3(x, kernel, 1, method))
    assert jax.eval_shape(convolve, x, kernel).dtype == jnp.float32
    assert jax.eval_shape(convolve, x, kernel.astype(np.float64)).dtype == jnp.float64
    whole = convolve(np.ones((1, 4, 4, 3), np.uint8), kernel)
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
