"""Networks and losses for the estimators: flax.nnx modules, made into pure functions by `split`."""

from jaxmaml.models.conv4 import Conv4
from jaxmaml.models.losses import accuracy, cross_entropy, squared_error
from jaxmaml.models.mlp import MLP
from jaxmaml.models.pure import split

__all__ = ["MLP", "Conv4", "accuracy", "cross_entropy", "split", "squared_error"]
