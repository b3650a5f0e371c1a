"""An nnx module as a pure function: parameters by name, every transformation, and no state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from flax import nnx

from jaxmaml import (
    Episode,
    InnerLoop,
    estimators,
    fo_maml,
    maml,
    maml_same_batch,
    meta_gradient,
    models,
)
from jaxmaml.models import split

pytestmark = pytest.mark.recorded


class Constant(nnx.Variable):
    """A kind of variable that is no parameter."""


class Network(nnx.Module):
    """Two layers, a list, a shared kernel, a constant."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.more = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs)])
        self.tied = self.more[0]
        self.shift = Constant(jnp.array([0.3, -0.2, 0.1, 2.0]))
        self.rngs = rngs

    def __call__(self, x, scale=1.0):
        hidden = jnp.tanh(self.first(x)) + self.shift[...]
        for layer in self.more:
            hidden = layer(hidden)
        return scale * self.tied(hidden)


def by_hand(p, x, scale=1.0):
    hidden = jnp.tanh(x @ p["first"]["kernel"] + p["first"]["bias"]) + jnp.array([0.3, -0.2, 0.1, 2.0])
    hidden = hidden @ p["more"][0]["kernel"] + p["more"][0]["bias"]
    mean, variance = hidden.mean(-1, keepdims=True), hidden.var(-1, keepdims=True)
    hidden = (hidden - mean) / jnp.sqrt(variance + 1e-6) * p["more"][1]["scale"] + p["more"][1]["bias"]
    return scale * (hidden @ p["more"][0]["kernel"] + p["more"][0]["bias"])


def problem():
    params, apply = split(Network(nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(x + 0.2 * rng.standard_normal(x.shape)), params)
    return params, apply, jnp.asarray(rng.standard_normal((5, 3)) * 1.3 + 0.2)


def test_params_are_plain_dicts_of_arrays_by_name():
    params, _, _ = problem()
    shapes = jax.tree.map(jnp.shape, params)
    linear = {"kernel": (4, 4), "bias": (4,)}
    assert shapes == {
        "first": {"kernel": (3, 4), "bias": (4,)},
        "more": {0: linear, 1: {"scale": (4,), "bias": (4,)}},
    }
    assert type(params) is type(params["more"]) is dict
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))


def test_values_are_those_of_the_module():
    module = Network(nnx.Rngs(0))
    params, apply = split(module)
    x = jnp.ones((2, 3), jnp.float32)
    np.testing.assert_array_equal(apply(params, x), module(x))
    np.testing.assert_array_equal(params["first"]["kernel"], module.first.kernel[...])
    # The module itself stays as it was, and is not read again.
    apply(jax.tree.map(jnp.zeros_like, params), x)
    np.testing.assert_array_equal(params["first"]["kernel"], module.first.kernel[...])
    before = apply(params, x)
    module.first.kernel[...] = jnp.zeros((3, 4), jnp.float32)
    np.testing.assert_array_equal(apply(params, x), before)


def test_several_inputs():
    params, apply, x = problem()
    once, thrice = jax.jit(lambda p, x: (apply(p, x), apply(p, x, 3.0)))(params, x)
    np.testing.assert_allclose(thrice, 3 * np.asarray(once), rtol=1e-14)


def test_every_transformation():
    """Against the same function by hand, which never saw a module."""
    params, apply, x = problem()
    tangent = jax.tree.map(np.cos, params)

    def measure(f):
        def loss(p):
            return jnp.mean(f(p, x) ** 3)

        gradient, product = jax.linearize(jax.grad(loss), params)
        walked, _ = jax.lax.scan(
            lambda p, _: (jax.tree.map(lambda a, b: a - 0.01 * b, p, jax.grad(loss)(p)), None),
            params,
            length=3,
        )
        stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
        return {
            "value": loss(params),
            "jit": jax.jit(f)(params, x),
            "grad": gradient,
            "linearize": product(tangent),
            "jvp": jax.jvp(jax.grad(loss), (params,), (tangent,))[1],
            "reverse over reverse": jax.grad(
                lambda p: sum(
                    jnp.sum(g * t)
                    for g, t in zip(jax.tree.leaves(jax.grad(loss)(p)), jax.tree.leaves(tangent), strict=True)
                )
            )(params),
            "vmap": jax.vmap(f, (0, None))(stacked, x),
            "scan": walked,
            "checkpoint": jax.grad(jax.checkpoint(loss))(params),
        }

    found, expected = jax.jit(lambda: (measure(apply), measure(by_hand)))()
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-11)


class Layers(nnx.Module):
    def __init__(self, layer, rngs):
        self.first, self.layer = nnx.Linear(3, 4, rngs=rngs), layer(rngs)

    def __call__(self, x):
        return self.layer(self.first(x))


@pytest.mark.parametrize("how", ["plain", "jit", "vmap", "grad", "scan"])
class TestState:
    def call(self, how, layer):
        params, apply = split(Layers(layer, nnx.Rngs(0)))
        x = jnp.ones((2, 5, 3), jnp.float32)
        {
            "plain": lambda: apply(params, x),
            "jit": lambda: jax.jit(apply)(params, x),
            "vmap": lambda: jax.vmap(apply, (None, 0))(params, x),
            "grad": lambda: jax.grad(lambda p: jnp.sum(apply(p, x)))(params),
            "scan": lambda: jax.lax.scan(lambda p, row: (p, apply(p, row)), params, x),
        }[how]()

    def test_batch_norm_is_refused(self, how):
        message = (
            r"forward pass changes \['layer'\]\['mean'\] \(BatchStat\), \['layer'\]\['var'\] \(BatchStat\); "
            "allowed: a stateless network. Instead of nnx.BatchNorm: nnx.GroupNorm"
        )
        with pytest.raises(ValueError, match=message):
            self.call(how, lambda rngs: nnx.BatchNorm(4, rngs=rngs))

    def test_dropout_without_a_key_is_refused(self, how):
        message = (
            r"key = None, and the outputs depend on draws of \['layer'\]\['rngs'\]\['count'\]; "
            r"allowed: apply\(params, \*inputs, key=key\)"
        )
        with pytest.raises(ValueError, match=message):
            self.call(how, lambda rngs: nnx.Dropout(0.5, rngs=rngs))

    def test_state_that_is_only_read_is_a_constant(self, how):
        self.call(how, lambda rngs: nnx.BatchNorm(4, use_running_average=True, rngs=rngs))
        self.call(how, lambda rngs: nnx.Dropout(0.5, deterministic=True, rngs=rngs))


class Recurrent(nnx.Module):
    """nnx.RNN asks for a key to make an initial carry of zeros."""

    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.LSTMCell(2, 4, rngs=rngs))

    def __call__(self, x, **more):
        return self.rnn(x, **more)


class Started(Recurrent):
    """With the zeros given."""

    def __call__(self, x):
        return super().__call__(x, initial_carry=(jnp.zeros((len(x), 4)),) * 2)


def test_draws_that_nothing_depends_on_need_no_key():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 6, 2)), jnp.float32)
    params, apply = split(Recurrent(nnx.Rngs(0)))
    _, zeros = split(Started(nnx.Rngs(0)))
    expected = zeros(params, x)
    for call in (apply, jax.jit(apply), lambda p, x: jax.vmap(apply, (None, 0))(p, x[None])[0]):
        np.testing.assert_allclose(call(params, x), expected, rtol=1e-5, atol=1e-7)
    assert np.any(expected)


class Drops(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.linear = nnx.Linear(64, 64, rngs=rngs)

    def __call__(self, x):
        return self.first(x), self.second(x), self.linear(x)


def test_dropout_with_a_key():
    """Half of the units, others in each layer and for each key; the same for the same key."""
    params, apply = split(Drops(nnx.Rngs(0)))
    x = jnp.ones((50, 64))
    keys = jax.random.split(jax.random.key(3), 2)
    first, second, _ = jax.jit(jax.vmap(lambda k: apply(params, x, key=k)))(keys)
    kept = np.stack([first[0], second[0], first[1], second[1]]) > 0
    np.testing.assert_allclose(kept.mean(axis=(1, 2)), 0.5, atol=0.05)
    for i in range(4):
        for j in range(i):
            assert 0.4 < np.mean(kept[i] == kept[j]) < 0.6
    np.testing.assert_array_equal(apply(params, x, key=keys[1])[1], second[1])


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", ["maml", "maml_same_batch", "fo_maml"])
def test_meta_gradient_of_a_network_with_dropout(name, steps):
    """A key a task in the batch: what is dropped is the same in all gradients of one batch."""
    params, apply = split(Layers(lambda rngs: nnx.Dropout(0.5, rngs=rngs), nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((3, 2, 5, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(7), (3, 2))
    masks = jax.vmap(jax.vmap(lambda k: apply(params, jnp.ones((5, 3)), key=k) != 0))(keys)
    assert not masks.all()

    def loss(p, batch):
        x, key = batch
        return jnp.mean((apply(p, x, key=key) - 1) ** 2)

    def by_hand(p, batch):
        x, mask = batch
        outputs = x @ p["first"]["kernel"] + p["first"]["bias"]
        return jnp.mean((jnp.where(mask, 2 * outputs, 0) - 1) ** 2)

    found, expected = (
        meta_gradient(
            estimators.get(name),
            f,
            params,
            Episode(*((x[i], extra[i]) for i in range(3))),
            alpha=0.1,
            inner=InnerLoop(steps),
        )
        for f, extra in ((loss, keys), (by_hand, masks))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_constants_keep_their_values():
    module = Layers(
        lambda rngs: nnx.BatchNorm(4, use_running_average=True, epsilon=0.0, rngs=rngs), nnx.Rngs(0)
    )
    module.layer.mean[...] = jnp.arange(4, dtype=jnp.float32)
    module.layer.var[...] = jnp.full(4, 4, jnp.float32)
    params, apply = split(module)
    assert set(params["layer"]) == {"bias", "scale"}
    x = jnp.ones((2, 3))
    expected = (x @ params["first"]["kernel"] - jnp.arange(4.0)) / 2
    np.testing.assert_allclose(apply(params, x), expected, rtol=1e-5, atol=1e-6)


def test_intermediate_values_do_no_harm():
    class Keeps(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            y = self.layer(x)
            self.seen = nnx.Intermediate(y)
            return y

    params, apply = split(Keeps(nnx.Rngs(0)))
    assert jax.jit(apply)(params, jnp.ones((4, 3))).shape == (4, 2)


@pytest.mark.parametrize("what", [3, Network, lambda x: x])
def test_not_a_module(what):
    with pytest.raises(TypeError, match=r"module is .*; allowed: a flax.nnx.Module"):
        split(what)


@pytest.mark.parametrize("estimator", [maml, maml_same_batch, fo_maml])
def test_adapting_the_head_alone(estimator):
    """A rate of zero for the body, a mask, and the formula with frozen features are one direction."""
    _, params, apply, shape = variants.build(("mlp", "tanh"))
    loss = jax.jit(models.cross_entropy(apply))
    episode = jax.tree.map(lambda x: np.asarray(x)[0], variants.episodes(shape))

    def by_hand(params):
        inner = jax.grad(lambda h: loss(params | {"head": h}, episode.inner))(params["head"])
        adapted = params | {"head": jax.tree.map(lambda w, g: w - 0.3 * g, params["head"], inner)}
        v = jax.grad(loss)(adapted, episode.outer)
        if estimator is fo_maml:
            return v
        batch = episode.hessian if estimator is maml else episode.inner
        still = jax.tree.map(jnp.zeros_like, params["body"])
        direction = {"body": still, "head": jax.tree.map(lambda g: 0.3 * g, v["head"])}
        product = jax.jvp(lambda p: jax.grad(loss)(p, batch), (params,), (direction,))[1]
        return jax.tree.map(jnp.subtract, v, product)

    rates = {"body": 0.0, "head": 0.3}
    head = InnerLoop(mask={"body": False, "head": True})

    @jax.jit
    def every(p):
        by_rates = estimator(loss, p, episode, alpha=rates)
        return by_rates, estimator(loss, p, episode, alpha=0.3, inner=head), by_hand(p)

    by_rates, by_mask, expected = every(params)
    chex.assert_trees_all_close(by_rates, expected, rtol=1e-11, atol=1e-13)
    chex.assert_trees_all_close(by_mask, expected, rtol=1e-11, atol=1e-13)
