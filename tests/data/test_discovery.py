"""Every image set that is discovered gives classes in one form, and they make episodes."""

import os
import pathlib

import jax
import numpy as np
import pytest

from jaxmaml import data
from jaxmaml.data import omniglot
from jaxmaml.data.images import Images

OMNIGLOT = pathlib.Path(__file__).resolve().parents[3] / "shared/data/omniglot"


@pytest.mark.parametrize("name", data.image_sets())
def test_every_image_set(name, monkeypatch):
    if OMNIGLOT.is_dir() and not os.environ.get(omniglot.VARIABLE):
        monkeypatch.setenv(omniglot.VARIABLE, str(OMNIGLOT))
    try:
        training, test = data.classes(name)
    except FileNotFoundError as absent:
        pytest.skip(str(absent))
    assert training.shape[1:] == test.shape[1:]
    for pixels in (training, test):
        assert pixels.dtype == np.uint8
        shape = data.image_shape(name)
        assert pixels.shape[2:] in (shape, shape[:2])
        assert pixels.max() == 255
        distribution = Images(pixels, ways=3, support=1, hessian=2, query=3)
        episodes = jax.jit(Images.episodes, static_argnums=2)(distribution, jax.random.key(0), 2)
        assert episodes.outer[0].shape == (2, 9, *shape)
    several = {image.tobytes() for image in training[:, 0]}
    assert not several & {image.tobytes() for image in test[:, 0]}


def test_known_sets():
    known = {"cifar_fs", "digits", "fashion_mnist", "mini_imagenet", "omniglot"}
    assert known <= set(data.image_sets())
    assert data.image_shape("cifar_fs") == (32, 32, 3)
    assert data.image_shape("omniglot") == (28, 28, 1)


def test_path_and_options_go_to_the_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} has no images_background_small1.zip"):
        data.classes("omniglot", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} has no images_background.zip"):
        data.classes("omniglot", tmp_path, full=True)


def test_unknown_set():
    with pytest.raises(ValueError, match="unknown image set 'omniglott'; known: .* Did you mean 'omniglot'?"):
        data.classes("omniglott")
