"""Per-FedAvg against FedAvg with fine-tuning, on digits and Fashion-MNIST shared out unequally.

Every method has the same networks, clients, draws and grid of rates. Rates are chosen for each method and
budget by the accuracy of seen clients after one step, with seeds that are not among the measured; the rate of
the fine-tuning likewise, for each number of its steps.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from matplotlib.figure import Figure

import jaxmaml
from experiments import pipeline, results
from jaxmaml import federated, identity, models, plotting, storage
from jaxmaml.data import digits, fashion_mnist
from jaxmaml.data._arrays import area_means
from jaxmaml.timing import table as markdown

COSTS = {"fedavg": 1, "fo_maml": 2, "hf_maml": 4, "maml": 4}
"""gradients of a local step, by method; a Hessian-vector product counts as two."""
REFERENCE = "fedavg"
LABELS = {
    "fedavg": "FedAvg, fine-tuned",
    "fo_maml": "Per-FedAvg, FO",
    "hf_maml": "Per-FedAvg, HF",
    "maml": "Per-FedAvg, exact",
}
BUDGETS = {"rounds": "equal rounds", "gradients": "equal gradients"}
KINDS = ("seen", "unseen")
TUNED_BY = 1
"""steps of fine-tuning whose accuracy chooses alpha and beta."""
TUNING_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str
    clients: int
    a: int
    """samples, as in `federated.unequal_classes`."""
    hidden: int
    batch: int
    """samples of each of D_in, D_h and D_o, and of FedAvg's batch."""
    rounds: int = 60
    """of a method of the cost of MAML; at equal gradients others have more."""
    sampled: int = 10
    local_steps: int = 5
    held_out: float = 0.4
    steps: tuple[int, ...] = (0, 1, 5)
    """of fine-tuning."""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """tried for alpha and for the fine-tuning."""
    betas: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    """tried for beta."""
    seeds: int = 10
    tuning_seeds: int = 3


DIGITS = Setting("digits", clients=24, a=12, hidden=32, batch=6)
SCALES = {
    "smoke": (
        dataclasses.replace(
            DIGITS, rounds=4, sampled=4, hidden=4, rates=(0.1, 1.0), betas=(0.3,), seeds=2, tuning_seeds=1
        ),
    ),
    "default": (DIGITS, Setting("fashion_mnist", clients=36, a=16, hidden=32, batch=8, tuning_seeds=2)),
}
NAMES = {"digits": "Digits", "fashion_mnist": "Fashion-MNIST"}


def run(scale: str = "default") -> pathlib.Path:
    """Trains what is not on disk yet; writes summary.csv, table.md and a figure; returns their folder.

    Fashion-MNIST is left out, with a line that says why, where its files are not there.
    """
    if scale not in SCALES:
        raise ValueError(f"scale = {scale!r}; allowed: {', '.join(SCALES)}")
    where = pipeline.folder(scale) / "federated"
    frames = []
    for setting in SCALES[scale]:
        try:
            images(setting.name)
        except FileNotFoundError as error:
            print(f"{setting.name} is left out: {error}")
            continue
        values = pd.concat([measured(setting, method).assign(method=method) for method in COSTS])
        frames.append(summary(values).assign(setting=setting.name))
        storage.write_table(where / "summary.csv", pd.concat(frames, ignore_index=True))
    storage.write(where / "table.md", table(pd.concat(frames, ignore_index=True)).encode())
    draw(where)
    return where


@functools.cache
def images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(x of shape (N, d), in [0, 1], y)."""
    if name == "digits":
        x, y = digits.load()
        return x.reshape(len(x), -1) / np.float32(digits.LEVELS), y.astype(np.int32)
    x, y = fashion_mnist.load()
    x, y = x[:12_000], y[:12_000]  # more than the clients need
    means = area_means(x.astype(np.float32), 14) / 255
    return means.reshape(len(x), -1).astype(np.float32), y.astype(np.int32)


def shared_out(setting: Setting, seed: int) -> dict[str, tuple[federated.Clients, federated.Clients]]:
    """(training, test) of seen and unseen clients; every third pair of clients is unseen."""
    x, y = images(setting.name)
    clients = federated.unequal_classes(x, y, clients=setting.clients, a=setting.a, seed=seed)
    parts = federated.hold_out(clients, setting.held_out, seed)

    def of(kind: str) -> Any:
        wanted = {name for name in clients if (int(str(name)) % 6 >= 4) == (kind == "unseen")}
        return tuple(
            federated.pack({name: part[name] for name in clients if name in wanted}) for part in parts
        )

    return {kind: of(kind) for kind in KINDS}


def rounds_of(setting: Setting, method: str) -> dict[str, int]:
    """By budget."""
    return {"rounds": setting.rounds, "gradients": setting.rounds * max(COSTS.values()) // COSTS[method]}


def accuracies(setting: Setting, method: str, seeds: range, rates: np.ndarray, kinds: tuple) -> np.ndarray:
    """Mean accuracy over clients, shape (seeds, rates, kinds, budgets, rates of fine-tuning, steps).

    rates, shape (..., 2): pairs (alpha, beta).
    """
    features, classes = images(setting.name)[0].shape[1], 10
    _, apply = models.split(models.MLP((features, setting.hidden, classes), rngs=nnx.Rngs(0)))
    loss, accuracy = models.cross_entropy(apply), models.accuracy(apply)
    budgets = rounds_of(setting, method)
    plan: dict[str, Any] = {
        "rounds": budgets["gradients"],
        "every": setting.rounds,
        "sampled": setting.sampled,
        "local_steps": setting.local_steps,
    }

    def trained(params: Any, clients: Any, key: jax.Array, alpha: Any, beta: Any) -> federated.Run:
        if method == REFERENCE:
            return federated.fedavg(
                loss, params, clients, beta=beta, key=key, batch_size=setting.batch, **plan
            )
        options: dict[str, Any] = {"batch_sizes": (setting.batch,) * 3, **plan}
        if method == "hf_maml":
            options["delta"] = jaxmaml.float_optimal_delta(jnp.float32)
        estimator = jaxmaml.estimators.get(method)
        return federated.per_fedavg(
            loss, params, clients, estimator=estimator, alpha=alpha, beta=beta, key=key, **options
        )

    def fine_tuned(params: Any, clients: Any, rate: Any) -> jax.Array:
        found = federated.client_values(
            loss, params, *clients, alpha=rate, steps=setting.steps, measure=accuracy
        )
        return jnp.mean(found, axis=1)

    tuning = jnp.asarray(setting.rates)

    def lane(params: Any, clients: Any, key: jax.Array, pair: jax.Array) -> jax.Array:
        ends = jnp.array([k // setting.rounds - 1 for k in budgets.values()])
        ends = jax.tree.map(lambda h: h[ends], trained(params, clients["seen"][0], key, *pair).history)
        of_all = jax.vmap(jax.vmap(fine_tuned, (None, None, 0)), (0, None, None))
        return jnp.stack([of_all(ends, clients[kind], tuning) for kind in kinds])

    def start(seed: int) -> Any:
        network = models.MLP((features, setting.hidden, classes), rngs=nnx.Rngs(seed))
        return models.split(network)[0], shared_out(setting, seed), jax.random.key(seed)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(start, seeds))
    lanes = jax.vmap(jax.vmap(lane, (None, None, None, 0)))
    each = np.broadcast_to(rates, (len(seeds), *rates.shape[-2:]))
    return np.asarray(jax.jit(lanes)(*stacked, jnp.asarray(each, jnp.float32)), float)


def chosen(setting: Setting, method: str) -> pd.DataFrame:
    """Rows (budget, alpha, beta, one rate of fine-tuning for each number of steps)."""
    alphas = (np.nan,) if method == REFERENCE else setting.rates
    grid = np.array(list(itertools.product(alphas, setting.betas)))
    seeds = range(TUNING_SEED, TUNING_SEED + setting.tuning_seeds)
    found = np.mean(accuracies(setting, method, seeds, grid, ("seen",)), axis=0)[:, 0]
    return best(setting, grid, np.nan_to_num(found))  # where one diverged, no accuracy at all


def best(setting: Setting, grid: np.ndarray, found: np.ndarray) -> pd.DataFrame:
    """found: accuracies, shape (pairs of the grid, budgets, rates of fine-tuning, steps)."""
    rows = []
    for place, budget in enumerate(BUDGETS):
        at = int(found[:, place, :, setting.steps.index(TUNED_BY)].max(axis=1).argmax())
        row: dict[Any, Any] = {"budget": budget, "alpha": grid[at, 0], "beta": grid[at, 1]}
        tuned = found[at, place].argmax(axis=0)
        row.update((nu, setting.rates[i]) for nu, i in zip(setting.steps, tuned, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def measured(setting: Setting, method: str) -> pd.DataFrame:
    """Rows (budget, clients, steps, seed, accuracy) with rounds and rates; from disk where they are there."""
    key = json.dumps(dataclasses.asdict(setting) | {"method": method}, sort_keys=True)
    depends = storage.digest(identity.summary(identity.code(measured)), json.dumps(identity.environment()))
    path = pipeline.ROOT / "raw" / "federated" / f"{storage.digest(key, depends)[:24]}.csv"
    if storage.is_sound(path):
        return storage.read_table(path)
    started, cpu = time.perf_counter(), time.process_time()
    rates = chosen(setting, method)
    pairs = rates[["alpha", "beta"]].to_numpy()
    values = accuracies(setting, method, range(setting.seeds), pairs, KINDS)
    rows = []
    for place, row in enumerate(rates.to_dict("records")):
        budget = str(row["budget"])
        for (kind, clients), (at, nu) in itertools.product(enumerate(KINDS), enumerate(setting.steps)):
            of_seeds = values[:, place, kind, place, setting.rates.index(row[nu]), at]
            numbers = {
                "rounds": rounds_of(setting, method)[budget],
                "alpha": row["alpha"],
                "beta": row["beta"],
            }
            numbers["fine_tuning"] = row[nu] if nu else np.nan
            rows += [
                {"budget": budget, "clients": clients, "steps": nu, "seed": seed, "accuracy": x, **numbers}
                for seed, x in enumerate(of_seeds)
            ]
    found = pd.DataFrame(rows)
    storage.write_table(path, found)
    taken = time.perf_counter() - started, time.process_time() - cpu
    print(f"{setting.name}: {method}, {taken[0]:.0f} s, {taken[1]:.0f} s of the processors", flush=True)
    return found


def summary(values: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over seeds, and of the difference to FedAvg, paired by seed."""
    rows = []
    for (budget, clients, steps), group in values.groupby(["budget", "clients", "steps"], sort=False):
        of = {method: part.set_index("seed") for method, part in group.groupby("method", sort=False)}
        for method, part in of.items():
            rows.append(
                {
                    "budget": budget,
                    "clients": clients,
                    "steps": steps,
                    "method": method,
                    **part[["rounds", "alpha", "beta", "fine_tuning"]].iloc[0].to_dict(),
                    **results.compared("accuracy", part.accuracy, of[REFERENCE].accuracy),
                }
            )
    return pd.DataFrame(rows)


def draw(where: pathlib.Path) -> None:
    """accuracy.svg and its PDF, from summary.csv in the same folder."""
    with plotting.style():
        drawn = figure(storage.read_table(where / "summary.csv"))
        plotting.save(drawn, plotting.files(where, "accuracy"))


def figure(summary: pd.DataFrame) -> Figure:
    """Accuracy of clients after fine-tuning, less that of FedAvg on the same seeds, with 95 % intervals.

    Above the line Per-FedAvg is better.
    """
    settings = list(dict.fromkeys(summary.setting))
    drawing, axes = plotting.panels(len(BUDGETS), len(settings), height=2.2, sharex=True, sharey="row")
    steps = [nu for nu in sorted(summary.steps.unique()) if nu]
    places = list(itertools.product(KINDS, steps))
    methods = [name for name in plotting.ordered(summary.method) if name != REFERENCE]
    for axis, (setting, budget) in zip(axes, itertools.product(settings, BUDGETS), strict=True):
        part = summary[(summary.setting == setting) & (summary.budget == budget)]
        by = part.set_index(["method", "clients", "steps"]).sort_index()
        for j, method in enumerate(methods):
            rows = by.loc[[(method, *place) for place in places]]
            middle = 100 * rows.difference
            ends = [middle - 100 * rows.difference_low, 100 * rows.difference_high - middle]
            x = np.arange(len(places)) + 0.18 * (j - (len(methods) - 1) / 2)
            look = plotting.look(method) | {"linestyle": "none", "capsize": 2}
            axis.errorbar(x, middle, ends, label=f"Per-FedAvg with {plotting.label(method)}", **look)
        axis.axhline(0, color=plotting.SHADES[1], linewidth=1.0, label="FedAvg, fine-tuned")
        axis.set_title(f"{NAMES[setting]}, {BUDGETS[budget]}")
    for axis in axes[:: len(BUDGETS)]:
        axis.set_ylabel("accuracy - FedAvg's [points]")
    for axis in axes[-len(BUDGETS) :]:
        axis.set_xlabel("clients, and steps of fine-tuning [1]")
        axis.set_xticks(
            range(len(places)), [f"{kind}\n{nu} step{'' if nu == 1 else 's'}" for kind, nu in places]
        )
    return plotting.finish(drawing, "Per-FedAvg against FedAvg on unequal clients, 10 seeds", columns=4)


def table(summary: pd.DataFrame) -> str:
    """In Markdown."""
    lines = [
        "# Per-FedAvg against FedAvg with fine-tuning",
        "",
        "Accuracy on held-out samples after so many steps on a client's own training samples, mean over",
        "clients; mean over seeds and its 95 % interval. \\* differs from FedAvg on the same seeds",
        "(paired 95 % interval without 0).",
        "",
    ]
    steps = sorted(summary.steps.unique())
    for (setting, budget), part in summary.groupby(["setting", "budget"], sort=False):
        lines += [f"## {NAMES[str(setting)]}, {BUDGETS[str(budget)]}", ""]
        rows = []
        for (clients, method), group in part.groupby(["clients", "method"], sort=False):
            by = group.set_index("steps")
            alpha = "" if method == REFERENCE else f"{by.alpha.iloc[0]:g}"
            cells = [
                str(clients),
                LABELS[str(method)],
                f"{by.rounds.iloc[0]:g}",
                alpha,
                f"{by.beta.iloc[0]:g}",
            ]
            rows.append(cells + [_cell(by.loc[nu]) for nu in steps])
        header = ["clients", "method", "rounds", "alpha", "beta", *(f"{nu} steps" for nu in steps)]
        lines += markdown(header, rows)
    return "\n".join(lines)


def _cell(row: Any) -> str:
    star = "" if row.difference_low <= 0 <= row.difference_high else " \\*"
    return f"{row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]{star}"
