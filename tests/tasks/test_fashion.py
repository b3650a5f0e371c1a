"""The family of Fashion-MNIST on small random images and on the real ones."""

import numpy as np
import pytest

from jaxmaml.data import fashion_mnist
from jaxmaml.tasks import digits, fashion


@pytest.fixture
def small(monkeypatch):
    """6 random images of each class."""
    rng = np.random.default_rng(1)
    classes = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 6))
    images = rng.integers(0, 256, (60, 28, 28), np.uint8)
    # The class can be read off the first pixel.
    images[:, 0, 0] = 25 * classes
    monkeypatch.setattr(fashion_mnist, "load", lambda _: (images, classes))


@pytest.mark.usefixtures("small")
class TestFamily:
    def test_tasks_are_balanced_pairs(self):
        family = fashion.make(tasks=45, pool=12, side=28)
        x, y = family.tasks
        assert x.shape == (45, 12, 28**2 + 1)
        assert np.linalg.norm(x, axis=2).max() == pytest.approx(1)
        classes = np.round(x[..., 0] / x[..., -1] * 255 / 25)
        low, high = classes[:, :6], classes[:, 6:]
        assert np.all(low == low[:, :1])
        assert np.all(high == high[:, :1])
        assert {(a, b) for a, b in zip(low[:, 0], high[:, 0], strict=True)} == set(digits.PAIRS)
        assert np.all(y[:, :6] == -1)
        assert np.all(y[:, 6:] == 1)

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ({"tasks": 46}, "tasks = 46, pool = 100; allowed: at most 45 tasks, an even pool of at most 12"),
            ({"pool": 14}, "pool = 14; allowed: at most 45 tasks, an even pool of at most 12"),
            ({"pool": 3}, "pool = 3; allowed: at most 45 tasks, an even pool"),
            ({"side": 0}, "side = 0; allowed: an integer >= 1"),
            ({"side": 29}, "side = 29; allowed: at most 28"),
        ],
    )
    def test_bad_numbers(self, numbers, message):
        with pytest.raises(ValueError, match=message):
            fashion.make(**numbers)


class TestRealFiles:
    @pytest.fixture(autouse=True)
    def present(self):
        try:
            fashion.make(tasks=1, pool=2)
        except FileNotFoundError as absent:
            pytest.skip(str(absent))

    def test_training_images(self):
        family = fashion.make()
        assert family.tasks.x.shape == (20, 100, 65)
        assert family.constants().L <= 0.25 + 1e-3
        assert fashion.make(tasks=1, pool=12_000, side=1).dim == 2
        with pytest.raises(ValueError, match="an even pool of at most 12000"):
            fashion.make(pool=12_002)


def test_the_path_is_where_the_files_are_looked_for():
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        fashion.make(path="/nowhere")


def test_claim_goes_on_without_the_files(monkeypatch):
    from experiments import claims
    from experiments.claims import _real_data

    monkeypatch.setenv(fashion_mnist.VARIABLE, "/nowhere")
    assert "dataset-fashion-mnist" in _real_data.absence("default")
    for name in ("assumptions_real_data", "fo_floor_real_data"):
        assert {labels["data"] for labels, _ in claims.get(name).grid("default")} == {"digits"}
