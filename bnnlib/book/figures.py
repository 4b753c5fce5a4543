"""One look for every figure of the book: ``use_style()`` once in a chapter's set-up cell, and these colours
by meaning.

Figures are SVG on a transparent ground. On a page they stand in the text, where ink, grid and the colours of meaning
follow the page's theme (:mod:`bnnlib.book.pages.figures` puts variables of the style sheet in their places), so use
these names rather than colours of your own: ``INK`` for lines and words, ``FAINT`` for what stays in the background.

A chapter draws each figure once, at the width of a page. Beside it the notebook keeps the same figure for a phone, where panels that
stand side by side stand one above the other (:func:`narrow`).
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

    from bnnlib.records import Record

BINARY, REAL, SOURCE, OURS, FAINT = "#2463eb", "#6b7280", "#d9480f", "#0f9d58", "#cbd5e1"
INK, GRID = "#1f2328", "#e5e7eb"
ON = "#fefefe"  # words on a box of one of the first four colours: white, and nearly black on a dark page, where those are light
FURTHER = ("#9333ea", "#ca8a04")  # for a fifth and sixth line; without a meaning
WIDTH = 7.2  # inches; the column of a page
PHONE = 3.7  # inches; the column of a page on a phone
_PANELS = 5  # more of them in a row are small pictures, which stay side by side
_LEAST = 0.42  # of a phone's column that the axes of a plot must have
_LETTERS = (20, 14, 10)  # of a line of a category's name, where names are broken
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
    wide, small = saved(figure), narrow(figure)
    if small is None:
        return wide
    end = wide.rindex("</svg>")
    return f"{wide[:end]}<metadata>narrow:{base64.b64encode(small.encode()).decode()}</metadata>{wide[end:]}"


def split(drawn: str) -> tuple[str, str | None]:
    """(the figure, the one for a phone or None) of what :func:`svg` gave."""
    found = _NARROW.search(drawn)
    return _NARROW.sub("", drawn), base64.b64decode(found[1]).decode() if found else None


def narrow(figure: Figure) -> str | None:
    """The figure as SVG for a phone: the panels of a row one above the other, and a single plot as narrow as the column.

    Names of categories beside the axes, words in them, and legends below are broken into lines where they would take the width.
    None for what has no other layout: grids of more than one row, rows of many small pictures, drawings without axes, and plots
    whose words beside the axes still take the width of a phone. The figure itself is left as it was.
    """
    panels = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    grids = {ax.get_subplotspec().get_gridspec() for ax in panels}
    if len(grids) != 1 or not 1 <= len(panels) <= _PANELS or figure.get_layout_engine() is None:
        return None
    (grid,) = grids
    width, height = figure.get_size_inches()
    if (grid.nrows, grid.ncols) != (1, len(panels)) or width <= PHONE or (len(panels) == 1 and not panels[0].axison):
        return None
    tall = [_height(ax, height) for ax in panels]
    before = [(ax.get_subplotspec(), ax.yaxis.get_tick_params().get("labelleft", True), ax.get_ylabel()) for ax in panels]
    legends = list(figure.legends)
    try:
        from matplotlib.gridspec import GridSpec

        figure.legends[:] = []
        for legend in legends:
            _folded(figure, legend)

        column = GridSpec(len(panels), 1, figure=figure, height_ratios=tall)
        for i, ax in enumerate(panels):
            ax.set_subplotspec(column[i, 0])
            if ax.get_shared_y_axes().joined(ax, panels[0]) and ax.axison:
                ax.tick_params(labelleft=True)
                ax.set_ylabel(ax.get_ylabel() or panels[0].get_ylabel())
        figure.set_size_inches(PHONE, sum(tall))
        plots = [ax for ax in panels if ax.axison]
        for letters in (None, *_LETTERS):  # words beside the axes may leave no room for them
            with contextlib.ExitStack() as stack, warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="constrained_layout not applied")  # no room at all
                high = list(tall)
                for i, ax in enumerate(panels):
                    if letters and ax.axison:
                        high[i] = max(high[i], stack.enter_context(_broken(ax, letters)) + 1)  # an inch for what is below
                figure.set_size_inches(PHONE, sum(high))
                drawn = saved(figure)
                fits = float(_DRAWN_WIDTH.search(drawn)[1]) <= 1.1 * 72 * PHONE
                if fits and all(ax.get_position().width > _LEAST for ax in plots):
                    return drawn
        return None
    finally:
        figure.legends[:] = legends
        figure.set_size_inches(width, height)
        for ax, (spec, left, label) in zip(panels, before, strict=True):
            ax.set_subplotspec(spec)
            ax.tick_params(labelleft=left)
            ax.set_ylabel(label)


@contextlib.contextmanager
def _broken(ax: Axes, letters: int) -> Iterator[float]:
    """For a while, names of categories up the side of a plot, and words in it, in lines of about ``letters``; numbers stay. Gives
    the inches that the names need, one above the other."""
    axis, texts = ax.yaxis, [(text, text.get_text()) for text in (*ax.texts, ax.xaxis.label)]
    before = axis.get_major_locator(), axis.get_major_formatter()
    names = [tick.get_text() for tick in axis.get_ticklabels()]
    inches = 0.0
    if not all(re.fullmatch(r"[-\u2212\d.,%\s]*", name) or name.startswith("$") for name in names):
        lines = [_lines(name, letters) for name in names]
        axis.set_ticks(ax.get_yticks(), labels=lines)
        most = 1 + max(name.count("\n") for name in lines)  # names stand at equal distances
        inches = 1.25 * axis.get_ticklabels()[0].get_fontsize() / 72 * most * len(lines)
    for text, words in texts:
        text.set_text(_lines(words, 2 * letters if text is ax.xaxis.label else letters))
    try:
        yield inches
    finally:
        axis.set_major_locator(before[0])
        axis.set_major_formatter(before[1])
        for text, words in texts:
            text.set_text(words)


def _lines(words: str, letters: int) -> str:
    """``words`` in lines, broken where they have two spaces or after about ``letters``; formulas as they are."""
    if len(words) <= letters or "$" in words:
        return words
    return "\n".join(textwrap.fill(part, letters, break_long_words=False) for part in re.split("  +|\n", words))


def _folded(figure: Figure, legend: Legend) -> None:
    """The legend below the plots, in as many columns as a phone's column takes."""
    names = [text.get_text() for text in legend.get_texts()]
    size = legend.get_texts()[0].get_fontsize()
    width = (4 + 0.55 * max(map(len, names))) * size / 72  # of a column: a handle, and letters of half a line's height
    figure.legend(
        legend.legend_handles,
        names,
        loc="outside lower center",
        ncols=max(1, min(legend._ncols, int(PHONE / width))),
        fontsize=size,
        title=legend.get_title().get_text() or None,
    )


def _height(ax: Axes, height: float) -> float:
    """Inches of a panel that fills the column: a plot keeps its height, a picture of fixed proportions its proportions."""
    if ax.get_aspect() == "auto":
        return height
    return min(0.8 * PHONE * ax.get_aspect() * ax.get_data_ratio() + 0.7, 2 * PHONE)


def saved(figure: Figure) -> str:
    """The figure as SVG, as matplotlib writes it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return file.getvalue()


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
