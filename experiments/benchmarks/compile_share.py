"""The share of compiling in the default sweep, from the manifest of its last cold run."""

import pathlib

from jaxmaml import storage
from jaxmaml.timing import table

MANIFEST = pathlib.Path("results") / "manifest.json"


def run() -> list[str]:
    claims = storage.read_json(MANIFEST)["claims"]
    rows = []
    total = {"compile_s": 0.0, "run_s": 0.0, "programs": 0, "cached": 0}
    for name, took in claims.items():
        for key in total:
            total[key] += took[key]
        rows.append([name, str(took["programs"]), f"{took['compile_s'] / took['run_s']:.2f}"])
    share = total["compile_s"] / (total["compile_s"] + total["run_s"])
    cached = total["cached"]
    cold = "cold" if not cached else f"warm ({cached} programs came from it; this is no cold figure)"
    return [
        "## Compiling",
        "",
        f"The default sweep compiles {total['programs']} programs, one a group of cells,",
        f"in {100 * share:.0f} % of its time (target: 20 %); the compile cache was {cold}.",
        "",
        *table(["claim", "programs", "compiling / running"], rows),
    ]
