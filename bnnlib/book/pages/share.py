"""The picture of a page's card where its link is shared: title, question, and bits, drawn by the build."""

from __future__ import annotations

import io
import textwrap

from bnnlib.book import figures

SIZE = (1200, 630)  # pixels, as the Open Graph protocol's users ask for
_MOTIF = ((1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1), (1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0))


def draw(title: str, told: str, book: str) -> bytes:
    """A PNG of :data:`SIZE`. title: of the page; told: its description; book: the title of the whole."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    with _plain():
        figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor="white")
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, SIZE[0]), ylim=(SIZE[1], 0))
        ax.axis("off")
        lines = textwrap.wrap(title, 34)[:3]
        ax.text(70, 70, "\n".join(lines), fontsize=44, weight="bold", color=figures.INK, va="top", linespacing=1.15)
        below = 70 + 74 * len(lines) + 24
        rest = textwrap.wrap(told, 60)
        shown = rest[:3] if len(rest) <= 3 else [*rest[:2], rest[2].rstrip(" .,;") + " ..."]
        ax.text(72, below, "\n".join(shown), fontsize=23, color="#4b5563", va="top", linespacing=1.35)
        for row, bits in enumerate((*_MOTIF, [int(a == b) for a, b in zip(*_MOTIF, strict=True)])):
            colour = figures.OURS if row == 2 else figures.BINARY
            for place, bit in enumerate(bits):
                corner = (72 + 38 * place, 470 + 38 * row)
                style = {"boxstyle": "round,pad=0,rounding_size=5", "ec": colour, "fc": colour if bit else "white", "lw": 1.6}
                ax.add_patch(FancyBboxPatch(corner, 29, 29, **style))
        ax.text(SIZE[0] - 60, 570, textwrap.fill(book, 24), fontsize=20, color="#12606f", ha="right", va="center", weight="bold")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
        return file.getvalue()


def _plain():
    """Matplotlib's defaults, whatever a chapter has set."""
    import matplotlib as mpl

    return mpl.rc_context(mpl.rcParamsDefault | {"backend": mpl.get_backend()})
