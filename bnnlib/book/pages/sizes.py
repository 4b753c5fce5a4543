"""The figure of the packed networks: accuracy against the size of the file, a panel for each data set."""

from __future__ import annotations

from pathlib import Path

from bnnlib.book import figures as style
from bnnlib.book import tables
from bnnlib.book.pages import figures, packed_files

_CAPTION = (
    "Top-1 accuracy on the test images against the size of the packed file. Blue: networks of the sources with binary "
    "layers. Green squares: ours. Grey diamonds: real-valued networks."
)


def accuracy_against_size(root: Path) -> str:
    """The figure as MyST, from the packed files of ``root``; a sentence where there are none."""
    found = packed_files.nets(root)
    if not found:
        return "*None yet.*\n"
    names = sorted({net.about["dataset"] for net in found})
    label = "Accuracy against file size. " + "; ".join(
        f"{net.title} ({tables.DATA_SETS[net.about['dataset']]}): {tables.file_size(net.size)}, {net.top1:.2f} %" for net in found
    )
    drawn = figures.both(_draw(found, names), label.replace('"', "&quot;"), "sizes-")
    return f"```{{raw}} html\n<figure>\n{drawn}\n<figcaption>{_CAPTION}</figcaption>\n</figure>\n```\n"


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
                colour, marker = _look(net)
                axes.plot(net.size, net.top1, marker, color=colour, ms=7)
            axes.set(xscale="log", xlim=(4e4, 2e7), xlabel="size of the file", ylabel="top-1, %", title=tables.DATA_SETS[name])
            axes.margins(y=0.25)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: tables.file_size(int(size)).replace(".0", "")))
        for axes, name in zip(panels, names, strict=True):
            named = [net for net in found if net.about["dataset"] == name]
            points = [(net.size, net.top1) for net in named]
            style.name_points(axes, points, [net.title for net in named], [_look(net)[0] for net in named])
        return style.svg(figure)


def _look(net: packed_files.Net) -> tuple[str, str]:
    """Colour and marker."""
    if not net.about["packed"]:
        return style.REAL, "D"
    return (style.OURS, "s") if net.about["recipe"].startswith("ours") else (style.BINARY, "o")
