"""The figure of the packed networks: accuracy against the size of the file, a panel for each data set."""

from __future__ import annotations

from pathlib import Path

from bnnlib.book import figures as style
from bnnlib.book import tables
from bnnlib.book.pages import figures, packed_files

_CAPTION = (
    "Top-1 accuracy on the test images against the size of the packed file. Blue: networks of the sources with binary "
    "layers. Green: ours. Grey: real-valued networks."
)


def accuracy_against_size(root: Path) -> str:
    """The figure as MyST, from the packed files of ``root``; a sentence where there are none."""
    found = packed_files.nets(root)
    if not found:
        return "*None yet.*\n"
    names = sorted({net.about["dataset"] for net in found})
    label = "Accuracy against file size. " + "; ".join(
        f"{net.title} ({net.about['dataset']}): {tables.file_size(net.size)}, {net.top1:.2f} %" for net in found
    )
    drawn = figures.as_inline(_draw(found, names), label.replace('"', "&quot;"), "sizes-")
    return f"```{{raw}} html\n<figure>\n{drawn}\n<figcaption>{_CAPTION}</figcaption>\n</figure>\n```\n"


_PLACES = ((9, -3, "left"), (-9, -3, "right"), (0, 8, "center"), (0, -16, "center"), (9, -14, "left"), (9, 8, "left"))


def _draw(found: list[packed_files.Net], names: list[str]) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    with mpl.rc_context():
        style.use_style()
        figure = Figure(figsize=(style.WIDTH, 3.1 * len(names)))
        FigureCanvasSVG(figure)
        panels = figure.subplots(len(names), squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            for net in (net for net in found if net.about["dataset"] == name):
                axes.plot(net.size, net.top1, "o", color=_colour(net), ms=7)
            axes.set(xscale="log", xlim=(4e4, 2e7), ylabel="top-1, %", title=name)
            axes.margins(y=0.25)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: tables.file_size(int(size)).replace(".0", "")))
        panels[-1].set_xlabel("size of the file")
        figure.draw_without_rendering()
        for axes, name in zip(panels, names, strict=True):
            _label(axes, [net for net in found if net.about["dataset"] == name])
        return style.saved(figure)


def _colour(net: packed_files.Net) -> str:
    if not net.about["packed"]:
        return style.REAL
    return style.OURS if net.about["recipe"].startswith("ours") else style.BINARY


def _label(axes, found: list[packed_files.Net]) -> None:
    """Put each network's name beside its point, at the first place where it covers neither a point nor a name."""
    from matplotlib.transforms import Bbox

    points = axes.transData.transform([(net.size, net.top1) for net in found])
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    frame = axes.get_window_extent()
    for place, net in enumerate(found):
        others = taken[:place] + taken[place + 1 :]
        for x, y, side in _PLACES:
            text = axes.annotate(
                net.title, (net.size, net.top1), (x, y), textcoords="offset points", ha=side, color=_colour(net), fontsize=9
            )
            box = text.get_window_extent()
            if frame.x0 <= box.x0 and box.x1 <= frame.x1 and not any(box.overlaps(other) for other in others):
                break
            if (x, y, side) != _PLACES[-1]:
                text.remove()
        taken.append(box)
