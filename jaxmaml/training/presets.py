"""What a training run is made of, as typed dataclasses: every field is an option of the command line.

Rates and sizes of `sinusoid` and `omniglot` are those of Finn, Abbeel, Levine (ICML 2017), as far as its
public code gives them; what differs is said in the preset.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import tyro

ROOT = pathlib.Path("results") / "training"
"""where runs are kept, a folder each."""


@dataclass(frozen=True)
class Data:
    """The tasks: regression on sines, or classification of images (N-way K-shot)."""

    name: str
    """sinusoid, digits, fashion_mnist, omniglot, cifar_fs or mini_imagenet."""
    path: str | None = None
    """folder with the files of the data set, for those that are not in a package."""
    full: bool = False
    """omniglot: the full background and evaluation sets in place of the two small ones."""
    ways: int = 5
    """classes of a task (N), at least 2."""
    support: int = 1
    """samples (a class) to adapt with, D_in (K)."""
    hessian: int = 1
    """samples (a class) of the Hessian, D_h; for maml and hf_maml."""
    query: int = 10
    """samples (a class) of the loss after adaptation, D_o."""


@dataclass(frozen=True)
class Model:
    """The network."""

    kind: Literal["mlp", "conv4"] = "mlp"
    hidden: tuple[int, ...] = (40, 40)
    """mlp: widths of the hidden layers."""
    channels: int = 64
    """conv4: channels of each block."""
    activation: Literal["tanh", "softplus", "relu"] = "relu"
    norm: Literal["task", "group", "none"] = "task"
    """conv4: "task" takes the statistics of the batch itself, so that its accuracies are transductive."""
    pool: Literal["max", "average", "stride"] = "stride"
    """conv4: how a block halves the image."""


@dataclass(frozen=True)
class Inner:
    """How a task adapts."""

    alpha: float = 0.1
    """inner rate."""
    steps: int = 1
    """inner steps in training."""
    adapts: Literal["all", "head"] = "all"
    """which parameters adapt: all, or the last layer alone (ANIL)."""
    learn_alpha: bool = False
    """learn a rate for each parameter array as well, from alpha on."""


@dataclass(frozen=True)
class Method:
    """The meta-gradient."""

    estimator: str = "maml_same_batch"
    """maml, maml_same_batch (differentiation through the inner steps), fo_maml, hf_maml; with other
    objectives imaml, fo_b_maml, reptile (docs/estimators.md)."""
    delta: Literal["float", "theorem"] | float = "float"
    """hf_maml: the float-optimal difference step, the theorem's with `rho`, or a number."""
    eta: float = 1 / 6
    """hf_maml with the theorem's delta: eta / (rho alpha ||v||); 1/6 as stated, 1/sqrt(tasks) repaired."""
    lam: float | None = None
    """imaml, fo_b_maml: strength lambda of the pull to w, `inner.alpha` is then the rate of the solver;
    None: 1/alpha."""
    task_chunk: int | None = None
    """tasks vectorised together; None: all of them."""
    devices: int | None = None
    """devices that share the tasks of a step (on a CPU its cores); None: the most that divide them."""


@dataclass(frozen=True)
class Outer:
    """The outer update."""

    optimizer: Literal["adam", "sgd", "theorem"] = "adam"
    """theorem: beta = c / L~(w), with `L`, `rho` and batches of its own for L~."""
    rate: float = 1e-3
    """of adam and sgd."""
    multiple: float = 1.0
    """theorem: how many times its step; beyond 1 the theory promises nothing."""
    tasks: int = 25
    """tasks of one step (B)."""
    steps: int = 1000
    """outer steps in all."""
    L: float | None = None
    """smoothness of the tasks' losses, for the theorem's step (`advise` measures it)."""
    rho: float | None = None
    """Lipschitz constant of their Hessians, for the theorem's step and delta (`advise` measures it)."""


@dataclass(frozen=True)
class Evaluation:
    """Fixed episodes of test tasks, the same for every run with these numbers."""

    episodes: int = 400
    steps: tuple[int, ...] = (1,)
    """inner steps; one measurement each."""
    query: int | None = None
    """samples (a class) to measure on; None: as in training."""
    every: int = 200
    """outer steps between two evaluations, checkpoints and chances to stop."""
    seed: int = 2017


@dataclass(frozen=True)
class Preset:
    """One training run. The same command goes on where an earlier one stopped."""

    name: tyro.conf.Suppress[str]
    """of the preset that it began with."""
    data: Data
    model: Model = field(default_factory=Model)
    inner: Inner = field(default_factory=Inner)
    method: Method = field(default_factory=Method)
    outer: Outer = field(default_factory=Outer)
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: int = 0
    """of the initial parameters and of all draws, from 0 to 2^32 - 1."""
    precision: Literal["float32", "float64"] = "float32"
    out: str | None = None
    """folder of the run; by default results/training/<preset>-<hash of the configuration>."""
    accept_changes: bool = False
    """go on with a run of other code or other versions of packages; its checkpoints say so from then on."""
    metrics: str | None = None
    """file to add a line of JSON to at every evaluation."""
    distributed: bool = False
    """train in several processes, on all their devices; docs/scaling.md says how they find each other."""


_PRESETS = (
    (
        "10-shot regression on sine waves, 1-40-40-1 network; a minute on 2 cores",
        Preset(
            "sinusoid",
            Data("sinusoid", support=10, hessian=10, query=10),
            Model("mlp", (40, 40)),
            Inner(alpha=0.01),
            Method(),
            Outer(tasks=25, steps=70_000),
            Evaluation(episodes=1000, steps=(1, 10), query=100, every=5_000),
        ),
    ),
    (
        "3-way 5-shot, scikit-learn's digits of 8 x 8 pixels, smooth network; half a minute on 2 cores",
        Preset(
            "digits",
            Data("digits", ways=3, support=5, hessian=5, query=10),
            Model("mlp", (32,), activation="softplus"),
            Inner(alpha=2.0, steps=5),
            Method(),
            Outer(tasks=16, steps=1_000),
            Evaluation(steps=(5, 10), every=100),
        ),
    ),
    (
        "3-way 5-shot Fashion-MNIST, smooth network; a few minutes on 2 cores",
        Preset(
            "fashion_mnist",
            Data("fashion_mnist", ways=3, support=5, hessian=5, query=10),
            Model("mlp", (128, 64), activation="softplus"),
            Inner(alpha=0.1),
            Method(),
            Outer(tasks=8, steps=3_000),
            Evaluation(steps=(1, 5), every=200),
        ),
    ),
    (
        "5-way 1-shot Omniglot (small sets), convolutional network; ten minutes on 2 cores",
        Preset(
            "omniglot",
            Data("omniglot", ways=5, support=1, hessian=1, query=10),
            Model("conv4", channels=64, activation="relu", norm="task", pool="stride"),
            Inner(alpha=0.4),
            Method(task_chunk=1),
            Outer(tasks=16, steps=2_000),
            Evaluation(steps=(1, 3), every=100),
        ),
    ),
)
PRESETS = {preset.name: preset for _, preset in _PRESETS}
DESCRIPTIONS = {preset.name: text for text, preset in _PRESETS}


def digest_of(preset: Preset) -> dict:
    """What identifies a run: everything but how long it lasts, where it is kept and where its data are."""
    resolved = dataclasses.asdict(preset)
    for name in ("name", "out", "accept_changes", "metrics", "distributed"):
        del resolved[name]
    del resolved["data"]["path"], resolved["outer"]["steps"]
    return resolved


def of_fields(fields: Mapping[str, Any]) -> Preset:
    """The preset of `dataclasses.asdict`, as JSON gives it back."""
    groups = {"data": Data, "model": Model, "inner": Inner, "method": Method, "outer": Outer}
    groups["evaluation"] = Evaluation
    made = {name: group(**_with_tuples(fields[name])) for name, group in groups.items()}
    return Preset(**{**fields, **made})


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
