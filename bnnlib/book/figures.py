"""One look for every figure of the book: ``use_style()`` once in a chapter's set-up cell, and these colours
by meaning.

Figures are SVG on a transparent ground. On a page they stand in the text, where ink, grid and the colours of meaning
follow the page's theme (:mod:`bnnlib.book.pages.figures` puts variables of the style sheet in their places), so use
these names rather than colours of your own: ``INK`` for lines and words, ``FAINT`` for what stays in the background.

A chapter draws each figure once, at the width of a page. Beside it the notebook keeps the same figure for a phone, where panels that
stand side by side stand one above the other (:mod:`bnnlib.book.phone_layout`). Captions therefore name panels by their titles, not by
their places.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bnnlib.book.phone_layout import TOO_WIDE, WIDTH, narrow
from bnnlib.book.point_names import PointNames

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bnnlib.records import Record

BINARY, REAL, SOURCE, OURS, FAINT = "#2463eb", "#6b7280", "#d9480f", "#0b7a43", "#cbd5e1"
INK, GRID = "#1f2328", "#e5e7eb"
ON = "#fefefe"  # words on a box of one of the first four colours: white, and nearly black on a dark page, where those are light
FURTHER = ("#581c87", "#5d3a06")  # for a fifth and sixth line: gradients are the first; told apart by readers who see no red or green
FLOAT32, BFLOAT16, INT8 = REAL, FURTHER[1], FURTHER[0]  # kinds of numbers; one bit is BINARY
TINT = 0.18  # opacity of a box behind words in INK, where the box itself is of one of these colours
_DRAWN_WIDTH = re.compile(r'<svg [^>]*?width="([\d.]+)pt"')
_NARROW = re.compile(r"<metadata>narrow:([A-Za-z0-9+/=]+)</metadata>")


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
    if (shell := get_ipython()) is not None:
        from matplotlib.figure import Figure
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg)


def svg(figure: Figure) -> str:
    """A figure as SVG, with the one for a phone in its metadata where there is one: :func:`split` takes them apart."""
    _say_logarithmic(figure)
    _number_logarithmic(figure)
    _count_epochs(figure)
    wide, small = saved(figure), narrow(figure)
    if small is None:
        return wide
    end = wide.rindex("</svg>")
    return f"{wide[:end]}<metadata>narrow:{base64.b64encode(saved(small).encode()).decode()}</metadata>{wide[end:]}"


def split(drawn: str) -> tuple[str, str | None]:
    """(the figure, the one for a phone or None) of what :func:`svg` gave."""
    found = _NARROW.search(drawn)
    return _NARROW.sub("", drawn), base64.b64decode(found[1]).decode() if found else None


def is_too_wide(drawn: str) -> bool:
    """Whether what :func:`svg` gave is wider than a phone and has no layout for one. Pictures of another origin are not judged."""
    found = _DRAWN_WIDTH.search(drawn)
    return "matplotlib" in drawn[:2000] and found is not None and float(found[1]) > 72 * TOO_WIDE and split(drawn)[1] is None


def _say_logarithmic(figure: Figure) -> None:
    """Each label of a logarithmic axis says that it is one."""
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            words = axis.get_label_text()
            if axis.get_scale() == "log" and words and "log scale" not in words:
                axis.set_label_text(words + ("\n" if axis is ax.yaxis and len(words) > 24 else " ") + "(log scale)")


def _number_logarithmic(figure: Figure) -> None:
    """A logarithmic axis of few decades has plain numbers, at 1, 2 and 5, where they have room; marks that a chapter chose stay."""
    from matplotlib import ticker

    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            usual = type(axis.get_major_formatter()) is ticker.LogFormatterSciNotation and axis.get_transform().base == 10
            low, high = sorted(axis.get_view_interval())
            if not usual or not 1e-4 <= low < high <= 1e5 or high / low > 1000:
                continue
            marks = ticker.LogLocator(subs=(1, 2, 5))  # less than a decade it marks as other axes are
            if axis is ax.xaxis and sum(len(f"{mark:g}") for mark in marks.tick_values(low, high) if low <= mark <= high) > 14:
                continue
            axis.set_major_locator(marks)
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(ticker.NullLocator())


def _count_epochs(figure: Figure) -> None:
    """An axis of epochs has no fractions of one, also where a short run has a single epoch."""
    from matplotlib.ticker import MaxNLocator

    for ax in figure.axes:
        if ax.get_xlabel() == "epoch":
            ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def saved(figure: Figure) -> str:
    """The figure as SVG, as matplotlib writes it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return file.getvalue()


def bare(axes: Axes | Iterable[Axes]) -> None:
    """Pictures: no ticks, no grid, and a faint frame, so that white has an end."""
    import numpy as np

    for ax in np.ravel(axes):
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set(visible=True, color=FAINT, linewidth=0.8)


def flow(
    ax: Axes,
    boxes: Sequence[tuple[str, str]],
    title: str = "",
    *,
    rows: int = 0,
    between: Sequence[str] = (),
    shortcut: str | None = None,
    left: float = 0.05,
    right: float = 0.25,
) -> None:
    """A drawing of boxes from top to bottom, each ``(words, colour)``, joined by arrows.

    between: words beside the arrows, that into the first box first. shortcut: words beside a line around the boxes, from the input to the
    box ``+``; None: no line. rows: boxes of the longest column beside this one. left, right: room beside
    the boxes, in widths of a box.
    """
    from matplotlib.patches import Rectangle

    for y, (words, colour) in enumerate(boxes):
        ax.add_patch(Rectangle((0, -y - 0.33), 1, 0.66, fc=colour, alpha=TINT, lw=0))
        ax.add_patch(Rectangle((0, -y - 0.33), 1, 0.66, fill=False, ec=colour, lw=1))
        ax.text(0.5, -y, words, ha="center", va="center", fontsize=9)
    for y in range(-1, len(boxes)):
        ax.annotate("", (0.5, -y - 0.69), (0.5, -y - 0.31), arrowprops={"arrowstyle": "->", "lw": 1, "color": INK})
    for y, words in enumerate(between):
        ax.text(0.54, 0.5 - y, words, fontsize=9, va="center")
    if shortcut is not None:
        end = -[words for words, _ in boxes].index("+")
        ax.plot([0.5, 1.15, 1.15, 1], [0.6, 0.6, end, end], color=REAL, lw=1.5)
        ax.text(1.2, end / 2 + 0.3, shortcut, fontsize=8.5, va="center")
    ax.set_title(title)
    ax.set(xlim=(-left, 1 + right), ylim=(-max(rows, len(boxes)) + 0.2, 0.75))
    ax.axis("off")


def draw_curves(
    ax: Axes,
    runs: Mapping[str, Sequence[Record]],
    labels: Mapping[str, str],
    field: str = "test_top1",
    looks: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """One line a record of the recipes that ``labels`` names, in its order and the style's colours, dashed
    once those are used up; further seeds of a recipe are thin. ``field``: of
    :class:`bnnlib.records.Epoch`. ``looks``: of a recipe's lines, as ``plot`` takes it, in place of the order's."""
    import matplotlib as mpl

    colours = len(mpl.rcParams["axes.prop_cycle"])
    for place, (name, label) in enumerate(labels.items()):
        for i, record in enumerate(runs.get(name, ())):
            epochs = [point.epoch for point in record.curve]
            look = {"color": f"C{place}", "lw": 1 if i else 2, "ls": "--" if place >= colours else "-", "ms": 4}
            if len(epochs) == 1:
                look["marker"] = "o"  # a line through one point is not to be seen
            look |= (looks or {}).get(name, {})
            ax.plot(epochs, [getattr(point, field) for point in record.curve], label=None if i else label, **look)
    ax.set_xlabel("epoch")


def name_points(
    ax: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str], sizes: Sequence[float] = ()
) -> None:
    """Each point's name beside it where it covers nothing: see :class:`bnnlib.book.point_names.PointNames`."""
    ax.add_artist(PointNames(points, names, colours, sizes))
