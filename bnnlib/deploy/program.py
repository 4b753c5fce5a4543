"""A graph made ready for the native executor (``kernels/executor/executor.h``): records with named fields, as
``kernels/executor/records.h`` has them, and an offset in memory for every slot. NumPy alone. The order of the fields and the
numbers behind the names are the compiled module's.

Slots whose lives do not meet share memory. The last operations that see one pixel only (a classifier's linear layers)
are a phase of their own, run on many images at once, because their weights outweigh their activations; the operations
before run on few images at a time, so that activations stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bnnlib.deploy.graph import Graph, Slot
from bnnlib.deploy.memory import allocate, phases_of
from bnnlib.deploy.operations import Op, output_shape, places

Record = dict[str, int | str]


def _table(dtype: np.dtype, records: list[Record], **enumerations) -> np.ndarray:
    made = np.zeros(len(records), dtype)
    if records and set(records[0]) != set(dtype.names):
        raise KeyError(f"the kernels' fields and ours differ: {sorted(set(records[0]) ^ set(dtype.names))}")
    for name in dtype.names if records else ():
        values = [record[name] for record in records]
        if name in enumerations:
            values = [int(enumerations[name].__members__[value]) for value in values]
        made[name] = values
    return made


@dataclass
class Program:
    """What ``bnn_kernels.Executor`` takes; ``outside``: the slots that the caller's arrays stand for, inputs first."""

    slots: list[Record]
    ops: list[Record]
    stages: list[Record]
    constants: list[np.ndarray]
    micro_bytes: int
    chunk_bytes: int
    outside: list[str]
    numbers: dict[str, int]
    repeated: set[int] = field(default_factory=set)
    """The constants that several operations or stages name."""

    def tables(self, module) -> dict[str, np.ndarray]:
        """``slots``, ``ops`` and ``stages`` as the structured arrays that the compiled ``module`` takes. Raises ``KeyError`` for
        a field or a name that one side alone knows."""
        return {
            "slots": _table(module.Slot, self.slots, kind=module.SlotKind, area=module.Area),
            "ops": _table(module.Op, self.ops, kind=module.Operation, stored=module.Stored, reduction=module.Reduction),
            "stages": _table(module.Stage, self.stages, kind=module.StageKind),
        }

    def executor(self, module, variant: str, take: bool = False, tables: dict[str, np.ndarray] | None = None):
        """The loaded network of the compiled ``module``. ``take``: it may rearrange large weights where they lie instead of
        copying them, and they are of no use to others afterwards. ``tables``: in place of :meth:`tables`. Raises
        ``ValueError``."""
        return module.Executor(
            variant,
            **(self.tables(module) if tables is None else tables),
            constants=self.constants,
            micro_bytes=self.micro_bytes,
            chunk_bytes=self.chunk_bytes,
            outside=[self.numbers[name] for name in self.outside],
            ours=self._takeable() if take else set(),
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
    phases = phases_of(graph)
    outside = [*graph.inputs, *(name for name in graph.outputs if name not in graph.inputs)]
    where, micro_bytes, chunk_bytes = allocate(graph, phases, outside)
    slots = [_slot(graph.slots[name], *where[name]) for name in names]

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

    ops: list[Record] = []
    stages: list[Record] = []
    endless: dict[str, bool] = {}
    for op, phase in zip(graph.ops, phases, strict=True):
        record = _op(graph, op, phase, numbers, constant)
        record["first_stage"] = len(stages)
        if record["output"] == -1:
            stages += [_stage(stage, graph, numbers, constant, endless) for stage in op.stages]
        record["stages"] = len(stages) - record["first_stage"]
        ops.append(record)
    return Program(
        slots,
        ops,
        stages,
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


def _slot(slot: Slot, area: str, offset: int) -> Record:
    h, w, c = slot.shape
    return {"kind": slot.kind, "h": h, "w": w, "c": c, "area": area, "offset": offset}


_SIZES = (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1))


def _op(graph: Graph, op: Op, phase: int, numbers: dict[str, int], constant) -> Record:
    """The operation, but for its stages."""
    a = op.attributes
    h, w, c = output_shape(op, [graph.slots[name].shape for name in op.inputs], graph.tensors)
    record: Record = {"kind": op.kind, "input": numbers[op.inputs[0]], "h": h, "w": w, "c": c, "phase": phase}
    for name, default in _SIZES:
        record[f"{name}_h"], record[f"{name}_w"] = a.get(name, (default, default))
    stage = op.stages[0]
    own = stage if stage["op"] in ("threshold", "bits") else {}
    record |= {
        "groups": a.get("groups", 1),
        "stored": a.get("weights", "float32"),
        "repeat": a.get("repeat", 1),
        "border": a.get("value", 1) if op.kind == "bit_pad" else 1,
        "count_padding": int(a.get("count_padding", False)),
        "axis": a.get("axis", 0),
        "reduction": a.get("function", "sum"),
        **_constants(graph, op, numbers, constant),
        "output": numbers[own["slot"]] if own else -1,
        "threshold": constant(own.get("threshold")),
        "flip": constant(own.get("flip")),
        "pool": own.get("pool", 1),
    }
    return record


def _constants(graph: Graph, op: Op, numbers: dict[str, int], constant) -> Record:
    """An operation's constants: weights, or the table and the values of those that move, join and resample."""
    weight = scale = table = values = None
    taps = 0
    if op.kind == "move":
        table, values = places(op, graph.tensors), np.array([op.attributes["value"]], np.float32)
    elif op.kind == "join":
        table = np.array([numbers[name] for name in op.inputs], np.int32)
    elif op.kind == "resample":
        table, values = op.constants["start"], op.constants["weight"]
        taps = graph.tensors[values].shape[1]
    else:
        weight, scale = op.constants.get("weight"), op.constants.get("scale")
    return {
        "weight": constant(weight),
        "scale": constant(scale),
        "table": constant(table),
        "values": constant(values),
        "taps": taps,
    }


def _stage(stage: dict, graph: Graph, numbers: dict[str, int], constant, endless: dict[str, bool]) -> Record:
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
    spatial = [int(isinstance(v, str) and graph.tensors[v].ndim == 3) for v in (a, b)]
    return {
        "kind": kind,
        "slot": numbers[stage["slot"]] if "slot" in stage else -1,
        "first": constant(a),
        "second": constant(b),
        "size": stage.get("size", 1),
        "spatial_first": spatial[0],
        "spatial_second": spatial[1],
    }
