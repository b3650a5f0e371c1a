"""The comparison of Per-FedAvg: equal budgets, rates chosen alike, paired intervals."""

import dataclasses
import pathlib

import numpy as np
import pandas as pd
import pytest

from experiments import federated
from jaxmaml import statistics

ROOT = pathlib.Path(__file__).parents[2]


def test_budgets_are_equal():
    setting = federated.DIGITS
    assert {m: federated.rounds_of(setting, m)["rounds"] for m in federated.COSTS} == dict.fromkeys(
        federated.COSTS, setting.rounds
    )
    spent = {m: federated.rounds_of(setting, m)["gradients"] * cost for m, cost in federated.COSTS.items()}
    assert set(spent.values()) == {4 * setting.rounds}


def test_clients_are_shared_out_alike_and_apart():
    """Seen and unseen clients have both kinds and no image in common; another seed, another split."""
    parts = [federated.shared_out(federated.DIGITS, seed) for seed in (0, 1)]
    images = [
        {image.tobytes() for clients in part for image in np.asarray(clients.x)} for part in parts[0].values()
    ]
    assert [len(part[0].names) for part in parts[0].values()] == [16, 8]
    assert not set(parts[0]["seen"][0].names) & set(parts[0]["unseen"][0].names)
    assert not images[0] & images[1]
    for training, test in parts[0].values():
        assert set(np.add(training.sizes, test.sizes)) == {60, 30}
    assert not np.array_equal(parts[0]["seen"][0].x, parts[1]["seen"][0].x)
    assert parts[0]["seen"][0].sizes == parts[1]["seen"][0].sizes


def test_rates_are_those_of_the_best_accuracy_after_a_step():
    setting = dataclasses.replace(federated.DIGITS, rates=(0.1, 0.3, 1.0), steps=(0, 1, 5))
    grid = np.array([(0.1, 0.3), (1.0, 0.1)])
    found = np.zeros((2, 2, 3, 3))  # pairs, budgets, rates of fine-tuning, steps
    found[0, :, 0, 2] = 0.99  # after five steps: chooses no pair
    found[1, 0, 2, 1], found[1, 0, 0, 2] = 0.9, 0.8
    found[0, 1, 1, 1] = 0.7
    rows = federated.best(setting, grid, found)
    assert list(rows.budget) == ["rounds", "gradients"]
    np.testing.assert_array_equal(rows[["alpha", "beta"]], [(1.0, 0.1), (0.1, 0.3)])
    np.testing.assert_array_equal(rows[1], [1.0, 0.3])
    np.testing.assert_array_equal(rows[5], [0.1, 0.1])


def test_differences_are_paired_by_seed():
    rng = np.random.default_rng(0)
    common = rng.uniform(0.5, 0.9, 10)
    rows = []
    for method, gain in (("fedavg", 0.0), ("maml", 0.02)):
        of_seeds = common + gain + 0.001 * rng.standard_normal(10)
        rows += [
            {"budget": "rounds", "clients": "seen", "steps": 1, "method": method, "seed": seed, "accuracy": x}
            for seed, x in enumerate(of_seeds)
        ]
    values = pd.DataFrame(rows).assign(rounds=60, alpha=0.1, beta=0.3, fine_tuning=0.1)
    # The order of the rows is no matter.
    found = federated.summary(values.sample(frac=1, random_state=1).sort_values("method", kind="stable"))
    found = found.set_index("method")
    np.testing.assert_allclose(found.loc["maml", "difference"], 0.02, atol=2e-3)
    assert found.loc["maml", "difference_low"] > 0.015
    of_maml = statistics.interval(values[values.method == "maml"].accuracy)
    np.testing.assert_allclose(found.loc["maml", ["low", "high"]].to_list(), [of_maml.low, of_maml.high])
    assert found.loc["fedavg", "difference"] == 0
    text = federated.table(found.reset_index().assign(setting="digits"))
    assert text.count("\\*") == 2  # in the text above and at MAML
    assert f"{found.loc['maml', 'accuracy']:.3f} [" in text


@pytest.mark.exhaustive  # eight programs of all methods to compile
def test_smoke(results_here):
    where = federated.run("smoke")
    table = pd.read_csv(where / "summary.csv")
    assert len(table) == 2 * 2 * 3 * 4
    assert table.accuracy.between(0, 1).all()
    # Exact and Hessian-free directions are nearly the same; at equal rounds FedAvg's are others.
    by = table[table.steps == 1].groupby("method").accuracy.mean()
    assert abs(by["maml"] - by["hf_maml"]) < 0.05
    again = federated.run("smoke")
    pd.testing.assert_frame_equal(pd.read_csv(again / "summary.csv"), table)


def test_results_are_those_of_the_page():
    """docs/federated.md has the tables of results/federated/table.md, and its text is short."""
    page = (ROOT / "docs/federated.md").read_text()
    table = (ROOT / "results/federated/table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ") and "unseen" in line]
    assert len(rows) == 16
    for row in rows:
        assert row in page
