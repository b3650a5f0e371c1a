"""Where the cells of a sweep run. One executor a file; the module's name is the word on the command line.

A module gives `workers(options)`, a context manager that yields `Workers`, or None for this process. What it
imports beside the standard library, it imports there: names are known, and a command line starts, without.
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from jaxmaml.names import unknown
from jaxmaml.paths import check_folder

EXTRA = "jaxmaml[cluster]"
CLUSTERS = ("slurm", "local")
"""what may run the jobs of Slurm."""


@dataclass(frozen=True)
class Slurm:
    """What a job asks Slurm for. The variables of sbatch (SBATCH_ACCOUNT and so on) hold as well."""

    partition: str | None = None
    """by its name; None: Slurm's default."""
    gpus_per_node: int = 0
    """GPUs of a job, which takes one node."""
    cpus_per_task: int = 1
    """cores of a job, which are the devices its cells are sharded over, unless it has GPUs."""
    timeout_min: int = 240
    """a job that is stopped at this time is queued again, and goes on from its last chunk."""
    folder: pathlib.Path = pathlib.Path("results/raw/slurm")
    """where the jobs leave their logs; shared."""
    cluster: str = "slurm"
    """what runs the jobs: slurm, or local for processes of this machine, to try it out."""


@dataclass(frozen=True)
class Options:
    """Where cells run."""

    executor: str = "local"
    """local: this process, all its devices. loky: processes of this machine. dask: the workers of a dask
    scheduler. slurm: jobs of Slurm. All but local need: pip install 'jaxmaml[cluster]' (docs/scaling.md)."""
    workers: int | None = None
    """how many at once: processes of loky (a core each, if not said), jobs of Slurm (8), workers that dask
    will have (those it has)."""
    platform: str | None = None
    """of the workers, cpu, gpu or tpu, if it is not that of this process."""
    scheduler: str | None = None
    """address of the dask scheduler, tcp://host:8786; or the variable DASK_SCHEDULER_ADDRESS."""
    slurm: Slurm = field(default_factory=Slurm)


@dataclass(frozen=True)
class Workers:
    """Processes that run jobs of a sweep."""

    name: str
    """for messages: executor, and where it is."""
    executor: concurrent.futures.Executor
    """its workers import `experiments`, and see the folders of results and of compiled programs."""
    count: int = 1
    """how many there are, or will be."""
    devices: int | None = None
    """what a CPU counts as in each of them; None: as they are configured."""
    share: int = 4
    """into how many jobs a worker's share of a group is cut: more lose less time at the end."""
    platform: str | None = None
    """of the workers; None: this process's."""
    retries: int = 0
    """how often a job is submitted again whose worker was lost; none where the engine does it."""
    lost: Callable[[], str] = str
    """why no outcome will come any more, or nothing."""


def names() -> list[str]:
    """Every executor, in alphabetical order."""
    here = pathlib.Path(__file__).parent
    return sorted(path.stem for path in here.glob("*.py") if not path.stem.startswith("_"))


def check(options: Options) -> None:
    """ValueError with the known names, before anything is imported."""
    if options.executor not in names():
        unknown("executor", options.executor, names())
    if options.platform not in (None, "cpu", "gpu", "tpu"):
        raise ValueError(f"platform = {options.platform!r}; allowed: cpu, gpu, tpu")
    _check_count("workers", options.workers, 1)
    if options.executor == "slurm":
        _check_slurm(options.slurm)


def _check_slurm(asked: Slurm) -> None:
    if asked.cluster not in CLUSTERS:
        raise ValueError(f"slurm.cluster = {asked.cluster!r}; allowed: {', '.join(CLUSTERS)}")
    if asked.partition == "":
        raise ValueError("slurm.partition = ''; allowed: the name of a partition")
    _check_count("slurm.gpus_per_node", asked.gpus_per_node, 0)
    _check_count("slurm.cpus_per_task", asked.cpus_per_task, 1)
    _check_count("slurm.timeout_min", asked.timeout_min, 1)
    check_folder("slurm.folder", asked.folder)


def _check_count(name: str, count: int | None, least: int) -> None:
    if count is not None:
        from jaxmaml.checks import check_step_count  # and JAX

        check_step_count(name, count, least)


@contextlib.contextmanager
def start(options: Options) -> Iterator[Workers | None]:
    """The workers of the executor by its name, for as long as the context is; None: this process."""
    check(options)
    module = importlib.import_module(f"{__name__}.{options.executor}")
    with contextlib.ExitStack() as stack:
        try:
            workers = stack.enter_context(module.workers(options))
        except ModuleNotFoundError as error:
            raise ImportError(
                f"executor = {options.executor!r} needs {error.name}: pip install '{EXTRA}'"
            ) from error
        yield workers and dataclasses.replace(workers, platform=options.platform)


def of(executor: "concurrent.futures.Executor | Workers", count: int = 1) -> Workers:
    """Any executor of concurrent.futures as workers."""
    if isinstance(executor, Workers):
        return executor
    return Workers(type(executor).__name__, executor, getattr(executor, "_max_workers", count))
