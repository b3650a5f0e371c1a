"""The head to head: lanes are single runs, budgets are read right, figures come from tables alone."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from experiments import head_to_head
from experiments import head_to_head_figures as figures
from jaxmaml.training import problem
from jaxmaml.training.presets import PRESETS, Evaluation, Inner, Method, Model, Outer

pytestmark = pytest.mark.recorded


def tiny(**outer):
    """Digits with a small network, seconds of work."""
    return dataclasses.replace(
        PRESETS["digits"],
        model=Model("mlp", (8,), activation="softplus"),
        inner=Inner(alpha=0.2),
        outer=Outer(tasks=3, steps=4, **outer),
        evaluation=Evaluation(episodes=6, steps=(1,), every=2),
    )


@pytest.mark.parametrize(
    "variants",
    [
        [dataclasses.replace(tiny(rate=r), seed=s) for s, r in ((3, 1e-2), (5, 3e-2))],
        [tiny(optimizer="theorem", L=2.0, rho=3.0, multiple=m) for m in (1.0, 50.0)],
    ],
    ids=["seeds and rates", "multiples"],
)
def test_lanes_are_single_runs(results_here, variants):
    found = head_to_head.trained("digits", variants, 4)
    for lane, preset in enumerate(variants):
        built = problem.build(preset)
        functions = problem.functions(preset, built)
        state = functions.advance(functions.start(), 4, built.training)
        losses, values = functions.measure(state, built.test)[1]
        training = functions.measure(state, built.training)[1][0]
        row = found[(found.lane == lane) & (found.step == 4)].iloc[0]
        # float32, and the batched program sums in another order.
        np.testing.assert_allclose(
            [row.training, row.loss, row.value],
            [training.mean(), losses.mean(), values.mean()],
            rtol=1e-3,
            atol=1e-3,
        )
    ends = found[found.step == 4]
    assert ends.loss.nunique() == 2
    assert list(found.columns) == ["lane", "step", "training", "loss", "value"]
    again = head_to_head.trained("digits", variants, 4)
    pd.testing.assert_frame_equal(found, again)


def curve(method, shift, steps, seeds=(0, 1, 2)):
    """value = shift + seed/10 + step/1000 at steps 0, 10, ..., twice the loss on training tasks."""
    rows = [
        (method, 0.1, s, k, shift + s / 10 + k / 1000, 0.0) for s in seeds for k in range(0, steps + 1, 10)
    ]
    table = pd.DataFrame(rows, columns=["method", "rate", "seed", "step", "value", "loss"])
    return table.assign(training=table.value / 2)


def test_budgets():
    """100 steps of MAML buy 200 of a method at half the gradients and 150 at 2/3 of the seconds."""
    curves = pd.concat([curve("maml", 0.0, 100), curve("fo_maml", 0.05, 200)], ignore_index=True)
    found = head_to_head.at_budgets(curves, 100, {"maml": 4.0, "fo_maml": 2.0}, {"maml": 0.3, "fo_maml": 0.2})
    both = found.set_index(["method", "budget", "measure"])
    np.testing.assert_allclose(
        2 * both.xs("training", level=2)[["value", "low", "difference", "difference_high"]],
        both.xs("value", level=2)[["value", "low", "difference", "difference_high"]],
        atol=1e-12,
    )
    found = both.xs("value", level=2)
    for budget, step in (("steps", 100), ("gradients", 200), ("seconds", 150)):
        row = found.loc["fo_maml", budget]
        assert row.step == step
        np.testing.assert_allclose(row.value, 0.05 + 0.1 + step / 1000)
        # Paired by seed: the seeds' own differences cancel.
        np.testing.assert_allclose(
            row[["difference", "difference_low", "difference_high"]].astype(float), 0.05 + (step - 100) / 1000
        )
        assert row.high - row.low > 0.1
        assert found.loc["maml", budget].step == 100
    assert found.loc["fo_maml", "gradients"].cost == 0.5


@pytest.mark.parametrize(
    ("value", "difference", "says"),
    [
        (0.5, (-0.1, 0.2), "0.500 [0.400, 0.600]"),
        (0.5, (0.1, 0.2), "0.500 [0.400, 0.600] *"),
        (0.5, (-0.2, -0.1), "0.500 [0.400, 0.600] *"),
        (50376.4, (-1.0, 2.0), "5.04e+04 [5.04e+04, 5.04e+04]"),
        (np.nan, (np.nan, np.nan), "diverged"),
    ],
)
def test_entries(value, difference, says):
    low, high = difference
    row = {"value": value, "low": value - 0.1, "high": value + 0.1}
    assert figures.entry(pd.Series({**row, "difference_low": low, "difference_high": high})) == says


def test_imaml_pulls_with_the_measured_constant():
    assert head_to_head.with_method(tiny(L=7.0), "imaml").method.lam == 7.0
    assert head_to_head.with_method(tiny(L=7.0), "fo_b_maml").method.lam is None


def test_best_multiple():
    rows = [
        ("digits", m, k, -loss, loss if k else 1.5, 0.2, 4.0, 9.0)
        for m, loss in ((1.0, 1.4), (10.0, 0.7), (100.0, 0.9), (1e3, np.nan))
        for k in (0, 5)
    ]
    names = ["setting", "multiple", "step", "loss", "training", "alpha", "L", "rho"]
    best = figures.best_multiple(pd.DataFrame(rows, columns=names)).iloc[0]
    assert (best.multiple, best.best, best.theorem, best.start) == (10.0, 0.7, 1.4, 1.5)
    np.testing.assert_allclose(best.alpha_L, 0.8)


def test_from_training_to_figures(results_here, monkeypatch):
    """Everything once, for two methods on one setting; the tables are enough to draw again."""
    monkeypatch.setattr(head_to_head, "SCALES", {"smoke": head_to_head.Scale(4, 1, ("digits",))})
    monkeypatch.setattr(head_to_head, "settings", lambda _: {"digits": tiny()})
    methods = {
        "maml": Method("maml"),
        "hf_maml, float": Method("hf_maml", "float"),
        "fo_maml": Method("fo_maml"),
    }
    monkeypatch.setattr(head_to_head, "METHODS", methods)
    where = head_to_head.run("smoke")
    summary = figures.on_test_tasks(pd.read_csv(where / "summary.csv")).set_index(["method", "budget"])
    assert summary.loc["fo_maml", "gradients"].step == 8
    assert summary.loc["fo_maml", "steps"].step == 4
    # The float-optimal difference is MAML up to rounding, with the same draws; FO-MAML is another method.
    close = abs(summary.loc["hf_maml, float", "steps"].difference)
    assert close <= abs(summary.loc["fo_maml", "steps"].difference) + 1e-6
    theory = pd.read_csv(where / "theory.csv")
    assert set(theory.multiple) == set(head_to_head.MULTIPLES)
    assert (theory.L > 0).all()
    made = figures.draw(where)
    assert [path.name for path in made] == ["methods.svg", "budgets.svg", "theory_step.svg", "table.md"]
    table = made[-1].read_text()
    assert "Digits, 3-way 5-shot | HF-MAML, float-optimal delta" in table


@pytest.mark.parametrize(("best", "diverges"), [(1e-3, 0.5), (1e-5, 5e-5), (0.1, 0.5)])
def test_rates_reach_beyond_their_ends(monkeypatch, best, diverges):
    """The rate nearest to the best, also outside those tried at first; a run that diverges is not chosen."""
    looks = []

    def trained(_, presets, steps):
        rates = np.array([preset.outer.rate for preset in presets])
        looks.append(rates)
        assert {preset.seed for preset in presets} == {head_to_head.TUNING_SEED}
        losses = np.where(rates > diverges, np.nan, abs(np.log(rates / best)))
        rows = [
            (lane, step, loss + 9 * (step == 0)) for lane, loss in enumerate(losses) for step in (0, steps)
        ]
        return pd.DataFrame(rows, columns=["lane", "step", "training"])

    monkeypatch.setattr(head_to_head, "trained", trained)
    assert head_to_head.tuned("digits", "maml", tiny()) == best
    assert len(looks) == (1 if best == 1e-3 else 2)


def test_missing_tables_and_unknown_scale(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"curves.csv is missing; make it with"):
        figures.draw(tmp_path)
    with pytest.raises(ValueError, match="scale = 'big'; allowed: smoke, default"):
        head_to_head.run("big")


def test_repaired_delta():
    """eta = min(1/6, 1/sqrt(B)): another rule from B = 37 on."""
    few, many = (
        head_to_head.with_method(tiny_tasks(tasks), "hf_maml, repaired").method.eta for tasks in (8, 64)
    )
    assert (few, many) == (1 / 6, 1 / 8)


def tiny_tasks(tasks):
    return dataclasses.replace(tiny(), outer=Outer(tasks=tasks))


@pytest.fixture(autouse=True)
def float32():
    """As the command runs it."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", False)
    head_to_head._functions.cache_clear()
    yield
    jax.config.update("jax_enable_x64", before)
