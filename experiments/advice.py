"""The advice of `jaxmaml advise` against what training reaches, for equal numbers of gradients of samples.

Every method trains every problem from the same seeds with falling outer steps (`jaxmaml.advice.pilot`), for
some alphas: the advised one, half and twice it, and that in force; each at the best of MULTIPLES of
1/L_F. All have the gradients that `outer_steps` of maml with B in force take, and the advised B.

What is compared is the loss after adaptation to D_in samples at the end: the mean over all tasks and some
draws, measured on all samples. The gap is that of the advised method and alpha above the best, paired by
seed, as a share of what the best run gained. Right is a gap whose interval reaches zero, or below SHARE.
"""

import functools
import itertools
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from experiments import claims, pipeline
from experiments.advice_problems import CASES, HELD_BACK, Case
from jaxmaml import InnerLoop, adapt, identity, statistics, storage, timing
from jaxmaml.advice import differences, pilot, target
from jaxmaml.advice.decide import Decision, decide
from jaxmaml.advice.differences import Lab
from jaxmaml.advice.options import Options
from jaxmaml.advice.pilot import SHARE
from jaxmaml.advice.rules import FLOAT, number
from jaxmaml.types import PyTree

SEEDS = 5
OTHERS = (0.5, 2.0)
"""times the advised alpha."""
MULTIPLES = (1 / 16, 1 / 4, 1.0, 4.0)
"""of 1/L_F."""
PAGE = claims.RESULTS.parent / "docs" / "advise.md"
MARKS = "<!-- from python -m experiments advice -->\n\n", "\n<!-- end -->\n"
DRAWS = 16
"""of D_in for each task, on which ends are measured."""


def advised(case: Case) -> tuple[target.Target, Decision]:
    """What `jaxmaml advise --price gradients` decides."""
    options = Options(
        "", alpha=case.alpha, inner_steps=case.inner_steps, outer_steps=case.outer_steps, **case.sizes
    )
    about = target.of_problem(case.make(), "", options)
    effort = target.effort(options)
    decision = decide(
        about,
        case.alpha,
        steps=effort.steps,
        pilot_steps=effort.pilot,
        key=jax.random.key(0),
        price="gradients",
    )
    return about, decision


def against_training(name: str, case: Case) -> dict[str, Any]:
    """A row of the table: the advice, what training reaches, and the gap."""
    about, found = advised(case)
    r = found.recommendation
    alphas = sorted({r.alpha, case.alpha, *(r.alpha * x for x in OTHERS)})
    budget = case.outer_steps * about.sizes["tasks"] * found.prices["maml"]
    steps = {m: max(1, round(budget / (r.tasks * found.prices[m]))) for m in found.pilot.scales}
    params = jax.tree.map(jnp.asarray, about.problem.params)
    episodes = pilot.trials(found.lab, jax.random.key(3))
    # 1/L_F at w0.
    largest = np.array(
        [
            1 / pilot.smoothness(found.lab._replace(alpha=a), params, episodes, jax.random.key(4))
            for a in alphas
        ]
    )
    said = (r.outer_step or 0.0) / found.pilot.scales[r.estimator]
    betas = np.stack([*(m * largest for m in MULTIPLES), np.full(len(alphas), said)], axis=1)
    every = {
        m: trained(found.lab, about.problem.params, m, r.tasks, r.every, alphas, betas * scale(found, m), n)
        for m, n in steps.items()
    }
    ends = {m: x[:, :-1] for m, x in every.items()}
    # The best outer step of each method and alpha, by the mean over seeds.
    best = {
        (m, a): x[i, np.argmin(np.mean(x[i], axis=1))] for m, x in ends.items() for i, a in enumerate(alphas)
    }
    ours = best[r.estimator, r.alpha]
    method, alpha = min(best, key=lambda k: float(np.mean(best[k])))
    least = best[method, alpha]
    start = at_start(found.lab, about.problem.params, case.alpha)
    gain = start - np.mean(least)
    gap = statistics.interval((ours - least) / gain)
    row = {
        "problem": name,
        "known": case.known,
        "outer_steps": case.outer_steps,
        "alpha_before": case.alpha,
        "tasks_before": about.sizes["tasks"],
        "method": r.estimator,
        "alpha": r.alpha,
        "limit": r.limit,
        "tasks": "all " + str(r.tasks) if r.every else str(r.tasks),
        "outer_step": r.outer_step,
        "start": start,
        "end": np.mean(ours),
        "best_method": method,
        "best_alpha": alpha,
        "best_end": np.mean(least),
        "gap": gap.mean,
        "gap_low": gap.low,
        "gap_high": gap.high,
        "right": bool(gap.low <= 0 or gap.mean <= SHARE),
    }
    as_said = every[r.estimator][alphas.index(r.alpha), -1]
    row["gap_as_said"] = float((np.mean(as_said) - np.mean(least)) / gain)
    for m in steps:
        row[f"end_{m}"] = min(np.mean(best[m, a]) for a in alphas)
    return row


def scale(found: Decision, method: str) -> float:
    """By which the outer step of S is multiplied for this method."""
    factor = found.pilot.scales[method]
    return factor if factor > 0 else 1.0


def trained(
    lab: Lab,
    params: PyTree,
    method: str,
    tasks: int,
    every: bool,
    alphas: list[float],
    betas: np.ndarray,
    steps: int,
) -> np.ndarray:
    """Losses at the end, shape (alphas, outer steps, seeds) for betas of (alphas, outer steps); inf where a
    run diverged."""
    lab = lab._replace(every=every, sizes={**lab.sizes, "tasks": tasks})
    params = jax.tree.map(jnp.asarray, params)
    lanes = itertools.product(*map(range, (*betas.shape, SEEDS)))
    i, j, seeds = (np.array(x) for x in zip(*lanes, strict=True))
    sizes = tuple(lab.sizes[name] for name in ("tasks", "D_in", "D_h", "D_o"))
    delta = next((d for n, rule, d in lab.methods if n == method and rule == FLOAT), None)
    ends = _train(
        method,
        lab.loss,
        lab.sample,
        lab.full,
        params,
        jnp.asarray(np.array(alphas)[i]),
        jnp.asarray(betas[i, j]),
        jnp.asarray(seeds),
        steps,
        delta,
        sizes,
        lab.inner,
        every,
    )
    found = np.asarray(ends, float).reshape(*betas.shape, SEEDS)
    return np.where(np.isfinite(found), found, np.inf)


def at_start(lab: Lab, params: PyTree, alpha: float) -> float:
    params = jax.tree.map(jnp.asarray, params)
    return float(_measured(lab.loss, lab.sample, lab.full, params, alpha, lab.sizes["D_in"], lab.inner))


@functools.partial(jax.jit, static_argnums=(0, 10, 11, 12))
def _train(
    method: str,
    loss: Partial,
    sample: Partial,
    full: PyTree,
    params: PyTree,
    alphas: jax.Array,
    betas: jax.Array,
    seeds: jax.Array,
    steps: int,
    delta: Any,
    sizes: tuple[int, int, int, int],
    inner: InnerLoop,
    every: bool,
) -> jax.Array:
    """Of each lane, a triple (alpha, beta, seed)."""
    flat, unravel = ravel_pytree(params)
    n = jax.tree.leaves(full)[0].shape[0]

    def run(alpha: jax.Array, beta: jax.Array, seed: jax.Array) -> jax.Array:
        def step(k: jax.Array, w: jax.Array) -> jax.Array:
            key = jax.random.fold_in(jax.random.key(seed), k)
            drawn = differences._draw(sample, key, n, *sizes, every)
            G = differences._direction(method, loss, unravel(w), drawn, alpha, delta, None, inner)
            return w - beta * (1 - k / steps) * G

        end = jax.lax.fori_loop(0, steps, step, flat)
        return _measured(loss, sample, full, unravel(end), alpha, sizes[1], inner)

    return jax.vmap(run)(alphas, betas, seeds)


def _measured(
    loss: Partial,
    sample: Partial,
    full: PyTree,
    params: PyTree,
    alpha: jax.Array | float,
    D_in: int,
    inner: InnerLoop,
) -> jax.Array:
    """Mean loss of all tasks after adaptation to D_in samples; the same draws for all."""
    n = jax.tree.leaves(full)[0].shape[0]

    def of_draw(key: jax.Array) -> jax.Array:
        batches = sample(key, jnp.arange(n), D_in)

        def one(batch: PyTree, everything: PyTree) -> jax.Array:
            return loss(adapt(loss, params, batch, alpha, inner), everything)

        return jnp.mean(jax.vmap(one)(batches, full))

    return jnp.mean(jax.lax.map(of_draw, jax.random.split(jax.random.key(2026), DRAWS)))


def run(names: list[str] | None = None) -> pathlib.Path:
    """All problems, or some; writes the table, and of all of them into docs/advise.md too."""
    cases = CASES | HELD_BACK
    rows = []
    where = pipeline.folder("default" if names is None else "smoke") / "advice.csv"
    for name in names or list(cases):
        started = time.process_time()
        row = kept(name)
        rows.append(row | {"held_back": name in HELD_BACK})
        print(f"{line(row)}; {time.process_time() - started:.0f} CPU s", flush=True)
    storage.write_table(where, pd.DataFrame(rows))
    if names is None:
        first, last = MARKS
        page = PAGE.read_text()
        before, after = page[: page.index(first) + len(first)], page[page.index(last) :]
        text = "".join(line + "\n" for line in table(storage.read_table(where)))
        PAGE.write_text(before + text + after)
    return where


def kept(name: str) -> dict[str, Any]:
    """The row of a problem; from disk where today's code made it before."""
    code = identity.summary(identity.code(against_training, (CASES | HELD_BACK)[name].make))
    depends = storage.digest(name, code, json.dumps(identity.environment()))
    path = pipeline.ROOT / "raw" / "advice" / f"{depends[:24]}.json"
    if not storage.is_sound(path):
        row = against_training(name, (CASES | HELD_BACK)[name])
        storage.write_json(path, {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()})
    return storage.read_json(path)


def table(found: pd.DataFrame) -> list[str]:
    """In Markdown: problem, advice, truth, gap."""
    header = [
        "problem",
        "advice: method, $\\alpha$, $B$",
        "its loss",
        "best found",
        "its loss",
        "gap, % of the gain",
    ]
    header += ["with the advised outer step"]
    rows = []
    for row in found.to_dict("records"):
        name = str(row["problem"]).replace("_", " ")
        rows.append(
            [
                f"{name}{' (held back)' if row['held_back'] else ''}: {row['known']}",
                f"`{row['method']}`, {number(row['alpha_before'])} to {number(row['alpha'])} "
                f"({row['limit']}), "
                f"{row['tasks']}",
                f"{row['start']:.4g} to {row['end']:.4g}",
                f"`{row['best_method']}`, {number(row['best_alpha'])}",
                f"{row['best_end']:.4g}",
                f"{percent(row['gap'])} [{percent(row['gap_low'])}, {percent(row['gap_high'])}]"
                f"{'' if row['right'] else ', **wrong**'}",
                percent(row["gap_as_said"]),
            ]
        )
    return timing.table(header, rows)[:-1]


def percent(share: float) -> str:
    return f"{100 * share:.2f}".replace("-0.00", "0.00")


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['problem']}: {'right' if row['right'] else 'WRONG'}: "
        f"{row['method']} alpha {number(row['alpha'])} "
        f"({row['limit']}) B {row['tasks']} ends at {number(row['end'])}, best {row['best_method']} "
        f"alpha {number(row['best_alpha'])} {number(row['best_end'])}, gap {row['gap']:.2%} "
        f"[{row['gap_low']:.2%}, {row['gap_high']:.2%}], as said {row['gap_as_said']:.2%}; ends "
        + ", ".join(f"{k[4:]} {number(v)}" for k, v in row.items() if k.startswith("end_"))
    )
