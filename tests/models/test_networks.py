"""MLP and Conv4: shapes, the function itself against NumPy, what depends on the batch, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from flax import nnx
from variants import COVERING, EVERY, FULL, build, forward, grouped, labelled, name, program

from jaxmaml import models


def params_of(network, *arguments, **more):
    """Shapes and types of the parameters, without drawing them."""
    return jax.eval_shape(lambda: models.split(network(*arguments, rngs=nnx.Rngs(0), **more))[0])


def count(*arguments, **more):
    return sum(x.size for x in jax.tree.leaves(params_of(*arguments, **more)))


class TestShapes:
    @pytest.mark.parametrize(
        ("expected", "ways", "arguments"),
        [
            # Omniglot: 640 + 3 36,928 in the convolutions, 512 in the norms, 64 ways + ways in the head.
            (112_261, 5, {"pool": "stride"}),
            (113_236, 20, {"pool": "stride"}),
            # Without the norms' scale and bias, 8 of 64 numbers.
            (112_261 - 512, 5, {"pool": "stride", "norm": "none"}),
            # mini-ImageNet, 84 x 84 x 3: 5 x 5 positions are left. 32 channels in Finn et al. 2017.
            (121_093, 5, {"shape": (84, 84, 3)}),
            (32_901, 5, {"shape": (84, 84, 3), "channels": 32}),
            (121_093, 5, {"shape": (84, 84, 3), "norm": "group", "pool": "average"}),
        ],
    )
    def test_parameter_counts_of_the_literature(self, expected, ways, arguments):
        assert count(models.Conv4, ways, **arguments) == expected

    def test_mlp_counts(self):
        assert count(models.MLP, (6, 5, 3)) == 6 * 5 + 5 + 5 * 3 + 3

    @pytest.mark.parametrize("variant", EVERY, ids=name)
    def test_names(self, variant):
        _, params, apply, shape = build(variant)
        assert set(params) == {"body", "head"}
        assert set(params["head"]) == {"bias", "kernel"}
        assert jax.eval_shape(apply, params, jnp.ones((2, *shape))).shape == (2, variants.WAYS)
        if variant[0] != "mlp":
            parts = {"conv"} if variant[0] == "none" else {"conv", "norm"}
            assert [set(params["body"][i]) for i in range(len(params["body"]))] == [parts] * variants.BLOCKS

    @pytest.mark.parametrize("variant", [("mlp", "tanh"), ("none", "tanh", "stride")], ids=name)
    def test_head_is_the_last_layer(self, variant):
        _, params, _, shape = build(variant)
        head = {"kernel": np.zeros_like(params["head"]["kernel"]), "bias": np.arange(3.0) + 7}
        found = program(variant)(params | {"head": head}, np.ones((6, *shape)))[:2]
        np.testing.assert_array_equal(found, [[7, 8, 9], [7, 8, 9]])

    @pytest.mark.parametrize("shape", [(6,), (3, 2), (1, 2, 3)])
    def test_mlp_flattens_behind_the_sample_axis(self, shape):
        _, params, _, _ = build(("mlp", "tanh"))
        apply = program(("mlp", "tanh"))
        x = np.random.default_rng(0).standard_normal((4, 6))
        np.testing.assert_array_equal(apply(params, x.reshape(4, *shape)), apply(params, x))

    def test_mlp_of_one_number_a_sample(self):
        params, apply = models.split(models.MLP((1, 4, 1), rngs=nnx.Rngs(0)))
        assert apply(params, jnp.ones(7)).shape == (7, 1)

    def test_linear_model_has_no_body(self):
        params, apply = models.split(models.MLP((2, 3), rngs=nnx.Rngs(0)))
        assert set(params) == {"head"}
        assert apply(params, jnp.ones((4, 2))).shape == (4, 3)

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    @pytest.mark.parametrize("norm", variants.NORMS)
    def test_param_dtype(self, norm, dtype):
        conv = params_of(models.Conv4, 3, norm=norm, param_dtype=dtype)
        mlp = params_of(models.MLP, (2, 3), param_dtype=dtype)
        assert {x.dtype for x in jax.tree.leaves((conv, mlp))} == {jnp.dtype(dtype)}

    def test_seeds_differ_and_repeat(self):
        kernels = [
            models.split(models.MLP((3, 4, 2), rngs=nnx.Rngs(seed)))[0]["body"][0]["kernel"]
            for seed in (0, 0, 1)
        ]
        np.testing.assert_array_equal(kernels[0], kernels[1])
        assert not np.allclose(kernels[0], kernels[2])


class TestAgainstNumPy:
    # All of one network are of six samples: one program serves most tests.
    @pytest.mark.parametrize("variant", grouped(EVERY + FULL))
    def test_float64(self, variant):
        _, params, _, shape = build(variant, seed=4)
        x, _ = labelled(np.random.default_rng(0), shape, 6)
        found = program(variant)(params, x)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, forward(variant, params, x), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("variant", grouped(COVERING))
    def test_float32(self, variant):
        """Three layers of sums of up to 40 terms: some hundred roundings of 6e-8 each."""
        _, params, _, shape = build(variant, seed=4, dtype=np.float32)
        x, _ = labelled(np.random.default_rng(0), shape, 5, dtype=np.float32)
        found = program(variant)(params, x)
        assert found.dtype == jnp.float32
        expected = forward(variant, params, x)
        assert np.linalg.norm(found - expected) <= 2e-5 * np.linalg.norm(expected)

    @pytest.mark.parametrize("variant", grouped([("task", "softplus", "max"), ("none", "relu", "stride")]))
    def test_lax_convolution_is_the_same_network(self, variant):
        _, params, _, shape = build(variant)
        by_lax = program(variant, convolution="lax")
        x, _ = labelled(np.random.default_rng(0), shape, 6)
        np.testing.assert_allclose(by_lax(params, x), program(variant)(params, x), rtol=1e-12)

    @pytest.mark.parametrize("norm", ["task", "group"])
    def test_norms_far_from_zero(self, norm):
        """Mean 1e3 and deviation 1: in float32 E x^2 - (E x)^2 has no digit left."""
        from jaxmaml.models.conv4 import Block

        block = Block(
            1,
            4,
            norm,
            "tanh",
            "stride",
            groups=2,
            convolution=None,
            rngs=nnx.Rngs(0),
            param_dtype=jnp.float32,
        )
        x = 1e3 + np.random.default_rng(0).standard_normal((3, 8, 8, 4))
        found = jax.jit(block.norm)(np.asarray(x, np.float32))
        # Rounding of x itself: 1e3 6e-8, against a deviation of 1.
        np.testing.assert_allclose(found, variants.normalise(norm, x), atol=1e-3)


@pytest.mark.parametrize("variant", grouped(COVERING))
def test_vmapped_equals_single(variant):
    """Tasks with parameters of their own."""
    _, params, apply, shape = build(variant)
    each = jax.tree.map(lambda x: np.stack([x, 0.5 * np.asarray(x) - 0.1, 2 * np.asarray(x)]), params)
    x = np.asarray(labelled(np.random.default_rng(0), shape, 6, tasks=3)[0])
    together, single = jax.jit(jax.vmap(apply))(each, x), program(variant)
    alone = [single(jax.tree.map(lambda leaf, i=i: leaf[i], each), x[i]) for i in range(3)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-11, atol=1e-12)


class TestTransductive:
    @pytest.mark.parametrize("variant", grouped(COVERING))
    def test_other_samples(self, variant):
        """Outputs depend on the other samples exactly if the network says so, never on their order."""
        module, params, _, shape = build(variant)
        x = np.asarray(labelled(np.random.default_rng(0), shape, 6)[0])
        order = np.array([3, 0, 5, 1, 4, 2])

        def network(x):
            return np.asarray(program(variant)(params, x))

        whole = network(x)
        np.testing.assert_allclose(network(x[order]), whole[order], rtol=1e-11, atol=1e-12)
        # The same number of samples, so that one program serves: the last two are others.
        among = network(np.concatenate([x[:4], 3 * x[4:] + 1]))
        assert module.transductive == (variant[0] == "task")
        if module.transductive:
            assert np.abs(whole[:4] - among[:4]).max() > 1e-3
        else:
            np.testing.assert_allclose(whole[:4], among[:4], rtol=1e-12)

    @pytest.mark.parametrize(
        "variant", grouped([("task", "relu", "max"), ("group", "relu", "max"), ("mlp", "relu")])
    )
    def test_added_samples(self, variant):
        module, params, _, shape = build(variant)
        x = np.asarray(labelled(np.random.default_rng(0), shape, 6)[0])
        alone, among = program(variant)(params, x[:4]), np.asarray(program(variant)(params, x))[:4]
        assert module.transductive != np.allclose(alone, among, rtol=1e-12)

    def test_nothing_is_carried_to_the_next_batch(self):
        make, shape = variants.parts(("task", "tanh", "average"), blocks=1, channels=2, shape=(4, 5, 1))
        module = make(rngs=nnx.Rngs(0))
        params, apply = models.split(module)
        x = np.asarray(labelled(np.random.default_rng(0), shape, 4, dtype=np.float32)[0])
        network = jax.jit(apply)
        before = network(params, x)
        network(params, 5 * x + 3)
        module(5 * x + 3)
        np.testing.assert_array_equal(network(params, x), before)

    def test_scale_of_a_task_is_normalised_away(self):
        """What statistics of the task's own batch are for; only epsilon tells the batches apart."""
        from jaxmaml.models.normalisation import TaskBatchNorm

        norm = jax.jit(TaskBatchNorm(4, epsilon=0.0))
        x = np.random.default_rng(0).standard_normal((3, 5, 6, 4))
        np.testing.assert_allclose(norm(7 * x - 2), norm(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", EVERY, ids=name)
def test_smooth(variant):
    assert build(variant)[0].smooth == variants.smooth(variant)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"norm": "batch"}, "unknown norm 'batch'; known: group, none, task"),
            ({"activation": "reluu"}, "unknown activation 'reluu'; known: .*Did you mean 'relu'"),
            ({"pool": "mean"}, "unknown pool 'mean'; known: average, max, stride"),
            ({"convolution": "fft"}, "unknown convolution 'fft'; known: lax, patches"),
            ({"ways": 0}, "ways = 0; allowed: an integer >= 1"),
            ({"blocks": 0}, "blocks = 0; allowed: an integer >= 1"),
            ({"blocks": 5}, r"shape = \(28, 28, 1\); allowed: .*sides >= 32"),
            ({"channels": 2.5}, "channels = 2.5; allowed: an integer >= 1"),
            ({"norm": "group", "channels": 12}, "groups = 8; allowed: a divisor of channels = 12"),
            ({"shape": (28, 28)}, r"shape = \(28, 28\); allowed: \(height, width, channels\)"),
            ({"shape": (15, 28, 1)}, r"shape = \(15, 28, 1\); allowed: .*sides >= 16 for pool = 'max'"),
            ({"shape": (0, 28, 1), "pool": "stride"}, "sides >= 1 for pool = 'stride'"),
        ],
    )
    def test_conv4(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            models.Conv4(**({"ways": 5} | arguments), rngs=nnx.Rngs(0))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (((3,),), r"sizes = \(3,\); allowed: at least two"),
            (((3, 0, 2),), r"sizes\[1\] = 0; allowed: an integer >= 1"),
            (((3, 2), "tan"), "unknown activation 'tan'; .*Did you mean 'tanh'"),
        ],
    )
    def test_mlp(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            models.MLP(*arguments, rngs=nnx.Rngs(0))

    @pytest.mark.parametrize("shape", [(), (4,), (4, 5), (4, 2, 2)])
    def test_inputs_of_an_mlp(self, shape):
        _, params, apply, _ = build(("mlp", "tanh"))
        with pytest.raises(
            ValueError, match=r"inputs have shape .*allowed: \(n, ...\) with 6 numbers a sample"
        ):
            apply(params, jnp.ones(shape))

    @pytest.mark.parametrize("shape", [(28, 28, 1), (4, 784), (4, 1, 28, 28), (4, 28, 28, 3)])
    def test_images(self, shape):
        network = nnx.eval_shape(lambda: models.Conv4(5, rngs=nnx.Rngs(0)))
        with pytest.raises(ValueError, match=r"images have shape .*allowed: \(n, 28, 28, 1\)"):
            network(jnp.ones(shape))
