"""One look for every figure of the book: ``use_style()`` once in a chapter's set-up cell, and these colours
by meaning."""

from __future__ import annotations

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
