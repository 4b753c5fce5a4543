"""Where values come from: what PyTorch's code moves, found by moving their numbers, and the tables that say so in few numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int, int, int]  # height, width, channels of a slot

_FAR = (2.0**40, 2.0**41)


def places_of(move: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[np.ndarray, float] | None:
    """(where each value of an image comes from, -1 for a constant; the constant) of what moves values of ``shape``; None if it does more."""
    size = math.prod(shape[1:])
    places = torch.arange(shape[0] * size, dtype=torch.float64).reshape(shape)
    try:
        one, two = (move(places + far) for far in _FAR)
        if not isinstance(one, Tensor) or one.shape[0] != shape[0] or one.dtype != torch.float64:
            return None
    except Exception:  # whatever a function of PyTorch makes of it: then it is not moved
        return None
    a, b = ((t - far).reshape(shape[0], -1).numpy() for t, far in zip((one, two), _FAR, strict=True))
    constant = a != b
    values = one.reshape(shape[0], -1).numpy()[constant]
    a = a - np.arange(shape[0])[:, None] * size
    a[constant] = -1
    # every image alike, from itself, and one constant
    if (a != a[0]).any() or (values.size and (values != values[0]).any()) or (a[0] != np.floor(a[0])).any() or a[0].min() < -1 or a[0].max() >= size:
        return None
    return a[0].astype(np.int64), float(values[0]) if values.size else 0.0


def digits(places: np.ndarray, shape: Shape) -> tuple[list[int], np.ndarray]:
    """``sizes`` and ``tables`` of the operation ``move`` (:mod:`bnnlib.deploy.graph`) for these places, in few numbers."""
    runs, rest = [], places
    while rest.size > 1 and (rest >= 0).all():  # numbers evenly apart, again and again
        step = rest[1] - rest[0]
        uneven = np.flatnonzero(np.diff(rest) != step)
        size = int(uneven[0]) + 1 if uneven.size else rest.size
        if size < 2 or rest.size % size or (rest.reshape(-1, size) - rest[::size, None] != np.arange(size) * step).any():
            break
        runs, rest = [size, *runs], rest[::size]
    candidates = [[rest.size, *runs] if rest.size > 1 else runs, list(shape), [shape[0] * shape[1], shape[2]], [places.size]]
    for sizes in candidates:
        if sizes and math.prod(sizes) == places.size and (tables := _tables(places, sizes)) is not None:
            break
    return _shorter(sizes, tables)


def _tables(places: np.ndarray, sizes: list[int]) -> list[np.ndarray] | None:
    cube = places.reshape(sizes)
    known_at = np.argwhere(cube >= 0)
    if not len(known_at):
        return [np.full(s, -1, np.int64) for s in sizes]
    anchor, total = tuple(known_at[0]), 0
    tables = []
    for axis in range(len(sizes)):
        line = cube[(*anchor[:axis], slice(None), *anchor[axis + 1 :])]
        part = np.where(line < 0, np.iinfo(np.int64).max, line - cube[anchor])
        low = part.min()
        tables.append(np.where(line < 0, -1, part - low))
        total += low
    base = cube[anchor] + total
    tables[0] = np.where(tables[0] < 0, -1, tables[0] + base)
    sums = np.zeros((), np.int64)
    for table in tables:
        sums = np.where((sums[..., None] < 0) | (table < 0), -1, sums[..., None] + table)
    return tables if base >= 0 and np.array_equal(sums, cube) else None


def _shorter(sizes: list[int], tables: list[np.ndarray]) -> tuple[list[int], np.ndarray]:
    """Long tables of numbers evenly apart as two short ones."""
    out: list[np.ndarray] = []
    for size, table in zip(sizes, tables, strict=True):
        step = table[1] - table[0] if size > 1 else 0
        even = size > 16 and (table >= 0).all() and (np.diff(table) == step).all() and step >= 0
        inner = next((d for d in range(math.isqrt(size), 1, -1) if size % d == 0), 0) if even else 0
        out += [table[::inner], np.arange(inner) * step] if inner else [table]
    return [len(t) for t in out], np.concatenate(out).astype(np.int32)
