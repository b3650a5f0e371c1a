"""Every public function with bad values in each argument: an error of ours that names it.

The calls are eager and stop at the check; what is let through would be computed, and is the failure.
"""

import pathlib
import re
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmaml
from experiments import sweep
from experiments.cells import Sampled
from jaxmaml import ArcDelta, Episode, InnerLoop, checks, data, estimators, hvp, paths, statistics
from jaxmaml.data.images import Images
from jaxmaml.data.sinusoid import Sinusoid
from jaxmaml.models import losses

W = jnp.array([1.0, -2.0])
BATCH = jnp.array([[0.5, 1.0], [2.0, -1.0]])
EPISODE = Episode(BATCH, BATCH, BATCH)
EPISODES = jax.tree.map(lambda x: x[None], EPISODE)
NO_NUMBER = ("x", None, True, 1j, np.array(["a"]), np.array([1j]), [1.0], object())
BAD_POSITIVE = (0, 0.0, -1.0, np.nan, np.inf, -np.inf, *NO_NUMBER)
BAD_NONNEGATIVE = (-1.0, np.nan, np.inf, -np.inf, *NO_NUMBER)
BAD_COUNT = (0, -1, np.nan, np.inf, 1.5, 2.0, 2**31, 10**30, *NO_NUMBER)
BAD_SEED = (-1, np.nan, 1.5, 2.0, 2**32, 2**63, 10**30, *NO_NUMBER)
BAD_RATE = (-1.0, np.nan, np.inf, -np.inf, "x", None, True, 1j, np.array(["a", "b"]), object())
BAD_WEIGHTS = (
    "x",
    np.array([-1.0]),
    np.array([np.nan]),
    np.array([0.0]),
    np.array([1j]),
    np.array(["a"]),
    np.ones(2),
)
BAD_CONSTANT = (-1.0, np.nan, "x", None, 1j)
BAD_LOOP = (None, 1, "x", {"steps": 2})
BAD_FUNCTION = (None, 1, "x")
REFUSED = (ValueError, TypeError)


def loss(w, batch):
    return jnp.mean(jnp.square(batch @ w))


def names(*bad):
    return [f"{x!r}"[:20] for x in bad]


def each(bad):
    return pytest.mark.parametrize("bad", bad, ids=names(*bad))


def refused(call, said):
    """An error that says what was given and what is allowed."""
    with pytest.raises(REFUSED, match=said) as caught:
        call()
    assert re.search("allowed: |known: |known, ", str(caught.value))


def one_task(name):
    more = {"delta": 0.1} if name == "hf_maml" else {}
    return lambda **k: estimators.get(name)(loss, W, EPISODE, **{"alpha": 0.1} | more | k)


ESTIMATORS = {
    **{name: one_task(name) for name in estimators.estimators()},
    "meta_gradient": lambda **k: jaxmaml.meta_gradient(jaxmaml.maml, loss, W, EPISODES, **{"alpha": 0.1} | k),
    "meta_value_and_gradient": lambda **k: jaxmaml.meta_value_and_gradient(
        jaxmaml.maml, loss, W, EPISODES, **{"alpha": 0.1} | k
    ),
    "finite_tasks": lambda **k: jaxmaml.finite_tasks(jaxmaml.maml, loss, W, EPISODES, **{"alpha": 0.1} | k),
    "adapt": lambda **k: jaxmaml.adapt(loss, W, BATCH, **{"alpha": 0.1} | k),
    "adapt_has_finite_derivative": lambda **k: jaxmaml.adapt_has_finite_derivative(
        loss, W, BATCH, **{"alpha": 0.1} | k
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
class TestRates:
    @each(BAD_RATE)
    def test_alpha(self, name, bad):
        refused(lambda: ESTIMATORS[name](alpha=bad), "alpha")

    @each(BAD_LOOP)
    def test_inner(self, name, bad):
        refused(lambda: ESTIMATORS[name](inner=bad), "inner")


PARAMS = (
    ("whole", jnp.array([1, 2]), "params.*int32|params.*int64"),
    ("complex", jnp.array([1j, 2]), "params.*complex"),
    ("text", "x", "params.*str"),
    ("none", None, "params"),
    ("empty", {}, "params"),
)


@pytest.mark.parametrize(("params", "said"), [case[1:] for case in PARAMS], ids=[case[0] for case in PARAMS])
def test_params(params, said):
    for estimator in (jaxmaml.maml, jaxmaml.fo_maml, jaxmaml.maml_same_batch):
        refused(lambda estimator=estimator: estimator(loss, params, EPISODE, alpha=0.1), said)
    refused(lambda: jaxmaml.hf_maml(loss, params, EPISODE, alpha=0.1, delta=0.1), said)
    refused(lambda: jaxmaml.adapt(loss, params, BATCH, 0.1), said)
    refused(lambda: jaxmaml.meta_gradient(jaxmaml.maml, loss, params, EPISODES, alpha=0.1), said)
    refused(lambda: jaxmaml.inner_gradient(loss)(params, BATCH), said)


@each(BAD_FUNCTION)
def test_loss(bad):
    refused(lambda: jaxmaml.inner_gradient(bad), "loss")
    refused(lambda: jaxmaml.inner_gradient(loss, bad), "product")
    refused(lambda: jaxmaml.adapt(bad, W, BATCH, 0.1), "loss")
    for estimator in (jaxmaml.maml, jaxmaml.fo_maml, jaxmaml.maml_same_batch):
        refused(lambda estimator=estimator: estimator(bad, W, EPISODE, alpha=0.1), "loss = ")
    refused(lambda: jaxmaml.hf_maml(bad, W, EPISODE, alpha=0.1, delta=0.1), "loss = ")
    refused(lambda: jaxmaml.meta_gradient(jaxmaml.maml, bad, W, EPISODES, alpha=0.1), "loss")
    refused(lambda: jaxmaml.meta_gradient(bad, loss, W, EPISODES, alpha=0.1), "estimator")


def test_no_samples():
    none = jnp.zeros((0, 2))
    refused(lambda: jaxmaml.adapt(loss, W, none, 0.1), r"batch has shape \(0, 2\)")
    refused(lambda: jaxmaml.adapt_has_finite_derivative(loss, W, none, 0.1), r"batch has shape \(0, 2\)")
    for name in Episode._fields:
        refused(
            lambda name=name: jaxmaml.maml(loss, W, EPISODE._replace(**{name: none}), alpha=0.1),
            rf"episode.{name} has shape \(0, 2\)",
        )
    refused(lambda: jaxmaml.maml(loss, W, (BATCH, BATCH, BATCH), alpha=0.1), "episode is tuple")


@each(BAD_COUNT)
def test_counts(bad):
    refused(lambda: InnerLoop(steps=bad), "InnerLoop.steps = ")
    refused(lambda: InnerLoop(checkpoint_levels=bad), "InnerLoop.checkpoint_levels = ")
    if bad is not None:
        call = ESTIMATORS["meta_gradient"]
        refused(lambda: call(task_chunk=bad), "task_chunk = ")
        refused(lambda: sweep.prepare([], pathlib.Path("nowhere"), chunk_cells=bad), "chunk_cells = ")
    key = jax.random.key(0)
    refused(lambda: Sinusoid().episodes(key, bad), "tasks = ")
    refused(lambda: Sinusoid(support=bad).episodes(key, 1), "support = ")
    pixels = np.zeros((3, 4, 2, 2), np.uint8)
    for name in ("ways", "support", "hessian", "query"):
        sizes = dict.fromkeys(("ways", "support", "hessian", "query"), 1) | {name: bad}
        refused(lambda sizes=sizes: Images(pixels, **sizes).episodes(key, 1), f"{name} = ")


@each(BAD_WEIGHTS)
def test_weights(bad):
    refused(lambda: ESTIMATORS["meta_gradient"](weights=bad), "weights")


@each((*BAD_POSITIVE, np.array([0.1, 0.2])))
def test_delta(bad):
    refused(lambda: ESTIMATORS["hf_maml"](delta=bad), "delta")


@each(BAD_POSITIVE)
def test_rules_of_delta(bad):
    refused(lambda: jaxmaml.theorem_delta(bad, 0.1), "rho = ")
    refused(lambda: jaxmaml.theorem_delta(1.0, bad), "alpha = ")
    refused(lambda: jaxmaml.theorem_delta(1.0, 0.1, bad), "eta = ")
    refused(lambda: jaxmaml.float_optimal_delta("float32", bad), "length = ")
    refused(lambda: ArcDelta(bad)(1.0), "arc = ")
    refused(lambda: ESTIMATORS["hf_maml"](delta=ArcDelta(bad)), "arc = ")
    if bad is not None:
        refused(lambda: ESTIMATORS["hf_maml"](delta=ArcDelta(0.1, bad)), "share = ")


@each(("int32", "complex64", bool))
def test_types_of_differences(bad):
    refused(lambda: jaxmaml.float_optimal_delta(bad), "dtype = ")


@each(BAD_NONNEGATIVE)
def test_step_size(bad):
    make = jaxmaml.scale_by_theorem_step
    refused(lambda: make(bad, 1.0, 1.0, 1.0), "c = ")
    refused(lambda: make(1.0, bad, 1.0, 1.0), "L = ")
    if not isinstance(bad, list | type(None)):  # pytrees
        refused(lambda: make(1.0, 1.0, bad, 1.0), "rho = ")
        refused(lambda: make(1.0, 1.0, 1.0, bad), "alpha = ")


@each((-1.0, np.array([1.0, -1e-9]), np.zeros(0), "x", None, np.array([1j])))
def test_task_norms(bad):
    step = jaxmaml.scale_by_theorem_step(0.1, 1.0, 1.0, 1.0)
    refused(lambda: step.update(W, step.init(W), task_grad_norms=bad), "task_grad_norms = ")


def test_a_negative_task_norm_inside_jit_gives_no_step():
    """Its value is not known before; a step against the gradient would go unseen, NaN does not."""
    step = jaxmaml.scale_by_theorem_step(0.1, 1.0, 1.0, 1.0)
    update = jax.jit(lambda norms: step.update(W, step.init(W), task_grad_norms=norms)[0])
    assert np.isnan(update(jnp.array([1.0, -100.0]))).all()
    np.testing.assert_allclose(update(jnp.array([1.0, 3.0])), -0.1 / 8 * W, rtol=1e-6)


@each(BAD_CONSTANT)
def test_constants(bad):
    for name in ("L", "rho", "sigma", "sigma_tilde", "sigma_h", "zeta"):
        given = {"L": 1.0, "rho": 1.0, "sigma": 1.0} | {name: bad}
        refused(lambda given=given: jaxmaml.Constants(**given), f"{name} = ")


@each(BAD_SEED)
def test_seeds(bad):
    refused(lambda: checks.check_seed("seed", bad), "seed = ")
    refused(lambda: Sampled(None, None, W, 0.1, {}, bad, 1).check(), "seed = ")


def test_seeds_differ():
    """Why they end where they do: in float32 mode the next one is the first again."""
    asked = (0, checks.SEEDS - 1, checks.SEEDS)
    with jax.enable_x64(False):
        low = [jax.random.key_data(jax.random.key(seed)).tolist() for seed in asked]
    high = [jax.random.key_data(jax.random.key(seed)).tolist() for seed in asked]
    assert low[0] == low[2] != low[1]
    assert high[:2] == low[:2]
    checks.check_seed("seed", checks.SEEDS - 1)
    checks.check_seed("seed", np.int32(3))


def test_what_is_allowed_stays_so():
    """0 is a rate, and inside jit a learned one may pass it; integers and NumPy's numbers are numbers."""
    np.testing.assert_array_equal(jaxmaml.adapt(loss, W, BATCH, 0.0), W)
    step = jaxmaml.adapt(loss, W, BATCH, 1.0) - W
    for alpha in (1, np.float32(1), jnp.asarray(1)):
        np.testing.assert_allclose(jaxmaml.adapt(loss, W, BATCH, alpha) - W, step, rtol=1e-6)
    back = jax.jit(lambda a: jaxmaml.adapt(loss, W, BATCH, a))(-1.0)
    np.testing.assert_allclose(back - W, -step, rtol=1e-6)
    left_out = jaxmaml.meta_gradient(jaxmaml.fo_maml, loss, W, EPISODES, alpha=0.1, weights=np.array([True]))
    assert np.isfinite(left_out).all()


def test_unknown_names():
    refused(lambda: data.classes("omniglott"), "unknown image set 'omniglott'")
    refused(lambda: jaxmaml.estimators.get("mamml"), "unknown estimator 'mamml'")
    refused(lambda: hvp.difference(0), "delta = 0")


def test_a_score_that_is_nan_has_no_accuracy():
    """argmax takes the class that is NaN, the first of them all."""
    right = losses.accuracy(lambda _, x: x)
    scores = jnp.array([[1.0, 0.0], [jnp.nan, jnp.nan], [0.0, jnp.nan]])
    for i, expected in ((0, 1.0), (1, np.nan), (2, np.nan)):
        found = right(None, (scores[i : i + 1], jnp.array([0])))
        np.testing.assert_equal(float(found), expected)
    assert np.isnan(right(None, (scores, jnp.array([0, 0, 0]))))
    infinite = right(None, (jnp.array([[jnp.inf, 0.0]]), jnp.array([0])))
    assert infinite == 1
    assert np.isnan(statistics.interval([1.0, np.nan]).mean)


class TestPaths:
    def test_folders(self, tmp_path):
        (tmp_path / "file").touch()
        paths.check_folder("out", tmp_path)
        paths.check_folder("out", tmp_path / "new" / "newer")
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
        for bad, said in (("", "out = ''"), (tmp_path / "file", "is a file"), ("a\0b", "null characters")):
            refused(lambda bad=bad: paths.check_folder("out", bad), said)
        refused(lambda: paths.check_folder("out", tmp_path / "file" / "below"), "cannot be written to")

    def test_files(self, tmp_path):
        paths.check_file("json", tmp_path / "new.json")
        assert not list(tmp_path.iterdir())
        for bad, said in (
            ("", "json = ''"),
            (tmp_path, "is a folder"),
            (tmp_path / "no" / "x", "in a folder that exists"),
        ):
            refused(lambda bad=bad: paths.check_file("json", bad), said)

    def test_a_folder_that_cannot_be_written_to(self, tmp_path, monkeypatch):
        """As a full or read-only disk answers; permissions would not stop root."""

        def full(self, mode="r", **_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pathlib.Path, "open", full)
        for check in (paths.check_folder, paths.check_file):
            where = tmp_path / "x"
            refused(lambda check=check, where=where: check("out", where), "No space left on device")

    def test_permissions(self, tmp_path):
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        try:
            (tmp_path / "probe").touch()
        except PermissionError:
            refused(lambda: paths.check_folder("out", tmp_path), "Permission denied")
        else:
            (tmp_path / "probe").unlink()
            pytest.skip("this user may write everywhere")
        finally:
            tmp_path.chmod(stat.S_IRWXU)

    def test_errors_get_a_path(self):
        with (
            pytest.raises(OSError, match="No space left on device: '/some/where'"),
            paths.naming("/some/where"),
        ):
            raise OSError(28, "No space left on device")
        with pytest.raises(FileNotFoundError, match="/other"), paths.naming("/some/where"):
            pathlib.Path("/other/file").read_bytes()
