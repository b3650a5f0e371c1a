"""A learner from a folder."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxmaml import packing, storage
from jaxmaml.checks import check_callable
from jaxmaml.inner import is_optax
from jaxmaml.learner.inputs import check_installed, check_like, check_types
from jaxmaml.learner.model import FILE, Learner, inner_of
from jaxmaml.paths import check_path
from jaxmaml.types import Loss, PyTree


def load(
    folder: Any,
    *,
    loss: Callable[..., Any] | None = None,
    apply: Callable[..., Any] | None = None,
    measure: Loss | None = None,
    params: PyTree = None,
    alpha: PyTree = None,
    which: Literal["last", "best"] = "last",
) -> Learner:
    """The learner of a folder: of `Learner.save`, of `fit(folder=...)`, or of a preset (`jaxmaml train`).

    Files hold no functions. A preset's are known; else give those that you need again: loss for `adapt` and
    `evaluate`, apply for `predict`, measure to measure it.

    Args:
      params: a pytree like the parameters, where these have other nodes than dicts, lists and tuples (its
        values are not used); shapes and types are checked.
      alpha: the inner optax transformation, where it was one.
      which: of a training run, the last checkpoint, or that of the best evaluation.

    Raises:
      FileNotFoundError: the folder holds none of these. ValueError: what must be given is not, or does not
        fit. jaxmaml.storage.Damaged: a file is not what was written.
    """
    where = check_path("folder", folder)
    if which not in ("last", "best"):
        raise ValueError(f"which = {which!r}; allowed: 'last', 'best'")
    if where.is_file():
        raise ValueError(f"folder = {str(folder)!r} is a file; allowed: the folder that it is in")
    given = {"params": params} | ({} if is_optax(alpha) else {"alpha": alpha})
    if (where / FILE).exists():
        found = _saved(where, given, alpha, which)
    elif (where / "checkpoints").exists():
        found = _trained(where, params, alpha, which)
    else:
        raise FileNotFoundError(
            f"{where} holds no learner; allowed: a folder of Learner.save, of jaxmaml.fit(folder=...) or of "
            "jaxmaml train"
        )
    check_types(found.params)
    made: dict[str, Any] = {"loss": loss, "apply": apply, "measure": measure}
    for name, function in made.items():
        if function is not None:
            check_callable(name, function, f"{name}(params, ...)")
    if "preset" in found.configuration:
        made = {name: own if made[name] is None else made[name] for name, own in _of_preset(found).items()}
    arrays = jax.tree.map(jnp.asarray, found.params)
    rates = found.alpha if is_optax(found.alpha) else jax.tree.map(_as_rate, found.alpha)
    return dataclasses.replace(found, params=arrays, alpha=rates, **made)


def _as_rate(rate: Any) -> Any:
    return rate if isinstance(rate, int | float) else jnp.asarray(rate)


def _saved(where: pathlib.Path, given: Mapping[str, PyTree], alpha: PyTree, which: str) -> Learner:
    trees, about = packing.unpack(storage.read(where / FILE), given)
    if about["which"] != which and which == "best":
        raise ValueError(f"which = 'best', and {where} holds one learner, the last; allowed: 'last'")
    return Learner(
        trees["params"],
        _update_given(where, alpha) if about["optax"] else trees["alpha"],
        inner_of(about["inner"]),
        has_aux=about["has_aux"],
        step=about["step"],
        which=about["which"],
        configuration=about["configuration"],
        records=about["records"],
    )


def _update_given(where: pathlib.Path, alpha: PyTree) -> Any:
    if not is_optax(alpha):
        raise ValueError(
            f"alpha = {alpha!r}; needed for {where}: alpha=, the optax transformation that it adapts with, "
            "since files hold no functions"
        )
    return alpha


def _trained(where: pathlib.Path, given: PyTree, alpha: PyTree, which: str) -> Learner:
    """From the checkpoints of a training run."""
    check_installed("the folder of a training run", "pandas", "filelock")
    from jaxmaml.training import store

    seal, state = store.sealed(where, best=which == "best")
    check_types(state["params"])
    about = seal.configuration
    if seal.kind == "preset":
        from jaxmaml.training import problem as problems
        from jaxmaml.training.presets import of_fields

        recipe = problems.recipe(of_fields(about))
        like = problems.with_network(of_fields(about)).params
        inner, learned, has_aux, rates = recipe.inner, recipe.learn_alpha, False, recipe.alpha
    else:
        like = packing.template("params", about["restored"]["params"], given)
        inner, learned, has_aux = inner_of(about["inner"]), about["learn_alpha"], about["has_aux"]
        rates = None if learned else _rates(where, about, alpha)
    params = _restored(like, state["params"])
    check_like(params, like, "params", f"as the network of today has; {where} is of another one")
    return Learner(
        params,
        jax.tree.map(jnp.exp, _restored(like, state["log_alpha"])) if learned else rates,
        inner,
        has_aux=has_aux,
        step=seal.step,
        which=which,
        configuration={seal.kind: about},
        records=seal.curve,
    )


def _rates(where: pathlib.Path, about: Mapping[str, Any], given: PyTree) -> PyTree:
    """Rates that were not learned, from the configuration of a fit."""
    described = about["restored"]["alpha"]
    if described is None:
        return _update_given(where, given)
    like, structure = jax.tree.flatten(packing.template("alpha", described, given))
    pairs = zip(described["values"], like, strict=True)
    return jax.tree.unflatten(
        structure,
        [np.asarray(x, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else x for x, leaf in pairs],
    )


def _restored(like: PyTree, stored: Any) -> PyTree:
    """The arrays of a checkpoint, nested by names, in the structure of `like`."""

    def one(path: Any, _: Any) -> np.ndarray:
        node = stored
        for key in path:
            name: Any = getattr(key, "key", getattr(key, "idx", getattr(key, "name", None)))
            node = node[name] if isinstance(node, list | tuple) else node[str(name)]
        return np.asarray(node)

    return jax.tree_util.tree_map_with_path(one, like)


def _of_preset(learner: Learner) -> dict[str, Any]:
    """The functions of a preset's learner."""
    from jaxmaml.training import problem as problems
    from jaxmaml.training.presets import of_fields

    problem = problems.with_network(of_fields(learner.configuration["preset"]))
    same = problem.measure is problem.loss
    return {"loss": problem.loss, "apply": problem.apply, "measure": None if same else problem.measure}
