"""Random networks for :mod:`bnnlib.fuzz`, whose every sum is exact in float32."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from bnnlib.deploy.graph import Graph
from bnnlib.deploy.operations import Op, Slot, output_shape


class Maker:
    """Random graphs whose sums are exact in float32 (so no weights of int8, whose activations are rounded): of every slot it keeps
    the largest magnitude and the number of bits behind the point."""

    EXACT = 2.0**22

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.rng = draw, np.random.default_rng(draw.getrandbits(64))
        shape = (draw.randint(1, 9), draw.randint(1, 9), draw.choice((1, 2, 3, 8, 17)))
        self.graph = Graph(["x"], [], {"x": Slot("float32", shape)}, [], {})
        self.known = {"x": (4.0, 0)}  # a bits slot is (1, 0)
        wanted = draw.randint(1, 7)
        while wanted or not self.graph.ops:
            self.add()
            wanted = max(0, wanted - 1)
        written = [name for op in self.graph.ops for name in op.writes()]
        self.graph.outputs = list(dict.fromkeys([*draw.sample(written, min(2, len(written))), written[-1]]))

    def slot(self, kind: str, shape: tuple[int, int, int], bound: float, grain: int) -> str:
        name = f"s{len(self.graph.slots)}"
        self.graph.slots[name] = Slot(kind, shape)
        self.known[name] = bound, grain
        return name

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.graph.tensors)}"
        self.graph.tensors[name] = values
        return name

    def add(self) -> None:
        """One operation on any slot."""
        draw = self.draw
        source = draw.choice(list(self.graph.slots))
        slot, (bound, grain) = self.graph.slots[source], self.known[source]
        h, w, c = slot.shape
        if slot.kind == "bits":
            kind = draw.choice(("binary_conv", "binary_conv", "binary_conv", "bit_pool", "bit_pad", "map"))
        else:
            kind = draw.choice(("real_conv", "real_conv", "max_pool", "avg_pool", "map", "map", "move", "move", "join", "reduce", "resample"))
        op = Op(kind, [source], name=kind)
        if kind == "map":
            op.attributes = {"repeat": draw.choice((1, 1, 2, 3))}
        elif kind == "bit_pad":
            op.attributes = {"padding": [draw.randint(0, 2), draw.randint(0, 2)], "value": draw.choice((-1, 1))}
        elif kind in ("max_pool", "bit_pool"):
            kernel = [draw.randint(1, min(3, n)) for n in (h, w)]
            op.attributes = {
                "kernel": kernel, "stride": [draw.randint(1, 3), draw.randint(1, 3)], "padding": [draw.randint(0, k // 2) for k in kernel],
                "ceil": draw.random() < 0.3,
            }  # fmt: skip
        elif kind == "avg_pool":
            kernel = [draw.choice([k for k in (1, 2, 4) if k <= n]) for n in (h, w)]
            count, small = draw.random() < 0.5, max(kernel) <= 2  # a part of a window of 4 may divide by 3
            op.attributes = {
                "kernel": kernel, "stride": [draw.randint(1, 3), draw.randint(1, 3)],
                "padding": [draw.randint(0, k // 2) if count or small else 0 for k in kernel], "ceil": small and draw.random() < 0.3,
                "count_padding": count,
            }  # fmt: skip
            grain += 4
        elif kind in ("move", "join", "reduce", "resample"):
            bound, grain = getattr(self, kind)(op, slot.shape, bound, grain)
        else:
            bound = self.convolution(op, slot.shape, bound, grain)
        shapes = [self.graph.slots[name].shape for name in op.inputs]
        shape = output_shape(op, shapes, self.graph.tensors)
        if np.prod(shape) > 60_000 or min(shape) < 1:
            return
        if kind in ("bit_pool", "bit_pad") or (kind == "binary_conv" and draw.random() < 0.5):
            self.bits_alone(op, shape)
        else:
            self.stages(op, shape, bound, grain)
        self.graph.ops.append(op)

    def convolution(self, op: Op, shape: tuple[int, int, int], bound: float, grain: int) -> float:
        draw, (h, w, c) = self.draw, shape
        groups = draw.choice([g for g in (1, 1, 1, 2, 3, c) if c % g == 0])
        outputs = groups * draw.choice((1, 2, 3, 16, 33, 70) if groups == 1 else (1, 2, 5))
        padding = [draw.randint(0, 2), draw.randint(0, 2)]
        dilation = [draw.choice((1, 1, 2)), draw.choice((1, 1, 2))]
        room = [(n + 2 * p - 1) // d + 1 for n, p, d in zip((h, w), padding, dilation, strict=True)]
        kernel = [draw.randint(1, min(4, r)) for r in room]
        if draw.random() < 0.15:
            kernel, padding, dilation = [h, w], [0, 0], [1, 1]
        op.attributes = {
            "kernel": kernel, "stride": [draw.randint(1, 3), draw.randint(1, 3)], "padding": padding, "dilation": dilation, "groups": groups,
        }  # fmt: skip
        k = c // groups * kernel[0] * kernel[1]
        small = grain == 0 and bound <= 128  # a CPU that multiplies bf16 rounds the input
        kind = "bits" if op.kind == "binary_conv" else draw.choice(("float32", "bits", "bfloat16") if small else ("float32", "bits"))
        most = 1
        if kind == "bits":
            values = np.packbits(self.rng.random((outputs, k)) < 0.5, axis=1, bitorder="little")
        else:
            most = 2
            values = self.rng.integers(-2, 3, (outputs, *kernel, c // groups))
            if kind == "bfloat16":
                values = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            values = values.astype({"float32": np.float32, "bfloat16": np.uint16}[kind])
        same = [n for n, t in self.graph.tensors.items() if t.shape == values.shape and t.dtype == values.dtype]
        reused = draw.choice(same) if same and kind == "bits" and draw.random() < 0.3 else None
        op.constants = {"weight": reused or self.constant(values)}
        if op.kind == "real_conv":
            op.attributes["weights"] = kind
        return bound * most * k

    def move(self, op: Op, shape: tuple[int, int, int], bound: float, grain: int) -> tuple[float, int]:
        draw, total = self.draw, int(np.prod(shape))
        result = [draw.randint(1, 6), draw.randint(1, 6), draw.choice((1, 2, 5, 16))]
        sizes = draw.choice((result, [int(np.prod(result))], [result[0] * result[1], result[2]], [*result, 1]))
        room, tables = total - 1, []
        for size in sizes:  # sums of one of each never leave the input
            reach = draw.randint(0, room)
            room -= reach
            part = self.rng.integers(0, reach + 1, size)
            part[self.rng.random(size) < 0.1] = -1
            tables.append(part)
        op.attributes = {"shape": result, "sizes": list(sizes), "value": draw.choice((0.0, -2, 1))}
        op.constants = {"tables": self.constant(np.concatenate(tables).astype(np.int32))}
        return max(bound, 2.0), grain

    def join(self, op: Op, shape: tuple[int, int, int], bound: float, grain: int) -> tuple[float, int]:
        axis = self.draw.randrange(3)
        for name, slot in list(self.graph.slots.items()):
            fits = slot.kind == "float32" and all(a == b for i, (a, b) in enumerate(zip(slot.shape, shape, strict=True)) if i != axis)
            if fits and len(op.inputs) < 4 and self.draw.random() < 0.5:
                op.inputs.append(name)
                bound, grain = max(bound, self.known[name][0]), max(grain, self.known[name][1])
        op.attributes = {"axis": axis}
        return bound, grain

    def reduce(self, op: Op, shape: tuple[int, int, int], bound: float, grain: int) -> tuple[float, int]:
        axes = self.draw.sample((0, 1, 2), self.draw.randint(0, 3))
        count = int(np.prod([shape[i] for i in axes])) if axes else 1
        whole = count & (count - 1) == 0  # a mean divides by a power of two, or is rounded
        function = self.draw.choice(("sum", "max", "min", *(["mean"] if whole else [])))
        op.attributes = {"function": function, "axes": axes}
        return bound * (count if function == "sum" else 1), grain + (count.bit_length() if function == "mean" else 0)

    def resample(self, op: Op, shape: tuple[int, int, int], bound: float, grain: int) -> tuple[float, int]:
        axis = self.draw.randrange(2)
        taps, size = self.draw.randint(1, min(3, shape[axis])), self.draw.randint(1, 9)
        op.attributes = {"axis": axis}
        op.constants = {
            "start": self.constant(self.rng.integers(0, shape[axis] - taps + 1, size).astype(np.int32)),
            "weight": self.constant(self.rng.choice(np.array([-0.5, 0, 0.25, 0.5, 1], np.float32), (size, taps))),
        }
        return bound * taps, grain + 2

    def flip(self, channels: int) -> str | None:
        if self.draw.random() < 0.5:
            return None
        return self.constant(np.packbits(self.rng.random(channels) < 0.5, bitorder="little"))

    def bits_alone(self, op: Op, shape: tuple[int, int, int]) -> None:
        h, w, c = shape
        if op.kind != "binary_conv":
            op.stages = [{"op": "bits", "flip": self.flip(c), "slot": self.slot("bits", shape, 1, 0)}]
            return
        pool = self.draw.choice([p for p in (1, 1, 2, 3) if p <= min(h, w)])
        op.stages = [{
            "op": "threshold", "threshold": self.constant(self.rng.integers(-9, 10, c).astype(np.int32)), "flip": self.flip(c),
            "pool": pool, "slot": self.slot("bits", (h // pool, w // pool, c), 1, 0),
        }]  # fmt: skip

    def parameter(self, shape: tuple[int, int, int], choices: list[float]) -> str:
        full = shape if self.draw.random() < 0.2 else shape[2:]
        return self.constant(self.rng.choice(np.array(choices, np.float32), full))

    def stages(self, op: Op, shape: tuple[int, int, int], bound: float, grain: int) -> None:
        draw, conv = self.draw, "conv" in op.kind
        if conv and min(shape[:2]) > 1 and draw.random() < 0.3:
            what, size = draw.choice((("max_pool", 2), ("avg_pool", 2), ("max_pool", min(3, *shape[:2]))))
            op.stages.append({"op": what, "size": size})
            shape, grain = (shape[0] // size, shape[1] // size, shape[2]), grain + 2
        for _ in range(draw.randint(0, 4)):
            what = draw.choice(("scale", "bias", "affine", "relu", "clamp", "prelu", "step", "residual", "pair", "pair", "abs", "square", "divide"))
            stage: dict[str, Any] = {"op": what}
            if what == "scale":
                stage["by"], bound, grain = self.parameter(shape, [-1, 0.5, 2]), 2 * bound, grain + 1
            elif what == "bias":
                stage["by"], bound, grain = self.parameter(shape, [-3, 0, 0.5, 2]), bound + 3, max(1, grain)
            elif what == "affine":
                stage |= {"scale": self.parameter(shape, [-2, 0.5, 1]), "bias": self.parameter(shape, [-1, 0, 4]), "fused": draw.random() < 0.5}
                bound, grain = 2 * bound + 4, grain + 1
            elif what == "clamp":
                stage |= {"low": draw.choice((-8, -1, -(10**20))), "high": draw.choice((0, 1, 7.0))}
            elif what == "prelu":
                stage["slope"], grain = self.parameter(shape, [-1, 0, 0.5]), grain + 1
            elif what == "step":
                stage |= {"low": self.parameter(shape, [-0.3, 0, 1]), "high": self.parameter(shape, [1, 3.2, np.inf])}
                bound, grain = 1, 0
            elif what == "divide":
                stage["by"], bound, grain = self.parameter(shape, [-2, 1, 4]), bound, grain + 2
            elif what == "square":
                if bound * bound * 4.0**grain > self.EXACT:
                    continue
                bound, grain = bound * bound, 2 * grain
            elif what == "pair":
                fits = [
                    n for n, s in self.graph.slots.items()
                    if s.kind == "float32" and all(a in (1, b) for a, b in zip(s.shape, shape, strict=True))
                ]  # fmt: skip
                if not fits:
                    continue
                stage |= {"op": draw.choice(("plus", "minus", "minus_from", "times", "larger", "smaller")), "slot": draw.choice(fits)}
                other = self.known[stage["slot"]]
                if stage["op"] == "times":
                    if bound * other[0] * 2.0 ** (grain + other[1]) > self.EXACT:
                        continue
                    bound, grain = bound * other[0], grain + other[1]
                else:
                    bound, grain = bound + other[0], max(grain, other[1])
            elif what == "residual":
                fits = [
                    n for n, s in self.graph.slots.items()
                    if s.kind == "float32" and s.shape[:2] == shape[:2] and shape[2] % s.shape[2] == 0
                ]  # fmt: skip
                if not fits:
                    continue
                stage["slot"] = draw.choice(fits)
                other = self.known[stage["slot"]]
                bound, grain = bound + other[0], max(grain, other[1])
            op.stages.append(stage)
        if bound * 2.0**grain > self.EXACT / 4096:  # or the next sum may be rounded
            op.stages.append({"op": "step", "low": self.parameter(shape, [-0.3, 0, 1]), "high": self.parameter(shape, [3.2, np.inf])})
            bound, grain = 1, 0
        writes = draw.choice((("store",), ("sign",), ("store", "sign"), ("sign", "store")))
        for what in writes:
            if what == "store":
                op.stages.append({"op": "store", "slot": self.slot("float32", shape, bound, grain)})
            else:
                low, high = self.parameter(shape, [-0.3, 0, 1.25]), self.parameter(shape, [np.inf] if draw.random() < 0.5 else [0, 2.5])
                op.stages.append({"op": "sign", "low": low, "high": high, "slot": self.slot("bits", shape, 1, 0)})
