"""Numbers of small instances of the families, for tests that run over all of them."""

# Small instances; a family that is not listed is tested at its defaults.
SIZES = {
    "cosine": {"n": 5, "d": 2, "mu": 0.8, "a": 1.3, "omega": 1.7},
    "two_cosines": {"mu": 0.2, "a": 0.9, "omega": 1.4, "c": 3.0},
    "shared_quadratic": {"n": 5, "d": 3, "smallest": 0.3, "largest": 2.5},
    "hf_blind": {"alpha": 0.7, "rho": 1.3},
    "log_spectrum": {"decades": 2.0, "modes_per_decade": 3},
    "shared_curvature": {"ridge": 0.2, "weight": 0.7, "spread": 3.0},
    "quadratic": {"n": 4, "d": 3, "smallest": 0.4, "largest": 1.7, "radius": 1.5},
    "digits": {"tasks": 4, "pool": 20},
    "fashion": {"tasks": 4, "pool": 20, "side": 5},
    "finite_data": {"n": 4, "pool": 15, "p": 3},
    "slow_tail": {"q": 0.2, "n": 3, "d": 2, "spread": 0.8},
    "ramp": {"length": 1.5, "slope": 0.7, "width": 0.8},
}
NOISE = {"tau": 1.3, "beta0": 0.7, "nu": 1.9}
