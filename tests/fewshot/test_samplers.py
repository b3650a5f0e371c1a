"""Tasks of a user's arrays, in which the number of a sample can be read off its x.

Keys are fixed. LEVEL is the probability with which a sound generator fails one check of a law for another
key; there are about sixty checks.
"""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxmaml
from jaxmaml import fewshot
from jaxmaml.fewshot import ClassTasks, Tasks

pytestmark = pytest.mark.recorded

LEVEL = 1e-6
MANY = 20_000

SIZES = {"ant": 7, "bee": 9, "cat": 30, "dog": 11}
NAMES = list(SIZES)
Y = np.random.default_rng(0).permutation(np.repeat(NAMES, list(SIZES.values())))
X = np.arange(len(Y), dtype=float) + 0.5
CLASSES = fewshot.from_arrays(X, Y, ways=2, support=2, query=3)

CLIENTS = {
    name: (100.0 * i + np.arange(n), -(100.0 * i + np.arange(n)))
    for i, (name, n) in enumerate([("one", 8), ("two", 25), ("three", 12)])
}
TASKS = fewshot.from_tasks(CLIENTS, support=3, query=4, hessian=1, task_weights="size")


@jax.jit
def tasks_of_classes(distribution, key):
    return distribution.episodes(key, MANY), distribution.classes(key, MANY)


@jax.jit
def tasks_of_clients(distribution, key):
    return distribution.episodes(key, MANY), distribution.who(key, MANY)


def equally_likely(values, count):
    return as_expected(values, np.full(count, 1 / count))


def as_expected(values, p):
    counts = np.bincount(np.ravel(values), minlength=len(p))
    return scipy.stats.chisquare(counts, np.sum(counts) * np.asarray(p)).pvalue > LEVEL


def second_of(first, second):
    """The number of the second among those that the first leaves."""
    return second - (second > first)


@pytest.fixture(scope="module")
def of_classes():
    """The classes, shape (MANY, 2), and numbers of samples, shape (MANY, 2, support + Hessian + query)."""
    episodes, classes = jax.tree.map(np.asarray, tasks_of_classes(CLASSES, jax.random.key(0)))
    numbers = [(x - 0.5).astype(int).reshape(MANY, 2, -1) for x, _ in episodes]
    return episodes, classes, np.concatenate(numbers, axis=2)


@pytest.fixture(scope="module")
def of_clients():
    """The clients, shape (MANY,), and what their samples are, shape (MANY, support + Hessian + query)."""
    episodes, who = jax.tree.map(np.asarray, tasks_of_clients(TASKS, jax.random.key(1)))
    return episodes, who, np.concatenate([x.astype(int) for x, _ in episodes], axis=1)


def places(name):
    """The place of each sample in its class."""
    place = np.full(len(Y), -1)
    place[name == Y] = np.arange(SIZES[name])
    return place


class TestClasses:
    def test_batches(self, of_classes):
        episodes, _, _ = of_classes
        assert [x.shape for x, _ in episodes] == [(MANY, 4), (MANY, 4), (MANY, 6)]  # D_h as large as D_in
        for x, y in episodes:
            assert x.dtype == X.dtype
            assert y.dtype == np.int32
            np.testing.assert_array_equal(y, np.tile(np.repeat([0, 1], x.shape[1] // 2), (MANY, 1)))

    def test_every_sample_is_of_its_class(self, of_classes):
        _, classes, numbers = of_classes
        np.testing.assert_array_equal(Y[numbers], np.repeat(np.asarray(NAMES)[classes][..., None], 7, axis=2))
        assert (classes[:, 0] != classes[:, 1]).all()

    def test_no_sample_twice(self, of_classes):
        """Neither in a batch nor in two; of the smallest class a task has all."""
        _, classes, numbers = of_classes
        assert (np.diff(np.sort(numbers, axis=2), axis=2) > 0).all()
        all_of_them = np.sort(numbers[classes == 0], axis=1)
        assert (all_of_them == np.flatnonzero(Y == "ant")).all()

    def test_classes_are_equally_likely(self, of_classes):
        _, classes, _ = of_classes
        pairs = 3 * classes[:, 0] + second_of(*classes.T)
        assert equally_likely(pairs, 12)
        assert equally_likely(classes[::2, 0] * 4 + classes[1::2, 0], 16)  # of independent tasks

    @pytest.mark.parametrize("name", NAMES)
    def test_samples_of_a_class_are_equally_likely(self, of_classes, name):
        """In every place, and as ordered pairs within a batch and between any two."""
        _, classes, numbers = of_classes
        drawn = places(name)[numbers[classes == NAMES.index(name)]]
        assert drawn.min() == 0
        n = SIZES[name]
        for place in range(7):
            assert equally_likely(drawn[:, place], n)
        for a, b in ((0, 1), (1, 2), (0, 4), (3, 6)):
            assert equally_likely(drawn[:, a] * (n - 1) + second_of(drawn[:, a], drawn[:, b]), n * (n - 1))

    def test_samples_of_two_classes_are_independent(self, of_classes):
        _, classes, numbers = of_classes
        both = (classes == [0, 1]).all(axis=1)
        first, second = (places(NAMES[j])[numbers[both, j, 0]] for j in (0, 1))
        assert equally_likely(first * 9 + second, 63)

    def test_weights_of_classes(self):
        """Each next class in proportion to the weights of those that are left, then in random order."""
        weights = {"dog": 0.5, "ant": 1.0, "cat": 4.0, "bee": 2.0}
        weighted = fewshot.from_arrays(X, Y, ways=2, support=2, query=3, class_weights=weights)
        _, classes = tasks_of_classes(weighted, jax.random.key(2))
        p = np.array([weights[name] for name in NAMES]) / 7.5
        every = list(itertools.permutations(range(4), 2))
        law = {(a, b): p[a] * p[b] / (1 - p[a]) for a, b in every}
        number = {pair: i for i, pair in enumerate(every)}
        values = [number[pair] for pair in map(tuple, np.asarray(classes).tolist())]
        assert as_expected(values, [(law[a, b] + law[b, a]) / 2 for a, b in every])

    def test_what_is_left_out(self):
        """Classes of weight 0, small ones and those that are not named; the order is that of `classes`."""
        found = fewshot.from_arrays(X, Y, classes=["dog", "bee", "ant"], ways=2, support=2, query=3)
        assert found.sizes.tolist() == [11, 9, 7]
        np.testing.assert_array_equal(found.x, np.concatenate([X[c == Y] for c in ("dog", "bee", "ant")]))
        found = fewshot.from_arrays(X, Y, ways=2, support=2, query=3, class_weights=[1, 0, 2, 3])
        assert found.sizes.tolist() == [7, 30, 11]
        np.testing.assert_allclose(found.log_class_weights, np.log([1, 2, 3]), rtol=1e-15)
        found = fewshot.from_arrays(X, Y, ways=2, support=2, query=3, min_samples=10)
        assert found.sizes.tolist() == [30, 11]
        np.testing.assert_array_equal(found.starts, [0, 30])

    def test_sample_weights(self):
        """They go with their sample; those of weight 0 are never drawn."""
        weights = np.where(np.arange(len(Y)) % 4 == 0, 0, X)
        weighted = fewshot.from_arrays(X, Y, ways=2, support=1, query=1, sample_weights=weights)
        assert weighted.sizes.sum() == np.sum(weights > 0)
        for x, _, weight in jax.jit(ClassTasks.episodes, static_argnums=2)(weighted, jax.random.key(3), 500):
            np.testing.assert_array_equal(weight, x)
            assert ((np.asarray(x) - 0.5) % 4 > 0).all()


PATTERN = np.array([1, 0, 1, 0, 2, 2, 1, 0, 2])


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (np.array([-1, 3, 7])[PATTERN], [-1, 3, 7]),
        (np.array([-1.0, 3.0, 7.0])[PATTERN], [-1, 3, 7]),
        (np.array([0, 3, 255], np.uint8)[PATTERN], [0, 3, 255]),
        (jnp.array([0, 3, 7])[PATTERN], [0, 3, 7]),
        (list("babaccbac"), list("abc")),
        (np.array(list("babaccbac"), object), list("abc")),
        (np.array(list("babaccbac"), "S"), list("abc")),
        (np.array([0, 1, 2], object)[PATTERN], [0, 1, 2]),
    ],
    ids=lambda y: str(getattr(y, "dtype", y)),
)
def test_labels_of_any_kind(y, labels):
    """The classes are the labels sorted, or in the order in which they are named."""
    for chosen, expected in (
        (None, [1, 3, 7, 0, 2, 6, 4, 5, 8]),
        (labels[::-1], [4, 5, 8, 0, 2, 6, 1, 3, 7]),
    ):
        found = fewshot.from_arrays(np.arange(9.0), y, classes=chosen, ways=3, support=1, query=1)
        np.testing.assert_array_equal(found.x, expected)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.int32, np.int8, bool])
def test_samples_of_any_type_and_shape(dtype):
    """They stay what they are; only uint8 means something else."""
    x = np.arange(36).reshape(6, 2, 1, 3).astype(dtype)
    found = fewshot.from_arrays(x, [0, 1] * 3, ways=2, support=1, query=1)
    assert found.x.dtype == dtype
    np.testing.assert_array_equal(found.x, x[[0, 2, 4, 1, 3, 5]])
    episodes = jax.eval_shape(lambda tasks: tasks.episodes(jax.random.key(0), 5), found)
    assert episodes.outer[0].dtype == dtype
    assert episodes.outer[0].shape == (5, 2, 2, 1, 3)


class TestTasks:
    def test_batches(self, of_clients):
        episodes, _, _ = of_clients
        assert [x.shape for x, _ in episodes] == [(MANY, 3), (MANY, 1), (MANY, 4)]
        for x, y in episodes:
            np.testing.assert_array_equal(y, -x)

    def test_samples_are_of_their_task(self, of_clients):
        _, who, numbers = of_clients
        np.testing.assert_array_equal(numbers // 100, np.tile(who[:, None], 8))
        assert (np.diff(np.sort(numbers, axis=1), axis=1) > 0).all()

    def test_in_proportion_to_size(self, of_clients):
        _, who, _ = of_clients
        p = np.array([8, 25, 12]) / 45
        assert as_expected(who, p)
        assert as_expected(who[::2] * 3 + who[1::2], np.outer(p, p).ravel())

    @pytest.mark.parametrize(("task", "n"), [(0, 8), (1, 25), (2, 12)])
    def test_samples_are_equally_likely(self, of_clients, task, n):
        _, who, numbers = of_clients
        drawn = numbers[who == task] % 100
        for place in range(8):
            assert equally_likely(drawn[:, place], n)
        for a, b in ((0, 1), (0, 3), (1, 4), (3, 7)):
            assert equally_likely(drawn[:, a] * (n - 1) + second_of(drawn[:, a], drawn[:, b]), n * (n - 1))

    def test_keys_of_tasks_and_batches_are_not_shared(self):
        """It would go unnoticed where batches differ in size, or the numbers (4 tasks; 12, 10
        and 8 samples left) have no common divisor."""
        alike = {i: (100.0 * i + np.arange(12), np.zeros(12)) for i in range(4)}
        tasks = fewshot.from_tasks(alike, support=2, query=2, hessian=2)
        episodes, _ = jax.tree.map(np.asarray, tasks_of_clients(tasks, jax.random.key(9)))
        drawn = [x.astype(int) % 100 for x, _ in episodes]
        for a, b in itertools.combinations(drawn, 2):
            for place in range(2):
                assert equally_likely(a[:, place] * 11 + second_of(a[:, place], b[:, place]), 132)
        single = dataclasses.replace(tasks, support=1, query=1, hessian=1)
        episodes, who = jax.tree.map(np.asarray, tasks_of_clients(single, jax.random.key(9)))
        for x, _ in episodes:
            assert equally_likely(who * 12 + x[:, 0].astype(int) % 100, 48)

    @pytest.mark.parametrize("weights", [{"two": 0.5, "one": 0.2, "three": 1.3}, [0.2, 0.5, 1.3]])
    def test_weights(self, weights):
        weighted = fewshot.from_tasks(CLIENTS, support=3, query=4, hessian=1, task_weights=weights)
        _, who = tasks_of_clients(weighted, jax.random.key(2))
        assert as_expected(who, [0.1, 0.25, 0.65])

    def test_uniform(self):
        alike = fewshot.from_tasks(CLIENTS, support=3, query=4, hessian=1)
        _, who = tasks_of_clients(alike, jax.random.key(3))
        assert equally_likely(who, 3)

    def test_what_is_left_out(self):
        """Tasks of weight 0, and small ones; the others keep their order."""
        found = fewshot.from_tasks(CLIENTS, support=3, query=4, task_weights={"one": 0, "two": 2, "three": 7})
        assert found.sizes.tolist() == [25, 12]
        assert found.upto.tolist() == [2, 9]
        found = fewshot.from_tasks(CLIENTS, support=5, query=5, min_samples=20)
        np.testing.assert_array_equal(found.x, CLIENTS["two"][0])

    def test_sample_weights(self):
        weights = {name: np.where(x % 2 == 1, x, 0) for name, (x, _) in CLIENTS.items()}
        found = fewshot.from_tasks(CLIENTS, support=1, query=2, sample_weights=weights, task_weights="size")
        assert found.sizes.tolist() == [4, 12, 6]
        assert found.upto.tolist() == [4, 16, 22]
        np.testing.assert_array_equal(found.weight, found.x)

    def test_labels(self):
        """Strings are numbered over all tasks; integers stay what they are."""
        x = np.zeros((4, 2))
        text = {"a": (x, ["no", "yes", "no", "no"]), "b": (x, ["yes", "maybe", "yes", "no"])}
        found = fewshot.from_tasks(text, support=1, query=1)
        np.testing.assert_array_equal(found.y, [1, 2, 1, 1, 2, 0, 2, 1])
        assert found.y.dtype == jnp.int32
        whole = {"a": (x, np.array([0, 3, 3, 0], np.uint8)), "b": (x, np.array([7, 0, 3, 3]))}
        found = fewshot.from_tasks(whole, support=1, query=1)
        np.testing.assert_array_equal(found.y, [0, 3, 3, 0, 7, 0, 3, 3])
        assert found.y.dtype == jnp.int32


def test_bytes_are_images():
    """uint8 becomes floating point in [0, 1] where it is drawn; grey images get an axis for the channel."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 2, 3)).astype(np.uint8)
    grey = fewshot.from_tasks({"a": (pixels, np.arange(6))}, support=2, query=2)
    colour = fewshot.from_arrays(
        pixels[..., None].repeat(3, 3), [0] * 3 + [1] * 3, ways=2, support=1, query=1
    )
    assert (grey.x.dtype, grey.x.shape, colour.x.shape) == (jnp.uint8, (6, 2, 3, 1), (6, 2, 3, 3))
    x, y = jax.jit(Tasks.episodes, static_argnums=2)(grey, jax.random.key(0), 5).inner
    assert x.dtype == jnp.float64
    np.testing.assert_allclose(x[..., 0], pixels[np.asarray(y)] / 255, rtol=1e-15)


def batches(distribution, key):
    """Episodes, few enough to be compared."""
    return jax.jit(type(distribution).episodes, static_argnums=2)(distribution, key, 40)


@pytest.mark.parametrize("distribution", [CLASSES, TASKS], ids=lambda d: type(d).__name__)
class TestKeys:
    def test_common_random_numbers(self, distribution):
        """Support and query do not depend on the Hessian batch, nor the support on the query."""
        key = jax.random.key(4)
        given = batches(distribution, key)
        other = batches(dataclasses.replace(distribution, hessian=1, query=1), key)
        same = batches(dataclasses.replace(distribution, hessian=1), key)
        chex.assert_trees_all_equal(given.inner, other.inner, same.inner)
        chex.assert_trees_all_equal(given.outer, same.outer)

    def test_scan_and_vmap(self, distribution):
        keys = jax.random.split(jax.random.key(5), 3)

        @jax.jit
        def both(distribution, keys):
            def draw(key):
                return distribution.episodes(key, 40)

            scanned = jax.lax.scan(lambda carry, key: (carry, draw(key)), None, keys)[1]
            return jax.vmap(draw)(keys), scanned

        for found in both(distribution, keys):
            for i, key in enumerate(keys):
                chex.assert_trees_all_equal(
                    jax.tree.map(lambda leaf, i=i: leaf[i], found), batches(distribution, key)
                )

    def test_gradient_reaches_the_data(self, distribution):
        """The sum of what is drawn has the derivative 1 in a sample for each time it is drawn."""
        key = jax.random.key(6)

        @jax.jit
        def derivative(distribution):
            def total(x):
                return jnp.sum(dataclasses.replace(distribution, x=x).episodes(key, 40).outer[0])

            return jax.grad(total)(distribution.x)

        drawn = np.ravel(batches(distribution, key).outer[0])
        expected = np.sum(np.asarray(distribution.x)[:, None] == drawn, axis=1)
        np.testing.assert_array_equal(derivative(distribution), expected)

    def test_float32(self, distribution):
        """The same samples."""
        expected = batches(distribution, jax.random.key(7))
        with jax.enable_x64(False):
            narrow = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, distribution))
            found = batches(narrow, jax.random.key(7))
        assert found.inner[0].dtype == jnp.float32
        chex.assert_trees_all_equal(found.inner[0].astype(float), expected.inner[0])

    def test_cost_does_not_grow_with_the_samples(self, distribution):
        """A hundred times as many: the same program, and no array in it that is larger."""

        def cost(times):
            def grown(leaf):
                many = times if leaf.shape[:1] == distribution.x.shape else 1
                return jax.ShapeDtypeStruct((many * leaf.shape[0], *leaf.shape[1:]), leaf.dtype)

            given = jax.tree.map(grown, distribution)
            program = jax.make_jaxpr(type(distribution).episodes, static_argnums=2)(
                given, jax.random.key(0), 5
            )
            return program.jaxpr.pretty_print().count("\n"), sorted(sizes(program.jaxpr))

        assert cost(1) == cost(100)

    def test_batches_of_other_sizes_fit(self, distribution):
        """Said while tracing, when nothing else than shapes is known."""
        bad = dataclasses.replace(distribution, query=40)
        with pytest.raises(
            ValueError, match=f" 40 = .*; allowed: at most {bad.smallest}, the samples of the"
        ):
            jax.eval_shape(lambda d: d.episodes(jax.random.key(0), 2), bad)
        for name, size in (("support", 0), ("hessian", 1.0), ("query", -1)):
            with pytest.raises(ValueError, match=f"{name} = {size}; allowed: an integer >= 1"):
                jax.eval_shape(
                    lambda d: d.episodes(jax.random.key(0), 2),
                    dataclasses.replace(distribution, **{name: size}),
                )
        with pytest.raises(ValueError, match="tasks = 0; allowed: an integer >= 1"):
            distribution.episodes(jax.random.key(0), 0)


def sizes(jaxpr):
    """Of all that a program computes, in its inner programs too."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple) else (parameter,):
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)


def test_a_meta_gradient_of_weighted_batches():
    """One step on w' x at a batch: the closed form of sum_i p_i l_i / sum_i p_i, within jit."""
    rng = np.random.default_rng(1)
    clients = {f"client {n}": (rng.normal(size=(n, 2)) + 1, rng.normal(size=n)) for n in (7, 9, 13)}
    weights = {name: rng.uniform(0.5, 2, len(y)) for name, (_, y) in clients.items()}
    tasks = fewshot.from_tasks(clients, support=2, query=3, sample_weights=weights)
    loss = jaxmaml.models.squared_error(lambda w, x: x @ w)
    w, alpha = np.array([0.3, -1.2]), 0.1

    @jax.jit
    def direction(w, tasks, key):
        episodes = tasks.episodes(key, 20)
        return jaxmaml.meta_gradient(jaxmaml.maml, loss, w, episodes, alpha=alpha), episodes

    found, episodes = jax.tree.map(np.asarray, direction(w, tasks, jax.random.key(8)))

    def hessian_and_gradient(w, x, y, p):
        return 2 * (x.T * p) @ x / p.sum(), 2 * (x.T * p) @ (x @ w - y) / p.sum()

    expected = np.zeros(2)
    for i in range(20):
        inner, hessian, outer = ([part[i] for part in batch] for batch in episodes)
        after = w - alpha * hessian_and_gradient(w, *inner)[1]
        correction = np.eye(2) - alpha * hessian_and_gradient(w, *hessian)[0]
        expected += correction @ hessian_and_gradient(after, *outer)[1] / 20
    np.testing.assert_allclose(found, expected, rtol=1e-12)
