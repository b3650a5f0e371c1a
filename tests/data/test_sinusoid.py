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
FEW = 200
# The ranges are arguments of the program; another number of tasks or of points is another program.
draw = jax.jit(Sinusoid.episodes, static_argnums=2)
waves = jax.jit(Sinusoid.waves, static_argnums=2)
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
        some = waves(distribution, jax.random.key(0), 20_000)
        assert uniform(some.amplitude, distribution.amplitude)
        assert uniform(some.phase, distribution.phase)
        for x, _ in draw(distribution, jax.random.key(1), 20_000):
            assert uniform(x, distribution.x)

    def test_independent(self, distribution):
        """Rank correlations of all pairs out of amplitude, phase and two points of each batch."""
        some = waves(distribution, jax.random.key(2), 20_000)
        points = [np.asarray(x) for x, _ in draw(distribution, jax.random.key(2), 20_000)]
        columns = [*map(np.asarray, some), *(x[:, i, 0] for x in points for i in range(min(2, x.shape[1])))]
        for i in range(len(columns)):
            for j in range(i):
                assert scipy.stats.spearmanr(columns[i], columns[j]).pvalue > LEVEL, (i, j)

    def test_points_lie_on_the_wave_of_their_task(self, distribution):
        key = jax.random.key(3)
        amplitude, phase = map(np.asarray, waves(distribution, key, FEW))
        for x, y in draw(distribution, key, FEW):
            expected = amplitude[:, None, None] * np.sin(np.asarray(x) - phase[:, None, None])
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)

    def test_shapes(self, distribution):
        episodes = draw(distribution, jax.random.key(4), FEW)
        assert isinstance(episodes, Episode)
        for name, size in (("inner", "support"), ("hessian", "hessian"), ("outer", "query")):
            for leaf in getattr(episodes, name):
                assert leaf.shape == (FEW, getattr(distribution, size), 1)
                assert leaf.dtype == jnp.float64

    def test_no_point_twice(self, distribution):
        x = np.concatenate([np.ravel(x) for x, _ in draw(distribution, jax.random.key(5), FEW)])
        assert len(np.unique(x)) == x.size


def test_the_ranges_of_the_paper():
    assert Sinusoid().amplitude == (0.1, 5.0)
    assert Sinusoid().phase == (0.0, math.pi)
    assert Sinusoid().x == (-5.0, 5.0)


class TestKeys:
    def test_same_key_same_episodes(self):
        first, again, other = (
            [np.asarray(leaf) for leaf in jax.tree.leaves(draw(MOVED, jax.random.key(j), FEW))]
            for j in (6, 6, 7)
        )
        for a, b, c in zip(first, again, other, strict=True):
            np.testing.assert_array_equal(a, b)
            assert not np.any(a == c)

    def test_a_batch_depends_on_its_own_size_only(self):
        few = draw(MOVED, jax.random.key(8), FEW)
        many = draw(dataclasses.replace(MOVED, hessian=11), jax.random.key(8), FEW)
        assert many.hessian[0].shape == (FEW, 11, 1)
        jax.tree.map(np.testing.assert_array_equal, (few.inner, few.outer), (many.inner, many.outer))


class TestTransformations:
    def test_jit(self):
        """Compiled, a multiplication and an addition may become one rounding: y differs by a few ulp."""
        eager = MOVED.episodes(jax.random.key(9), FEW)
        compiled = draw(MOVED, jax.random.key(9), FEW)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-14), eager, compiled)

    def test_vmap_and_scan(self):
        keys = jax.random.split(jax.random.key(10), 3)

        @jax.jit
        def both(keys):
            _, scanned = jax.lax.scan(lambda carry, key: (carry, MOVED.episodes(key, FEW)), None, keys)
            return jax.vmap(lambda key: MOVED.episodes(key, FEW))(keys), scanned

        for found in jax.tree.map(np.asarray, both(keys)):
            for i, key in enumerate(keys):
                jax.tree.map(
                    lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=0, atol=1e-14),
                    found,
                    draw(MOVED, key, FEW),
                )

    def test_ranges_are_leaves(self):
        """Cells that differ in their ranges share one program; their draws are the same up to the ranges."""
        cells = [dataclasses.replace(MOVED, amplitude=(0.0, high)) for high in (1.0, 3.0)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *cells)
        amplitude = jax.jit(jax.vmap(lambda cell: cell.waves(jax.random.key(11), FEW).amplitude))(stacked)
        np.testing.assert_allclose(amplitude[1], 3 * amplitude[0], rtol=1e-14)

    def test_float32(self):
        with jax.enable_x64(False):
            x, y = map(np.asarray, draw(MOVED, jax.random.key(12), FEW).outer)
            amplitude, phase = map(np.asarray, waves(MOVED, jax.random.key(12), FEW))
            assert x.dtype == y.dtype == np.float32
            assert x.min() >= 2
            assert x.max() <= 7
            expected = amplitude[:, None, None] * np.sin(x.astype(float) - phase[:, None, None])
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
        assert np.all(np.asarray(waves(fixed, jax.random.key(0), FEW).amplitude) == 1.5)
