"""N-way K-shot episodes of images in which the class and the number of the image can be read off the pixels.

Keys are fixed. LEVEL is the probability with which a sound generator fails one check of a law for another
key; there are about a hundred checks, so that it is 1e-4 for all of them together.
"""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxmaml import Episode, fo_maml, meta_gradient
from jaxmaml.data.images import Images

LEVEL = 1e-6
CLASSES, EACH = 7, 9


def numbered(classes=CLASSES, each=EACH, shape=(2, 3)):
    """The first pixel of an image is its class, the second its number in the class, the last one white."""
    pixels = np.zeros((classes, each, *shape), np.uint8)
    pixels[..., 0, 0] = np.arange(classes)[:, None]
    pixels[..., 0, 1] = np.arange(each)
    pixels[..., -1, -1] = 255
    return pixels


# Most tests draw as many tasks from this distribution: one program serves them.
SMALL = Images(numbered(), ways=3, support=2, hessian=1, query=4)
FEW = 200
draw = jax.jit(Images.episodes, static_argnums=2)


def drawn(episodes):
    """Class and number of every image, and its label, as three episodes."""

    def read(batch, column):
        return np.rint(np.asarray(batch[0])[:, :, 0, column, 0] * 255).astype(int)

    return (
        Episode(*(read(batch, 0) for batch in episodes)),
        Episode(*(read(batch, 1) for batch in episodes)),
        Episode(*(np.asarray(batch[1]) for batch in episodes)),
    )


def equally_likely(values, count):
    return scipy.stats.chisquare(np.bincount(np.ravel(values), minlength=count)).pvalue > LEVEL


class TestEpisodes:
    def test_shapes(self):
        episodes = draw(SMALL, jax.random.key(0), FEW)
        assert isinstance(episodes, Episode)
        for (x, y), each in zip(episodes, (2, 1, 4), strict=True):
            assert x.shape == (FEW, 3 * each, 2, 3, 1)
            assert y.shape == (FEW, 3 * each)
            assert x.dtype == jnp.float64
            assert y.dtype == jnp.int32

    def test_pixels_are_those_of_one_image(self):
        """Whole images, scaled to [0, 1] with white exactly 1."""
        pixels = np.random.default_rng(0).integers(0, 256, (CLASSES, EACH, 4, 3)).astype(np.uint8)
        pixels[..., :2, :] = numbered(shape=(2, 3))
        episodes = draw(dataclasses.replace(SMALL, pixels=pixels), jax.random.key(1), 20)
        classes, numbers, _ = drawn(episodes)
        for (x, _), c, i in zip(episodes, classes, numbers, strict=True):
            x = np.asarray(x)
            np.testing.assert_allclose(x[..., 0], pixels[c, i] / 255, rtol=1e-15)
            assert np.all(x[:, :, 1, 2] == 1)
            assert x.min() >= 0
            assert x.max() <= 1

    def test_images_in_colour(self):
        """The same draws with three channels."""
        pixels = np.stack([numbered(), 7 * numbered() % 251, numbered() // 2], axis=-1)
        (x, y), grey = (
            draw(dataclasses.replace(SMALL, pixels=pixels), jax.random.key(1), 20).outer,
            (draw(SMALL, jax.random.key(1), 20).outer),
        )
        assert x.shape == (20, 12, 2, 3, 3)
        np.testing.assert_array_equal(y, grey[1])
        bytes_ = np.rint(np.asarray(grey[0])[..., 0] * 255).astype(np.uint8)
        expected = np.stack([bytes_, 7 * bytes_ % 251, bytes_ // 2], axis=-1)
        np.testing.assert_allclose(x, expected / 255, rtol=1e-15)

    def test_labels_match_the_classes(self):
        """In a task each label is one class, the same in its three batches, and each class has one label."""
        classes, _, labels = drawn(draw(SMALL, jax.random.key(2), FEW))
        for t in range(FEW):
            pairs = {
                (int(y), int(c))
                for some, others in zip(labels, classes, strict=True)
                for y, c in zip(some[t], others[t], strict=True)
            }
            assert len(pairs) == 3
            assert {y for y, _ in pairs} == {0, 1, 2}
            assert len({c for _, c in pairs}) == 3

    def test_as_many_of_each_label(self):
        _, _, labels = drawn(draw(SMALL, jax.random.key(3), FEW))
        for some, each in zip(labels, (2, 1, 4), strict=True):
            for row in some:
                np.testing.assert_array_equal(np.bincount(row), [each] * 3)

    @pytest.mark.parametrize("hessian", [1, EACH - 6])
    def test_no_image_twice(self, hessian):
        """Neither in a batch nor in two of them, also where the batches take all images of a class."""
        distribution = dataclasses.replace(SMALL, hessian=hessian)
        classes, numbers, _ = drawn(draw(distribution, jax.random.key(4), FEW))
        images = np.concatenate(classes, axis=1) * EACH + np.concatenate(numbers, axis=1)
        for row in images:
            assert len(set(row)) == 3 * (6 + hessian)

    def test_all_classes_and_all_images(self):
        whole = Images(numbered(3, 3), ways=3, support=1, hessian=1, query=1)
        classes, numbers, _ = drawn(draw(whole, jax.random.key(5), 50))
        images = np.concatenate(classes, axis=1) * 3 + np.concatenate(numbers, axis=1)
        np.testing.assert_array_equal(np.sort(images, axis=1), np.tile(np.arange(9), (50, 1)))

    def test_as_data_of_a_meta_gradient(self):
        """They go where episodes go: the gradient of the mean of w^T x over the query batches is its mean."""
        episodes = draw(SMALL, jax.random.key(6), FEW)

        def loss(w, batch):
            x, y = batch
            return jnp.mean(x.reshape(len(y), -1) @ w)

        found = jax.jit(lambda w, e: meta_gradient(fo_maml, loss, w, e, alpha=0.1))(np.zeros(6), episodes)
        np.testing.assert_allclose(found, np.mean(episodes.outer[0], axis=(0, 1)).ravel(), rtol=1e-12)


@pytest.fixture(scope="module")
def places():
    """20 000 tasks: the classes (tasks, ways), and the numbers of their images in support, Hessian and query
    (tasks, ways, 2 + 1 + 4)."""
    tasks = 20_000
    classes, numbers, _ = drawn(draw(SMALL, jax.random.key(7), tasks))
    by_label = [
        np.concatenate([part.reshape(tasks, 3, -1) for part in p], axis=2) for p in (classes, numbers)
    ]
    return by_label[0][:, :, 0], by_label[1]


class TestLaw:
    def test_every_label_is_any_class(self, places):
        classes, _ = places
        for label in range(3):
            assert equally_likely(classes[:, label], CLASSES)

    def test_pairs_of_classes(self, places):
        """All ordered pairs of two classes: neither their order nor their company is special."""
        classes, _ = places
        for a, b in ((0, 1), (0, 2), (1, 2)):
            # The second among those that the first leaves.
            second = classes[:, b] - (classes[:, b] > classes[:, a])
            assert equally_likely(classes[:, a] * (CLASSES - 1) + second, CLASSES * (CLASSES - 1))

    def test_every_place_is_any_image(self, places):
        _, numbers = places
        for label in range(3):
            for place in range(7):
                assert equally_likely(numbers[:, label, place], EACH)

    def test_pairs_of_images(self, places):
        """All ordered pairs of two images of a class, within a batch and between any two batches."""
        _, numbers = places
        for a, b in ((0, 1), (0, 2), (1, 3), (2, 4), (3, 6)):
            first, second = numbers[:, 1, a], numbers[:, 1, b]
            second = second - (second > first)
            assert equally_likely(first * (EACH - 1) + second, EACH * (EACH - 1))

    def test_pairs_of_images_in_batches_of_one_size(self):
        """Two batches drawn with one key would go unnoticed where their sizes differ, or where the numbers of
        images left (10, 8 and 6) have no common divisor."""
        equal = Images(numbered(each=10), ways=1, support=2, query=2, hessian=2)
        _, numbers, _ = drawn(draw(equal, jax.random.key(15), 20_000))
        batches = (numbers.inner, numbers.outer, numbers.hessian)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            for place in range(2):
                first, second = batches[a][:, place], batches[b][:, place]
                second = second - (second > first)
                assert equally_likely(first * 9 + second, 90)

    def test_one_class_and_one_image_a_batch(self):
        """As above, for the key of the classes: 12 of them, and 10, 9 and 8 images left."""
        single = Images(numbered(12, 10), ways=1, support=1, query=1, hessian=1)
        classes, numbers, _ = drawn(draw(single, jax.random.key(16), 20_000))
        for image in numbers:
            assert equally_likely(classes.inner[:, 0] * 10 + image[:, 0], 120)

    def test_images_do_not_depend_on_the_class(self, places):
        classes, numbers = places
        assert equally_likely(classes[:, 1] * EACH + numbers[:, 1, 0], CLASSES * EACH)
        assert equally_likely(numbers[:, 0, 0] * EACH + numbers[:, 1, 0], EACH**2)

    def test_tasks_are_independent(self, places):
        """Of each other, by pairs of consecutive ones that share none."""
        classes, numbers = places
        for values, count in ((classes[:, 0], CLASSES), (numbers[:, 0, 0], EACH)):
            assert equally_likely(values[::2] * count + values[1::2], count**2)


class TestKeys:
    def test_same_key_same_episodes(self):
        first, again = (draw(SMALL, jax.random.key(8), FEW) for _ in range(2))
        chex.assert_trees_all_equal(first, again)
        other = draw(SMALL, jax.random.key(9), FEW)
        for (x, _), (z, _) in zip(first, other, strict=True):
            assert np.any(np.asarray(x) != np.asarray(z))

    def test_support_and_query_do_not_depend_on_hessian(self):
        few, many = (draw(dataclasses.replace(SMALL, hessian=h), jax.random.key(10), FEW) for h in (1, 3))
        assert many.hessian[0].shape[1] == 9
        chex.assert_trees_all_equal((few.inner, few.outer), (many.inner, many.outer))

    def test_support_does_not_depend_on_query(self):
        few, many = (draw(dataclasses.replace(SMALL, query=q), jax.random.key(11), FEW) for q in (1, 4))
        chex.assert_trees_all_equal(few.inner, many.inner)


def assert_same(some, others):
    """Labels are equal; a division by a constant may become a multiplication, one rounding more."""
    for (x, y), (u, v) in zip(some, others, strict=True):
        np.testing.assert_allclose(x, u, rtol=2 * float(np.finfo(x.dtype).eps))
        np.testing.assert_array_equal(y, v)


class TestTransformations:
    def test_jit(self):
        """The only draw outside jit, which compiles dozens of programs."""
        compiled = draw(SMALL, jax.random.key(12), FEW)
        assert_same(compiled, SMALL.episodes(jax.random.key(12), FEW))
        assert max(np.max(x) for x, _ in compiled) == 1

    def test_vmap_and_scan(self):
        keys = jax.random.split(jax.random.key(13), 3)

        @jax.jit
        def both(keys):
            _, scanned = jax.lax.scan(lambda carry, key: (carry, SMALL.episodes(key, FEW)), None, keys)
            return jax.vmap(lambda key: SMALL.episodes(key, FEW))(keys), scanned

        for found in jax.tree.map(np.asarray, both(keys)):
            for i, key in enumerate(keys):
                assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], found), draw(SMALL, key, FEW))

    def test_float32(self):
        expected = draw(SMALL, jax.random.key(14), FEW)
        with jax.enable_x64(False):
            found = draw(SMALL, jax.random.key(14), FEW)
        assert all(x.dtype == jnp.float32 and y.dtype == jnp.int32 for x, y in found)
        assert max(np.max(x) for x, _ in found) == 1
        for (x, y), (u, v) in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, u, rtol=2**-22)
            np.testing.assert_array_equal(y, v)

    def test_pixels_stay_bytes(self):
        """No floating-point array of a compiled draw is larger than an episode, nor any constant."""
        wide = Images(numbered(20, 200, (8, 8)), ways=2, support=1, hessian=1, query=1)
        program = jax.make_jaxpr(Images.episodes, static_argnums=2)(wide, jax.random.key(0), 3)
        sizes = [v.aval.size for e in program.eqns for v in e.outvars if v.aval.dtype == jnp.float64]
        assert max(sizes) == 3 * 2 * 8 * 8
        assert sum(np.size(c) for c in program.consts) < 1000
        on_device = jax.device_put(wide)
        assert isinstance(on_device.pixels, jax.Array)
        assert on_device.pixels.dtype == jnp.uint8


class TestBadInput:
    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ({"ways": 0}, "ways = 0; allowed: an integer >= 1"),
            ({"support": -1}, "support = -1; allowed: an integer >= 1"),
            ({"hessian": 0}, "hessian = 0; allowed: an integer >= 1"),
            ({"query": 1.0}, "query = 1.0; allowed: an integer >= 1"),
            ({"ways": 8}, "ways = 8; allowed: at most 7, the number of classes"),
            (
                {"query": 7},
                "support + hessian + query = 2 + 1 + 7 = 10; allowed: at most 9, the samples of the smallest "
                "class",
            ),
            (
                {"pixels": numbered()[0]},
                "pixels has shape (9, 2, 3); allowed: (classes, images, height, width) or (classes, images, "
                "height, width, channels), each >= 1",
            ),
            (
                {"pixels": numbered()[..., None, None]},
                "pixels has shape (7, 9, 2, 3, 1, 1); allowed: (classes, images,",
            ),
            ({"pixels": numbered()[:, :0]}, "pixels has shape (7, 0, 2, 3); allowed: (classes, images,"),
        ],
    )
    def test_numbers(self, numbers, message):
        bad = dataclasses.replace(SMALL, **numbers)
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            bad.episodes(jax.random.key(0), 2)
        # Pixels may be traced: their shape is known all the same.
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            jax.eval_shape(lambda d: d.episodes(jax.random.key(0), 2), bad)

    @pytest.mark.parametrize("tasks", [0, -3, 1.5])
    def test_tasks(self, tasks):
        with pytest.raises(ValueError, match=f"tasks = {tasks}; allowed: an integer >= 1"):
            SMALL.episodes(jax.random.key(0), tasks)

    @pytest.mark.parametrize("dtype", [np.float32, np.int32, bool])
    def test_dtype(self, dtype):
        bad = dataclasses.replace(SMALL, pixels=numbered().astype(dtype))
        with pytest.raises(TypeError, match=f"pixels has dtype {np.dtype(dtype)}; allowed: uint8, 0 to 255"):
            bad.episodes(jax.random.key(0), 2)
