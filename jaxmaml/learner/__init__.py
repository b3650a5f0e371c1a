"""Fit, evaluate, keep: a model that adapts to new tasks, trained from Python.

    learner = fit(loss, params, tasks, alpha=0.1, steps=1000, test=test_tasks)
    found = evaluate(learner, test_tasks, steps=(0, 1, 5))
    learner.save("model"); learner = load("model", loss=loss, apply=apply)
    adapted = learner.adapt(support_batch, steps=5)
    y = learner.predict(adapted, x)

`fit` is the training loop of `jaxmaml train` (`jaxmaml.training`) on a problem of your own, and `load` takes
the folders of both.
"""

from jaxmaml.learner.evaluation import Measurement, evaluate
from jaxmaml.learner.fitting import fit
from jaxmaml.learner.loading import load
from jaxmaml.learner.model import Learner

__all__ = ["Learner", "Measurement", "evaluate", "fit", "load"]
