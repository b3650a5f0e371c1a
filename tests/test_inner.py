"""Inner steps, masks, learned rates and optax updates, against unrolled autodiff and dense Hessians."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from jax.flatten_util import ravel_pytree
from small_network import HEAD, network, problem

import jaxmaml
from jaxmaml import Episode, InnerLoop, adapt, adapt_has_finite_derivative, meta_gradient

# What one test compiles outside jit, the others need too.
pytestmark = [pytest.mark.recorded, pytest.mark.xdist_group("inner")]

RATES = {"body": {"kernel": 0.07, "bias": 0.2}, "head": 0.13}
DELTA = 0.02


slopes, loss = jax.grad(network), jax.jit(network)
"""For calls outside jit, which otherwise compile every operation of every derivative by itself."""


# Loops in Python whose step is one program, whatever their number of steps and the weights of their mask.


@jax.jit
def descent_step(params, batch, rates, mask):
    """`mask` weights the gradient of each subtree by 0 or 1."""
    gradient = {
        name: jax.tree.map(lambda x, weight=mask[name]: weight * x, g)
        for name, g in slopes(params, batch).items()
    }
    return jax.tree.map(lambda a, g, w: jax.tree.map(lambda x, y: y - a * x, g, w), rates, gradient, params)


@functools.partial(jax.jit, static_argnames="update")
def update_step(params, state, batch, update):
    updates, state = update.update(slopes(params, batch), state, params)
    return optax.apply_updates(params, updates), state


def unrolled(params, episode, alpha, steps, mask=None):
    """f(w_K; D_o); with weights of the gradient of each subtree, or all of it."""
    if isinstance(alpha, optax.GradientTransformation):
        state = alpha.init(params)
        for _ in range(steps):
            params, state = update_step(params, state, episode.inner, alpha)
    else:
        rates = alpha if isinstance(alpha, dict) else dict.fromkeys(params, alpha)
        for _ in range(steps):
            params = descent_step(params, episode.inner, rates, mask or dict.fromkeys(params, 1.0))
    return loss(params, episode.outer)


@functools.cache
def same_batch(steps, kind):
    """By `remat`: (the direction, with gradients of the rates, the head alone); the same by autodiff."""

    @jax.jit
    def every(params, episode, alpha):
        def of(remat, **more):
            inner = InnerLoop(steps=steps, remat=remat, mask=more.pop("mask", True))
            return jaxmaml.maml_same_batch(network, params, episode, alpha=alpha, inner=inner, **more)

        return {
            remat: (of(remat), of(remat, learn_alpha=True), of(remat, learn_alpha=True, mask=HEAD))
            for remat in (True, False)
        }

    params, episode = problem()
    alpha = {"rate": 0.11, "rates": RATES}[kind]
    through = jax.grad(unrolled, argnums=(0, 2))
    return (
        every(params, episode, alpha),
        through(params, episode, alpha, steps),
        through(params, episode, alpha, steps, HEAD),
    )


@pytest.mark.parametrize("remat", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("alpha", ["rate", "rates"])
class TestSameBatch:
    def test_equals_unrolled_autodiff(self, alpha, steps, remat):
        found, expected, _ = same_batch(steps, alpha)
        chex.assert_trees_all_close(found[remat][0], expected[0], rtol=1e-11)

    def test_gradient_of_the_rates(self, alpha, steps, remat):
        found, expected, _ = same_batch(steps, alpha)
        chex.assert_trees_all_close(found[remat][1], expected, rtol=1e-11)

    def test_only_the_head_adapts(self, alpha, steps, remat):
        found, _, expected = same_batch(steps, alpha)
        chex.assert_trees_all_close(found[remat][2], expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("remat", [True, False])
def test_several_steps_outside_jit(remat):
    params, episode = problem()
    inner = InnerLoop(steps=2, mask=HEAD, remat=remat)
    found = jaxmaml.maml_same_batch(network, params, episode, alpha=RATES, inner=inner, learn_alpha=True)
    chex.assert_trees_all_close(found, same_batch(2, "rates")[2], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    "update",
    [optax.sgd(0.1, momentum=0.9, nesterov=True), optax.adam(0.05, eps_root=1e-8), optax.adamw(0.03)],
    ids=["momentum", "adam", "adamw"],
)
def test_an_optax_update_equals_unrolled_autodiff(update):
    @jax.jit
    def every(params, episode):
        return [
            jaxmaml.maml_same_batch(
                network, params, episode, alpha=update, inner=InnerLoop(steps=3, remat=remat)
            )
            for remat in (True, False)
        ]

    found, expected = every(*problem()), jax.grad(unrolled)(*problem(), update, 3)
    for one in found:
        chex.assert_trees_all_close(one, expected, rtol=1e-10)


def flat(tree):
    return np.asarray(ravel_pytree(jax.tree.map(np.asarray, tree))[0])


def of_flat(w, batch):
    return network(ravel_pytree(problem()[0])[1](w), batch)


slope, curvature = jax.jit(jax.grad(of_flat)), jax.jit(jax.hessian(of_flat))


def flat_rates(params, rates):
    return flat(jax.tree.map(lambda a, p: jax.tree.map(lambda x: np.full_like(x, a), p), rates, params))


def descent(w, batch, rates, steps):
    """w_0, ..., w_K."""
    path = [w]
    for _ in range(steps):
        path.append(path[-1] - rates * np.asarray(slope(path[-1], batch)))
    return path


@pytest.mark.parametrize("steps", [1, 3])
def test_maml_is_the_product_of_dense_factors(steps):
    """(I - H(w_0) A) ... (I - H(w_{K-1}) A) v with the Hessians on D_h."""
    params, episode = problem()
    a = flat_rates(params, RATES)
    path = descent(flat(params), episode.inner, a, steps)
    expected = np.asarray(slope(path.pop(), episode.outer))
    rates = np.zeros_like(a)
    for at in reversed(path):
        rates -= expected * np.asarray(slope(at, episode.inner))
        expected = expected - np.asarray(curvature(at, episode.hessian)) @ (a * expected)
    inner = InnerLoop(steps=steps)
    found, learned = jax.jit(
        lambda p, e: jaxmaml.maml(network, p, e, alpha=RATES, inner=inner, learn_alpha=True)
    )(params, episode)
    np.testing.assert_allclose(flat(found), expected, rtol=1e-10)
    one = {"body": {"kernel": 0.0, "bias": 0.0}, "head": 0.0}
    for name, rate in learned["body"].items():
        part = flat_rates(params, one | {"body": one["body"] | {name: 1.0}})
        np.testing.assert_allclose(rate, rates @ part, rtol=1e-10)
    np.testing.assert_allclose(learned["head"], rates @ flat_rates(params, one | {"head": 1.0}), rtol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
def test_hf_maml_is_a_chain_of_differences(steps):
    params, episode = problem()
    alpha = 0.11
    path = descent(flat(params), episode.inner, alpha, steps)
    v = np.asarray(slope(path.pop(), episode.outer))
    for at in reversed(path):
        ahead, behind = (np.asarray(slope(at + s * DELTA * v, episode.hessian)) for s in (1, -1))
        v = v - alpha * (ahead - behind) / (2 * DELTA)
    inner = InnerLoop(steps=steps)
    found = jax.jit(lambda p, e: jaxmaml.hf_maml(network, p, e, alpha=alpha, delta=DELTA, inner=inner))(
        params, episode
    )
    np.testing.assert_allclose(flat(found), v, rtol=1e-9)


def test_fo_maml_is_the_gradient_at_the_end():
    inner = InnerLoop(steps=4, mask=HEAD)

    @jax.jit
    def every(params, episode):
        def of(**more):
            return jaxmaml.fo_maml(network, params, episode, alpha=0.11, inner=inner, **more)

        # w_0, ..., w_4
        points = [params] + [
            adapt(network, params, episode.inner, 0.11, InnerLoop(k, HEAD)) for k in (1, 2, 3, 4)
        ]
        gradients = [jax.grad(network)(w, episode.inner)["head"] for w in points[:-1]]
        return points[-1], of(), of(learn_alpha=True), jax.grad(network)(points[-1], episode.outer), gradients

    params, episode = problem()
    end, found, (same, learned), expected, gradients = every(params, episode)
    chex.assert_trees_all_close(end["body"], params["body"], rtol=0)
    chex.assert_trees_all_close(found, expected, rtol=1e-12)
    chex.assert_trees_all_close(same, expected, rtol=1e-12)
    rate = -sum(flat(g) @ flat(expected["head"]) for g in gradients)
    np.testing.assert_allclose(learned, rate, rtol=1e-11)


NAMES = ["maml", "fo_maml", "hf_maml", "maml_same_batch"]


@functools.cache
def over_tasks(dtype):
    """By estimator: the mean over five tasks by size of the chunk, and that of each task alone.

    Chunks of 2 are the one that 5 tasks do not fill; float32 adds only what is rounded.
    """

    def each(params, episodes, chunks):
        return {
            name: [
                meta_gradient(
                    jaxmaml.estimators.get(name),
                    network,
                    params,
                    episodes,
                    alpha=RATES,
                    inner=InnerLoop(steps=2, mask={"body": {"kernel": False, "bias": True}, "head": True}),
                    learn_alpha=True,
                    task_chunk=chunk,
                    **({"delta": DELTA} if name == "hf_maml" else {}),
                )
                for chunk in chunks
            ]
            for name in NAMES
        }

    call = jax.jit(each, static_argnums=2)
    params, episodes = jax.tree.map(np.asarray, problem(dtype, tasks=5))
    alone = [call(params, jax.tree.map(lambda x, i=i: x[i : i + 1], episodes), (None,)) for i in range(5)]
    return call(params, episodes, (None, 1, 2, 5) if dtype == np.float64 else (None, 2)), alone


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chunks_and_rates_over_tasks(name, dtype):
    found, alone = over_tasks(dtype)
    whole, *chunked = jax.tree.map(np.asarray, found[name])
    chex.assert_trees_all_equal_dtypes(whole[0], problem(dtype)[0])
    tolerance = 1e-11 if dtype == np.float64 else 1e-4
    for one in chunked:
        chex.assert_trees_all_close(one, whole, rtol=tolerance)
    mean = jax.tree.map(lambda *x: sum(map(np.asarray, x)) / 5, *(one[name][0] for one in alone))
    chex.assert_trees_all_close(whole, mean, rtol=tolerance, atol=tolerance)


def temporaries(steps, **loop):
    """Bytes of temporaries of one meta-gradient of a wide network, and of its parameters."""
    width = 64
    params = {"a": jnp.ones((8, width)), "b": jnp.ones((width, width)), "c": jnp.ones((width, 1))}

    def loss(p, batch):
        x, y = batch
        return jnp.mean((jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"] - y) ** 2)

    data = jnp.ones((512, 8)), jnp.ones((512, 1))
    compiled = (
        jax.jit(lambda p, e: jaxmaml.maml_same_batch(loss, p, e, alpha=0.1, inner=InnerLoop(steps, **loop)))
        .lower(params, Episode(data, data, data))
        .compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes, sum(x.nbytes for x in jax.tree.leaves(params))


def test_memory_grows_by_one_set_of_parameters_a_step():
    few, size = temporaries(4)
    many, _ = temporaries(24)
    assert size <= (many - few) / 20 <= 1.1 * size
    kept, _ = temporaries(24, remat=False)
    assert kept > 4 * many


def test_a_masked_step_costs_less():
    params, episode = problem()

    def flops(loop):
        program = jax.jit(lambda p, e: jaxmaml.maml(network, p, e, alpha=0.1, inner=loop))
        return program.lower(params, episode).compile().cost_analysis()["flops"]

    assert flops(InnerLoop(mask=HEAD)) < 0.95 * flops(InnerLoop())


@pytest.mark.parametrize(
    ("loop", "says"),
    [
        ({"steps": 0}, "InnerLoop.steps = 0; allowed: an integer >= 1"),
        ({"mask": {"a": False}}, "InnerLoop.mask = {'a': False}; allowed: bools, at least one of them True"),
        ({"mask": 1.0}, "InnerLoop.mask = 1.0; allowed: bools"),
    ],
)
def test_bad_loop(loop, says):
    with pytest.raises(ValueError, match="^" + says.replace("{", r"\{")):
        InnerLoop(**loop)


def test_rates_of_an_optax_update_are_not_learned():
    params, episode = problem()
    with pytest.raises(ValueError, match="^learn_alpha = True with an optax transformation"):
        jaxmaml.maml(network, params, episode, alpha=optax.sgd(0.1), learn_alpha=True)


@pytest.mark.parametrize("name", ["maml", "fo_maml", "hf_maml", "maml_same_batch"])
@pytest.mark.parametrize(
    "update", [0.11, RATES, optax.adam(0.05, eps_root=1e-8)], ids=["rate", "rates", "adam"]
)
def test_nothing_compiles_after_the_first_call(name, update):
    """Outside jit, with one inner step; the learned rates where there are rates."""
    params, episodes = problem(tasks=3)
    episode = jax.tree.map(lambda x: x[0], episodes)
    more = {"delta": DELTA} if name == "hf_maml" else {}
    more["learn_alpha"] = not isinstance(update, optax.GradientTransformation)
    estimator = jaxmaml.estimators.get(name)

    def call():
        estimator(network, params, episode, alpha=update, **more)
        meta_gradient(estimator, network, params, episodes, alpha=update, **more)
        adapt(network, params, episode.inner, update)

    call()
    with compilations() as compiled:
        call()
    assert compiled == []


def at_zero_head(tasks=None):
    """Where the gradient of the body is exactly 0."""
    params, episode = problem(tasks=tasks)
    return {**params, "head": jax.tree.map(lambda x: jnp.asarray(np.zeros_like(x)), params["head"])}, episode


ROOTS = {
    "adam": optax.adam(0.05),
    "clip_by_block_rms": optax.chain(optax.clip_by_block_rms(1.0), optax.sgd(0.1)),
    "second in a chain": optax.chain(optax.trace(0.9), optax.scale_by_adam(), optax.scale(-0.1)),
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("update", ROOTS.values(), ids=ROOTS)
class TestUpdateWithoutDerivative:
    def test_estimators_say_so(self, update, steps):
        params, episode = at_zero_head()
        inner = InnerLoop(steps=steps)
        for estimator in (jaxmaml.maml, jaxmaml.maml_same_batch):
            with pytest.raises(
                FloatingPointError, match=r"^alpha: .* not finite at params\['body'\]\['bias'\],"
            ):
                estimator(loss, params, episode, alpha=update, inner=inner)

    def test_meta_gradient_names_the_task(self, update, steps):
        params, episodes = at_zero_head(tasks=3)
        call = functools.partial(
            meta_gradient, jaxmaml.maml, loss, params, alpha=update, inner=InnerLoop(steps)
        )
        with pytest.raises(FloatingPointError, match=r"params\['body'\]\['bias'\] for task 0, .*eps_root"):
            call(episodes)
        with pytest.raises(FloatingPointError, match=r"for task 0"):
            call(episodes, task_chunk=2)

    def test_traced(self, update, steps):
        """Inside jit and vmap: a bool a parameter and task; nothing is raised where no value is known."""
        params, episodes = at_zero_head(tasks=3)
        inner = InnerLoop(steps)

        @jax.jit
        def both(params, episodes):
            check = jax.vmap(lambda batch: adapt_has_finite_derivative(network, params, batch, update, inner))
            return check(episodes.inner), meta_gradient(
                jaxmaml.maml, network, params, episodes, alpha=update, inner=inner
            )

        found, direction = jax.tree.map(np.asarray, both(params, episodes))
        assert not found["body"]["bias"].any()
        assert found["head"][0].all()
        assert np.isnan(direction["body"]["bias"]).all()
        masked = adapt_has_finite_derivative(
            loss, params, jax.tree.map(lambda x: x[0], episodes.inner), update, InnerLoop(steps, HEAD)
        )
        assert jax.tree.all(masked)
        assert jax.tree.structure(masked) == jax.tree.structure(params)


def test_the_task_with_a_zero_gradient_is_named():
    """Clipping by the global norm: only the task that is solved already has a gradient of zero."""
    params, episodes = at_zero_head(tasks=3)
    x, y = episodes.inner
    solved = np.array(y)
    solved[2] = 0.0
    update = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    call = functools.partial(meta_gradient, jaxmaml.maml, loss, params, alpha=update)
    with pytest.raises(FloatingPointError, match="for task 2"):
        call(episodes._replace(inner=(x, jnp.asarray(solved))))
    others = jax.tree.map(lambda x: np.asarray(x)[:2], episodes)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.jit(call)(others)))


def test_nan_of_the_data_is_not_blamed_on_the_update():
    params, episode = problem()
    spoilt = episode._replace(outer=(episode.outer[0] * jnp.nan, episode.outer[1]))
    found = jaxmaml.maml(network, params, spoilt, alpha=optax.adam(0.05, eps_root=1e-8))
    assert np.isnan(found["head"][1])


class TestProximal:
    """f = a (w - c)^2 / 2 with updates -lr (g + lam (w - w_0)): w_K is linear in w_0, slope P_K."""

    A, RATE, PULL = np.array([1.0, 2.0, 3.0]), 0.1, 2.0

    @pytest.mark.parametrize("steps", [1, 2, 5])
    @pytest.mark.parametrize("estimator", [jaxmaml.maml, jaxmaml.maml_same_batch])
    @pytest.mark.parametrize("remat", [True, False])
    def test_state_made_of_the_parameters(self, estimator, steps, remat):
        def update(g, start, w):
            return jax.tree.map(lambda g, s, w: -self.RATE * (g + self.PULL * (w - s)), g, start, w), start

        def loss(w, batch):
            return 0.5 * jnp.sum(self.A * (w - jnp.mean(batch, axis=0)) ** 2)

        rng = np.random.default_rng(2)
        w, episode = rng.standard_normal(3), Episode(*rng.standard_normal((3, 5, 3)))
        x, slope = w, np.ones(3)
        for _ in range(steps):
            x = x - self.RATE * (self.A * (x - episode.inner.mean(axis=0)) + self.PULL * (x - w))
            slope = (1 - self.RATE * (self.A + self.PULL)) * slope + self.RATE * self.PULL
        found = estimator(
            loss,
            w,
            episode,
            alpha=optax.GradientTransformation(lambda w: w, update),
            inner=InnerLoop(steps, remat=remat),
        )
        np.testing.assert_allclose(found, slope * self.A * (x - episode.outer.mean(axis=0)), rtol=1e-12)


def test_a_loop_is_hashable():
    """Also with a mask that is a dict: a static argument of jit."""
    loops = [InnerLoop(2, mask={"body": False, "head": True}) for _ in range(2)]
    assert loops[0] == loops[1]
    assert hash(loops[0]) == hash(loops[1])
    assert loops[0] != InnerLoop(2, mask={"body": True, "head": True})


@pytest.mark.parametrize(
    ("alpha", "error", "says"),
    [
        (
            np.array([0.3, 0.1, 0.02]),
            ValueError,
            r"alpha of shape \(3,\) for params\['body'\]\['bias'\] of shape \(5,\)",
        ),
        ({"head": 0.1}, ValueError, "alpha = {'head': 0.1}; allowed: one value, or a pytree prefix"),
        ({"body": None, "head": 0.1}, ValueError, "alpha = .*allowed"),
        (lambda _: 0.1, TypeError, "alpha = .*allowed: numbers or an optax transformation"),
    ],
    ids=["rates of steps", "missing", "none", "schedule"],
)
def test_rates_that_do_not_fit(alpha, error, says):
    params, episode = problem()
    with pytest.raises(error, match=says):
        jaxmaml.maml(network, params, episode, alpha=alpha, inner=InnerLoop(3))
    with pytest.raises(error, match=says):
        adapt(network, params, episode.inner, alpha, InnerLoop(3))


@pytest.mark.parametrize("call", [jaxmaml.maml, jaxmaml.maml_same_batch], ids=lambda call: call.__name__)
def test_a_mask_that_does_not_fit(call):
    params, episode = problem()
    with pytest.raises(ValueError, match="mask = {'head': True}; allowed: one value, or a pytree prefix"):
        call(network, params, episode, alpha=0.1, inner=InnerLoop(mask={"head": True}))
    with pytest.raises(ValueError, match="mask = {'head': True}"):
        adapt(network, params, episode.inner, 0.1, InnerLoop(mask={"head": True}))
    with pytest.raises(ValueError, match="mask = {'head': True}"):
        jaxmaml.inner_gradient(network, mask={"head": True})(params, episode.inner)


def test_theorem_delta_with_rates():
    with pytest.raises(ValueError, match="alpha = {'head': 0.1}; allowed: finite and > 0"):
        jaxmaml.theorem_delta(1.0, {"head": 0.1})


def of_steps(steps):
    """Parameters, and an episode whose D_in and D_h are `steps` batches."""
    params, episodes = problem(tasks=steps)
    return params, episodes._replace(outer=jax.tree.map(lambda x: x[0], episodes.outer))


UPDATES = {"rate": 0.11, "adam": optax.adam(0.05, eps_root=1e-8)}


PRODUCTS = {
    "maml": jaxmaml.hvp.exact,
    "maml_same_batch": jaxmaml.hvp.exact,
    "fo_maml": jaxmaml.hvp.none,
    "hf_maml": jaxmaml.hvp.difference(jaxmaml.ArcDelta(0.03)),
}


@functools.partial(jax.jit, static_argnames=("name", "kind"))
def step_of_ones_own(params, state, inner, there, name, kind):
    update = UPDATES[kind]
    gradient = jaxmaml.inner_gradient(network, PRODUCTS[name])(
        params, inner, there if name in ("maml", "hf_maml") else None
    )
    if kind == "rate":
        updates = jax.tree.map(lambda x: -update * x, gradient)
    else:
        updates, state = update.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def by_hand(params, episode, steps, name, kind):
    """A batch a step, in a loop of one's own."""
    state = None if kind == "rate" else UPDATES[kind].init(params)
    for k in range(steps):
        inner, there = (jax.tree.map(lambda x, k=k: x[k], b) for b in (episode.inner, episode.hessian))
        params, state = step_of_ones_own(params, state, inner, there, name, kind)
    return loss(params, episode.outer)


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize(("steps", "levels"), [(1, 1), (3, 1), (3, 2), (7, 2), (7, 3)])
def test_a_batch_for_every_step(kind, steps, levels):
    params, episode = jax.tree.map(np.asarray, of_steps(steps))

    @jax.jit
    def every(params, episode):
        inner = InnerLoop(steps, batch_per_step=True, checkpoint_levels=levels)
        return {
            name: jaxmaml.estimators.get(name)(
                network,
                params,
                episode,
                alpha=UPDATES[kind],
                inner=inner,
                **({"delta": jaxmaml.ArcDelta(0.03)} if name == "hf_maml" else {}),
            )
            for name in PRODUCTS
        }

    found = jax.tree.map(np.asarray, every(params, episode))
    expected = {name: jax.grad(by_hand)(params, episode, steps, name, kind) for name in PRODUCTS}
    chex.assert_trees_all_close(found, expected, rtol=1e-8, atol=1e-12)
    assert not np.allclose(flat(found["maml"]), flat(found["maml_same_batch"]), rtol=1e-3)


def test_adapt_on_a_batch_for_every_step():
    params, episode = of_steps(3)
    loop = InnerLoop(3, batch_per_step=True)
    found = adapt(network, params, episode.inner, 0.11, loop)
    for k in range(3):
        params = adapt(network, params, jax.tree.map(lambda x, k=k: x[k], episode.inner), 0.11)
    chex.assert_trees_all_close(found, params, rtol=1e-12)
    assert jax.tree.all(adapt_has_finite_derivative(network, params, episode.inner, 0.11, loop))


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("remat", [True, False])
def test_nested_checkpoints_change_nothing(levels, remat):
    params, episode = problem()

    @jax.jit
    def both(params, episode):
        return [
            jaxmaml.maml(network, params, episode, alpha=RATES, inner=loop, learn_alpha=True)
            for loop in (InnerLoop(11, HEAD, remat, checkpoint_levels=levels), InnerLoop(11, HEAD))
        ]

    found, expected = both(params, episode)
    chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-13)


def test_nested_checkpoints_bound_memory():
    """Of 100 steps 100 sets of parameters are kept, or 2 * 10, or 3 * 100^(1/3) = 14; the rest is equal."""
    kept, size = temporaries(100)
    for levels, sets in ((2, 20), (3, 14)):
        nested, _ = temporaries(100, checkpoint_levels=levels)
        assert abs((kept - nested) / size - (100 - sets)) <= 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda e: e._replace(inner=e.outer),
            r"the inner\[0\] batch has shape \(\d+, 2\) with InnerLoop\(steps=3",
        ),
        (
            lambda e: e._replace(hessian=e.outer),
            r"the hessian\[0\] batch has shape .*allowed: a leading axis of 3",
        ),
    ],
)
def test_batches_of_steps_that_are_missing(change, says):
    params, episode = of_steps(3)
    with pytest.raises(ValueError, match=says):
        jaxmaml.maml(network, params, change(episode), alpha=0.1, inner=InnerLoop(3, batch_per_step=True))
