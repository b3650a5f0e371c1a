"""The documentation: the site builds without a warning, links lead somewhere, examples say what is so."""

import functools
import html
import pathlib
import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin

from jaxmaml import storage

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("*.md")])

pytestmark = pytest.mark.xdist_group("docs")  # the site is built once


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built anew; the examples run."""
    where = tmp_path_factory.mktemp("site").resolve()
    options = ["-q", "-W", "--keep-going", "-c", ROOT / "docs", "-d", where / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *options, ROOT, where / "html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return where / "html"


@pytest.fixture
def printed(site):
    """name -> what that example printed when the site was built."""

    def of(example):
        text = (site / f"docs/gallery/{example}.html").read_text()
        blocks = re.findall(r"sphx-glr-script-out.*?<pre>(.*?)</pre>", text, re.DOTALL)
        return html.unescape(re.sub(r"<[^>]*>", "", "\n".join(blocks)))

    return of


# Links


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        self.links += [found[name] for name in ("href", "src") if found.get(name)]
        if tag in ("img", "script", "link", "source", "iframe") and found.get("rel") != "canonical":
            self.loaded += [found[name] for name in ("href", "src") if found.get(name)]


def broken(path, links, ids_of):
    """Those of the relative links of a file that lead to no file, or to no place in it."""
    for link in links:
        url = urllib.parse.urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = path.parent / urllib.parse.unquote(url.path) if url.path else path
        place = urllib.parse.unquote(url.fragment)
        if not target.exists() or (place and place not in ids_of(target.resolve())):
            yield f"{path}: {link}"


@functools.cache
def tokens_of(path):
    parser = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=6)
    tokens = parser.parse(path.read_text())
    return [t for token in tokens for t in (token, *(token.children or ()))]


@functools.cache
def headings_of(path):
    """The anchors of a page's headings, as GitHub and the site make them."""
    return (
        {t.attrs["id"] for t in tokens_of(path) if t.type == "heading_open"}
        if path.suffix == ".md"
        else set()
    )


def test_links_of_markdown_pages():
    assert len(PAGES) > 25
    found = []
    for page in PAGES:
        attributes = [t.attrs.get("href") or t.attrs.get("src") for t in tokens_of(page)]
        found += broken(page, filter(None, attributes), headings_of)
    assert found == []


def test_links_of_the_site(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > len(PAGES)
    found = [b for path, page in pages.items() for b in broken(path, page.links, lambda p: pages[p].ids)]
    assert found == []
    outside = [link for page in pages.values() for link in page.loaded if urllib.parse.urlsplit(link).netloc]
    assert outside == [], "a page loads from the network"


# Pages


def test_pages_of_the_reference(site):
    import jaxmaml

    ids = Page(site / "docs/api/jaxmaml.html").ids
    for name in jaxmaml.__all__:
        if callable(getattr(jaxmaml, name)):
            assert f"jaxmaml.{name}" in ids, name
    text = (site / "docs/api/jaxmaml.html").read_text()
    assert "Args:" not in text
    assert "problematic" not in text  # what docutils could not read


def test_formulas_are_drawn_by_the_browser(site):
    text = (site / "docs/theory.html").read_text()
    assert text.count("<math") > 100
    assert 'display="block"' in text
    assert "\\frac" not in text


def test_example_of_the_first_page(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/index.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    exec(code, {})
    said = re.findall(r"^(\d) inner steps?: loss (\S+)", capsys.readouterr().out, re.MULTILINE)
    losses = {int(steps): float(loss) for steps, loss in said}
    assert losses[0] > 2.5
    assert losses[1] < 0.6
    assert losses[5] < 0.3


# Examples


def numbers(text, line, *, count):
    """The numbers in the first line of a text that begins so."""
    (rest,) = re.findall(rf"^{re.escape(line)}(.*)$", text, re.MULTILINE)[:1]
    found = [float(x) for x in re.findall(r"\d+(?:\.\d+)?", rest)]
    assert len(found) == count, rest
    return found


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_short_and_end_with_a_picture(example, site, printed):
    assert len((ROOT / f"examples/{example}.py").read_text().splitlines()) < 60
    assert printed(example)
    page = Page(site / f"docs/gallery/{example}.html")
    assert any(f"sphx_glr_{example}_001" in link for link in page.loaded)


def test_own_loss(printed):
    before, after = numbers(printed("own_loss"), "loss before adaptation", count=2)
    assert after < before / 2


def test_few_shot_images(printed):
    before, *_, after = re.findall(r"measure (\S+)", printed("few_shot_images"))
    assert float(before) < 0.45  # chance is a third
    assert float(after) > 0.8


def test_federated_clients(printed):
    least, most = numbers(printed("federated_clients"), "images to train on, a client:", count=2)
    assert least < most
    for method in ("FedAvg", "Per-FedAvg"):
        accuracies = numbers(printed("federated_clients"), f"{method} after 0, 1, 5 steps:", count=3)
        assert accuracies == sorted(accuracies)
        assert accuracies[-1] > 0.85


def test_which_method(printed):
    """These tasks are curved differently."""
    text = printed("which_method")
    assert "Use maml_same_batch" in text
    assert "fo_maml below" in text


def test_new_estimator(printed):
    first_order, gauss_newton = numbers(
        printed("new_estimator"), "distance from MAML's gradient, relative: FO-MAML", count=2
    )
    assert gauss_newton < 0.8 * first_order


def test_new_claim(printed):
    verdicts = re.findall(r"(holds.*): gain at alpha L = (\S+),", printed("new_claim"))
    assert verdicts == [
        ("holds", "0.1"),
        ("holds", "0.5"),
        ("holds, not sharp", "1.0"),
        ("holds, not sharp", "1.5"),
    ]


def test_reproduce_a_figure(printed):
    """The verdicts are those of the ledger."""
    said = re.findall(r"^(\w[^:\n]*): (.*)$", printed("reproduce_a_figure"), re.MULTILINE)
    ledger = storage.read_table(ROOT / "results/verdicts/alpha_range.csv")
    assert set(zip(ledger["verdict"], ledger["part"], strict=True)) <= set(said)


def test_from_learn2learn(printed):
    first, last = numbers(
        printed("from_learn2learn"), "loss after one inner step, first and last 100:", count=2
    )
    assert last < first / 2
