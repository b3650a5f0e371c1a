"""Meta-gradients of every network against torch: its layers, its automatic differentiation.

Needs torch, which the project does not install: `pip install torch==2.13.0` (CPU) into an environment of
your own, then run this file there; `-rP` shows the distances.
"""

import jax
import numpy as np
import pytest
import variants
from jax.flatten_util import ravel_pytree
from variants import EVERY, FULL, build, episodes, name

import jaxmaml
from jaxmaml import InnerLoop, meta_gradient
from jaxmaml.models import cross_entropy

torch = pytest.importorskip(
    "torch", reason="NOT COMPARED WITH TORCH: it is not installed (pip install torch==2.13.0 to compare)"
)
functional = torch.nn.functional

ALPHA, STEPS = 0.05, 3


def forward(variant, p, x):
    """Images as (n, c, h, w) inside, the features flattened as (h, w, c)."""
    activate = {"tanh": torch.tanh, "softplus": functional.softplus, "relu": torch.relu}[variant[1]]
    if variant[0] == "mlp":
        x = x.flatten(1)
        for layer in p["body"].values():
            x = activate(functional.linear(x, layer["kernel"].T, layer["bias"]))
        return functional.linear(x, p["head"]["kernel"].T, p["head"]["bias"])
    norm, _, pool, *_ = variant
    x = x.permute(0, 3, 1, 2)
    for block in p["body"].values():
        kernel, stride, padding = block["conv"]["kernel"].permute(3, 2, 0, 1), 1, 1
        if pool == "stride":
            # "SAME": nothing before an even side.
            x = functional.pad(x, (x.shape[3] % 2, 1, x.shape[2] % 2, 1))
            stride, padding = 2, 0
        x = functional.conv2d(x, kernel, block["conv"]["bias"], stride, padding)
        if norm == "task":
            scale, bias = block["norm"]["scale"], block["norm"]["bias"]
            x = functional.batch_norm(x, None, None, scale, bias, training=True, eps=1e-5)
        if norm == "group":
            scale, bias = block["norm"]["scale"], block["norm"]["bias"]
            x = functional.group_norm(x, variants.GROUPS, scale, bias, eps=1e-5)
        x = activate(x)
        if pool != "stride":
            x = {"max": functional.max_pool2d, "average": functional.avg_pool2d}[pool](x, 2)
    x = x.mean(dim=(2, 3)) if pool == "stride" else x.permute(0, 2, 3, 1).flatten(1)
    return functional.linear(x, p["head"]["kernel"].T, p["head"]["bias"])


def by_torch(variant, params, some, steps, exact):
    """The mean over tasks of the gradient of f(w_K; D_o), through the inner steps if `exact`."""
    leaves, structure = jax.tree.flatten(params)
    w0 = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in leaves]

    def loss(w, batch):
        scores = forward(variant, jax.tree.unflatten(structure, w), torch.tensor(np.asarray(batch[0])))
        return functional.cross_entropy(scores, torch.tensor(np.asarray(batch[1])))

    total, tasks = None, len(some.inner[1])
    for i in range(tasks):
        episode = jax.tree.map(lambda x, i=i: x[i], some)
        w = w0
        for _ in range(steps):
            gradient = torch.autograd.grad(loss(w, episode.inner), w, create_graph=exact)
            w = [a - ALPHA * g for a, g in zip(w, gradient, strict=True)]
        direction = torch.autograd.grad(loss(w, episode.outer), w0)
        total = direction if total is None else [a + b for a, b in zip(total, direction, strict=True)]
    return ravel_pytree(jax.tree.unflatten(structure, [g.numpy() / tasks for g in total]))[0]


def distances(variant, dtype):
    """Of each method from torch, relative to its norm."""
    _, params, apply, shape = build(variant, dtype=dtype)
    loss, some = cross_entropy(apply), episodes(shape, dtype=dtype)

    @jax.jit
    def every(p):
        def of(estimator, steps):
            inner = InnerLoop(steps=steps)
            return meta_gradient(estimator, loss, p, some, alpha=ALPHA, inner=inner)

        return {
            "exact, 1 step": of(jaxmaml.maml_same_batch, 1),
            "exact, 3 steps": of(jaxmaml.maml_same_batch, STEPS),
            "first order": of(jaxmaml.fo_maml, 1),
        }

    expected = {
        "exact, 1 step": by_torch(variant, params, some, 1, exact=True),
        "exact, 3 steps": by_torch(variant, params, some, STEPS, exact=True),
        "first order": by_torch(variant, params, some, 1, exact=False),
    }
    return {
        key: float(np.linalg.norm(ravel_pytree(found)[0] - expected[key]) / np.linalg.norm(expected[key]))
        for key, found in every(params).items()
    }


@pytest.mark.parametrize("variant", EVERY + FULL, ids=name)
def test_float64(variant):
    found = distances(variant, np.float64)
    print(f"{name(variant)} float64: {found}")
    assert all(distance <= 1e-8 for distance in found.values()), found


@pytest.mark.parametrize("variant", [v for v in EVERY if variants.smooth(v)], ids=name)
def test_float32(variant):
    """1e-5 is some hundred roundings of 6e-8."""
    found = distances(variant, np.float32)
    print(f"{name(variant)} float32: {found}")
    assert all(distance <= 1e-5 for distance in found.values()), found
