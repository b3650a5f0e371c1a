"""Builds the page: reads ledger, figures and prose, turns formulas into MathML, fills the template."""

import base64
import hashlib
import inspect
import math
import pathlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args
from xml.etree import ElementTree

import jinja2
import latex2mathml.converter
import pandas as pd
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from mdit_py_plugins.dollarmath import dollarmath_plugin

from experiments import claims, results
from jaxmaml import storage

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parents[1]
DOCS = REPOSITORY / "docs"

VERDICTS: tuple[str, ...] = get_args(results.Verdict)
PLACES: tuple[str, ...] = get_args(results.Place)
PIXELS = 1.75
"""CSS pixels a point of a figure: its 8 pt letters are as large as the text around them."""
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
class Experiment:
    """One claim module, as its section shows it and as the rows of the ledger refer to it."""

    name: str
    title: str
    about: Markup
    figure: str
    """data URI."""
    width: int | None
    """of the figure in CSS pixels; None for what fits."""
    alt: str
    rows: list[dict[str, Any]]
    configuration: list[tuple[str, str]]
    command: str


def write(where: pathlib.Path, scale: str) -> pathlib.Path:
    """Writes where/report/index.html from the ledger, figures and manifest in `where`; returns its path."""
    path = where / "report" / "index.html"
    storage.write(path, render(where, scale).encode())
    return path


def render(where: pathlib.Path, scale: str) -> str:
    """The page as text."""
    ledger = read_ledger(where / "claims.csv")
    manifest = storage.read_json(where / "manifest.json")
    experiments = {
        str(name): read_experiment(where, str(name), scale, rows.to_dict("records"), manifest)
        for name, rows in ledger.groupby("experiment", sort=False)
    }
    places = [p for p in PLACES if p in set(ledger["place"])]
    places += [p for p in dict.fromkeys(ledger["place"]) if p not in PLACES]
    template = _templates().get_template("page.html.j2")
    script = (HERE / "script.js").read_text()
    return template.render(
        scale=scale,
        rows=ledger.to_dict("records"),
        experiments=experiments,
        verdicts={v: int((ledger["verdict"] == v).sum()) for v in VERDICTS},
        places={p: int((ledger["place"] == p).sum()) for p in places},
        environment=_environment(manifest),
        summary=_read_summary(where / "summary.csv"),
        findings=[prose(path, shift=2) for path in sorted((DOCS / "findings").glob("*.md"))],
        errata=[prose(path, shift=1) for path in [DOCS / "errata.md"] if path.exists()],
        # Text of this folder, not of the data.
        style=Markup((HERE / "style.css").read_text()),
        script=Markup(script),
        # The one script that a browser runs on this page, whatever else should get into it.
        script_sum=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"formulas": formulas, "number": number, "slug": slug}
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
    """The section of a claim; its figure must have been drawn."""
    claim = claims.get(name)
    picture = where / "figures" / f"{name}.svg"
    if not picture.exists():
        raise FileNotFoundError(
            f"{picture} is missing; make it with: make plots SCALE={scale} EXPERIMENT={name}"
        )
    drawing = storage.read(picture)
    points = re.search(rb'<svg[^>]*\swidth="([\d.]+)pt"', drawing)
    count = {v: sum(row["verdict"] == v for row in rows) for v in VERDICTS}
    verdicts = "; ".join(f"{v}: {n}" for v, n in count.items() if n)
    return Experiment(
        name=name,
        title=claim.title,
        about=docstring(claim.about, f"docstring of {claim.module}"),
        figure=f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}",
        width=round(float(points[1]) * PIXELS) if points else None,
        alt=f"Figure: {claim.title.replace('$', '')}. Its numbers are rows of the ledger ({verdicts}).",
        rows=rows,
        configuration=_fields(manifest["claims"].get(name, {})),
        command=f"make run-sweep plots report EXPERIMENT={name} SCALE={scale}",
    )


def _environment(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    rest = {k: v for k, v in manifest.items() if k not in ("versions", "claims")}
    return [("versions", versions), *_fields(rest)]


def _fields(values: Mapping[str, Any]) -> list[tuple[str, str]]:
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


# Text


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def number(value: float) -> Markup:
    """Four digits, powers of ten as such."""
    if math.isnan(value):
        return Markup('<abbr title="not measured">–</abbr>')
    if math.isinf(value):
        return Markup("∞" if value > 0 else "−∞")
    digits, _, power = f"{value:.4g}".partition("e")
    digits = digits.replace("-", "−")
    if not power:
        return Markup(digits)
    exponent = str(int(power)).replace("-", "−")
    return Markup(f"{'' if digits == '1' else digits + ' × '}10<sup>{exponent}</sup>")


def formulas(text: str, where: str) -> Markup:
    """Plain text with its formulas between dollars as MathML; `where` names the text in an error."""
    parts = str(text).split("$")
    if len(parts) % 2 == 0:
        raise ValueError(f"{where}: unbalanced $ in {text!r}; allowed: formulas between two $")
    return Markup("").join(mathml(p, where) if i % 2 else escape(p) for i, p in enumerate(parts))


def docstring(text: str, where: str) -> Markup:
    """Paragraphs and `*` lists of a docstring; anything else that is indented keeps its layout."""
    html = Markup("")
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if not block.startswith(" "):
            html += Markup("<p>{}</p>\n").format(formulas(block, where))
        elif block.lstrip().startswith("* "):
            items = re.split(r"^\s*\* ", block, flags=re.MULTILINE)[1:]
            rows = [Markup("<li>{}</li>").format(formulas(item.strip(), where)) for item in items]
            html += Markup("<ul>{}</ul>\n").format(Markup("").join(rows))
        else:
            html += Markup('<pre tabindex="0">{}</pre>\n').format(formulas(block, where))
    return html


def prose(path: pathlib.Path, shift: int) -> Markup:
    """A Markdown file with its headings `shift` levels down, without images and links to files."""
    where = f"{path.parent.name}/{path.name}"
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    def render_math(tex: str, options: Mapping[str, Any]) -> str:
        return mathml(tex, where, "block" if options["display_mode"] else "inline")

    dollarmath_plugin(markdown, renderer=render_math, double_inline=True)
    markdown.add_render_rule(
        "table_open",
        lambda *_: '<div class="scroll" tabindex="0" role="region" aria-label="table">\n<table>\n',
    )
    markdown.add_render_rule("table_close", lambda *_: "</table>\n</div>\n")
    tokens = markdown.parse(path.read_text())
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{min(int(token.tag[1]) + shift, 6)}"
        if token.children:
            token.children = _alone(token.children, where)
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


def _alone(children: list[Token], where: str) -> list[Token]:
    """Drops what points out of the page, except links to the web."""
    kept: list[Token] = []
    links: list[bool] = []
    for token in children:
        if token.type == "text" and "$" in token.content:
            raise ValueError(f"{where}: unbalanced $ in {token.content!r}; allowed: formulas between two $")
        if token.type == "link_open":
            links.append(str(token.attrs.get("href", "")).startswith(("http://", "https://")))
            keep = links[-1]
        elif token.type == "link_close":
            keep = links.pop()
        else:
            keep = token.type != "image"
        if keep:
            kept.append(token)
    return kept


# Formulas

ELEMENTS = frozenset(
    (
        "math",
        "mrow",
        "mi",
        "mn",
        "mo",
        "mtext",
        "mspace",
        "mfrac",
        "msqrt",
        "mroot",
        "mstyle",
        "msub",
        "msup",
        "msubsup",
        "munder",
        "mover",
        "munderover",
        "mtable",
        "mtr",
        "mtd",
        "mpadded",
        "mphantom",
        "menclose",
    )
)
ATTRIBUTES = frozenset(
    (
        "display",
        "displaystyle",
        "scriptlevel",
        "mathvariant",
        "mathcolor",
        "mathsize",
        "stretchy",
        "fence",
        "separator",
        "form",
        "lspace",
        "rspace",
        "minsize",
        "maxsize",
        "movablelimits",
        "accent",
        "accentunder",
        "width",
        "height",
        "depth",
        "voffset",
        "linethickness",
        "columnalign",
        "rowalign",
        "columnspacing",
        "rowspacing",
        "columnlines",
        "rowlines",
        "notation",
        "symmetric",
        "largeop",
    )
)
"""What a formula consists of: no links, styles, or elements of a page."""
TYPED = {"\\{": "{", "\\}": "}", "\\|": "‖", "~": "∼"}
"""What the converter leaves as it was typed (fences behind a size), or writes as on a keyboard."""
ACCENTS = {"^": "ˆ", "∼": "~"}


def mathml(tex: str, where: str, display: str = "inline") -> Markup:
    """A formula as MathML; ValueError, with `where` and the formula, if it cannot be converted whole."""
    # These two forms lose their alphabet in the conversion unless written so.
    source = re.sub(r"\\(math[a-z]+) +([A-Za-z])", r"\\\1{\2}", tex)
    source = re.sub(r"\\mathrm\{([A-Za-z])\}", r"\\text{\1}", source)
    # The converter copies such text as it is.
    source = re.sub(r"\\(?:text[a-z]*|mbox|hbox)\s*\{[^{}]*\}", lambda m: escape(m[0]), source)
    try:
        _check_braces(source)
        text = latex2mathml.converter.convert(source, display=display)
        tree = ElementTree.fromstring(re.sub(r' xmlns="[^"]*"', "", text))
        _check_elements(tree)
        _polish(tree)
    except Exception as error:  # The converter's errors share no base class.
        reason = str(error) or type(error).__name__
        raise ValueError(f"{where}: cannot convert the formula ${tex}$ ({reason})") from error
    return Markup(ElementTree.tostring(tree, encoding="unicode"))


def _check_elements(tree: ElementTree.Element) -> None:
    for node in tree.iter():
        for name in ({node.tag} - ELEMENTS) | (set(node.attrib) - ATTRIBUTES):
            raise ValueError(f"{name} is no part of a formula; allowed: MathML without links and styles")


def _check_braces(tex: str) -> None:
    depth = 0
    for brace in re.findall(r"[{}]", re.sub(r"\\.", "", tex)):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            break
    if depth:
        raise ValueError("unbalanced braces")


def _polish(tree: ElementTree.Element) -> None:
    """Mends what the converter leaves unknown, and what browsers would space or draw unlike TeX."""
    for parent in list(tree.iter()):
        before: ElementTree.Element | None = None
        for node in parent:
            text = node.text = TYPED.get(node.text or "", node.text)
            if "\\" in (text or ""):
                raise ValueError(f"unknown command {text}")
            if node.get("mathvariant", "normal") != "normal":
                raise ValueError(f"unknown alphabet {node.get('mathvariant')}")
            if node.tag == "mi":
                _polish_identifier(node, before)
            elif node.tag == "mo":
                _polish_operator(node, before)
            elif node.tag == "msup" and node[1].text in ("′", "″", "‴"):
                # A prime is raised by its own shape.
                node.tag, node[1].tag = "mrow", "mo"
            before = node
        if len(parent) > 1 and all(n.tag == "mi" and n.get("mathvariant") for n in parent):
            # An upright word, so far a letter each.
            word = "".join(n.text or "" for n in parent)
            parent[:] = [ElementTree.Element("mi")]
            parent[0].text = word
        if parent.tag == "mover" and parent[-1].text in ACCENTS:
            parent.attrib.pop("accent", None)
            parent[-1].set("stretchy", "false")
            parent[-1].text = ACCENTS[parent[-1].text or ""]


def _polish_identifier(node: ElementTree.Element, before: ElementTree.Element | None) -> None:
    text = node.text or ""
    if len(text) > 1 and text.isalpha():
        node.tag = "mo"
        _polish_operator(node, before)
    elif "Α" <= text <= "Ω":
        node.set("mathvariant", "normal")
    elif len(text) == 1 and unicodedata.category(text) == "Sm" and text != "∞":
        node.tag = "mo"


def _polish_operator(node: ElementTree.Element, before: ElementTree.Element | None) -> None:
    text = node.text or ""
    after_operator = before is not None and before.tag == "mo" and before.text not in tuple(")]}|‖!∇")
    if text == "∞":
        node.tag = "mi"
    elif len(text) > 1 and text.isalpha():
        thin = "0.167em"
        node.attrib |= {"lspace": "0" if before is None or before.tag == "mo" else thin, "rspace": thin}
    elif text in ("/", "|", "‖") and "form" not in node.attrib:
        node.attrib |= {"lspace": "0", "rspace": "0", "stretchy": "false"}
    elif text in ("−", "+") and after_operator:
        node.set("form", "prefix")
