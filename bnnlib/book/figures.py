"""One look for every figure of the book: ``use_style()`` once in a chapter's set-up cell, and these colours
by meaning.

Figures are SVG on a transparent ground. On a page they stand in the text, where ink, grid and the colours of meaning
follow the page's theme (:mod:`bnnlib.book.pages.figures` puts variables of the style sheet in their places), so use
these names rather than colours of your own: ``INK`` for lines and words, ``FAINT`` for what stays in the background.

A chapter draws each figure once, at the width of a page. Beside it the notebook keeps the same figure for a phone, where panels that
stand side by side stand one above the other (:func:`narrow`). Captions therefore name panels by their titles, not by their places.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import textwrap
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

    from bnnlib.records import Record

BINARY, REAL, SOURCE, OURS, FAINT = "#2463eb", "#6b7280", "#d9480f", "#0b7a43", "#cbd5e1"
INK, GRID = "#1f2328", "#e5e7eb"
ON = "#fefefe"  # words on a box of one of the first four colours: white, and nearly black on a dark page, where those are light
FURTHER = ("#581c87", "#5d3a06")  # for a fifth and sixth line: gradients are the first; told apart by readers who see no red or green
FLOAT32, BFLOAT16, INT8 = REAL, FURTHER[1], FURTHER[0]  # kinds of numbers; one bit is BINARY
TINT = 0.18  # opacity of a box behind words in INK, where the box itself is of one of these colours
WIDTH = 7.2  # inches; the column of a page
PHONE = 3.7  # inches; the column of a page on a phone
_SHRINK, _SMALLEST = 0.72, 7  # of the letters of a drawing on a phone; in points, of which 7 are 9 pixels there
_LEAST = 0.42  # of a phone's column that the axes of a plot must have
_LETTERS = (20, 14, 10)  # of a line of a category's name, where names are broken
_NUMBER = r"[-\u2212\d.,%\s]*"
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
    wide, small = saved(figure), narrow(figure)
    if small is None:
        return wide
    end = wide.rindex("</svg>")
    return f"{wide[:end]}<metadata>narrow:{base64.b64encode(small.encode()).decode()}</metadata>{wide[end:]}"


def split(drawn: str) -> tuple[str, str | None]:
    """(the figure, the one for a phone or None) of what :func:`svg` gave."""
    found = _NARROW.search(drawn)
    return _NARROW.sub("", drawn), base64.b64decode(found[1]).decode() if found else None


def is_too_wide(drawn: str) -> bool:
    """Whether what :func:`svg` gave is wider than a phone and has no layout for one. Pictures of another origin are not judged."""
    found = _DRAWN_WIDTH.search(drawn)
    return "matplotlib" in drawn[:2000] and found is not None and float(found[1]) > 1.1 * 72 * PHONE and split(drawn)[1] is None


def _say_logarithmic(figure: Figure) -> None:
    """Each label of a logarithmic axis says that it is one."""
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            words = axis.get_label_text()
            if axis.get_scale() == "log" and words and "log scale" not in words:
                axis.set_label_text(words + ("\n" if axis is ax.yaxis and len(words) > 24 else " ") + "(log scale)")


def narrow(figure: Figure) -> str | None:
    """The figure as SVG for a phone, as wide as its column: plots stand one above the other; pictures and drawings keep about their
    size, so that half as many stand side by side, and rows of them that belong together stay together.

    Names of categories beside the axes, words in them, and legends below are broken into lines where they would take the width, and
    names below an axis that would touch are turned. A drawing of one panel has smaller letters. None for a figure that is no wider, and
    for one whose words still take the width of a phone. The figure itself is left as it was.
    """
    panels = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    grids = {ax.get_subplotspec().get_gridspec() for ax in panels}
    width, height = figure.get_size_inches()
    if len(grids) != 1 or figure.get_layout_engine() is None or width <= PHONE:
        return None
    (grid,) = grids
    plots = [ax for ax in panels if ax.axison and not _is_picture(ax)]
    across = 1 if plots else max(1, int(grid.ncols * PHONE / WIDTH))
    rows: dict[int, list[Axes]] = {}
    places = []
    for ax in panels:
        spec = ax.get_subplotspec()
        row, column = spec.rowspan.start, spec.colspan.start
        block, column = divmod(column, across)
        place = (row * grid.ncols + block if across == 1 else block * grid.nrows + row), column
        places.append(place)
        rows.setdefault(place[0], []).append(ax)
    shares = grid.get_height_ratios() or [1] * grid.nrows
    shares = {ax: height * shares[ax.get_subplotspec().rowspan.start] / sum(shares) for ax in panels}
    if len(panels) == 1 and not panels[0].axison:
        shares = {panels[0]: 0.62 * height}
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="constrained_layout not applied")  # no room at all
        figure.draw_without_rendering()
        reach = {at: _reach(row) for at, row in rows.items()}
        tall = [max(_height(ax, stack, reach[at], shares[ax], across) for ax in rows[at]) for at in sorted(rows)]
        _rearranged(figure, stack, panels, places, tall, across)
        if len(panels) == 1 and not panels[0].axison:
            for text in panels[0].texts:
                stack.callback(text.set_fontsize, text.get_fontsize())
                text.set_fontsize(max(_SMALLEST, _SHRINK * text.get_fontsize()))
        for letters in (None, *_LETTERS):  # words beside the axes may leave no room for them
            with contextlib.ExitStack() as once:
                high = list(tall)
                for ax in panels if letters else ():
                    if ax.axison:
                        at = sorted(rows).index(next(at for at, held in rows.items() if ax in held))
                        below = (ax.get_tightbbox().height - ax.get_window_extent().height) / figure.dpi
                        high[at] = max(high[at], once.enter_context(_broken(ax, letters)) + below + 0.3)
                figure.set_size_inches(PHONE, sum(high))
                figure.draw_without_rendering()
                for ax in plots:
                    _turned(ax, once)
                drawn = saved(figure)
                fits = float(_DRAWN_WIDTH.search(drawn)[1]) <= 1.1 * 72 * PHONE
                if fits and all(ax.get_position().width > _LEAST for ax in plots):
                    with _named(figure) as found:
                        if found or letters == _LETTERS[-1]:
                            return drawn
        return None


def _is_picture(ax: Axes) -> bool:
    """Whether a panel is a picture without an axis: a row of them may stay side by side on a phone."""
    return bool(ax.images) and not len(ax.get_xticks())


def _rearranged(
    figure: Figure, stack: contextlib.ExitStack, panels: list[Axes], places: list[tuple[int, int]], tall: list[float], across: int
) -> None:
    """Puts the panels at their places on a phone, with labels where they have come to stand at the left; ``stack`` undoes it."""
    from matplotlib.gridspec import GridSpec

    stack.callback(figure.set_size_inches, *figure.get_size_inches())
    stack.callback(setattr, figure, "legends", list(figure.legends))
    legends, figure.legends = list(figure.legends), []
    for legend in legends:
        _folded(figure, legend)
    first = {ax.get_subplotspec().rowspan.start: ax for ax in reversed(panels)}
    names = {row: ax.get_ylabel() for row, ax in first.items()}
    column = GridSpec(1 + max(row for row, _ in places), across, figure=figure, height_ratios=tall)
    for ax, (row, at) in zip(panels, places, strict=True):
        spec = ax.get_subplotspec()
        leftmost = first[spec.rowspan.start]
        stack.callback(ax.set_subplotspec, spec)
        if at == 0 and ax.axison and (_is_picture(ax) or ax.get_shared_y_axes().joined(ax, leftmost)):
            stack.callback(ax.tick_params, labelleft=ax.yaxis.get_tick_params().get("labelleft", True))
            stack.callback(ax.set_ylabel, ax.get_ylabel())
            if not _is_picture(ax):
                ax.tick_params(labelleft=True)
            ax.set_ylabel(ax.get_ylabel() or names[spec.rowspan.start], fontsize=leftmost.yaxis.label.get_fontsize())
        ax.set_subplotspec(column[row, at])


def _turned(ax: Axes, stack: contextlib.ExitStack) -> None:
    """Turns the names below an axis where two of them touch; numbers, of which an axis takes fewer by itself, stay."""
    labels = [label for label in ax.get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    if all(a.x1 + 2 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False)):
        return
    steep = any(label.get_rotation() for label in labels)
    if all(re.fullmatch(_NUMBER, label.get_text()) for label in labels):
        return
    for label in labels:
        stack.callback(
            label.set, rotation=label.get_rotation(), ha=label.get_ha(), va=label.get_va(), rotation_mode=label.get_rotation_mode()
        )
        label.set(**({"rotation": 90, "ha": "center", "va": "top"} if steep else {"rotation": 40, "ha": "right", "va": "top"}))
        label.set_rotation_mode("default" if steep else "anchor")


@contextlib.contextmanager
def _broken(ax: Axes, letters: int) -> Iterator[float]:
    """For a while, names of categories up the side of a plot, and words in it, in lines of about ``letters``; numbers stay. Gives
    the inches that the names need, one above the other."""
    axis, texts = ax.yaxis, [(text, text.get_text()) for text in (*ax.texts, ax.xaxis.label)]
    before = axis.get_major_locator(), axis.get_major_formatter()
    names = [tick.get_text() for tick in axis.get_ticklabels()]
    inches = 0.0
    if not all(re.fullmatch(_NUMBER, name) or name.startswith("$") for name in names):
        lines = [_lines(name, letters) for name in names]
        axis.set_ticks(ax.get_yticks(), labels=lines)
        most = 1 + max(name.count("\n") for name in lines)  # names stand at equal distances
        inches = 1.25 * axis.get_ticklabels()[0].get_fontsize() / 72 * most * len(lines)
    for text, words in texts:
        text.set_text(_lines(words, 2 * letters if text is ax.xaxis.label else letters))
    named = _NAMES.get(ax)
    if named:
        _NAMES[ax] = named[0], [_lines(name, letters) for name in named[1]], *named[2:]
    try:
        yield inches
    finally:
        if named:
            _NAMES[ax] = named
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


def _height(ax: Axes, stack: contextlib.ExitStack, reach: tuple[float, float] | None, share: float, across: int) -> float:
    """Inches of a panel on a phone. A plot keeps those it has, ``share``; a picture of fixed proportions keeps its proportions. A drawing
    loses what is empty above and below ``reach``; ``stack`` gives it back."""
    part = 1.0
    if reach:
        low, high = ax.get_ylim()
        stack.callback(ax.set_ylim, low, high)
        room = 0.02 * (high - low)
        ax.set_ylim(max(low, reach[0] - room), min(high, reach[1] + room))
        part = (ax.get_ylim()[1] - ax.get_ylim()[0]) / (high - low)
    if ax.get_aspect() == "auto":
        return share * part
    lines = sum(1 + words.count("\n") for words in (ax.get_title(), ax.get_xlabel()) if words)
    wide = 0.8 * PHONE if across == 1 else PHONE / across - 0.1
    beside = 0.7 if ax.axison and not _is_picture(ax) else 0.1 + 0.2 * lines
    return min(wide * ax.get_aspect() * ax.get_data_ratio() + beside, 2 * PHONE)


def _reach(row: Iterable[Axes]) -> tuple[float, float] | None:
    """Lowest and highest of what is drawn in the panels of a row, in their own unit; None where they are no drawings."""
    ends = []
    for ax in row:
        if ax.axison or ax.images:
            return None
        boxes = [artist.get_window_extent() for artist in (*ax.patches, *ax.lines, *ax.texts)]
        ends += [y for _, y in ax.transData.inverted().transform([(0, y) for box in boxes for y in (box.y0, box.y1)])] if boxes else []
    return (min(ends), max(ends)) if ends else None


def saved(figure: Figure) -> str:
    """The figure as SVG, as matplotlib writes it."""
    file = io.StringIO()
    with _named(figure):
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
    from matplotlib.ticker import MaxNLocator

    colours = len(mpl.rcParams["axes.prop_cycle"])
    for place, (name, label) in enumerate(labels.items()):
        for i, record in enumerate(runs.get(name, ())):
            epochs = [point.epoch for point in record.curve]
            look = {"color": f"C{place}", "lw": 1 if i else 2, "ls": "--" if place >= colours else "-", "ms": 4}
            if len(epochs) == 1:
                look["marker"] = "o"  # a line through one point is not to be seen
            look |= (looks or {}).get(name, {})
            ax.plot(epochs, [getattr(point, field) for point in record.curve], label=None if i else label, **look)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")


_PLACES = (  # of a name beside its point: points of print to the right and up, and the sides of the name that lie there
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 7, "center", "bottom"), (0, -7, "center", "top"),
    (6, 6, "left", "bottom"), (6, -6, "left", "top"), (-6, 6, "right", "bottom"), (-6, -6, "right", "top"),
    (0, 18, "left", "bottom"), (0, -18, "left", "top"),
)  # fmt: skip
_NAMES: weakref.WeakKeyDictionary[Axes, tuple] = weakref.WeakKeyDictionary()


def name_points(
    ax: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str], sizes: Sequence[float] = ()
) -> None:
    """Each point's name beside it, in its colour, at the first place within the axes where it covers neither a point nor a name: on a phone
    it may be another. ``sizes``: half widths of the points, in points of print."""
    _NAMES[ax] = points, names, colours, sizes or [5.0] * len(points)


@contextlib.contextmanager
def _named(figure: Figure) -> Iterator[bool]:
    """For a while, the names of :func:`name_points` at their places; gives whether there was one for each."""
    from matplotlib.transforms import Bbox

    written, found = [], True
    if any(ax in _NAMES for ax in figure.axes):
        figure.draw_without_rendering()
    for ax in (ax for ax in figure.axes if ax in _NAMES):
        points, names, colours, sizes = _NAMES[ax]
        dots = figure.dpi / 72
        taken = [
            Bbox.from_extents(x - r * dots, y - r * dots, x + r * dots, y + r * dots)
            for (x, y), r in zip(ax.transData.transform(points), sizes, strict=True)
        ]
        frame = ax.get_window_extent()
        for i, (point, name) in enumerate(zip(points, names, strict=True)):
            others = taken[:i] + taken[i + 1 :]
            more = sizes[i] - 5  # of a larger point
            for place in _PLACES:
                x, y, ha, va = place
                at = x + more * ((x > 0) - (x < 0)), y + more * ((y > 0) - (y < 0))
                text = ax.annotate(name, point, at, textcoords="offset points", ha=ha, va=va, fontsize=9, color=colours[i])
                box = text.get_window_extent()
                if frame.x0 <= box.x0 and box.x1 <= frame.x1 and not any(box.overlaps(other) for other in others):
                    break
                if place != _PLACES[-1]:
                    text.remove()
            else:
                found = False
            taken.append(box)
            written.append(text)
    try:
        yield found
    finally:
        for text in written:
            text.remove()
