"""The mean over tasks: bad input, chunks, memory. Its values are in contracts/test_estimators.py."""

import functools
import inspect
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxmaml
from jaxmaml import Episode, meta_gradient

pytestmark = pytest.mark.recorded


def loss(w, batch):
    return jnp.mean((batch @ w) ** 4)


def episodes(tasks=4, samples=3):
    rng = np.random.default_rng(0)
    return Episode(*(jnp.asarray(rng.standard_normal((tasks, samples, 2))) for _ in range(3)))


W = jnp.array([0.3, -0.7])


def test_task_axes_differ():
    some = episodes()
    broken = some._replace(outer=some.outer[:3])
    with pytest.raises(ValueError, match=r"differ in their task axis: .*\(4, 3, 2\).*\(3, 3, 2\)"):
        meta_gradient(jaxmaml.maml, loss, W, broken, alpha=0.1)


def test_no_task():
    none = jax.tree.map(lambda x: x[:0], episodes())
    with pytest.raises(ValueError, match="episodes hold no task"):
        meta_gradient(jaxmaml.maml, loss, W, none, alpha=0.1)


def test_scalar_leaf():
    some = episodes()._replace(hessian=jnp.array(3.0))
    with pytest.raises(ValueError, match=r"episodes.hessian is a scalar"):
        meta_gradient(jaxmaml.maml, loss, W, some, alpha=0.1)


def test_empty_batch():
    some = jax.tree.map(lambda x: x[:, :0], episodes())
    with pytest.raises(ValueError, match="the batch is empty"):
        meta_gradient(jaxmaml.maml, loss, W, some, alpha=0.1)


@pytest.mark.parametrize("chunk", [0, -1, 1.5])
def test_bad_chunk(chunk):
    with pytest.raises(ValueError, match=f"task_chunk = {chunk}; allowed: an integer >= 1"):
        meta_gradient(jaxmaml.maml, loss, W, episodes(), alpha=0.1, task_chunk=chunk)


def test_params_without_leaves():
    with pytest.raises(ValueError, match="params has no leaves"):
        meta_gradient(jaxmaml.maml, loss, {}, episodes(), alpha=0.1)


def linear(module, batch):
    return jnp.mean(module(batch) ** 4)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"estimator": "maml"}, "estimator = 'maml'; allowed: one of jaxmaml.estimators"),
        ({"loss": 3}, "loss = 3; allowed: loss"),
        ({"loss": lambda *_: None}, "loss returned NoneType; allowed: a scalar"),
        ({"loss": lambda *_: {"loss": 1.0}}, "loss returned dict; allowed: a scalar"),
        (
            {"estimator": jaxmaml.hf_maml},
            "hf_maml: missing a required argument: 'delta'; allowed: loss, params, ",
        ),
        ({"delta": 0.1}, "maml: got an unexpected keyword argument 'delta'; allowed: loss, params, "),
        ({"inner": 3}, r"inner = 3; allowed: jaxmaml.InnerLoop, e.g. InnerLoop\(steps=5\)"),
        ({"mesh": 2}, "mesh = 2; allowed: jax.sharding.Mesh"),
        ({"params": {"w": W, "f": jnp.tanh}}, r"params\['f'\] is \w+; allowed: .*eqx.partition"),
        ({"params": {"w": W, "name": "a"}}, r"params\['name'\] is str; allowed: floating-point arrays$"),
        ({"params": {"w": W + 1j}}, r"params\['w'\] has dtype complex128; allowed: floating point"),
        (
            {"episodes": episodes()._replace(hessian=None)},
            "episode.hessian = None; allowed: .*maml_same_batch",
        ),
        ({"episodes": episodes()._replace(inner=None)}, "episode.inner = None; allowed: a batch"),
        ({"episodes": episodes()._replace(outer=None)}, "episode.outer = None; allowed: a batch"),
        ({"episodes": tuple(episodes())}, "episode is tuple; allowed: jaxmaml.Episode"),
        (
            {"loss": linear, "params": nnx.BatchNorm(2, use_running_average=True, rngs=nnx.Rngs(0))},
            "params.mean is an nnx.BatchStat; allowed: nnx.Param, e.g. by jaxmaml.models.split",
        ),
        (
            {"params": nnx.state(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))},
            r"params\['rngs'\]\['count'\] is an nnx.RngC",
        ),
    ],
)
def test_arguments_of_another_kind(changed, says):
    given = {
        "estimator": jaxmaml.maml,
        "loss": loss,
        "params": W,
        "episodes": episodes(),
        "alpha": 0.1,
    } | changed
    with pytest.raises(TypeError, match=f"^{says}"):
        meta_gradient(**given)


def test_batch_of_the_hessian_that_is_not_read():
    """Two batches do for estimators that have no third one."""
    some = episodes()
    for estimator in (jaxmaml.fo_maml, jaxmaml.maml_same_batch):
        both = (meta_gradient(estimator, loss, W, e, alpha=0.1) for e in (some, some._replace(hessian=None)))
        np.testing.assert_array_equal(*both)
    for estimator, more in ((jaxmaml.maml, {}), (jaxmaml.hf_maml, {"delta": 0.1})):
        with pytest.raises(TypeError, match="^episode.hessian = None"):
            estimator(loss, W, Episode(some.inner[0], None, some.outer[0]), alpha=0.1, **more)


def test_modules_are_parameters():
    """A whole flax.nnx module of learned variables, and its state."""
    module = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    definition, state = nnx.split(module)
    of_state = meta_gradient(
        jaxmaml.maml, lambda s, b: linear(nnx.merge(definition, s), b), state, episodes(), alpha=0.1
    )
    of_module = meta_gradient(jaxmaml.maml, linear, module, episodes(), alpha=0.1)
    w = jnp.concatenate([module.kernel[...], module.bias[...][None]])

    def plain(w, batch):
        return jnp.mean((batch @ w[:2] + w[2]) ** 4)

    expected = meta_gradient(jaxmaml.maml, plain, w, episodes(), alpha=0.1)
    for found in (of_state, nnx.state(of_module)):
        flat = jnp.concatenate([found["kernel"][...], found["bias"][...][None]])
        np.testing.assert_allclose(flat, expected, rtol=1e-5)


@pytest.mark.parametrize("call", [jaxmaml.adapt, jaxmaml.adapt_has_finite_derivative])
def test_adapt_says_what_is_wrong(call):
    batch = episodes().inner[0]
    with pytest.raises(TypeError, match=r"^params\['f'\] is "):
        call(loss, {"f": jnp.tanh}, batch, 0.1)
    with pytest.raises(TypeError, match="^inner = 3; allowed: jaxmaml.InnerLoop"):
        call(loss, W, batch, 0.1, 3)


def test_own_estimator():
    """Anything with the signature of an estimator will do."""

    def reptile(loss, params, episode, *, alpha, steps):
        moved = params
        for _ in range(steps):
            moved = jaxmaml.adapt(loss, moved, episode.inner, alpha)
        return (params - moved) / alpha

    found = meta_gradient(reptile, loss, W, episodes(), alpha=0.1, steps=2, task_chunk=3)
    assert found.shape == W.shape
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize("chunk", [None, 3])
def test_own_estimator_that_counts(chunk):
    """The mean of whole numbers is none."""

    def count(loss, params, episode, *, alpha):
        return jnp.sum(episode.inner > 0)

    drawn = episodes()
    found = meta_gradient(count, loss, W, drawn, alpha=0.1, task_chunk=chunk)
    assert float(found) == np.sum(np.asarray(drawn.inner) > 0) / 4
    assert float(found) % 1 != 0


def test_chunks_bound_memory():
    """Peak temporary memory grows with the chunk, not with the number of tasks."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((64, 16, 8)))
    params = {"a": jnp.ones((8, 256)), "b": jnp.ones((256, 256))}

    def network(p, batch):
        return jnp.mean(jnp.tanh(jnp.tanh(batch @ p["a"]) @ p["b"]) ** 2)

    def memory(chunk):
        def call(p, e):
            return meta_gradient(jaxmaml.maml, network, p, e, alpha=0.1, task_chunk=chunk)

        compiled = jax.jit(call).lower(params, Episode(x, x, x)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(4) < memory(None) / 4


def test_loss_with_aux():
    def both(w, batch):
        return loss(w, batch), {"size": len(batch)}

    found = meta_gradient(jaxmaml.maml, both, W, episodes(), alpha=0.1, has_aux=True, task_chunk=3)
    np.testing.assert_allclose(
        found, meta_gradient(jaxmaml.maml, loss, W, episodes(), alpha=0.1, task_chunk=3), rtol=1e-12
    )
    with pytest.raises(TypeError, match=r"loss returned tuple; allowed: a scalar, or .* has_aux=True"):
        meta_gradient(jaxmaml.maml, both, W, episodes(), alpha=0.1)
    with pytest.raises(TypeError, match=r"allowed: \(scalar, aux\)"):
        meta_gradient(jaxmaml.maml, loss, W, episodes(), alpha=0.1, has_aux=True)


MORE = {"hf_maml": {"delta": 0.05}}
NAMES = sorted(jaxmaml.estimators.estimators())
SHAPED = [
    pytest.param(name, shape, id=f"{name}-{kind}")
    for name in NAMES
    for kind, shape in (("vector", (2,)), ("matrix", (2, 1)))
    # Matrices are summed over tasks another way where the sum itself is differentiated.
    if kind == "matrix" or hasattr(jaxmaml.estimators.get(name), "adapted")
]


def learning(name):
    """learn_alpha, of an estimator that is a gradient of something."""
    takes = inspect.signature(jaxmaml.estimators.get(name)).parameters
    return {"learn_alpha": True} if "learn_alpha" in takes else {}


@functools.cache
def alone(name, shape):
    """(G, dF/dalpha, value) of each task, one at a time, at W of this shape."""

    @jax.jit
    def one(w, episode):
        estimator = jaxmaml.estimators.get(name)
        found = estimator(loss, w, episode, alpha=0.1, **learning(name), **MORE.get(name, {}))
        found = found if learning(name) else (found, 0.0)
        return *found, loss(jaxmaml.adapt(loss, w, episode.inner, 0.1), episode.outer)

    some, w = jax.tree.map(np.asarray, episodes()), np.reshape(W, shape)
    return [jax.tree.map(np.asarray, one(w, jax.tree.map(lambda x, j=j: x[j], some))) for j in range(4)]


def one_by_one(name, weights, shape=(2,)):
    """(G, dF/dalpha, values) of a loop over tasks in NumPy; sums are weighted, not divided."""
    gradients, rates, values = zip(*alone(name, shape), strict=True)
    gradient, rate = (sum(p * x for p, x in zip(weights, each, strict=True)) for each in (gradients, rates))
    return gradient, rate, np.array(values)


WEIGHTS = (1.0, 3.0, 0.5, 2.5)
SPLITS = list(itertools.product((None, WEIGHTS), (None, 2, 3)))
"""(weights, chunk)"""


@functools.cache
def means(name, shape):
    """Everything of the mean over tasks, by weights and chunk: in one program."""

    def both(w, batch):
        return loss(w, batch), {"outputs": batch @ w}

    @jax.jit
    def every(w, some):
        return [
            jaxmaml.meta_value_and_gradient(
                jaxmaml.estimators.get(name),
                both,
                w,
                some,
                alpha=0.1,
                weights=weights,
                task_chunk=chunk,
                has_aux=True,
                **learning(name),
                **MORE.get(name, {}),
            )
            for weights, chunk in SPLITS
        ]

    return dict(zip(SPLITS, jax.tree.map(np.asarray, every(np.reshape(W, shape), episodes())), strict=True))


@pytest.mark.parametrize("chunk", [None, 2, 3])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("name", "shape"), SHAPED)
def test_value_and_gradient(name, shape, weights, chunk):
    """Every field against a loop; the weights need not sum to 1."""
    p = np.ones(4) if weights is None else np.array(weights)
    gradient, rates, values = one_by_one(name, p, shape)
    found = means(name, shape)[weights, chunk]
    np.testing.assert_allclose(found.value, values @ p / p.sum(), rtol=1e-11)
    np.testing.assert_allclose(found.task_values, values, rtol=1e-11)
    np.testing.assert_allclose(found.gradient, gradient / p.sum(), rtol=1e-9)
    if learning(name):
        np.testing.assert_allclose(found.rates, rates / p.sum(), rtol=1e-9)
    assert found.aux["outputs"].shape == (4, 3, *shape[1:])
    np.testing.assert_allclose(np.mean(found.aux["outputs"].reshape(4, 3) ** 4, axis=1), values, rtol=1e-11)


def test_fields_that_nobody_asked_for_are_none():
    found = jaxmaml.meta_value_and_gradient(jaxmaml.maml, loss, W, episodes(), alpha=0.1)
    assert found.rates is None
    assert found.aux is None
    np.testing.assert_allclose(
        found.gradient, meta_gradient(jaxmaml.maml, loss, W, episodes(), alpha=0.1), rtol=1e-12
    )


@pytest.mark.parametrize("chunk", [None, 3])
def test_value_beside_an_own_estimator(chunk):
    """One that is no gradient of an adapted loss."""

    def first(loss, params, episode, *, alpha):
        return jax.grad(loss)(params, episode.outer)

    p = np.array([1.0, 3.0, 0.5, 2.5])
    found = jaxmaml.meta_value_and_gradient(
        first, loss, W, episodes(), alpha=0.1, weights=p, task_chunk=chunk
    )
    values = one_by_one("maml", p)[2]
    np.testing.assert_allclose(found.value, values @ p / p.sum(), rtol=1e-11)
    each = np.stack([jax.grad(loss)(W, batch) for batch in episodes().outer])
    np.testing.assert_allclose(found.gradient, p @ each / p.sum(), rtol=1e-11)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_weighted_means_in_low_precision(dtype):
    """1000 clients of 1 to 1000 samples, each with the gradient 100."""
    batch = jnp.ones((1000, 1, 1), dtype)
    some = Episode(batch, batch, batch)
    found = jax.jit(
        lambda w, p: meta_gradient(
            jaxmaml.fo_maml, lambda w, b: 100 * jnp.mean(b) * w[0], w, some, alpha=0.01, weights=p
        )
    )(jnp.zeros(1, dtype), jnp.arange(1, 1001))
    assert found.dtype == dtype
    np.testing.assert_allclose(float(found[0]), 100.0, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk", [None, 3])
def test_a_task_that_is_not_finite(name, chunk):
    """It is named, and left out with weight 0."""
    estimator, more = jaxmaml.estimators.get(name), MORE.get(name, {})
    good = episodes()
    bad = good._replace(inner=good.inner.at[2, 1, 0].set(jnp.nan))

    @jax.jit
    def both(some):
        finite = jaxmaml.finite_tasks(estimator, loss, W, some, alpha=0.1, **more)
        call = [
            jaxmaml.meta_value_and_gradient(
                estimator, loss, W, some, alpha=0.1, weights=p, task_chunk=chunk, **more
            )
            for p in (None, finite)
        ]
        return finite, *call

    finite, spoilt, mended = both(bad)
    np.testing.assert_array_equal(finite, [True, True, False, True])
    assert not np.isfinite(spoilt.value)
    assert not np.isfinite(spoilt.gradient).any()
    kept = one_by_one(name, [1, 1, 0, 1])
    np.testing.assert_allclose(mended.gradient, kept[0] / 3, rtol=1e-9)
    np.testing.assert_allclose(mended.value, kept[2][[0, 1, 3]].mean(), rtol=1e-11)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1.0, 2.0], r"weights of shape \(2,\); allowed: one for each of 4 tasks"),
        (2.0, r"weights of shape \(\); allowed: one for each of 4 tasks"),
        ([1.0, -2.0, 1.0, 1.0], r"weights = .*; allowed: finite and >= 0, not all of them 0"),
        ([1.0, np.nan, 1.0, 1.0], "weights = .*; allowed: finite"),
        ([0.0] * 4, "weights = .*; allowed: .*not all of them 0"),
    ],
)
def test_weights_that_do_not_fit(weights, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        meta_gradient(jaxmaml.maml, loss, W, episodes(), alpha=0.1, weights=weights)


def on_two(kind="Auto", shape=(2,), names=("tasks",)):
    return jax.make_mesh(shape, names, axis_types=(getattr(jax.sharding.AxisType, kind),) * len(names))


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize("weights", [None, np.array([1.0, 3.0, 0.5, 2.5])])
def test_tasks_on_several_devices(kind, weights):
    """Sharded tasks, with any chunk."""
    mesh = on_two(kind)
    spec = jax.sharding.PartitionSpec
    where = jax.sharding.NamedSharding(mesh, spec()), jax.sharding.NamedSharding(mesh, spec("tasks"))
    w, some = jax.device_put((W, episodes()), where)

    def mean(w, some, chunk=None, mesh=None):
        return meta_gradient(
            jaxmaml.maml, loss, w, some, alpha=0.1, task_chunk=chunk, weights=weights, mesh=mesh
        )

    expected = mean(W, episodes())
    with jax.set_mesh(mesh):
        for chunk, shared in ((None, None), (1, None), (2, None), (3, None), (None, mesh), (1, mesh)):
            found = jax.jit(mean, static_argnums=(2, 3))(w, some, chunk, shared)
            np.testing.assert_allclose(found, expected, rtol=1e-11)


SHARES = [(None, None), (1, None), (1, WEIGHTS)]
"""(chunk, weights) of tasks on two devices"""


@functools.cache
def shared_out(name, shape, kind):
    """The mean over tasks by chunk and weights, on two devices or, if `kind` is None, on one.

    Arrays that the loss and delta close over are traced.
    """
    mesh = kind and on_two(kind)

    @jax.jit
    def every(w, some, alpha, theta):
        def both(w, batch):
            return loss(theta * w, batch), {"outputs": batch @ w}

        return [
            jaxmaml.meta_value_and_gradient(
                jaxmaml.estimators.get(name),
                both,
                w,
                some,
                alpha=alpha,
                weights=weights,
                has_aux=True,
                mesh=mesh,
                **learning(name),
                task_chunk=chunk if mesh else None,
                **({"delta": theta / 20} if name == "hf_maml" else {}),
            )
            for chunk, weights in SHARES
        ]

    return dict(zip(SHARES, every(np.reshape(W, shape), episodes(), 0.1, 1.3), strict=True))


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize(("chunk", "weights"), SHARES)
@pytest.mark.parametrize(("name", "shape"), SHAPED)
def test_tasks_shared_out(name, shape, chunk, weights, kind):
    """Every field is what one device computes."""
    found, expected = (shared_out(name, shape, k)[chunk, weights] for k in (kind, None))
    chex.assert_trees_all_close(found, expected, rtol=1e-11)
    assert found.gradient.sharding.device_set == set(on_two(kind).devices.flat)


@pytest.mark.parametrize(
    "alpha", [optax.sgd(0.1, momentum=0.5), jnp.array([0.1, 0.2])], ids=["optax", "rates"]
)
def test_derivatives_of_a_meta_gradient_on_devices(alpha):
    """In what the loss closes over, mapped over runs; with several axes and an estimator of one's own."""
    mesh = on_two(shape=(2, 1), names=("a", "b"))

    def total(theta, estimator, mesh):
        found = meta_gradient(
            estimator, lambda w, b: loss(theta * w, b), W, episodes(), alpha=alpha, mesh=mesh, inner=inner
        )
        return jnp.sum(found**2)

    def own(*args, **kwargs):
        return 2 * jaxmaml.maml(*args, **kwargs)

    inner = jaxmaml.InnerLoop(steps=2)
    thetas = jnp.array([0.8, 1.3])
    for estimator in (jaxmaml.maml_same_batch, own):
        here, there = (
            jax.jit(jax.vmap(jax.grad(functools.partial(total, estimator=estimator, mesh=m))))(thetas)
            for m in (None, mesh)
        )
        np.testing.assert_allclose(there, here, rtol=1e-10)


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize(("chunk", "weights"), [(None, None), (1, None), (None, [1.0, 3.0, 0.0])])
@pytest.mark.parametrize("name", ["maml", "hf_maml"])
def test_devices_that_do_not_divide_the_tasks(name, chunk, weights, kind):
    """Three tasks on two devices; a task of weight 0 that is not finite is left out there too."""
    w, some = W[:, None], jax.tree.map(lambda x: x[:3], episodes())
    if weights is not None:
        some = jax.tree.map(lambda x: x.at[2].set(jnp.nan), some)

    def call(mesh, weights, task_chunk):
        found = jaxmaml.meta_value_and_gradient(
            jaxmaml.estimators.get(name),
            loss,
            w,
            some,
            alpha=0.1,
            weights=weights,
            mesh=mesh,
            task_chunk=task_chunk,
            **MORE.get(name, {}),
        )
        assert found.task_values.shape == (3,)
        return found

    expected = jax.jit(lambda: call(None, weights, None))()
    found = jax.jit(lambda: call(on_two(kind), weights, chunk))()
    assert np.isfinite(found.gradient).all()
    chex.assert_trees_all_close(found, expected, rtol=1e-11)


def test_rates_of_few_digits():
    """dF/dalpha of 1000 tasks, each -1: the sum is taken in float32 though the rates have 8 bits."""
    batch = jnp.ones((1000, 1, 1), jnp.float32)
    found = jax.jit(
        lambda w, alpha: (
            jaxmaml.meta_value_and_gradient(
                jaxmaml.maml,
                lambda w, b: jnp.mean(b) * w[0, 0],
                w,
                Episode(batch, batch, batch),
                alpha=alpha,
                learn_alpha=True,
                task_chunk=1,
            ).rates
        )
    )(jnp.zeros((1, 1), jnp.float32), jnp.asarray(0.5, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    assert float(found) == -1.0
