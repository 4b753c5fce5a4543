"""An interpreter of packed networks in float64, written as plainly as the format is described: what the executor is held to."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnnlib.deploy.graph import Graph
from bnnlib.deploy.operations import TENSOR, Op, output_shape

PAIRS = {
    "plus": np.add, "minus": np.subtract, "minus_from": lambda x, y: y - x, "times": np.multiply, "larger": np.maximum, "smaller": np.minimum,
}  # fmt: skip


def interpret(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every slot of a graph in float64, ``(N, H, W, C)``, bits as -1 and +1, from the tables of :mod:`bnnlib.deploy.graph` and
    as plainly as they are written."""
    held = {graph.inputs[0]: x.transpose(0, 2, 3, 1).astype(np.float64)}
    for op in graph.ops:
        y = _tensor_operation(graph, op, held) if op.kind in TENSOR else _operation(graph, op, held[op.inputs[0]])
        for stage in op.stages:
            y = _stage(graph, stage, y, held)
    return held


def _weights(graph: Graph, op: Op, channels: int) -> np.ndarray:
    """float64 ``(O, kh, kw, C / groups)``."""
    stored, (kh, kw) = graph.tensors[op.constants["weight"]], op.attributes["kernel"]
    kind = op.attributes.get("weights", "bits")
    if kind == "bits":
        inputs = channels // op.attributes["groups"]
        bits = np.unpackbits(stored, axis=1, count=inputs * kh * kw, bitorder="little")
        return (2.0 * bits - 1).reshape(-1, inputs, kh, kw).transpose(0, 2, 3, 1)
    if kind == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def quantized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(integers, scale)``, float64: the activations ``(N, H, W, C)`` of a layer with int8 weights are ``integers * scale``, of
    8 bits, with a scale ``(N, 1, 1, 1)`` to an image. All is rounded as in float32. An image with a value that is not finite has
    the scale NaN."""
    x, axes = x.astype(np.float32), (1, 2, 3)
    low, high = np.minimum(x.min(axes, keepdims=True), 0), np.maximum(x.max(axes, keepdims=True), 0)
    scale = (high - low) / np.float32(255)
    some = np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)
    inverse = np.where(some, np.float32(1) / np.where(some, scale, np.float32(1)), np.float32(0))
    zero_point = np.rint(-np.where(some, low, 0) * inverse)
    integers = np.minimum(np.rint(np.where(some, x, 0) * inverse) + zero_point, 255) - zero_point
    return integers.astype(np.float64), np.where(np.isfinite(scale), np.where(some, scale, 0), np.nan).astype(np.float64)


def _tensor_operation(graph: Graph, op: Op, held: dict[str, np.ndarray]) -> np.ndarray:
    a, x = op.attributes, held[op.inputs[0]]
    if op.kind == "join":
        return np.concatenate([held[name] for name in op.inputs], a["axis"] + 1)
    if op.kind == "reduce":
        function = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}[a["function"]]
        return function(x, axis=tuple(i + 1 for i in a["axes"]), keepdims=True) if a["axes"] else x
    if op.kind == "resample":
        start, weight, axis = graph.tensors[op.constants["start"]], graph.tensors[op.constants["weight"]].astype(np.float64), a["axis"] + 1
        lines = [sum(w * np.take(x, s + t, axis) for t, w in enumerate(row)) for s, row in zip(start, weight, strict=True)]
        return np.stack(lines, axis)
    tables, at, flat = graph.tensors[op.constants["tables"]], 0, x.reshape(len(x), -1)
    cut = []
    for size in a["sizes"]:
        cut.append(tables[at : at + size])
        at += size
    y = np.empty((len(x), int(np.prod(a["shape"]))))
    for place, digits in enumerate(np.ndindex(*a["sizes"])):
        parts = [int(table[d]) for table, d in zip(cut, digits, strict=True)]
        y[:, place] = a["value"] if min(parts) < 0 else flat[:, sum(parts)]
    return y.reshape(len(x), *a["shape"])


def _operation(graph: Graph, op: Op, x: np.ndarray) -> np.ndarray:
    a = op.attributes
    int8 = a.get("weights") == "int8"
    if int8:
        x, scale = quantized(x)
    if op.kind == "map":
        return np.tile(x, (1, 1, 1, a["repeat"]))
    if op.kind == "bit_pad":
        (ph, pw), value = a["padding"], float(a["value"])
        return np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=value)
    oh, ow, outputs = output_shape(op, [x.shape[1:]], graph.tensors)
    (kh, kw), (sh, sw), (ph, pw) = a["kernel"], a["stride"], a["padding"]
    conv = "conv" in op.kind
    dh, dw = a["dilation"] if conv else (1, 1)
    beyond = (oh * sh + kh * dh, ow * sw + kw * dw)  # windows may hang over the end
    fill = 0.0 if conv or op.kind == "avg_pool" else -np.inf
    wide = np.pad(x, ((0, 0), (ph, ph + beyond[0]), (pw, pw + beyond[1]), (0, 0)), constant_values=fill)
    part = lambda i, j, of=wide: of[:, i * dh :: sh, j * dw :: sw][:, :oh, :ow]  # noqa: E731
    if not conv:
        taps = [(i, j) for i in range(kh) for j in range(kw)]
        parts = np.stack([part(i, j) for i, j in taps])
        inside = np.pad(np.ones((1, *x.shape[1:3], 1)), ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=float(a.get("count_padding", False)))
        inside = np.pad(inside, ((0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)))  # what hangs over the end never counts
        counts = sum(part(i, j, inside) for i, j in taps)
        return parts.max(0) if op.kind != "avg_pool" else parts.sum(0) / counts
    weights, groups = _weights(graph, op, x.shape[3]), a["groups"]
    y = np.zeros((len(x), oh, ow, outputs))
    size, made = x.shape[3] // groups, outputs // groups
    for g in range(groups):
        mine = slice(g * made, (g + 1) * made)
        for i in range(kh):
            for j in range(kw):
                y[..., mine] += part(i, j)[..., g * size : (g + 1) * size] @ weights[mine, i, j].T
    return y * scale * graph.tensors[op.constants["scale"]] if int8 else y


def _stage(graph: Graph, stage: dict[str, Any], y: np.ndarray, held: dict[str, np.ndarray]) -> np.ndarray:
    what = stage["op"]
    value = lambda name: graph.tensors[stage[name]].astype(np.float64)  # noqa: E731
    if what == "scale":
        return y * value("by")
    if what == "bias":
        return y + value("by")
    if what == "affine":
        return y * value("scale") + value("bias")
    if what == "relu":
        return np.maximum(y, 0)
    if what == "clamp":
        return np.minimum(np.maximum(y, stage["low"]), stage["high"])
    if what == "prelu":
        return np.where(y > 0, y, y * value("slope"))
    if what == "step":
        return np.where((value("low") <= y) & (y <= value("high")), 1.0, -1.0)
    if what == "divide":
        return y / value("by")
    if what in ("abs", "square"):
        return np.abs(y) if what == "abs" else y * y
    if what in PAIRS:
        return PAIRS[what](y, held[stage["slot"]])
    if what == "residual":
        other = held[stage["slot"]]
        return y + np.tile(other, (1, 1, 1, y.shape[3] // other.shape[3]))
    if what in ("max_pool", "avg_pool"):
        return _side_by_side(y, stage["size"], what)
    if what == "store":
        held[stage["slot"]] = y
        return y
    if what == "sign":
        bits = (value("low") <= y) & (y <= value("high"))
    elif what not in ("threshold", "bits"):
        raise ValueError(f"no stage {what!r}")
    else:
        if what == "threshold":
            y = _side_by_side(y, stage["pool"], "max_pool")
            bits = y >= graph.tensors[stage["threshold"]]
        else:
            bits = y > 0
        if stage["flip"] is not None:
            bits = bits ^ np.unpackbits(graph.tensors[stage["flip"]], count=y.shape[3], bitorder="little").astype(bool)
    held[stage["slot"]] = 2.0 * bits - 1
    return y


def _side_by_side(y: np.ndarray, size: int, what: str) -> np.ndarray:
    n, h, w, c = y.shape
    cut = y[:, : h // size * size, : w // size * size].reshape(n, h // size, size, w // size, size, c)
    return cut.max((2, 4)) if what == "max_pool" else cut.mean((2, 4))
