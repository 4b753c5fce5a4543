"""A figure's layout for a phone: one column, nothing wider than it, and the figure itself as it was."""

from __future__ import annotations

import re

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from bnnlib.book import figures
from bnnlib.book.phone_layout import PHONE, TOO_WIDE, narrow


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        figures.use_style()
        yield
    plt.close("all")


def inches(figure: Figure) -> tuple[float, float]:
    """Width and height as saved, from where the artists are."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    return box.width + 0.2, box.height + 0.2


def state(figure: Figure) -> tuple:
    """What a reader sees of a figure, but for the last digits of the places, which each drawing changes."""
    words = [(t.get_text(), t.get_fontsize(), t.get_rotation()) for t in figure.findobj(Text) if t.get_text()]
    limits = [(ax.get_xlim(), ax.get_ylim(), ax.get_subplotspec().get_position(figure).bounds) for ax in figure.axes]
    return tuple(figure.get_size_inches()), words, limits, len(figure.legends)


def small(figure: Figure) -> Figure:
    """The layout for a phone, which is narrow enough; the figure is as it was, and pyplot, which would show it, does not know the other."""
    figure.draw_without_rendering()
    before, known = state(figure), plt.get_fignums()
    made = narrow(figure)
    figure.draw_without_rendering()
    assert made is not figure and state(figure) == before and plt.get_fignums() == known
    assert inches(made)[0] <= TOO_WIDE
    return made


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_panels_stand_one_above_the_other(panels):
    fig, axes = plt.subplots(1, panels, figsize=(figures.WIDTH, 3), sharey=True, squeeze=False)
    axes[0, 0].set_ylabel("accuracy")
    for ax in axes.flat:
        ax.plot([0, 1])
    before = inches(fig)
    made = small(fig)
    assert inches(made)[1] == pytest.approx(before[1] * panels, rel=0.15)
    assert [ax.get_ylabel() for ax in made.axes] == ["accuracy"] * panels
    wide, other = (re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn).groups() for drawn in figures.split(figures.svg(fig)))
    assert [float(side) / 72 for side in wide] == pytest.approx(before, abs=0.02)
    assert [float(side) / 72 for side in other] == pytest.approx(inches(made), abs=0.02)


@pytest.mark.parametrize(("rows", "columns", "across"), [(2, 2, 1), (3, 1, 1), (2, 10, 5), (1, 12, 6), (4, 6, 3), (1, 5, 2), (1, 2, 1)])
def test_plots_stand_in_one_column_and_pictures_in_half_as_many(rows, columns, across):
    pictures = (rows, columns) not in [(2, 2), (3, 1), (1, 2)]
    fig, axes = plt.subplots(rows, columns, figsize=(figures.WIDTH, 4), squeeze=False)
    for ax in axes.flat:
        ax.imshow([[0, 1], [1, 0]]) if pictures else ax.plot([0, 1])
    if pictures:
        figures.bare(axes)
        axes[0, 0].set_ylabel("one")
    places = [ax.get_window_extent() for ax in small(fig).axes]
    assert len(places) == rows * columns
    assert len({round(place.x0) for place in places}) == across
    if pictures:
        one, other = places[0], places[(rows - 1) * columns]
        later = places[across] if columns > across else None
        assert later is None or later.y0 < other.y0 <= one.y0, "rows that belong together stay together"
    else:
        assert [p.y0 for p in places] == sorted((p.y0 for p in places), reverse=True), "in the order in which they are read"


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # a single word is lower than its margins
def test_a_drawing_has_smaller_letters_and_loses_what_is_empty():
    fig, ax = plt.subplots(figsize=(figures.WIDTH, 3))
    ax.text(0.5, 0.5, "words", fontsize=8)
    ax.axis("off")
    assert small(fig).axes[0].texts[0].get_fontsize() == 7
    fig, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 5))
    figures.flow(axes[0], [("a", figures.REAL)] * 2 + [("+", figures.REAL)], "long", rows=9, between=["x"], shortcut="around")
    figures.flow(axes[1], [("a", figures.BINARY)], "short", rows=9)
    assert inches(small(fig))[1] < 3.5
    assert axes[0].get_ylim() == axes[1].get_ylim() == (-8.8, 0.75)


def test_what_is_no_wider_than_a_phone_or_cannot_be_has_no_other_layout():
    fig, _ = plt.subplots(figsize=(PHONE, 3))
    assert narrow(fig) is None and not figures.is_too_wide(figures.svg(fig))
    fig, ax = plt.subplots()
    ax.barh(["w" * 48], [1])
    assert narrow(fig) is None and figures.is_too_wide(figures.svg(fig))


def test_pictures_keep_their_proportions():
    fig, axes = plt.subplots(1, 3, figsize=(figures.WIDTH, 2.5))
    for ax in axes:
        ax.imshow([[0, 1], [1, 0], [0, 1], [1, 1]])
    width, height = inches(small(fig))
    assert 3 * 1.6 * width < height < 3 * 2.4 * width, "a picture of two columns and four rows is twice as high as wide"


@pytest.mark.parametrize(
    ("names", "turned"), [(["a", "b"], 0), (["identity", "detached"], 0), ([f"a longer name {i}" for i in range(5)], 40)]
)
def test_names_below_an_axis_are_turned_where_they_would_touch(names, turned):
    fig, ax = plt.subplots()
    ax.plot(range(5))
    ax.set_xticks(range(len(names)), names)
    assert {label.get_rotation() for label in small(fig).axes[0].get_xticklabels()} == {turned}


@pytest.mark.parametrize("by_hand", [False, True], ids=["categories", "ticks by hand"])
def test_long_names_are_broken(by_hand):
    names = ["a name that is as long as the column of a phone", "short", "another that is as long as the column is"]
    fig, ax = plt.subplots(figsize=(figures.WIDTH, 2))
    ax.barh(range(3) if by_hand else names, [1, 2, 3])
    if by_hand:
        ax.set_yticks(range(3), names, fontsize=8.5)
    fig.legend(*[[plt.Rectangle((0, 0), 1, 1)] * 3, ["what a bar of this colour means"] * 3], loc="outside lower center", ncols=3)
    shown = [label.get_text() for label in small(fig).axes[0].get_yticklabels()]
    assert [words.replace("\n", " ") for words in shown] == names and "\n" in shown[0]


def test_names_of_points_take_other_places():
    fig, ax = plt.subplots(figsize=(figures.WIDTH, 3))
    ax.plot([0, 1], [0, 1], "o")
    figures.name_points(ax, [(0, 0), (1, 1)], ["one", "at the right end, with a name that is as long as that"], [figures.BINARY] * 2)
    (names,) = small(fig).axes[0].artists
    assert not names.crowded and "\n" in names.names[1]
    assert "\n" not in ax.artists[0].names[1]
