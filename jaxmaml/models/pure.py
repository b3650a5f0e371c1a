"""An nnx module as a pure function of a plain pytree of parameters."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jaxmaml.types import PyTree


def split(module: nnx.Module) -> tuple[PyTree, Callable[..., Any]]:
    """(params, apply) with apply(params, *inputs) = module(*inputs) at those parameters.

    Args:
      module: any nnx module whose forward pass changes no state of its own.

    Returns:
      params: the values of its `nnx.Param`, a plain nested dict by attribute (by number in an `nnx.List`),
        so that a pytree prefix such as {"body": 0.0, "head": 0.1} can be written by hand.
      apply: pure; under jit, vmap, grad, jvp, linearize and scan. Other variables of the module (constants,
        running statistics that are only read) keep the values they have now.

    Raises:
      TypeError: not an nnx module.
      ValueError: by `apply`, while tracing, if the forward pass changes a variable that is no parameter:
        nnx.BatchNorm in training mode, nnx.Dropout. The change would be lost, and a network with state of
        that kind is no function of (params, batch), which every estimator differentiates.
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"module is {type(module).__name__}; allowed: a flax.nnx.Module")
    graph, *parts = nnx.split(module, nnx.Param, ...)
    # Plain arrays: nnx.Variable objects would be shared between calls, and changed by the first.
    params, constants = map(nnx.to_pure_dict, parts)
    kinds = {name: variable.type.__name__ for name, variable in _named(parts[1], nnx.Variable).items()}

    def apply(params: PyTree, *inputs: Any) -> Any:
        network = nnx.merge(graph, params, constants)
        outputs = network(*inputs)
        before = _named(constants)
        # Variables that the forward pass adds (nnx.Module.sow) are no concern.
        after = _named(nnx.to_pure_dict(nnx.state(network, nnx.Not(nnx.Param))))
        changed = [f"{name} ({kinds[name]})" for name in before if after.get(name) is not before[name]]
        if changed:
            raise ValueError(
                f"the forward pass changes {', '.join(changed)}; allowed: a stateless network. Instead of "
                "nnx.BatchNorm: nnx.GroupNorm, nnx.LayerNorm, jaxmaml.models.normalisation.TaskBatchNorm "
                "(statistics of the batch at hand) or use_running_average=True. nnx.Dropout: leave it out, "
                "or deterministic=True"
            )
        return outputs

    return params, apply


def _named(tree: PyTree, leaf: type | tuple[()] = ()) -> dict[str, Any]:
    """The leaves by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, leaf))
    return {jax.tree_util.keystr(path): value for path, value in leaves}
