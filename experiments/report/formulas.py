r"""Formulas as MathML, which browsers draw without a script.

    mathml(r"\alpha L\le1", where)          one formula
    formulas(r"for $\alpha L\le1$", where)   text with formulas between dollars

Of a formula only elements and attributes of MathML pass (`ELEMENTS`, `ATTRIBUTES`): no link, style or script.
What cannot be converted whole is a ValueError that names the text and the place, `where`.
"""

import re
import unicodedata
from xml.etree import ElementTree

import latex2mathml.converter
from markupsafe import Markup, escape

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
PRIMES = ("′", "″", "‴")
STOPS = re.compile(r"[.,;:?)\]-]*")
SHORT = 7
"""symbols that stay in one line."""
STUMP = 3
"""symbols before a cut, at least."""
CUTS, OPENING, CLOSING = frozenset("=≤≥<>→∈∼+−"), frozenset("([{"), frozenset(")]}")


def formulas(text: str, where: str) -> Markup:
    """Plain text with its formulas between dollars as MathML; `where` names the text in an error."""
    parts = str(text).split("$")
    if len(parts) % 2 == 0:
        raise ValueError(f"{where}: unbalanced $ in {text!r}; allowed: formulas between two $")
    html = escape(parts[0])
    for tex, after in zip(parts[1::2], parts[2::2], strict=True):
        formula, rest = inline(tex, after, where)
        html += formula + escape(rest)
    return html


def inline(tex: str, after: str, where: str) -> tuple[Markup, str]:
    """A formula with what no line begins with, such as its full stop; and the rest of the text after it."""
    stop = re.match(STOPS, after)[0]  # type: ignore[index]
    head, cut, last = mathml(tex, where).rpartition("<wbr>")
    whole = Markup('<span class="whole">{}{}</span>').format(last, stop) if stop else last
    return head + cut + whole, after[len(stop) :]


def mathml(tex: str, where: str, display: str = "inline") -> Markup:
    """A formula as MathML; ValueError, with `where` and the formula, if it cannot be converted whole."""
    # These two forms lose their alphabet in the conversion unless written so.
    source = re.sub(r"\\(math[a-z]+) +([A-Za-z])", r"\\\1{\2}", tex)
    source = re.sub(r"\\mathrm\{([A-Za-z])\}", r"\\text{\1}", source)
    # f_i'' is f''_i, which the converter takes for one prime after another.
    source = re.sub(r"(_(?:\w|\{[^{}]*\}))('+)", r"\2\1", source)
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
    pieces = [tree] if display == "block" else _pieces(tree)
    return Markup("<wbr>").join(Markup(ElementTree.tostring(piece, encoding="unicode")) for piece in pieces)


def _pieces(tree: ElementTree.Element) -> list[ElementTree.Element]:
    """A long formula in a line of text, cut where TeX would: before relations, sums, outside brackets."""
    tree.attrib.pop("display", None)
    row = tree[0] if len(tree) == 1 and tree[0].tag == "mrow" else tree
    if len(row) <= SHORT:
        return [tree]
    runs: list[list[ElementTree.Element]] = [[]]
    depth, bars = 0, 0
    for node in row:
        text = node.text if node.tag == "mo" else None
        depth += (text in OPENING) - (text in CLOSING)
        bars += text in ("‖", "|")
        outside = depth == 0 and bars % 2 == 0
        long = sum(len(list(before.itertext())) for before in runs[-1]) >= STUMP
        if text in CUTS and node.get("form") != "prefix" and outside and long:
            node.set("form", "infix")
            runs.append([])
        runs[-1].append(node)
    pieces = []
    for run in runs:
        piece = ElementTree.Element("math")
        piece.extend(run)
        pieces.append(piece)
    return pieces


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
            elif node.tag == "msup" and node[1].text in PRIMES:
                # A prime is raised by its own shape.
                node.tag, node[1].tag = "mrow", "mo"
            elif node.tag == "msubsup" and node[2].text in PRIMES:
                base, below, prime = node
                prime.tag, primed = "mo", ElementTree.Element("mrow")
                primed[:] = [base, prime]
                node.tag, node[:] = "msub", [primed, below]
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
