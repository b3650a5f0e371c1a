"""Accelerators: error and time of a meta-gradient with JAX's default matrix products and with full ones."""

import functools

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from experiments.benchmarks.meta_gradients import compiled, problem
from jaxmaml import tree
from jaxmaml.timing import medians, table


def run() -> list[str]:
    params, episodes = problem()
    wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, (params, episodes))
    exact = {name: program(*wide) for name, program in compiled(*wide).items()}
    exact["hf_maml"] = exact["maml"]
    errors, times = {}, {}
    for precision in ("default", "highest"):
        with jax.default_matmul_precision(precision):
            programs = compiled(params, episodes)
        for name, program in programs.items():
            difference = jax.tree.map(jnp.subtract, program(params, episodes), exact[name])
            errors[name, precision] = float(tree.norm(difference) / tree.norm(exact[name]))
        calls = {name: functools.partial(program, params, episodes) for name, program in programs.items()}
        times[precision] = medians(calls)
    rows = [
        [
            name,
            f"{errors[name, 'default']:.1e}",
            f"{errors[name, 'highest']:.1e}",
            f"{times['highest'][name] / times['default'][name]:.2f}",
        ]
        for name in exact
    ]
    return [
        "## Matrix products",
        "",
        f"The same network and tasks, {ravel_pytree(params)[0].size} parameters in float32: relative error",
        "against exact MAML (FO-MAML: itself) in float64, with JAX's default matrix products and with",
        '`jax.default_matmul_precision("highest")`. The differences of hf_maml have the latter in both.',
        "",
        *table(["estimator", "error, default", "error, highest", "time, highest / default"], rows),
    ]
