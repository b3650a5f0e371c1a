"""Every claim of the MAML convergence theory, measured; and fast meta-gradients to measure it with.

The modules in LAZY are imported when they are first asked for: models needs flax, which takes longer to
import than JAX.
"""

import importlib
from typing import TYPE_CHECKING

from jaxmaml import estimators, hvp, tasks, theory
from jaxmaml.estimators.fo_maml import fo_maml
from jaxmaml.estimators.hf_maml import ArcDelta, float_optimal_delta, hf_maml, theorem_delta
from jaxmaml.estimators.maml import maml
from jaxmaml.estimators.maml_same_batch import maml_same_batch
from jaxmaml.inner import InnerLoop, adapt, adapt_has_finite_derivative
from jaxmaml.inner_gradient import inner_gradient
from jaxmaml.meta_gradient import MetaGradient, finite_tasks, meta_gradient, meta_value_and_gradient
from jaxmaml.step_size import TheoremStepState, scale_by_theorem_step
from jaxmaml.types import BatchSizes, Constants, Episode
from jaxmaml.version import __version__

LAZY = ("constants", "data", "models")

if TYPE_CHECKING:
    from jaxmaml import constants as constants
    from jaxmaml import data as data
    from jaxmaml import models as models
else:  # a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> object:
        if name in LAZY:
            return importlib.import_module(f"jaxmaml.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *LAZY})


__all__ = [
    "ArcDelta",
    "BatchSizes",
    "Constants",
    "Episode",
    "InnerLoop",
    "MetaGradient",
    "TheoremStepState",
    "__version__",
    "adapt",
    "adapt_has_finite_derivative",
    "estimators",
    "finite_tasks",
    "float_optimal_delta",
    "fo_maml",
    "hf_maml",
    "hvp",
    "inner_gradient",
    "maml",
    "maml_same_batch",
    "meta_gradient",
    "meta_value_and_gradient",
    "scale_by_theorem_step",
    "tasks",
    "theorem_delta",
    "theory",
]
