"""What each row of the ledger can tell: the claims are run again with wrong methods, at smoke scale.

A wrong method is a change of the cells of a sweep, by the names of their fields: what is measured is that of
the wrong run, what it is compared with belongs to the right one. A row that still holds, although its number
has changed, cannot tell the two apart; `results/power.csv` lists what became of every row.

    python -m experiments.power [NAME ...]     renews it, for the claims named or for all
"""

import dataclasses
import functools
import inspect
import math
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import pandas as pd

from experiments import claims, results, sweep
from experiments.cells import Cells
from experiments.claim import Claim
from experiments.run import Run
from experiments.search import Search
from jaxmaml import estimators, identity, storage
from jaxmaml.estimators.hf_maml import ArcDelta, theorem_delta
from jaxmaml.types import Episode

TABLE = pathlib.Path("results/power.csv")
SCALE = "smoke"
METHODS = {"maml": "MAML", "fo_maml": "FO-MAML", "hf_maml": "HF-MAML"}
HUGE = 1e50
"""a number that says no more than that a run has diverged."""

Outcome = Literal["turned", "holds", "unchanged", "void"]
"""of a row that holds for the right method: it does not hold for the wrong one; it does, with another number;
the number is the same, for the row is not about what is wrong; the run diverged, or theory refuses its
numbers: that counts for nothing."""
Change = Callable[[Any], Any]


# Changes of one cell; a cell that they do not concern comes back as it is.


_changed: Callable[..., Any] = dataclasses.replace


def _deep(change: Change) -> Change:
    """The change of a cell, or of the run in it; a search is about a theorem, not a run of its method."""

    def changed(cell: Any) -> Any:
        if isinstance(cell, Search):
            return cell
        inner = getattr(cell, "run", None)
        if dataclasses.is_dataclass(inner):
            return _changed(cell, run=changed(inner))
        return change(cell)

    return changed


def _estimator(old: str, new: str) -> Change:
    def change(cell: Any) -> Any:
        if getattr(cell, "estimator", "") != old:
            return cell
        delta = _delta(cell) if "delta" in inspect.signature(estimators.get(new)).parameters else {}
        if isinstance(cell, Run):
            return _changed(cell, estimator=new, arguments=delta)
        own = dict(cell.arguments)
        if "arguments" in own:
            own["arguments"] = delta
        return _changed(cell, estimator=new, arguments=own)

    return change


def _delta(cell: Any) -> dict[str, Any]:
    rho = cell.rho if hasattr(cell, "rho") else cell.family.constants().rho
    # For rho = 0 the difference is exact, whatever its step.
    return {"delta": theorem_delta(rho, cell.alpha) if rho > 0 else 1.0}


def _times(name: str, factor: float) -> Change:
    def change(cell: Any) -> Any:
        if not hasattr(cell, name):
            return cell
        return _changed(cell, **{name: factor * getattr(cell, name)})

    return change


def _sizes(edit: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """A change of the batch sizes, which are fields of `sizes`, or entries of `arguments`."""

    def change(cell: Any) -> Any:
        if hasattr(cell, "sizes"):
            return _changed(cell, sizes=_changed(cell.sizes, **edit(vars(cell.sizes))))
        own = getattr(cell, "arguments", {})
        return _changed(cell, arguments=own | edit(own)) if edit(own) else cell

    return change


def _one_task(cell: Any) -> Any:
    if isinstance(cell, Run) and hasattr(cell, "tasks"):
        return _changed(cell, tasks=1.0)
    return _sizes(lambda s: {"B": 1} if s.get("B") is not None else {})(cell)


def _swapped(sizes: dict[str, Any]) -> dict[str, Any]:
    if not {"D_in", "D_o"} <= set(sizes):
        return {}
    return {"D_in": sizes["D_o"], "D_o": sizes["D_in"]}


def _exact(name: str) -> Change:
    def edit(sizes: dict[str, Any]) -> dict[str, Any]:
        return {name: None} if sizes.get(name) is not None else {}

    def change(cell: Any) -> Any:
        # FO-MAML has no Hessian, whose batch could be wrong.
        absent = name == "D_h" and getattr(cell, "estimator", "") == "fo_maml"
        return _sizes(edit)(cell) if hasattr(cell, "sizes") and not absent else cell

    return change


def _long_arc(cell: Any) -> Any:
    def longer(arguments: dict[str, Any]) -> dict[str, Any]:
        found = dict(arguments)
        if isinstance(found.get("arguments"), dict):
            found["arguments"] = longer(found["arguments"])
        if isinstance(found.get("delta"), ArcDelta):
            found["delta"] = dataclasses.replace(found["delta"], arc=4 * found["delta"].arc)
        elif isinstance(found.get("delta"), (int, float)):
            found["delta"] = 4 * found["delta"]
        return found

    if not hasattr(cell, "arguments"):
        return cell
    return _changed(cell, arguments=longer(cell.arguments))


@functools.cache
def _on_inner_batch(kind: type[Run]) -> type[Run]:
    """That kind of run, with D_in's batch in the place of D_h's."""

    def direction(self: Run, w: jax.Array, episodes: Episode) -> jax.Array:
        return kind.direction(self, w, episodes._replace(hessian=episodes.inner))

    wrong = type(f"{kind.__name__}OnInnerBatch", (kind,), {"direction": direction, "__module__": __name__})
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(wrong))  # type: ignore[no-any-return]


def _same_batch(cell: Any) -> Any:
    if not isinstance(cell, Run) or cell.sizes.D_h is None or cell.sizes.D_in is None:
        return cell
    fields = {f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)}
    return _on_inner_batch(type(cell))(**fields)  # type: ignore[arg-type]


def _constant_step(cell: Any) -> Any:
    return _changed(cell, rho=0.0) if isinstance(cell, Run) else cell


WRONG: dict[str, Change] = {
    **{
        f"{METHODS[new]} for {METHODS[old]}": _deep(_estimator(old, new))
        for old in METHODS
        for new in METHODS
        if new != old
    },
    "alpha twice": _deep(_times("alpha", 2.0)),
    "c twice": _deep(_times("c", 2.0)),
    "one task for B": _deep(_one_task),
    "D_in and D_o swapped": _deep(_sizes(_swapped)),
    "D_h = D_in": _deep(_same_batch),
    "arc of delta 4 times": _deep(_long_arc),
    "D_in exact": _deep(_exact("D_in")),
    "D_o exact": _deep(_exact("D_o")),
    "D_h exact": _deep(_exact("D_h")),
    "constant step": _deep(_constant_step),
}


def _same(one: Any, other: Any) -> bool:
    """Whether two cells compute the same."""
    name = sweep.signature(one)
    return name == sweep.signature(other) and sweep.cell_key(one, name) == sweep.cell_key(other, name)


def outcomes(claim: Claim, folder: pathlib.Path) -> pd.DataFrame:
    """One row for every row of the ledger that holds and every wrong method that concerns the claim."""
    sound = claim.grid(SCALE)
    grids = {"": sound}
    for name, change in WRONG.items():
        changed = [(labels, change(cell)) for labels, cell in sound]
        if any(not _same(new, old) for (_, new), (_, old) in zip(changed, sound, strict=True)):
            grids[name] = changed
    rows, _ = sweep.sweep([pair for grid in grids.values() for pair in grid], folder, quiet=True)
    judged = {}
    for j, name in enumerate(grids):
        first = j * len(sound)
        part = rows[(rows.cell >= first) & (rows.cell < first + len(sound))]
        part = part.assign(cell=part.cell - first).reset_index(drop=True)
        judged[name] = _judged(claim, part, sound)
    found = []
    for name in list(grids)[1:]:
        for part, right in judged[""].items():
            if right.verdict.startswith("holds"):
                wrong = judged[name].get(part)
                outcome = _outcome(right, wrong) if wrong is not None else "void"
                value = math.nan if wrong is None else wrong.measured
                found.append({"part": part, "wrong": name, "outcome": outcome, "measured": value})
    columns = ["part", "wrong", "outcome", "measured"]
    return pd.DataFrame(found, columns=columns)


def _judged(claim: Claim, rows: pd.DataFrame, cells: Cells) -> dict[str, results.LedgerRow]:
    """The rows of the ledger by part; none if theory refuses what was measured."""
    with warnings.catch_warnings():
        # Wrong runs divide by zero and overflow.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return {r.part: r for r in claim.judge(_stored(claim.measure(rows, cells)))}
        except ValueError as error:
            print(f"{claim.name}: {error}")
            return {}


def _stored(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is read back from its file."""
    import io

    text = io.StringIO()
    table.to_csv(text, index=False)
    text.seek(0)
    return pd.read_csv(text)


def diverged(row: results.LedgerRow) -> bool:
    """Whether a row does not hold because its number is not finite, or huge."""
    sound = math.isfinite(row.measured) and abs(row.measured) <= HUGE
    return row.verdict == "fails as stated" and not sound


def _outcome(right: results.LedgerRow, wrong: results.LedgerRow) -> Outcome:
    if diverged(wrong):
        return "void"
    if not wrong.verdict.startswith("holds"):
        return "turned"
    if math.isclose(wrong.measured, right.measured, rel_tol=1e-6, abs_tol=1e-12):
        return "unchanged"
    return "holds"


def sources(claim: Claim) -> str:
    """Identifies the code of a claim."""
    return identity.summary(claims.sources(claim))[:16]


def renew(names: Iterable[str], table: pathlib.Path = TABLE) -> pd.DataFrame:
    """Runs the wrong methods through these claims; the others keep what the table says of them."""
    kept = storage.read_table(table) if table.exists() else pd.DataFrame(columns=["experiment"])
    kept = kept[kept.experiment.isin(claims.names())]
    for name in names:
        claim = claims.get(name)
        found = outcomes(claim, table.parent / "raw")
        found.insert(0, "experiment", name)
        found = found.assign(sources=sources(claim))
        kept = pd.concat([kept[kept.experiment != name], found]).sort_values("experiment", kind="stable")
        storage.write_table(table, kept)
        told = found.outcome.value_counts().to_dict()
        print(f"{name}: {', '.join(f'{n} {k}' for k, n in told.items()) or 'no wrong method concerns it'}")
    return kept


def also_holds_for(table: pd.DataFrame) -> dict[str, str]:
    """By part, the wrong methods that pass it."""
    passed = table[table.outcome == "holds"]
    return {str(part): "; ".join(some.wrong) for part, some in passed.groupby("part", sort=False)}


def main() -> int:
    sweep.prepare_devices()
    renew(sys.argv[1:] or claims.names())
    return 0


if __name__ == "__main__":
    sys.exit(main())
