"""Meta-gradients through inner Adam steps of a transformer: memory and time beside plain JAX."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmaml import Episode, InnerLoop, maml_same_batch
from jaxmaml.timing import medians, table

BLOCKS, WIDTH, HEADS, TOKENS = 4, 128, 4, 256
SEQUENCES, LENGTH = 4, 128
STEPS, MANY = 4, (8, 128)
UPDATE = optax.adam(1e-3, eps_root=1e-8)


def problem() -> tuple[dict[str, Any], Episode]:
    """Parameters of a causal transformer, and random sequences."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    def block() -> dict[str, jax.Array]:
        shapes = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH)}
        shapes |= {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
        return {name: weights(*shape) for name, shape in shapes.items()}

    params = {
        "embed": weights(TOKENS, WIDTH),
        "place": weights(LENGTH, WIDTH),
        "blocks": jax.tree.map(lambda *x: jnp.stack(x), *(block() for _ in range(BLOCKS))),
        "head": weights(WIDTH, TOKENS),
    }
    batches = (jnp.asarray(rng.integers(0, TOKENS, (SEQUENCES, LENGTH + 1))) for _ in range(3))
    return params, Episode(*batches)


def block(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Attention and a network, each after a normalisation and added to x, shape (n, length, width)."""
    q, k, v = jnp.split(normalised(x) @ p["qkv"], 3, axis=-1)
    q, k, v = (y.reshape(*y.shape[:2], HEADS, -1) for y in (q, k, v))
    scores = jnp.einsum("nqhc,nkhc->nhqk", q, k) / math.sqrt(q.shape[-1])
    causal = np.tril(np.ones((LENGTH, LENGTH), bool))
    shares = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
    x = x + jnp.einsum("nhqk,nkhc->nqhc", shares, v).reshape(x.shape) @ p["out"]
    return x + jax.nn.gelu(normalised(x) @ p["up"]) @ p["down"]


def normalised(x: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def loss(
    params: dict[str, Any],
    tokens: jax.Array,
    block: Callable[..., jax.Array] = block,
    unroll: bool = True,
) -> jax.Array:
    """Cross-entropy of the next token; the blocks one after another, or in a loop of the program."""
    x = params["embed"][tokens[:, :-1]] + params["place"]
    x, _ = jax.lax.scan(lambda x, p: (block(p, x), None), x, params["blocks"], unroll=unroll)
    logits = jax.nn.log_softmax(normalised(x) @ params["head"])
    return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1))


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "one after another": loss,
    "in a loop": functools.partial(loss, unroll=False),
    "in a loop, computed again": functools.partial(loss, unroll=False, block=jax.checkpoint(block)),
}
"""By what becomes of the blocks. XLA for CPUs saves nothing by computing blocks again that are no loop."""


def textbook(loss: Callable[..., jax.Array], steps: int, checkpoint: bool) -> Callable[..., Any]:
    """jax.grad through a scan of inner steps, each kept as a whole or computed again from its start."""

    def step(carry: tuple, _: None, batch: jax.Array) -> tuple[tuple, None]:
        w, state = carry
        updates, state = UPDATE.update(jax.grad(loss)(w, batch), state)
        return (optax.apply_updates(w, updates), state), None

    def adapted(params: dict, episode: Episode) -> jax.Array:
        body: Any = functools.partial(step, batch=episode.inner)
        body = jax.checkpoint(body, prevent_cse=False) if checkpoint else body
        (w, _), _ = jax.lax.scan(body, (params, UPDATE.init(params)), None, length=steps)
        return loss(w, episode.outer)

    return jax.grad(adapted)


def ours(loss: Callable[..., jax.Array], inner: InnerLoop) -> Callable[..., Any]:
    return lambda p, e: maml_same_batch(loss, p, e, alpha=UPDATE, inner=inner)


def run() -> list[str]:
    params, episode = problem()
    size = sum(x.nbytes for x in jax.tree.leaves(params))

    def compiled(call: Callable[..., Any]) -> Any:
        return jax.jit(call).lower(params, episode).compile()

    def memory(program: Any) -> float:
        return program.memory_analysis().temp_size_in_bytes / size

    rows = []
    for name, of in LOSSES.items():
        programs = {
            "plain": compiled(textbook(of, STEPS, checkpoint=False)),
            "checkpoints": compiled(textbook(of, STEPS, checkpoint=True)),
            "ours": compiled(ours(of, InnerLoop(STEPS))),
        }
        taken = medians(
            {key: functools.partial(c, params, episode) for key, c in programs.items()}, repeats=7
        )
        ratio = taken["ours"] / taken["checkpoints"]
        rows.append([name, *(f"{memory(c):.1f}" for c in programs.values()), f"{ratio:.2f}"])
    few, many = (memory(compiled(ours(loss, InnerLoop(n, checkpoint_levels=2)))) for n in MANY)
    return [
        "## A transformer",
        "",
        f"{BLOCKS} blocks of width {WIDTH}, {STEPS} inner steps of Adam on {SEQUENCES} x {LENGTH} tokens.",
        "Memory of temporaries in sets of parameters: `jax.grad` through the steps, the same with a",
        "checkpoint a step, and `maml_same_batch`; its time in that of checkpoints a step.",
        f"With `checkpoint_levels=2`, {MANY[1]} steps take {many:.0f} sets, {many / few:.2f} times",
        f"those of {MANY[0]}.",
        "",
        *table(
            ["blocks", "memory, plain JAX", "with checkpoints", "maml_same_batch", "its time"],
            [*rows, ["target, one after another", "", "", "41", "0.85"]],
        ),
    ]
