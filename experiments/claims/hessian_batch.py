"""How many samples the Hessian needs: D_h >= 2 alpha^2 sigma_h^2 for MAML, 36 alpha^2 sigma_h^2 for HF-MAML (E23).

As summarised, with (alpha rho sigma_h)^2 in HF-MAML's, which is no number; mended to (alpha sigma_h)^2. What the
conditions buy (derived): the noise of the factor I - alpha H, applied to the outer gradient g,

    E||(A~ - A) g||^2 <= alpha^2 sigma_h^2 ||g||^2 / D_h,

is at most ||g||^2 / 2 for MAML and ||g||^2 / 36 for HF-MAML, whose difference uses one D_h at both points. In one
dimension the first holds with equality. The conditions say something only where alpha sigma_h is not small: here
sigma_h = 12 L at alpha = 1/(6L), so that D_h is at least 8 and 144.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import Quantity, Sampled
from experiments.claim import Claim
from experiments.judging import largest, place_of
from jaxmaml import estimators, objective, plotting, theory
from jaxmaml.estimators.hf_maml import theorem_delta
from jaxmaml.tasks import cosine
from jaxmaml.types import Episode

LAMBDA = 1 / 6
BLOCKS = {"smoke": 40, "default": 400, "full": 4000}
SIZES = (1.0, 4.0, 8.0, 36.0, 144.0, 1000.0)
SHARES = {"maml": 1 / 2, "hf_maml": 1 / 36}
W = 0.7
NU = 0.4
"""wave number of the noise."""

claim = Claim("E23", "the noise of the Hessian's batch against its size", place="MAML theorem")


@Quantity
def noise(key, size, family, w, alpha, D_h, arguments, estimator):
    """||G - E G||^2 over draws of D_h alone, in units of ||g||^2, for the one task of the family."""
    task = jax.tree.map(lambda x: jnp.asarray(x)[0], family.tasks)
    full = (task, family.full(task))

    def direction(name, batch, **more):
        def loss(v, b):
            return objective.task_loss(family, v, b)

        return estimators.get(name)(loss, w, Episode(full, batch, full), alpha=alpha, **more)

    samples = family.sample(key, jnp.zeros(size, int), jnp.full(size, D_h))
    found = jax.vmap(lambda b: direction(estimator, (task, b), **arguments))(samples)
    outer = jnp.sum(direction("fo_maml", full) ** 2)
    return {"noise": jnp.sum((found - direction(estimator, full, **arguments)) ** 2, axis=1) / outer}


@claim.cells
def cells(scale):
    # d = 1, sigma_h = 12 L: beta0 nu^2 = 12 L sqrt(2)
    wave = {"n": 1, "d": 1, "mu": 0.8, "a": 1.3, "omega": 1.7, "seed": 5}
    L = cosine.make(**wave).constants().L
    family = cosine.make(**wave, tau=0.5, beta0=12 * L * math.sqrt(2) / NU**2, nu=NU)
    alpha = LAMBDA / L
    for estimator in SHARES:
        delta = {"delta": theorem_delta(family.constants().rho, alpha)} if estimator == "hf_maml" else {}
        for seed, D_h in enumerate(SIZES):
            about = {"D_h": D_h, "arguments": delta}
            cell = Sampled(
                noise, family, np.array([W]), alpha, about, seed, BLOCKS[scale], estimator=estimator
            )
            yield {"estimator": estimator, "D_h": D_h}, cell


@claim.per("estimator", "D_h")
def measured(part, cell):
    """The sampled noise, its closed form, the bound and the theorem's condition."""
    constants, D_h = cell.family.constants(), cell.arguments["D_h"]
    bound = (cell.alpha * constants.sigma_h) ** 2 / D_h
    # The field of the noise at w +- arc: its difference is the wave's, damped by a sinc.
    arc = 1 / (6 * constants.rho * cell.alpha)
    damping = np.sinc(NU * arc / np.pi) ** 2 if cell.estimator == "hf_maml" else 1.0
    condition = theory.theorems()[cell.estimator].hessian_samples(constants, cell.alpha)
    found = {"noise": part.noise.iloc[0], "error": part.noise_error.iloc[0]}
    return found | {"bound": bound, "condition": condition, "expected": bound * damping}


@claim.rows
def rows(table, row):
    yield row.agrees(
        "noise of the Hessian factor equals its closed form",
        r"$E\|(\tilde A-A)g\|^2=\alpha^2\sigma_H^2\|g\|^2/D_h$ in one dimension, times a sinc squared for a difference",
        table.noise,
        table.expected,
        table.error,
        note="MAML and HF-MAML",
    )
    for estimator, share in SHARES.items():
        part = table[table.estimator == estimator]
        # The condition asks for a size of the grid, up to rounding.
        at = part[np.isclose(part.D_h, part.condition)].iloc[0]
        name, factor = plotting.label(estimator), 2 if estimator == "maml" else 36
        below = part[part.D_h < 0.99 * at.condition]
        told = {
            "source": "condition as summarised; derived"
            if estimator == "maml"
            else "condition as summarised, its unit mended; derived",
            "place": place_of(estimator),
        }
        yield row.within(
            f"noise of the Hessian factor of {name} at its condition",
            rf"$E\|(\tilde A-A)g\|^2\le\frac1{{{factor}}}\|g\|^2$ for $D_h\ge{factor}\,\alpha^2\sigma_H^2$: here nearly equal",
            row.sampled(at.noise / share, at.error / share),
            at.expected / share,
            0.1,
            also=at.expected <= share * (1 + 1e-12),
            note=f"sampled, over the bound, at D_h = {at.D_h:g}",
            **told,
        )
        yield row.at_least(
            f"noise of the Hessian factor of {name} below its condition",
            rf"$E\|(\tilde A-A)g\|^2>\frac1{{{factor}}}\|g\|^2$ for smaller $D_h$",
            row.least(below.noise, below.error, share),
            1.0,
            note=f"sampled, over the bound, least up to D_h = {largest(below.D_h):g}",
            **told,
        )


@claim.figure
def figure(table):
    """The noise that the Hessian's samples add falls like one over their number, as the derived line says it does.

    It is small enough where the theorems ask for it.
    """
    drawing, (axis,) = plotting.panels(1, height=2.9)
    one, derived = table.drop_duplicates("D_h").sort_values("D_h"), plotting.theory("derived", named=True)
    axis.loglog(one.D_h, one.bound, label=r"$\alpha^2\sigma_H^2/D_h$, derived", **derived)
    for estimator in plotting.ordered(table.estimator):
        part, name = table[table.estimator == estimator], plotting.label(estimator)
        # One lies upon the other.
        size = {"linestyle": "none", "markersize": 8 if estimator == "maml" else 4.5, "capsize": 2}
        look = plotting.look(estimator, hollow=estimator == "maml")
        axis.errorbar(part.D_h, part.noise, 5 * part.error, label=name, **look | size)
        condition = plotting.theory("as summarised", look["color"])
        axis.axvline(part.condition.iloc[0], label=f"{name} asks for so many, as summarised", **condition)
    axis.set_xlabel("samples of the Hessian $D_h$ [1]")
    axis.set_ylabel(r"$E\|(\tilde A-A)g\|^2/\|g\|^2$ [1], 5 standard errors")
    return plotting.finish(drawing, "Noise of the Hessian's samples", key="right")
