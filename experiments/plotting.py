"""One style for all figures: a colour-blind safe colour and a marker a method, the same everywhere."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette.
COLORS = {
    "maml": "#0072B2",
    "fo_maml": "#D55E00",
    "hf_maml": "#009E73",
    "maml_same_batch": "#CC79A7",
}
MARKERS = {"maml": "o", "fo_maml": "s", "hf_maml": "^", "maml_same_batch": "D"}
LABELS = {
    "maml": "MAML",
    "fo_maml": "FO-MAML",
    "hf_maml": "HF-MAML",
    "maml_same_batch": "MAML, same batch",
}
OTHER = ("#56B4E9", "#E69F00", "#F0E442", "#000000")
THEORY = {"derived": "--", "as summarised": ":", "exact": "-."}
"""line style of each kind of theory line."""

WIDTH, HEIGHT = 3.3, 2.6
"""inches, of one panel: a column of a paper."""


def color(estimator: str) -> str:
    return COLORS.get(estimator, "#000000")


def label(estimator: str) -> str:
    return LABELS.get(estimator, estimator)


@contextlib.contextmanager
def style() -> Iterator[None]:
    settings = {
        "figure.dpi": 150,
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "lines.markersize": 3.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.5,
        "mathtext.fontset": "dejavusans",
        "svg.hashsalt": "jaxmaml",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
    }
    with mpl.rc_context(settings):
        mpl.use("Agg")
        yield


def panels(columns: int, rows: int = 1, *, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A row-major list of axes."""
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, HEIGHT * rows),
        squeeze=False,
        layout="constrained",
    )
    return figure, list(axes.flat)


def save(figure: Figure, files: Sequence[pathlib.Path]) -> None:
    """Writes the figure without dates, so that equal figures are equal files."""
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        key = "CreationDate" if path.suffix == ".pdf" else "Date"
        figure.savefig(path, metadata={key: None})
    plt.close(figure)
