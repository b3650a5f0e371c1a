"""Tasks on 1 to 4 devices, also uneven: the same numbers, and what the devices exchange."""

import json
import subprocess
import sys

import numpy as np
import pytest
from runs import REPOSITORY

PROGRAM = """
import json, sys
sys.path[:0] = ["tests", "tests/training"]
import settings
settings.configure()
import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
from experiments.benchmarks import training_devices
from jaxmaml.training import problem
from runs import changed, small

for tasks in (5, 8):
    preset = small("", precision="float64", outer={"steps": 3, "tasks": tasks}, inner={"learn_alpha": True})
    built = problem.build(preset)
    for count in (1, 2, 3, 4):
        chosen = changed(preset, method={"devices": count})
        functions = problem.functions(chosen, built, problem.devices(chosen))
        training, test = functions.place((built.training, built.test))
        start = functions.start()
        compiled = functions.advance.lower(start, 3, training).compile()
        state = compiled(start, 3, training)
        leaves = jax.tree.leaves((state.params, state.log_alpha, functions.measure(state, test)))
        flat = np.concatenate([np.ravel(np.asarray(x)) for x in leaves]).tolist()
        sent = training_devices.exchanged(compiled.as_text())
        numbers = sum(x.size for x in jax.tree.leaves((state.params, state.log_alpha)))
        print(json.dumps([tasks, count, numbers, sent, flat]))
"""


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_as_on_one_device(found):
    one = {tasks: flat for tasks, count, _, _, flat in found if count == 1}
    assert len(found) == 8
    for tasks, count, _, _, flat in found:
        np.testing.assert_allclose(flat, one[tasks], rtol=1e-10, atol=1e-12, err_msg=f"{tasks} on {count}")


def test_what_is_exchanged(found):
    """One sum of the gradient, and of the tasks that count where they are uneven; nothing else."""
    for tasks, count, numbers, sent, _ in found:
        weight = 4 if tasks % count else 0
        assert sent == ({"all-reduce": 8 * numbers + weight} if count > 1 else {}), (tasks, count)
