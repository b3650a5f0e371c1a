"""One run: its draws, its steps against brute force, its metrics, and what it ends at."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from experiments.run import Run, draw, log_steps
from jaxmaml import estimators, theory
from jaxmaml.estimators.hf_maml import ArcDelta
from jaxmaml.tasks import cosine, finite_data, quadratic, shared_quadratic
from jaxmaml.types import BatchSizes

pytestmark = pytest.mark.recorded

ALPHA, C = 0.05, 1 / 12
FAMILY = cosine.make(n=6, d=3, mu=0.7, a=1.2, omega=1.5, tau=2.0, beta0=0.8, nu=1.3, seed=4)
CONSTANTS = FAMILY.constants()
W0 = np.array([2.0, -3.0, 1.0])
NOISY = BatchSizes(B=5, D_in=2.0, D_o=3.0, D_h=4.0, B_prime=2, D_beta=6.0)


def cell(estimator="maml", family=FAMILY, **changes):
    constants = family.constants()
    arguments = {"delta": ArcDelta(0.4)} if estimator == "hf_maml" else {}
    base = Run(
        family,
        estimator,
        ALPHA,
        C,
        constants.L,
        constants.rho,
        np.resize(W0, family.dim),
        arguments=arguments,
        record=(0, 1, 5, 12),
    )
    return dataclasses.replace(base, **changes)


@jax.jit
def draws(run):
    """What each step draws, with the steps as the leading axis."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(run.seed)))(
        jnp.arange(run.record[-1])
    )
    return jax.vmap(lambda key: draw(run.family, key, run.sizes))(keys)


def brute_force(run):
    """The iterates w_0, w_1, ... with NumPy, from the same draws."""
    family, sizes = run.family, run.sizes
    n = len(family.tasks.centers)
    w, drawn = np.array(run.w0, float), jax.tree.map(np.asarray, draws(run))
    path = [w]
    for k in range(run.record[-1]):
        episodes, step_batches = jax.tree.map(lambda x, k=k: x[k], drawn)

        def noise_of(samples, i):
            return [0.0 if x is None else np.asarray(x)[i, 0] for x in samples]

        def task(batch, i):
            """Gradient and Hessian of the i-th drawn task."""
            (c, phi), _ = batch
            nu = 0.0 if family.noise.nu is None else family.noise.nu
            return reference.cosine_task(family.mu, family.a, family.omega, c[i], phi[i], nu)

        count = n if sizes.B is None else sizes.B
        directions = []
        for i in range(count):
            gradient, hessian = task(episodes.inner, i)
            batches = [noise_of(b[1], i) for b in episodes]
            more = [lambda norm: 0.4 / norm] if run.estimator == "hf_maml" else []
            method = reference.METHODS[run.estimator]
            directions.append(method(gradient, hessian, w, batches, run.alpha, *more))
        norms = [
            np.linalg.norm(task(step_batches, j)[0](w, noise_of(step_batches[1], j)))
            for j in range(n if sizes.B_prime is None else sizes.B_prime)
        ]
        beta = run.c / (4 * run.L + 2 * run.rho * run.alpha * np.mean(norms))
        w = w - beta * np.mean(directions, axis=0)
        path.append(w)
    return np.array(path)


@pytest.mark.parametrize("sizes", [BatchSizes(), NOISY], ids=["exact", "noisy"])
@pytest.mark.parametrize("estimator", sorted(estimators.estimators()))
def test_equals_brute_force(estimator, sizes):
    run = cell(estimator, sizes=sizes, seed=3)
    path = brute_force(run)
    found = jax.jit(lambda r: r.execute())(run)
    at = [np.linalg.norm(FAMILY.grad_objective(path[k], ALPHA)) for k in run.record]
    np.testing.assert_allclose(found["grad_norm"], at, rtol=1e-9)
    assert len(set(np.round(at, 6))) == len(at)
    np.testing.assert_array_equal(found["step"], run.record)
    gradients = np.stack([FAMILY.task_gradients(path[k]) for k in run.record])
    norms = np.linalg.norm(gradients, axis=2).mean(axis=1)
    smooth = 4 * CONSTANTS.L + 2 * CONSTANTS.rho * ALPHA * norms
    np.testing.assert_allclose(found["smoothness"], smooth, rtol=1e-9)
    centred = gradients - gradients.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).sum(axis=2).mean(axis=1))
    np.testing.assert_allclose(found["spread"], spread, rtol=1e-9)
    # beta_{k-1} G_{k-1} is the last move before a record.
    moves = [np.linalg.norm(path[k] - path[k - 1]) for k in run.record[1:]]
    np.testing.assert_allclose(found["direction_norm"][1:] * found["step_size"][1:], moves, rtol=1e-9)
    assert np.isnan(found["step_size"][0])
    assert int(found["diverged_at"]) == -1


def test_sum_of_the_steps():
    found = cell(record=(0, 1, 2, 3)).execute()
    np.testing.assert_allclose(found["step_sum"][1:], np.cumsum(found["step_size"][1:]), rtol=1e-12)


class TestDraws:
    def test_sizes_of_the_batches(self):
        """The noise of each batch has the variance of its own size: none is swapped for another."""
        family = shared_quadratic.make(n=3, d=2, tau=2.0)
        sizes = BatchSizes(B=20_000, D_in=2.0, D_o=5.0, D_h=11.0, B_prime=20_000, D_beta=23.0)
        episodes, step = draw(family, jax.random.key(0), sizes)
        for (_, samples), size in (
            (episodes.inner, 2.0),
            (episodes.outer, 5.0),
            (episodes.hessian, 11.0),
            (step, 23.0),
        ):
            variance = np.var(np.asarray(samples.xi), axis=0).ravel()
            np.testing.assert_allclose(variance, 4.0 / 2 / size, rtol=0.05)

    def test_batches_are_independent(self):
        family = shared_quadratic.make(n=3, d=1, tau=2.0)
        sizes = BatchSizes(B=20_000, D_in=1.0, D_o=1.0, D_h=1.0, B_prime=20_000, D_beta=1.0)
        episodes, step = draw(family, jax.random.key(1), sizes)
        columns = [np.asarray(x[1].xi).ravel() for x in (*episodes, step)]
        assert np.max(np.abs(np.corrcoef(columns) - np.eye(4))) < 0.03

    def test_an_episode_is_about_one_task(self):
        episodes, _ = draw(FAMILY, jax.random.key(2), NOISY)
        np.testing.assert_array_equal(episodes.inner[0].centers, episodes.outer[0].centers)
        np.testing.assert_array_equal(episodes.inner[0].centers, episodes.hessian[0].centers)

    def test_tasks_are_uniform_and_independent_of_those_of_the_step(self):
        sizes = BatchSizes(B=6000, B_prime=6000)
        episodes, step = draw(FAMILY, jax.random.key(3), sizes)
        one, two = (np.asarray(x[0].centers)[:, 0] for x in (episodes.inner, step))
        _, counts = np.unique(one, return_counts=True)
        assert counts.size == 6
        np.testing.assert_allclose(counts, 1000, atol=5 * np.sqrt(1000 * 5 / 6))
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.06

    def test_common_random_numbers(self):
        """Tasks and samples depend on the seed and the step, whatever the estimator."""
        runs = [cell(name, sizes=NOISY, record=(0, 1)).execute() for name in ("maml", "fo_maml")]
        assert runs[0]["step_size"][1] == runs[1]["step_size"][1]
        other = cell("maml", sizes=NOISY, record=(0, 1), seed=1).execute()
        assert other["step_size"][1] != runs[0]["step_size"][1]

    def test_finite_pools(self):
        family = finite_data.make(n=3, pool=10, p=2, max_batch=8)
        sizes = BatchSizes(B=4, D_in=8.0, D_o=3.0, D_h=1.0, B_prime=2, D_beta=2.0)
        episodes, _ = draw(family, jax.random.key(0), sizes)
        used = np.count_nonzero(np.asarray(episodes.outer[1].weights), axis=1)
        np.testing.assert_array_equal(used, 3)
        found = cell(family=family, sizes=sizes).execute()
        assert np.all(np.isfinite(found["grad_norm"]))


class TestWhereItEnds:
    def test_fo_maml_on_two_quadratics(self):
        """ell = 1, eta = 1/2, s = 1, alpha = 0.1: ||grad F|| = 0.0346..., MAML: 0."""
        family = quadratic.pair(ell=1.0, eta=0.5, s=1.0)
        ends = {
            name: float(
                cell(name, family, alpha=0.1, w0=np.array([3.0]), record=(0, 20_000)).execute()["grad_norm"][
                    -1
                ]
            )
            for name in ("fo_maml", "maml")
        }
        assert ends["fo_maml"] == pytest.approx(quadratic.pair_floor(1.0, 0.5, 1.0, 0.1), rel=1e-8)
        assert ends["fo_maml"] == pytest.approx(0.03460714, abs=1e-8)
        assert ends["maml"] < 1e-12

    @pytest.mark.parametrize("name", ["maml", "fo_maml", "hf_maml"])
    def test_exact_line_of_a_shared_hessian(self, name):
        """E ||grad F(w_k)||^2 over 1500 seeds, at steps in the descent and on the floor."""
        family = shared_quadratic.make(n=5, d=2, smallest=0.5, largest=2.0, tau=5.0, spread=2.0)
        sizes = BatchSizes(B=3, D_in=2.0, D_o=5.0, D_h=1.0, B_prime=1, D_beta=None)
        run = cell(name, family, alpha=0.1, sizes=sizes, record=(0, 3, 30, 400))
        seeds = jnp.arange(1500)

        @jax.jit
        def squares(run, seeds):
            one = lambda s: dataclasses.replace(run, seed=s).execute()["grad_norm"] ** 2  # noqa: E731
            return jax.vmap(one)(seeds)

        found = np.asarray(squares(run, seeds))
        expected = family.exact_line(np.array(run.record), run.w0, name, 0.1, C, sizes)
        error = found.std(axis=0) / np.sqrt(len(seeds))
        assert np.all(np.abs(found.mean(axis=0) - expected) <= 4 * error + 1e-12)
        # The interval tells half a batch from a whole one.
        assert np.all(error[2:] < 0.05 * expected[2:])

    def test_theorems_descend(self):
        """Exact MAML with the theorem's step never raises F."""
        run = cell(c=theory.theorems()["maml"].c, alpha=1 / 6 / CONSTANTS.L, record=tuple(range(200)))
        objective = np.asarray(run.execute()["objective"])
        assert np.all(np.diff(objective) <= 1e-12)

    def test_divergence_is_recorded(self):
        # A step without its smoothness term, far too long.
        run = cell(c=1e6, rho=0.0, record=(0, 10, 200))
        found = run.execute()
        at = int(found["diverged_at"])
        assert 1 <= at <= 200
        assert np.isfinite(found["grad_norm"][0])
        assert not np.isfinite(found["grad_norm"][-1])

    def test_vmapped_equals_single(self):
        runs = [cell(sizes=NOISY, seed=s, alpha=a) for s, a in ((0, 0.01), (1, 0.03), (2, 0.1))]
        stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y, float) for y in x]), *runs)
        stacked = dataclasses.replace(stacked, seed=jnp.arange(3))
        together = jax.jit(jax.vmap(lambda r: r.execute()))(stacked)
        for j, run in enumerate(runs):
            alone = run.execute()
            for name in alone:
                np.testing.assert_allclose(together[name][j], alone[name], rtol=1e-11, err_msg=name)

    def test_float32(self):
        with jax.enable_x64(False):
            low = cell(sizes=NOISY).execute()
        assert low["grad_norm"].dtype == np.float32
        assert np.all(np.isfinite(low["grad_norm"]))
        exact_low = None
        with jax.enable_x64(False):
            exact_low = np.asarray(cell().execute()["grad_norm"])
        np.testing.assert_allclose(exact_low, cell().execute()["grad_norm"], rtol=1e-4)


class TestRecordedSteps:
    def test_log_steps(self):
        steps = log_steps(10_000, per_decade=4)
        assert steps[:2] == (0, 1)
        assert steps[-1] == 10_000
        assert len(steps) == len(set(steps)) == 18
        assert list(steps) == sorted(steps)

    def test_tail(self):
        late = [k for k in log_steps(1000, per_decade=2, tail=10) if k > 500]
        assert len(late) == 10

    def test_one_step(self):
        assert log_steps(1) == (0, 1)

    @pytest.mark.parametrize("steps", [0, -3, 2.5])
    def test_bad(self, steps):
        with pytest.raises(ValueError, match=f"steps = {steps}; allowed: an integer >= 1"):
            log_steps(steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "fo_mamml"}, "unknown estimator 'fo_mamml'.*Did you mean 'fo_maml'"),
        ({"alpha": 0.0}, "alpha = 0.0; allowed: finite and > 0"),
        ({"alpha": -1.0}, "alpha = -1.0; allowed: finite and > 0"),
        ({"c": np.nan}, "c = nan; allowed: finite and > 0"),
        ({"L": 0.0}, "L = 0.0; allowed: finite and > 0"),
        ({"rho": -1.0}, "rho = -1.0; allowed: finite and >= 0"),
        ({"w0": np.zeros(2)}, r"w0 has shape \(2,\); allowed: \(3,\)"),
        ({"sizes": BatchSizes(B=0)}, "B = 0; allowed: an integer >= 1"),
        ({"sizes": BatchSizes(D_in=0.5)}, "D_in = 0.5; allowed: None .exact., or >= 1"),
        ({"sizes": BatchSizes(D_o=0)}, "D_o = 0; allowed"),
        (
            {"estimator": "hf_maml", "arguments": {}},
            "arguments = .*; allowed for hf_maml: .'delta'., of which needed",
        ),
        ({"arguments": {"delta": 1.0}}, "arguments = .'delta'.; allowed for maml: .., of which needed"),
        ({"estimator": "hf_maml", "arguments": {"delta": 0.0}}, "delta.* = 0.0; allowed: finite and > 0"),
        (
            {"estimator": "hf_maml", "arguments": {"delta": ArcDelta(-1.0)}},
            "delta.*arc = -1.0; allowed: finite and > 0",
        ),
        ({"record": (0, 3, 3)}, "allowed: increasing steps that begin with 0"),
        ({"record": (1, 3)}, "allowed: increasing steps that begin with 0"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        cell(**change).check()


def test_batch_beyond_what_the_family_draws():
    family = finite_data.make(n=3, pool=10, p=2, max_batch=8)
    with pytest.raises(ValueError, match="D_in = 9; allowed: None .exact., or >= 1 and <= 8"):
        cell(family=family, sizes=BatchSizes(D_in=9)).check()
