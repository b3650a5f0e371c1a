"""Images in colour train as grey ones do: CIFAR-FS in its layout, on small files that the test makes."""

import dataclasses
import pathlib

import numpy as np
import pytest
from matplotlib import pyplot
from picture_files import by_part, write_cifar_fs

from jaxmaml.training import figures, loop, problem, store
from jaxmaml.training.presets import PRESETS, Data, Model


@pytest.fixture
def preset(tmp_path):
    write_cifar_fs(tmp_path / "data", by_part(32))
    return dataclasses.replace(
        PRESETS["digits"],
        data=Data("cifar_fs", str(tmp_path / "data"), ways=2, support=1, hessian=1, query=2),
        model=Model("mlp", (4,), activation="softplus"),
        outer=dataclasses.replace(PRESETS["digits"].outer, steps=2, tasks=2),
        evaluation=dataclasses.replace(PRESETS["digits"].evaluation, episodes=2, every=2, steps=(1,)),
        out=str(tmp_path / "run"),
    )


def test_tasks_and_networks_have_three_channels(preset):
    for tasks in problem.distributions(preset):
        assert tasks.pixels.shape == (3, 6, 32, 32, 3)
    assert problem.network(preset).inputs == 32 * 32 * 3
    convolutional = dataclasses.replace(preset, model=Model("conv4", channels=2))
    assert problem.network(convolutional).shape == (32, 32, 3)


def test_gallery_shows_colour(preset):
    axis = pyplot.figure().add_subplot()
    image = np.linspace(0, 1, 27).reshape(3, 3, 3)
    figures._image(axis, image, "class 1")
    np.testing.assert_array_equal(axis.images[0].get_array(), image)
    pyplot.close(axis.figure)
    assert figures.title_of(preset).startswith("CIFAR-FS, 2-way 1-shot, ")


@pytest.mark.exhaustive  # compiles a training run; what differs from a grey one is tested above
def test_training(preset):
    """A few steps, the figures drawn; the evaluation after them is finite."""
    assert loop.train(preset) == 0
    curve = store.read(pathlib.Path(preset.out)).table()
    assert np.isfinite(curve.drop(columns=["low", "high"]).to_numpy()).all()
    assert curve.step.max() == 2
