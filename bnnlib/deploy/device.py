"""A packed network on a GPU: the operations of its graph one after another, binary layers by :mod:`bnnlib.ops.cuda`, all
else by PyTorch.

:class:`bnnlib.deploy.PackedNetwork` makes one of these when it is called with a tensor on a GPU. It also runs on the CPU, where
tests compare it with the native executor: values are equal bit by bit but for sums of real-valued products, which have another
order, and ``affine`` stages that round once, which go through float64. Real-valued products are of float32, not TF32, so that signs
behind them fall as they do on the CPU; weights stored in fewer bits are widened once.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnnlib import ops
from bnnlib.deploy.graph import Graph, Op
from bnnlib.deploy.operations import TENSOR, places
from bnnlib.packing import quantize_activations


class DeviceRunner:
    """``graph`` on ``device``; ``calls``: the modules that it leaves to PyTorch, copied there. Raises ``ValueError`` for one that
    is no module, since it cannot be moved."""

    def __init__(self, graph: Graph, device: torch.device, calls: Mapping[str, Callable[..., Tensor]] | None = None) -> None:
        self.graph, self.device = graph, device
        self.calls: dict[str, nn.Module] = {}
        for name, call in (calls or {}).items():
            if not isinstance(call, nn.Module):
                raise ValueError(f"{name} runs in PyTorch and is a {type(call).__name__}, no module, so it cannot be moved to {device}")
            self.calls[name] = copy.deepcopy(call).to(device).eval()
        self._constants = {name: torch.from_numpy(_plain(array)).to(device) for name, array in graph.tensors.items()}
        self._weights = {i: self._weight(op) for i, op in enumerate(graph.ops) if op.kind in ("real_conv", "binary_conv")}
        self._flips = {
            name: _words(graph.tensors[name]).to(device)
            for op in graph.ops
            for stage in op.stages
            if (name := stage.get("flip")) is not None
        }
        self._places: dict[int, Tensor] = {}  # of `move`, by the operation's number
        last: dict[str, int] = {}
        for i, op in enumerate(graph.ops):
            last.update(dict.fromkeys(op.reads(), i))
        self.last_reader = {name: i for name, i in last.items() if name not in graph.outputs}

    @torch.no_grad()
    def values(self, x: Tensor | Sequence[Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Slots by name, for images float32 ``(N, C, H, W)`` on the device (of several inputs, a list of such): float32 ``(N, C, H, W)`` or words int64
        ``[N, H, W, words]``. Other slots are let go as soon as nothing reads them."""
        held = dict(zip(self.graph.inputs, [x] if isinstance(x, Tensor) else x, strict=True))
        for i, op in enumerate(self.graph.ops):
            y = self._source(i, op, held)
            for stage in op.stages:
                y = self._stage(stage, y, held)
            for name in [n for n in held if self.last_reader.get(n) == i and n not in names]:
                del held[name]
        return {name: held[name] for name in names}

    def _weight(self, op: Op) -> Tensor:
        """Prepacked bits, or float32 (O, C/groups, kh, kw), of int8 without its scale."""
        stored, shape = self._constants[op.constants["weight"]], self._shape(op)
        if op.kind == "binary_conv":
            return ops.prepack(stored, shape, op.attributes["groups"])
        kind = op.attributes["weights"]
        if kind == "bits":
            return ops.unpack_weight(stored, shape)
        return (stored.view(torch.bfloat16) if kind == "bfloat16" else stored).float().permute(0, 3, 1, 2).contiguous()

    def _shape(self, op: Op) -> tuple[int, int, int, int]:
        channels = self.graph.slots[op.inputs[0]].shape[2]
        o = self.graph.tensors[op.constants["weight"]].shape[0]
        return (o, channels // op.attributes["groups"], *op.attributes["kernel"])

    def _float(self, name: str, held: Mapping[str, Tensor]) -> Tensor:
        slot = self.graph.slots[name]
        return held[name] if slot.kind == "float32" else ops.unpack_activation(held[name], slot.shape[2])

    def _source(self, i: int, op: Op, held: Mapping[str, Tensor]) -> Tensor:
        a, name = op.attributes, op.inputs[0]
        if op.kind == "torch":
            return self.calls[a["module"]](*(held[n] for n in op.inputs))
        if op.kind in TENSOR:
            return self._tensor(i, op, held)
        if op.kind == "map":
            return self._float(name, held).repeat(1, a["repeat"], 1, 1)
        if op.kind == "bit_pad":
            return self._padded(held[name], a["padding"], a["value"], self.graph.slots[name].shape[2])
        if op.kind in ("max_pool", "avg_pool", "bit_pool"):
            return self._pooled(op, held)
        geometry = a["stride"], a["padding"], a["dilation"], a["groups"]
        if op.kind == "real_conv":
            if a["weights"] == "int8":
                x, scale = quantize_activations(held[name])
                return self._real(x, i, op, geometry) * (scale * self._constants[op.constants["scale"]].reshape(-1, 1, 1))
            return self._real(held[name], i, op, geometry)
        stage = op.stages[0]
        fused: dict[str, Any] = {}
        if stage["op"] == "threshold":
            threshold = self._constants[stage["threshold"]]
            fused = {"threshold": threshold, "flip": self._flips.get(stage["flip"]), "pool": stage["pool"], "out": "bits"}
        return ops.conv2d_packed(held[name], self._weights[i], self._shape(op), *geometry, **fused)

    def _real(self, x: Tensor, i: int, op: Op, geometry: tuple) -> Tensor:
        w = self._weights[i]
        linear = tuple(w.shape[2:]) == tuple(x.shape[2:]) and op.attributes["groups"] == 1 and list(op.attributes["padding"]) == [0, 0]
        with _without_tf32():
            return (x.flatten(1) @ w.flatten(1).t())[:, :, None, None] if linear else F.conv2d(x, w, None, *geometry)

    def _tensor(self, i: int, op: Op, held: Mapping[str, Tensor]) -> Tensor:
        """What moves, joins, sums and resamples values; slots are (N, C, H, W) here, their axes (rows, columns, channels)."""
        a, x, dims = op.attributes, held[op.inputs[0]], (2, 3, 1)
        if op.kind == "join":
            return torch.cat([held[name] for name in op.inputs], dims[a["axis"]])
        if op.kind == "reduce":
            function = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin}[a["function"]]
            return function(x, [dims[axis] for axis in a["axes"]], keepdim=True) if a["axes"] else x
        if op.kind == "resample":
            dim, weight = dims[a["axis"]], self._constants[op.constants["weight"]]
            start, total = self._constants[op.constants["start"]].long(), None
            for tap in range(weight.shape[1]):
                part = x.index_select(dim, start + tap) * weight[:, tap].reshape([-1 if d == dim else 1 for d in range(4)])
                total = part if total is None else total + part
            return total
        if i not in self._places:
            self._places[i] = torch.from_numpy(places(op, self.graph.tensors)).long().to(self.device)
        (h, w, c), place = a["shape"], self._places[i]
        y = x.permute(0, 2, 3, 1).flatten(1)[:, place.clamp(min=0)]
        y = torch.where(place < 0, float(a["value"]), y)
        return y.reshape(len(x), h, w, c).permute(0, 3, 1, 2)

    @staticmethod
    def _padded(bits: Tensor, padding: list[int], value: int, channels: int) -> Tensor:
        n, h, w, last = bits.shape
        ph, pw = padding
        out = bits.new_full((n, h + 2 * ph, w + 2 * pw, last), -1 if value > 0 else 0)
        if value > 0 and channels % 64:
            out[..., -1] = (1 << channels % 64) - 1
        out[:, ph : ph + h, pw : pw + w] = bits
        return out

    def _pooled(self, op: Op, held: Mapping[str, Tensor]) -> Tensor:
        a, name = op.attributes, op.inputs[0]
        window = a["kernel"], a["stride"], a["padding"]
        if op.kind == "avg_pool":
            return F.avg_pool2d(held[name], *window, ceil_mode=a["ceil"], count_include_pad=a["count_padding"])
        if op.kind == "max_pool":
            return F.max_pool2d(held[name], *window, ceil_mode=a["ceil"])
        channels = self.graph.slots[name].shape[2]
        if all(len(set(pair)) == 1 for pair in window) and not a["ceil"]:
            return ops.or_pool(held[name], channels, *(pair[0] for pair in window))
        return ops.pack_activation(F.max_pool2d(self._float(name, held), *window, ceil_mode=a["ceil"]))

    def _parameter(self, name: str) -> Tensor:
        """A constant [C] or [H, W, C], as it goes with (N, C, H, W)."""
        value = self._constants[name]
        return value.reshape(-1, 1, 1) if value.dim() == 1 else value.permute(2, 0, 1)

    def _stage(self, stage: dict[str, Any], x: Tensor, held: dict[str, Tensor]) -> Tensor:
        kind = stage["op"]
        if kind == "scale":
            return x * self._parameter(stage["by"])
        if kind == "bias":
            return x + self._parameter(stage["by"])
        if kind == "affine":
            scale, bias = self._parameter(stage["scale"]), self._parameter(stage["bias"])
            return (x.double() * scale.double() + bias.double()).float() if stage["fused"] else x * scale + bias
        if kind == "divide":
            return x / self._parameter(stage["by"])
        if kind == "elu":
            return F.elu(x, stage["alpha"])
        if kind in _FUNCTIONS:
            return _FUNCTIONS[kind](x)
        if kind in _PAIRS:
            return _PAIRS[kind](x, held[stage["slot"]])
        if kind == "relu":
            return x.relu()
        if kind == "clamp":
            return x.clamp(float(stage["low"]), float(stage["high"]))
        if kind == "prelu":
            return torch.where(x > 0, x, x * self._parameter(stage["slope"]))
        if kind in ("step", "sign"):
            inside = (self._parameter(stage["low"]) <= x) & (x <= self._parameter(stage["high"]))
            y = torch.where(inside, 1.0, -1.0)
            if kind == "step":
                return y
            held[stage["slot"]] = ops.pack_activation(y)
        elif kind == "residual":
            other = held[stage["slot"]]
            return x + (other if other.shape[1] == x.shape[1] else other.repeat(1, x.shape[1] // other.shape[1], 1, 1))
        elif kind == "max_pool":
            return F.max_pool2d(x, stage["size"])
        elif kind == "avg_pool":
            return _mean(x, stage["size"])
        elif kind == "store":
            h, w, c = self.graph.slots[stage["slot"]].shape
            held[stage["slot"]] = x.float().reshape(len(x), c, h, w)
        elif kind == "threshold":
            held[stage["slot"]] = x
        else:  # bits
            held[stage["slot"]] = x if stage["flip"] is None else x ^ self._flips[stage["flip"]]
        return x


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs, "square": torch.square, "sqrt": torch.sqrt, "reciprocal": torch.reciprocal, "exp": torch.exp, "log": torch.log,
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
    "hard_sigmoid": F.hardsigmoid, "hard_swish": F.hardswish, "softplus": F.softplus,
}  # fmt: skip
_PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plus": torch.add, "minus": torch.sub, "minus_from": lambda x, y: y - x, "times": torch.mul, "over": torch.div,
    "over_from": lambda x, y: y / x, "larger": torch.maximum, "smaller": torch.minimum,
}  # fmt: skip


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Real-valued products of a GPU, by cuDNN or cuBLAS, are of float32. What was set before is set again; no other setting is touched."""
    places = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def _plain(array: np.ndarray) -> np.ndarray:
    """uint16 holds bfloat16, for which int16 does as well."""
    return np.ascontiguousarray(array.view(np.int16) if array.dtype == np.uint16 else array)


def _words(flip: np.ndarray) -> Tensor:
    """A bit to a channel, in bytes, as int64 words."""
    return torch.from_numpy(np.pad(flip, (0, -len(flip) % 8)).view("<i8").copy())


def _mean(x: Tensor, size: int) -> Tensor:
    """Means of windows side by side, their values added row by row as the executor does."""
    n, c, h, w = x.shape
    x = x[:, :, : h // size * size, : w // size * size]
    total = x[:, :, ::size, ::size]
    for k in range(1, size * size):
        total = total + x[:, :, k // size :: size, k % size :: size]
    return total / (size * size)
