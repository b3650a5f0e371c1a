"""The kinds of cells that claims share, each against the same computed step by step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sweep
from experiments.cells import AtPoints, FirstHits, Quantity, Sampled, theorem_run
from jaxmaml import objective
from jaxmaml.tasks import cosine
from jaxmaml.types import BatchSizes

pytestmark = pytest.mark.recorded

FAMILY = cosine.make(n=5, d=2, tau=0.5, seed=4)
ALPHA = 0.1 / FAMILY.constants().L


@Quantity
def distance(family, w, alpha, factor=1.0):
    return {"distance": factor * jnp.linalg.norm(w) / alpha}


@Quantity
def draws(key, size, family, w, alpha, low, high):
    x = jax.random.uniform(key, (size,), minval=low, maxval=high)
    return {"x": x, "vector": jnp.stack([x, 2 * x], axis=1)}


@Quantity
def named(key, size, family, w, alpha, estimator):
    return {"length": jnp.full(size, float(len(estimator)))}


def rows(*cells):
    return sweep.sweep([({"which": i}, cell) for i, cell in enumerate(cells)], FOLDER[0], quiet=True)[0]


FOLDER = []


@pytest.fixture(autouse=True)
def folder(tmp_path):
    FOLDER[:] = [tmp_path]


def test_values_at_points():
    points = np.random.default_rng(0).standard_normal((70, 2))
    found = rows(AtPoints(distance, FAMILY, ALPHA, points, {"factor": 3.0}))
    expected = 3 * np.linalg.norm(points, axis=1) / ALPHA
    np.testing.assert_allclose(found.distance, expected, rtol=1e-12)


def test_sampled_mean_and_its_error():
    """Uniform on [1, 4]: mean 2.5, variance 9/12."""
    cell = Sampled(draws, FAMILY, np.ones(2), ALPHA, {"low": 1.0, "high": 4.0}, seed=3, blocks=50, size=400)
    found = rows(cell)
    error = np.sqrt(9 / 12 / 20_000)
    np.testing.assert_allclose(found.x_error, error, rtol=0.02)
    assert abs(found.x.iloc[0] - 2.5) < 5 * error
    np.testing.assert_allclose(found.vector, [found.x.iloc[0], 2 * found.x.iloc[0]], rtol=1e-12)
    np.testing.assert_allclose(found.vector_error, [error, 2 * error], rtol=0.02)


def test_sampled_error_covers_what_it_says():
    """Over seeds, the distance from the truth in standard errors has the variance 1."""
    cells = [
        Sampled(draws, FAMILY, np.ones(2), ALPHA, {"low": 0.0, "high": 1.0}, seed=s, blocks=4, size=100)
        for s in range(400)
    ]
    found = rows(*cells).drop_duplicates("which")
    z = (found.x - 0.5) / found.x_error
    assert abs(np.var(z) - 1) < 0.25


def test_sampled_names_its_estimator():
    cell = Sampled(named, FAMILY, np.ones(2), ALPHA, {}, seed=0, blocks=1, size=4, estimator="hf_maml")
    assert rows(cell).length.iloc[0] == 7


def test_function_keeps_its_key():
    """Two objects of one function are one cell; another function is another cell."""
    one = AtPoints(distance, FAMILY, ALPHA, np.ones((1, 2)))
    again = AtPoints(Quantity(distance.function), FAMILY, ALPHA, np.ones((1, 2)))
    other = dataclasses.replace(one, function=named)
    key = [sweep.cell_key(cell, sweep.signature(cell)) for cell in (one, again, other)]
    assert key[0] == key[1] != key[2]
    assert "0x" not in sweep.signature(one)


def run(steps, **more):
    return theorem_run(FAMILY, "maml", ALPHA, np.full(2, 3.0), record=tuple(range(steps + 1)), **more)


@pytest.mark.parametrize("sizes", [BatchSizes(), BatchSizes(B=3, D_in=2.0, D_o=2.0, D_h=2.0)])
def test_first_hits_against_every_step(sizes):
    curve = rows(run(300, sizes=sizes, seed=5)).grad_norm.to_numpy()
    epsilons = np.append(np.geomspace(2 * curve[0], 1.01 * curve.min(), 40), 1e-9)
    found = rows(FirstHits(run(300, sizes=sizes, seed=5), epsilons))
    expected = [np.flatnonzero(curve <= e)[0] if (curve <= e).any() else np.nan for e in epsilons]
    np.testing.assert_array_equal(found.hit, expected)
    assert found.hit.iloc[0] == 0
    assert np.isnan(found.hit.iloc[-1])


def test_first_hits_of_a_run_that_diverges():
    cell = FirstHits(dataclasses.replace(run(300), c=1e6), np.array([1e-3]))
    assert np.isnan(rows(cell).hit.iloc[0])


def test_run_with_an_observer():
    found = rows(run(5, seed=1), dataclasses.replace(run(5, seed=1), observe=distance))
    plain, seen = (found[found.which == i] for i in (0, 1))
    np.testing.assert_array_equal(plain.grad_norm.to_numpy(), seen.grad_norm.to_numpy())
    assert seen.distance.iloc[0] == pytest.approx(np.linalg.norm(np.full(2, 3.0)) / ALPHA)
    w = np.full(2, 3.0)
    assert seen.grad_norm.iloc[0] == pytest.approx(
        float(jnp.linalg.norm(objective.grad_F(FAMILY, jnp.asarray(w), ALPHA)))
    )
