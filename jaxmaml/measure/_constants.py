"""L, rho, sigma, sigma_tilde and sigma_h of Assumptions 2 to 5, measured for any loss, model and data.

With H_i = hess f_i, T_i the third derivative of f_i and theta a sample of task i, the assumptions ask for the
least numbers with, for every w and i,

    L >= ||H_i(w)||,    rho >= ||T_i(w)|| = max T_i(w)[u, v, x] over unit vectors u, v, x,
    sigma^2 >= E_i ||grad f_i(w) - grad f(w)||^2,
    sigma_tilde^2 >= E_theta ||grad f_i(w, theta) - grad f_i(w)||^2,
    sigma_h^2 >= E_theta ||hess f_i(w, theta) - H_i(w)||^2  (spectral norm).

Measured is the largest at some points w, which can only be too small: a lower estimate. Norms of Hessians are
extreme Ritz values of Lanczos's method (1950); those of T_i are found by maximising over u, v and x in turn
(the higher-order power method of De Lathauwer, De Moor and Vandewalle, 2000). Both need products alone
(`jaxmaml.hvp.exact`), no d x d matrix. docs/constants.md says how to read the result.
"""

from collections.abc import Sequence

import jax

from jaxmaml.checks import check_positive, check_step_count
from jaxmaml.measure.curvature import measure_L
from jaxmaml.measure.estimates import MeasuredConstants
from jaxmaml.measure.kinks import find_kink, without_end
from jaxmaml.measure.noise import measure_noise
from jaxmaml.measure.points import near
from jaxmaml.measure.problem import Problem
from jaxmaml.measure.spread import measure_sigma
from jaxmaml.measure.survey import FIRST_STEPS, take_survey
from jaxmaml.measure.third_derivative import measure_rho
from jaxmaml.types import PyTree


def constants(
    problem: Problem,
    *,
    key: jax.Array,
    points: Sequence[PyTree] | None = None,
    iterations: int = 24,
    starts: int = 3,
    samples: int = 16,
    tolerance: float = 1e-3,
    task_chunk: int | None = None,
) -> MeasuredConstants:
    """The largest of each quantity in the docstring of this module, over the points and the tasks.

    * L: the largest |Ritz value| of every H_i(w). While the residual of the largest is above `tolerance`,
      it is measured again, with twice the steps, up to 8 times as many.
    * rho: the largest of ||T_i(w)||, and of ||H_i(w) - H_i(w')|| / ||w - w'|| for consecutive points.
      Derivatives that jump between consecutive points (`measure.kinks`) are said: no finite rho holds then.
    * sigma: exact at every point, for the n tasks and as far as `full` is exact.
    * sigma_tilde, sigma_h: the largest of many noisy means is too large on average. So a first look chooses
      8 candidates, fresh draws choose one of them, and the value is that of fresh draws once more.

    Cost in Hessian-vector products, for P points and n tasks: P n (3 iterations + 18 starts + 3 samples + 45)
    in the first look, and at most 1152 starts + 8 samples (48 + iterations) in those after it, whatever P and
    n. Everything is compiled, and vectorised over tasks and draws, with matrix products at the full precision
    of their type: the default of GPUs for float32 would drown the differences.

    Args:
      problem: of `from_pools`, `from_family` or your own.
      key: of the draws, and of the directions that the searches start from.
      points: parameters like problem.params, e.g. those of a run, in its order; None: `points_near`.
      iterations: Lanczos steps. From d on the norms are exact, except in the looks that choose.
      starts: of the search for rho, at each point and task; the first is in the direction of the gradient.
      samples: draws for each point and task in the first look; a fourth as many, at least 2, of Hessians.
      tolerance: of the residual of the largest Ritz value, relative.
      task_chunk: tasks that are vectorised together, as in `meta_gradient`; None takes all that fit.

    Returns:
      MeasuredConstants. Every kind is "lower estimate", but for the sigma of a single task: 0, exact.

    Raises:
      ValueError: no points, points unlike params, samples < 2, a task axis that is not first, a loss that is
        not a scalar, a derivative that is not finite at a point.
      TypeError: parameters that are not floating point.

    Warns:
      UserWarning: the mean gradient of the samples is not that of `full`.
    """
    for name, value, least in (("iterations", iterations, 2), ("starts", starts, 1), ("samples", samples, 2)):
        check_step_count(name, value, least)
    check_positive("tolerance", tolerance)
    keys = jax.random.split(key, 5)
    products = 0
    with jax.default_matmul_precision("highest"):
        survey = take_survey(problem, points, task_chunk)
        iterations = min(iterations, survey.dim)
        if points is None:
            products += survey.tasks * min(FIRST_STEPS, iterations)
            survey = survey._replace(points=near(survey, keys[0], 3, 3, iterations))
        sigma = measure_sigma(survey)  # first, because it names a gradient that is not finite
        L, cost = measure_L(survey, keys[1], iterations, tolerance)
        rho, more = measure_rho(survey, keys[2], iterations, starts, L.value)
        kink, few = find_kink(survey)
        rho = without_end(rho, kink)
        sigma_tilde, _ = measure_noise(survey, keys[3], samples, None)
        sigma_h, most = measure_noise(survey, keys[4], max(2, samples // 4), iterations)
    products += cost + more + few + most
    return MeasuredConstants(
        L, rho, sigma, sigma_tilde, sigma_h, len(survey.points), survey.tasks, products, kink
    )
