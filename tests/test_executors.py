"""Cells in other processes: each once, the numbers of one process bit for bit, nothing finished is lost."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time

import jax
import pandas as pd
import psutil
import pytest
import test_sweep

from experiments import cells as shared_cells
from experiments import executors, jobs, program, results, sweep
from experiments.run import Run
from jaxmaml import identity

pytestmark = pytest.mark.xdist_group("executors")
ROOT = pathlib.Path(__file__).parents[1]
CHUNK, STEPS = 4, 8000
OWN_CELLS = """
import dataclasses, jax, jax.numpy as jnp

@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Own:
    x: float
    cost = 1

    def check(self):
        pass

    def execute(self):
        return {"y": jnp.sum(jnp.cos(self.x * jnp.arange(300.0)))}
"""


def slow_cells():
    """Twelve chunks of CHUNK cells."""
    return test_sweep.cells(48, estimators=("maml",), record=(0, STEPS))


def run(labelled, folder, executor, **more):
    return sweep.sweep(labelled, folder, quiet=True, chunk_cells=CHUNK, executor=executor, **more)


def written(folder):
    return sorted(folder.rglob("*.parquet"))


def assert_each_cell_once(folder, report):
    found = collections.Counter(key for manifest in test_sweep.manifests(folder) for key in manifest["cells"])
    assert found == collections.Counter(report.keys)


@contextlib.contextmanager
def when_half_done(folder, act):
    """Calls `act` once some chunks are written, beside what the context does; gives these files' times."""
    seen, over = {}, threading.Event()

    def watch():
        while len(written(folder)) < 3 and not over.wait(0.01):
            pass
        seen.update({path: path.stat().st_mtime_ns for path in written(folder)})
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
    assert 3 <= len(seen) < 12, "too late to interrupt anything"
    assert all(path.stat().st_mtime_ns == before for path, before in seen.items()), (
        "a finished chunk ran again"
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one process computes."""
    rows, report = run(slow_cells(), tmp_path_factory.mktemp("whole"), None)
    assert report.reused == 0
    return rows


class Dask:
    """A scheduler and two workers, over TCP."""

    def __init__(self, folder):
        file = folder / "scheduler.json"
        self.scheduler = self.start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file
        )
        worker = ("worker", "--scheduler-file", file, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1")
        self.workers = [self.start(*worker, "--local-directory", folder / f"{i}") for i in range(2)]
        while not file.exists():
            assert self.scheduler.poll() is None
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]
        assert self.address.startswith("tcp://127.0.0.1:")
        import distributed

        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)

    def start(self, kind, *words):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *map(str, words)]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def options(self):
        return executors.Options("dask", scheduler=self.address)

    def stop(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    cluster = Dask(tmp_path_factory.mktemp("dask"))
    yield cluster
    cluster.stop()


def test_dask_computes_what_one_process_does(dask, tmp_path, whole):
    with executors.start(dask.options()) as workers:
        assert (workers.count, workers.devices) == (2, 1)
        prepared = sweep.prepare(slow_cells(), tmp_path, chunk_cells=CHUNK, quiet=True, executor=workers)
        steps = list(jobs.gather(workers, prepared.missing))
        outcomes = [done for done in steps if isinstance(done, jobs.Outcome)]
        assert len({outcome.where for outcome in outcomes}) == 2, "one worker did all"
        assert sum(done for done in steps if isinstance(done, int)) == 48 * STEPS
        assert sum(outcome.programs for outcome in outcomes) == 2, "a worker keeps its programs"
        rows, report = run(slow_cells(), tmp_path, workers)
    assert report.reused == report.cells == 48
    assert_each_cell_once(tmp_path, report)
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)


def test_dask_runs_cells_of_a_users_file_as_they_were_planned(dask, tmp_path):
    """Eight and sixteen lanes, the plans for two devices and for one, round this sum differently."""
    path = tmp_path / "own_cells.py"
    path.write_text(OWN_CELLS)
    spec = importlib.util.spec_from_file_location("own_cells", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_cells"] = module
    spec.loader.exec_module(module)
    labelled = [({"x": x}, module.Own(1.0 + x / 7)) for x in range(16)]
    with executors.start(dask.options()) as workers:
        rows, _ = sweep.sweep(labelled, tmp_path / "dask", quiet=True, executor=workers)
    here, _ = sweep.sweep(labelled, tmp_path / "here", quiet=True)
    pd.testing.assert_frame_equal(rows, here, check_exact=True)
    how = program.Layout(lanes=16, width=16, shared=(False,), quickly=True)
    otherwise = program.Program("", labelled[0][1], how)
    otherwise.compile()
    assert (otherwise([cell for _, cell in labelled])[0]["y"] != here.y).any()


def test_dask_worker_that_dies_costs_its_unfinished_chunks_only(dask, tmp_path, whole):
    with (
        executors.start(dask.options()) as workers,
        when_half_done(tmp_path, lambda: dask.workers[0].send_signal(signal.SIGKILL)),
    ):
        rows, report = run(slow_cells(), tmp_path, workers)
    assert dask.workers[0].wait(10) == -signal.SIGKILL
    assert_each_cell_once(tmp_path, report)
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)


def test_lost_scheduler_is_one_line_and_the_sweep_resumes(dask, tmp_path, whole, capfd):
    with (
        executors.start(dask.options()) as workers,
        pytest.raises(ChildProcessError) as caught,
        when_half_done(tmp_path, lambda: dask.scheduler.send_signal(signal.SIGKILL)) as finished,
    ):
        run(slow_cells(), tmp_path, workers)
    message = str(caught.value)
    assert message.startswith(f"executor dask at {dask.address}: ")
    assert "worker lost: the connection to the scheduler is lost (" in message
    assert message.endswith("What is finished is kept, the same command goes on from there")
    assert len(message.splitlines()) == 1
    assert capfd.readouterr().err == ""
    dask.stop()
    rows, report = run(slow_cells(), tmp_path, None)
    assert CHUNK * len(finished) <= report.reused < report.cells
    assert_each_cell_once(tmp_path, report)
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)


def test_dask_without_a_scheduler(monkeypatch):
    monkeypatch.setattr("experiments.executors.dask.PATIENCE", 0.5)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    with (
        pytest.raises(ChildProcessError, match="scheduler = 'tcp://127.0.0.1:9'; no answer within"),
        executors.start(executors.Options("dask")),
    ):
        pass


def child(word):
    """A process below this one that has the word in its command line."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # they come and go
            if word in " ".join(process.cmdline()):
                return process
    raise AssertionError(f"no process {word}")


@pytest.mark.parametrize(
    ("options", "process"),
    [
        (executors.Options("loky", workers=2), "loky.backend.popen_loky"),
        (executors.Options("slurm", workers=2), "submitit.core._submit"),
    ],
    ids=lambda given: getattr(given, "executor", ""),
)
def test_process_that_dies_costs_its_unfinished_chunks_only(options, process, tmp_path, whole):
    options = dataclasses.replace(options, slurm=executors.Slurm(folder=tmp_path / "logs", cluster="local"))
    folder = tmp_path / "raw"
    killed = []
    with (
        executors.start(options) as workers,
        when_half_done(folder, lambda: (killed.append(child(process)), killed[0].kill())),
    ):
        rows, report = run(slow_cells(), folder, workers)
    assert len(killed) == 1
    assert_each_cell_once(folder, report)
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)


# Any executor: here, threads of this process


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield pool


def test_any_executor(threads, tmp_path):
    labelled = test_sweep.cells(6)
    rows, report = run(labelled, tmp_path / "threads", threads)
    alone, _ = run(labelled, tmp_path / "alone", None)
    assert report.cell_steps == 12 * 9
    assert report.programs == 2
    assert_each_cell_once(tmp_path / "threads", report)
    pd.testing.assert_frame_equal(rows, alone, check_exact=True)


def test_a_job_that_fails_is_one_line_after_the_others(threads, tmp_path, monkeypatch):
    labelled = test_sweep.cells(12)
    write = results.write_chunk

    def fails_once(folder, keys, *rest):
        if failing in keys:
            raise OSError("no space\nleft")
        write(folder, keys, *rest)

    failing = sweep.prepare(labelled, tmp_path, quiet=True, chunk_cells=CHUNK, executor=threads).keys[5]
    monkeypatch.setattr(results, "write_chunk", fails_once)
    with pytest.raises(ChildProcessError) as caught:
        run(labelled, tmp_path, threads)
    here = f"{os.uname().nodename}, process {os.getpid()}"
    assert str(caught.value) == (
        f"executor ThreadPoolExecutor: 1 of 6 jobs did not finish: {here}: "
        "OSError: no space left (1). What is finished is kept, the same command goes on from there"
    )
    assert "fails_once" in caught.value.__notes__[0]
    assert len(written(tmp_path)) == 5
    monkeypatch.setattr(results, "write_chunk", write)
    _, report = run(labelled, tmp_path, threads)
    assert report.reused == 20


def test_a_lost_job_is_tried_again_as_often_as_the_engine_needs(tmp_path):
    class Loses(concurrent.futures.Executor):
        left = 2

        def submit(self, function, *arguments):
            future = concurrent.futures.Future()
            if self.left:
                self.left -= 1
                future.set_exception(RuntimeError("worker died"))
            else:
                future.set_result(function(*arguments))
            return future

    labelled = test_sweep.cells(2, estimators=("maml",))
    with pytest.raises(ChildProcessError, match="worker lost: RuntimeError: worker died"):
        run(labelled, tmp_path, executors.Workers("mine", Loses(), retries=1))
    _, report = run(labelled, tmp_path, executors.Workers("mine", Loses(), retries=2))
    assert report.reused == 0


def test_second_try_of_a_job_runs_what_is_missing(tmp_path):
    labelled = test_sweep.cells(12, estimators=("maml",))
    prepared = sweep.prepare(labelled, tmp_path, quiet=True, chunk_cells=CHUNK)
    prepared.cancel()
    (job,) = prepared.missing
    given = jobs._settings(job, executors.Workers("", None)), pickle.dumps(job)
    assert jobs.perform(*given).steps == 12 * 9
    written(tmp_path)[1].unlink()
    kept = {path: path.stat().st_mtime_ns for path in written(tmp_path)}
    assert jobs.perform(*given).steps == CHUNK * 9
    assert len(written(tmp_path)) == 3
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_an_engine_that_is_lost_without_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "LOOK", 0.01)

    class Silent(concurrent.futures.Executor):
        def submit(self, *_):
            return concurrent.futures.Future()

    workers = executors.Workers("mine", Silent(), lost=lambda: "it is gone")
    with pytest.raises(
        ChildProcessError, match="3 of 3 jobs did not finish: worker lost: it is gone \\(3\\). What"
    ):
        run(test_sweep.cells(12, estimators=("maml",)), tmp_path, workers)


def test_folder_that_is_not_shared(threads, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "write_chunk", lambda *_: None)
    with pytest.raises(ChildProcessError, match="2 cells are not in .*, though their jobs ended"):
        run(test_sweep.cells(2, estimators=("maml",)), tmp_path, threads)


def test_worker_that_would_compute_something_else_is_refused(tmp_path, monkeypatch):
    prepared = sweep.prepare(test_sweep.cells(2, estimators=("maml",)), tmp_path, quiet=True)
    prepared.cancel()
    settings = jobs._settings(prepared.missing[0], executors.Workers("", None))
    monkeypatch.setattr(jobs, "_started", [settings.xla_flags])
    cell = prepared.missing[0].cells[0]
    settings.check(cell)
    older = settings.environment | {"jax": "0.1"}
    for changed, message in (
        ({"environment": older}, "jax = .*; the sweep has 0.1. Start the workers anew"),
        ({"xla_flags": "--other"}, "XLA_FLAGS = .*the sweep has --other"),
        ({"code": settings.code | {"jaxmaml.tree:norm": "other"}}, "code of jaxmaml.tree:norm = another"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(settings, **changed).check(cell)


def test_cells_are_planned_for_the_platform_of_the_workers(threads, tmp_path):
    """Keys and layout are those of a GPU, which these workers are not."""
    labelled = test_sweep.cells(2, estimators=("maml",))
    own = sweep.prepare(labelled, tmp_path, quiet=True, executor=threads)
    workers = executors.Workers("mine", threads, platform="gpu")
    prepared = sweep.prepare(labelled, tmp_path, quiet=True, executor=workers)
    assert not set(prepared.keys) & set(own.keys)
    assert not prepared.missing[0].layout.quickly
    with pytest.raises(ChildProcessError, match="platform = cpu; the sweep has gpu"):
        prepared.run()
    assert not written(tmp_path)


def test_progress_of_long_jobs(tmp_path, monkeypatch):
    """Steps are seen while a job runs."""
    monkeypatch.setattr(jobs, "LOOK", 0.01)
    labelled = test_sweep.cells(16, estimators=("maml",), record=(0, 10_000))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        workers = executors.Workers("one", pool, share=1)
        prepared = sweep.prepare(labelled, tmp_path, quiet=True, chunk_cells=CHUNK, executor=workers)
        told = list(jobs.gather(workers, prepared.missing))
    before = told[: next(i for i, done in enumerate(told) if isinstance(done, jobs.Outcome))]
    assert sum(before) == 16 * 10_000
    assert len([steps for steps in before if steps]) > 1


def test_jobs_are_whole_chunks():
    how = program.Layout(lanes=2, width=4, shared=(), quickly=True)
    job = jobs.Job("", pathlib.Path(), how, [str(i) for i in range(23)], list(range(23)))
    for count in (1, 2, 5, 6, 100):
        parts = job.split(count)
        assert len(parts) <= min(count, 6)
        assert [chunk.keys for part in parts for chunk in part.chunks()] == [c.keys for c in job.chunks()]


def test_a_program_does_not_depend_on_what_is_left_to_run(tmp_path):
    """Few cells of many: in the same blocks, and so with the same rounding."""
    labelled = test_sweep.cells(13, estimators=("maml",))
    prepared = sweep.prepare(labelled, tmp_path / "a", quiet=True)
    prepared.cancel()
    (job,) = prepared.missing
    run_program = job.program()
    run_program.compile()
    every, _ = run_program(job.cells)
    lanes = job.layout.lanes
    assert 1 < lanes < 13
    for start in range(0, 13, lanes):
        some, _ = run_program(job.cells[start : start + lanes])
        for name, values in some.items():
            pd.testing.assert_frame_equal(
                pd.DataFrame(values), pd.DataFrame(every[name][start : start + lanes]), check_exact=True
            )


def test_a_cell_is_traced_once(tmp_path, monkeypatch):
    traced = []
    execute = Run.execute
    monkeypatch.setattr(Run, "execute", lambda self: (traced.append(1), execute(self))[1])
    run(test_sweep.cells(5, estimators=("maml",)), tmp_path, None)
    assert len(traced) == 1


def test_quantities_travel_by_their_name():
    from experiments.claims import adaptive_step

    quantities = [x for x in vars(adaptive_step).values() if isinstance(x, shared_cells.Quantity)]
    assert quantities
    for quantity in quantities:
        assert pickle.loads(pickle.dumps(quantity)) is quantity


def test_script_of_the_users_is_refused(threads, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    identity.forget()
    with pytest.raises(ValueError, match="defined in the script that runs; allowed with an executor: "):
        run(test_sweep.cells(2, estimators=("maml",)), tmp_path, threads)


@pytest.mark.parametrize(
    ("name", "package"), [("dask", "distributed"), ("loky", "loky"), ("slurm", "submitit")]
)
def test_executor_that_is_not_installed(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    message = f"executor = '{name}' needs {package}: pip install 'jaxmaml\\[cluster\\]'"
    with (
        pytest.raises(ImportError, match=message),
        executors.start(executors.Options(name, scheduler="tcp://x:1")),
    ):
        pass


def test_this_process_is_the_default():
    assert len(jax.local_devices()) == 2
    with executors.start(executors.Options()) as workers:
        assert workers is None
    with pytest.raises(
        ValueError, match="unknown executor 'dusk'; known: dask, local, loky, slurm. Did you mean"
    ):
        executors.check(executors.Options("dusk"))
    with pytest.raises(ValueError, match="platform = 'gpus'; allowed: cpu, gpu, tpu"):
        executors.check(executors.Options("loky", platform="gpus"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cluster": "slrum"}, "slurm.cluster = 'slrum'; allowed: slurm, local"),
        ({"partition": ""}, "slurm.partition = ''; allowed: the name"),
        ({"gpus_per_node": -1}, "slurm.gpus_per_node = -1; allowed: an integer >= 0"),
        ({"cpus_per_task": 0}, "slurm.cpus_per_task = 0; allowed: an integer >= 1"),
        (
            {"timeout_min": 2**31},
            "slurm.timeout_min = 2147483648; allowed: an integer >= 1 and <= 2147483647",
        ),
        ({"folder": pathlib.Path(__file__)}, "slurm.folder = .* is a file; allowed: a folder"),
    ],
)
def test_what_slurm_is_asked_for(changed, said):
    """Said before a job is queued, and where there is no Slurm."""
    with (
        pytest.raises(ValueError, match=said),
        executors.start(executors.Options("slurm", slurm=executors.Slurm(**changed))),
    ):
        pass


def test_too_many_workers():
    with pytest.raises(ValueError, match="workers = 2147483648; allowed: an integer >= 1 and <= 2147483647"):
        executors.check(executors.Options("loky", workers=2**31))
