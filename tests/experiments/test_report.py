"""The page of the report: complete, self-contained, and usable in a browser, by keyboard and on a phone."""

import base64
import hashlib
import re
import shutil
import urllib.parse
from html.parser import HTMLParser
from types import SimpleNamespace

import pandas as pd
import pytest

from experiments import claims, summary
from experiments.report import drawing, formulas, page, prose
from jaxmaml import storage

FO, STEP = "fo_floor", "step_moments"
NAN = float("nan")
TEXTS = ("claim", "part", "statement", "place", "source", "experiment")
NUMBERS = ("measured", "low", "high", "bound", "slack")
MORE = {"tolerance": float("nan"), "interval": "exact", "companion": "", "also_holds_for": ""}
COLUMNS = (*TEXTS, *NUMBERS, "verdict", "note")
WIDE = r"$\lVert\nabla F\rVert\le\frac12(" + "+".join([r"\frac{\alpha\tilde L(w)}{1-\hat F}"] * 12) + ")$"


def row(claim, part, statement, place, source, experiment, numbers, verdict, note=""):
    return (claim, part, statement, place, source, experiment, *numbers, verdict, note)


RISKY = '=HYPERLINK("http://example.org")'
SUMMARISED, STEP_LEMMA, FO_THEOREM = "as summarised", "step-size lemma", "FO-MAML theorem"
FIRST = r"$\mathbb E[1/\tilde L]\ge\frac45$"
FIRST_NUMBERS = (0.9931, 0.9919, 0.9942, 1.25, 1.257)
COV = r"$\alpha\lVert\operatorname{Cov}_i(H_i,g_i)\rVert$"
COV_NUMBERS = (5.4e-12, 5.4e-12, 5.4e-12, 1e-6, 1.84e5)
SLOPE = r"floor $=\mathcal O(\alpha)$"
SLOPE_NUMBERS = (1.0, 0.9, 1.1, 1.0, float("inf"))
SPREAD_NUMBERS = (2.0, 2.0, 2.0, 1.0, 0.5)
ROWS = [
    row(
        "E05", "first moment", FIRST, STEP_LEMMA, SUMMARISED, STEP, FIRST_NUMBERS, "holds, not sharp", "$<2$"
    ),
    row(
        "E05", "closed form", WIDE, STEP_LEMMA, "derived", STEP, (1.93, 1.93, 1.93, 5.0, 2.59), "holds", RISKY
    ),
    row(
        "E14",
        'floor <script>alert(1)</script>"><img src=x onerror=alert(1)>',
        COV,
        FO_THEOREM,
        SUMMARISED,
        FO,
        COV_NUMBERS,
        "holds",
    ),
    row(
        "E15",
        "slope in alpha, of MAML",
        SLOPE,
        FO_THEOREM,
        SUMMARISED,
        FO,
        SLOPE_NUMBERS,
        "holds",
        "two slopes of FO-MAML and MAML",
    ),
    row("E16", "in the spread", "a & <b>", FO_THEOREM, SUMMARISED, FO, SPREAD_NUMBERS, "fails as stated"),
    row(
        "E17", "at scale", r"cost $\mathcal{O}(d)$", "costs", SUMMARISED, FO, [NAN] * 5, "not tested", "slow"
    ),
]
FINDING = r"""# A finding, with $\alpha L=1$

**Claim.** It has one sentence [here](../theory.md), about $x<y$. And another:
it has a [link](../theory.md), a [paper](https://arxiv.org/abs/1908.10400), ![a picture](../picture.png)
and $x<y$.

$$\sum_{k<K}\lVert\nabla F(w_k)\rVert^2$$

| a | b | $c$ |
|---|---|---|
| $\beta_k$ | 2 | -1 |
| @a | 10 | +x |
"""
SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
 width="600pt" height="200pt" viewBox="0 0 600 200"><metadata>made by NAME</metadata>
<defs><path id="m1" d="M 0 0.123456
L 1 1 L 2 1 z"/></defs><g id="figure_1"><g id="axes_1"><rect width="600" height="200" style="fill: #ffffff"/>
<use xlink:href="#m1" x="10.123456" y="20" style="stroke: #abc"/>
<use xlink:href="#m1" x="11.123456" y="-0.01" style="stroke: #abc"/></g></g>
<g transform="translate(1.2345 2) scale(0.015625)"><text y="50">NAME</text></g></svg>"""
STORIES = {
    name: SimpleNamespace(file=f"story_{name}", title=f"the {name} of $F$", caption=r"What $\nabla F$ does.")
    for name in ("methods", "floors", "costs")
}
"""the last is not drawn"""


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A results folder with six rows, two figures, two of the story and a summary."""
    folder = tmp_path_factory.mktemp("results")
    storage.write_table(folder / "claims.csv", pd.DataFrame(ROWS, columns=COLUMNS).assign(**MORE))
    for name in (FO, STEP, "story_methods", "story_floors"):
        storage.write(folder / "figures" / f"{name}.svg", SVG.replace("NAME", name).encode())
    timing = {
        "cells": 60,
        "reused": 0,
        "programs": 8,
        "compile_s": 7.05,
        "run_s": 0.43,
        "cell_steps": 2400000,
    }
    manifest = {"scale": "smoke", "versions": {"python": "3.11.7", "jax": "0.10.2"}, "device": "2 x cpu"}
    storage.write_json(folder / "manifest.json", {**manifest, "x64": True, "claims": {FO: timing}})
    table = {
        "quantity": ["floor, $B=\\infty$", summary.PRODUCT],
        "MAML": ["0", "1.5"],
        "FO-MAML": [r"$\alpha L\sigma$", "none"],
    }
    storage.write_table(folder / "summary.csv", pd.DataFrame(table))
    return folder


@pytest.fixture(scope="module")
def written(where, tmp_path_factory):
    """The page's path."""
    docs = tmp_path_factory.mktemp("docs")
    (docs / "findings").mkdir()
    (docs / "findings" / "one.md").write_text(FINDING)
    (docs / "errata.md").write_text("# Errata\n\nOne sign, in $-\\alpha H_i$.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "DOCS", docs)
        patch.setattr(page, "STORIES", STORIES)
        return page.write(where, "smoke")


@pytest.fixture(scope="module")
def html(written):
    return written.read_text()


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


# The text of the page


def test_every_row_is_in_the_page(where, html):
    found = [a for a in Elements(html).all("tr") if a.get("class") == "row"]
    assert sorted(a["id"] for a in found) == ["E05-1", "E05-2", "E14-1", "E15-1", "E16-1", "E17-1"]
    rows = {a["id"]: dict(zip(page.COLUMNS, a["data-row"].split("\t"), strict=True)) for a in found}
    ledger = page.read_ledger(where / "claims.csv").set_index("id")
    for name, own in rows.items():
        assert own["verdict"] == ledger.verdict[name]
        assert own["statement"] == ledger.statement[name]
        assert own["measured"] == ("" if name == "E17-1" else f"{ledger.measured[name]:.12g}")
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "a &amp; &lt;b&gt;" in html
    assert "10<sup>−6</sup>" in html
    for name in (FO, STEP):
        assert f"make run-sweep plots report EXPERIMENT={name} SCALE=smoke" in html
        assert page.Markup.escape(claims.get(name).title) in html
    assert "2\u202f400\u202f000" in html


def test_first_screen_is_counted_and_taken_from_what_is_there(html):
    first = html[html.index("<main>") : html.index('<section id="claims"')]
    order = ["6 claims, 2 experiments", 'data-name="story_methods"', "A finding, with", 'href="#E16-1"']
    assert [first.index(text) for text in order] == sorted(first.index(text) for text in order)
    assert "<strong>3</strong> holds" in first
    assert "<strong>1</strong> fails as stated" in first
    assert re.search(r"measured\s*<strong>2</strong>, bound <strong>1</strong>", first)
    assert re.search(r'in gradients:\s*<a href="#summary">MAML</a> 1.5\s', first)
    assert "<p>It has one sentence here, about <span" in first
    assert "And another" not in first
    assert "story_costs" not in html
    assert "blog summary" in html[: html.index("<main>")]
    assert "none is the paper" in html


def test_parts_stand_in_the_order_of_the_paper_lemmas_folded(html):
    elements = Elements(html).found
    parts = [(tag, a["id"]) for tag, a in elements if a.get("class") == "part"]
    assert parts == [
        ("section", "part-fo-maml-theorem"),
        ("section", "part-costs"),
        ("details", "part-step-size-lemma"),
    ]
    panels = [a["id"] for tag, a in elements if a.get("class") == "panel"]
    assert panels == [f"experiment-{FO}", f"experiment-{FO}-costs", f"experiment-{STEP}"]
    assert all("open" not in a for tag, a in elements if tag == "details")
    assert "FO-MAML finds" in html


@pytest.mark.parametrize(
    ("part", "place", "expected"),
    [
        ("FO-MAML's floor", "MAML theorem", ["FO-MAML"]),
        ("MAML against HF-MAML", "costs", ["MAML", "HF-MAML"]),
        ("slope in alpha", "HF-MAML theorem", ["HF-MAML"]),
        ("first moment", "step-size lemma", []),
    ],
)
def test_methods_of_a_row(part, place, expected):
    assert page.methods({"part": part, "place": place}) == expected


def test_ids_are_unique_and_links_lead_to_them(html):
    elements = Elements(html)
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    for link in elements.all("a"):
        if link["href"].startswith("#verdict="):
            continue  # a view, which the script shows
        assert link["href"].startswith("https://arxiv.org/") or link["href"][1:] in ids


def test_no_formula_is_left_as_text(html):
    body = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    body = re.sub(r' data-(row|value)="[^"]*"', "", body)
    assert body.count("<math") >= 10
    assert "$" not in body
    assert "\\" not in body
    assert "merror" not in body


def test_nothing_is_loaded(html):
    for tag, attributes in Elements(html).found:
        assert attributes.get("src", "data:").startswith("data:")
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "srcset" not in attributes
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_each_figure_is_embedded_once(html):
    images = Elements(html).all("img")
    assert [a["data-name"] for a in images] == ["story_methods", "story_floors", FO, STEP]
    assert html.count("data:image/svg+xml") == 4
    for attributes in images[2:]:
        assert claims.get(attributes["data-name"]).title in attributes["alt"]


def test_prose_keeps_only_links_to_the_web(html):
    assert re.search("<summary><h3>A finding, with <", html)
    assert "it has a link, a" in html
    assert '<a href="https://arxiv.org/abs/1908.10400">paper</a>' in html
    assert "picture.png" not in html
    assert '<h2 id="errata-title">Errata</h2>' in html


def test_page_without_optional_parts(where, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOCS", tmp_path)
    monkeypatch.setattr(page, "STORIES", {})
    folder = shutil.copytree(where, tmp_path / "results")
    (folder / "summary.csv").unlink()
    text = page.render(folder, "smoke")
    for part in ("summary", "findings", "errata"):
        assert f'id="{part}"' not in text
        assert f'href="#{part}"' not in text
    assert 'class="hero"' not in text


def test_missing_figure_says_how_to_make_it(where, tmp_path):
    folder = shutil.copytree(where, tmp_path / "results")
    (folder / "figures" / f"{FO}.svg").unlink()
    with pytest.raises(FileNotFoundError, match=f"make plots SCALE=smoke EXPERIMENT={FO}"):
        page.render(folder, "smoke")


def test_unknown_verdict(where, tmp_path):
    folder = shutil.copytree(where, tmp_path / "results")
    path = folder / "claims.csv"
    storage.write(path, path.read_bytes().replace(b"fails as stated", b"fails"))
    with pytest.raises(ValueError, match="unknown verdict 'fails'; known: holds, "):
        page.render(folder, "smoke")


def test_verdicts_have_a_style_each():
    style = (page.HERE / "style.css").read_text()
    for verdict in page.VERDICTS:
        assert f".verdict.{prose.slug(verdict)} {{ color: var(--{prose.slug(verdict)}); }}" in style
        assert f".bar > .{prose.slug(verdict)} {{" in style


def test_caption_of_a_claim_is_the_docstring_of_its_drawing():
    from experiments.claim import Claim

    claim = Claim("E99", "a claim")

    @claim.figure
    def figure(table):
        """What to see.

        In full.
        """

    assert claim.caption == "What to see.\n\nIn full."


# Drawings


def test_a_drawing_is_the_same_in_fewer_bytes():
    small = drawing.small(SVG.encode())
    assert "made by" not in small
    assert small.replace("'", '"') == (
        '<svg xmlns="http://www.w3.org/2000/svg" width="600pt" height="200pt" viewBox="0 0 600 200">'
        '<defs><path id="i0" d="M 0 0.1 1 1 2 1 z"/></defs>'
        '<rect width="600" height="200" style="fill:#ffffff"/>'
        '<g style="stroke:#abc"><use x="10.1" y="20" href="#i0"/><use x="11.1" y="0" href="#i0"/></g>'
        '<g transform="translate(1.2 2) scale(0.015625)"><text y="50">NAME</text></g></svg>'
    )
    assert drawing.size(SVG.encode()) == (600, 200)


def test_a_drawing_is_a_link_in_double_quotes():
    uri = drawing.data_uri(SVG.replace("NAME", "\"a\" &amp; 'b' &lt; #c %d").encode())
    assert not set('"<>&#') & set(uri)
    assert "\"a\" &amp; 'b' &lt; #c %d" in urllib.parse.unquote(uri)


def test_a_drawing_without_a_size():
    with pytest.raises(ValueError, match="viewBox = ''; allowed: four numbers"):
        drawing.size(b"<svg/>")


# Formulas


@pytest.mark.parametrize(
    "text",
    [
        "costs $5",
        r"$\frac{1}{n$",
        r"$a}$",
        r"$\nosuchcommand x$",
        r"$x^2^3$",
        r"$\left( x$",
        "$$",
        r"$x \end{cases}$",
        r"$\boldsymbol{x}$",
    ],
)
def test_bad_formula_names_the_row(where, tmp_path, text):
    folder = shutil.copytree(where, tmp_path / "results")
    storage.write_table(
        folder / "claims.csv",
        pd.DataFrame([(*ROWS[0][:2], text, *ROWS[0][3:])], columns=COLUMNS).assign(**MORE),
    )
    with pytest.raises(ValueError, match="claims.csv, row E05 'first moment'") as error:
        page.render(folder, "smoke")
    assert text in str(error.value).replace("\\\\", "\\")


def test_unbalanced_dollar_in_prose(tmp_path):
    path = tmp_path / "errata.md"
    path.write_text("It costs $5.")
    with pytest.raises(ValueError, match="errata.md: unbalanced \\$"):
        prose.prose(path, shift=1)


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"\mathcal O", "<mi>𝒪</mi>"),
        (r"\mathbb E_i", "<mi>𝔼</mi>"),
        (r"\mathrm{op}", "<mi>op</mi>"),
        (r"\mathrm{d}", "<mtext>d</mtext>"),
        ("B'", "<mrow><mi>B</mi><mo>′</mo></mrow>"),
        ("f_i''", "<msub><mrow><mi>f</mi><mo>″</mo></mrow><mi>i</mi></msub>"),
        ("f'_{ij}", "<msub><mrow><mi>f</mi><mo>′</mo></mrow>"),
        (r"\hat F", '<mover><mi>F</mi><mo stretchy="false">ˆ</mo></mover>'),
        (r"\tilde L", '<mover><mi>L</mi><mo stretchy="false">~</mo></mover>'),
        (r"a\sim b", "<mo>∼</mo>"),
        (r"\infty", "<mi>∞</mi>"),
        (r"\Delta", '<mi mathvariant="normal">Δ</mi>'),
        (r"x=-y", '<mo form="prefix">−</mo>'),
        (r"\Big\{x\Big\}", ">{</mo>"),
        (r"a\succeq b", "<mo>⪰</mo>"),
        (r"x<y", "<mo>&lt;</mo>"),
    ],
)
def test_mathml(tex, expected):
    assert expected in formulas.mathml(tex, "here")


@pytest.mark.parametrize(
    ("tex", "pieces"),
    [
        (r"a\le b", 1),
        (r"\lVert a-b\rVert\le c+(d+e)f", 2),
        (r"a+b=-c+\frac{d+e}{f+g}", 3),
        (r"w=a+b+c+d+e", 3),
    ],
)
def test_a_long_formula_may_break_where_it_may_in_print(tex, pieces):
    html = formulas.mathml(tex, "here")
    assert html.count("<math>") == pieces
    assert formulas.mathml(tex, "here", "block").count("<math") == 1


def test_a_full_stop_stays_with_its_formula(tmp_path):
    html = formulas.formulas("with $a$, and $b+c+d+e+f+g$. So $h$", "here")
    assert re.findall(r'<span class="whole"><math>.*?</math>([^<]*)</span>', html) == [",", "."]
    (tmp_path / "one.md").write_text("with $a$, and **$b+c+d+e+f+g$**. So $h$")
    html = prose.prose(tmp_path / "one.md", shift=1)
    assert re.findall(r'<span class="whole"><math>.*?</math>([^<]*)</span>', html) == [","]
    assert re.sub("<[^>]*>", "", html) == "with a, and b+c+d+e+f+g. So h\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("**Claim.** At 0.35 of it, e.g. here, one. Two.", "At 0.35 of it, e.g. here, one."),
        ("**Not** a label. Two.", "<strong>Not</strong> a label."),
        ("No end", "No end"),
        ("Is it (so)? Yes.", "Is it (so)?"),
        ("It says\n\n$$x$$\n\nand ends. Two.", "It says\nx\nand ends."),
        ("It says\n\n$$x.$$\n\nTwo.", "It says\nx."),
    ],
)
def test_first_sentence(tmp_path, text, sentence):
    (tmp_path / "one.md").write_text(f"# Title\n\n{text}\n\nMore.\n")
    found = prose.read(tmp_path / "one.md", shift=1)
    assert found.title == "Title"
    assert re.sub("</?(math|mrow|m[io])>", "", found.sentence) == sentence
    assert "More." in found.body


def test_a_page_without_a_heading(tmp_path):
    (tmp_path / "one.md").write_text("Text.\n")
    with pytest.raises(ValueError, match="one.md: begins with .*; allowed: a heading, then a paragraph"):
        prose.read(tmp_path / "one.md", shift=1)


def test_formulas_of_the_documents_convert():
    files = sorted(page.DOCS.rglob("*.md"))
    assert sum(prose.prose(path, shift=1).count("<math") for path in files) > 100


def test_texts_of_all_claims_and_stories_convert():
    for name, claim in claims.claims().items():
        assert prose.docstring(claim.about, name)
        assert formulas.formulas(claim.title, name)
        assert "merror" not in formulas.formulas(claim.caption, name)
    for name, story in page.STORIES.items():
        assert formulas.formulas(story.title, name)
        assert formulas.formulas(story.caption, name)


def test_docstring():
    text = "First $x$.\n\nSecond\nline:\n\n  * one\n    more;\n  * two.\n\n    code  kept\n"
    html = prose.docstring(text, "here")
    assert html.startswith('<p>First <span class="whole"><math')
    assert "<p>Second\nline:</p>" in html
    assert "<ul><li>one\n    more;</li><li>two.</li></ul>" in html
    assert "    code  kept</pre>" in html


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, "1"),
        (-0.50129, "−0.5013"),
        (1e-9, "10<sup>−9</sup>"),
        (184415.0, "1.844 × 10<sup>5</sup>"),
        (float("inf"), "∞"),
        (-float("inf"), "−∞"),
    ],
)
def test_number(value, expected):
    assert prose.number(value) == expected


# In a browser


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: the page was NOT tested in a browser (apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def view(browser, written):
    """The opened page; afterwards, that nothing went wrong in it and nothing was asked of the network."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    problems, requests = [], []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url.partition("#")[0]))
    tab.goto(written.as_uri())
    yield tab
    tab.close()
    assert problems == []
    assert {url for url in requests if not url.startswith("data:")} == {written.as_uri()}


ROW_IDS = ["E14-1", "E15-1", "E16-1", "E17-1", "E05-1", "E05-2"]
"""in the order of the page"""


def shown(tab):
    return [row.get_attribute("id") for row in tab.locator(".row").all() if row.is_visible()]


def unfold(tab):
    """Opens everything, as a reader would; figures that stand elsewhere are copied before it returns."""
    tab.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    tab.wait_for_function("document.querySelectorAll('#claims img').length === 3")
    # What scrolls is found in the frame after.
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_filters(view):
    status = view.get_by_role("status")
    assert status.inner_text() == "6 of 6 rows shown"
    assert shown(view) == []
    view.get_by_label("Verdict", exact=True).select_option("holds")
    assert shown(view) == ["E14-1", "E15-1", "E05-2"]
    assert status.inner_text() == "3 of 6 rows shown"
    assert not view.locator(f"#experiment-{FO}-costs").is_visible()
    view.get_by_label("Part of the paper", exact=True).select_option("FO-MAML theorem")
    assert shown(view) == ["E14-1", "E15-1"]
    view.get_by_label("Method", exact=True).select_option("MAML")
    assert shown(view) == ["E15-1"]
    view.get_by_label("Search").fill("Slope MATHCAL")
    assert shown(view) == ["E15-1"]
    assert status.inner_text() == "1 of 6 rows shown"
    view.get_by_label("Search").fill("nothing like it")
    assert shown(view) == []
    view.get_by_role("button", name="Show all").click()
    assert status.inner_text() == "6 of 6 rows shown"
    assert shown(view) == []
    assert view.locator(".panel").first.is_visible()


def test_address_keeps_the_filters(view):
    view.get_by_label("Verdict", exact=True).select_option("holds, not sharp")
    address = view.url
    view.goto("about:blank")
    view.goto(address)
    assert shown(view) == ["E05-1"]


def test_links_open_what_is_folded(view):
    view.locator(".failures a").click()
    assert view.locator("#E16-1").is_visible()
    assert view.locator("#E16-1").evaluate("(e) => e.getBoundingClientRect().top < innerHeight")
    view.locator(".legend a").first.click()
    assert shown(view) == ["E14-1", "E15-1", "E05-2"]
    # A row that a filter hides, in a part that is folded.
    view.evaluate("location.hash = '#E05-1'")
    view.locator("#E05-1").wait_for()
    assert view.get_by_role("status").inner_text() == "6 of 6 rows shown"
    view.locator(".cards a").click()
    view.locator("#finding-one .prose").wait_for()
    # The same link again, after its target was folded by hand.
    view.locator("#finding-one > summary").click()
    view.locator(".cards a").click()
    assert view.locator("#finding-one .prose").is_visible()


def test_figures_and_their_copies_are_drawn(view):
    unfold(view)
    sizes = view.evaluate(
        "Promise.all([...document.images].map((i) => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(sizes) == 5
    assert min(sizes) > 0
    assert view.locator(f"#experiment-{FO}-costs figure img").is_visible()


def test_formulas_are_drawn(view):
    unfold(view)
    sizes = view.evaluate(
        "[...document.querySelectorAll('math')].map((m) => m.getBoundingClientRect())"
        ".map((box) => Math.min(box.width, box.height))"
    )
    assert len(sizes) >= 10
    assert min(sizes) > 1
    assert view.locator("merror").count() == 0


def test_tables_are_sorted(view):
    view.locator(f"#experiment-{FO} > summary").click()
    table = view.locator(f"#experiment-{FO} table.rows")
    for expected, order in [
        ("ascending", ["E14-1", "E15-1", "E16-1"]),
        ("descending", ["E16-1", "E15-1", "E14-1"]),
    ]:
        table.get_by_role("button", name="measured").click()
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == expected
        assert shown(view) == order
    table.get_by_role("button", name="verdict").click()
    assert shown(view)[0] == "E16-1"
    assert table.locator("th[aria-sort]").count() == 1
    # Numbers as numbers, and what is not measured below them.
    view.locator("#finding-one > summary").click()
    table = view.locator("#finding-one table")
    for order in (["2", "10"], ["10", "2"]):
        table.get_by_role("button", name="b", exact=True).click()
        assert table.locator("tbody tr td:nth-child(2)").all_inner_texts() == order


def download(view, button):
    with view.expect_download() as event:
        button.click()
    return event.value.suggested_filename, pd.read_csv(event.value.path(), dtype=str, keep_default_na=False)


def test_rows_are_downloaded_in_full(view, where):
    view.get_by_label("Verdict", exact=True).select_option("holds")
    name, table = download(view, view.locator("#download"))
    assert name == "claims.csv"
    assert list(table.columns) == list(page.COLUMNS)
    ledger = page.read_ledger(where / "claims.csv").set_index("id").loc[["E14-1", "E15-1", "E05-2"]]
    assert list(table.statement) == list(ledger.statement)
    assert list(table.measured.astype(float)) == list(ledger.measured)
    assert list(table.slack.astype(float)) == list(ledger.slack)
    # A spreadsheet would run it.
    assert list(table.note) == ["", "two slopes of FO-MAML and MAML", f"'{RISKY}"]


def test_every_table_is_downloaded(view):
    unfold(view)
    tables = view.locator("table").count()
    buttons = view.get_by_role("button", name="Download as CSV:")
    assert buttons.count() == tables == 6
    name, table = download(view, view.get_by_role("button", name="Download as CSV: one 1"))
    assert name == "one_1.csv"
    assert table.to_dict("list") == {"a": ["$\\beta_k$", "'@a"], "b": ["2", "10"], "$c$": ["-1", "'+x"]}
    name, table = download(view, view.get_by_role("button", name="Download as CSV: verdicts"))
    assert table["fails as stated"].tolist() == ["1", "0", "0"]


def test_keyboard_reaches_everything(view):
    """Nothing that can be used is passed over; what has focus is outlined."""
    unfold(view)
    view.evaluate("scrollTo(0, 0)")
    wanted = view.evaluate(
        """() => {
          const all = document.querySelectorAll("a, button, input, select, summary, [tabindex='0']");
          [...all].forEach((element, index) => (element.dataset.stop = index));
          return all.length;
        }"""
    )
    assert wanted > 60
    reached = set()
    for _ in range(wanted + 5):
        view.keyboard.press("Tab")
        stop, outline = view.evaluate(
            "[document.activeElement.dataset.stop, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if stop is not None:
            assert outline == "solid"
            reached.add(int(stop))
    assert reached == set(range(wanted))


def test_keyboard_skips_opens_and_sorts(view):
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to the claims"
    view.keyboard.press("Enter")
    for _ in range(7):  # how to read, search, three filters, two buttons
        view.keyboard.press("Tab")
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.parentElement.id") == f"experiment-{FO}"
    view.keyboard.press("Enter")
    assert shown(view) == ["E14-1", "E15-1", "E16-1"]


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1400])
def test_page_does_not_scroll_sideways(view, width):
    view.set_viewport_size({"width": width, "height": 844})
    unfold(view)
    assert view.evaluate("document.documentElement.scrollWidth") == width
    for row in view.locator(".row").all():
        box = row.bounding_box()
        for part in row.locator("> *").all():
            inner = part.bounding_box()
            assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 1


def test_cards_label_their_numbers(view):
    view.set_viewport_size({"width": 390, "height": 844})
    unfold(view)
    labels = view.evaluate(
        "[...document.querySelectorAll('.row td')].map((e) => getComputedStyle(e, '::before').content)"
    )
    assert set(labels) == {'"measured"', '"bound"', '"slack"', '"verdict"', '"also holds for"'}
    assert view.get_by_role("button", name="measured").first.is_visible()


def test_print_shows_everything(view):
    view.get_by_label("Verdict", exact=True).select_option("fails as stated")
    view.emulate_media(media="print")
    assert sorted(shown(view)) == sorted(ROW_IDS)
    for statement in view.locator(".statement").all():
        assert statement.bounding_box()["height"] > 0
    assert not view.locator("#filters").is_visible()
    assert not view.locator(".csv").first.is_visible()
    for picture in view.locator("img").all():
        assert picture.is_visible()
    assert view.locator("#finding-one .prose").evaluate("(e) => e.checkVisibility()")


def test_page_works_without_script(browser, written):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(written.as_uri())
    assert not tab.locator("#filters").is_visible()
    tab.locator(f"#experiment-{FO} > summary").click()
    assert tab.locator("#E14-1 .statement").is_visible()
    tab.locator(f"#experiment-{FO}-costs > summary").click()
    assert tab.locator(f"#experiment-{FO}-costs a[href='#experiment-{FO}']").is_visible()
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "dark"), (390, "light")])
def test_axe_finds_nothing(view, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    view.set_viewport_size({"width": width, "height": 844})
    view.emulate_media(color_scheme=scheme)
    unfold(view)
    found = Axe().run(view)
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(view, scheme):
    view.emulate_media(color_scheme=scheme)
    style = dict(
        view.evaluate(
            "['page', 'raised', 'text', 'muted', 'link', 'holds', 'holds-not-sharp', 'fails-as-stated',"
            " 'not-tested'].map((n) => [n, getComputedStyle(document.body).getPropertyValue('--' + n)])"
        )
    )
    light = {name: luminance(value.strip()) for name, value in style.items()}
    for back in ("page", "raised"):
        for front in set(light) - {"page", "raised"}:
            high, low = max(light[front], light[back]), min(light[front], light[back])
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


# The committed results


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The page of the results in this repository."""
    path = tmp_path_factory.mktemp("committed") / "index.html"
    path.write_text(page.render(page.REPOSITORY / "results", "default"))
    return path


def test_committed_page_can_be_mailed(committed):
    assert committed.stat().st_size <= 3_000_000


def test_committed_page_is_short_before_anything_is_opened(browser, committed):
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto(committed.as_uri())
    assert tab.evaluate("document.documentElement.scrollHeight") < 15_000
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.set_viewport_size({"width": 1400, "height": 900})
    for part in (".verdicts", ".failures", ".findings"):
        assert tab.locator(part).bounding_box()["y"] < 900, part
    tab.close()


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_axe_finds_nothing_in_the_committed_page(browser, committed, scheme, width):
    """Exhaustive: a minute each, and the small page has an element of every sort."""
    from axe_playwright_python.sync_playwright import Axe

    tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    tab.goto(committed.as_uri())
    tab.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found = Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    tab.close()


def luminance(color):
    """Relative luminance of #rrggbb, after WCAG."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


HOSTILE = (
    r"\text{<script>alert(1)</script>}",
    r"\mbox{<img src=x onerror=alert(1)>}",
    r"\text {a & b <i>}",
    r"a<b>c",
)


@pytest.mark.parametrize("tex", HOSTILE)
def test_text_in_a_formula_is_text(tex):
    """What looks like an element is drawn as letters."""
    html = formulas.formulas(f"${tex}$", "here")
    seen = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: seen.append((tag, dict(attributes)))
    parser.feed(html)
    assert {tag for tag, _ in seen} <= formulas.ELEMENTS
    assert not any(name.startswith("on") or name in ("href", "src") for _, a in seen for name in a)


def test_angles_of_a_text_are_drawn():
    assert "a\N{NO-BREAK SPACE}&lt;\N{NO-BREAK SPACE}b" in formulas.mathml(r"\text{a < b}", "here")


@pytest.mark.parametrize(
    ("tex", "said"),
    [
        (r"\href{javascript:alert(1)}{x}", "href is no part of a formula"),
        (r"\style{position:fixed}{x}", "style is no part of a formula"),
        (r"\class{verdict}{x}", "class is no part of a formula"),
        (r"\color{\"><script>}{x}", "not well-formed"),
    ],
)
def test_a_formula_leads_nowhere(tex, said):
    with pytest.raises(ValueError, match=f"here: cannot convert the formula .*{said}"):
        formulas.formulas(f"${tex}$", "here")


def test_one_script_is_allowed(html):
    """By its sum, which any other text would not have."""
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    total = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["script-src"] == f"'sha256-{total}'"
    assert directives["default-src"] == "'none'"
