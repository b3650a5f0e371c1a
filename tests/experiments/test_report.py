"""The page of the report: complete, self-contained, and usable in a browser, by keyboard and on a phone."""

import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from experiments import claims
from experiments.report import page
from jaxmaml import storage

FO, STEP = "fo_floor", "step_moments"
NAN = float("nan")
TEXTS = ("claim", "part", "statement", "place", "source", "experiment")
NUMBERS = ("measured", "low", "high", "bound", "slack")
MORE = {"tolerance": float("nan"), "interval": "exact", "companion": "", "also_holds_for": ""}
COLUMNS = (*TEXTS, *NUMBERS, "verdict", "note")
WIDE = r"$\lVert\nabla F\rVert\le" + "+".join([r"\frac{\alpha\tilde L(w)}{1-\hat F}"] * 12) + "$"


def row(claim, part, statement, place, source, experiment, numbers, verdict, note=""):
    return (claim, part, statement, place, source, experiment, *numbers, verdict, note)


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
    row("E05", "closed form", WIDE, STEP_LEMMA, "derived", STEP, (1.93, 1.93, 1.93, 5.0, 2.59), "holds"),
    row("E14", "floor <script>alert(1)</script>", COV, FO_THEOREM, SUMMARISED, FO, COV_NUMBERS, "holds"),
    row("E15", "slope in alpha", SLOPE, FO_THEOREM, SUMMARISED, FO, SLOPE_NUMBERS, "holds", "two slopes"),
    row("E16", "in the spread", "a & <b>", FO_THEOREM, SUMMARISED, FO, SPREAD_NUMBERS, "fails as stated"),
    row(
        "E17", "at scale", r"cost $\mathcal{O}(d)$", "costs", SUMMARISED, FO, [NAN] * 5, "not tested", "slow"
    ),
]
FINDING = r"""# A finding

It has a [link](../theory.md), a [paper](https://arxiv.org/abs/1908.10400), ![a picture](../picture.png)
and $x<y$.

$$\sum_{k<K}\lVert\nabla F(w_k)\rVert^2$$

| a | b |
|---|---|
| $\beta_k$ | 2 |
"""


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A results folder with six rows, two figures and a summary."""
    folder = tmp_path_factory.mktemp("results")
    storage.write_table(folder / "claims.csv", pd.DataFrame(ROWS, columns=COLUMNS).assign(**MORE))
    for name in (FO, STEP):
        drawing = (
            '<svg xmlns="http://www.w3.org/2000/svg" width="600pt" height="200pt" viewBox="0 0 600 200">'
        )
        drawing += f"<rect width='600' height='200' fill='white'/><text y='50'>{name}</text></svg>"
        storage.write(folder / "figures" / f"{name}.svg", drawing.encode())
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
    summary = {
        "method": ["MAML", "FO-MAML"],
        "floor, $B=\\infty$": ["0", r"$\alpha L\sigma$"],
        "cost": ["3.1", "1"],
    }
    storage.write_table(folder / "summary.csv", pd.DataFrame(summary))
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
    rows = [a for a in Elements(html).all("li") if a.get("class") == "row"]
    assert [a["id"] for a in rows] == ["E05-1", "E05-2", "E14-1", "E15-1", "E16-1", "E17-1"]
    assert [a["data-verdict"] for a in rows] == [row[11] for row in ROWS]
    assert "<script>alert" not in html
    assert "a &amp; &lt;b&gt;" in html
    assert "10<sup>−6</sup>" in html
    for name in (FO, STEP):
        assert f"make run-sweep plots report EXPERIMENT={name} SCALE=smoke" in html
        assert page.escape(claims.get(name).title) in html
    assert "2\u202f400\u202f000" in html


def test_ids_are_unique_and_links_lead_to_them(html):
    elements = Elements(html)
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    for link in elements.all("a"):
        assert link["href"].startswith("https://arxiv.org/") or link["href"][1:] in ids


def test_no_formula_is_left_as_text(html):
    body = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    body = re.sub(r' data-text="[^"]*"', "", body)
    assert body.count("<math") >= 10
    assert "$" not in body
    assert "\\" not in body
    assert "merror" not in body


def test_nothing_is_loaded(html):
    for tag, attributes in Elements(html).found:
        assert not attributes.get("src", "data:").startswith(("http", "/"))
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "srcset" not in attributes
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_each_figure_is_embedded_once(html):
    images = Elements(html).all("img")
    assert [a["data-name"] for a in images] == [STEP, FO]
    assert html.count("data:image/svg+xml") == len({a["src"] for a in images}) == 2
    for attributes in images:
        assert claims.get(attributes["data-name"]).title in attributes["alt"]


def test_prose_keeps_only_links_to_the_web(html):
    assert "<h3>A finding</h3>" in html
    assert "has a link, a" in html
    assert '<a href="https://arxiv.org/abs/1908.10400">paper</a>' in html
    assert "picture.png" not in html
    assert "<h2>Errata</h2>" in html


def test_page_without_optional_parts(where, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOCS", tmp_path)
    folder = shutil.copytree(where, tmp_path / "results")
    (folder / "summary.csv").unlink()
    text = page.render(folder, "smoke")
    for part in ("summary", "findings", "errata"):
        assert f'id="{part}"' not in text
        assert f'href="#{part}"' not in text


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
        assert f".verdict.{page.slug(verdict)} {{ color: var(--{page.slug(verdict)}); }}" in style


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
        page.prose(path, shift=1)


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"\mathcal O", "<mi>𝒪</mi>"),
        (r"\mathbb E_i", "<mi>𝔼</mi>"),
        (r"\mathrm{op}", "<mi>op</mi>"),
        (r"\mathrm{d}", "<mtext>d</mtext>"),
        ("B'", "<mrow><mi>B</mi><mo>′</mo></mrow>"),
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
    assert expected in page.mathml(tex, "here")


def test_formulas_of_the_documents_convert():
    files = sorted(page.DOCS.rglob("*.md"))
    assert sum(page.prose(path, shift=1).count("<math") for path in files) > 100


def test_docstrings_of_all_claims_convert():
    for name, claim in claims.claims().items():
        assert page.docstring(claim.about, name)
        assert page.formulas(claim.title, name)


def test_docstring():
    text = "First $x$.\n\nSecond\nline:\n\n  * one\n    more;\n  * two.\n\n    code  kept\n"
    html = page.docstring(text, "here")
    assert html.startswith("<p>First <math")
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
    assert page.number(value) == expected


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


def shown(tab):
    return [row.get_attribute("id") for row in tab.locator(".row").all() if row.is_visible()]


def test_filters(view):
    status = view.get_by_role("status")
    assert status.inner_text() == "6 of 6 rows shown"
    view.get_by_label("Verdict").select_option("holds")
    assert shown(view) == ["E05-2", "E14-1", "E15-1"]
    assert status.inner_text() == "3 of 6 rows shown"
    view.get_by_label("Part of the paper").select_option("FO-MAML theorem")
    assert shown(view) == ["E14-1", "E15-1"]
    view.get_by_label("Text").fill("Slope ALPHA")
    assert shown(view) == ["E15-1"]
    assert status.inner_text() == "1 of 6 rows shown"
    view.get_by_role("button", name="Show all").click()
    assert len(shown(view)) == 6
    assert status.inner_text() == "6 of 6 rows shown"


def test_address_keeps_the_filters_and_names_rows(view, written):
    view.get_by_label("Verdict").select_option("holds, not sharp")
    address = view.url
    view.goto("about:blank")
    view.goto(address)
    assert shown(view) == ["E05-1"]
    view.evaluate("location.hash = '#E16-1'")
    view.locator("#E16-1 .statement").wait_for()
    assert len(shown(view)) == 6


def test_rows_open_with_their_figure(view):
    for summary in view.locator("summary").all():
        summary.click()
    for row in view.locator(".row").all():
        row.locator(".picture img").wait_for()
        assert row.locator(".statement").is_visible()
        assert row.locator(".picture img").count() == 1
    widths = view.evaluate(
        "Promise.all([...document.images].map((i) => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(widths) == 8
    assert min(widths) > 0


def test_formulas_are_drawn(view):
    for summary in view.locator("summary").all():
        summary.click()
    sizes = view.evaluate(
        "[...document.querySelectorAll('math')].map((m) => m.getBoundingClientRect())"
        ".map((box) => Math.min(box.width, box.height))"
    )
    assert len(sizes) >= 10
    assert min(sizes) > 1
    assert view.locator("merror").count() == 0


def test_keyboard(view):
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to the ledger"
    view.keyboard.press("Enter")
    for _ in range(5):  # verdict, part, text, button, first row
        view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.closest('.row')?.id") == "E05-1"
    assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    view.keyboard.press("Enter")
    assert view.locator("#E05-1 .statement").is_visible()


@pytest.mark.parametrize("width", [320, 390, 768, 1024])
def test_page_does_not_scroll_sideways(view, width):
    view.set_viewport_size({"width": width, "height": 844})
    for summary in view.locator("summary").all():
        summary.click()
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for row in view.locator("summary").all():
        box = row.bounding_box()
        for part in row.locator("> *").all():
            inner = part.bounding_box()
            assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 1


def test_cards_label_their_numbers(view):
    view.set_viewport_size({"width": 390, "height": 844})
    for label in view.locator(".row .number .label").all():
        assert label.bounding_box()["width"] > 20


def test_print_shows_everything(view):
    view.get_by_label("Verdict").select_option("fails as stated")
    view.emulate_media(media="print")
    assert len(shown(view)) == 6
    for row in view.locator(".row").all():
        assert row.locator(".statement").bounding_box()["height"] > 0
        assert row.locator(".numbers").evaluate("(e) => e.checkVisibility()")
    assert not view.locator("#filters").is_visible()
    for picture in view.locator("#experiments img").all():
        assert picture.is_visible()


def test_page_works_without_script(browser, written):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(written.as_uri())
    assert not tab.locator("#filters").is_visible()
    tab.locator("#E14-1 summary").click()
    assert tab.locator("#E14-1 .statement").is_visible()
    assert tab.locator(f"#E14-1 a[href='#experiment-{FO}']").is_visible()
    context.close()


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
    html = page.formulas(f"${tex}$", "here")
    seen = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: seen.append((tag, dict(attributes)))
    parser.feed(html)
    assert {tag for tag, _ in seen} <= page.ELEMENTS
    assert not any(name.startswith("on") or name in ("href", "src") for _, a in seen for name in a)


def test_angles_of_a_text_are_drawn():
    assert "a\N{NO-BREAK SPACE}&lt;\N{NO-BREAK SPACE}b" in page.mathml(r"\text{a < b}", "here")


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
        page.formulas(f"${tex}$", "here")


def test_one_script_is_allowed(html):
    """By its sum, which any other text would not have."""
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    total = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["script-src"] == f"'sha256-{total}'"
    assert directives["default-src"] == "'none'"
