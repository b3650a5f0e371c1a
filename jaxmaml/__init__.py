"""Every claim of the MAML convergence theory, measured; and fast meta-gradients to measure it with.

The names are those of the stub beside this file. Each is imported when it is first asked for: a command line
then starts without JAX, and who does not use the networks does without flax.
"""

import lazy_loader

from jaxmaml.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
