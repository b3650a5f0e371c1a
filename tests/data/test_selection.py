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
