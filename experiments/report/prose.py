"""Text for the page: Markdown and docstrings with formulas, numbers, and names for links."""

import inspect
import itertools
import math
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from mdit_py_plugins.dollarmath import dollarmath_plugin

from experiments.report.formulas import formulas, inline, mathml

SENTENCE = re.compile(r"(?:(?<=[\w)\]])|^)[.!?](?=\s+[A-Z]|\s*$)")
"""where a sentence ends, in the text between two formulas."""


@dataclass(frozen=True)
class Page:
    """A Markdown file: its first heading, the first sentence below, and all but the heading."""

    name: str
    title: Markup
    sentence: Markup
    body: Markup


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


# Markdown


def prose(path: pathlib.Path, shift: int) -> Markup:
    """A Markdown file with its headings `shift` levels down, without images and links to files."""
    markdown, tokens = _parsed(path, shift)
    return _rendered(markdown, tokens, _where(path))


def read(path: pathlib.Path, shift: int) -> Page:
    """The same file in parts; ValueError if it does not begin with a heading and a paragraph."""
    markdown, tokens = _parsed(path, shift)
    kinds = [token.type for token in tokens]
    if kinds[:1] != ["heading_open"] or "paragraph_open" not in kinds:
        raise ValueError(f"{path.name}: begins with {kinds[:1]}; allowed: a heading, then a paragraph")
    where = _where(path)
    first = _opening(tokens[kinds.index("paragraph_open") :])
    return Page(
        name=path.stem,
        title=_rendered(markdown, [tokens[1]], where),
        sentence=_rendered(markdown, [_inline(_sentence(first))], where).strip(),
        body=_rendered(markdown, tokens[kinds.index("heading_close") + 1 :], where),
    )


def _where(path: pathlib.Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _parsed(path: pathlib.Path, shift: int) -> tuple[MarkdownIt, list[Token]]:
    where = _where(path)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    dollarmath_plugin(markdown, renderer=lambda tex, _: mathml(tex, where, "block"), double_inline=True)
    count = itertools.count(1)

    def open_table(*_: Any) -> str:
        name = f"{path.stem} {next(count)}"
        scroll = f'<div class="scroll" tabindex="0" role="group" aria-label="table, {name}">'
        return f'{scroll}\n<table data-name="{name}">\n'

    markdown.add_render_rule("table_open", open_table)
    markdown.add_render_rule("table_close", lambda *_: "</table>\n</div>\n")
    tokens = markdown.parse(path.read_text())
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type.startswith("heading"):
            token.tag = f"h{min(int(token.tag[1]) + shift, 6)}"
        if token.type in ("th_open", "td_open") and following is not None and "$" in following.content:
            token.attrs["data-value"] = following.content
        if token.children:
            token.children = _alone(token.children, where)
    return markdown, tokens


def _rendered(markdown: MarkdownIt, tokens: Sequence[Token], where: str) -> Markup:
    drawn = [t.copy(children=_drawn(t.children, where)) if t.children else t for t in tokens]
    return Markup(markdown.renderer.render(drawn, markdown.options, {}))


def _drawn(children: Sequence[Token], where: str) -> list[Token]:
    """Formulas of a line as MathML, each with the full stop that follows it."""
    tokens = [*children, Token("text", "", 0)]
    for i, token in enumerate(tokens):
        if token.type == "math_inline":
            after = tokens[i + 1]
            formula, rest = inline(token.content, after.content if after.type == "text" else "", where)
            tokens[i] = Token("html_inline", "", 0, content=formula)
            if after.type == "text":
                tokens[i + 1] = after.copy(content=rest)
    return tokens


def _inline(children: list[Token]) -> Token:
    return Token("inline", "", 0, children=children)


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
        if token.type == "math_inline" and token.content.endswith("."):
            break
    return kept


def _opening(tokens: Sequence[Token]) -> list[Token]:
    """The text of the first paragraph, which goes on after a formula of its own lines."""
    text: list[Token] = []
    last = ""
    for token in tokens:
        if token.type == "inline":
            text += [*(token.children or []), Token("softbreak", "br", 0)]
        elif token.type == "math_block":
            text += [Token("math_inline", "", 0, content=token.content.strip()), Token("softbreak", "br", 0)]
        elif token.type not in ("paragraph_open", "paragraph_close") or last == "paragraph_close":
            break
        last = token.type
    return text


def _sentence(children: Sequence[Token]) -> list[Token]:
    """The first sentence of a paragraph, without links, and without a label such as **Claim.** before it."""
    children = [token for token in children if not token.type.startswith("link_")]
    if children and children[0].type == "text" and not children[0].content:
        children = children[1:]
    if children and children[0].type == "strong_open":
        end = next(i for i, token in enumerate(children) if token.type == "strong_close")
        if children[end - 1].content.endswith((".", ":")):
            children = children[end + 1 :]
    kept: list[Token] = []
    nested = 0
    for token in children:
        nested += token.nesting
        end_of = SENTENCE.search(token.content) if token.type == "text" and not nested else None
        if end_of:
            return [*kept, Token("text", "", 0, content=token.content[: end_of.end()])]
        kept.append(token)
        if token.type == "math_inline" and token.content.endswith("."):
            break
    return kept
