"""Runs claims at smoke scale with the sources in the working directory; prints their verdicts as JSON."""

import json
import os
import pathlib
import sys
import warnings

import jax
import pandas as pd

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

from experiments import claims  # noqa: E402
from jaxmaml import results, sweep  # noqa: E402

verdicts = {}
for name in sys.argv[1:]:
    module = claims.get(name)
    with warnings.catch_warnings():
        # Broken code divides by zero and overflows.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            rows, _ = sweep.sweep(module.grid("smoke"), pathlib.Path("raw"), quiet=True)
            path = pathlib.Path(f"{name}.csv")
            results.write_table(path, module.measure(rows, "smoke"))
            judged = module.judge(pd.read_csv(path))
        except Exception as error:
            verdicts[f"({name})"] = f"error: {type(error).__name__}: {error}"
            continue
    verdicts |= {row.part: row.verdict for row in judged}
print(json.dumps(verdicts))
