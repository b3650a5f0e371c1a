"""iMAML and FO-B-MAML against closed forms, and against finite differences of the solved objective.

On quadratics f = (w - c)'A(w - c)/2 on D_in and (w - o)'B(w - o)/2 on D_o the minimum is a linear system, and
F and F_nu are quadratic in w: central differences of them are exact, whatever their step.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from small_network import network, problem

import jaxmaml
from jaxmaml import Episode, InnerLoop, fo_b_maml, imaml

pytestmark = pytest.mark.recorded

NU, LAM, K = 0.3, 2.5, 400


def quadratic(w, batch):
    hessian, center = (x[0] for x in batch)
    away = jnp.concatenate([w["one"], w["two"]]) - center
    return away @ hessian @ away / 2


def matrix(rng, low, high):
    """With eigenvalues from low to high."""
    basis, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return basis @ np.diag([low, (low + high) / 2, high]) @ basis.T


RNG = np.random.default_rng(4)
A, B = matrix(RNG, 0.5, 2.5), matrix(RNG, -0.3, 0.7)
C, O, W = RNG.standard_normal(3) + 1, RNG.standard_normal(3), 2 * RNG.standard_normal(3) - 0.5
TREE = {"one": W[:1], "two": W[1:]}
IN, OUT = (A[None], C[None]), (B[None], O[None])
EPISODE = Episode(IN, None, OUT)
RATES = {"one": 0.3, "two": 0.1}
HEAD = {"one": False, "two": True}
CASES = {  # alpha and the rest of the call; a of every coordinate; which adapt
    "rates": ({"alpha": RATES}, [0.3, 0.1, 0.1], [0, 1, 2]),
    "a rate per weight": ({"alpha": {"one": 0.3, "two": np.array([0.1, 0.25])}}, [0.3, 0.1, 0.25], [0, 1, 2]),
    "without a step": ({"alpha": 0.0}, [0.0] * 3, [0, 1, 2]),
    "mask": ({"alpha": RATES, "mask": HEAD}, [0.3, 0.1, 0.1], [1, 2]),
    "lam": ({"alpha": 0.15, "lam": LAM}, [1 / LAM] * 3, [0, 1, 2]),
    "lam and mask": ({"alpha": 0.15, "lam": LAM, "mask": HEAD}, [1 / LAM] * 3, [1, 2]),
    "lam, optax": ({"alpha": optax.sgd(0.1, momentum=0.5), "lam": LAM}, [1 / LAM] * 3, [0, 1, 2]),
    "lam, a schedule": (
        {"alpha": np.linspace(0.2, 0.1, K), "lam": LAM, "rate_per_step": True},
        [1 / LAM] * 3,
        [0, 1, 2],
    ),
}
METHODS = {"imaml": functools.partial(imaml, cg_steps=6), "fo_b_maml": functools.partial(fo_b_maml, nu=NU)}


@functools.cache
def solved():
    """By case and method: the direction of the inner problem solved, and learned rates by method."""

    @jax.jit
    def every(tree, episode):
        found = {}
        for case, (call, _, _) in CASES.items():
            loop = {key: call[key] for key in ("mask", "rate_per_step") if key in call}
            more = {key: value for key, value in call.items() if key not in loop}
            for name, method in METHODS.items():
                found[case, name] = method(quadratic, tree, episode, inner=InnerLoop(K, **loop), **more)
        rates = {
            name: method(quadratic, tree, episode, alpha=RATES, inner=InnerLoop(K), learn_alpha=True)
            for name, method in METHODS.items()
        }
        return found, rates

    return every(TREE, EPISODE)


def inner_problem(w, a, free, nu):
    """(phi, least value) of f(phi; D_in) + nu f(phi; D_o) + ||phi - w||^2 / (2 a) in the free coordinates."""
    a, phi = np.array(a)[free], w.copy()
    hessian, slope = A + nu * B, A @ (w - C) + nu * B @ (w - O)
    phi[free] -= np.linalg.solve(
        np.eye(len(free)) + a[:, None] * hessian[np.ix_(free, free)], a * slope[free]
    )
    away = phi - w
    with np.errstate(invalid="ignore"):
        pull = np.where(away[free] == 0, 0.0, away[free] ** 2 / (2 * a)).sum()
    value = (phi - C) @ A @ (phi - C) / 2 + nu * (phi - O) @ B @ (phi - O) / 2 + pull
    return phi, value


def imaml_objective(w, a, free):
    phi, _ = inner_problem(w, a, free, 0.0)
    return (phi - O) @ B @ (phi - O) / 2


def fo_b_maml_objective(w, a, free):
    return (inner_problem(w, a, free, NU)[1] - inner_problem(w, a, free, -NU)[1]) / (2 * NU)


OBJECTIVES = {"imaml": imaml_objective, "fo_b_maml": fo_b_maml_objective}


def differences(function, x, step):
    return np.array([(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(len(x))])


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_closed_form(case, name):
    _, a, free = CASES[case]
    expected = differences(lambda w: OBJECTIVES[name](w, a, free), W, 1.0)
    np.testing.assert_allclose(flat(solved()[0][case, name]), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", METHODS)
def test_learned_rates(name):
    G, rates = solved()[1][name]
    np.testing.assert_allclose(flat(G), flat(solved()[0]["rates", name]), rtol=1e-12)
    each = differences(lambda a: OBJECTIVES[name](W, a, [0, 1, 2]), np.array([0.3, 0.1, 0.1]), 1e-4)
    np.testing.assert_allclose([rates["one"], rates["two"]], [each[0], each[1] + each[2]], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_inner_problem_is_not_solved(steps):
    """iMAML takes the solution's derivative at phi_K = phi + (-aA)^K (w - phi); FO-B-MAML is NumPy's loop."""
    a = np.array([0.3, 0.1, 0.1])

    def iterate(nu):
        phi = W
        for _ in range(steps):
            phi = W - a * (A @ (phi - C) + nu * B @ (phi - O))
        return phi

    phi, _ = inner_problem(W, a, [0, 1, 2], 0.0)
    last = phi + np.linalg.matrix_power(-a[:, None] * A, steps) @ (W - phi)
    np.testing.assert_allclose(last, iterate(0.0), rtol=1e-12)
    implicit = np.linalg.solve(np.eye(3) + A * a, B @ (last - O))
    ends = [(iterate(s), s) for s in (NU, -NU)]
    ahead, behind = (A @ (end - C) + s * B @ (end - O) for end, s in ends)

    @jax.jit
    def both(tree, episode):
        inner = InnerLoop(steps)
        return {n: m(quadratic, tree, episode, alpha=RATES, inner=inner) for n, m in METHODS.items()}

    found = both(TREE, EPISODE)
    np.testing.assert_allclose(flat(found["imaml"]), implicit, rtol=1e-11)
    np.testing.assert_allclose(flat(found["fo_b_maml"]), (ahead - behind) / (2 * NU), rtol=1e-11)
    if steps == 1:  # its limit for a small nu, which is linear in nu here
        plus = W - a * (A @ (W - C))
        limit = B @ (plus - O) - A @ (a * (B @ (W - O)))
        small = jax.jit(lambda: fo_b_maml(quadratic, TREE, EPISODE, alpha=RATES, nu=1e-4))()
        np.testing.assert_allclose(flat(small), limit, rtol=1e-7)


NUS = np.array([0.2, 0.1, 0.05])


@functools.cache
def on_the_network():
    """(iMAML, FO-B-MAML at each of NUS, central differences of the solved objective) in float64."""
    params, episode = problem()
    _, unravel = ravel_pytree(params)
    alpha, inner, step = 0.02, InnerLoop(60), 1e-5

    def objective(w, episode):
        def closer(_, phi):
            return w - alpha * ravel_pytree(jax.grad(network)(unravel(phi), episode.inner))[0]

        return network(unravel(jax.lax.fori_loop(0, 60, closer, w)), episode.outer)

    @jax.jit
    def every(params, episode, nus):
        exact = imaml(network, params, episode, alpha=alpha, inner=inner, cg_steps=30)
        near = jax.vmap(lambda nu: fo_b_maml(network, params, episode, alpha=alpha, inner=inner, nu=nu))(nus)
        w, _ = ravel_pytree(params)
        steps = step * jnp.concatenate([jnp.eye(len(w)), -jnp.eye(len(w))])
        values = jax.vmap(lambda e: objective(w + e, episode))(steps)
        return exact, near, (values[: len(w)] - values[len(w) :]) / (2 * step)

    exact, near, expected = every(params, episode, NUS)
    of_each = [flat(jax.tree.map(lambda x, i=i: x[i], near)) for i in range(len(NUS))]
    return flat(exact), of_each, np.asarray(expected)


def test_implicit_gradient_is_that_of_the_solved_objective():
    exact, _, expected = on_the_network()
    np.testing.assert_allclose(exact, expected, rtol=1e-6, atol=1e-8)


def test_the_error_of_the_symmetric_difference_is_of_order_nu_squared():
    exact, near, _ = on_the_network()
    errors = [np.linalg.norm(found - exact) / np.linalg.norm(exact) for found in near]
    assert errors[-1] > 1e-5
    orders = np.diff(np.log(errors)) / np.diff(np.log(NUS))
    np.testing.assert_allclose(orders, 2.0, atol=0.1)


def diagonal(w, batch):
    return jnp.sum(batch[0] * (w - batch[1]) ** 2) / 2


def test_a_system_that_is_not_definite_is_nan():
    """1 + alpha h < 0 for the second task, which is named; not where nothing is asked of that direction."""
    h = np.array([[1.0, 0.5], [1.0, -3.0], [1.0, -3.0]])
    inner = np.stack([h, np.ones((3, 2))], axis=1)
    outer = np.stack([np.ones((3, 2)), np.full((3, 2), 2.0)], axis=1)
    w = np.array([1.0, 3.0])
    # alpha = 1/2: phi_1 = w - h (w - 1)/2 = (1, 6) for the last two; there v = (0, 0) by its outer batch.
    outer[2] = [[1.0, 1.0], [4.0, 6.0]]
    episodes = Episode(inner, inner, outer)

    @jax.jit
    def every(w, episodes):
        finite = jaxmaml.finite_tasks(imaml, diagonal, w, episodes, alpha=0.5)
        return finite, *(
            jaxmaml.meta_gradient(imaml, diagonal, w, episodes, alpha=0.5, weights=p)
            for p in (None, finite, jnp.array([0.0, 0.0, 1.0]))
        )

    finite, spoilt, mended, last = every(w, episodes)
    np.testing.assert_array_equal(finite, [True, False, True])
    assert np.isnan(spoilt).all()
    np.testing.assert_allclose(last, [(1 - 4) / (1 + 0.5), 0.0], rtol=1e-12)
    phi = w - h[0] * (w - 1) / 2
    np.testing.assert_allclose(mended, ((phi - 2) / (1 + h[0] / 2) + last) / 2, rtol=1e-12)


def test_few_conjugate_gradients():
    """The error of u in the norm of 1/a + H is at most 2 q^m; with v = 0 there is nothing to solve."""
    h, a = np.linspace(0.02, 1.0, 8), 1.0
    rng = np.random.default_rng(1)
    inner, outer, w = np.stack([h, h]), np.stack([np.ones(8), rng.standard_normal(8)]), 3 * np.ones(8)
    episode = Episode(inner, inner, outer)

    @jax.jit
    def every(w, episode):
        few = [imaml(diagonal, w, episode, alpha=a, cg_steps=m) for m in (1, 2, 3)]
        still = imaml(diagonal, w, episode._replace(outer=0 * episode.outer), alpha=a)
        return [*few, imaml(diagonal, w, episode, alpha=a)], still

    found, still = every(w, episode)
    v = w - a * h * (w - h) - outer[1]
    exact = v / (1 + a * h)
    q = (np.sqrt(2) - 1) / (np.sqrt(2) + 1)

    def size(x):  # of u = (v - G) / h, by its product with H
        return np.sqrt(np.sum((1 / a + h) * (x / h) ** 2))

    for m, G in zip((1, 2, 3, 5), found, strict=True):
        error = size(np.asarray(G) - exact) / size(v - exact)
        assert 1e-9 < error <= 2 * q**m
    assert 2 * q**5 < 3.01e-4
    np.testing.assert_array_equal(still, 0.0)


@pytest.mark.parametrize("method", [imaml, fo_b_maml])
def test_memory_does_not_grow_with_the_steps(method):
    params = {"a": jnp.ones((8, 64)), "b": jnp.ones((64, 64)), "c": jnp.ones((64, 1))}

    def loss(p, batch):
        return jnp.mean((jnp.tanh(jnp.tanh(batch @ p["a"]) @ p["b"]) @ p["c"] - 1) ** 2)

    data = jnp.ones((128, 8))

    def temporaries(steps):
        call = jax.jit(lambda p, e: method(loss, p, e, alpha=0.1, inner=InnerLoop(steps)))
        compiled = call.lower(params, Episode(data, data, data)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(24) <= 1.01 * temporaries(4)


@pytest.mark.parametrize("method", [imaml, fo_b_maml])
@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"alpha": 0.1, "lam": 0.0}, "lam = 0.0; allowed: finite and > 0"),
        ({"alpha": optax.sgd(0.1)}, "lam = None with an optax transformation; allowed: a number > 0"),
        (
            {"alpha": 0.1, "lam": 1.0, "learn_alpha": True},
            "learn_alpha = True with lam = 1.0; allowed: without",
        ),
        (
            {"alpha": np.full(2, 0.1), "inner": InnerLoop(2, rate_per_step=True)},
            "lam = None with a rate for every step; allowed: a number > 0",
        ),
        (
            {"alpha": 0.1, "inner": InnerLoop(2, batch_per_step=True)},
            "inner.batch_per_step = True with a proximal inner problem; allowed: False",
        ),
    ],
)
def test_calls_without_an_inner_problem(method, call, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        method(quadratic, TREE, EPISODE, **call)


def test_bad_numbers_of_one_method():
    with pytest.raises(ValueError, match="^nu = -0.1; allowed: finite and > 0"):
        fo_b_maml(quadratic, TREE, EPISODE, alpha=0.1, nu=-0.1)
    with pytest.raises(ValueError, match="^cg_steps = 0; allowed: an integer >= 1"):
        imaml(quadratic, TREE, EPISODE, alpha=0.1, cg_steps=0)
