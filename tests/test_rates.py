"""Rates per step and per weight, of every estimator: against closed forms and a loop written by hand."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_network import network, problem

import jaxmaml
from jaxmaml import Episode, InnerLoop, estimators

pytestmark = pytest.mark.recorded

K, DIM, LAM, NU = 3, 3, 1.3, 0.3
RNG = np.random.default_rng(2)
H, B = np.array([0.5, 1.5, -0.4]), np.array([1.2, 0.3, 2.0])
C, O, W = RNG.standard_normal(DIM) + 1, RNG.standard_normal(DIM), 2 * RNG.standard_normal(DIM)
PER_WEIGHT, PER_STEP = np.array([0.3, 0.1, 0.6]), np.array([0.5, 0.2, 0.05])
BOTH = RNG.uniform(0.05, 0.6, (K, DIM))
ALL_STEPS = InnerLoop(K, rate_per_step=True)
KINDS = {  # K = 3 steps of 3 weights: the shape alone does not tell the one from the other
    "weight": (PER_WEIGHT, InnerLoop(K), np.tile(PER_WEIGHT, (K, 1))),
    "step": (PER_STEP, ALL_STEPS, np.tile(PER_STEP[:, None], (1, DIM))),
    "step and weight": (BOTH, ALL_STEPS, BOTH),
    "step, of one": (BOTH[:1], InnerLoop(1, rate_per_step=True), BOTH[:1]),
}
NAMES = sorted(estimators.estimators())


def takes(name):
    return inspect.signature(estimators.get(name)).parameters


def solves(name):
    """Whether its rates per step are those of the solver of an inner problem."""
    return "lam" in takes(name)


def loss(w, batch):
    h, center = batch
    return jnp.sum(h * (w - center) ** 2) / 2


EPISODE = Episode((H, C), (H, C), (B, O))


def arguments(name, kind):
    more = {"delta": 0.1, "nu": NU}
    found = {key: value for key, value in more.items() if key in takes(name)}
    if solves(name) and kind != "weight":
        return found | {"lam": LAM}
    return found | ({"learn_alpha": True} if "learn_alpha" in takes(name) else {})


@functools.cache
def on_the_quadratic():
    @jax.jit
    def every(w, episode, rates):
        return {
            (kind, name): estimators.get(name)(
                loss, w, episode, alpha=rates[kind], inner=inner, **arguments(name, kind)
            )
            for kind, (_, inner, _) in KINDS.items()
            for name in NAMES
        }

    return every(W, EPISODE, {kind: rates for kind, (rates, _, _) in KINDS.items()})


def path_of(rates):
    """w_0, ..., w_K"""
    path = [W]
    for a in rates:
        path.append(path[-1] - a * H * (path[-1] - C))
    return path


def chain(rates, factor):
    """(G, dF/da_k of every weight): v times the factors 1 - a_k factor of all steps, or of those after k."""
    path = path_of(rates)
    v, slopes = B * (path[-1] - O), []
    for a, w in zip(rates[::-1], path[-2::-1], strict=True):
        slopes.append(-v * H * (w - C))
        v = v * (1 - a * factor)
    return v, np.array(slopes[::-1])


def after_solving(name, rates, lam):
    """(G, the slope whose product with -G is dF/da), of an inner problem with a = rates[0], or 1/lam."""

    def slope(phi, nu):
        return H * (phi - C) + nu * B * (phi - O)

    def end(nu):
        phi = W
        for a in rates:
            phi = W - a * slope(phi, nu) if lam is None else phi - a * (slope(phi, nu) + lam * (phi - W))
        return phi

    if name == "imaml":
        phi, a = end(0.0), rates[0] if lam is None else 1 / lam
        return B * (phi - O) / (1 + a * H), slope(phi, 0.0)
    ahead, behind = (slope(end(nu), nu) for nu in (NU, -NU))
    return (ahead - behind) / (2 * NU), (ahead + behind) / 2


def expected(kind, name):
    """(G, rates or None)"""
    _, _, rates = KINDS[kind]
    if solves(name):
        learned = kind == "weight"
        G, slope = after_solving(name, rates, None if learned else LAM)
        return G, -G * slope if learned else None
    if "learn_alpha" not in takes(name):
        return sum(H * (w - C) for w in path_of(rates)[:-1]), None
    G, slopes = chain(rates, 0.0 if name == "fo_maml" else H)
    return G, {"weight": slopes.sum(axis=0), "step": slopes.sum(axis=1)}.get(kind, slopes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_closed_form(kind, name):
    direction, rates = expected(kind, name)
    found = on_the_quadratic()[kind, name]
    if rates is None:
        np.testing.assert_allclose(found, direction, rtol=1e-9)
    else:
        np.testing.assert_allclose(found[0], direction, rtol=1e-9)
        np.testing.assert_allclose(found[1], rates, rtol=1e-8)
        assert found[1].shape == KINDS[kind][0].shape


NESTED = {
    "body": {"kernel": RNG.uniform(0.02, 0.1, (K, 2, 5)), "bias": np.array([0.1, 0.05, 0.02])},
    "head": np.array([0.07, 0.03, 0.11]),
}


def by_hand(params, rates, episodes):
    """The mean over tasks of f(w_K; D_o), written out."""

    def one(task):
        some, w = jax.tree.map(lambda x: x[task], episodes), params
        for k in range(K):
            g = jax.grad(network)(w, some.inner)
            a = jax.tree.map(lambda x, k=k: x[k], rates)
            w = {
                "body": {name: w["body"][name] - a["body"][name] * g["body"][name] for name in w["body"]},
                "head": [x - a["head"] * y for x, y in zip(w["head"], g["head"], strict=True)],
            }
        return network(w, some.outer)

    return sum(map(one, range(2))) / 2


def test_a_network_equals_autodiff_of_a_loop():
    """Nested rates over tasks, in chunks and on two devices; and `adapt` is that loop too."""
    params, episodes = problem(tasks=2)
    nested = InnerLoop(K, rate_per_step=True, checkpoint_levels=2)
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))

    @jax.jit
    def every(params, rates, episodes):
        found = [
            jaxmaml.meta_value_and_gradient(
                jaxmaml.maml_same_batch,
                network,
                params,
                episodes,
                alpha=rates,
                learn_alpha=True,
                **more,
            )[:3]
            for more in ({"task_chunk": 1, "inner": nested}, {"mesh": mesh, "inner": ALL_STEPS})
        ]
        return found, jax.vmap(
            lambda e: network(jaxmaml.adapt(network, params, e.inner, rates, ALL_STEPS), e.outer)
        )(episodes)

    found, values = every(params, NESTED, episodes)
    value, gradient = jax.jit(jax.value_and_grad(by_hand, (0, 1)))(params, NESTED, episodes)
    np.testing.assert_allclose(values.mean(), value, rtol=1e-12)
    for one in found:
        chex.assert_trees_all_close(one, (value, *gradient), rtol=1e-10)


@pytest.mark.parametrize(
    ("alpha", "inner", "says"),
    [
        (PER_STEP, InnerLoop(2, rate_per_step=True), r"alpha of shape \(3,\) .*the axis of 2 steps first"),
        (
            0.1,
            ALL_STEPS,
            r"alpha of shape \(\) for params of shape \(3,\); allowed: a number, or .* with the axis",
        ),
        (
            BOTH,
            InnerLoop(K),
            r"alpha of shape \(3, 3\) .*\(for a rate a step: InnerLoop\(rate_per_step=True\)\)",
        ),
        (optax.sgd(0.1), ALL_STEPS, "inner.rate_per_step = True with an optax transformation"),
        (-PER_STEP, ALL_STEPS, "alpha = .*; allowed: finite and >= 0"),
    ],
)
def test_rates_that_do_not_fit(alpha, inner, says):
    for call in (
        lambda: jaxmaml.maml(loss, W, EPISODE, alpha=alpha, inner=inner),
        lambda: jaxmaml.adapt(loss, W, EPISODE.inner, alpha, inner),
    ):
        with pytest.raises(ValueError, match=f"^{says}"):
            call()


def test_a_loop_is_hashed_with_it():
    assert hash(ALL_STEPS) != hash(InnerLoop(K))
