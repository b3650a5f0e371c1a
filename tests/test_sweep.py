"""Sweeps: one trace a group, equal to single runs, resumable after SIGKILL, never fooled by old files."""

import dataclasses
import sys

import jax
import numpy as np
import pandas as pd
import pytest

from experiments import program, results, sweep
from experiments.run import Run
from jaxmaml import identity
from jaxmaml.tasks import cosine
from jaxmaml.types import BatchSizes

pytestmark = pytest.mark.recorded

FAMILY = cosine.make(n=4, d=2, tau=1.0, seed=1)
SIZES = BatchSizes(B=3, D_in=2.0, D_o=2.0, D_h=2.0, B_prime=1, D_beta=2.0)


def cells(seeds=6, alpha=0.05, estimators=("maml", "fo_maml"), **changes):
    constants = FAMILY.constants()
    base = Run(FAMILY, "maml", alpha, 1 / 12, constants.L, constants.rho, np.ones(2), SIZES, record=(0, 2, 9))
    return [
        (
            {"estimator": name, "seed": seed},
            dataclasses.replace(base, estimator=name, seed=seed, **changes),
        )
        for name in estimators
        for seed in range(seeds)
    ]


def run(labelled, folder, **more):
    return sweep.sweep(labelled, folder, quiet=True, **more)


def test_equals_single_runs(tmp_path):
    assert len(jax.local_devices()) == 2, "the tests shard over two devices"
    labelled = cells()
    rows, report = run(labelled, tmp_path, chunk_cells=4)
    assert (report.cells, report.programs, report.reused) == (12, 2, 0)
    assert report.cell_steps == 12 * 9
    for index, (labels, cell) in enumerate(labelled):
        part = rows[rows.cell == index]
        assert set(part.estimator) == {labels["estimator"]}
        # Compiled alike: the float32 normals are rounded as their fusions have it.
        single = jax.jit(lambda c: c.execute(), compiler_options=program.quick_options())(cell)
        for name, values in single.items():
            expected = np.broadcast_to(values, len(part))
            np.testing.assert_allclose(part[name], expected, rtol=1e-11, err_msg=name)


def test_one_trace_a_group(tmp_path):
    labelled = cells(seeds=23, estimators=("maml", "fo_maml", "maml_same_batch"))
    before = sum(program.traces.values())
    _, report = run(labelled, tmp_path, chunk_cells=4)
    assert report.programs == 3
    assert sum(program.traces.values()) - before == 3
    for group in sweep.group([c for _, c in labelled]):
        assert len(group.indices) == 23


def test_long_programs_are_optimised_and_compute_the_same(tmp_path, monkeypatch):
    """Quickly compiled or not, up to rounding. Exact batches: normals are float32."""
    used = []
    compile_ = program.Program.compile
    monkeypatch.setattr(
        program.Program, "compile", lambda self: (used.append(self.layout.quickly), compile_(self))
    )
    quick, _ = run(cells(sizes=BatchSizes()), tmp_path / "quick")
    monkeypatch.setattr(program, "SHORT", 0.0)
    thorough, _ = run(cells(sizes=BatchSizes()), tmp_path / "thorough")
    assert used == [True, True, False, False]
    pd.testing.assert_frame_equal(quick, thorough, rtol=1e-11)


def test_what_is_prepared_and_not_run_leaves_nothing(tmp_path):
    prepared = sweep.prepare(cells(), tmp_path, quiet=True)
    prepared.cancel()
    assert not list(tmp_path.rglob("*"))
    rows, report = sweep.prepare(cells(), tmp_path, quiet=True).run()
    assert report.reused == 0
    assert report.compile_s > 0
    pd.testing.assert_frame_equal(rows, run(cells(), tmp_path)[0])


def test_numbers_share_a_program_and_shapes_do_not():
    one = [c for _, c in cells(1)]
    two = [c for _, c in cells(1, alpha=0.01, c=0.5)]
    other = [c for _, c in cells(1, sizes=dataclasses.replace(SIZES, B=4))]
    assert len(sweep.group(one + two)) == 2
    assert len(sweep.group(one + other)) == 4


def test_second_time_reads_everything(tmp_path):
    first, _ = run(cells(), tmp_path)
    before = sum(program.traces.values())
    again, report = run(cells(), tmp_path)
    assert report.reused == report.cells
    assert str(report) == "12 cells: all read from disk, nothing to compute"
    assert sum(program.traces.values()) == before
    pd.testing.assert_frame_equal(first, again)


def test_more_cells_run_only_what_is_missing(tmp_path):
    run(cells(3), tmp_path)
    stamps = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.parquet")}
    rows, report = run(cells(6), tmp_path)
    assert (report.reused, report.cells) == (6, 12)
    assert all(f.stat().st_mtime_ns == t for f, t in stamps.items())
    whole, _ = run(cells(6), tmp_path / "other")
    pd.testing.assert_frame_equal(rows, whole)


@pytest.mark.parametrize("change", [{"alpha": 0.051}, {"record": (0, 2, 8)}, {"c": 0.1}])
def test_changed_configuration_is_never_answered_from_an_old_file(tmp_path, change):
    run(cells(2), tmp_path)
    _, report = run(cells(2, **change), tmp_path)
    assert report.reused == 0


def test_changed_code_is_never_answered_from_an_old_file(tmp_path, monkeypatch):
    run(cells(2), tmp_path)
    monkeypatch.setattr(identity, "code", lambda *_: {"run": "other code"})
    _, report = run(cells(2), tmp_path)
    assert report.reused == 0


def test_repeated_cells_run_once(tmp_path):
    labelled = cells(2)
    rows, report = run(labelled + labelled, tmp_path)
    assert report.cells == 8
    assert report.cell_steps == 4 * 9
    assert rows.cell.nunique() == 8


def test_damaged_chunk_is_named_and_runs_again(tmp_path):
    first, _ = run(cells(), tmp_path, chunk_cells=2)
    victim = sorted(tmp_path.rglob("*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.warns(UserWarning, match=f"{victim.name} was changed"):
        again, report = run(cells(), tmp_path, chunk_cells=2)
    assert 0 < report.cells - report.reused <= 4
    pd.testing.assert_frame_equal(first, again)


def test_divergence_is_recorded_and_the_sweep_goes_on(tmp_path):
    labelled = cells(3, estimators=("maml",))
    wild = dataclasses.replace(labelled[1][1], c=1e80, rho=0.0)
    labelled[1] = (labelled[1][0], wild)
    rows, _ = run(labelled, tmp_path)
    last = rows.groupby("cell").tail(1)
    assert list(last.diverged_at >= 0) == [False, True, False]
    assert list(np.isfinite(last.grad_norm)) == [True, False, True]


def test_bad_cell_is_refused_before_anything_runs(tmp_path):
    labelled = cells(2)
    labelled.append(({}, dataclasses.replace(labelled[0][1], alpha=-1.0)))
    before = sum(program.traces.values())
    with pytest.raises(ValueError, match="alpha = -1.0; allowed: finite and > 0"):
        run(labelled, tmp_path)
    assert sum(program.traces.values()) == before


def test_labels_must_not_hide_results(tmp_path):
    labelled = [({"objective": 1.0}, cell) for _, cell in cells(1)]
    with pytest.raises(ValueError, match=r"labels \['objective'\] are columns of the result"):
        run(labelled, tmp_path)


def test_code_of_a_users_family_belongs_to_the_cell(tmp_path):
    """A family in a file of the user's: the file's code is part of the key."""
    import importlib.util

    path = tmp_path / "own_family.py"
    text = """
import dataclasses, jax
from jaxmaml.tasks.cosine import Cosine

@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Own(Cosine):
    factor = 1.0
"""

    def key(text):
        path.write_text(text)
        identity.forget()
        spec = importlib.util.spec_from_file_location("own_family", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["own_family"] = module
        spec.loader.exec_module(module)
        numbers = {f.name: getattr(FAMILY, f.name) for f in dataclasses.fields(FAMILY)}
        cell = dataclasses.replace(cells(1)[0][1], family=module.Own(**numbers))
        return sweep.cell_key(cell, sweep.signature(cell))

    assert key(text) == key(text + "# a comment")
    assert key(text) != key(text.replace("1.0", "2.0"))


def manifests(folder):
    """Those of all chunks below a folder."""
    folders = {path.parent for path in folder.rglob("*.parquet")}
    return [manifest for each in sorted(folders) for manifest in results.read_chunks(each)[1]]


@pytest.mark.parametrize("chunk", [3, 7, 20])
def test_chunks_are_no_larger_than_asked(tmp_path, chunk):
    run(cells(23, estimators=("maml",)), tmp_path, chunk_cells=chunk)
    assert all(len(manifest["cells"]) <= max(chunk, 2) for manifest in manifests(tmp_path))


def test_cells_in_a_call_by_default(tmp_path, monkeypatch):
    """64 on CPUs; on accelerators, where a step costs as much for many, all of these."""
    monkeypatch.setattr(program, "SHORT", 0.0)  # compiled alike
    labelled = cells(70, estimators=("maml",))
    on_cpu, _ = run(labelled, tmp_path / "cpu")
    layout = program.layout
    monkeypatch.setattr(sweep, "layout", lambda *given: layout(*given[:2], "gpu"))
    elsewhere, _ = run(labelled, tmp_path / "accelerator")
    sizes = {
        folder.name: [len(manifest["cells"]) for manifest in manifests(folder)]
        for folder in tmp_path.iterdir()
    }
    assert max(sizes["cpu"]) <= 64
    assert sum(sizes["cpu"]) == 70
    assert sizes["accelerator"] == [70]
    pd.testing.assert_frame_equal(on_cpu, elsewhere, rtol=1e-11)


def test_manifest_resolves_the_configuration(tmp_path):
    run(cells(1, estimators=("maml",)), tmp_path)
    (manifest,) = manifests(tmp_path)
    assert manifest["configurations"][0]["alpha"] == 0.05
    assert manifest["configurations"][0]["family.mu"] == 1.0
    assert manifest["versions"]["jax"] == jax.__version__
    assert manifest["run_s"] > 0
    assert manifest["compile_s"] > 0


def test_quick_options_are_known_to_xla(monkeypatch):
    """XLA stops at an option that it does not know, and its versions know different ones."""
    monkeypatch.setitem(program._QUICK, "xla_no_such_option", 1)
    options = program.quick_options.__wrapped__()
    assert "xla_no_such_option" not in options
    assert options["xla_backend_optimization_level"] == 1
    doubled = jax.jit(lambda x: 2 * x).lower(1.5).compile(compiler_options=options)
    assert doubled(1.5) == 3.0
