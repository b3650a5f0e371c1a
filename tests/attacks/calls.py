"""Attacks on the functions: bad values of one argument, and of two at once."""

import itertools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import test_bad_input as tables

import jaxmaml
from experiments import sweep
from jaxmaml import checks, federated, fewshot, hvp, models
from jaxmaml.data.images import Images
from jaxmaml.data.sinusoid import Sinusoid

NO_SAMPLES = jnp.zeros((0, 2))
KEY = jax.random.key(0)
PIXELS = np.zeros((3, 4, 2, 2), np.uint8)
BAD_PARAMS = tuple(params for _, params, _ in tables.PARAMS)
BAD_EPISODE = (
    None,
    1,
    "x",
    (tables.BATCH,) * 3,
    *(tables.EPISODE._replace(**{name: NO_SAMPLES}) for name in jaxmaml.Episode._fields),
)
BAD_EPISODES = (None, 1, "x", (tables.BATCH,) * 3, jax.tree.map(lambda x: x[:0], tables.EPISODES))
BAD_MASK = (0, 1.0, "x", None, {}, False, [False], {"body": 1})
POINTS, LABELS = np.linspace(0, 1, 12)[:, None], np.repeat([3, 5, 8], 4)
CLIENTS = {"ann": (POINTS[:5], POINTS[:5, 0]), "bob": (POINTS[5:], POINTS[5:, 0])}
BAD_LABELS = (None, 1, "x", LABELS[:5], np.zeros((0,), int), np.zeros(12, int), LABELS + 1j)
BAD_CLIENTS = (
    None,
    1,
    "x",
    {},
    {"ann": POINTS},
    {"ann": (POINTS, POINTS[:3, 0])},
    {"ann": (POINTS[:0],) * 2},
)
BAD_TYPE = ("int32", "complex64", bool)


class Called(NamedTuple):
    """A function, and the bad values of each argument that it is called with; the others are good."""

    call: Callable[..., object]
    bad: Mapping[str, Sequence[object]]


def without(bad: Sequence[object], *kinds: type) -> tuple[object, ...]:
    """Where a value of these kinds is allowed."""
    return tuple(x for x in bad if not isinstance(x, kinds))


def given(function: Callable[..., object], **good: Any) -> Callable[..., object]:
    """The function with arguments by name; those that are not given are good."""
    return lambda **k: function(**(good | k))


def one_task(name: str) -> Called:
    bad = {
        "alpha": tables.BAD_RATE,
        "inner": tables.BAD_LOOP,
        "params": BAD_PARAMS,
        "loss": tables.BAD_FUNCTION,
        "episode": BAD_EPISODE,
    }
    more: dict[str, Any] = {}
    if name == "hf_maml":
        more["delta"] = 0.1
        bad["delta"] = (*tables.BAD_POSITIVE, np.array([0.1, 0.2]))
    good = {"loss": tables.loss, "params": tables.W, "episode": tables.EPISODE, "alpha": 0.1}
    return Called(given(getattr(jaxmaml, name), **good, **more), bad)


def many_tasks(name: str) -> Called:
    good = {
        "estimator": jaxmaml.maml,
        "loss": tables.loss,
        "params": tables.W,
        "episodes": tables.EPISODES,
        "alpha": 0.1,
    }
    bad = {
        "estimator": tables.BAD_FUNCTION,
        "loss": tables.BAD_FUNCTION,
        "params": BAD_PARAMS,
        "episodes": BAD_EPISODES,
        "alpha": tables.BAD_RATE,
        "inner": tables.BAD_LOOP,
    }
    if name != "finite_tasks":
        bad["weights"] = tables.BAD_WEIGHTS
        bad["task_chunk"] = without(tables.BAD_COUNT, type(None))
    return Called(given(getattr(jaxmaml, name), **good), bad)


def proximal(name: str) -> Called:
    """As one_task; with lam, alpha is the rate of the solver."""
    call, bad = one_task(name)
    return Called(call, {**bad, "lam": without(tables.BAD_POSITIVE, type(None))})


def adapting(name: str) -> Called:
    good = {"loss": tables.loss, "params": tables.W, "batch": tables.BATCH, "alpha": 0.1}
    bad = {
        "loss": tables.BAD_FUNCTION,
        "params": BAD_PARAMS,
        "batch": (NO_SAMPLES,),
        "alpha": tables.BAD_RATE,
        "inner": tables.BAD_LOOP,
    }
    return Called(given(getattr(jaxmaml, name), **good), bad)


def same(names: Sequence[str], bad: Sequence[object]) -> dict[str, Sequence[object]]:
    return dict.fromkeys(names, bad)


def arc(**k: Any) -> object:
    return jaxmaml.ArcDelta(**({"arc": 0.1, "share": 0.1} | k)).around(tables.W)


def sines(tasks: Any = 1, **k: Any) -> object:
    return Sinusoid(**k).episodes(KEY, tasks)


def images(tasks: Any = 1, **k: Any) -> object:
    return Images(PIXELS, **(dict.fromkeys(("ways", "support", "hessian", "query"), 1) | k)).episodes(
        KEY, tasks
    )


def of_classes(**k: Any) -> object:
    good = {"x": POINTS, "y": LABELS, "ways": 2, "support": 1, "query": 1}
    return fewshot.from_arrays(**(good | k))


def of_clients(**k: Any) -> object:
    return fewshot.from_tasks(**({"tasks": CLIENTS, "support": 1, "query": 1} | k))


def fitted(**k: Any) -> object:
    good = {"loss": labelled_loss, "params": jnp.zeros(1), "tasks": of_clients(), "alpha": 0.1, "steps": 1}
    return jaxmaml.fit(**(good | {"quiet": True} | k))


def per_fedavg(**k: Any) -> object:
    good = {"loss": labelled_loss, "params": jnp.zeros(1), "clients": CLIENTS, "alpha": 0.1, "beta": 0.1}
    good |= {"rounds": 1, "batch_sizes": (1, 1, 1), "key": KEY}
    return federated.per_fedavg(**(good | k))


def labelled_loss(w: Any, batch: Any) -> jax.Array:
    return jnp.mean(jnp.square(batch[0] @ w - batch[1]))


def network(**k: Any) -> object:
    from flax import nnx

    widths = {"inputs": 1, "hidden": 2, "outputs": 1} | k
    return models.MLP(tuple(widths.values()), "tanh", rngs=nnx.Rngs(0))


def calls() -> dict[str, Called]:
    """Every function that is tried, by its name."""
    numbers = without(tables.BAD_NONNEGATIVE, type(None), list)  # a list is a pytree of rates
    sizes: tuple[str, ...] = ("ways", "support", "hessian", "query", "tasks")
    return {
        **{name: one_task(name) for name in ("maml", "fo_maml", "maml_same_batch", "hf_maml")},
        **{name: proximal(name) for name in ("imaml", "fo_b_maml")},
        "reptile": one_task("reptile"),
        "from_arrays": Called(
            of_classes,
            same((*sizes[:2], "query"), tables.BAD_COUNT)
            | same(("hessian", "min_samples"), without(tables.BAD_COUNT, type(None)))
            | {"x": (None, 1, "x", NO_SAMPLES, POINTS[:5]), "y": BAD_LABELS}
            | {"class_weights": tables.BAD_WEIGHTS, "sample_weights": tables.BAD_WEIGHTS},
        ),
        "from_tasks": Called(
            of_clients,
            same(("support", "query"), tables.BAD_COUNT)
            | same(("hessian", "min_samples"), without(tables.BAD_COUNT, type(None)))
            | {"tasks": BAD_CLIENTS, "task_weights": (*tables.BAD_WEIGHTS[:-1], np.ones(3))},
        ),
        "fit": Called(
            fitted,
            same(("steps", "tasks_per_step", "episodes", "every"), tables.BAD_COUNT)
            | same(("seed", "evaluation_seed"), tables.BAD_SEED)
            | {"alpha": tables.BAD_RATE, "inner": tables.BAD_LOOP, "params": BAD_PARAMS}
            | {"loss": tables.BAD_FUNCTION, "tasks": (None, 1, "x", CLIENTS)},
        ),
        "per_fedavg": Called(
            per_fedavg,
            same(("rounds", "local_steps"), tables.BAD_COUNT)
            | same(("sampled", "every", "client_chunk"), without(tables.BAD_COUNT, type(None)))
            | {"alpha": tables.BAD_RATE, "beta": tables.BAD_RATE, "params": BAD_PARAMS}
            | {"loss": tables.BAD_FUNCTION, "clients": BAD_CLIENTS, "inner": tables.BAD_LOOP}
            | {"batch_sizes": (None, 1, (1, 1), (0, 1, 1), (1, 1, -1), (1, 1, 99))}
            | {"weights": (None, 1, "x"), "sampling": (None, 1, "x")},
        ),
        **{name: many_tasks(name) for name in ("meta_gradient", "meta_value_and_gradient", "finite_tasks")},
        **{name: adapting(name) for name in ("adapt", "adapt_has_finite_derivative")},
        "theorem_delta": Called(
            given(jaxmaml.theorem_delta, rho=1.0, alpha=0.1),
            same(("rho", "alpha", "eta"), tables.BAD_POSITIVE),
        ),
        "float_optimal_delta": Called(
            given(jaxmaml.float_optimal_delta, dtype="float32"),
            {"dtype": BAD_TYPE, "length": tables.BAD_POSITIVE},
        ),
        "ArcDelta": Called(
            arc, {"arc": tables.BAD_POSITIVE, "share": without(tables.BAD_POSITIVE, type(None))}
        ),
        "difference": Called(given(hvp.difference), {"delta": tables.BAD_POSITIVE}),
        "scale_by_theorem_step": Called(
            given(jaxmaml.scale_by_theorem_step, c=1.0, L=1.0, rho=1.0, alpha=0.1),
            same(("c", "L", "rho", "alpha"), numbers),
        ),
        "Constants": Called(
            given(jaxmaml.Constants, L=1.0, rho=1.0, sigma=1.0),
            same(("L", "rho", "sigma", "sigma_tilde", "sigma_h", "zeta"), tables.BAD_CONSTANT),
        ),
        "InnerLoop": Called(
            jaxmaml.InnerLoop,
            same(("steps", "checkpoint_levels"), tables.BAD_COUNT) | {"mask": BAD_MASK},
        ),
        "Sinusoid": Called(sines, same(sizes[1:], tables.BAD_COUNT)),
        "Images": Called(images, same(sizes, tables.BAD_COUNT)),
        "MLP": Called(network, same(("inputs", "hidden", "outputs"), tables.BAD_COUNT)),
        "prepare": Called(
            given(sweep.prepare, labelled=[], directory=pathlib.Path("nowhere")),
            {"chunk_cells": without(tables.BAD_COUNT, type(None))},
        ),
        "check_seed": Called(given(checks.check_seed, name="value"), {"value": tables.BAD_SEED}),
    }


NAMED = {
    "inputs": r"sizes\[0",
    "hidden": r"sizes\[1",
    "outputs": r"sizes\[2",
    "episodes": "episodes?",
    "y": "y|ways|class",
    "tasks": "tasks?|'ann'",
    "clients": "clients|'ann'",
    "batch_sizes": "batch_sizes|batches",
}
"""in a message, where it is not the name of the argument."""


def refused(call: Callable[..., object], arguments: Mapping[str, object]) -> str:
    """Whether an error of ours names one of the bad arguments and says what is allowed."""
    try:
        found = call(**arguments)
    except (ValueError, TypeError) as error:
        if type(error).__module__ != "builtins":
            return f"{type(error).__module__}.{type(error).__name__}: {error}"
        named = any(re.search(rf"(?<!\w)({NAMED.get(name, name)})(?!\w)", str(error)) for name in arguments)
        return "" if named and re.search("allowed|known", str(error)) else f"says: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"gives {found!r}"


def bad_calls(folder: pathlib.Path) -> Iterator[str]:
    """A public function is called with bad values of one argument or of two: an error names one of them and
    says what is allowed."""
    del folder
    for name, (call, bad) in calls().items():
        for argument, values in bad.items():
            for value in values:
                yield _said(name, {argument: value}, refused(call, {argument: value}))
        for first, second in itertools.combinations(bad, 2):
            for pair in itertools.product(bad[first], bad[second]):
                arguments = dict(zip((first, second), pair, strict=True))
                yield _said(name, arguments, refused(call, arguments))


def _said(name: str, arguments: Mapping[str, object], wrong: str) -> str:
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())}) {wrong}"[:400] if wrong else ""
