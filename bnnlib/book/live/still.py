"""Still pictures of a net at work, as SVG and HTML that follow the page's theme: what a reader without scripts sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

LEVELS = 8
"""Shades of grey."""


def drawing(strokes: Sequence[Sequence[tuple[float, float]]], label: str) -> str:
    """Strokes on a square of side 1, as they look on the pad."""
    path = "".join("M" + "L".join(f"{100 * x:.1f} {100 * y:.1f}" for x, y in stroke) for stroke in strokes)
    return f'<svg viewBox="0 0 100 100" role="img" aria-label="{label}"><path class="live-stroke" d="{path}"/></svg>'


def maps(
    values: np.ndarray, columns: int, label: str, live: str, marks: Sequence[tuple[int | None, int, int, int, int]] | None = None
) -> str:
    """``values`` (h, w, c), 0 to 1, as c maps side by side, ``columns`` a row; ``live``: the label once the picture moves; ``marks``: frames
    (map or None for all, y, x, h, w)."""
    h, w, c = values.shape
    rows = -(-c // columns)
    corner = [(k % columns * (w + 1), k // columns * (h + 1)) for k in range(c)]
    parts = [f'<path class="live-ground" d="{"".join(f"M{x} {y}h{w}v{h}h-{w}z" for x, y in corner)}"/>']
    level = np.ceil(np.clip(values, 0, 1) * LEVELS - 1e-9).astype(int)
    for shade in range(1, LEVELS + 1):
        runs = "".join(_runs(level[:, :, k] == shade, *corner[k]) for k in range(c))
        if runs:
            parts.append(f'<path class="live-one" d="{runs}"' + (f' opacity="{shade / LEVELS:g}"' if shade < LEVELS else "") + "/>")
    for which, y, x, high, wide in marks or ():
        for left, top in corner if which is None else [corner[which]]:
            parts.append(f'<rect class="live-mark" x="{left + x}" y="{top + y}" width="{wide}" height="{high}"/>')
    size = f"0 0 {columns * (w + 1) - 1} {rows * (h + 1) - 1}"
    return f'<svg viewBox="{size}" role="img" aria-label="{label}" data-moving="{live}" shape-rendering="crispEdges">{"".join(parts)}</svg>'


def _runs(on: np.ndarray, left: int, top: int) -> str:
    """The cells that are ``on`` as an SVG path, a rectangle for each stretch of a row."""
    path = []
    for y, row in enumerate(on):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        path += [f"M{left + start} {top + y}h{end - start}v1h-{end - start}z" for start, end in edges.reshape(-1, 2)]
    return "".join(path)


def bars(names: Sequence[str], shares: Sequence[float], percent: Callable[[float], str]) -> str:
    """A bar for each class, the largest marked."""
    best = int(np.argmax(shares))
    rows = [
        f'<div class="live-bar{" live-best" if i == best else ""}"><span>{name}</span><span class="live-track"><span class="live-fill" '
        f'style="width:{100 * float(share):.2f}%"></span></span><span class="live-share">{percent(float(share))}</span></div>'
        for i, (name, share) in enumerate(zip(names, shares, strict=True))
    ]
    return "".join(rows)
