"""docs/federated.md: its code runs and learns, its table is that of the results."""

import pathlib
import re

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/federated.md").read_text()


def test_examples():
    first, normalisation = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(first, names)
    found, test = names["found"], names["test"]
    assert found.mean(0).mean + 0.1 < found.mean(10).mean
    accuracy = np.mean(names["labels"] == test["Eve"][1])
    np.testing.assert_allclose(found.of("Eve")[10], accuracy)
    exec(normalisation, names)
    params = names["normalised"].params
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    # The means of the layer's inputs over the server's clients, roughly; at the start they were 0.
    x = np.concatenate([x for x, _ in names["server"].values()])
    inputs = x @ params["weights"]["body"]["kernel"] + params["weights"]["body"]["bias"]
    np.testing.assert_allclose(params["statistics"]["norm"]["mean"], inputs.mean(axis=0), atol=0.5)
    assert np.abs(params["statistics"]["norm"]["mean"]).max() > 0
    assert np.isfinite(names["found_normalised"].values).all()
