"""An nnx module as a pure function of a plain pytree of parameters."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.interpreters import partial_eval

from jaxmaml.types import PyTree


def split(module: nnx.Module) -> tuple[PyTree, Callable[..., Any]]:
    """(params, apply) with apply(params, *inputs, key=None) = module(*inputs) at those parameters.

    Args:
      module: any nnx module whose forward pass changes no state of its own, but for counts of random streams.

    Returns:
      params: the values of its `nnx.Param`, a plain nested dict by attribute (by number in an `nnx.List`),
        so that a pytree prefix such as {"body": 0.0, "head": 0.1} can be written by hand.
      apply: pure; under jit, vmap, grad, jvp, linearize and scan. Other variables of the module (constants,
        running statistics that are only read) keep the values they have now. A network that draws at random,
        as nnx.Dropout does, needs a key: put one for each task into the batch. Equal keys give equal draws.

    Raises:
      TypeError: not an nnx module.
      ValueError: by `apply`, while tracing, if the forward pass changes a variable that is no parameter, as
        nnx.BatchNorm in training mode does: the change would be lost, and a network with state of that kind
        is no function of (params, batch), which every estimator differentiates. If its outputs depend on
        random draws and there is no key: each call would draw the same.
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"module is {type(module).__name__}; allowed: a flax.nnx.Module")
    graph, *parts = nnx.split(module, nnx.Param, ...)
    # Plain arrays: nnx.Variable objects would be shared between calls, and changed by the first.
    params, constants = map(nnx.to_pure_dict, parts)
    kinds = {name: variable.type.__name__ for name, variable in _named(parts[1], nnx.Variable).items()}

    streams = {name: at for at, name in enumerate(n for n, kind in kinds.items() if kind == "RngKey")}

    def seeded(keys: list) -> PyTree:
        """The constants, with these keys in the place of the module's."""
        return jax.tree_util.tree_map_with_path(
            lambda path, x: keys[streams[name]] if (name := jax.tree_util.keystr(path)) in streams else x,
            constants,
        )

    def run(params: PyTree, held: PyTree, inputs: tuple) -> tuple[Any, list[str]]:
        """The outputs, and the names of the variables that changed."""
        network = nnx.merge(graph, params, held)
        outputs = network(*inputs)
        before = _named(held)
        # Variables that the forward pass adds (nnx.Module.sow) are no concern.
        after = _named(nnx.to_pure_dict(nnx.state(network, nnx.Not(nnx.Param))))
        return outputs, [name for name in before if after.get(name) is not before[name]]

    def apply(params: PyTree, *inputs: Any, key: jax.Array | None = None) -> Any:
        if key is None:
            held = constants
        else:
            held = seeded([jax.random.fold_in(key, at) for at in range(len(streams))])
        outputs, changed = run(params, held, inputs)
        lost = [f"{name} ({kinds[name]})" for name in changed if kinds[name] != "RngCount"]
        if lost:
            raise ValueError(
                f"the forward pass changes {', '.join(lost)}; allowed: a stateless network. Instead of "
                "nnx.BatchNorm: nnx.GroupNorm, nnx.LayerNorm, jaxmaml.models.normalisation.TaskBatchNorm "
                "(statistics of the batch at hand) or use_running_average=True"
            )
        if changed and key is None:
            keys = [x for name, x in _named(constants).items() if name in streams]
            if _reads(lambda keys: run(params, seeded(keys), inputs)[0], keys):
                raise ValueError(
                    f"key = None, and the outputs depend on draws of {', '.join(changed)}; allowed: "
                    "apply(params, *inputs, key=key) with a key for each task, or nnx.Dropout with "
                    "deterministic=True"
                )
        return outputs

    return params, apply


def _reads(function: Callable[[list], Any], keys: list) -> bool:
    """Whether what the function returns depends on one of the keys; nnx.RNN draws and uses nothing of it."""
    jaxpr = jax.make_jaxpr(function)(keys).jaxpr
    return any(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1])


def _named(tree: PyTree, leaf: type | tuple[()] = ()) -> dict[str, Any]:
    """The leaves by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, leaf))
    return {jax.tree_util.keystr(path): value for path, value in leaves}
