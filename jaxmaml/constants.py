"""The former name of `jaxmaml.measure`, whose `constants` was its `measure`."""

from jaxmaml.measure import *  # noqa: F403
from jaxmaml.measure import constants as measure  # noqa: F401
