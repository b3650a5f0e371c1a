"""Where constants are measured, if nobody says."""

import jax
import numpy as np

from jaxmaml.checks import check_step_count
from jaxmaml.measure.curvature import norms_of_hessians
from jaxmaml.measure.problem import Problem
from jaxmaml.measure.spread import mean_gradient, task_gradients
from jaxmaml.measure.survey import FIRST_STEPS, Survey, as_vector, chunks, take_survey
from jaxmaml.types import PyTree


def points_near(
    problem: Problem,
    key: jax.Array,
    *,
    steps: int = 3,
    perturbations: int = 3,
    task_chunk: int | None = None,
) -> list[PyTree]:
    """2 + `steps` + `perturbations` points near the start w, such as the theory needs the constants at.

    w; gradient steps on f = E_i f_i with rate 1/L, L measured at w; w after the inner step with this rate of
    the task with the largest gradient; random points at the distances r, r/3, r/9, ... from w, where r is the
    larger of ||w|| and the length of that inner step. No other length enters, so that units do not matter;
    where L = 0 (no curvature) or r = 0 there are fewer points.
    """
    for name, value in (("steps", steps), ("perturbations", perturbations)):
        check_step_count(name, value, 0)
    with jax.default_matmul_precision("highest"):
        survey = take_survey(problem, None, task_chunk)
        return near(survey, key, steps, perturbations, min(FIRST_STEPS, survey.dim))


def near(survey: Survey, key: jax.Array, steps: int, perturbations: int, room: int) -> list[PyTree]:
    start = survey.points[0]
    flat, unravel = as_vector(start)
    w = np.asarray(flat)
    first, second = jax.random.split(key)
    rough = min(FIRST_STEPS, room)
    parts = [norms_of_hessians(survey, 0, who, first, rough, room) for who, _ in chunks(survey, room)]
    found, L, inner = [start], max(norms.max() for norms, _ in parts), np.zeros_like(w)
    if L > 0:
        x = w
        for _ in range(steps):
            x = x - np.asarray(mean_gradient(survey, found[-1])[0]) / w.dtype.type(L)
            found.append(unravel(x))
        _, sizes = mean_gradient(survey, start)
        who = np.array([np.argmax(sizes)])
        inner = np.asarray(task_gradients(survey.loss, survey.full, who, start)[0][0]) / w.dtype.type(L)
        found.append(unravel(w - inner))
    radius = max(np.linalg.norm(w), np.linalg.norm(inner))
    directions = np.asarray(jax.random.normal(second, (perturbations, w.size), w.dtype))
    for j, direction in enumerate(directions if radius > 0 else ()):
        found.append(unravel(w + w.dtype.type(radius / 3**j / np.linalg.norm(direction)) * direction))
    return found
