"""The documentation site: `make docs` writes build/docs/index.html. Nothing is fetched while it is built.

The source folder is the repository, so that a page's links lead to the same files here as on the site: docs,
results, CONTRIBUTING. Formulas become MathML as in the report.
"""

# Notebooks are made by sphinx-gallery from the scripts in examples/, which also runs them: there are none to
# keep by hand, and so myst-nb is not needed.

import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.writers.html5 import HTML5Translator  # noqa: E402

from docs import reference, running  # noqa: E402, F401
from experiments.report.formulas import mathml  # noqa: E402
from jaxmaml.version import __version__  # noqa: E402

project, author, release = "jaxmaml", "jaxmaml's authors", __version__
root_doc = "docs/index"
include_patterns = ["docs/**", "results/*.md", "results/*/table.md", "CONTRIBUTING.md", "CHANGELOG.md"]
# Folders without pages, which need not be searched.
exclude_patterns = [".*", "build", "dist", "jaxmaml", "experiments", "tests", "examples", "results/raw"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_gallery.gen_gallery"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 6

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
add_module_names = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "docs/gallery",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "run_stale_examples": True,  # what they show depends on the library as well
    "image_srcset": ["2x"],
    "within_subsection_order": "docs.running.order",
    "reset_modules": ("matplotlib", "docs.running.reset"),
    "show_signature": False,
    "write_computation_times": False,
}

smartquotes = False  # formulas in docstrings have primes
html_theme = "furo"
html_title = f"jaxmaml {release}"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_extra_path = ["site/start"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"


def inline_formula(page: HTML5Translator, node: nodes.math) -> None:
    page.body.append(mathml(node.astext(), page.builder.current_docname))
    raise nodes.SkipNode


def formula(page: HTML5Translator, node: nodes.math_block) -> None:
    text = mathml(node.astext(), page.builder.current_docname, "block")
    page.body.append(f'<div class="formula" tabindex="0" role="group" aria-label="formula">{text}</div>')
    raise nodes.SkipNode


def levels(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """The captions of the sidebar are headings, whose level the theme leaves out: screen readers need it."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Sphinx) -> None:
    reference.write()
    app.connect("autodoc-process-docstring", reference.render)
    app.connect("autodoc-process-signature", reference.signature)
    app.connect("autodoc-skip-member", reference.skip)
    app.connect("html-page-context", levels, priority=900)  # after the theme
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula, None))
