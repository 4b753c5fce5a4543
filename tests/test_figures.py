"""Figures: curves read back from the axes, layouts for a page and for a phone, and the figures of the chapters."""

from __future__ import annotations

import io
import itertools
import re

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bnnlib.book import chapters, figures
from bnnlib.book.pages import figures as pages
from bnnlib.paths import ROOT


def test_curves_are_the_records(a_record):
    runs = {"one": [a_record(seed=0), a_record(seed=1)], "none": [], "two": [a_record()]}
    with plt.rc_context():
        figures.use_style()
        _, ax = plt.subplots()
        figures.draw_curves(ax, runs, {"one": "first", "none": "-", "two": "second"}, "train_loss")
        lines = ax.get_lines()
        expected = [point.train_loss for point in runs["one"][0].curve]
        assert [list(line.get_ydata()) for line in lines] == [expected] * 3
        assert [list(line.get_xdata()) for line in lines] == [[1, 2]] * 3
        assert lines[0].get_color() == lines[1].get_color() == "C0" and lines[2].get_color() == "C2"
        assert lines[0].get_linewidth() > lines[1].get_linewidth()
        assert ax.get_legend_handles_labels()[1] == ["first", "second"]
        plt.close()


def test_more_recipes_than_colours_are_dashed(a_record):
    with plt.rc_context():
        figures.use_style()
        _, ax = plt.subplots()
        names = [f"recipe {i}" for i in range(8)]
        figures.draw_curves(ax, {n: [a_record()] for n in names}, {n: n for n in names})
        looks = [(matplotlib.colors.to_hex(li.get_color()), li.get_linestyle()) for li in ax.get_lines()]
        assert len(set(looks)) == 8
        plt.close()


def drawn():
    """A figure of the book as the SVG that a notebook holds."""
    with plt.rc_context():
        figures.use_style()
        fig, ax = plt.subplots()
        ax.plot([0, 1], color=figures.BINARY, marker="o")
        ax.axhline(0.5, color="black")
        ax.text(0, 0, "ours", color=figures.OURS)
        out = io.StringIO()
        fig.savefig(out, format="svg", metadata={"Date": None})
        plt.close()
        return out.getvalue()


def test_figures_have_no_ground_and_are_the_same_each_time():
    first = drawn()
    assert first == drawn()
    assert "fill: #ffffff" not in first


def test_a_figure_in_a_page_takes_the_colours_of_the_page():
    shown = pages.as_inline(drawn(), "A line &amp; a word.", "f7-")
    assert shown.startswith('<svg class="drawn" viewBox="0 0 ') and shown.rstrip().endswith("</svg>")
    assert 'role="img" aria-label="A line &amp; a word."' in shown
    assert "var(--book-binary)" in shown and "var(--book-ours)" in shown and "currentColor" in shown
    assert not set(re.findall("#[0-9a-f]{6}", shown)) & {*pages.VARIABLES, "#000000"}
    defined = set(re.findall(r' id="([^"]+)"', shown))
    assert defined == set(re.findall(r'(?:href="#|url\(#)([^")]+)', shown)), "no id but what is referred to"
    assert all(name.startswith("f7-") for name in defined)
    with pytest.raises(ValueError, match="without a viewBox"):
        pages.as_inline("<svg width='1'></svg>", "", "f1-")


def test_a_sites_figures_stand_in_its_pages(tmp_path):
    images = tmp_path / "_images"
    images.mkdir()
    (images / "a.svg").write_text(drawn())
    (images / "logo.svg").write_text("<svg viewBox='0 0 1 1'></svg>")
    (tmp_path / "notebooks").mkdir()
    page = tmp_path / "notebooks" / "one.html"
    page.write_text('<p><img alt="A curve." src="../_images/a.svg"/><img src="../_images/logo.svg"/></p>')
    assert pages.inline(tmp_path) == 1
    text = page.read_text()
    assert text.count("<svg") == 1 and 'aria-label="A curve."' in text and "logo.svg" in text
    assert not (images / "a.svg").exists() and (images / "logo.svg").exists()


def box(drawn: str) -> tuple[float, float]:
    """Width and height of an SVG, inches."""
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn).groups()
    return float(width) / 72, float(height) / 72


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_on_a_phone_panels_stand_one_above_the_other(panels):
    with plt.rc_context():
        figures.use_style()
        fig, axes = plt.subplots(1, panels, figsize=(figures.WIDTH, 3), sharey=True, squeeze=False)
        axes[0, 0].set_ylabel("accuracy")
        for ax in axes.flat:
            ax.plot([0, 1])
        before = box(figures.saved(fig))
        wide, small = figures.split(figures.svg(fig))
        assert box(wide) == pytest.approx(before, rel=0.01) == box(figures.saved(fig)), "the figure is left as it was"
        assert "<metadata>narrow" not in wide
        assert box(small)[0] <= figures.PHONE * 1.05 and box(small)[1] == pytest.approx(before[1] * panels, rel=0.15)
        assert [ax.get_ylabel() for ax in axes.flat] == ["accuracy"] + [""] * (panels - 1)
        plt.close()


def at(drawn: str) -> int:
    """Panels with something drawn in an SVG."""
    return len(re.findall(r'<g id="axes_\d+">', drawn))


@pytest.mark.parametrize(("rows", "columns", "across"), [(2, 2, 1), (3, 1, 1), (2, 10, 5), (1, 12, 6), (4, 6, 3), (1, 5, 2), (1, 2, 1)])
def test_on_a_phone_plots_stand_in_one_column_and_pictures_in_half_as_many(rows, columns, across, monkeypatch):
    pictures = (rows, columns) not in [(2, 2), (3, 1), (1, 2)]
    with plt.rc_context():
        figures.use_style()
        fig, axes = plt.subplots(rows, columns, figsize=(figures.WIDTH, 4), squeeze=False)
        for ax in axes.flat:
            ax.imshow([[0, 1], [1, 0]]) if pictures else ax.plot([0, 1])
        if pictures:
            figures.bare(axes)
            axes[0, 0].set_ylabel("one")
        before = figures.saved(fig)
        places, seen = {}, figures.saved

        def look(figure):
            figure.draw_without_rendering()
            places.update({ax: ax.get_window_extent().frozen() for ax in axes.flat})
            return seen(figure)

        monkeypatch.setattr(figures, "saved", look)
        small = figures.narrow(fig)
        monkeypatch.undo()
        assert box(small)[0] <= figures.PHONE * 1.05 and at(small) == rows * columns
        assert len({round(place.x0) for place in places.values()}) == across
        if pictures:
            one, other = places[axes[0, 0]], places[axes[-1, 0]]
            later = places[axes[0, across]] if columns > across else None
            assert later is None or later.y0 < other.y0 <= one.y0, "rows that belong together stay together"
        else:
            order = [places[ax].y0 for ax in axes.flat]
            assert order == sorted(order, reverse=True), "in the order in which they are read"
        assert figures.saved(fig) == before, "the figure is left as it was"
        assert [ax.get_ylabel() for ax in axes.flat] == ["one" if pictures else ""] + [""] * (rows * columns - 1)
        plt.close()


def test_a_drawing_has_smaller_letters_on_a_phone_and_loses_what_is_empty():
    with plt.rc_context():
        figures.use_style()
        fig, ax = plt.subplots(figsize=(figures.WIDTH, 3))
        ax.text(0.5, 0.5, "words", fontsize=8)
        ax.axis("off")
        before = figures.saved(fig)
        assert box(figures.narrow(fig))[0] <= figures.PHONE * 1.05
        assert figures.saved(fig) == before and ax.texts[0].get_fontsize() == 8
        fig, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 5))
        figures.flow(axes[0], [("a", figures.REAL)] * 2 + [("+", figures.REAL)], "long", rows=9, between=["x"], shortcut="around")
        figures.flow(axes[1], [("a", figures.BINARY)], "short", rows=9)
        assert box(figures.narrow(fig))[1] < 3.5
        assert axes[0].get_ylim() == axes[1].get_ylim() == (-8.8, 0.75)
        plt.close("all")


def test_what_is_no_wider_than_a_phone_or_cannot_be_has_one_layout():
    with plt.rc_context():
        figures.use_style()
        fig, ax = plt.subplots(figsize=(figures.PHONE, 3))
        assert figures.narrow(fig) is None and not figures.is_too_wide(figures.svg(fig))
        fig, ax = plt.subplots()
        ax.barh(["w" * 48], [1])
        assert figures.narrow(fig) is None and figures.is_too_wide(figures.svg(fig))
        fig, axes = plt.subplots(1, 3, figsize=(figures.WIDTH, 2.5))
        for ax in axes:
            ax.imshow([[0, 1], [1, 0], [0, 1], [1, 1]])
        width, height = box(figures.narrow(fig))
        assert 3 * 1.6 * width < height < 3 * 2.4 * width, "a picture of two columns and four rows is twice as high as wide"
        plt.close("all")


def test_names_below_an_axis_are_turned_where_they_would_touch(monkeypatch):
    with plt.rc_context():
        figures.use_style()
        fig, ax = plt.subplots()
        ax.plot(range(5))
        turned = []
        seen = figures.saved

        def look(figure):
            turned.append({label.get_rotation() for label in ax.get_xticklabels()})
            return seen(figure)

        monkeypatch.setattr(figures, "saved", look)
        for names in (["a", "b"], ["identity", "detached"], [f"a longer name {i}" for i in range(5)]):
            ax.set_xticks(range(len(names)), names)
            assert figures.narrow(fig)
        assert turned == [{0.0}, {0.0}, {40.0}] and {label.get_rotation() for label in ax.get_xticklabels()} == {0.0}
        plt.close()


def test_a_logarithmic_axis_says_that_it_is_one():
    with plt.rc_context():
        figures.use_style()
        fig, ax = plt.subplots()
        ax.loglog([1, 10], [1, 10])
        ax.set(xlabel="size", ylabel="a label that is as high as the axis is")
        figures.svg(fig)
        figures.svg(fig)
        assert ax.get_xlabel() == "size (log scale)" and ax.get_ylabel() == "a label that is as high as the axis is\n(log scale)"
        plt.close()


def test_names_of_points_cover_no_point_and_no_name():
    with plt.rc_context():
        figures.use_style()
        fig, ax = plt.subplots(figsize=(figures.WIDTH, 3))
        points = [(0, 0), (0.02, 0), (1, 1), (1, 0.97)]
        ax.plot(*zip(*points, strict=True), "o")
        figures.name_points(ax, points, ["one", "two", "at the right end", "at the right end too"], [figures.BINARY] * 4)
        boxes = []
        with figures._named(fig):
            boxes = [text.get_window_extent() for text in ax.texts]
        dots = ax.transData.transform(points)
        assert len(boxes) == 4 and not ax.texts
        assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[i + 1 :])
        assert not any(one.contains(x, y) for one in boxes for x, y in dots)
        assert figures.narrow(fig) and not ax.texts
        plt.close()


# What a reader without green or red cones sees, linear RGB (Machado, Oliveira and Fernandes, 2009).
VISION = {
    "all cones": np.eye(3),
    "no green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]),
    "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


def linear(colour: str) -> np.ndarray:
    value = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(("theme", "ground"), [("light", "#ffffff"), ("dark", "#121212")])
def test_colours_are_told_apart_without_red_or_green_and_from_the_page(theme, ground):
    style = (ROOT / "book" / "_static" / "book.css").read_text()
    rules = re.search(rf'html\[data-theme="{theme}"\] \{{(.*?)\}}', style, re.DOTALL)[1]
    named = dict(re.findall(r"--((?:book|figure)-(?:binary|source|ours|real|fifth|sixth)): (#[0-9a-f]{6})", rules))
    assert len(named) == 6
    if theme == "light":
        assert list(named.values())[:4] == [figures.BINARY, figures.SOURCE, figures.OURS, figures.REAL]
        assert list(named.values())[4:] == list(figures.FURTHER)
    for seen, matrix in VISION.items():
        for one, other in itertools.combinations(named, 2):
            apart = np.linalg.norm(lab(matrix @ linear(named[one])) - lab(matrix @ linear(named[other])))
            assert apart >= 20, (seen, one, other, apart)
    for colour in named.values():
        light, dark = sorted((float(linear(c) @ TO_XYZ[1]) for c in (colour, ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


# ------------------------------------------------------------------------------------------ figures of the chapters


def cells():
    for path in chapters.sources():
        notebook = chapters.read(path)
        for cell in notebook.cells:
            yield path.stem, notebook, cell, cell.metadata.get("mystnb", {}).get("figure")


def test_captions_name_panels_by_their_titles_since_a_phone_has_them_elsewhere():
    place = re.compile(r"\b(left|right|middle)\b ?[:,)]|\bon the (left|right)\b|\b(left|right|middle) (panel|picture|plot)s?\b", re.IGNORECASE)
    found = [(name, figure["name"], place.search(figure["caption"])) for name, _, _, figure in cells() if figure]
    assert [(name, figure, hit[0]) for name, figure, hit in found if hit] == []


def test_the_text_refers_to_every_figure():
    missing = []
    for name, notebook, cell, figure in cells():
        if figure and not any(f"numref}}`{figure['name']}`" in other.source.replace("}}`", "}`") for other in notebook.cells if other is not cell):
            missing.append((name, figure["name"]))
    assert missing == []


def test_figures_take_their_colours_from_the_book_and_their_legends_stand_where_there_is_room():
    typed = re.compile(r'"#[0-9a-fA-F]{3,8}"|"C\d|f"C\{|bbox_to_anchor|facecolor="(?:white|black)"')
    found = [(name, hit[0]) for name, _, cell, _ in cells() if cell.cell_type == "code" for hit in typed.finditer(cell.source)]
    assert found == []


@pytest.mark.parametrize("by_hand", [False, True], ids=["categories", "ticks by hand"])
def test_long_names_are_broken_on_a_phone_alone(by_hand):
    names = ["a name that is as long as the column of a phone", "short", "another that is as long as the column is"]
    with plt.rc_context():
        figures.use_style()
        fig, ax = plt.subplots(figsize=(figures.WIDTH, 2))
        ax.barh(range(3) if by_hand else names, [1, 2, 3])
        if by_hand:
            ax.set_yticks(range(3), names, fontsize=8.5)
        fig.legend(*[[plt.Rectangle((0, 0), 1, 1)] * 3, ["what a bar of this colour means"] * 3], loc="outside lower center", ncols=3)
        before = figures.saved(fig)
        small = figures.narrow(fig)
        assert box(small)[0] <= figures.PHONE * 1.05
        assert figures.saved(fig) == before and [t.get_text() for t in ax.get_yticklabels()] == names
        plt.close()


def test_a_figure_with_two_layouts_stands_in_the_page_twice(tmp_path):
    with plt.rc_context():
        figures.use_style()
        fig, _ = plt.subplots(1, 2)
        (tmp_path / "_images").mkdir()
        (tmp_path / "_images" / "a.svg").write_text(figures.svg(fig))
        plt.close()
    page = tmp_path / "one.html"
    page.write_text('<p><img alt="Two." src="_images/a.svg"/></p>')
    assert pages.inline(tmp_path) == 1
    text = page.read_text()
    assert text.count('class="drawn wide"') == text.count('class="drawn narrow"') == 1
    assert text.count('aria-label="Two."') == 2 and "metadata" not in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
