"""The gradient whose derivative is chosen, in loops that a user writes with it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_network import HEAD, network, problem

from jaxmaml import (
    Episode,
    InnerLoop,
    adapt,
    adapt_has_finite_derivative,
    fo_maml,
    hf_maml,
    hvp,
    inner_gradient,
    maml,
    maml_same_batch,
    meta_gradient,
)

pytestmark = pytest.mark.recorded

PULL, RATE, DELTA = 0.7, 0.11, 0.03


@pytest.fixture(scope="module", autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def step(w, gradient, rate=RATE):
    return jax.tree.map(lambda x, g: x if g is None else x - rate * g, w, gradient)


def one_step(params, episode, product, remat=True, **more):
    g = inner_gradient(network, product, remat=remat, **more)
    return network(step(params, g(params, episode.inner, episode.hessian)), episode.outer)


@pytest.mark.parametrize(
    ("product", "estimator"),
    [
        (hvp.exact, maml),
        (hvp.none, fo_maml),
        # the cotangent of the gradient is -alpha v
        (hvp.difference(DELTA / RATE), functools.partial(hf_maml, delta=DELTA)),
    ],
    ids=["exact", "none", "difference"],
)
def test_one_step_is_the_estimator(product, estimator):
    params, episode = problem()

    @jax.jit
    def both(p, e):
        found = [jax.grad(one_step)(p, e, product, remat) for remat in (True, False)]
        return found, estimator(network, p, e, alpha=RATE)

    found, expected = both(params, episode)
    for one in found:
        chex.assert_trees_all_close(one, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("remat", [True, False])
def test_masked(remat):
    """The gradient is that of the head alone; its derivative is in all parameters."""
    params, episode = problem()
    found = jax.jit(jax.grad(lambda p: one_step(p, episode, hvp.exact, remat, mask=HEAD)))(params)

    def plain(p):
        def loss(head, batch):
            return network({"body": p["body"], "head": head}, batch)

        # d/dp of grad on D_in replaced by that on D_h: value of one, derivative of the other
        value, other = (jax.grad(loss)(p["head"], b) for b in (episode.inner, episode.hessian))
        chosen = jax.tree.map(lambda a, b: jax.lax.stop_gradient(a - b) + b, value, other)
        return network({"body": p["body"], "head": step(p["head"], chosen)}, episode.outer)

    chex.assert_trees_all_close(found, jax.jit(jax.grad(plain))(params), rtol=1e-11, atol=1e-14)


def long_loop(params, theta, episode, gradient_of):
    """A proximal loop with a learned loss, a batch a step, Adam, and learned rates."""

    def loss(w, batch):
        x, y = batch
        decay = sum(jnp.sum(leaf**4) for leaf in jax.tree.leaves(w))
        return network(w, (x, y * theta["scale"])) + theta["decay"] * decay

    gradient = gradient_of(loss)
    update = optax.adam(0.05, eps_root=1e-8)
    batches = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x, x + 0.1]), episode.inner)

    def body(carry, now):
        w, state = carry
        rate, batch = now
        g = gradient(w, batch)
        g = jax.tree.map(lambda g, w, start: g + PULL * (w - start), g, w, params)
        updates, state = update.update(g, state, w)
        return (optax.apply_updates(w, jax.tree.map(lambda u: rate * u, updates)), state), None

    (w, _), _ = jax.lax.scan(body, (params, update.init(params)), (theta["rates"], batches))
    return network(w, episode.outer)


LOOPS = {"remat": True, "linearised": False, "plain": None}
THETA = {"scale": 1.3, "decay": 0.02, "rates": np.array([1.0, 0.5, 2.0])}


@functools.cache
def loops():
    """Derivatives of a user's loop, by name of the gradient in it."""
    params, episode = problem()
    ones = jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def every(params, theta, episode):
        found = {}
        for name, remat in LOOPS.items():
            gradient_of = jax.grad if remat is None else functools.partial(inner_gradient, remat=remat)

            def value(p, t, y, gradient_of=gradient_of):
                return long_loop(p, t, episode._replace(inner=(episode.inner[0], y)), gradient_of)

            def slope(p, value=value):
                return jax.grad(value)(p, theta, episode.inner[1])

            def norm(p, slope=slope):
                return sum(jnp.sum(x**2) for x in jax.tree.leaves(slope(p)))

            there = params, theta, episode.inner[1]
            at, (*derivatives, labels) = jax.value_and_grad(value, argnums=(0, 1, 2))(*there)
            found[name] = {
                "value and derivatives": (at, derivatives),
                "labels": labels,
                "third order": jax.grad(norm)(params),
                "forward over reverse": jax.jvp(slope, (params,), (ones,))[1],
            }
        return found

    return every(params, THETA, episode)


@pytest.mark.parametrize("name", ["remat", "linearised"])
@pytest.mark.parametrize("what", ["value and derivatives", "labels", "third order", "forward over reverse"])
def test_a_loop_of_ones_own(what, name):
    found = loops()
    chex.assert_trees_all_close(found[name][what], found["plain"][what], rtol=1e-9, atol=1e-12)


def test_forward_mode_without_remat():
    params, episode = problem()
    ones = jax.tree.map(jnp.ones_like, params)
    found = jax.jvp(lambda p: one_step(p, episode, hvp.exact, remat=False), (params,), (ones,))[1]
    gradient = jax.grad(lambda p: one_step(p, episode, hvp.exact, remat=False))(params)
    np.testing.assert_allclose(found, sum(x.sum() for x in jax.tree.leaves(gradient)), rtol=1e-11)


@jax.custom_vjp
def reversal(x):
    return x


reversal.defvjp(lambda x: (x, None), lambda _, g: (jax.tree.map(lambda x: -0.5 * x, g),))


@jax.custom_jvp
def mixing(x):
    return x


@mixing.defjvp
def _mixed(primals, tangents):
    return primals[0], jnp.array([[1.0, 0.3], [-0.8, 0.5]]) @ tangents[0]


@pytest.mark.parametrize("layer", [reversal, mixing])
@pytest.mark.parametrize("remat", [True, False])
def test_derivative_rules_of_the_loss(layer, remat):
    """Where the gradient is none, its Jacobian is not symmetric: the pull-back has the transpose."""
    matrix = jnp.array([[1.0, 2.0, 0.5], [0.0, 1.5, -1.0], [0.3, 0.0, 2.0]])

    def loss(w, batch):
        hidden = jnp.tanh(matrix @ jnp.concatenate([layer(w[:2]), w[2:]]))
        return jnp.sum(hidden**2) + jnp.mean(batch) * w[0] ** 2

    def value(w, g):
        w = w - RATE * g(w, jnp.ones(2))
        w = w - RATE * g(w, jnp.ones(2))
        return jnp.sum(w**3)

    w = jnp.array([0.4, -0.7, 1.1])
    jacobian = jax.jacobian(jax.grad(loss))(w, jnp.ones(2))
    assert np.abs(jacobian - jacobian.T).max() > 0.1
    found = jax.grad(value)(w, inner_gradient(loss, remat=remat))
    np.testing.assert_allclose(found, jax.grad(value)(w, jax.grad(loss)), rtol=1e-12)


def test_the_rules_of_jax_are_no_rules_of_the_loss():
    def loss(w, batch):
        scores = jax.nn.log_softmax(jax.nn.relu(batch @ w) @ jax.lax.stop_gradient(w.T))
        return -jnp.mean(scores) + jax.nn.logsumexp(w)

    traced = jax.make_jaxpr(loss)(jnp.ones((2, 3)), jnp.ones((4, 2)))
    assert not hvp.has_own_derivatives(traced.jaxpr)


def test_a_rule_of_a_package_whose_name_begins_with_jax():
    names = {"jax": jax}
    text = "rule = jax.custom_jvp(lambda x: x)\nrule.defjvp(lambda x, t: (x[0], 2 * t[0]))"
    exec(compile(text, jax.__path__[0] + "opt/rules.py", "exec"), names)
    assert hvp.has_own_derivatives(jax.make_jaxpr(names["rule"])(1.0).jaxpr)


@pytest.mark.parametrize("remat", [True, False])
def test_classes_and_what_the_loss_closes_over(remat):
    """Integer labels, a Hessian batch, and a temperature that the loss closes over."""
    rng = np.random.default_rng(7)
    w = rng.standard_normal((3, 4))
    support, hessian, query = (
        (jnp.asarray(rng.standard_normal((n, 3))), jnp.asarray(rng.integers(0, 4, n))) for n in (5, 7, 6)
    )

    def loss_at(t):
        def loss(w, batch):
            x, y = batch
            return -jnp.mean(jax.nn.log_softmax(x @ w / t)[jnp.arange(len(y)), y])

        return loss

    def ours(w, t):
        g = inner_gradient(loss_at(t), remat=remat)
        return loss_at(t)(w - RATE * g(w, support, hessian), query)

    def plain(w, t):
        stop = jax.lax.stop_gradient
        value = jax.grad(loss_at(t))(stop(w), support)
        curved = jax.grad(loss_at(stop(t)))(w, hessian)
        return loss_at(t)(w - RATE * (value + curved - stop(curved)), query)

    def by_hand(w, t):
        moved = w - RATE * jax.grad(loss_at(t))(w, support)
        v = jax.grad(loss_at(t))(moved, query)
        return v - RATE * hvp.exact(loss_at(t), w, v, hessian)

    found, expected = (jax.jit(jax.grad(f, argnums=(0, 1)))(w, 0.7) for f in (ours, plain))
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(found[0], by_hand(w, 0.7), rtol=1e-11, atol=1e-14)


def test_aux_has_its_derivative():
    params, episode = problem()

    def loss(w, batch):
        value = network(w, batch)
        return value, {"twice": 2 * value}

    def value(p, g):
        moved, aux = g(p, episode.inner)
        return network(step(p, moved), episode.outer) * aux["twice"]

    expected = jax.grad(value)(params, jax.grad(loss, has_aux=True))
    for remat in (True, False):
        found = jax.grad(value)(params, inner_gradient(loss, has_aux=True, remat=remat))
        chex.assert_trees_all_close(found, expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("loss", "error", "says"),
    [
        (lambda w, _: (jnp.sum(w), {}), TypeError, "loss returned tuple; allowed: a scalar, or"),
        (lambda w, _: w, ValueError, r"loss returned a value of shape \(3,\)"),
        (lambda *_: 1, ValueError, "floating point"),
    ],
)
def test_bad_loss(loss, error, says):
    with pytest.raises(error, match=says):
        inner_gradient(loss)(jnp.ones(3), jnp.ones(2))


@pytest.mark.parametrize(("dtype", "slope"), [("bfloat16", 1.0), ("float16", 100.0), ("float32", 1.0)])
@pytest.mark.parametrize("chunk", [None, 1, 10, 300])
def test_mean_over_many_tasks_in_few_digits(dtype, slope, chunk):
    """1000 equal tasks: the mean is that of one, though the sum is beyond the type."""
    samples = jnp.full((1000, 2), slope, dtype)
    found = jax.jit(
        lambda w, e: meta_gradient(maml, lambda w, b: jnp.mean(b * w), w, e, alpha=0.001, task_chunk=chunk)
    )(jnp.full((1, 1), 0.5, dtype), Episode(samples, samples, samples))
    assert found.dtype == dtype
    assert found.item() == slope


def test_difference_in_float16():
    """f = a w^2 / 2 at a small w: the product is there, not left out."""
    w = jnp.asarray([0.02, -0.03], jnp.float16)

    def loss(w, batch):
        return jnp.sum(jnp.asarray([1.0, 2.0], w.dtype) * w**2) / 2

    episode = Episode(*[jnp.ones((1, 1), jnp.float16)] * 3)
    found = hf_maml(loss, w, episode, alpha=0.25, delta=lambda norm: 0.5 / norm)
    expected = maml(loss, w, episode, alpha=0.25)
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=0.02)


def test_hf_maml_of_a_negative_rate_inside_jit():
    params, episode = problem()

    def loss(w, batch):
        return jnp.sum(w["head"][0] ** 2 * (1 + jnp.arange(5))) + jnp.sum(w["body"]["kernel"] ** 2)

    for rate in (-0.1, 0.2):
        hf, exact = jax.jit(
            lambda a: (
                hf_maml(loss, params, episode, alpha=a, delta=0.1),
                maml(loss, params, episode, alpha=a),
            )
        )(rate)
        chex.assert_trees_all_close(hf, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", [maml, maml_same_batch, fo_maml])
@pytest.mark.parametrize("chunk", [None, 1])
def test_replicated_parameters_in_shard_map(estimator, chunk):
    """Each device has its own tasks; the inner gradient of a task is not summed over devices."""
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    rng = np.random.default_rng(1)
    episodes = Episode(*(rng.standard_normal((4, 3, 2)) for _ in range(3)))
    w = np.array([0.5, -1.0])

    def loss(w, batch):
        return jnp.mean(jnp.sin(batch @ w)) + jnp.sum(w**4)

    def mean(w, rate, episodes, chunk=chunk):
        return meta_gradient(estimator, loss, w, episodes, alpha=rate, task_chunk=chunk, learn_alpha=True)

    def alone(w, rate, episodes):
        each = jax.vmap(lambda e: estimator(loss, w, e, alpha=rate, learn_alpha=True))(episodes)
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), each)

    def shared(call):
        return jax.jit(
            jax.shard_map(
                lambda *data: jax.lax.pmean(call(*data), "tasks"),
                mesh=mesh,
                in_specs=(spec(), spec(), spec("tasks")),
                out_specs=spec(),
            )
        )(w, 0.1, episodes)

    expected = jax.jit(functools.partial(mean, chunk=None))(w, 0.1, episodes)
    chex.assert_trees_all_close(shared(mean), expected, rtol=1e-11)
    chex.assert_trees_all_close(shared(alone), expected, rtol=1e-11)


@pytest.mark.parametrize(
    "alpha", [0.1, optax.adam(0.1), optax.sgd(0.1, momentum=0.9)], ids=["rate", "adam", "sgd"]
)
@pytest.mark.parametrize("levels", [1, 2])
def test_several_steps_in_shard_map(alpha, levels):
    """Replicated parameters are the start of each device's own inner loops."""
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    batches = np.random.default_rng(1).standard_normal((4, 3, 2))
    inner = InnerLoop(steps=4, checkpoint_levels=levels)

    def loss(w, batch):
        return jnp.mean(jnp.sin(batch @ w)) + jnp.sum(w**4)

    def each(w, batches):
        return jax.vmap(
            lambda b: (
                adapt(loss, w, b, alpha, inner),
                adapt_has_finite_derivative(loss, w, b, alpha, inner),
            )
        )(batches)

    w = np.array([0.5, -1.0])
    shared = jax.shard_map(each, mesh=mesh, in_specs=(spec(), spec("tasks")), out_specs=spec("tasks"))
    chex.assert_trees_all_close(jax.jit(shared)(w, batches), jax.jit(each)(w, batches), rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_what_is_closed_over_varies_under_vmap(steps):
    """The loss and the product close over numbers that differ between runs: alone, and all at once."""

    def direction(theta, arc, w):
        def loss(v, batch):
            return jnp.sum(theta**2 * jnp.sin(v * batch)) + jnp.sum(jnp.arange(3) * v**2)

        g = inner_gradient(loss, hvp.difference(lambda norm: arc / norm))

        def after(w):
            w, _ = jax.lax.scan(lambda w, _: (w - 0.1 * g(w, jnp.ones(3)), None), w, None, length=steps)
            return loss(w, 2 * jnp.ones(3))

        return jax.grad(after)(w)

    theta, arc, w = jnp.array([1.0, 2.0]), jnp.array([1e-3, 0.3]), jnp.array([0.3, -1.0, 2.0])
    alone = jnp.stack([direction(t, a, w) for t, a in zip(theta, arc, strict=True)])
    call = jax.vmap(direction, in_axes=(0, 0, None))
    np.testing.assert_allclose(call(theta, arc, w), alone, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(call)(theta, arc, w), alone, rtol=1e-9)
    assert not np.allclose(direction(theta[0], arc[1], w), alone[0], rtol=1e-6)


def test_arguments_of_another_kind():
    with pytest.raises(TypeError, match="^product = 'exact'; allowed: jaxmaml.hvp.exact, none, "):
        inner_gradient(lambda w, _: w, "exact")
    with pytest.raises(TypeError, match="^loss = 3; allowed: loss"):
        inner_gradient(3)
    with pytest.raises(ValueError, match=r"^delta of shape \(2,\); allowed: a number"):
        hvp.central_difference(lambda w, _: jnp.sum(w**3), jnp.ones(2), jnp.ones(2), None, jnp.ones(2))
