"""Names beside the points of a plot, each at the first place where it covers nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.artist import Artist
from matplotlib.text import Text
from matplotlib.transforms import Bbox, IdentityTransform

if TYPE_CHECKING:
    from matplotlib.backend_bases import RendererBase

_PLACES = (  # points of print to the right and up of a point, and the sides of the name that lie there
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 7, "center", "bottom"), (0, -7, "center", "top"),
    (6, 6, "left", "bottom"), (6, -6, "left", "top"), (-6, 6, "right", "bottom"), (-6, -6, "right", "top"),
    (0, 18, "left", "bottom"), (0, -18, "left", "top"),
)  # fmt: skip
_USUAL = 5.0  # half width of a point, in points of print, for which _PLACES are meant


class PointNames(Artist):
    """Each point's name beside it, in its colour. The places are found when the figure is drawn, so a figure that is drawn at another
    size gets others.

    points: in the units of the axes. sizes: half widths of the points, in points of print. crowded: whether the last drawing found no
    free place for a name; such a name stands at the last of the places.
    """

    zorder = Text.zorder

    def __init__(
        self, points: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str], sizes: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.points, self.names, self.colours = points, list(names), colours
        self.sizes = sizes or [_USUAL] * len(points)
        self.crowded = False
        self.set_in_layout(False)

    def draw(self, renderer: RendererBase) -> None:
        for text in self.placed(renderer):
            text.draw(renderer)

    def placed(self, renderer: RendererBase) -> list[Text]:
        """The names at their places."""
        dot = renderer.points_to_pixels(1.0)
        centres = self.axes.transData.transform(self.points)
        reach = [size * dot for size in self.sizes]
        taken = [Bbox.from_extents(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, reach, strict=True)]
        frame = self.axes.get_window_extent(renderer)
        texts, self.crowded = [], False
        for i, (centre, name, colour, size) in enumerate(zip(centres, self.names, self.colours, self.sizes, strict=True)):
            others = taken[:i] + taken[i + 1 :]
            for right, up, ha, va in _PLACES:
                x, y = (at + dot * (by + (size - _USUAL) * ((by > 0) - (by < 0))) for at, by in zip(centre, (right, up), strict=True))
                text = Text(x, y, name, ha=ha, va=va, fontsize=9, color=colour, transform=IdentityTransform())
                text.set_figure(self.get_figure())
                box = text.get_window_extent(renderer)
                if frame.x0 <= box.x0 and box.x1 <= frame.x1 and not any(box.overlaps(other) for other in others):
                    break
            else:
                self.crowded = True
            taken.append(box)
            texts.append(text)
        return texts
