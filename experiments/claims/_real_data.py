"""Real data as families of the claims: logistic regression on pairs of classes of digits and clothes (E27)."""

from jaxmaml.tasks import digits, fashion
from jaxmaml.tasks.finite_data import FiniteData

TITLES = {"digits": "digits", "fashion": "Fashion-MNIST"}
SIZES = {"smoke": (6, 40), "default": (20, 100), "full": (20, 100)}
"""tasks, and images in the pool of each."""
MAX_BATCH = 20
FAR = 4.0
"""every coordinate of a start from where every score has one sign, so that ||grad F|| keeps its size until w has
come back, as on the ramp (f): there the lines say more than at w = 0, where the gradients of the pairs cancel."""


def families(scale: str) -> dict[str, FiniteData]:
    """The digits, and Fashion-MNIST where its files are; smoke runs must not need them."""
    tasks, pool = SIZES[scale]
    found = {"digits": digits.make(tasks=tasks, pool=pool, max_batch=MAX_BATCH)}
    if not absence(scale):
        found["fashion"] = fashion.make(tasks=tasks, pool=pool, max_batch=MAX_BATCH)
    return found


def absence(scale: str) -> str:
    """Why there are no runs on Fashion-MNIST; empty where there are."""
    if scale == "smoke":
        return "the scale smoke runs the digits alone, so that it needs no files"
    try:
        fashion.make(tasks=1, pool=2)
    except FileNotFoundError as absent:
        return str(absent)
    return ""
