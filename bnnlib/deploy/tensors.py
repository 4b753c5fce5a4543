"""The converter's operations that compute on whole tensors: arithmetic of two, sums, norms, resizing, transposed convolution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from bnnlib.deploy import layerkinds as known
from bnnlib.deploy import moves, tensorkinds
from bnnlib.deploy.builder import Builder, Point, Shape
from bnnlib.deploy.graph import Op
from bnnlib.deploy.moves import AXES
from bnnlib.deploy.places import digits, places_of
from bnnlib.deploy.torch_parts import carried

# ---- two values


def pair_of(b: Builder, node: torch.fx.Node) -> tuple[torch.fx.Node, torch.fx.Node, str]:
    """(the value kept in the cache, the other one, the stage): shapes that a stage can take."""
    if "pair" not in node.meta:
        (one, two), (stage, turned) = node.args, tensorkinds.two_values(node)
        full = node.meta["shape"]
        if one.meta["shape"] != full and two.meta["shape"] == full:
            one, two, stage = two, one, turned
        one = moves.expanded(b, one, full)
        alike = two.meta["shape"] == full and b.shape(one) == b.shape(two)
        if not alike:
            one = b.settled(one)
            same = len(two.meta["shape"]) == len(full) and len(full) - 1 in AXES
            two = b.settled(two if same else moves.expanded(b, two, full))
        node.meta["pair"], node.meta["hwc"] = (one, two, stage), b.shape(one)
    return node.meta["pair"]


def pair(b: Builder, node: torch.fx.Node) -> Point:
    host, other, stage = pair_of(b, node)
    return b.with_slot(stage, host, other, node)


# ---- sums, softmax, norms


def reduced(b: Builder, node: torch.fx.Node) -> tuple[torch.fx.Node, list[int]]:
    """(the value to sum, axes of its slot)."""
    if "reduced" not in node.meta:
        read = node.args[0] if node.meta["dims"] is not None and carried(node.args[0]) else node.args[0].args[0]
        rank, dims = len(read.meta["shape"]) - 1, node.meta["dims"]
        if rank in AXES:
            read = b.settled(read)
            axes = sorted(AXES[rank][d] for d in dims)
        else:
            rest = [d for d in range(1, rank + 1) if d not in dims]
            kept = math.prod(read.meta["shape"][d] for d in rest)
            read = b.moved(read, lambda x: x.permute(0, *rest, *dims).reshape(x.shape[0], kept, -1))
            axes = [1]
        h, w, c = (1 if i in axes else s for i, s in enumerate(b.shape(read)))
        node.meta["reduced"], node.meta["hwc"] = (read, axes), (h, w, c)
    return node.meta["reduced"]


def reduce(b: Builder, node: torch.fx.Node) -> Point:
    read, axes = reduced(b, node)
    return b.begin(Op("reduce", [b.store(read)], {"function": node.meta["function"], "axes": axes}, name=b.label(node)))


def softmax(b: Builder, node: torch.fx.Node) -> Point:
    logarithm, dim = node.meta["softmax"]
    read, name = b.settled(node.args[0]), b.label(node)
    axes = [AXES[len(read.meta["shape"]) - 1][dim]]
    x = b.store(read)
    top = b.emit("reduce", [x], {"function": "max", "axes": axes}, [], name)
    if not logarithm:
        raised = b.emit("map", [x], {"repeat": 1}, [{"op": "minus", "slot": top}, {"op": "exp"}], name)
        total = b.emit("reduce", [raised], {"function": "sum", "axes": axes}, [], name)
        return b.add(b.begin(Op("map", [raised], {"repeat": 1}, name=name)), {"op": "over", "slot": total})
    low = b.emit("map", [x], {"repeat": 1}, [{"op": "minus", "slot": top}], name)
    raised = b.emit("map", [low], {"repeat": 1}, [{"op": "exp"}], name)
    total = b.emit("reduce", [raised], {"function": "sum", "axes": axes}, [{"op": "log"}], name)
    return b.add(b.begin(Op("map", [low], {"repeat": 1}, name=name)), {"op": "minus", "slot": total})


def normalise(b: Builder, node: torch.fx.Node) -> Point:
    a, read, name = node.meta["norm"], b.settled(node.args[0]), b.label(node)
    rank, x = len(read.meta["shape"]) - 1, b.store(read)
    channels = b.shape(read)[2]
    groups = a.get("groups")
    axes = sorted(i for i in AXES[rank].values() if i != 2) if groups else sorted(AXES[rank][d] for d in range(rank - a["dims"] + 1, rank + 1))

    def mean(slot: str, stages: list[dict[str, Any]]) -> str:
        if not groups or groups == channels:
            return b.emit("reduce", [slot], {"function": "mean", "axes": axes}, stages, name)
        each = b.emit("reduce", [slot], {"function": "mean", "axes": axes}, [], name) if axes else slot
        size = channels // groups
        beside = rearranged(b, each, np.arange(channels).reshape(groups, size).T.ravel(), (1, size, groups), name)
        one = b.emit("reduce", [beside], {"function": "mean", "axes": [1]}, stages, name)
        return rearranged(b, one, np.arange(channels) // size, (1, 1, channels), name)

    centred = b.emit("map", [x], {"repeat": 1}, [{"op": "minus", "slot": mean(x, [])}], name)
    squares = b.emit("map", [centred], {"repeat": 1}, [{"op": "square"}], name)
    eps = b.constant(f"{name}.eps", torch.full((groups if groups and groups != channels else _left(b.shape(read), axes),), a["eps"]))
    spread = mean(squares, [{"op": "bias", "by": eps}, {"op": "sqrt"}])
    p = b.add(b.begin(Op("map", [centred], {"repeat": 1}, name=name)), {"op": "over", "slot": spread})
    wide = (-1, *[1] * (rank - 1)) if groups else node.meta["shape"][rank + 1 - a["dims"] :]
    stages = [(op, {"by": a[key].detach().reshape(wide)}) for op, key in (("scale", "weight"), ("bias", "bias")) if a[key] is not None]
    return b.add_values(p, node, stages)


def _left(shape: Shape, axes: list[int]) -> int:
    return 1 if 2 in axes else shape[2]


def rearranged(b: Builder, slot: str, places: np.ndarray, shape: Shape, name: str) -> str:
    """A slot's values in other places of memory."""
    sizes, tables = digits(places.astype(np.int64), shape)
    constants = {"tables": b.constant(f"{name}.tables", tables)}
    return b.emit("move", [slot], {"shape": list(shape), "sizes": sizes, "value": 0.0}, [], name, constants)


# ---- resizing


def weights_along(b: Builder, node: torch.fx.Node) -> list[tuple[int, np.ndarray]] | None:
    """(axis of the slot, weights [places of the result, places of the input]) of a resizing; None where it is no such sum."""
    read, full = node.args[0], node.meta["shape"]
    rank, before = len(full) - 1, read.meta["shape"]
    if rank not in (2, 3) or len(before) != len(full) or before[1] != full[1]:
        return None
    found, x = [], read.meta["value"]
    try:
        for dim in range(2, rank + 1):
            size = before[dim]
            basis = torch.eye(size).reshape(size, 1, *[size if d == dim else 1 for d in range(2, rank + 1)])
            made = moves.again(b, node, basis.expand(size, 1, *before[2:]).contiguous())
            line = made[(slice(None), 0, *[slice(None) if d == dim else 0 for d in range(2, rank + 1)])]
            found.append((AXES[rank][dim], line.T.contiguous()))
            x = torch.movedim(torch.movedim(x, dim, -1) @ line, -1, dim)
        if x.shape != full or not torch.allclose(x, moves.again(b, node, read.meta["value"]), rtol=1e-4, atol=1e-4):
            return None
    except (RuntimeError, ValueError, IndexError, NotImplementedError):
        return None
    return [(axis, line.numpy()) for axis, line in found]


def resample(b: Builder, node: torch.fx.Node) -> Point:
    read, name = b.settled(node.args[0]), b.label(node)
    slot, lines = b.store(read), node.meta["lines"]
    lines = [(a, m) for a, m in lines if m.shape[0] != m.shape[1] or not np.array_equal(m, np.eye(len(m)))] or lines[-1:]
    for axis, line in lines[:-1]:
        slot = b.emit("resample", [slot], {"axis": axis}, [], name, taps(b, name, line))
    axis, line = lines[-1]
    return b.begin(Op("resample", [slot], {"axis": axis}, taps(b, name, line), name=name))


def taps(b: Builder, name: str, line: np.ndarray) -> dict[str, str]:
    first = np.array([np.flatnonzero(row)[0] if row.any() else 0 for row in line])
    last = np.array([np.flatnonzero(row)[-1] if row.any() else 0 for row in line])
    count = int((last - first).max()) + 1
    start = np.minimum(first, line.shape[1] - count)
    weight = np.stack([row[s : s + count] for row, s in zip(line, start, strict=True)])
    return {"start": b.constant(f"{name}.start", start.astype(np.int32)), "weight": b.constant(f"{name}.weight", weight.astype(np.float32))}


# ---- convolutions in other forms: what they read is moved before, what they give behind


def padded(b: Builder, node: torch.fx.Node) -> None:
    """A convolution with borders that are no zeros, or of another width on each side: the border is moved in before."""
    module = b.module(node)
    mode = module.padding_mode if module.padding_mode != "zeros" else "constant"
    border = list(module._reversed_padding_repeated_twice)
    node.meta["source"] = b.moved(b.settled(node.args[0]), lambda x: F.pad(x, border, mode=mode))
    node.meta["padding"] = [0, 0]


def transposed(b: Builder, node: torch.fx.Node) -> None:
    """A transposed convolution: zeros between and around, then the convolution with the kernel turned."""
    module = b.module(node)
    two = isinstance(module, nn.ConvTranspose2d)
    stride, dilation, padding, extra, kernel = (
        known.sized(module, n) for n in ("stride", "dilation", "padding", "output_padding", "kernel_size")
    )

    def spread(x: Tensor) -> Tensor:
        x = x if two else x.unsqueeze(2)
        h, w = ((s - 1) * t + 1 for s, t in zip(x.shape[2:], stride, strict=True))
        wide = x.new_zeros(*x.shape[:2], h, w)
        wide[:, :, :: stride[0], :: stride[1]] = x
        around = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        return F.pad(wide, (around[1], around[1] + extra[1], around[0], around[0] + extra[0]))

    inner = b.moved(b.settled(node.args[0]), spread)
    weight, groups = module.weight.detach(), module.groups
    weight = weight if two else weight.unsqueeze(2)  # (C, O / groups, kh, kw)
    weight = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flip(2, 3)
    node.meta.update(
        source=inner, turned=weight.permute(0, 2, 3, 1).contiguous(),
        geometry={"kernel": kernel, "stride": [1, 1], "padding": [0, 0], "dilation": dilation, "groups": groups},
    )  # fmt: skip


def by_rows(b: Builder, node: torch.fx.Node, kind: str) -> None:
    """A linear layer on the last of several dimensions, as a move of what a convolution (of this kind) of one pixel to a row gives."""
    full = node.meta["shape"]
    first = b.moved(node.args[0], lambda x: x.movedim(-1, 1).flatten(2))
    point = {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    inner = b.made(kind, (first,), (full[0], full[-1], first.meta["shape"][2]), "call_module", node.target, source=first, geometry=point)
    found = places_of(lambda x: x.movedim(1, -1).reshape(x.shape[0], *full[1:]), inner.meta["shape"])
    node.meta["origin"] = (inner, *found)
