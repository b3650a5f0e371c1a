"""L, rho, sigma, sigma_tilde and sigma_h of Assumptions 2 to 5, measured for any loss, model and data.

    problem = measure.from_pools(loss, params, pools)
    print(measure.constants(problem, key=jax.random.key(0)))

docs/constants.md says how to read the result.
"""

from jaxmaml.measure._constants import constants
from jaxmaml.measure.curvature import lanczos, ritz
from jaxmaml.measure.estimates import UNITS, Estimate, MeasuredConstants
from jaxmaml.measure.points import points_near
from jaxmaml.measure.problem import Problem, from_family, from_pools

__all__ = [
    "UNITS",
    "Estimate",
    "MeasuredConstants",
    "Problem",
    "constants",
    "from_family",
    "from_pools",
    "lanczos",
    "points_near",
    "ritz",
]
