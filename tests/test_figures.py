"""The curves of a chapter, read back from the axes."""

from __future__ import annotations

import io
import re

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bnnlib.book import figures
from bnnlib.book.pages import figures as pages


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


def test_grids_rows_of_pictures_and_diagrams_have_one_layout():
    with plt.rc_context():
        figures.use_style()
        for shape in ((2, 2), (1, 8), (2, 1)):
            fig, _ = plt.subplots(*shape, figsize=(figures.WIDTH, 3))
            assert figures.narrow(fig) is None and figures.split(figures.svg(fig))[1] is None
        fig, ax = plt.subplots()
        ax.axis("off")
        assert figures.narrow(fig) is None
        fig, ax = plt.subplots()
        ax.barh(["w" * 48], [1])
        assert figures.narrow(fig) is None
        fig, axes = plt.subplots(1, 3, figsize=(figures.WIDTH, 2.5))
        for ax in axes:
            ax.imshow([[0, 1], [1, 0], [0, 1], [1, 1]])
        width, height = box(figures.narrow(fig))
        assert 3 * 1.6 * width < height < 3 * 2.4 * width, "a picture of two columns and four rows is twice as high as wide"
        plt.close("all")


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
