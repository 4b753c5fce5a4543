"""What a graph must be so that every operation of it can run (:mod:`bnnlib.deploy.graph`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bnnlib.deploy.operations import (
    CONSTANTS,
    KINDS,
    LIMIT,
    OPERATIONS,
    PAIRS,
    STAGES,
    GraphError,
    Op,
    constant_of,
    fits_float32,
    is_whole,
    need,
    output_shape,
)

if TYPE_CHECKING:
    from bnnlib.deploy.graph import Graph


def validate(graph: Graph) -> None:
    """Raises :class:`GraphError` unless every operation can run: known kinds, slots written once before they are
    read, shapes that follow from one another, constants present with the right shapes and types."""
    need(isinstance(graph.slots, dict) and graph.slots, "there are no slots")
    for name, slot in graph.slots.items():
        need(isinstance(name, str), f"a slot is named {name!r}")
        need(slot.kind in KINDS, f"slot {name}: unknown kind {slot.kind!r}")
        need(
            len(slot.shape) == 3 and all(is_whole(size, 1) for size in slot.shape),
            f"slot {name}: shape {slot.shape!r} is not three sizes of at least 1",
        )
        need(slot.values < LIMIT, f"slot {name}: shape {slot.shape!r} is too large")
    written: set[str] = set()
    for name in graph.inputs:
        need(isinstance(name, str) and name in graph.slots, f"the input {name!r} is no slot")
        need(name not in written, f"the input {name} is named twice")
        written.add(name)
    for position, op in enumerate(graph.ops):
        try:
            _check_op(graph, op, written)
        except GraphError as error:
            label = f" ({op.name})" if op.name and isinstance(op.name, str) else ""
            raise GraphError(f"operation {position}, {op.kind!r}{label}: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise GraphError(
                f"operation {position}, {op.kind!r}: {type(error).__name__}: {error}"
            ) from None
        written.update(op.writes())
    need(bool(graph.outputs), "there is no output")
    for position, name in enumerate(graph.outputs):
        need(isinstance(name, str) and name in written, f"the output {name!r} is never written")
        need(name not in graph.outputs[:position], f"the output {name} is named twice")
    _check_takes(graph)
    if graph.gives is not None:
        used: set[int] = set()
        _check_gives(graph, graph.gives, used, 0)
        need(used == set(range(len(graph.outputs))), "gives leaves out an output")


def _check_takes(graph: Graph) -> None:
    if graph.takes is None:
        return
    need(isinstance(graph.takes, list) and len(graph.takes) == len(graph.inputs), f"takes is {graph.takes!r:.80}")
    for one, name in zip(graph.takes, graph.inputs, strict=True):
        need(isinstance(one, dict) and set(one) == {"name", "shape"} and isinstance(one["name"], str), f"takes {one!r:.80}")
        _check_shape(graph, one["shape"], name)


def _check_shape(graph: Graph, shape: Any, name: str) -> None:
    whole = isinstance(shape, list) and len(shape) <= 8 and all(is_whole(size, 1) for size in shape)
    need(whole and math.prod(shape) == graph.slots[name].values, f"the shape {shape!r:.80} is not that of slot {name}")


def _check_gives(graph: Graph, node: Any, used: set[int], depth: int) -> None:
    need(isinstance(node, dict) and depth <= 8, f"gives {node!r:.80}")
    if set(node) == {"tensor", "shape"}:
        number = node["tensor"]
        need(is_whole(number, 0) and number < len(graph.outputs), f"gives output {number!r:.40}")
        _check_shape(graph, node["shape"], graph.outputs[number])
        used.add(number)
        return
    need(len(node) == 1 and set(node) <= {"tuple", "list", "dict"}, f"gives {node!r:.80}")
    kind, inside = next(iter(node.items()))
    need(isinstance(inside, list) and 1 <= len(inside) <= 256, f"gives {node!r:.80}")
    if kind == "dict":
        pairs = all(isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) for one in inside)
        need(pairs and len({one[0] for one in inside}) == len(inside), f"gives {node!r:.80}")
    for one in inside:
        _check_gives(graph, one[1] if kind == "dict" else one, used, depth + 1)


def _check_op(graph: Graph, op: Op, written: set[str]) -> None:
    need(isinstance(op.name, str), f"its name is {op.name!r:.40}, not text")
    need(op.kind in OPERATIONS, "unknown operation")
    kinds, attributes = OPERATIONS[op.kind]
    need(len(op.inputs) == 1 or (op.kind in ("torch", "join") and op.inputs), f"has {len(op.inputs)} inputs")
    for name in op.inputs:
        need(isinstance(name, str) and name in written, f"reads slot {name!r}, which is not written before")
        need(graph.slots[name].kind in kinds, f"reads slot {name} of kind {graph.slots[name].kind}")
    need(
        set(op.attributes) == set(attributes),
        f"has attributes {sorted(op.attributes)}, not {sorted(attributes)}",
    )
    need(op.kind in CONSTANTS or not op.constants, f"has constants {sorted(map(str, op.constants))}")
    need(bool(op.stages), "has no stages")
    shapes = [graph.slots[name].shape for name in op.inputs]
    shape = output_shape(op, shapes, graph.tensors)
    if op.kind == "torch":
        need(
            all(stage["op"] == "store" and set(stage) == {"op", "slot"} for stage in op.stages),
            "has stages other than store",
        )
        for name in op.writes():
            need(name in graph.slots and name not in written, f"writes slot {name!r}")
        return
    mine: set[str] = set()
    for stage in op.stages:
        shape = _check_stage(graph, op, stage, shape, written, mine)
    need(bool(mine), "writes no slot")


def _check_stage(
    graph: Graph, op: Op, stage: dict[str, Any], shape: tuple[int, int, int], written: set[str], mine: set[str]
) -> tuple[int, int, int]:
    kind = stage.get("op")
    need(kind in STAGES, f"unknown stage {kind!r}")
    constants, others, writes = STAGES[kind]
    fields = {"op", *constants, *others}
    need(set(stage) == fields, f"stage {kind} has fields {sorted(stage)}, not {sorted(fields)}")
    alone = {"threshold": ("binary_conv",), "bits": ("bit_pool", "bit_pad")}
    for name, of in alone.items():
        need(
            kind != name or (op.kind in of and len(op.stages) == 1), f"stage {name} belongs to {' or '.join(of)}, alone"
        )
    need(op.kind not in alone["bits"] or kind == "bits", f"stage {kind} on bits")
    h, w, c = shape
    for name in constants:
        constant_of(graph.tensors, stage[name], np.float32, ((c,), (h, w, c)))
    if kind == "affine":
        need(isinstance(stage["fused"], bool), f"fused is {stage['fused']!r}")
    elif kind == "clamp":
        for name in ("low", "high"):
            need(fits_float32(stage[name]), f"{name} is {stage[name]!r:.40}, not a number of float32")
    elif kind in ("max_pool", "avg_pool"):
        need(op.kind in ("real_conv", "binary_conv"), f"stage {kind} belongs to a convolution")
        need(sum(s["op"] in ("max_pool", "avg_pool") for s in op.stages) == 1, "pools twice")
        for before in op.stages[: op.stages.index(stage)]:
            need(before["op"] not in ("store", "sign", "residual", *PAIRS), f"stage {before['op']} stands before {kind}")
        shape = _pooled(stage["size"], shape)
    elif kind == "residual":
        name = stage["slot"]
        need(isinstance(name, str) and name in written, f"adds slot {name!r}, which is not written before")
        other = graph.slots[name]
        need(
            other.kind == "float32" and other.shape[:2] == (h, w) and c % other.shape[2] == 0,
            f"adds slot {name} of kind {other.kind} and shape {other.shape} to {shape}",
        )
    elif kind in PAIRS:
        name = stage["slot"]
        need(isinstance(name, str) and name in written, f"reads slot {name!r}, which is not written before")
        other = graph.slots[name]
        fits = all(mine in (1, size) for mine, size in zip(other.shape, shape, strict=True))
        need(other.kind == "float32" and fits, f"takes slot {name} of kind {other.kind} and shape {other.shape} with {shape}")
    elif kind == "elu":
        need(fits_float32(stage["alpha"]), f"alpha is {stage['alpha']!r:.40}, not a number of float32")
    elif kind == "threshold":
        shape = _pooled(stage["pool"], shape)
        constant_of(graph.tensors, stage["threshold"], np.int32, ((c,),))
    if kind in ("threshold", "bits") and stage["flip"] is not None:
        flip = constant_of(graph.tensors, stage["flip"], np.uint8, ((-(-c // 8),),))
        need(c % 8 == 0 or flip[-1] >> (c % 8) == 0, "flips bits beyond the last channel")
    if writes:
        name = stage["slot"]
        need(isinstance(name, str) and name in graph.slots, f"writes {name!r}, which is no slot")
        need(name not in written and name not in mine, f"writes slot {name}, which is written already")
        slot = graph.slots[name]
        need(
            slot.kind == writes and slot.shape == shape,
            f"writes slot {name}, {slot.kind} {slot.shape}, with {writes} {shape}",
        )
        mine.add(name)
    return shape


def _pooled(size: Any, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    h, w, c = shape
    need(is_whole(size, 1) and size <= 8, f"pools {size!r} x {size!r} windows: it must be 1 to 8")
    need(size <= h and size <= w, f"pools {size} x {size} windows of {h} x {w}")
    return h // size, w // size, c
