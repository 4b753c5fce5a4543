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


@pytest.mark.parametrize("last", [1, 2, 4, 8, 20, 60])
@pytest.mark.parametrize("panels", [1, 2])
def test_an_axis_of_epochs_has_no_fractions(last, panels):
    with plt.rc_context():
        figures.use_style()
        fig, axes = plt.subplots(1, panels, figsize=(figures.WIDTH, 3.6), squeeze=False)
        for ax in axes.flat:
            ax.plot(range(1, last + 1), range(last), "o-")
            ax.set(xlabel="epoch", ylabel="test accuracy, %")
        figures.svg(fig)
        for ax in axes.flat:
            low, high = ax.get_xlim()
            ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
            assert ticks and all(tick in range(last + 1) for tick in ticks), ticks
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


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0.4, 8), ["0.5", "1", "2", "5"]),
        ((0.06, 1.5), ["0.1", "0.2", "0.5", "1"]),
        ((1.15, 1.45), ["1.15", "1.2", "1.25", "1.3", "1.35", "1.4", "1.45"]),  # less than from one mark to the next
        ((30, 90), ["30", "40", "50", "60", "70", "80", "90"]),
        ((1e-4, 1), None),
        ((1e6, 3e6), None),
    ],
)
def test_a_logarithmic_axis_of_few_decades_has_plain_numbers(limits, expected):
    fig, ax = plt.subplots()
    ax.set(yscale="log", ylim=limits, xscale="log", xlim=(1, 64))
    ax.xaxis.set_major_formatter("{x:g} B")
    figures.svg(fig)
    found = [ax.yaxis.get_major_formatter()(mark) for mark in ax.yaxis.get_majorticklocs() if 0.999 * limits[0] <= mark <= 1.001 * limits[1]]
    assert found == expected if expected else "mathdefault" in found[0]
    assert ax.xaxis.get_major_formatter()(10) == "10 B"  # which the chapter chose
    plt.close()


def test_plain_numbers_of_a_logarithmic_axis_have_room():
    fig, axes = plt.subplots(1, 2)
    axes[0].set(xscale="log", xlim=(0.4, 20))
    axes[1].set(xscale="log", xlim=(200, 20000))
    figures.svg(fig)
    assert [ax.xaxis.get_major_formatter()(ax.get_xlim()[1]).strip("$") == f"{ax.get_xlim()[1]:g}" for ax in axes] == [True, False]
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
