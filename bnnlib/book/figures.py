"""One look for every figure of the book: ``use_style()`` once in a chapter's set-up cell, and these colours
by meaning.

Figures are SVG on a transparent ground. On a page they stand in the text, where ink, grid and the colours of meaning
follow the page's theme (:mod:`bnnlib.book.pages.figures` puts variables of the style sheet in their places), so use
these names rather than colours of your own: ``INK`` for lines and words, ``FAINT`` for what stays in the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bnnlib.records import Record

BINARY, REAL, SOURCE, OURS, FAINT = "#2463eb", "#6b7280", "#d9480f", "#0f9d58", "#cbd5e1"
INK, GRID = "#1f2328", "#e5e7eb"
FURTHER = ("#9333ea", "#ca8a04")  # for a fifth and sixth line; without a meaning
WIDTH = 7.2  # inches; the column of a page


def use_style() -> None:
    """Set matplotlib's defaults: SVG, one width, legible on a phone, light grid, no box, no ground."""
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.6),
            "figure.dpi": 110,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "figure.constrained_layout.use": True,
            "savefig.bbox": "tight",
            "font.size": 10,
            "axes.titlesize": 10,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "axes.unicode_minus": True,
            "legend.frameon": False,
            "axes.prop_cycle": mpl.cycler(color=[BINARY, SOURCE, OURS, REAL, *FURTHER]),
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "svg.fonttype": "path",  # a reader's browser need not have the font
            "svg.hashsalt": "bnnlib",  # the same figure gives the same file
        }
    )
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})


def draw_curves(
    ax: Axes, runs: Mapping[str, Sequence[Record]], labels: Mapping[str, str], field: str = "test_top1"
) -> None:
    """One line a record of the recipes that ``labels`` names, in its order and the style's colours, dashed
    once those are used up; further seeds of a recipe are thin. ``field``: of
    :class:`bnnlib.records.Epoch`."""
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    colours = len(mpl.rcParams["axes.prop_cycle"])
    for place, (name, label) in enumerate(labels.items()):
        for i, record in enumerate(runs[name]):
            epochs = [point.epoch for point in record.curve]
            ax.plot(
                epochs,
                [getattr(point, field) for point in record.curve],
                color=f"C{place}",
                lw=1 if i else 2,
                ls="--" if place >= colours else "-",
                marker="o" if len(epochs) == 1 else None,  # a line through one point is not to be seen
                label=None if i else label,
            )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
