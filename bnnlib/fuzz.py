"""Attack the library with random input: ``python -m bnnlib.fuzz [--minutes M] [--seed S] [--only KIND]``.

=============== ==================================================================================================
kind            what a case is, and what must come of it
=============== ==================================================================================================
``file``        a packed file, changed: a network that runs, or ``DeployError``; a file whose checksum was not mended
                is never read
``graph``       a random network: on every kernel variant the values of an interpreter in float64, to the last bit;
                or tables for the executor with a number changed: refused, or nothing happens
``checkpoint``  a checkpoint, changed: ``CheckpointError``, or a dict
``data``        a file of a data set, changed: ``DataError``, or images
``yaml``        a recipe, changed: ``RecipeError``, or a recipe
``kernels``     ``tests/kernels/fuzz.cpp`` under the address and undefined-behaviour sanitizers; needs a checkout
=============== ==================================================================================================

Cases run in a child process that may take a gigabyte more than it begins with, and a minute a case; a case that ends it is
a finding, as is any exception that is not the one above. A case is a function of (seed, kind, number) alone: what is
printed with a finding reproduces it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 1 << 30  # bytes beyond what a child begins with
CASE_SECONDS = 60
KERNEL_CASES = 20  # of a process of the kernels' fuzz, for each variant
CHILD = [sys.executable, "-m", "bnnlib.fuzz"]


class Finding(Exception):
    """A result that must not be."""


# ------------------------------------------------------------------------------------------------ changed bytes


def flipped(draw: random.Random, raw: bytes) -> bytes:
    """``raw`` with bits flipped, bytes overwritten, a stretch removed, repeated or cut off; never ``raw`` itself."""
    changed = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(len(changed)) if changed else 0
        stretch = draw.choice((1, 4, 8, 100))
        how = draw.randrange(6)
        if how == 0 or not changed:
            changed[at : at + stretch] = draw.randbytes(stretch)
        elif how == 1:
            changed[at] ^= 1 << draw.randrange(8)
        elif how == 2:
            del changed[at : at + stretch]
        elif how == 3:
            changed[at:at] = changed[at : at + stretch] * draw.choice((1, 3))
        elif how == 4:
            number = draw.choice((0, 1, 0x7F, 0xFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            changed[at : at + 8] = number.to_bytes(8, draw.choice(("little", "big")))
        else:
            del changed[at:]
    return bytes(changed) if changed != raw else bytes(raw) + b"\0"


STRANGE = [
    None, -1, 0, 1, 2, 7, 2**16, 2**31 - 1, 2**31, 2**63, 2**70, 10**400, 0.5, 1e30, 1e308, "", "x", "\x1b[2J\r\n", "\ud800", "images",
    [], {}, True, False, [[]], [1], [1, 1], [0, 0], [2**20, 2**20], {"op": 1},
]  # fmt: skip


def places(node: Any, trail: tuple = ()):
    """Where values are in a JSON document."""
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield (*trail, key)
            yield from places(node[key], (*trail, key))


def disturbed(draw: random.Random, document: Any) -> Any:
    """A copy of a JSON document with some values changed, removed, doubled, or taken from elsewhere in it."""
    document = json.loads(json.dumps(document))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        known = list(places(document))
        if not known:
            break
        *way, key = draw.choice(known)
        node = document
        for step in way:
            node = node[step]
        how = draw.randrange(5)
        if how == 0 and isinstance(node, dict):
            del node[key]
        elif how == 1 and isinstance(node, list):
            node.insert(key, json.loads(json.dumps(node[key])))
        elif how == 2:
            other = document
            for step in draw.choice(known):
                with contextlib.suppress(KeyError, IndexError, TypeError):
                    other = other[step]
            node[key] = json.loads(json.dumps(other)) if len(json.dumps(other)) < 5000 else None
        elif how == 3 and type(node[key]) is int:
            node[key] = draw.choice((node[key] - 1, node[key] + 1, 2 * node[key], node[key] // 2))
        else:
            node[key] = json.loads(json.dumps(draw.choice(STRANGE)))
    return document


# ------------------------------------------------------------------------------------------------ random networks


class Maker:
    """Random graphs whose sums are exact in float32: of every slot it keeps the largest magnitude and the number of bits
    behind the point."""

    EXACT = 2.0**22

    def __init__(self, draw: random.Random) -> None:
        from bnnlib.deploy.graph import Graph, Slot

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
        from bnnlib.deploy.graph import Slot

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
        from bnnlib.deploy.graph import Op, output_shape

        draw = self.draw
        source = draw.choice(list(self.graph.slots))
        slot, (bound, grain) = self.graph.slots[source], self.known[source]
        h, w, c = slot.shape
        if slot.kind == "bits":
            kind = draw.choice(("binary_conv", "binary_conv", "binary_conv", "bit_pool", "bit_pad", "map"))
        else:
            kind = draw.choice(("real_conv", "real_conv", "max_pool", "avg_pool", "map", "map"))
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
            count = draw.random() < 0.5  # where it is not counted, padding would divide by other numbers than powers of two
            op.attributes = {
                "kernel": kernel, "stride": [draw.randint(1, 3), draw.randint(1, 3)],
                "padding": [draw.randint(0, k // 2) if count else 0 for k in kernel], "ceil": False, "count_padding": count,
            }  # fmt: skip
            grain += 4
        else:
            bound = self.convolution(op, slot.shape, bound, grain)
        shape = output_shape(op, slot.shape, self.graph.tensors)
        if np.prod(shape) > 60_000 or min(shape) < 1:
            return
        if kind in ("bit_pool", "bit_pad") or (kind == "binary_conv" and draw.random() < 0.5):
            self.bits_alone(op, shape)
        else:
            self.stages(op, shape, bound, grain)
        self.graph.ops.append(op)

    def convolution(self, op: Any, shape: tuple[int, int, int], bound: float, grain: int) -> float:
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
        kind = "bits" if op.kind == "binary_conv" else draw.choice(("float32", "bits", "bfloat16", "int8") if small else ("float32", "bits"))
        most = 1
        if kind == "bits":
            values = np.packbits(self.rng.random((outputs, k)) < 0.5, axis=1, bitorder="little")
        else:
            most = 2
            values = self.rng.integers(-2, 3, (outputs, *kernel, c // groups))
            if kind == "bfloat16":
                values = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            values = values.astype({"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}[kind])
        same = [n for n, t in self.graph.tensors.items() if t.shape == values.shape and t.dtype == values.dtype]
        reused = draw.choice(same) if same and kind == "bits" and draw.random() < 0.3 else None
        op.constants = {"weight": reused or self.constant(values)}
        if op.kind == "real_conv":
            op.attributes["weights"] = kind
        if kind == "int8":
            op.constants["scale"] = self.constant(self.rng.choice(np.array([1, 2], np.float32), outputs))
            most *= 2
        return bound * most * k

    def flip(self, channels: int) -> str | None:
        if self.draw.random() < 0.5:
            return None
        return self.constant(np.packbits(self.rng.random(channels) < 0.5, bitorder="little"))

    def bits_alone(self, op: Any, shape: tuple[int, int, int]) -> None:
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

    def stages(self, op: Any, shape: tuple[int, int, int], bound: float, grain: int) -> None:
        draw, conv = self.draw, "conv" in op.kind
        if conv and min(shape[:2]) > 1 and draw.random() < 0.3:
            what, size = draw.choice((("max_pool", 2), ("avg_pool", 2), ("max_pool", min(3, *shape[:2]))))
            op.stages.append({"op": what, "size": size})
            shape, grain = (shape[0] // size, shape[1] // size, shape[2]), grain + 2
        for _ in range(draw.randint(0, 4)):
            what = draw.choice(("scale", "bias", "affine", "relu", "clamp", "prelu", "step", "residual"))
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


# ------------------------------------------------------------------------------------------------ the interpreter


def interpret(graph: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every slot of a graph in float64, ``(N, H, W, C)``, bits as -1 and +1, from the tables of :mod:`bnnlib.deploy.graph` and
    as plainly as they are written."""
    held = {graph.inputs[0]: x.transpose(0, 2, 3, 1).astype(np.float64)}
    for op in graph.ops:
        y = _operation(graph, op, held[op.inputs[0]])
        for stage in op.stages:
            y = _stage(graph, stage, y, held)
    return held


def _weights(graph: Any, op: Any, channels: int) -> np.ndarray:
    """float64 ``(O, kh, kw, C / groups)``."""
    stored, (kh, kw) = graph.tensors[op.constants["weight"]], op.attributes["kernel"]
    kind = op.attributes.get("weights", "bits")
    if kind == "bits":
        inputs = channels // op.attributes["groups"]
        bits = np.unpackbits(stored, axis=1, count=inputs * kh * kw, bitorder="little")
        return (2.0 * bits - 1).reshape(-1, inputs, kh, kw).transpose(0, 2, 3, 1)
    if kind == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    values = stored.astype(np.float64)
    return values * graph.tensors[op.constants["scale"]][:, None, None, None] if kind == "int8" else values


def _operation(graph: Any, op: Any, x: np.ndarray) -> np.ndarray:
    from bnnlib.deploy.graph import output_shape

    a = op.attributes
    if op.kind == "map":
        return np.tile(x, (1, 1, 1, a["repeat"]))
    if op.kind == "bit_pad":
        (ph, pw), value = a["padding"], float(a["value"])
        return np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=value)
    oh, ow, outputs = output_shape(op, x.shape[1:], graph.tensors)
    (kh, kw), (sh, sw), (ph, pw) = a["kernel"], a["stride"], a["padding"]
    conv = "conv" in op.kind
    dh, dw = a["dilation"] if conv else (1, 1)
    beyond = (oh * sh + kh * dh, ow * sw + kw * dw)  # windows may hang over the end
    fill = 0.0 if conv or op.kind == "avg_pool" else -np.inf
    wide = np.pad(x, ((0, 0), (ph, ph + beyond[0]), (pw, pw + beyond[1]), (0, 0)), constant_values=fill)
    part = lambda i, j: wide[:, i * dh :: sh, j * dw :: sw][:, :oh, :ow]  # noqa: E731
    if not conv:
        parts = np.stack([part(i, j) for i in range(kh) for j in range(kw)])
        return parts.max(0) if op.kind != "avg_pool" else parts.sum(0) / (kh * kw)
    weights, groups = _weights(graph, op, x.shape[3]), a["groups"]
    y = np.zeros((len(x), oh, ow, outputs))
    size, made = x.shape[3] // groups, outputs // groups
    for g in range(groups):
        mine = slice(g * made, (g + 1) * made)
        for i in range(kh):
            for j in range(kw):
                y[..., mine] += part(i, j)[..., g * size : (g + 1) * size] @ weights[mine, i, j].T
    return y


def _stage(graph: Any, stage: dict[str, Any], y: np.ndarray, held: dict[str, np.ndarray]) -> np.ndarray:
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


# ------------------------------------------------------------------------------------------------ the cases


def graph_case(draw: random.Random, folder: Path) -> None:
    from bnnlib.deploy import program
    from bnnlib.deploy.run import Runner, kernels

    graph = Maker(draw).graph
    graph.validate()
    variants = [name for name, _, supported in kernels().variants() if supported]
    if draw.random() < 0.3:
        _tables(draw, program.assemble(graph), kernels(), draw.choice(variants))
        return
    h, w, c = graph.slots["x"].shape
    x = np.random.default_rng(draw.getrandbits(64)).integers(-4, 5, (draw.choice((1, 2, 5)), c, h, w)).astype(np.float32)
    wanted = interpret(graph, x)
    for variant in variants:
        for threads in (1, 2):
            got = Runner(graph, threads, variant, take=False).arrays([x])
            for name, values in zip(graph.outputs, got, strict=True):
                if graph.slots[name].kind == "bits":
                    count = graph.slots[name].shape[2]
                    bits = np.unpackbits(np.ascontiguousarray(values).view(np.uint8), axis=-1, bitorder="little")
                    if bits[..., count:].any():
                        raise Finding(f"{variant}: slot {name} has bits beyond the last channel")
                    values = 2.0 * bits[..., :count] - 1
                if not np.array_equal(values, wanted[name]):
                    worst = np.abs(values - wanted[name]).max()
                    raise Finding(f"{variant} on {threads} threads: slot {name} differs by up to {worst}: {json.dumps(graph.to_json())}")


def _tables(draw: random.Random, made: Any, module: Any, variant: str) -> None:
    for _ in range(draw.choice((1, 1, 2))):
        what = draw.choice(("slots", "ops", "stages", "micro_bytes", "chunk_bytes"))
        number = draw.choice((-1, 0, 1, 2, 7, 63, 2**20, 2**31, 2**40, -(2**40), 2**62, 2**63 - 1))
        table = getattr(made, what)
        if isinstance(table, int):
            setattr(made, what, number)
        elif table.size:
            table[tuple(draw.randrange(n) for n in table.shape)] = number
    with contextlib.suppress(ValueError, MemoryError):
        made.executor(module, variant)


def _small_model() -> Any:
    from bnnlib import models

    return models.build("convnet", widths=[3, 4], depth=1, in_channels=1, classes=3)


def file_case(draw: random.Random, folder: Path) -> None:
    """A packed network or a trained model: its bytes changed, or what it says, with the checksum mended."""
    from bnnlib import deploy
    from bnnlib.deploy import commands, container, images

    path = folder / "net"
    seen = {"shape": [1, 12, 12], "classes": ["a", "b", "c"], "mean": [0.5], "std": [0.5], "view": None}
    about = {"images": seen, "input": "unit", "dataset": "digits", "recipe": "r", "seed": 1, "top1": 9.5}
    if draw.random() < 0.3:
        options = {"widths": [3, 4], "depth": 1, "in_channels": 1, "classes": 3}
        deploy.save(_small_model(), path, about={**about, "model": {"name": "convnet", "options": options}}, real=draw.choice(("float32", "bfloat16", "int8")))
    else:
        graph = Maker(draw).graph
        h, w, c = graph.slots["x"].shape
        deploy.save(graph, path, about={**about, "images": {**seen, "shape": [c, h, w]}})
    raw = path.read_bytes()
    if mended := draw.random() < 0.8:
        document, tensors = container.read(path)
        if draw.random() < 0.9 or not tensors:  # a net of no weights has none
            document = disturbed(draw, document)
        else:
            name = draw.choice(list(tensors))
            tensors[name] = tensors[name].ravel()[: draw.randrange(tensors[name].size + 1)]
        with contextlib.suppress(ValueError, OverflowError, AttributeError, TypeError):
            document = document if isinstance(document, dict) else {}
            container.write(path, document, tensors)
    else:
        path.write_bytes(flipped(draw, raw))
    try:
        loaded = deploy.load(path)
    except deploy.DeployError as error:
        if "fit into memory" in str(error):
            raise Finding(f"a small file takes all memory: {error}") from None
        loaded = None
    if loaded is not None and not mended:
        raise Finding("a file whose bytes were changed was read")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), contextlib.suppress(typer.Exit):
        commands.info(path)
    if any(not c.isprintable() and c != "\n" for c in shown.getvalue()):
        raise Finding(f"info prints what a terminal obeys: {shown.getvalue()!r}")
    if loaded is None:
        return
    with contextlib.suppress(deploy.DeployError):
        images.expected(path, deploy.info(path))
    if isinstance(loaded, deploy.PackedNetwork):
        from bnnlib.deploy.run import Runner, empty

        runner = Runner(loaded.graph)
        given = [empty(loaded.graph, name, 2) for name in loaded.graph.inputs]
        for array in given:
            array.fill(1)
        runner.arrays([a.transpose(0, 3, 1, 2) if a.dtype == np.float32 else a for a in given])


def checkpoint_case(draw: random.Random, folder: Path) -> None:
    import torch

    from bnnlib.training import checkpoint

    path = folder / "checkpoint.pt"
    state = {"seed": 1, "w": torch.arange(float(draw.choice((1, 40, 4000)))), "o": {"state": {0: [1.5, "x"]}}, "curve": [{"a": 1}]}
    checkpoint.save(path, state)
    raw = path.read_bytes()
    how = draw.randrange(4)
    if how == 0:  # with the digest: no change may pass
        path.write_bytes(flipped(draw, raw))
    elif how == 1:  # without it, as earlier versions wrote it
        path.write_bytes(flipped(draw, raw[: raw.rindex(b"\nbnnlib")]))
    else:  # a stranger's: other parts, all sums right
        import hashlib
        import zipfile

        made = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w", draw.choice((0, 0, 0, 8))) as new:
            for name in old.namelist():
                part = old.read(name)
                new.writestr(name, flipped(draw, part) if part and draw.random() < 0.5 else part)
        content = made.getvalue()
        path.write_bytes(content + b"\nbnnlib sha256 " + hashlib.sha256(content).hexdigest().encode())
    try:
        found = checkpoint.load(path, {"seed": 1})
    except checkpoint.CheckpointError as error:
        if "memory" in str(error).lower():
            raise Finding(f"a small checkpoint takes all memory: {error}") from None
        return
    if how == 0:
        raise Finding("a checkpoint whose bytes were changed was read")
    if not isinstance(found, dict):
        raise Finding(f"a checkpoint gave a {type(found).__name__}")


def data_case(draw: random.Random, folder: Path) -> None:
    import gzip
    import pickle

    from PIL import Image

    from bnnlib.data import DataError, cifar10, folders, mnist

    rng = np.random.default_rng(draw.getrandbits(64))
    kind = draw.choice(("idx", "gz", "cifar", "cifar", "image", "image", "image"))
    if kind in ("idx", "gz"):
        pixels = rng.integers(0, 256, (5, 28, 28), np.uint8)
        raw = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in pixels.shape) + pixels.tobytes()
        raw = flipped(draw, raw) if draw.random() < 0.7 else raw
        path = folder / ("x.gz" if kind == "gz" else "x")
        if kind == "gz":
            raw = gzip.compress(raw * draw.choice((1, 1, 20_000)), 1)
            raw = flipped(draw, raw) if draw.random() < 0.5 else raw
        path.write_bytes(raw)
        with contextlib.suppress(DataError):
            mnist.idx(path, 3)
    elif kind == "cifar":
        table = rng.integers(0, 256, (4, 3072), np.uint8)
        raw = pickle.dumps({b"data": table, b"labels": [1, 2, 3, 4], b"names": [b"a", b"b"]}, protocol=draw.choice((2, 3, 4)))
        at = raw.index(table.tobytes()[:3]) if table.tobytes()[:3] in raw else len(raw)
        if draw.random() < 0.6:  # the structure, not the pixels
            raw = flipped(draw, raw[:at]) + raw[at:] if draw.random() < 0.5 else raw[:at] + raw[at:-60] + flipped(draw, raw[-60:])
        elif draw.random() < 0.5:
            codes = b"(.0123]}lteqahsujrVUTKMJINb\x85\x86\x87\x88\x89\x8c\x90\x93\x94\x95" + b"cnumpy\ndtype\nU\x02u1"
            raw = b"\x80\x02" + bytes(draw.choice(codes) for _ in range(draw.choice((5, 50, 5000)))) + b"."
        (folder / "b").write_bytes(raw)
        for name in cifar10.BATCHES["train"]:
            shutil.copyfile(folder / "b", folder / name)
        with contextlib.suppress(DataError):
            images, labels = cifar10.read_pickles(folder, "train")
            if images.shape[1:] != (3, 32, 32) or len(images) != len(labels) or images.element_size() != 1:
                raise Finding(f"CIFAR-10 of shape {images.shape}")
    else:
        mode = draw.choice(("RGB", "L", "P", "RGBA", "1", "I;16", "F", "CMYK"))
        wide, high = draw.choice(((9, 6), (1, 1), (64, 64)))
        suffix = draw.choice(("png", "jpeg", "bmp", "tiff", "webp", "ppm"))
        made = io.BytesIO()
        with contextlib.suppress(OSError, KeyError, ValueError):
            Image.fromarray(rng.integers(0, 256, (high, wide, 3), np.uint8)).convert(mode).save(made, suffix)
        path = folder / f"x.{suffix}"
        path.write_bytes(flipped(draw, made.getvalue()))
        with contextlib.suppress(DataError):
            image = folders.open_image(path)
            if image.mode.startswith(("I", "F")):
                raise Finding(f"pixels of mode {image.mode} were accepted")
            image.convert("RGB")


def yaml_case(draw: random.Random, folder: Path) -> None:
    import yaml

    from bnnlib import recipes

    path = draw.choice(sorted(recipes.FOLDER.rglob("*.yaml")))
    text = path.read_text()
    how = draw.randrange(4)
    if how == 0:
        raw = flipped(draw, text.encode())
    elif how == 1:
        with contextlib.suppress(yaml.YAMLError, ValueError):
            text = yaml.safe_dump(disturbed(draw, yaml.safe_load(text)))
        raw = text.encode("utf-8", "surrogatepass")
    elif how == 2:
        words = "&a *a << : - [ ] { } ! !!bool !!int !!float !!timestamp !!binary !!set !!omap !!python/name:os | > ? ' \" # % @ 1:2 .inf .nan 0x 1e9 ~ = \n".split(" ")
        raw = " ".join(draw.choice(words) for _ in range(draw.choice((3, 20, 300)))).encode()
    else:
        raw = draw.choice((b"a: " + b"[" * 9000, b"[" * 60_000, b"? " * 9000, b"- " * 20_000, b"a: " + b"1" * 5000, b"a: " + b"1:" * 20_000 + b"1"))
    (folder / "r.yaml").write_bytes(raw)
    with contextlib.suppress(recipes.RecipeError):
        recipes.load(folder / "r.yaml").hash()
    with contextlib.suppress(recipes.RecipeError):
        recipes.parse_value(raw.decode("utf-8", "replace"))
    field = draw.choice(("epochs", "model.name", "optimizer.lr", "augment.crop", "temperature", "model", "a.b.c", ""))
    with contextlib.suppress(recipes.RecipeError):
        recipes.load("s4-lenet5", {field: draw.choice(STRANGE)}).hash()


CASES: dict[str, Callable[[random.Random, Path], None]] = {
    "file": file_case, "graph": graph_case, "checkpoint": checkpoint_case, "data": data_case, "yaml": yaml_case,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ child and parent


def child(kind: str, seed: int, first: int, count: int, until: float) -> None:
    """Run cases, a line before each; the line after a finding ends with what it is."""
    case = CASES[kind]
    said = os.fdopen(os.dup(1), "w", buffering=1)
    with tempfile.TemporaryDirectory(prefix="bnn-fuzz-") as base:
        for number in range(first, first + count):
            if time.monotonic() > until:
                break
            said.write(f"case {number}\n")
            folder = Path(base) / str(number)
            folder.mkdir()
            draw = random.Random(f"{seed} {kind} {number}")
            if number == first:
                with contextlib.suppress(Exception):
                    case(random.Random("warm"), folder)  # what the first case imports is not its memory
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                limit = pages * resource.getpagesize() + MEMORY
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(CASE_SECONDS)  # which ends the process
            try:
                case(draw, folder)
            except (Exception, SystemExit) as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                said.write("finding " + json.dumps(f"{type(error).__name__}: {str(error)[:1500]} ({place})") + "\n")
            signal.alarm(0)
            shutil.rmtree(folder, ignore_errors=True)
        said.write("end\n")


def hunt(kind: str, seed: int, first: int, count: int, seconds: float, program: list[str] | None = None) -> tuple[int, list[tuple[int, str]]]:
    """(number of cases, findings as (number, what)) of one kind, in child processes one after another."""
    tried, findings, until = 0, [], time.monotonic() + seconds
    while tried < count and time.monotonic() < until:
        arguments = ["--child", kind, "--seed", seed, "--case", first + tried, "--cases", count - tried, "--seconds", until - time.monotonic()]
        with tempfile.TemporaryFile("w+") as errors:
            done = subprocess.run([*(program or CHILD), *map(str, arguments)], stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment())
            errors.seek(0)
            complaint = errors.read()[-1500:]
        lines = [line for line in done.stdout.splitlines() if line.startswith(("case ", "finding ", "end"))]
        number = first + tried
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "case":
                number, tried = int(rest), int(rest) - first + 1
            elif word == "finding":
                findings.append((number, json.loads(rest)))
        if not lines:
            findings.append((number, f"no case was begun, exit status {done.returncode}: {complaint}"))
            break
        if lines[-1] != "end":
            name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
            findings.append((number, f"the process ended by {name}{' (more than a minute)' if name == 'SIGALRM' else ''}: {complaint}"))
        elif done.returncode == 0:
            break
    return tried, findings


def _environment() -> dict[str, str]:
    """As ours, with the library found from any folder, and few threads: each takes address space."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2", "PYTHONFAULTHANDLER": "1"}


def hunt_kernels(seed: int, count: int, seconds: float) -> tuple[int, list[tuple[int, str]]]:
    """The same of ``tests/kernels/fuzz.cpp``; a case is one process of it."""
    source, until = ROOT / "tests" / "kernels" / "fuzz.cpp", time.monotonic() + seconds
    if not source.is_file() or shutil.which("g++") is None:
        print("kernels: left out, for it needs g++ and a checkout", flush=True)
        return 0, []
    with tempfile.TemporaryDirectory(prefix="bnn-fuzz-") as folder:
        program = Path(folder) / "fuzz"
        flags = "-std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined".split()
        made = subprocess.run(["g++", *flags, f"-I{ROOT / 'kernels'}", str(source), "-o", str(program)], capture_output=True, text=True)
        if made.returncode:
            return 0, [(0, f"it does not compile: {made.stderr[-1500:]}")]
        tried, findings = 0, []
        while tried < count and (time.monotonic() < until or not tried):
            done = subprocess.run([str(program), str(KERNEL_CASES), str(seed + tried)], capture_output=True, text=True)
            if done.returncode:
                findings.append((tried, (done.stdout + done.stderr)[-1500:]))
            tried += 1
    return tried, findings


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(min=0, help="shared by the kinds")] = 10,
    seed: Annotated[int | None, typer.Option(help="of all cases; without it a new one, which is printed")] = None,
    only: Annotated[list[str] | None, typer.Option(help="a kind; may be repeated")] = None,
    cases: Annotated[int, typer.Option(min=1, help="at most so many of each kind")] = 10**9,
    case: Annotated[int, typer.Option(min=0, help="the first case's number; with --cases 1 to reproduce a finding")] = 0,
    child_: Annotated[str | None, typer.Option("--child", hidden=True)] = None,
    seconds: Annotated[float, typer.Option(hidden=True)] = 0,
) -> None:
    """Attack the library with random input; exit status 1 where something is found."""
    seed = secrets.randbits(31) if seed is None else seed
    if child_ is not None:
        child(child_, seed, case, cases, time.monotonic() + seconds)
        return
    kinds = only or [*CASES, "kernels"]
    if unknown := set(kinds) - {*CASES, "kernels"}:
        raise typer.BadParameter(f"no kind {sorted(unknown)[0]!r}: choose of {', '.join([*CASES, 'kernels'])}", param_hint="--only")
    print(f"seed {seed}", flush=True)
    total, found = 0, 0
    for kind in kinds:
        started, share = time.monotonic(), 60 * minutes / len(kinds)
        tried, findings = hunt_kernels(seed + case, cases, share) if kind == "kernels" else hunt(kind, seed, case, cases, share)
        spent = time.monotonic() - started
        print(f"{kind}: {tried} cases, {60 * tried / max(spent, 1e-9):.0f} a minute, {len(findings)} findings", flush=True)
        for number, what in findings:
            print(f"  python -m bnnlib.fuzz --only {kind} --seed {seed} --case {number} --cases 1\n    {what}", flush=True)
        total, found = total + tried, found + len(findings)
    print(f"{total} cases, {found} findings", flush=True)
    if found:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
