"""A graph made ready for the native executor (``kernels/executor/executor.h``): tables of integers, and an offset in memory
for every slot. NumPy alone.

Slots whose lives do not meet share memory. The last operations that see one pixel only (a classifier's linear layers)
are a phase of their own, run on many images at once, because their weights outweigh their activations; the operations
before run on few images at a time, so that activations stay in the cache.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

import numpy as np

from bnnlib.deploy.graph import Graph
from bnnlib.deploy.operations import FUNCTIONS, PAIRS, REDUCTIONS, Op, joined_shape, output_shape, places

SOURCES = ("map", "real_conv", "binary_conv", "max_pool", "avg_pool", "bit_pool", "bit_pad", "move", "join", "reduce", "resample")
STAGES = ("scale", "bias", "affine", "affine_fused", "relu", "clamp", "prelu", "step", "residual", "max_pool", "avg_pool", "store", "sign", "divide", *FUNCTIONS, *PAIRS)  # fmt: skip
TENSOR = ("move", "join", "reduce", "resample")
WEIGHTS = ("float32", "bfloat16", "int8", "bits")
MICRO, CHUNK, OUTSIDE = range(3)
_ALIGN = 64


@dataclass
class Program:
    """What ``bnn_kernels.Executor`` takes; ``outside``: the slots that the caller's arrays stand for, inputs first."""

    slots: np.ndarray
    ops: np.ndarray
    stages: np.ndarray
    constants: list[np.ndarray]
    micro_bytes: int
    chunk_bytes: int
    outside: list[str]
    numbers: dict[str, int]
    repeated: set[int] = field(default_factory=set)
    """The constants that several operations or stages name."""

    def executor(self, module, variant: str, take: bool = False):
        """The loaded network of the compiled ``module``. ``take``: it may rearrange large weights where they lie instead of
        copying them, and they are of no use to others afterwards. Raises ``ValueError``."""
        return module.Executor(
            variant,
            self.slots,
            self.ops,
            self.stages,
            self.constants,
            self.micro_bytes,
            self.chunk_bytes,
            [self.numbers[name] for name in self.outside],
            self._takeable() if take else set(),
        )

    def _takeable(self) -> set[int]:
        """The constants that nobody else reads and that may be written."""
        ends = [np.lib.array_utils.byte_bounds(array) for array in self.constants]
        order = sorted(range(len(ends)), key=ends.__getitem__)
        shared, reach, before = set(self.repeated), -1, -1
        for i in order:  # by where they begin in memory
            low, high = ends[i]
            if low < reach:
                shared |= {i, before}
            if high > reach:
                reach, before = high, i
        return {i for i, array in enumerate(self.constants) if array.flags.writeable and i not in shared}


def assemble(graph: Graph) -> Program:
    """The program of a graph without ``torch`` operations (see :func:`split`)."""
    names = [*graph.inputs, *(name for op in graph.ops for name in op.writes())]
    numbers = {name: i for i, name in enumerate(names)}
    phases = _phases(graph)
    outside = [*graph.inputs, *(name for name in graph.outputs if name not in graph.inputs)]
    where, micro_bytes, chunk_bytes = _allocate(graph, phases, outside)
    slots = np.array([[graph.slots[n].kind == "bits", *graph.slots[n].shape, *where[n]] for n in names], np.int64)

    constants: list[np.ndarray] = []
    places: dict[str, int] = {}
    repeated: set[int] = set()

    def constant(value: np.ndarray | str | None) -> int:
        if value is None:
            return -1
        if isinstance(value, str) and value in places:
            repeated.add(places[value])
            return places[value]
        array = graph.tensors[value] if isinstance(value, str) else value
        constants.append(np.ascontiguousarray(array))
        if isinstance(value, str):
            places[value] = len(constants) - 1
        return len(constants) - 1

    ops, stages, endless = [], [], {}
    for op, phase in zip(graph.ops, phases, strict=True):
        row = _op_row(graph, op, phase, numbers, constant)
        row[23], row[24] = len(stages), 0
        if row[16] < 0:
            for stage in op.stages:
                stages.append(_stage_row(stage, graph, numbers, constant, endless))
            row[24] = len(op.stages)
        ops.append(row)
    return Program(
        slots.reshape(-1, 6),
        np.array(ops, np.int64).reshape(-1, 27),
        np.array(stages, np.int64).reshape(-1, 7),
        constants,
        micro_bytes,
        chunk_bytes,
        outside,
        numbers,
        repeated,
    )


def split(graph: Graph) -> list[Graph | Op]:
    """The graph as native parts and ``torch`` operations, in order. A part's inputs and outputs are the slots that
    cross its borders."""
    parts: list[list[Op] | Op] = []
    for op in graph.ops:
        if op.kind == "torch":
            parts.append(op)
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(op)
        else:
            parts.append([op])
    result: list[Graph | Op] = []
    for i, part in enumerate(parts):
        if isinstance(part, Op):
            result.append(part)
            continue
        later = set(graph.outputs)
        for other in parts[i + 1 :]:
            for op in other if isinstance(other, list) else [other]:
                later.update(op.reads())
        written = [name for op in part for name in op.writes()]
        read = dict.fromkeys(name for op in part for name in op.reads() if name not in written)
        names = [*read, *written]
        result.append(
            Graph(
                list(read),
                [name for name in written if name in later],
                {name: graph.slots[name] for name in names},
                part,
                graph.tensors,
            )
        )
    return result


def _phases(graph: Graph) -> list[int]:
    """1 for the last operations, as long as all that they write has one pixel."""
    phases = [0] * len(graph.ops)
    for i in range(len(graph.ops) - 1, -1, -1):
        op = graph.ops[i]
        vectors = op.writes() if op.kind not in TENSOR else [*op.writes(), *op.reads()]
        if any(graph.slots[name].shape[:2] != (1, 1) for name in vectors):
            break
        phases[i] = 1
    return phases


def _allocate(
    graph: Graph, phases: list[int], outside: list[str]
) -> tuple[dict[str, tuple[int, int]], int, int]:
    """(area, offset) of every slot, and the bytes of one image in both areas."""
    first = {name: i for i, op in enumerate(graph.ops) for name in op.writes()}
    last = dict(first)
    for i, op in enumerate(graph.ops):
        for name in op.reads():
            last[name] = i
    crosses = {
        name: name in first and (phases[first[name]] or phases[last[name]]) for name in graph.slots
    }
    places = {name: (OUTSIDE, i) for i, name in enumerate(outside)}
    sizes = []
    for area in (MICRO, CHUNK):
        mine = [n for n in first if n not in places and crosses[n] == (area == CHUNK)]
        # what crosses from one phase to the other lives through all of the first
        begin = {n: -1 if area == CHUNK and not phases[first[n]] else first[n] for n in mine}
        size, placed = 0, []
        for name in sorted(mine, key=lambda n: (-graph.slots[n].bytes, first[n])):
            need = -(-graph.slots[name].bytes // _ALIGN) * _ALIGN
            offset = 0
            for low, high, other in placed:
                if begin[name] <= last[other] and begin[other] <= last[name]:
                    if offset + need <= low:
                        break
                    offset = max(offset, high)
            insort(placed, (offset, offset + need, name))
            places[name] = (area, offset)
            size = max(size, offset + need)
        sizes.append(size)
    return places, sizes[0], sizes[1]


def _op_row(graph: Graph, op: Op, phase: int, numbers: dict[str, int], constant) -> list[int]:
    a, slot = op.attributes, graph.slots[op.inputs[0]]
    if op.kind == "join":
        h, w, c = joined_shape(op, [graph.slots[name].shape for name in op.inputs])
    else:
        h, w, c = output_shape(op, slot.shape, graph.tensors)
    pair = lambda name, default: a.get(name, (default, default))  # noqa: E731
    row = [SOURCES.index(op.kind), numbers[op.inputs[0]], h, w, c, *pair("kernel", 1), *pair("stride", 1)]
    row += [*pair("padding", 0), *pair("dilation", 1), a.get("groups", 1)]
    repeat = {"map": a.get("repeat", 1), "bit_pad": a.get("value", 1), "avg_pool": int(a.get("count_padding", False))}
    stage = op.stages[0]
    own = stage["op"] in ("threshold", "bits")
    row += [repeat.get(op.kind, 1), phase, numbers[stage["slot"]] if own else -1]
    if op.kind in TENSOR:
        _tensor_row(graph, op, row, numbers, constant)
    row += [] if op.kind in TENSOR else [constant(op.constants.get("weight")), WEIGHTS.index(a["weights"]) if op.kind == "real_conv" else 0]
    row += [] if op.kind in TENSOR else [constant(op.constants.get("scale"))]
    row += [constant(stage.get("threshold") if own else None)]
    row += [constant(stage["flip"] if own else None), stage.get("pool", 1) if own else 1, 0, 0, 0, 0]
    return row


def _tensor_row(graph: Graph, op: Op, row: list[int], numbers: dict[str, int], constant) -> None:
    """Fields 14 and 17 to 19 of the operations that move, join, sum and resample: axis or function, table, and values."""
    a, table, values = op.attributes, None, None
    if op.kind == "move":
        table, values = places(op, graph.tensors), np.array([a["value"]], np.float32)
    elif op.kind == "join":
        row[14], table = a["axis"], np.array([numbers[name] for name in op.inputs], np.int32)
    elif op.kind == "reduce":
        row[14] = REDUCTIONS.index(a["function"])
    else:
        row[14], row[5], table, values = a["axis"], graph.tensors[op.constants["weight"]].shape[1], op.constants["start"], op.constants["weight"]
    row += [constant(table), 0, constant(values)]


def _stage_row(stage: dict, graph: Graph, numbers: dict[str, int], constant, endless: dict[str, bool]) -> list[int]:
    """``endless``: of the constants seen so far, which are infinite alone."""
    kind = stage["op"]
    a = stage.get("by") or stage.get("scale") or stage.get("slope") or stage.get("low")
    b = stage.get("bias") if kind == "affine" else stage.get("high")
    if kind == "affine" and stage["fused"]:
        kind = "affine_fused"
    if kind == "elu":
        a = np.array([float(stage["alpha"])], np.float32)
    elif kind == "clamp":
        a, b = (np.array([float(stage[name])], np.float32) for name in ("low", "high"))
    elif kind == "sign":
        if b not in endless:
            endless[b] = bool(np.isposinf(graph.tensors[b]).all())
        b = None if endless[b] else b
    spatial = [isinstance(v, str) and graph.tensors[v].ndim == 3 for v in (a, b)]
    slot = numbers[stage["slot"]] if "slot" in stage else -1
    return [STAGES.index(kind), slot, constant(a), constant(b), stage.get("size", 1), *spatial]


def arena_bytes(graph: Graph) -> tuple[int, int]:
    """Bytes of one image in the two areas of memory; outputs and inputs are the caller's."""
    program = assemble(graph)
    return program.micro_bytes, program.chunk_bytes


def prepared(graph: Graph) -> tuple[int, int]:
    """(bytes, steps) that the executor takes, at most, to hold a valid graph's constants as it likes them: a constant
    once, however often it is named, but a weight once for each geometry that it is used with."""
    total, steps, seen = 0, 0, set()
    for op in graph.ops:
        a, channels = op.attributes, graph.slots[op.inputs[0]].shape[2]
        if op.kind in ("real_conv", "binary_conv"):
            (kh, kw), groups = a["kernel"], a["groups"]
            oh, ow, outputs = output_shape(op, graph.slots[op.inputs[0]].shape, graph.tensors)
            rows = groups * (-(-outputs // groups // 64) * 64)  # whole panels of channels
            inputs = channels // groups
            key = (op.kind, op.constants["weight"], kh, kw, groups, channels)
            if op.kind == "real_conv":
                size = 4 if a["weights"] == "bits" else graph.tensors[op.constants["weight"]].itemsize
                weight = rows * kh * kw * inputs * size
            else:
                weight = 2 * rows * kh * kw * 8 * -(-inputs // 64)  # and as much to prepare them in
                # what zeros around the image leave of the sums, for each kind of place
                places = min(oh, 2 * kh + 1) * min(ow, 2 * kw + 1) * (-(-outputs // 64) * 64)
                total, steps = total + 6 * places, steps + places * kh * kw
            total += 0 if key in seen else weight
            seen.add(key)
        if op.kind == "move":
            total += 4 * graph.slots[op.writes()[0]].values + 512
        names = [value for stage in op.stages for key, value in stage.items() if isinstance(value, str) and key not in ("op", "slot")]
        for name in (*names, *(n for key, n in op.constants.items() if key != "weight")):
            total += 0 if name in seen else graph.tensors[name].nbytes + 512
            seen.add(name)
    return total, steps


__all__ = ["Program", "arena_bytes", "assemble", "prepared", "split"]
