"""The tightest instances found of one step of each theorem (E11).

Derived: E F(w+) <= F(w) - c/L(w) (kappa b^2 - N). The ratio is (c/L(w)) kappa b^2 / (F(w) - E F(w+) + c N/L(w)), with
B = 20 tasks enumerated as binomial counts, and L~ from all tasks with D_beta = 1 sample, +-sigma~ each: noise that
makes E[1/L~] = 0.8/L(w) is allowed and found.
"""

import functools
import math
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from experiments import run
from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims._worst import UNIT, Bound, Search, Subject, drawn, found, judged, searches, told
from experiments.judging import place_of
from experiments.search import PARAMETERS, Spline, adapted, between, decode, derivatives, facts, local
from jaxmaml import estimators, objective, plotting, step_size, theory
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.theory import smoothness
from jaxmaml.theory.hf_maml import ETA
from jaxmaml.types import BatchSizes, Constants

claim = Claim("E11", "the tightest instances of one step of each theorem")
B = 20
METHODS = ("maml", "fo_maml", "hf_maml")
SIGNS = np.array([[a, b] for a in (1.0, -1.0) for b in (1.0, -1.0)])
COUNTS = np.array([math.comb(B, k) / 2**B for k in range(B + 1)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Step(Search):
    estimator: str = field(metadata={"static": True})
    c: float
    kappa: float
    noise: float
    """N / sigma^2"""


def ratio(x, decrease, theorem):
    constants = Constants(1.0, 1.0, np.std(x["slope"]), x["noise"], 0.0)
    sizes = BatchSizes(B=B, D_beta=1.0)
    # Gradients are exact: sigma~ enters L~ alone.
    exact = replace(constants, sigma_tilde=0.0)
    if not all(condition.holds for condition in theorem.conditions(constants, x["lam"], sizes)):
        return math.nan
    factor = theorem.c / smoothness.smoothness(UNIT, x["lam"], np.abs(x["slope"]).mean())
    below = decrease + factor * theorem.noise(exact, x["lam"], sizes)
    promised = factor * theorem.drift(exact, x["lam"]).kappa * x["b"] ** 2
    return promised / below if below > 0 else math.inf


def bound(theorem):
    return Bound(
        f"one step, {plotting.label(theorem.name)}",
        r"$E F(w^+)\le F(w)-\frac{c}{L(w)}(\kappa\|\nabla F(w)\|^2-N)$",
        functools.partial(ratio, theorem=theorem),
        ((theorem.lam_max, theorem.lam_max), (theorem.lam_max / 4, theorem.lam_max / 4)),
        about={"place": place_of(theorem.name)},
    )


THEOREMS = [theory.theorems()[name] for name in METHODS]
BOUNDS = tuple(map(bound, THEOREMS))


def instance(raw, cell):
    """sigma~ such that D_beta = 1 satisfies its condition, D_beta >= (2 rho alpha sigma~ / L)^2."""
    x = decode(raw, cell.alpha, cell.least_slope)
    return x._replace(noise=between(raw[-2], 0.0, 0.5 / x.alpha))


def directions(x, cell):
    """F(0), and the direction of each task by the method."""
    here = local(x, ETA / x.alpha)
    value, g, _ = derivatives(x.tasks, -x.alpha * here.slopes)
    product = {"maml": here.hessians, "fo_maml": 0.0, "hf_maml": here.secants}[cell.estimator]
    return value.mean(), (1 - x.alpha * product) * g


def decrease(x, cell):
    """F(0) - E F(w+)."""
    start, direction = directions(x, cell)
    share = np.arange(B + 1) / B
    mean = share * direction[0] + (1 - share) * direction[1]
    smooth = 4 + 2 * x.alpha * abs(local(x).slopes + x.noise * SIGNS).mean(-1)
    ends = (-cell.c * mean[:, None] / smooth)[..., None]
    values = derivatives(x.tasks, ends - x.alpha * derivatives(x.tasks, ends)[1])[0]
    return start - (COUNTS[:, None, None] * values).sum() / (2 * len(SIGNS))


def closed(x, cell):
    return [decrease(x, cell)] * len(METHODS)


def scores(x, cell):
    """Minus the slack, which stays smooth where the decrease changes sign."""
    here = local(x)
    factor = cell.c / (4 + 2 * x.alpha * jnp.mean(jnp.abs(here.slopes)))
    b = jnp.mean((1 - x.alpha * here.hessians) * adapted(x, here.slopes))
    slack = decrease(x, cell) + factor * cell.noise * jnp.var(here.slopes)
    return [-slack / (factor * cell.kappa * b**2 + 1e-30)] * len(METHODS)


def library(x, cell):
    family, w = Spline(x.tasks, jnp.stack([x.noise, 0 * x.noise])), jnp.zeros(1)
    everyone, loss = objective.full_episodes(family), functools.partial(objective.task_loss, family)
    batches = np.arange(B) < np.arange(B + 1)[:, None]
    noisy = x.noise * jnp.stack([SIGNS, 0 * SIGNS], axis=-1)[:, :, None]
    norms = jax.vmap(lambda batch: run.step_norms(family, w, (x.tasks, batch)))(noisy)
    arguments = {"delta": theorem_delta(1.0, x.alpha)} if cell.estimator == "hf_maml" else {}
    transform = step_size.scale_by_theorem_step(cell.c, 1.0, 1.0, x.alpha)

    def direction(first):
        episodes = jax.tree.map(lambda a: a[jnp.where(first, 0, 1)], everyone)
        return meta_gradient(estimators.get(cell.estimator), loss, w, episodes, alpha=x.alpha, **arguments)

    def after(G, norms):
        updates, _ = transform.update(G, transform.init(w), task_grad_norms=norms)
        return objective.F(family, w + updates, x.alpha)

    ends = jax.vmap(jax.vmap(after, (None, 0)), (0, None))(jax.vmap(direction)(jnp.asarray(batches)), norms)
    fallen = objective.F(family, w, x.alpha) - jnp.sum(COUNTS * jnp.mean(ends, axis=1))
    about = {"noise": x.noise, "b": jnp.abs(objective.grad_F(family, w, x.alpha))[0]}
    return [fallen] * len(METHODS), facts(x) | about


@Quantity
def subject():
    return Subject(instance, scores, closed, library)


@claim.cells
def cells(scale):
    for labels, cell in searches(scale, BOUNDS, subject, PARAMETERS, before=32):
        theorem = THEOREMS[cell.which]
        drift = theorem.drift(replace(UNIT, sigma=1.0), cell.alpha[1])
        noise = drift.noise.sigma + drift.noise.tasks / B
        yield labels, Step(**vars(cell), estimator=theorem.name, c=theorem.c, kappa=drift.kappa, noise=noise)


@claim.per("name", "high")
def measured(part, cell):
    return found(part, BOUNDS, lambda x: f"{told(x)}, sigma~={x['noise']:.2g}")


@claim.rows
def rows(table, row):
    yield from judged(table, row, BOUNDS)


@claim.figure
def figure(table):
    return drawn(table, BOUNDS, "One step of each theorem: tightest instances found")
