"""One clear error for each bad input of `fewshot`, before anything compiles."""

import itertools
import re

import numpy as np
import pytest
from compilations import compilations

from jaxmaml import fewshot

X = np.arange(24.0).reshape(12, 2)
Y = ["ant", "bee", "cat"] * 4
CLIENTS = {"first": (X, X[:, 0]), "second": (X[:5], X[:5, 0])}


def nan_at(index):
    changed = X.copy()
    changed[index] = np.nan
    return changed


def with_label(label, dtype=object):
    return np.array([*Y[:3], label, *Y[4:]], dtype)


ARRAYS = {
    "no samples": ({"x": X[:0], "y": []}, "x has shape (0, 2): no samples; allowed: at least one number"),
    "no labels": ({"y": []}, "y has shape (0,): no samples"),
    "a number": ({"x": 3.0}, "x = 3.0; allowed: an array, sample axis first"),
    "rows of unequal length": ({"x": [[1.0], [1.0, 2.0]] * 6}, "x is no array (setting an array element"),
    "text": ({"x": np.full((12, 2), "a")}, "x has dtype <U1; allowed: integers, floating point or bool"),
    "objects": ({"x": np.full((12, 2), None)}, "x has dtype object; allowed: integers, floating"),
    "complex": ({"x": X * 1j}, "x has dtype complex128; allowed: integers, floating point or bool"),
    "not finite": ({"x": nan_at((3, 1))}, "x[3, 1] = nan; allowed: finite numbers"),
    "large integers": (
        {"x": 2**40 * np.arange(24).reshape(12, 2)},
        "x has integers from 0 to 25288767438848;",
    ),
    "lengths": ({"y": Y[:11]}, "x has 12 samples and y 11; allowed: as many of each"),
    "one-hot": (
        {"y": np.eye(3)[np.arange(12) % 3]},
        "y has shape (12, 3); allowed: (n,), a label for each sample (of one-hot rows: y.argmax(axis=1))",
    ),
    "a column": ({"y": np.ones((12, 1))}, "y has shape (12, 1); allowed: (n,), a label for each sample"),
    "NaN for a label": (
        {"y": np.where(np.arange(12) == 4, np.nan, np.arange(12) % 3)},
        "y[4] = nan: a label is missing; allowed: integers or strings",
    ),
    "None for a label": ({"y": with_label(None)}, "y[3] = None: no label; allowed: an integer or a string"),
    "NaN among text": ({"y": with_label(np.nan)}, "y[3] = nan: no label; allowed: an integer or a string"),
    "no text": ({"y": with_label("", str)}, "y[3] = '': a label is missing; allowed: a label"),
    "text and integers": (
        {"y": with_label(3)},
        "y has both strings and integers; allowed: labels of one kind",
    ),
    "targets": ({"y": X[:, 0] / 7}, "y[1] = 0.2857142857142857; allowed: integers or strings (for numbers"),
    "dates": (
        {"y": np.arange(12).astype("M8[D]")},
        "y has dtype datetime64[D]; allowed: integers or strings",
    ),
    "one class": ({"y": ["ant"] * 12}, "ways = 2; allowed: at most 1, the number of classes"),
    "one way": ({"ways": 1}, "ways = 1; allowed: an integer >= 2"),
    "many ways": ({"ways": 4}, "ways = 4; allowed: at most 3, the number of classes"),
    "unknown class": (
        {"classes": ["ant", "bees"]},
        "unknown class 'bees'; known: 'ant', 'bee', 'cat'. Did you mean 'bee'?",
    ),
    "unknown of many": (
        {"y": np.arange(12), "x": X, "classes": [0, 12]},
        "unknown class 12; known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11.",
    ),
    "class twice": ({"classes": ["ant", "bee", "ant"]}, "class 'ant' is named twice; allowed: once"),
    "no class": ({"classes": []}, "classes has shape (0,): no samples; allowed: at least one number"),
    "a small class": (
        {"y": ["ant"] * 2 + ["bee"] * 7 + ["cat"] * 3},
        "support + hessian + query = 1 + 1 + 2 = 4; allowed: at most 2, the samples of class 'ant' "
        "(too few in 2 of 3; min_samples=4 leaves these out)",
    ),
    "all classes left out": (
        {"min_samples": 5},
        "min_samples = 5; allowed: at most 4, the samples of the largest class",
    ),
    "min_samples": ({"min_samples": 0}, "min_samples = 0; allowed: an integer >= 1"),
    "support": ({"support": 0}, "support = 0; allowed: an integer >= 1"),
    "query": ({"query": 1.5}, "query = 1.5; allowed: an integer >= 1"),
    "hessian": ({"hessian": -1}, "hessian = -1; allowed: an integer >= 1"),
    "weights, as many": (
        {"sample_weights": np.ones(11)},
        "sample_weights has shape (11,); allowed: (12,), a",
    ),
    "weights, sign": ({"sample_weights": -np.ones(12)}, "sample_weights = array([-1., -1.,"),
    "weights, all 0": (
        {"sample_weights": np.zeros(12)},
        "sample_weights are all 0; allowed: at least one > 0",
    ),
    "class weights, as many": (
        {"class_weights": [1, 2]},
        "class_weights has shape (2,); allowed: (3,), a number",
    ),
    "class weights, missing": (
        {"class_weights": {"ant": 1, "cat": 2}},
        "class_weights lacks 'bee'; allowed: a number for each of 'ant', 'bee', 'cat'",
    ),
    "class weights, unknown": (
        {"class_weights": {"ant": 1, "bee": 2, "cart": 2}},
        "unknown name in class_weights 'cart'; known: 'ant', 'bee', 'cat'. Did you mean 'cat'?",
    ),
    "class weights, NaN": (
        {"class_weights": [1, np.nan, 2]},
        "class_weights = array([ 1., nan,  2.]); allowed:",
    ),
    "class weights, all 0": (
        {"class_weights": [0, 0, 0]},
        "class_weights are all 0; allowed: at least one > 0",
    ),
    "class weights, a word": (
        {"class_weights": "sizes"},
        "class_weights = 'sizes'; allowed: \"size\", numbers, or",
    ),
    "class weights, one > 0": (
        {"class_weights": [0, 1, 0]},
        "ways = 2; allowed: at most 1, the number of classes",
    ),
}


def changed(name, x=X, y=X[:, 0]):
    return CLIENTS | {name: (x, y)}


TASKS = {
    "no task": ({"tasks": {}}, "tasks is no task; allowed: a dict of (x, y) by name, at least one"),
    "a list": ({"tasks": [(X, X)]}, "tasks is list; allowed: a dict of (x, y) by name, at least one"),
    "an array alone": ({"tasks": {"first": X}}, "task 'first' has a ndarray; allowed: (x, y)"),
    "three parts": ({"tasks": {"first": (X, X, X)}}, "task 'first' has 3 parts; allowed: (x, y)"),
    "no samples": (
        {"tasks": changed("third", X[:0], [])},
        "x of 'third' has shape (0, 2): no samples; allowed:",
    ),
    "lengths": ({"tasks": changed("third", X[:7])}, "x of 'third' has 7 samples and y 12; allowed: as many"),
    "features": (
        {"tasks": changed("third", np.ones((12, 3)))},
        "x of 'third' has shape (12, 3) and of 'first' (12, 2); allowed: the same beyond the first axis",
    ),
    "outputs": (
        {"tasks": changed("third", y=X)},
        "y of 'third' has shape (12, 2) and of 'first' (12,); allowed: the same beyond the first axis in all",
    ),
    "bytes in one": (
        {"tasks": changed("third", X.astype(np.uint8))},
        "x of 'third' has dtype uint8 and of 'first' float64; allowed: uint8 in all tasks or in none",
    ),
    "not finite": ({"tasks": changed("third", nan_at((0, 1)))}, "x of 'third'[0, 1] = nan; allowed: finite"),
    "targets missing": (
        {"tasks": changed("third", y=nan_at((5, 0))[:, 0])},
        "y of 'third'[5] = nan; allowed: finite numbers",
    ),
    "labels missing": (
        {"tasks": {"first": (X, Y), "second": (X, with_label(None))}},
        "y of 'second'[3] = None: no label; allowed: an integer or a string",
    ),
    "labels of two kinds": (
        {"tasks": {"first": (X, Y), "second": (X, np.arange(12))}},
        "y holds strings in some tasks and integers in others; allowed: one kind",
    ),
    "one label": (
        {"tasks": {"first": (X, np.ones(12, int)), "second": (X, np.ones(12, int))}},
        "y is 1 in all tasks; allowed: at least two labels",
    ),
    "a small task": (
        {"support": 2},
        "support + hessian + query = 2 + 2 + 2 = 6; allowed: at most 5, the samples of task 'second' "
        "(too few in 1 of 2; min_samples=6 leaves these out)",
    ),
    "all left out": (
        {"min_samples": 20},
        "min_samples = 20; allowed: at most 12, the samples of the largest task",
    ),
    "query": ({"query": True}, "query = True; allowed: an integer >= 1"),
    "weights, by name": (
        {"sample_weights": {"first": np.ones(12)}},
        "sample_weights lacks 'second'; allowed: an array for each task",
    ),
    "weights, an array": (
        {"sample_weights": np.ones(17)},
        "sample_weights is ndarray; allowed: a dict of arrays",
    ),
    "weights, as many": (
        {"sample_weights": {"first": np.ones(12), "second": np.ones(4)}},
        "sample_weights of 'second' has shape (4,); allowed: (5,), a number for each sample",
    ),
    "weights, unknown": (
        {"sample_weights": {"first": np.ones(12), "secund": np.ones(5)}},
        "unknown task in sample_weights 'secund'; known: 'first', 'second'. Did you mean 'second'?",
    ),
    "task weights, a word": (
        {"task_weights": "uniform"},
        "task_weights = 'uniform'; allowed: \"size\", numbers, or",
    ),
    "task weights, sign": (
        {"task_weights": [1, -1]},
        "task_weights = array([ 1, -1]); allowed: finite and >= 0",
    ),
}


def refused(call, message):
    """With that message, and without a compilation."""
    with (
        compilations() as compiled,
        pytest.raises((ValueError, TypeError), match="^" + re.escape(message)) as said,
    ):
        call()
    assert not compiled
    assert re.search("allowed|known", str(said.value))


@pytest.mark.parametrize(("bad", "message"), ARRAYS.values(), ids=ARRAYS)
def test_from_arrays(bad, message):
    good = {"x": X, "y": Y, "ways": 2, "support": 1, "query": 2}
    refused(lambda: fewshot.from_arrays(**good | bad), message)


@pytest.mark.parametrize(("bad", "message"), TASKS.values(), ids=TASKS)
def test_from_tasks(bad, message):
    good = {"tasks": CLIENTS, "support": 1, "query": 2}
    refused(lambda: fewshot.from_tasks(**good | bad), message)


def test_the_good_ones_are_taken():
    assert fewshot.from_arrays(X, Y, ways=2, support=1, query=2).sizes.tolist() == [4, 4, 4]
    assert fewshot.from_tasks(CLIENTS, support=1, query=2).sizes.tolist() == [12, 5]


class TestPartition:
    def test_parts(self):
        """All labels, once each, in the shares that were asked for; from labels of samples as from a list."""
        labels = [f"class {i}" for i in range(100)]
        parts = fewshot.partition(labels, (64, 16, 20), seed=3)
        assert [len(part) for part in parts] == [64, 16, 20]
        assert sorted(itertools.chain(*parts)) == sorted(labels)
        assert all(part == sorted(part) for part in parts)
        assert fewshot.partition(np.repeat(labels, 3)[::-1], (0.64, 0.16, 0.2), seed=3) == parts
        assert fewshot.partition(labels, (64, 16, 20), seed=4) != parts

    def test_labels_are_what_they_were(self):
        parts = fewshot.partition(np.array([3.0, 7, 7, 5]), (2, 1))
        assert sorted(itertools.chain(*parts)) == [3, 5, 7]
        assert all(type(label) is int for part in parts for label in part)

    def test_every_label_is_as_likely_in_a_part(self):
        counts = np.zeros(5)
        for seed in range(500):
            counts[fewshot.partition(range(5), (3, 2), seed)[1]] += 1
        assert counts.sum() == 1000
        assert abs(counts - 200).max() < 5 * np.sqrt(500 * 0.4 * 0.6)

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ({"shares": (1, 0)}, "shares = (1, 0); allowed: numbers > 0"),
            ({"shares": (1, -1)}, "shares = array([ 1, -1]); allowed: finite and >= 0"),
            ({"shares": ()}, "shares = (); allowed: a number > 0 for each part"),
            (
                {"shares": (99, 1)},
                "shares = (99, 1) of 3 labels give parts of [3, 0]; allowed: at least one label",
            ),
            ({"labels": []}, "labels has shape (0,): no samples"),
            ({"labels": ["a", None]}, "labels[1] = None: no label; allowed: an integer or a string"),
            ({"seed": -1}, "seed = -1; allowed: an integer >= 0"),
        ],
    )
    def test_bad(self, bad, message):
        refused(lambda: fewshot.partition(**{"labels": Y} | bad), message)
