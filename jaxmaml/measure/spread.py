"""sigma: the spread of the tasks' gradients."""

from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from jaxmaml import tree
from jaxmaml.measure.estimates import Estimate
from jaxmaml.measure.survey import Survey, batches_of, check_finite, chunks, gradient_vector, root_mean_square
from jaxmaml.types import PyTree


def measure_sigma(survey: Survey) -> Estimate:
    values = np.zeros(len(survey.points))
    for p, w in enumerate(survey.points):
        mean, norms = mean_gradient(survey, w)
        check_finite("gradient", p, np.arange(survey.tasks), norms)
        deviations = np.zeros(survey.tasks)
        for who, _ in chunks(survey, 2):
            deviations[who] = _deviations(survey.loss, survey.full, who, w, mean)
        values[p] = root_mean_square(deviations)
    if survey.tasks == 1:
        return Estimate(0.0, 0.0, 0.0, "exact", values.size, "one task")
    value = float(values.max())
    how = f"spread over {survey.tasks} equiprobable tasks, the largest at point {values.argmax()}"
    return Estimate(value, value, value, "lower estimate", values.size, how)


def mean_gradient(survey: Survey, w: PyTree) -> tuple[jax.Array, np.ndarray]:
    """(grad f(w), ||grad f_i(w)|| of every task)."""
    total: Any = 0.0
    norms = np.zeros(survey.tasks)
    for who, seen in chunks(survey, 2):
        gradients, norms[who] = task_gradients(survey.loss, survey.full, who, w)
        total = total + (gradients[seen:] if seen else gradients).sum(axis=0)
    return total / survey.tasks, norms


@jax.jit
def task_gradients(loss: Partial, full: PyTree, who: jax.Array, w: PyTree) -> tuple[jax.Array, jax.Array]:
    """grad f_i(w), shape (c, d), and their norms, (c,)."""
    gradients = jax.vmap(lambda batch: gradient_vector(loss, w, batch))(batches_of(full, who))
    return gradients, jax.vmap(tree.norm)(gradients)


@jax.jit
def _deviations(loss: Partial, full: PyTree, who: jax.Array, w: PyTree, mean: jax.Array) -> jax.Array:
    return jax.vmap(lambda batch: tree.norm(gradient_vector(loss, w, batch) - mean))(batches_of(full, who))
