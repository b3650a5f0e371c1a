"""A model that adapts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax

from jaxmaml import packing, storage
from jaxmaml.checks import check_batch, check_step_count, scalar
from jaxmaml.estimators._adapted import without_aux
from jaxmaml.inner import ONE_STEP, InnerLoop, adapt, is_optax
from jaxmaml.learner.inputs import check_like
from jaxmaml.paths import check_folder, check_path
from jaxmaml.types import Loss, PyTree

if TYPE_CHECKING:
    import pandas as pd

FILE = "learner.npz"


@dataclass(frozen=True, eq=False)
class Learner:
    """Parameters that adapt, with all that adapts them."""

    params: PyTree = field(repr=False)
    """of step `step`; no method changes them."""
    alpha: PyTree
    """the inner rate or rates, as learned where they were; or an optax transformation."""
    inner: InnerLoop = ONE_STEP
    """the inner loop of training."""
    loss: Callable[..., Any] | None = None
    """loss(params, batch) -> scalar, or (scalar, aux) with `has_aux`."""
    apply: Callable[..., Any] | None = None
    """apply(params, x) -> outputs; `predict` needs it."""
    measure: Loss | None = None
    """measure(params, batch) -> scalar, beside the loss: accuracy."""
    has_aux: bool = False
    step: int = 0
    """outer steps that made the parameters."""
    which: str = "last"
    """"last", the state after the last of these; or "best", that of the best evaluation."""
    configuration: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """how it was trained: {"fit": ...} or {"preset": ...}, for JSON."""
    records: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    """the rows of `curve`."""

    @property
    def curve(self) -> "pd.DataFrame":
        """The evaluations of training: a row for each, by step and number of inner steps.

        step, inner_steps, seconds, gradients, loss, value (the measure), low, high (95 % interval), n.
        """
        import pandas as pd

        return pd.DataFrame(self.records)

    def adapt(self, batch: PyTree, steps: int | None = None) -> PyTree:
        """Parameters after `steps` inner steps (None: as many as in training) on the support batch of a task.

        The batch is like one of training, without a task axis: sample axis first. 0 steps give `params`.
        """
        loss = self._needed("loss", "adapt")
        steps = self.inner.steps if steps is None else steps
        check_step_count("steps", steps, 0)
        check_batch("batch", batch)
        rates, update = parts(self.alpha)
        return _adapted(self.params, rates, batch, update, loss, self.has_aux, self.inner, steps)

    def predict(self, params: PyTree, x: PyTree, **more: Any) -> Any:
        """apply(params, x, **more), params as `adapt` gave them."""
        apply = self._needed("apply", "predict")
        check_like(params, self.params, "params", "as adapt gives them, then x")
        check_batch("x", x)
        return applied(apply, params, x, more)

    def save(self, folder: Any) -> None:
        """Writes parameters, rates, inner loop, configuration and curve; `load` reads them. No functions.

        Raises:
          ValueError: the folder is that of a training run.
        """
        check_folder("folder", folder)
        where = check_path("folder", folder)
        if (where / "checkpoints").exists():
            raise ValueError(f"{where} is the folder of a training run; allowed: another folder")
        about = {
            "inner": of_inner(self.inner),
            "has_aux": self.has_aux,
            "step": self.step,
            "which": self.which,
            "configuration": self.configuration,
            "records": list(self.records),
            "optax": is_optax(self.alpha),
        }
        trees = {"params": self.params} | ({} if is_optax(self.alpha) else {"alpha": self.alpha})
        storage.write(where / FILE, packing.pack(trees, about))
        storage.write_json(where / "config.json", self.configuration)

    def _needed(self, name: str, by: str) -> Any:
        """A function that a file cannot hold."""
        found = getattr(self, name)
        if found is None:
            raise ValueError(
                f"{name} = None; needed by {by}: {name}= in jaxmaml.fit or in jaxmaml.load, "
                "since files hold no functions"
            )
        return found


def parts(alpha: PyTree) -> tuple[PyTree, Any]:
    """(rates, None), or (None, an optax transformation): what is an argument of programs, and what is not."""
    return (None, alpha) if is_optax(alpha) else (alpha, None)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def _adapted(
    params: PyTree,
    rates: PyTree,
    batch: PyTree,
    update: Any,
    loss: Any,
    has_aux: bool,
    inner: InnerLoop,
    steps: int,
) -> PyTree:
    if steps == 0:
        return params
    loop = dataclasses.replace(inner, steps=steps)
    return adapt(without_aux(scalar(loss, has_aux), has_aux), params, batch, update or rates, loop)


@functools.partial(jax.jit, static_argnums=0)
def applied(apply: Any, params: PyTree, x: PyTree, more: dict[str, Any]) -> Any:
    return apply(params, x, **more)


def of_inner(inner: InnerLoop) -> dict[str, Any]:
    mask = packing.described_as(inner.mask)
    return {**{f.name: getattr(inner, f.name) for f in dataclasses.fields(inner)}, "mask": mask}


def inner_of(described: Mapping[str, Any]) -> InnerLoop:
    return InnerLoop(**{**described, "mask": packing.template("inner.mask", described["mask"])})
