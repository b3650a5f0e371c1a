"""Breaks the code on purpose: each mutation replaces one piece of a copy of the sources.

`flipped.csv` beside this file lists, for every mutation and every claim run on it, the rows of the ledger
whose verdict it turned at smoke scale, with that verdict; tests/experiments/test_mutations.py breaks the code
again. A number that is not finite, or huge, turns nothing: a run that diverges tells no mistake from another.
Wrong methods are no mutations of code, but of cells: `experiments.power`. Every row of the ledger is turned
here or there, or named there with the wrong methods that pass it. The column `sources` identifies the code
that a row was recorded with. To renew it after a change of claims: make mutations
"""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

from experiments import claims as every_claim
from jaxmaml import identity

ROOT = pathlib.Path(__file__).parents[2]
FLIPPED = pathlib.Path(__file__).with_name("flipped.csv")


class Mutation(NamedTuple):
    file: str
    old: str
    new: str
    claims: tuple[str, ...]
    """those that are run on the broken code, the quickest first."""


NOISE = "draws = draws / jnp.sqrt(dim * sizes)[..., None, None]"
WAVE = "wave = self.a * jnp.sum(cos(self.omega * w + task.phases))"
COSTLY = (
    "lambda f, w, u, b: hvp.jax.tree.map("
    "lambda p, g: p + 0 * g, hvp.exact(f, w, u, b), hvp.jax.grad(f)(w, b))"
)
FORMED = "hessian = jax.hessian(lambda w: loss(unravel(w), batch))(flat)"
SCORES = "scores = jnp.asarray(batch.x) @ weights"
POOLS = "values = LOSSES[self.kind].value(scores, jnp.asarray(batch.y), self.scale)"

MUTATIONS = {
    "MAML without its Hessian": Mutation(
        "jaxmaml/estimators/maml.py",
        "return descend(hvp.exact,",
        "return descend(hvp.none,",
        ("hessian_batch", "hf_blind", "one_step"),
    ),
    "grad F without its Hessian": Mutation(
        "jaxmaml/estimators/maml_same_batch.py",
        "return descend(hvp.exact,",
        "return descend(hvp.none,",
        (
            "objective_gap",
            "smoothness",
            "strongly_convex",
        ),
    ),
    "D_in and D_o swapped": Mutation(
        "experiments/run.py",
        "wanted = (sizes.D_in, sizes.D_h, sizes.D_o, sizes.D_beta)",
        "wanted = (sizes.D_o, sizes.D_h, sizes.D_in, sizes.D_beta)",
        ("batch_floor", "samples"),
    ),
    "one-sided difference": Mutation(
        "jaxmaml/hvp.py",
        "for s in (shift, jax.tree.map(jnp.negative, shift))",
        "for s in (jax.tree.map(lambda x: 2 * x, shift), jax.tree.map(jnp.zeros_like, shift))",
        (
            "difference_error",
            "worst_points",
            "worst_limits",
        ),
    ),
    "mean over tasks without 1/B": Mutation(
        "jaxmaml/_meta_gradient.py",
        "(g / found.weight).astype(",
        "g.astype(",
        ("noisy_line",),
    ),
    "step that does not adapt": Mutation(
        "jaxmaml/step_size.py",
        "return 4 * L + 2 * rho * alpha * jnp.mean(task_grad_norms)",
        "return 4 * L + 0 * jnp.mean(task_grad_norms)",
        ("adaptive_step", "step_moments", "smoothness", "worst_law"),
    ),
    "noise of a batch not averaged": Mutation(
        "jaxmaml/tasks/_noise.py",
        NOISE,
        NOISE.replace("sizes)", "jnp.ones_like(sizes))"),
        (
            "hessian_batch",
            "outer_gradient",
        ),
    ),
    "noise twice as large": Mutation(
        "jaxmaml/tasks/_noise.py",
        NOISE,
        NOISE.replace("= draws", "= 2 * draws"),
        ("assumptions",),
    ),
    "noise half as large": Mutation(
        "jaxmaml/tasks/_noise.py",
        NOISE,
        NOISE.replace("= draws", "= 0.5 * draws"),
        ("assumptions",),
    ),
    "waves twice as high": Mutation(
        "jaxmaml/tasks/cosine.py",
        WAVE,
        WAVE.replace("self.a", "2 * self.a"),
        ("assumptions",),
    ),
    "waves half as high": Mutation(
        "jaxmaml/tasks/cosine.py",
        WAVE,
        WAVE.replace("self.a", "0.5 * self.a"),
        ("assumptions",),
    ),
    "quadratics that share a Hessian": Mutation(
        "jaxmaml/tasks/quadratic.py",
        "jnp.vdot(offset, task.hessians @ offset)",
        "jnp.vdot(offset, self.tasks.hessians[0] @ offset)",
        ("assumptions",),
    ),
    "losses of pools four times as large": Mutation(
        "jaxmaml/tasks/finite_data.py",
        POOLS,
        POOLS.replace("values =", "values = 4 *"),
        ("assumptions_real_data", "step_moments", "assumptions"),
    ),
    "no inner step": Mutation(
        "jaxmaml/inner.py",
        "lambda w, s: w - s",
        "lambda w, s: w - s + jax.lax.stop_gradient(s)",
        (
            "operations",
            "worst_comparison",
            "worst_limits",
            "worst_noise",
            "worst_points",
            "worst_step",
        ),
    ),
    "difference left out": Mutation(
        "jaxmaml/estimators/hf_maml.py",
        "return descend(product,",
        "return descend(hvp.none,",
        ("hf_floor",),
    ),
    "arc of the theorem's difference too short": Mutation(
        "jaxmaml/estimators/hf_maml.py",
        "return ArcDelta(eta / (rho * alpha))",
        "return ArcDelta(1e-4 * eta / (rho * alpha))",
        ("hf_blind",),
    ),
    "MAML's Hessian on D_in": Mutation(
        "jaxmaml/estimators/maml.py",
        "(episode.inner, episode.hessian)",
        "(episode.inner, episode.inner)",
        ("operations",),
    ),
    "MAML's Hessian at the adapted point": Mutation(
        "jaxmaml/estimators/maml.py",
        "return descend(hvp.exact,",
        "return descend(lambda f, w, u, b: hvp.exact(f, hvp.jax.tree.map(lambda x, y: x + y, w, u), u, b),",
        ("one_step",),
    ),
    "comparison constant too small": Mutation(
        "jaxmaml/theory/gradient_comparison.py",
        "return (1 - lam) ** 2 if lam <= 0.5 else 0.5 - lam**2",
        "return 1.2 * (1 - lam) ** 2 if lam <= 0.5 else 0.5 - lam**2",
        (
            "gradient_comparison",
            "worst_comparison",
            "worst_points",
        ),
    ),
    "MAML takes one gradient more": Mutation(
        "jaxmaml/estimators/maml.py",
        "return descend(hvp.exact,",
        f"return descend({COSTLY},",
        ("operations",),
    ),
    "MAML on one batch takes one gradient more": Mutation(
        "jaxmaml/estimators/maml_same_batch.py",
        "return descend(hvp.exact,",
        f"return descend({COSTLY},",
        ("operations",),
    ),
    "a difference takes one gradient more": Mutation(
        "jaxmaml/hvp.py",
        "    factor = jnp.where(zero, 0.0, safe / (2 * arc))",
        "    ahead = jax.tree.map(lambda a, g: a + 0 * g, ahead, jax.grad(loss)(params, batch))\n"
        "    factor = jnp.where(zero, 0.0, safe / (2 * arc))",
        ("operations",),
    ),
    "FO-MAML takes one gradient more": Mutation(
        "jaxmaml/estimators/fo_maml.py",
        "return descend(hvp.none, loss,",
        "return descend(hvp.none, lambda p, b: loss(p, b) + 0 * loss(p, b),",
        ("operations",),
    ),
    "Hessian formed twice": Mutation(
        "jaxmaml/hvp.py",
        FORMED,
        FORMED + "\n    hessian += 0 * jax.hessian(lambda w: loss(unravel(2 * w), batch))(flat)",
        ("operations",),
    ),
    "scores computed twice": Mutation(
        "jaxmaml/tasks/finite_data.py",
        SCORES,
        SCORES + " + 0 * (jnp.asarray(batch.x) @ (2 * weights))",
        ("operations",),
    ),
    "Hessians of quadratics that differ": Mutation(
        "jaxmaml/tasks/shared_quadratic.py",
        "jnp.square(w - task.centers))",
        "(1 + 0.1 * task.centers) * jnp.square(w - task.centers))",
        ("fo_floor",),
    ),
    "last task never drawn": Mutation(
        "experiments/run.py",
        "index = integers(key_tasks, sum(counts), n)",
        "index = integers(key_tasks, sum(counts), max(n - 1, 1))",
        ("hf_blind",),
    ),
}


LIBRARY = (
    "MAML without its Hessian",
    "D_in and D_o swapped",
    "one-sided difference",
    "mean over tasks without 1/B",
    "step that does not adapt",
)
"""The mistakes that an implementation of MAML makes; `make test` always runs them on their quickest claim."""


def pairs() -> list[tuple[str, str]]:
    """Every mutation with every claim that is run on it."""
    return [(name, claim) for name, mutation in MUTATIONS.items() for claim in mutation.claims]


def sources(name: str, claim: str) -> str:
    """Identifies the file that a mutation breaks, and the claim."""
    module = ".".join(pathlib.Path(MUTATIONS[name].file).with_suffix("").parts).removesuffix(".__init__")
    broken = identity.code(importlib.import_module(module))
    broken = {key: value for key, value in broken.items() if key.startswith(f"{module}:")}
    return identity.summary(broken | every_claim.sources(every_claim.get(claim)))[:16]


def turned(sound: str, verdict: str) -> bool:
    """Whether a verdict is another one; neither of the two that hold is, nor is `void`."""
    return verdict not in (sound, "void") and not (verdict.startswith("holds") and sound.startswith("holds"))


def judge(mutation: Mutation | None, folder: pathlib.Path, claim: str) -> dict[str, str]:
    """The verdicts of a claim at smoke scale on a copy of the sources in `folder`, by part."""
    for package in ("jaxmaml", "experiments"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    if mutation is not None:
        path = folder / mutation.file
        text = path.read_text()
        if text.count(mutation.old) != 1:
            found = text.count(mutation.old)
            raise ValueError(f"{mutation.old!r} occurs {found} times in {mutation.file}; allowed: once")
        path.write_text(text.replace(mutation.old, mutation.new))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "tests")]),
    }
    command = [sys.executable, str(pathlib.Path(__file__).with_name("judge_smoke.py")), claim]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the claim {claim} cannot be run: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
