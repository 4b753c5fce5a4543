"""Names beside points: none covers a point or another name, at any size of the figure."""

from __future__ import annotations

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bnnlib.book import figures
from bnnlib.book.point_names import PointNames


@pytest.mark.parametrize("size", [(7.2, 3), (3.7, 3)])
@pytest.mark.parametrize("dpi", [72, 110])
def test_names_cover_no_point_and_no_name(size, dpi):
    fig, ax = plt.subplots(figsize=size, dpi=dpi, layout="constrained")
    points, half = [(0, 0), (0.02, 0), (1, 1), (1, 0.9)], [5.0, 5.0, 5.0, 12.0]
    ax.plot(*zip(*points, strict=True), "o")
    names = PointNames(points, ["one", "two", "at the right end", "at the right end too"], [figures.BINARY] * 4, half)
    ax.add_artist(names)
    fig.draw_without_rendering()
    texts = names.placed(fig.canvas.get_renderer())
    assert [text.get_text() for text in texts] == names.names and not names.crowded
    boxes, frame = [text.get_window_extent() for text in texts], ax.get_window_extent()
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[i + 1 :])
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    for (x, y), radius in zip(ax.transData.transform(points), half, strict=True):
        r = radius * dpi / 72
        assert not any(box.x0 < x + r and x - r < box.x1 and box.y0 < y + r and y - r < box.y1 for box in boxes)
    plt.close()


def test_a_name_without_a_free_place_is_told_and_drawn_all_the_same():
    fig, ax = plt.subplots(figsize=(2, 1), layout="constrained")
    ax.plot([0, 1], [0, 1])
    figures.name_points(ax, [(0, 0), (1, 1)], ["a name that is wider than the axes are"] * 2, [figures.BINARY] * 2)
    fig.draw_without_rendering()
    (names,) = ax.artists
    assert names.crowded and len(names.placed(fig.canvas.get_renderer())) == 2
    plt.close()
