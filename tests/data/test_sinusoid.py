"""The law of the sine waves and their points, and that they are waves.

Keys are fixed. LEVEL is the probability with which a sound generator fails one check of a law for another
key; there are about a hundred checks, so that it is 1e-4 for all of them together.
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxmaml import Episode
from jaxmaml.data.sinusoid import Sinusoid

LEVEL = 1e-6
MOVED = Sinusoid(support=3, hessian=2, query=4, amplitude=(0.5, 2.0), phase=(-1.0, 0.25), x=(2.0, 7.0))


def uniform(values, ends):
    low, high = ends
    values = np.asarray(values, float).ravel()
    return scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > LEVEL


# With one point a batch all shapes are alike: draws with one key would then be the same.
@pytest.mark.parametrize(
    "distribution", [Sinusoid(), MOVED, Sinusoid(1, 1, 1)], ids=["defaults", "moved", "one-point"]
)
class TestLaw:
    def test_uniform(self, distribution):
        waves = distribution.waves(jax.random.key(0), 20_000)
        assert uniform(waves.amplitude, distribution.amplitude)
        assert uniform(waves.phase, distribution.phase)
        for x, _ in distribution.episodes(jax.random.key(1), 3000):
            assert uniform(x, distribution.x)

    def test_independent(self, distribution):
        """Rank correlations of all pairs out of amplitude, phase and two points of each batch."""
        waves = distribution.waves(jax.random.key(2), 20_000)
        episodes = distribution.episodes(jax.random.key(2), 20_000)
        columns = [*waves, *(x[:, i, 0] for x, _ in episodes for i in range(min(2, x.shape[1])))]
        for i in range(len(columns)):
            for j in range(i):
                assert scipy.stats.spearmanr(columns[i], columns[j]).pvalue > LEVEL, (i, j)

    def test_points_lie_on_the_wave_of_their_task(self, distribution):
        key = jax.random.key(3)
        amplitude, phase = map(np.asarray, distribution.waves(key, 50))
        for x, y in distribution.episodes(key, 50):
            expected = amplitude[:, None, None] * np.sin(np.asarray(x) - phase[:, None, None])
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)

    def test_shapes(self, distribution):
        episodes = distribution.episodes(jax.random.key(4), 6)
        assert isinstance(episodes, Episode)
        for name, size in (("inner", "support"), ("hessian", "hessian"), ("outer", "query")):
            for leaf in getattr(episodes, name):
                assert leaf.shape == (6, getattr(distribution, size), 1)
                assert leaf.dtype == jnp.float64

    def test_no_point_twice(self, distribution):
        x = np.concatenate([x.ravel() for x, _ in distribution.episodes(jax.random.key(5), 200)])
        assert len(np.unique(x)) == x.size


def test_the_ranges_of_the_paper():
    assert Sinusoid().amplitude == (0.1, 5.0)
    assert Sinusoid().phase == (0.0, math.pi)
    assert Sinusoid().x == (-5.0, 5.0)


class TestKeys:
    def test_same_key_same_episodes(self):
        first, again = (MOVED.episodes(jax.random.key(6), 5) for _ in range(2))
        jax.tree.map(np.testing.assert_array_equal, first, again)
        other = MOVED.episodes(jax.random.key(7), 5)
        assert all(not np.any(a == b) for a, b in zip(*map(jax.tree.leaves, (first, other)), strict=True))

    def test_a_batch_depends_on_its_own_size_only(self):
        few = MOVED.episodes(jax.random.key(8), 5)
        many = dataclasses.replace(MOVED, hessian=11).episodes(jax.random.key(8), 5)
        assert many.hessian[0].shape == (5, 11, 1)
        jax.tree.map(np.testing.assert_array_equal, (few.inner, few.outer), (many.inner, many.outer))


class TestTransformations:
    def test_jit(self):
        """Compiled, a multiplication and an addition may become one rounding: y differs by a few ulp."""
        eager = MOVED.episodes(jax.random.key(9), 5)
        compiled = jax.jit(Sinusoid.episodes, static_argnums=2)(MOVED, jax.random.key(9), 5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-14), eager, compiled)

    def test_vmap_and_scan(self):
        keys = jax.random.split(jax.random.key(10), 3)

        def draw(key):
            return MOVED.episodes(key, 4)

        mapped = jax.vmap(draw)(keys)
        _, scanned = jax.lax.scan(lambda carry, key: (carry, draw(key)), None, keys)
        for i, key in enumerate(keys):
            for found in (mapped, scanned):
                jax.tree.map(
                    lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=0, atol=1e-14),
                    found,
                    draw(key),
                )

    def test_ranges_are_leaves(self):
        """Cells that differ in their ranges share one program; their draws are the same up to the ranges."""
        cells = [dataclasses.replace(MOVED, amplitude=(0.0, high)) for high in (1.0, 3.0)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cells)
        amplitude = jax.vmap(lambda cell: cell.waves(jax.random.key(11), 5).amplitude)(stacked)
        np.testing.assert_allclose(amplitude[1], 3 * amplitude[0], rtol=1e-14)

    def test_float32(self):
        with jax.enable_x64(False):
            x, y = MOVED.episodes(jax.random.key(12), 40).outer
            amplitude, phase = map(np.asarray, MOVED.waves(jax.random.key(12), 40))
            assert x.dtype == y.dtype == jnp.float32
            assert x.min() >= 2
            assert x.max() <= 7
            expected = amplitude[:, None, None] * np.sin(np.asarray(x, float) - phase[:, None, None])
            # x - phase < 8 is rounded by at most 2^-22, sine and product by an ulp of 2 each.
            np.testing.assert_allclose(y, expected, rtol=0, atol=2 * (2**-22 + 2 * 2**-23))


class TestBadInput:
    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ({"support": 0}, "support = 0; allowed: an integer >= 1"),
            ({"hessian": -1}, "hessian = -1; allowed: an integer >= 1"),
            ({"query": 2.5}, "query = 2.5; allowed: an integer >= 1"),
            (
                {"amplitude": (2.0, 1.0)},
                "amplitude = (2.0, 1.0); allowed: (low, high), finite and low <= high",
            ),
            ({"phase": (0.0, math.inf)}, "phase = (0.0, inf); allowed: (low, high), finite"),
            ({"phase": (math.nan, 1.0)}, "phase = (nan, 1.0); allowed: (low, high), finite"),
            ({"x": 5.0}, "x = 5.0; allowed: (low, high), finite"),
            ({"x": (1.0, 2.0, 3.0)}, "x = (1.0, 2.0, 3.0); allowed: (low, high), finite"),
        ],
    )
    def test_numbers(self, numbers, message):
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            dataclasses.replace(MOVED, **numbers).episodes(jax.random.key(0), 2)

    @pytest.mark.parametrize("tasks", [0, -3, 1.5])
    def test_tasks(self, tasks):
        for draw in (MOVED.episodes, MOVED.waves):
            with pytest.raises(ValueError, match=f"tasks = {tasks}; allowed: an integer >= 1"):
                draw(jax.random.key(0), tasks)

    def test_equal_ends(self):
        fixed = dataclasses.replace(MOVED, amplitude=(1.5, 1.5))
        assert np.all(np.asarray(fixed.waves(jax.random.key(0), 9).amplitude) == 1.5)
