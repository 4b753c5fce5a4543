"""Digits as strokes of a pen, and what the page's net is shown of them.

A drawing is a list of strokes; a stroke is a list of points (x, y) on a square of side 1, y downwards. :func:`image` centres and scales
a drawing as MNIST's makers did theirs, and is what ``book/live/digit.js`` does in the browser: a test holds the two equal.
:func:`drawing` writes a digit in one of the :data:`STYLES`, for tests and for the page's examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Stroke = Sequence[tuple[float, float]]

SIDE, BOX = 28, 20
"""Pixels: of an image; and of the box that the digit fits, its line included."""
LINE = 2.6
"""Pixels: the width of the line in the image, whatever the pen was."""
SOFT = 1.3
"""Pixels over which the edge of the line fades."""
LARGEST = 200.0
"""Pixels to the side of the pad, at most: what is smaller than a twelfth of it is a dot or a dash, and stays one."""


def image(strokes: Sequence[Stroke], *, box: bool = True, mass: bool = True, pen: float | None = None) -> np.ndarray:
    """uint8 ``(28, 28)``, 255 where the line is; all zeros for an empty drawing.

    The longer side of the drawing becomes 20 pixels, the centre of mass of the ink comes to the middle, and the line gets
    one width. All of it happens to the strokes, before there are pixels. To see what each step is good for: without ``box``
    the whole pad becomes the image, without ``mass`` the middle of the box is in the middle, and with ``pen``, its width as
    a share of the pad's side, the line stays as wide as it was drawn.
    """
    strokes = [stroke for stroke in strokes if len(stroke)]
    points = [point for stroke in strokes for point in stroke]
    if not points:
        return np.zeros((SIDE, SIDE), np.uint8)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    middle, scale = (0.5, 0.5), float(SIDE)
    if box:
        middle = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
        side = max(max(xs) - min(xs), max(ys) - min(ys), 1e-9)
        scale = min((BOX - LINE) / side if pen is None else BOX / (side + pen), LARGEST)
    width = LINE if pen is None else pen * scale
    placed = [[((x - middle[0]) * scale + SIDE / 2, (y - middle[1]) * scale + SIDE / 2) for x, y in stroke] for stroke in strokes]
    ink = _ink(placed, width)
    if mass:
        total, at = ink.sum(), np.arange(SIDE) + 0.5
        dx, dy = SIDE / 2 - (ink.sum(0) * at).sum() / total, SIDE / 2 - (ink.sum(1) * at).sum() / total
        ink = _ink([[(x + dx, y + dy) for x, y in stroke] for stroke in placed], width)
    return np.floor(255 * ink + 0.5).astype(np.uint8)


def _ink(strokes: Sequence[Stroke], width: float) -> np.ndarray:
    """How much of the line each pixel sees, 0 to 1: by the distance of its centre from the nearest stroke."""
    pieces = [(a, b) for stroke in strokes for a, b in zip(stroke, [*stroke[1:], stroke[-1]], strict=True)]
    (ax, ay), (bx, by) = (np.array([piece[end] for piece in pieces]).T[:, :, None, None] for end in (0, 1))
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    ux, uy = bx - ax, by - ay
    length = ux * ux + uy * uy
    t = np.clip(((x - ax) * ux + (y - ay) * uy) / np.where(length > 0, length, 1), 0, 1)
    ex, ey = x - ax - t * ux, y - ay - t * uy
    nearest = (ex * ex + ey * ey).min(0)
    return np.clip((width / 2 - np.sqrt(nearest)) / SOFT + 0.5, 0, 1)


# -------------------------------------------------------------------------------------------- written digits

# Points that a smooth curve runs through; a point given twice is a corner. Two hands: some digits are written in two ways.
_ROUND = {
    0: [[(0.52, 0.04), (0.27, 0.2), (0.2, 0.52), (0.3, 0.86), (0.52, 0.96), (0.74, 0.82), (0.8, 0.48), (0.7, 0.16), (0.5, 0.04)]],
    1: [[(0.5, 0.04), (0.5, 0.35), (0.49, 0.65), (0.48, 0.96)]],
    2: [[(0.22, 0.26), (0.36, 0.07), (0.62, 0.06), (0.76, 0.24), (0.66, 0.48), (0.42, 0.74), (0.2, 0.95), (0.2, 0.95), (0.82, 0.94)]],
    3: [[(0.24, 0.14), (0.48, 0.04), (0.72, 0.16), (0.66, 0.38), (0.44, 0.48), (0.44, 0.48), (0.7, 0.56), (0.78, 0.76), (0.56, 0.95), (0.22, 0.86)]],
    4: [[(0.3, 0.05), (0.26, 0.32), (0.22, 0.58), (0.22, 0.58), (0.52, 0.58), (0.84, 0.56)], [(0.66, 0.28), (0.64, 0.6), (0.62, 0.97)]],
    5: [[(0.76, 0.05), (0.36, 0.07), (0.36, 0.07), (0.3, 0.44), (0.3, 0.44), (0.56, 0.4), (0.77, 0.58), (0.7, 0.86), (0.46, 0.96), (0.2, 0.86)]],
    6: [[(0.68, 0.05), (0.42, 0.22), (0.26, 0.54), (0.3, 0.86), (0.54, 0.96), (0.76, 0.8), (0.7, 0.58), (0.48, 0.54), (0.29, 0.7)]],
    7: [[(0.2, 0.07), (0.5, 0.07), (0.8, 0.06), (0.8, 0.06), (0.6, 0.42), (0.44, 0.96)]],
    8: [[(0.68, 0.16), (0.46, 0.04), (0.28, 0.2), (0.42, 0.42), (0.66, 0.58), (0.74, 0.8), (0.5, 0.96), (0.27, 0.8), (0.38, 0.56), (0.62, 0.38), (0.7, 0.18)]],
    9: [[(0.74, 0.24), (0.54, 0.05), (0.28, 0.18), (0.28, 0.42), (0.5, 0.52), (0.72, 0.38), (0.75, 0.2), (0.75, 0.2), (0.72, 0.6), (0.64, 0.96)]],
}  # fmt: skip
_OTHER = _ROUND | {
    1: [[(0.3, 0.26), (0.54, 0.05), (0.54, 0.05), (0.54, 0.5), (0.54, 0.96)]],
    2: [[(0.2, 0.22), (0.46, 0.04), (0.74, 0.2), (0.62, 0.54), (0.34, 0.88), (0.2, 0.84), (0.34, 0.76), (0.56, 0.92), (0.84, 0.9)]],
    4: [[(0.62, 0.97), (0.62, 0.5), (0.62, 0.05), (0.62, 0.05), (0.38, 0.36), (0.16, 0.64), (0.16, 0.64), (0.5, 0.64), (0.86, 0.63)]],
    5: [[(0.34, 0.06), (0.3, 0.42), (0.3, 0.42), (0.58, 0.4), (0.78, 0.62), (0.66, 0.9), (0.22, 0.9)], [(0.34, 0.06), (0.78, 0.05)]],
    7: [[(0.2, 0.08), (0.5, 0.08), (0.8, 0.06), (0.8, 0.06), (0.6, 0.46), (0.42, 0.96)], [(0.36, 0.5), (0.74, 0.48)]],
    9: [[(0.72, 0.3), (0.5, 0.06), (0.27, 0.28), (0.46, 0.5), (0.72, 0.3), (0.72, 0.3), (0.72, 0.7), (0.48, 0.96), (0.26, 0.86)]],
}  # fmt: skip

STYLES = ("plain", "small in a corner", "slanted", "shaky", "wide", "tall", "hurried", "with a mouse")
LATER = ("hurried", "with a mouse")
"""Styles on which none of the steps of :func:`image` was chosen."""


def drawing(digit: int, style: str = "plain", seed: int = 0) -> list[list[tuple[float, float]]]:
    """``digit`` in handwriting: the same strokes for the same arguments."""
    rng = np.random.default_rng([digit, STYLES.index(style), seed])
    hand = _ROUND if (STYLES.index(style) + seed) % 2 == 0 else _OTHER
    shake = {"plain": 0.006, "shaky": 0.022}.get(style, 0.012)
    strokes = [np.array(_curve(np.array(points) + rng.normal(0, shake, (len(points), 2)))) for points in hand[digit]]
    if style == "shaky":
        strokes = [stroke + rng.normal(0, 0.006, stroke.shape) for stroke in strokes]
    if style in LATER:
        strokes = [_by_hand(stroke, rng, mouse=style == "with a mouse") for stroke in strokes]
    wild = style in ("slanted", "hurried")
    shear = rng.uniform(0.25, 0.45) * rng.choice([1, 1, -1]) if style == "slanted" else rng.normal(0, 0.2 if wild else 0.05)
    turn = math.radians(rng.normal(0, 8 if wild else 3))
    width, height = {"wide": (0.95, 0.6), "tall": (0.5, 0.95), "small in a corner": (0.26, 0.3)}.get(style, (0.72, 0.8))
    corner = rng.choice([0.18, 0.82], 2) if style == "small in a corner" else 0.5 + rng.normal(0, 0.02, 2)
    matrix = np.array([[width, -shear * width], [0, height]])
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ matrix
    placed = [np.clip((stroke - 0.5) @ matrix.T + corner, 0.01, 0.99) for stroke in strokes]
    return [[(round(float(x), 4), round(float(y), 4)) for x, y in stroke] for stroke in placed]


def _by_hand(stroke: np.ndarray, rng: np.random.Generator, mouse: bool) -> np.ndarray:
    """A stroke with the unevenness of fast handwriting, ``(n, 2)``.

    A screen reports the pen at equal times. The pen is slow at the ends and in bends and fast between them, so the points are far
    apart where it is fast, and corners are rounded. The line drifts, begins and ends too early or too late, and with a mouse its
    points lie on a grid of pixels and jump.
    """
    along = np.r_[0, np.cumsum(np.hypot(*np.diff(stroke, axis=0).T))]
    even = np.linspace(0, along[-1], 81)
    line = np.stack([np.interp(even, along, stroke[:, axis]) for axis in (0, 1)], axis=1)
    reach = int(rng.integers(2, 6))
    padded = np.pad(line, ((reach, reach), (0, 0)), mode="edge")
    line = np.stack([np.convolve(padded[:, axis], np.full(2 * reach + 1, 1 / (2 * reach + 1)), "valid") for axis in (0, 1)], axis=1)
    phase, size = rng.uniform(0, 2 * math.pi, (3, 2)), rng.uniform(0.004, 0.02, (3, 2))
    for turns, start, width in zip((1, 2.5, 6), phase, size / np.array([[1], [1.5], [3]]), strict=True):
        line = line + width * np.sin(np.linspace(0, 2 * math.pi * turns, 81)[:, None] + start)
    line = line[int(rng.integers(0, 5)) : 81 - int(rng.integers(0, 5))]
    if rng.random() < 0.4:  # the pen goes on in its last direction
        line = np.concatenate([line, line[-1:] + np.outer([1, 2], line[-1] - line[-3])])
    step = np.diff(line, axis=0, prepend=line[:1])
    bend = np.abs(np.diff(np.unwrap(np.arctan2(step[:, 1], step[:, 0])), append=0))
    ends = np.minimum(np.arange(len(line)), np.arange(len(line))[::-1]) / 10
    speed = np.minimum(1, 0.25 + ends) / (1 + 8 * np.minimum(bend, 0.5))
    time = np.cumsum(1 / speed)
    count = int(rng.integers(9, 16) if mouse else rng.integers(14, 30))
    shown = np.stack([np.interp(np.linspace(time[0], time[-1], count), time, line[:, axis]) for axis in (0, 1)], axis=1)
    return np.round((shown + rng.normal(0, 0.008, shown.shape)) * 100) / 100 if mouse else shown + rng.normal(0, 0.003, shown.shape)


def _curve(points: np.ndarray) -> list[np.ndarray]:
    """Catmull-Rom through ``points``, in 8 steps from one to the next; equal neighbours are a corner."""
    made, pieces = [], [[points[0]]]
    for before, point in zip(points, points[1:], strict=False):
        if np.abs(point - before).max() < 0.06:  # meant as one point, moved apart by the hand's own noise
            pieces.append([before])
        else:
            pieces[-1].append(point)
    for piece in pieces:
        if len(piece) < 2:
            continue
        padded = [2 * piece[0] - piece[1], *piece, 2 * piece[-1] - piece[-2]]
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
            for t in np.arange(8) / 8:
                made.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
        made.append(piece[-1])
    return made
