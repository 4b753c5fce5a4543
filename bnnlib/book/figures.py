"""One look for every figure of the book: ``use_style()`` once in a chapter's set-up cell, and these colours
by meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bnnlib.records import Record

BINARY, REAL, SOURCE, OURS, FAINT = "#2463eb", "#6b7280", "#d9480f", "#0f9d58", "#cbd5e1"


def use_style() -> None:
    """Set matplotlib's defaults: legible on a phone, light grid, no box."""
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 3.6),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "savefig.bbox": "tight",
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e5e7eb",
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "legend.frameon": False,
            "axes.prop_cycle": mpl.cycler(color=[BINARY, SOURCE, OURS, REAL, "#9333ea", "#ca8a04"]),
            "image.cmap": "gray",
            "image.interpolation": "nearest",
        }
    )


def draw_curves(
    ax: Axes, runs: Mapping[str, Sequence[Record]], labels: Mapping[str, str], field: str = "test_top1"
) -> None:
    """One line a record of the recipes that ``labels`` names, in its order and the style's colours, dashed
    once those are used up; further seeds of a recipe are thin. ``field``: of
    :class:`bnnlib.records.Epoch`."""
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    colours = len(mpl.rcParams["axes.prop_cycle"])
    for place, (name, label) in enumerate(labels.items()):
        for i, record in enumerate(runs[name]):
            epochs = [point.epoch for point in record.curve]
            ax.plot(
                epochs,
                [getattr(point, field) for point in record.curve],
                color=f"C{place}",
                lw=1 if i else 2,
                ls="--" if place >= colours else "-",
                marker="o" if len(epochs) == 1 else None,  # a line through one point is not to be seen
                label=None if i else label,
            )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
