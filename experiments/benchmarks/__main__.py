"""python -m experiments.benchmarks: every benchmark, as ratios in one run."""

import pathlib
import sys

import jax

from experiments.sweep import prepare_devices


def main() -> int:
    prepare_devices()
    from experiments.benchmarks import (
        compile_share,
        inner_steps,
        matmul_precision,
        meta_gradients,
        sweeps,
        textbook,
        transformer,
    )
    from jaxmaml import storage

    backend = jax.default_backend()
    # The manifest of the default sweep is that of a CPU, whose matrix products have one precision.
    last = compile_share if backend == "cpu" else matmul_precision
    where = pathlib.Path("results") / ("benchmarks.md" if backend == "cpu" else f"benchmarks_{backend}.md")

    environment = storage.environment()
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench`; {environment['device']}, JAX {environment['versions']['jax']}. Ratios of",
        "medians in one run: absolute times hold for one machine and hour.",
        "",
    ]
    for module in (meta_gradients, textbook, inner_steps, transformer, sweeps, last):
        print(f"{module.__name__.rsplit('.', 1)[-1]}: {module.__doc__}".splitlines()[0])
        if module is compile_share and not compile_share.MANIFEST.exists():
            print(
                f"error: {compile_share.MANIFEST} is missing; make it with: make run-sweep", file=sys.stderr
            )
            return 2
        lines += module.run()
    storage.write(where, "\n".join(lines).encode())
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
