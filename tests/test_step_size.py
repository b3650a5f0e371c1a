"""The theorem's step as an optax transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmaml import scale_by_theorem_step
from jaxmaml.theory import smoothness

ARGUMENTS = {"c": 1 / 12, "L": 3.0, "rho": 2.0, "alpha": 0.07}
PARAMS = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
UPDATES = {"a": jnp.array([4.0, -5.0]), "b": jnp.array(0.5)}
NORMS = jnp.array([7.0, 9.0, 20.0])


def test_formula():
    transform = scale_by_theorem_step(**ARGUMENTS)
    updates, state = transform.update(UPDATES, transform.init(PARAMS), PARAMS, task_grad_norms=NORMS)
    expected = 4 * 3.0 + 2 * 2.0 * 0.07 * (7 + 9 + 20) / 3
    assert float(state.smoothness) == pytest.approx(expected, rel=1e-14)
    assert float(state.step_size) == pytest.approx(1 / 12 / expected, rel=1e-14)
    np.testing.assert_allclose(updates["a"], -np.array([4.0, -5.0]) / 12 / expected)
    np.testing.assert_allclose(updates["b"], -0.5 / 12 / expected)


def test_smoothness_agrees_with_the_lemma():
    from jaxmaml import Constants, step_size

    constants = Constants(L=3.0, rho=2.0, sigma=0.0)
    found = step_size.estimated_smoothness(3.0, 2.0, 0.07, NORMS)
    assert float(found) == pytest.approx(smoothness.smoothness(constants, 0.07, 12.0))


def test_initial_state_is_the_largest_step():
    state = scale_by_theorem_step(**ARGUMENTS).init(PARAMS)
    assert float(state.step_size) == pytest.approx(1 / 12 / 12)
    assert float(state.smoothness) == 12.0


def test_forgotten_norms_are_an_error():
    transform = scale_by_theorem_step(**ARGUMENTS)
    with pytest.raises(TypeError, match="task_grad_norms"):
        transform.update(UPDATES, transform.init(PARAMS), PARAMS)


def test_norm_of_the_updates_is_never_read():
    transform = scale_by_theorem_step(**ARGUMENTS)
    scaled = jax.tree.map(lambda x: 1e6 * x, UPDATES)
    one, two = (
        transform.update(u, transform.init(PARAMS), task_grad_norms=NORMS)[1].step_size
        for u in (UPDATES, scaled)
    )
    assert one == two


def test_in_a_chain_and_beside_other_extra_arguments():
    chain = optax.chain(optax.clip_by_global_norm(1.0), scale_by_theorem_step(**ARGUMENTS))
    state = chain.init(PARAMS)
    updates, state = jax.jit(chain.update)(
        UPDATES, state, PARAMS, task_grad_norms=NORMS, value=jnp.array(3.0)
    )
    length = float(optax.tree.norm(UPDATES))
    expected = 1 / 12 / float(state[1].smoothness) / length
    np.testing.assert_allclose(updates["a"], -expected * UPDATES["a"], rtol=1e-6)
    moved = optax.apply_updates(PARAMS, updates)
    assert jax.tree.structure(moved) == jax.tree.structure(PARAMS)


def test_dtype_of_the_updates_is_kept():
    low = jax.tree.map(lambda x: x.astype(jnp.float32), UPDATES)
    transform = scale_by_theorem_step(**ARGUMENTS)
    updates, _ = transform.update(low, transform.init(low), task_grad_norms=NORMS)
    assert updates["a"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": 0.0}, "c = 0.0; allowed: finite and > 0"),
        ({"L": -1.0}, "L = -1.0; allowed: finite and > 0"),
        ({"rho": -1.0}, "rho = -1.0; allowed: finite and >= 0"),
        ({"alpha": np.nan}, "alpha = nan; allowed: finite and >= 0"),
    ],
)
def test_bad_numbers(change, message):
    with pytest.raises(ValueError, match=message):
        scale_by_theorem_step(**(ARGUMENTS | change))
