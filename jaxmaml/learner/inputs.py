"""What a user gives. What is wrong is said in one error, and nothing is computed to find it."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxmaml.checks import check_episode, check_params, check_step_count, scalar, task_axis
from jaxmaml.data import Distribution
from jaxmaml.types import Episode, Loss, PyTree

Tasks = Distribution | Callable[[jax.Array, int], Episode]
"""A distribution of tasks, or a function (key, tasks) -> Episode with a leading task axis."""
EVALUATION_SEED = 2017


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drawn:
    """That of a function (key, tasks) -> Episode; what a `jax.tree_util.Partial` holds are leaves."""

    draw: Partial

    def episodes(self, key: jax.Array, tasks: int) -> Episode:
        return self.draw(key, tasks)


def distribution(name: str, tasks: Tasks) -> Distribution:
    """A distribution of tasks that gives episodes; it is traced, nothing is computed.

    Raises:
      TypeError, ValueError: something else, or episodes whose axes do not fit.
    """
    if hasattr(tasks, "episodes"):
        found: Distribution = tasks  # type: ignore[assignment]
    elif callable(tasks):
        found = Drawn(tasks if isinstance(tasks, Partial) else Partial(tasks))
    else:
        raise TypeError(
            f"{name} = {tasks!r}; allowed: a distribution, with episodes(key, tasks) -> jaxmaml.Episode, "
            "or such a function"
        )
    drawn = _shapes(found, 3)
    if not isinstance(drawn, Episode):
        raise TypeError(
            f"{name} gives {type(drawn).__name__}; allowed: jaxmaml.Episode(inner, hessian, outer)"
        )
    if (there := task_axis(drawn)) != 3:
        raise ValueError(
            f"{name} gives {there} tasks where 3 are asked for; allowed: as many as are asked for"
        )
    check_episode(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), drawn))
    return found


def _shapes(tasks: Distribution, count: int) -> Episode:
    return jax.eval_shape(lambda d, key: d.episodes(key, count), tasks, jax.random.key(0))


def check_losses(
    loss: Callable[..., Any],
    measure: Loss | None,
    has_aux: bool,
    params: PyTree,
    training: Distribution,
    test: Distribution,
) -> None:
    """Scalars of both, on episodes that differ in the number of samples alone."""
    one, other = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), _shapes(d, 1))
        for d in (training, test)
    )
    for part in ("inner", "outer"):
        first, second = (jax.tree_util.tree_leaves_with_path(getattr(e, part)) for e in (one, other))
        of_first, of_second = (
            {jax.tree_util.keystr(p): (x.shape[1:], x.dtype) for p, x in e} for e in (first, second)
        )
        for path in sorted({*of_first, *of_second}):
            a, b = of_first.get(path), of_second.get(path)
            if a != b:
                raise ValueError(
                    f"test gives samples {part}{path} of {_said(b)}, tasks of {_said(a)}; allowed: the same, "
                    "in any number"
                )
    jax.eval_shape(scalar(loss, has_aux), params, one.outer)
    if measure is not None:
        found = jax.eval_shape(measure, params, one.outer)
        if not hasattr(found, "shape") or found.shape:
            raise ValueError(f"measure returned {found}; allowed: a scalar")


def _said(sample: Any) -> str:
    return "no such leaf" if sample is None else f"{sample[1]}{list(sample[0])}"


def check_types(params: PyTree) -> None:
    """Floating point, and no type that JAX would narrow."""
    check_params(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        wanted = getattr(leaf, "dtype", None)
        if wanted is not None and jax.dtypes.canonicalize_dtype(wanted) != wanted:
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} is {wanted}, which JAX keeps with "
                'jax.config.update("jax_enable_x64", True) alone; allowed: that, or float32 parameters'
            )


def check_learned(alpha: PyTree) -> None:
    for path, rate in jax.tree_util.tree_leaves_with_path(alpha):
        if not np.all(np.asarray(rate) > 0):
            raise ValueError(
                f"alpha{jax.tree_util.keystr(path)} = {rate!r} with learn_alpha; allowed: > 0, since its "
                "logarithm is learned"
            )


def numbers_of_steps(name: str, steps: Any) -> tuple[int, ...]:
    if isinstance(steps, str) or not isinstance(steps, Sequence) or not steps:
        raise ValueError(f"{name} = {steps!r}; allowed: numbers of inner steps, e.g. (0, 1, 5)")
    for i, count in enumerate(steps):
        check_step_count(f"{name}[{i}]", count, 0)
    return tuple(map(int, steps))


def check_like(found: PyTree, wanted: PyTree, name: str, why: str) -> None:
    """The paths and shapes of `wanted`."""
    a, b = (
        {jax.tree_util.keystr(p): jnp.shape(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (found, wanted)
    )
    for path in sorted({*a, *b}):
        if a.get(path) != b.get(path):
            there, allowed = (f"has shape {x[path]}" if path in x else "is no array" for x in (a, b))
            raise ValueError(f"{name}{path} {there}; allowed: one that {allowed}, {why}")


def check_installed(by: str, *packages: str) -> None:
    """Those that the library can do without until now."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"{by} needs {name}: pip install 'jaxmaml[training]'")
