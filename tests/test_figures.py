"""The curves of a chapter, read back from the axes."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bnnlib.book import figures


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
