"""Memory of a packed network: where the executor holds each slot, and what it takes to hold the constants. NumPy alone."""

from __future__ import annotations

from bisect import insort

from bnnlib.deploy.graph import Graph
from bnnlib.deploy.operations import TENSOR, output_shape

_ALIGN = 64


def phases_of(graph: Graph) -> list[int]:
    """1 for the last operations, as long as all that they write has one pixel."""
    phases = [0] * len(graph.ops)
    for i in range(len(graph.ops) - 1, -1, -1):
        op = graph.ops[i]
        vectors = op.writes() if op.kind not in TENSOR else [*op.writes(), *op.reads()]
        if any(graph.slots[name].shape[:2] != (1, 1) for name in vectors):
            break
        phases[i] = 1
    return phases


def allocate(
    graph: Graph, phases: list[int], outside: list[str]
) -> tuple[dict[str, tuple[str, int]], int, int]:
    """(area, offset) of every slot, and the bytes of one image in both areas."""
    first = {name: i for i, op in enumerate(graph.ops) for name in op.writes()}
    last = dict(first)
    for i, op in enumerate(graph.ops):
        for name in op.reads():
            last[name] = i
    crosses = {
        name: name in first and (phases[first[name]] or phases[last[name]]) for name in graph.slots
    }
    places = {name: ("outside", i) for i, name in enumerate(outside)}
    sizes = []
    for area in ("micro", "chunk"):
        mine = [n for n in first if n not in places and crosses[n] == (area == "chunk")]
        # what crosses from one phase to the other lives through all of the first
        begin = {n: -1 if area == "chunk" and not phases[first[n]] else first[n] for n in mine}
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


def prepared(graph: Graph) -> tuple[int, int]:
    """(bytes, steps) that the executor takes, at most, to hold a valid graph's constants as it likes them: a constant
    once, however often it is named, but a weight once for each geometry that it is used with."""
    total, steps, seen = 0, 0, set()
    for op in graph.ops:
        a, channels = op.attributes, graph.slots[op.inputs[0]].shape[2]
        if op.kind in ("real_conv", "binary_conv"):
            (kh, kw), groups = a["kernel"], a["groups"]
            oh, ow, outputs = output_shape(op, [graph.slots[op.inputs[0]].shape], graph.tensors)
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
        for name in op.names() - {op.constants.get("weight")}:
            total += 0 if name in seen else graph.tensors[name].nbytes + 512
            seen.add(name)
    return total, steps
