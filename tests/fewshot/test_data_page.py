"""Every example of docs/data.md runs, and does what the page says."""

import pathlib
import re

import jax
import numpy as np
import pytest
from compilations import compilations

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/data.md").read_text()
EXAMPLES = {
    section.splitlines()[0]: code
    for section in PAGE.split("\n## ")
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
}


def run(title):
    names = {}
    exec(EXAMPLES[title], names)
    return names


def test_all_are_found():
    assert len(EXAMPLES) == PAGE.count("```python")


def test_clients_learn():
    with compilations() as compiled:
        names = run("Clients of unequal size")
    assert compiled.count("jit(step)") == 1
    assert names["after"] < names["before"] / 5
    sizes = [len(y) for _, y in (names["clients"][name] for name in names["seen"])]
    assert names["training"].sizes.tolist() == sizes
    assert len(names["seen"]) == 24
    who = np.asarray(names["training"].who(jax.random.key(0), 16))
    assert who.shape == (16,)


def test_labelled_samples():
    names = run("Labelled samples")
    assert names["images"].shape == (32, 5, 12)
    assert names["labels"].shape == (32, 5)
    parts = [set(names[part]) for part in ("training", "validation", "test")]
    assert [len(part) for part in parts] == [24, 6, 10]
    assert len(set.union(*parts)) == 40
    assert len(names["test_tasks"].sizes) == 10


def test_images():
    names = run("Images")
    assert names["x"].shape == (18, 20, 20, 3)
    assert names["x"].dtype == np.uint8
    assert len(names["y"]) == 18
    for a, b in zip(*(jax.tree.leaves(names[tasks]) for tasks in ("tasks", "same")), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["cifar_fs", "mini_imagenet"])
def test_the_page_names_what_there_is(name):
    from jaxmaml import data

    module = __import__(f"jaxmaml.data.{name}", fromlist=["classes"])
    assert name in data.image_sets()
    assert name in PAGE
    assert {"classes", "part", "checksum"} <= set(vars(module))
