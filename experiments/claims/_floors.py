"""What the claims about floors share: when runs have stopped, when a failure is a counterexample, HF-MAML's direction."""

import numpy as np

from experiments.judging import largest

ROUNDING = 1e-9
"""what counts as zero, in units of alpha L sigma."""
REPAIR = "repair: delta = min(1/6, 1/sqrt(B)) / (rho alpha ||g||)"


def end(part, cell):
    """Where a run with exact gradients ends, from where it starts, beside what its floor is measured in."""
    constants, alpha, last = cell.family.constants(), cell.alpha, part.iloc[-1]
    return {
        "start": part.grad_norm.iloc[0],
        "grad_norm": last.grad_norm,
        "direction_norm": last.direction_norm,
        "diverged_at": last.diverged_at,
        "alpha_L_sigma": alpha * constants.L * constants.sigma,
    }


def settled(runs):
    """Whether every run has stopped: its direction is zero."""
    return bool(largest(runs.direction_norm / runs.alpha_L_sigma) <= ROUNDING)


def counterexample(row, part, statement, measured, bound, *, settled=True, **about):
    """`at_most` where a failure refutes the theorem: it has to be sure.

    Runs that have not settled , and an interval that contains the bound, say nothing.
    """
    if not settled:
        return row.untested(part, statement, "a run has not settled", **_place(about))
    if measured.low <= bound < measured.high:
        told = f"between {measured.low:.3g} and {measured.high:.3g}, the bound is {bound:.3g}"
        return row.untested(part, statement, told, **_place(about))
    return row.at_most(part, statement, measured, bound, **about)


def _place(about):
    return {name: about[name] for name in ("number", "place", "source") if name in about}


def hf_direction(w, gradients, alpha, arc):
    """Exact HF-MAML's direction over all tasks, delta = arc / ||g_i||, in NumPy; w of shape (d,).

    gradients(w): grad f_i of every task, shape (n, d), at w of shape (d,) or (n, d).
    """
    g = gradients(w - alpha * gradients(w))
    norms = np.linalg.norm(g, axis=1, keepdims=True)
    ahead, behind = (gradients(w + sign * arc * g / norms) for sign in (1, -1))
    return np.mean(g - alpha * norms * (ahead - behind) / (2 * arc), axis=0)


def zero_near(direction, w):
    """Where a direction vanishes, from w by a Newton method; nan if it does not find it, to rounding."""
    import scipy.optimize

    found = scipy.optimize.root(direction, w, tol=1e-14)
    return found.x if np.linalg.norm(found.fun) <= 1e-12 else np.full_like(found.x, np.nan)
