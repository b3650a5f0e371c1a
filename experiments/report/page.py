"""Builds the page: reads ledger, figures and prose, and fills the template.

    first screen      verdicts by part of the paper, the story's first figure, failures, findings
    the story         the methods side by side, the other figures of `experiments.story`
    part by part      the theorems, then (folded) lemmas and assumptions: claims with figure, rows and command
    in full           findings, errata, configuration

Figures stay static SVG: an interactive library is a script of megabytes that the page's policy would have
to trust, while the numbers that a pointer would show are rows of the tables beside the figure.
"""

import base64
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import jinja2
import pandas as pd
from markupsafe import Markup

from experiments import claims, judging, results, summary
from experiments.claim import Claim
from experiments.report import drawing
from experiments.report.formulas import formulas
from experiments.report.prose import docstring, number, read, slug
from experiments.story import STORIES
from jaxmaml import plotting, storage, theory

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parents[1]
DOCS = REPOSITORY / "docs"

VERDICTS: tuple[str, ...] = get_args(results.Verdict)
PLACES: tuple[str, ...] = get_args(results.Place)
FAILS: results.Verdict = "fails as stated"
PIXELS = 1.75
"""CSS pixels a point of a figure: its 8 pt letters are as large as the text around them."""
COLUMNS = (
    "claim",
    "part",
    "statement",
    "place",
    "source",
    "measured",
    "low",
    "high",
    "interval",
    "bound",
    "tolerance",
    "slack",
    "verdict",
    "also_holds_for",
    "note",
    "experiment",
)
"""of a row, as it is sought, sorted and downloaded."""
MANIFEST_LABELS = {
    "x64": "64-bit floats",
    "cells": "cells in the sweep",
    "reused": "of them read from disk",
    "programs": "compiled programs",
    "cached": "of them from the cache",
    "compile_s": "seconds to compile",
    "run_s": "seconds to run",
    "cell_steps": "steps, over all cells",
}


@dataclass(frozen=True)
class Picture:
    """A figure in the page."""

    name: str
    title: str
    uri: str
    width: int
    """CSS pixels."""
    height: int
    alt: str
    caption: Markup


@dataclass(frozen=True)
class Experiment:
    """One claim module, as it is shown once in the page."""

    name: str
    title: str
    about: Markup
    picture: Picture
    rows: list[dict[str, Any]]
    configuration: list[tuple[str, str]]
    command: str
    home: str
    """the part of the paper under which statement and figure stand."""


@dataclass(frozen=True)
class Part:
    """A part of the paper: its rows by experiment."""

    place: str
    statement: str
    """that of the theorem, if it is one."""
    panels: list[tuple[Experiment, list[dict[str, Any]]]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for _, rows in self.panels for row in rows]


def write(where: pathlib.Path, scale: str) -> pathlib.Path:
    """Writes where/report/index.html from the ledger, figures and manifest in `where`; returns its path."""
    path = where / "report" / "index.html"
    storage.write(path, render(where, scale).encode())
    return path


def render(where: pathlib.Path, scale: str) -> str:
    """The page as text."""
    ledger = read_ledger(where / "claims.csv")
    manifest = storage.read_json(where / "manifest.json")
    rows = ledger.to_dict("records")
    experiments = {
        str(name): read_experiment(where, str(name), scale, own.to_dict("records"), manifest)
        for name, own in ledger.groupby("experiment", sort=False)
    }
    parts = read_parts(rows, experiments)
    folded, shown = split(parts)
    table = _read_summary(where / "summary.csv")
    script = (HERE / "script.js").read_text()
    findings = [read(path, shift=2) for path in sorted((DOCS / "findings").glob("*.md"))]
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            scale=scale,
            rows=rows,
            experiments=experiments,
            columns=json.dumps(COLUMNS),
            verdicts=count(rows),
            shown=shown,
            folded=folded,
            methods=[plotting.label(name) for name in plotting.ordered(theory.theorems())],
            failures=[row for row in rows if row["verdict"] == FAILS],
            stories=read_stories(where),
            environment=_environment(manifest),
            summary=table,
            product=_row(table, summary.PRODUCT),
            findings=findings,
            errata=[read(path, shift=1) for path in [DOCS / "errata.md"] if path.exists()],
            # Text of this folder, not of the data.
            style=Markup((HERE / "style.css").read_text()),
            script=Markup(script),
            # The one script that a browser runs on this page, whatever else should get into it.
            script_sum=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        )
    )


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "formulas": formulas,
        "number": number,
        "slug": slug,
        "fields": fields,
        "methods": methods,
        "count": count,
    }
    return environment


# What is on disk


def read_ledger(path: pathlib.Path) -> pd.DataFrame:
    """The ledger with an `id` for every row: its claim and its place among the claim's rows."""
    ledger = results.read_ledger(path)
    unknown = set(ledger["verdict"]) - set(VERDICTS)
    if unknown:
        raise ValueError(f"{path}: unknown verdict {min(unknown)!r}; known: {', '.join(VERDICTS)}")
    count = ledger.groupby("claim").cumcount() + 1
    return ledger.assign(id=ledger["claim"] + "-" + count.astype(str))


def read_experiment(
    where: pathlib.Path, name: str, scale: str, rows: list[dict[str, Any]], manifest: Mapping[str, Any]
) -> Experiment:
    """The claim's statement, figure and rows; its figure must have been drawn."""
    claim = claims.get(name)
    picture = where / "figures" / f"{name}.svg"
    if not picture.exists():
        raise FileNotFoundError(
            f"{picture} is missing; make it with: make plots SCALE={scale} EXPERIMENT={name}"
        )
    verdicts = "; ".join(f"{verdict}: {n}" for verdict, n in count(rows).items() if n)
    alt = f"{claim.title.replace('$', '')}. Its numbers are rows of the table ({verdicts})."
    places = [row["place"] for row in rows]
    return Experiment(
        name=name,
        title=claim.title,
        about=docstring(claim.about, f"docstring of {claim.module}"),
        picture=read_picture(picture, claim.title, alt, claim.caption),
        rows=rows,
        configuration=_labelled(manifest["claims"].get(name, {})),
        command=f"make run-sweep plots report EXPERIMENT={name} SCALE={scale}",
        home=_home(claim, places),
    )


def _home(claim: Claim, places: Sequence[str]) -> str:
    return claim.place if claim.place in places else places[0]


def read_picture(path: pathlib.Path, title: str, alt: str, caption: str) -> Picture:
    svg = storage.read(path)
    width, height = (round(points * PIXELS) for points in drawing.size(svg))
    text = formulas(caption, f"caption of {path.stem}")
    return Picture(path.stem, title, drawing.data_uri(svg), width, height, alt, text)


def read_stories(where: pathlib.Path) -> list[Picture]:
    """The figures of the story that have been drawn, in its order."""
    drawn = [(where / "figures" / f"{story.file}.svg", story) for story in STORIES.values()]
    return [
        read_picture(path, story.title, story.title.replace("$", ""), story.caption)
        for path, story in drawn
        if path.exists()
    ]


def _environment(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    rest = {k: v for k, v in manifest.items() if k not in ("versions", "claims")}
    return [*_labelled(rest), ("versions", versions)]


def _labelled(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(MANIFEST_LABELS.get(key, key), _plain(value)) for key, value in values.items()]


def _plain(value: object) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _read_summary(path: pathlib.Path) -> pd.DataFrame | None:
    return storage.read_table(path, dtype=str, keep_default_na=False) if path.exists() else None


def _row(table: pd.DataFrame | None, quantity: str) -> dict[str, str]:
    """A row of the summary by method; empty where there is none."""
    rows = [] if table is None else table.to_dict("records")
    found = [row for row in rows if row.get("quantity") == quantity]
    return {str(name): str(text) for row in found for name, text in row.items() if name != "quantity"}


# Rows


def count(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows have each verdict, in the order of the verdicts."""
    found = [row["verdict"] for row in rows]
    return {verdict: found.count(verdict) for verdict in VERDICTS}


def read_parts(rows: Sequence[dict[str, Any]], experiments: Mapping[str, Experiment]) -> list[Part]:
    """The parts of the paper that rows are about, in its order, with their experiments."""
    statements = {judging.place_of(name): found.statement for name, found in theory.theorems().items()}
    places = dict.fromkeys([*PLACES, *(row["place"] for row in rows)])
    parts = []
    for place in places:
        own = [row for row in rows if row["place"] == place]
        grouped = itertools.groupby(own, key=lambda row: row["experiment"])
        named: dict[str, list[dict[str, Any]]] = {}
        for name, some in grouped:
            named.setdefault(name, []).extend(some)
        if own:
            panels = [(experiments[name], some) for name, some in named.items()]
            parts.append(Part(place, statements.get(place, ""), panels))
    return parts


def split(parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """What leads to the theorems, and the theorems with what follows from them."""
    before = PLACES[: min(PLACES.index(place) for place in judging.THEOREMS.values())]
    return [p for p in parts if p.place in before], [p for p in parts if p.place not in before]


def methods(row: Mapping[str, Any]) -> list[str]:
    """The methods that a row is about: those its part names, else that of its theorem."""
    known = {name: plotting.label(name) for name in plotting.ordered(theory.theorems())}
    named = [label for label in known.values() if re.search(rf"(?<![\w-]){label}(?![\w-])", row["part"])]
    return named or [label for name, label in known.items() if judging.place_of(name) == row["place"]]


def fields(row: Mapping[str, Any]) -> str:
    """The row's COLUMNS, a tab between two; numbers in full, empty where there is none."""
    return "\t".join(_field(row[name]) for name in COLUMNS)


def _field(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.12g}"
    return " ".join(str(value).split())
