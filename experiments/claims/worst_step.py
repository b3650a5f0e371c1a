"""The tightest instances found of one step of each theorem, and of each coefficient of its N (E11).

Derived: E F(w+) <= F(w) - c/L(w) (kappa b^2 - N), N = sum of n_j times sigma^2, sigma^2/B, sigma~^2/D_o,
sigma~^2/(B D_o), sigma~^2/D_in. Two tasks in one dimension (`experiments.search`) with any chances, B = 20 of them or
all. Of the direction one part is noisy at a time: the tasks, D_in or D_o, with one sample +-sigma~ off, and for MAML
also D_h, +-sigma_H off (as by a steep wave of no height, which D_in and D_o do not see). L~ has one task, and one
sample +-sigma~ off where D_in and D_o are exact (else its condition would limit sigma~). Ratios:

- *one step*: (c/L(w)) kappa b^2 / (F(w) - E F(w+) + c N/L(w)), noise as small as the search likes;
- *N*: [kappa b^2 - (F(w) - E F(w+)) L(w)/c] / N, how much of N the instance needs, where N is one coefficient alone
  (but with B = 20 also the one without 1/B of the same noise);
- *at b times the floor*: guaranteed over measured decrease at given kappa b^2 / N, N from D_in.

The ascent replaces the mean of 20 tasks by three points of its mean and variance; what counts enumerates.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments import run, search
from experiments.cells import Quantity
from experiments.claim import Claim
from experiments.claims import _worst
from experiments.judging import largest, place_of
from experiments.search import Bound, Search, Spline, Subject, adapted, between, derivatives, local, spread
from jaxmaml import estimators, objective, plotting, step_size, theory
from jaxmaml._meta_gradient import meta_gradient
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.theory import smoothness
from jaxmaml.theory.hf_maml import ETA
from jaxmaml.types import Array, BatchSizes, Constants, Episode

claim = Claim("E11", "the tightest instances of one step of each theorem, and of its N")
B = 20
FLOORS = (1.2, 2.0, 5.0)
"""b over (N / kappa)^(1/2)"""
EFFORT = _worst.EFFORT | {"default": (256, 150)}
SIGNS = np.array([1.0, -1.0])
COUNTS = np.array([k for k in itertools.product(range(B + 1), repeat=4) if sum(k) == B])
"""how often each of four outcomes is drawn"""
WAYS = np.array([math.factorial(B) / math.prod(map(math.factorial, k)) for k in COUNTS.tolist()])
TASKS, INNER, OUTER, BATCH, STEP = np.eye(5)
"""what is noisy: the tasks drawn, D_in, D_o; B = 20 rather than all; D_beta"""
PARTS = {
    "sigma^2": TASKS + STEP,
    "sigma^2/B": TASKS + BATCH + STEP,
    "sigma~^2/(B D_o)": OUTER + BATCH,
    "sigma~^2/D_in": INNER + BATCH,
}
ONE = r"$E F(w^+)\le F(w)-\frac{c}{L(w)}(\kappa\|\nabla F(w)\|^2-N)$"
OF_N = f"{ONE}, the part of $N$ of its noise"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Step(Search):
    method: int
    """place in THEOREMS: a number, so that all searches are one program."""
    c: float
    noisy: Array
    """as TASKS ... STEP"""
    floors: float
    """b over (N / kappa)^(1/2); 0: free"""
    kappa: float
    coefficients: Array
    """of N, as `NoiseCoefficients`"""


def batches(noisy):
    _, inner, outer, batch, step = (1.0 if flag else None for flag in noisy)
    return BatchSizes(B=B if batch else None, D_in=inner, D_o=outer, D_h=1.0, B_prime=1, D_beta=step)


def ratio(x, decrease, theorem, noisy, which):
    constants, sizes = _worst.constants(x), batches(noisy)
    if not all(condition.holds for condition in theorem.conditions(constants, x["lam"], sizes)):
        return math.nan
    norm = float((x["chance"] * np.abs(x["slope"])).sum())
    factor = theorem.c / smoothness.smoothness(Constants(1.0, 1.0, 0.0), x["lam"], norm)
    N = theorem.noise(constants, x["lam"], sizes)
    promised, fallen = theorem.drift(constants, x["lam"]).kappa * x["b"] ** 2, decrease / factor
    if which == 1:
        return (promised - fallen) / N
    over, under = (promised, fallen + N) if which == 0 else (promised - N, fallen)
    return over / under if under > 0 else math.inf


def bounds():
    for theorem in THEOREMS:
        high, about = theorem.lam_max, {"place": place_of(theorem.name)}
        kinds = [("one step", ONE, PARTS["sigma^2/B"], 0, (high, high / 4))]
        for part, noisy in PARTS.items():
            if part != "sigma^2" or theorem.name != "maml":
                kinds.append((f"{part} in N", OF_N, noisy, 1, (high,)))
        kinds.append(("one step at b times the floor", ONE, INNER + BATCH, 2, (high,)))
        for title, statement, noisy, which, rates in kinds:
            how = functools.partial(ratio, theorem=theorem, noisy=noisy, which=which)
            title = f"{title}, {plotting.label(theorem.name)}"
            yield (
                theorem,
                noisy,
                which,
                Bound(title, statement, how, tuple((x, x) for x in rates), about=about),
            )


THEOREMS = [theory.theorems()[name] for name in ("maml", "fo_maml", "hf_maml")]
SEARCHES = tuple(bounds())
BOUNDS = tuple(bound for *_, bound in SEARCHES)


def of_method(cell, **by_name):
    """What belongs to the cell's method; 0 where it has nothing."""
    some = next(iter(by_name.values()))
    every = [by_name.get(theorem.name, jnp.zeros_like(some)) for theorem in THEOREMS]
    return jnp.stack(every)[cell.method]


def instance(raw, cell):
    """Within the conditions for B' = D_beta = D_h = 1; one task where the tasks are not what is noisy."""
    x = search.decode(raw, cell.alpha)
    tasks = cell.noisy[0] > 0
    chances = jnp.where(tasks, x.chances, np.array([1.0, 0.0]))
    slopes = local(x).slopes
    mean = (chances * slopes).sum()
    allowed = math.sqrt(2) / x.alpha * (1 - 1e-9) / jnp.sqrt(spread(slopes, chances) + 1e-30)
    moved = (slopes - mean) * jnp.minimum(allowed - 1, 0.0)
    x = x._replace(chances=chances, tasks=x.tasks._replace(slope=x.tasks.slope + moved))
    twist = of_method(cell, maml=between(raw[-1], 0.0, math.sqrt(0.5) / x.alpha))
    noise = jnp.where(cell.noisy[4] > 0, between(raw[-2], 0.0, 0.5 / x.alpha), x.noise)
    tied = gradient(x) * jnp.sqrt(cell.kappa / cell.coefficients[4]) / jnp.maximum(cell.floors, 1e-9)
    noise = jnp.where(cell.floors > 0, abs(tied), noise)
    return x._replace(noise=noise, twist=twist)


def gradient(x):
    here = local(x)
    return x.chances @ ((1 - x.alpha * here.hessians) * adapted(x, here.slopes))


def outcomes(x, cell):
    """Directions of the four outcomes of two coins (task or sample of the gradient; of the Hessian), and chances."""
    tasks, inner, outer, *_ = cell.noisy
    here = local(x, ETA / x.alpha)
    product = of_method(cell, maml=here.hessians, hf_maml=here.secants)
    g = adapted(x, here.slopes + inner * x.noise * SIGNS[:, None]) + outer * x.noise * SIGNS[:, None]
    g = jnp.where(tasks > 0, jnp.diagonal(g), g[:, 0])
    product = jnp.where(tasks > 0, product, product[0])
    directions = (1 - x.alpha * (product[:, None] + x.twist * SIGNS)) * g[:, None]
    chances = 0.5 * jnp.repeat(jnp.where(tasks > 0, x.chances, 0.5), 2)
    return directions.ravel(), chances


def enumerated(chances, cell):
    """Shares of the outcomes in a batch, and the chance of each batch."""
    shares = jnp.where(cell.noisy[3] > 0, COUNTS / B, chances)
    return shares, WAYS * jnp.prod(chances**COUNTS, axis=1)


def decrease(x, cell, means, weights):
    """F(0) - E F(w+) for these mean directions."""

    def F(w):
        w = w[..., None]
        return (x.chances * derivatives(x.tasks, w - x.alpha * derivatives(x.tasks, w)[1])[0]).sum(-1)

    norms = abs(local(x).slopes[:, None] + cell.noisy[4] * x.noise * SIGNS)
    values = F(-cell.c * means[:, None] / (4 + 2 * x.alpha * norms.ravel()))
    return F(jnp.zeros(())) - (weights[:, None] * jnp.repeat(0.5 * x.chances, 2) * values).sum()


def formulas(x, cell):
    directions, chances = outcomes(x, cell)
    shares, weights = enumerated(chances, cell)
    return [decrease(x, cell, shares @ directions, weights)] * 3, scores(x, cell)


def scores(x, cell):
    directions, chances = outcomes(x, cell)
    _, inner, outer, batch, _ = cell.noisy
    deviation = jnp.sqrt(batch / B * spread(directions, chances) + 1e-30)
    nodes = chances @ directions + math.sqrt(3) * deviation * np.array([-1.0, 0.0, 1.0])
    slopes = local(x).slopes
    factor = cell.c / (4 + 2 * x.alpha * x.chances @ abs(slopes))
    fallen = decrease(x, cell, nodes, np.array([1, 4, 1]) / 6) / factor
    s2, t2 = spread(slopes, x.chances), x.noise**2
    parts = jnp.stack([s2, outer * t2, batch * s2 / B, batch * outer * t2 / B, inner * t2])
    N, promised = cell.coefficients @ parts, cell.kappa * gradient(x) ** 2
    # The first is minus the slack, which stays smooth where the decrease changes sign.
    return [
        -(fallen + N) / (promised + 1e-30),
        (promised - fallen) / (N + 1e-30),
        (promised - N) / (fallen + 1e-30),
    ]


def library(x, cell):
    tasks, inner, outer, _, step = cell.noisy
    w, loss = jnp.zeros(1), functools.partial(objective.task_loss, Spline(x.tasks, jnp.zeros(2)))
    sign, twist = (jnp.asarray(v)[:, None, None] for v in (np.repeat(SIGNS, 2), np.tile(SIGNS, 2)))
    drawn = jax.tree.map(lambda a: a[jnp.where(tasks > 0, np.array([0, 0, 1, 1]), 0)], x.tasks)
    linear, quadratic = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    samples = (inner * x.noise * sign * linear, x.twist * twist * quadratic, outer * x.noise * sign * linear)
    episodes = Episode(*((drawn, s) for s in samples))
    arguments = {"hf_maml": {"delta": theorem_delta(1.0, x.alpha)}}
    transform = step_size.scale_by_theorem_step(cell.c, 1.0, 1.0, x.alpha)

    def direction(share):
        def of(name):
            about = {"alpha": x.alpha, "weights": share, **arguments.get(name, {})}
            return meta_gradient(estimators.get(name), loss, w, episodes, **about)

        return of_method(cell, **{theorem.name: of(theorem.name) for theorem in THEOREMS})

    def F(w):
        return (x.chances * search.per_task(lambda family: objective.F(family, w, x.alpha), x.tasks)).sum()

    def after(G, norm):
        return F(w + transform.update(G, transform.init(w), task_grad_norms=norm[None])[0])

    twice = jax.tree.map(lambda a: jnp.repeat(a, 2, axis=0), x.tasks)
    off = step * x.noise * twist * linear
    norms = run.step_norms(Spline(x.tasks, jnp.zeros(2)), w, (twice, off))
    shares, weights = enumerated(outcomes(x, cell)[1], cell)
    ends = jax.vmap(jax.vmap(after, (None, 0)), (0, None))(jax.vmap(direction)(shares), norms)
    fallen = F(w) - (weights[:, None] * jnp.repeat(0.5 * x.chances, 2) * ends).sum()
    slopes = search.per_task(lambda family: objective.grad_F(family, w, x.alpha)[0], x.tasks)
    return [fallen] * 3, search.facts(x) | {"b": jnp.abs((x.chances * slopes).sum())}


@Quantity
def subject(cell):
    return Subject(*(functools.partial(f, cell=cell) for f in (instance, formulas, library, scores)))


@claim.cells
def cells(scale):
    ascent = search.ascent(EFFORT[scale], search.parameters(2))
    for theorem, noisy, which, bound in SEARCHES:
        for alpha in bound.alphas:
            drift = theorem.drift(Constants(1.0, 1.0, 0.0), alpha[1])
            for at in FLOORS if which == 2 else (0.0,):
                method = THEOREMS.index(theorem)
                shared = (ascent, which, np.array(alpha), 0.0, subject, method, theorem.c, noisy)
                cell = Step(*shared, at, drift.kappa, np.array(drift.noise))
                yield {"name": bound.name, "at": at or alpha[1]}, cell


@claim.per("name", "at")
def measured(part, cell):
    return _worst.found(part, cell, BOUNDS, lambda x: f"{_worst.noisy(x)}, b={x['b']:.3g}")


def vanishing(lam):
    """The largest ratio of MAML for one task as b -> 0: there L(w) = 4, L~ = 5, and F'' = (1 - lam h)^2 h."""
    h = np.linspace(-1, 1, 201)
    second = (1 - lam * h) ** 2 * h * (1 + 0.5 / (B * (1 - lam * h) ** 2))
    kappa = THEOREMS[0].drift(Constants(1.0, 1.0, 0.0), lam).kappa
    return np.max(kappa / (0.8 - 0.08 * THEOREMS[0].c * second))


@claim.rows
def rows(table, row):
    yield from _worst.judged(table, row, BOUNDS)
    yield row.untested(
        "tightest instance found: sigma~^2/D_o in N, HF-MAML",
        OF_N,
        "in one dimension the difference's arc is the same for every gradient, and D_o moves no mean direction",
        place=place_of("hf_maml"),
    )
    part = table[table.name == "one step, MAML"]
    yield row.within(
        "tightest one step of MAML is that of vanishing gradients",
        r"ratio $\to\max_h\kappa/(0.8-0.08\,c\,F''(1+\frac{\alpha^2\sigma_H^2}{20(1-\lambda h)^2}))$, $F''=(1-\lambda h)^2h$",
        largest((part.ratio - part["at"].map(vanishing)).abs()),
        0.0,
        0.01,
        note="largest difference of the search at both rates; 0.01 is how near restarts count as the same",
        place="MAML theorem",
    )
    for theorem in THEOREMS:
        name = plotting.label(theorem.name)
        part = table[table.name == f"one step, {name}"]
        yield row.at_least(
            f"one step of {name} is attained to a factor of 1.5",
            r"$\frac c{L(w)}(\kappa\|\nabla F(w)\|^2-N)\ge\frac23(F(w)-E F(w^+))$ for some tasks",
            largest(part.ratio),
            1 / 1.5,
            also=largest((part.ratio - part.closed).abs()) <= _worst.ROUNDING,
            place=place_of(theorem.name),
        )


@claim.figure
def figure(table):
    """The worst tasks that a search finds come most of the way to what each theorem guarantees of one step.

    The coefficients of the noise are loose: their marks are far from 1.
    """
    return _worst.drawn(table, BOUNDS, "One step of each theorem: tightest tasks found")
