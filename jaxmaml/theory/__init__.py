"""What the theory promises, one result a file: NumPy only, knowing nothing of JAX, runs or figures.

"As summarised" is what the summary of the paper states, with its misprints mended and each marked;
"derived" is what docs/theory.md proves, with explicit constants. Unit phi is that of the loss, u that
of the parameters.
"""

import functools
import sys

from jaxmaml import discover
from jaxmaml.theory.convergence import Theorem


@functools.cache
def theorems() -> dict[str, Theorem]:
    """The convergence theorem of each estimator that has one, by the estimator's name."""
    found = discover.modules(sys.modules[__name__])
    return {name: module.theorem for name, module in found.items() if hasattr(module, "theorem")}
