"""Another layout of a finished figure, for the column of a page on a phone."""

from __future__ import annotations

import copy
import re
import textwrap
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from matplotlib import rcParams
from matplotlib.gridspec import GridSpec

from bnnlib.book.point_names import PointNames

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

WIDTH = 7.2  # inches; the column of a page
PHONE = 3.7  # inches; the column of a page on a phone
TOO_WIDE = 1.1 * PHONE  # inches; what a phone does not show
_SHRINK, _SMALLEST = 0.72, 7  # of the letters of a drawing on a phone; in points, of which 7 are 9 pixels there
_LEAST = 0.42  # of a phone's column that the axes of a plot must have
_LETTERS = (20, 14, 10)  # of a line of a category's name, where names are broken
_NUMBER = r"[-\u2212\d.,%\s]*"


def narrow(figure: Figure) -> Figure | None:
    """A copy of the figure for a phone, as wide as its column: plots stand one above the other; pictures and drawings keep about their
    size, so that half as many stand side by side, and rows of them that belong together stay together.

    Names of categories beside the axes, words in them, and legends below are broken into lines where they would take the width, and
    names below an axis that would touch are turned. A drawing of one panel has smaller letters. None for a figure that is no wider, and
    for one whose words still take the width of a phone.
    """
    panels = _panels(figure)
    grids = {ax.get_subplotspec().get_gridspec() for ax in panels}
    if len(grids) != 1 or figure.get_layout_engine() is None or figure.get_figwidth() <= PHONE:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="constrained_layout not applied")  # no room at all
        for letters in (None, *_LETTERS):  # words beside the axes may leave no room for them
            small = _copy(figure)
            _arrange(small, letters)
            small.draw_without_rendering()
            fits = small.get_tightbbox().width + 2 * rcParams["savefig.pad_inches"] <= TOO_WIDE
            roomy = all(ax.get_position().width > _LEAST for ax in _panels(small) if _is_plot(ax))
            crowded = any(artist.crowded for ax in small.axes for artist in ax.artists if isinstance(artist, PointNames))
            if fits and roomy and (not crowded or letters == _LETTERS[-1]):
                return small
    return None


def _panels(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_subplotspec() is not None]


def _is_picture(ax: Axes) -> bool:
    """Whether a panel is a picture without an axis: a row of them may stay side by side on a phone."""
    return bool(ax.images) and not len(ax.get_xticks())


def _is_plot(ax: Axes) -> bool:
    return ax.axison and not _is_picture(ax)


def _copy(figure: Figure) -> Figure:
    """A copy of which pyplot, which shows the figures it knows, does not know."""
    manager, figure.canvas.manager = figure.canvas.manager, None
    try:
        return copy.deepcopy(figure)
    finally:
        figure.canvas.manager = manager


def _arrange(figure: Figure, letters: int | None) -> None:
    """Arranges a figure for a phone; names and words broken into lines of about ``letters``."""
    figure.draw_without_rendering()
    panels = _panels(figure)
    grid = panels[0].get_subplotspec().get_gridspec()
    across = 1 if any(map(_is_plot, panels)) else max(1, int(grid.ncols * PHONE / WIDTH))
    drawing = len(panels) == 1 and not panels[0].axison
    ratios = grid.get_height_ratios() or [1] * grid.nrows
    rows: dict[int, list[Axes]] = {}
    heights: dict[int, float] = {}
    places = {}
    for ax in panels:
        spec = ax.get_subplotspec()
        row, (block, at) = spec.rowspan.start, divmod(spec.colspan.start, across)
        places[ax] = row * grid.ncols + block if across == 1 else block * grid.nrows + row, at
        rows.setdefault(places[ax][0], []).append(ax)
        heights[ax] = 0.62 * figure.get_figheight() if drawing else figure.get_figheight() * ratios[row] / sum(ratios)
    tall = []
    for row in sorted(rows):
        reach = _reach(rows[row])
        tall.append(max(_height(ax, reach, heights[ax], across) for ax in rows[row]))
    legends, figure.legends = list(figure.legends), []
    for legend in legends:
        _fold(figure, legend)
    column = _move(figure, places, tall, across)
    if drawing:
        for text in panels[0].texts:
            text.set_fontsize(max(_SMALLEST, _SHRINK * text.get_fontsize()))
    figure.set_size_inches(PHONE, sum(tall))
    figure.draw_without_rendering()
    if letters:
        for i, row in enumerate(sorted(rows)):
            for ax in rows[row]:
                if ax.axison:
                    around = (ax.get_tightbbox().height - ax.get_window_extent().height) / figure.dpi
                    tall[i] = max(tall[i], _break(ax, letters) + around + 0.3)
        column.set_height_ratios(tall)
        figure.set_size_inches(PHONE, sum(tall))
        figure.draw_without_rendering()
    for ax in panels:
        if _is_plot(ax):
            _turn(ax)


def _move(figure: Figure, places: dict[Axes, tuple[int, int]], tall: list[float], across: int) -> GridSpec:
    """Puts the panels at their places, with labels where they have come to stand at the left."""
    first = {ax.get_subplotspec().rowspan.start: ax for ax in reversed(places)}
    names = {row: ax.get_ylabel() for row, ax in first.items()}
    column = GridSpec(len(tall), across, figure=figure, height_ratios=tall)
    rows = sorted({row for row, _ in places.values()})
    for ax, (row, at) in places.items():
        before = ax.get_subplotspec().rowspan.start
        leftmost = first[before]
        if at == 0 and ax.axison and (_is_picture(ax) or ax.get_shared_y_axes().joined(ax, leftmost)):
            if not _is_picture(ax):
                ax.tick_params(labelleft=True)
            ax.set_ylabel(ax.get_ylabel() or names[before], fontsize=leftmost.yaxis.label.get_fontsize())
        ax.set_subplotspec(column[rows.index(row), at])
    return column


def _turn(ax: Axes) -> None:
    """Turns the names below an axis where two of them touch; numbers, of which an axis takes fewer by itself, stay."""
    labels = [label for label in ax.get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    if all(a.x1 + 2 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False)):
        return
    if all(re.fullmatch(_NUMBER, label.get_text()) for label in labels):
        return
    if any(label.get_rotation() for label in labels):
        look = {"rotation": 90, "ha": "center", "va": "top", "rotation_mode": "default"}
    else:
        look = {"rotation": 40, "ha": "right", "va": "top", "rotation_mode": "anchor"}
    for label in labels:
        label.set(**look)


def _break(ax: Axes, letters: int) -> float:
    """Breaks names of categories up the side of a plot, and words in it, into lines of about ``letters``; numbers stay. Gives the inches
    that the names need, one above the other."""
    axis, inches = ax.yaxis, 0.0
    names = [tick.get_text() for tick in axis.get_ticklabels()]
    if not all(re.fullmatch(_NUMBER, name) or name.startswith("$") for name in names):
        lines = [_lines(name, letters) for name in names]
        axis.set_ticks(ax.get_yticks(), labels=lines)
        most = 1 + max(name.count("\n") for name in lines)  # names stand at equal distances
        inches = 1.25 * axis.get_ticklabels()[0].get_fontsize() / 72 * most * len(lines)
    ax.set_xlabel(_lines(ax.get_xlabel(), 2 * letters))
    for text in ax.texts:
        text.set_text(_lines(text.get_text(), letters))
    for artist in ax.artists:
        if isinstance(artist, PointNames):
            artist.names = [_lines(name, letters) for name in artist.names]
    return inches


def _lines(words: str, letters: int) -> str:
    """``words`` in lines, broken where they have two spaces or after about ``letters``; formulas as they are."""
    if len(words) <= letters or "$" in words:
        return words
    return "\n".join(textwrap.fill(part, letters, break_long_words=False) for part in re.split("  +|\n", words))


def _fold(figure: Figure, legend: Legend) -> None:
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


def _height(ax: Axes, reach: tuple[float, float] | None, share: float, across: int) -> float:
    """Inches of a panel on a phone. A plot keeps those it has, ``share``; a picture of fixed proportions keeps its proportions. A drawing
    loses what is empty above and below ``reach``."""
    part = 1.0
    if reach:
        low, high = ax.get_ylim()
        room = 0.02 * (high - low)
        ax.set_ylim(max(low, reach[0] - room), min(high, reach[1] + room))
        part = (ax.get_ylim()[1] - ax.get_ylim()[0]) / (high - low)
    if ax.get_aspect() == "auto":
        return share * part
    lines = sum(1 + words.count("\n") for words in (ax.get_title(), ax.get_xlabel()) if words)
    wide = 0.8 * PHONE if across == 1 else PHONE / across - 0.1
    beside = 0.7 if _is_plot(ax) else 0.1 + 0.2 * lines
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
