"""Few of many without replacement, against the definition of a Lehmer code, over all of them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxmaml.data import _selection

distinct = jax.jit(_selection.distinct)
codes = jax.jit(_selection.codes, static_argnums=(1, 2, 3))


def by_definition(code, n):
    rest = list(range(n))
    return [rest.pop(c) for c in code]


@pytest.mark.parametrize(("n", "k"), [(5, 3), (4, 4), (6, 1), (7, 2), (1, 1)])
def test_every_selection_has_one_code(n, k):
    every = list(itertools.product(*(range(n - j) for j in range(k))))
    found = np.asarray(distinct(jnp.array(every, jnp.int32)))
    np.testing.assert_array_equal(found, [by_definition(code, n) for code in every])
    assert len(np.unique(found, axis=0)) == math.perm(n, k)


def test_many():
    rng = np.random.default_rng(0)
    code = rng.integers(0, 6000 - np.arange(40), (3, 2, 40))
    found = np.asarray(distinct(jnp.asarray(code)))
    for where in np.ndindex(3, 2):
        assert list(found[where]) == by_definition(code[where], 6000)


def test_leading_letters_fix_leading_numbers():
    code = np.asarray(codes(jax.random.key(1), (50, 9), 12, 0))
    np.testing.assert_array_equal(distinct(code[:, :4]), np.asarray(distinct(code))[:, :4])


@pytest.mark.parametrize("first", [0, 3])
def test_letters_are_uniform(first):
    """Each letter on its own range; a sound generator has a smaller p-value with the probability 1e-6."""
    drawn = np.asarray(codes(jax.random.key(2), (20_000, 5), 11, first))
    assert drawn.dtype == np.int32
    for j in range(5):
        counts = np.bincount(drawn[:, j])
        assert len(counts) == 11 - first - j
        assert scipy.stats.chisquare(counts).pvalue > 1e-6


def equally_likely(counts, expected=None):
    return scipy.stats.chisquare(counts, expected).pvalue > 1e-6


def test_a_number_for_each_selection():
    """Selections of 3 out of n, each of its own n, are what they are alone; all of them equally likely."""
    n = np.array([3, 4, 5], np.int32)

    @jax.jit
    def drawn(keys, n):
        return _selection.disjoint(keys, n, (1, 2))

    keys = jax.random.split(jax.random.key(3), 2)
    first, second = drawn(keys, np.tile(n, (20_000, 1)))
    assert (first.shape, second.shape) == ((20_000, 3, 1), (20_000, 3, 2))
    three = np.concatenate([first, second], axis=2)
    for j, count in enumerate(n):
        assert three[:, j].min() == 0
        assert three[:, j].max() == count - 1
        assert all(len(set(row)) == 3 for row in three[:100, j].tolist())
        found = np.unique(three[:, j], axis=0, return_counts=True)[1]
        assert len(found) == math.perm(count, 3)
        assert equally_likely(found)


def test_leading_selections_do_not_depend_on_later_ones():
    keys, n = jax.random.split(jax.random.key(4), 3), np.full(50, 12, np.int32)
    drawn = jax.jit(_selection.disjoint, static_argnums=2)
    few, many = (drawn(keys, n, (2, 3, count)) for count in (1, 5))
    np.testing.assert_array_equal(few[0], many[0])
    np.testing.assert_array_equal(few[1], many[1])


WEIGHTS = np.array([1.0, 0.25, 4.0, 2.75])


@pytest.mark.parametrize("weights", [np.array([5, 1, 17, 9]), WEIGHTS, WEIGHTS * 1e-300, WEIGHTS * 1e300])
def test_in_proportion(weights):
    upto = _selection.cumulative(weights)
    assert upto.dtype == np.int32
    found = np.asarray(jax.jit(_selection.proportional, static_argnums=1)(jax.random.key(5), (40_000,), upto))
    expected = weights / weights.max()
    assert equally_likely(np.bincount(found, minlength=4), 40_000 * expected / expected.sum())


def test_whole_weights_are_kept():
    np.testing.assert_array_equal(_selection.cumulative(np.array([3, 1, 6])), [3, 4, 10])


def test_weights_are_rounded_to_a_billionth_and_none_to_nothing():
    found = np.diff(_selection.cumulative(np.array([1.0, 1e-30, 2.0])), prepend=0)
    np.testing.assert_allclose(found / 2**30, [1 / 3, 2**-30, 2 / 3], atol=2**-30)
    large = _selection.cumulative(np.full(3, 2**40))
    assert (np.diff(large, prepend=0) == np.rint(2**30 / 3)).all()


@pytest.mark.parametrize("x64", [True, False])
def test_in_proportion_without_replacement(x64):
    """Each ordered pair has the probability p_a p_b / (1 - p_a)."""
    draw = jax.jit(_selection.proportional_distinct, static_argnums=1)
    with jax.enable_x64(x64):
        pairs = np.asarray(draw(jax.random.key(6), (40_000, 2), np.log(WEIGHTS)))
    p = WEIGHTS / WEIGHTS.sum()
    every = list(itertools.permutations(range(4), 2))
    counts = [int(np.sum((pairs == pair).all(axis=1))) for pair in every]
    assert sum(counts) == 40_000
    assert equally_likely(counts, [40_000 * p[a] * p[b] / (1 - p[a]) for a, b in every])
