"""A packed network as data: a flat list of operations on named slots. JSON for the structure, NumPy arrays for the
constants; neither PyTorch nor code in it.

A *slot* holds one activation: its shape for one image is ``(height, width, channels)``, channels side by side in
memory; a vector has height and width 1. Its kind is ``float32``, or ``bits``: a bit to a value, 1 for +1 and 0 for
-1, the channels of a pixel in ``ceil(channels / 64)`` words of 64 bits, unused bits 0.

An *operation* reads its input slots, and produces float values pixel by pixel (or bits, see the table). Its *stages*
follow one after another on those values while they are in the cache; the stages that name a slot write it. A slot is
written once, before it is read: so the list has no cycles, and its order is an order of execution.

=============== ========= ============================================ ==========================================
operation       input     attributes                                   constants
=============== ========= ============================================ ==========================================
``map``         either    ``repeat``: how often the channels           none
                          follow one another
``real_conv``   float32   geometry; ``weights``: ``float32``,          ``weight`` ``[O, kh, kw, C/groups]``
                          ``bfloat16`` (as uint16), ``int8``,          (``bits``: as binary_conv's); ``scale``
                          ``bits`` (+-1)                               ``[O]`` for ``int8``
``binary_conv`` bits      geometry                                     ``weight`` uint8 ``[O, ceil(K / 8)]``, the
                                                                       signs of ``(O, C/groups, kh, kw)`` in this
                                                                       order, first in the lowest bit
``max_pool``    float32   window                                       none
``avg_pool``    float32   window, ``count_padding``                    none
``bit_pool``    bits      window: OR, the maximum of +-1               none
``bit_pad``     bits      ``padding`` [rows, columns], ``value``       none
                          1 or -1: a border
``torch``       float32   ``module``: runs in PyTorch, outside of      none
                          this graph; for people
=============== ========= ============================================ ==========================================

geometry: ``kernel``, ``stride``, ``padding``, ``dilation`` (pairs), ``groups``. Padding adds zeros, which contribute
nothing. A linear layer is a convolution whose kernel covers the whole input. window: ``kernel``, ``stride``,
``padding`` (pairs), ``ceil`` (whether a window may hang over the end); padding never wins, and counts as zeros in an
average only with ``count_padding``.

=================== ============================ ================================================================
stage               fields                       what it does to a value x of channel c
=================== ============================ ================================================================
``scale``           ``by``                       x * by
``bias``            ``by``                       x + by
``affine``          ``scale``, ``bias``, fused   x * scale + bias, rounded once (``fused`` true) or twice
``relu``                                         max(x, 0)
``clamp``           ``low``, ``high`` (numbers)  min(max(x, low), high)
``prelu``           ``slope``                    x if x > 0 else x * slope
``step``            ``low``, ``high``            +1 if low <= x <= high else -1
``residual``        ``slot``                     x + slot; a slot of fewer channels follows itself along them
``max_pool``        ``size``                     windows size x size side by side; of a convolution, once
``avg_pool``        ``size``                     the same, the mean: their sum in row-major order / size^2
``store``           ``slot`` float32             writes x
``sign``            ``low``, ``high``, ``slot``  writes the bit low <= x <= high
``threshold``       ``threshold``, ``flip``,     binary_conv's only stage, on the integer x, max-pooled over
                    ``pool``, ``slot``           windows first: writes the bit (x >= threshold) xor flip
``bits``            ``flip``, ``slot``           the bit operations' only stage: writes the bits, xor flip
=================== ============================ ================================================================

``by``, ``scale``, ``bias``, ``slope``, ``low``, ``high`` name constants, float32 ``[C]`` or, where they differ from pixel to
pixel, ``[H, W, C]``; ``threshold`` int32 ``[C]``; ``flip`` uint8 ``[ceil(C / 8)]`` (or null), a bit to a channel. A NaN fails both
comparisons of ``sign``: its bit is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

VERSION = 1
KINDS = ("float32", "bits")
LIMIT = 2**31
"""Sizes of a slot and of a constant, in values, stay below this."""

GEOMETRY = ("kernel", "stride", "padding", "dilation", "groups")
WINDOW = ("kernel", "stride", "padding", "ceil")
WEIGHTS = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8, "bits": np.uint8}

# kind: (kinds of slot it reads, attributes)
OPERATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "map": (KINDS, ("repeat",)),
    "real_conv": (("float32",), (*GEOMETRY, "weights")),
    "binary_conv": (("bits",), GEOMETRY),
    "max_pool": (("float32",), WINDOW),
    "avg_pool": (("float32",), (*WINDOW, "count_padding")),
    "bit_pool": (("bits",), WINDOW),
    "bit_pad": (("bits",), ("padding", "value")),
    "torch": (("float32",), ("module",)),
}
# stage: (fields that name float constants, other fields, kind of the slot it writes)
STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "scale": (("by",), (), None),
    "bias": (("by",), (), None),
    "affine": (("scale", "bias"), ("fused",), None),
    "relu": ((), (), None),
    "clamp": ((), ("low", "high"), None),
    "prelu": (("slope",), (), None),
    "step": (("low", "high"), (), None),
    "residual": ((), ("slot",), None),
    "max_pool": ((), ("size",), None),
    "avg_pool": ((), ("size",), None),
    "store": ((), ("slot",), "float32"),
    "sign": (("low", "high"), ("slot",), "bits"),
    "threshold": ((), ("threshold", "flip", "pool", "slot"), "bits"),
    "bits": ((), ("flip", "slot"), "bits"),
}


class GraphError(ValueError):
    """A graph that no network can have; the message names the operation and what is wrong."""


@dataclass(frozen=True)
class Slot:
    """One activation: ``kind`` and, for one image, ``shape`` (height, width, channels)."""

    kind: str
    shape: tuple[int, int, int]

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        h, w, c = self.shape
        return h * w * (4 * c if self.kind == "float32" else 8 * -(-c // 64))


@dataclass
class Op:
    """One operation. ``name``: the layers it came from, for people."""

    kind: str
    inputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    name: str = ""

    def writes(self) -> list[str]:
        """The slots that this operation writes."""
        return [stage["slot"] for stage in self.stages if STAGES[stage["op"]][2]]

    def reads(self) -> list[str]:
        """The slots that it reads: its inputs and what its stages add."""
        return [*self.inputs, *(stage["slot"] for stage in self.stages if stage["op"] == "residual")]


@dataclass
class Graph:
    """A network: ``slots`` by name, ``ops`` in order, constants by name in ``tensors``; ``inputs`` and ``outputs``
    name slots."""

    inputs: list[str]
    outputs: list[str]
    slots: dict[str, Slot]
    ops: list[Op]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All but the tensors, as JSON holds it. :meth:`from_json` reads it."""
        return {
            "version": VERSION,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "slots": {name: [slot.kind, *slot.shape] for name, slot in self.slots.items()},
            "ops": [
                {
                    "kind": op.kind,
                    "inputs": op.inputs,
                    "attributes": op.attributes,
                    "constants": op.constants,
                    "stages": op.stages,
                    "name": op.name,
                }
                for op in self.ops
            ],
        }

    @classmethod
    def from_json(cls, document: Any, tensors: Mapping[str, np.ndarray]) -> Graph:
        """The graph in ``document`` with these tensors, validated. Raises :class:`GraphError`."""
        try:
            if document["version"] != VERSION:
                raise GraphError(
                    f"the graph is of version {document['version']!r}, this library reads {VERSION}"
                )
            _need(set(document) == {"version", "inputs", "outputs", "slots", "ops"}, f"has fields {sorted(document)}")
            for op in document["ops"]:
                fields = {"kind", "inputs", "attributes", "constants", "stages", "name"}
                _need(set(op) == fields, f"an operation has fields {sorted(op)}")
            slots = {
                name: Slot(kind, tuple(shape)) for name, (kind, *shape) in document["slots"].items()
            }
            ops = [
                Op(
                    op["kind"],
                    list(op["inputs"]),
                    dict(op["attributes"]),
                    dict(op["constants"]),
                    [dict(stage) for stage in op["stages"]],
                    op["name"],
                )
                for op in document["ops"]
            ]
            graph = cls(list(document["inputs"]), list(document["outputs"]), slots, ops, dict(tensors))
        except GraphError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GraphError(f"not a graph: {type(error).__name__}: {error}") from None
        graph.validate()
        return graph

    def validate(self) -> None:
        """Raises :class:`GraphError` unless every operation can run: known kinds, slots written once before they are
        read, shapes that follow from one another, constants present with the right shapes and types."""
        _need(isinstance(self.slots, dict) and self.slots, "there are no slots")
        for name, slot in self.slots.items():
            _need(isinstance(name, str), f"a slot is named {name!r}")
            _need(slot.kind in KINDS, f"slot {name}: unknown kind {slot.kind!r}")
            _need(
                len(slot.shape) == 3 and all(_whole(size, 1) for size in slot.shape),
                f"slot {name}: shape {slot.shape!r} is not three sizes of at least 1",
            )
            _need(slot.values < LIMIT, f"slot {name}: shape {slot.shape!r} is too large")
        written: set[str] = set()
        for name in self.inputs:
            _need(isinstance(name, str) and name in self.slots, f"the input {name!r} is no slot")
            _need(name not in written, f"the input {name} is named twice")
            written.add(name)
        for position, op in enumerate(self.ops):
            try:
                self._check_op(op, written)
            except GraphError as error:
                label = f" ({op.name})" if op.name and isinstance(op.name, str) else ""
                raise GraphError(f"operation {position}, {op.kind!r}{label}: {error}") from None
            except (KeyError, TypeError, AttributeError) as error:
                raise GraphError(
                    f"operation {position}, {op.kind!r}: {type(error).__name__}: {error}"
                ) from None
            written.update(op.writes())
        _need(bool(self.outputs), "there is no output")
        for position, name in enumerate(self.outputs):
            _need(isinstance(name, str) and name in written, f"the output {name!r} is never written")
            _need(name not in self.outputs[:position], f"the output {name} is named twice")

    def _check_op(self, op: Op, written: set[str]) -> None:
        _need(isinstance(op.name, str), f"its name is {op.name!r:.40}, not text")
        _need(op.kind in OPERATIONS, "unknown operation")
        kinds, attributes = OPERATIONS[op.kind]
        _need(len(op.inputs) == 1 or (op.kind == "torch" and op.inputs), f"has {len(op.inputs)} inputs")
        for name in op.inputs:
            _need(isinstance(name, str) and name in written, f"reads slot {name!r}, which is not written before")
            _need(self.slots[name].kind in kinds, f"reads slot {name} of kind {self.slots[name].kind}")
        _need(
            set(op.attributes) == set(attributes),
            f"has attributes {sorted(op.attributes)}, not {sorted(attributes)}",
        )
        _need(op.kind in ("real_conv", "binary_conv") or not op.constants, f"has constants {sorted(map(str, op.constants))}")
        _need(bool(op.stages), "has no stages")
        shape = output_shape(op, self.slots[op.inputs[0]].shape, self.tensors)
        if op.kind == "torch":
            _need(
                all(stage["op"] == "store" and set(stage) == {"op", "slot"} for stage in op.stages),
                "has stages other than store",
            )
            for name in op.writes():
                _need(name in self.slots and name not in written, f"writes slot {name!r}")
            return
        mine: set[str] = set()
        for stage in op.stages:
            shape = self._check_stage(op, stage, shape, written, mine)
        _need(bool(mine), "writes no slot")

    def _check_stage(
        self, op: Op, stage: dict[str, Any], shape: tuple[int, int, int], written: set[str], mine: set[str]
    ) -> tuple[int, int, int]:
        kind = stage.get("op")
        _need(kind in STAGES, f"unknown stage {kind!r}")
        constants, others, writes = STAGES[kind]
        fields = {"op", *constants, *others}
        _need(set(stage) == fields, f"stage {kind} has fields {sorted(stage)}, not {sorted(fields)}")
        alone = {"threshold": ("binary_conv",), "bits": ("bit_pool", "bit_pad")}
        for name, of in alone.items():
            _need(
                kind != name or (op.kind in of and len(op.stages) == 1), f"stage {name} belongs to {' or '.join(of)}, alone"
            )
        _need(op.kind not in alone["bits"] or kind == "bits", f"stage {kind} on bits")
        h, w, c = shape
        for name in constants:
            self.constant(stage[name], np.float32, ((c,), (h, w, c)))
        if kind == "affine":
            _need(isinstance(stage["fused"], bool), f"fused is {stage['fused']!r}")
        elif kind == "clamp":
            for name in ("low", "high"):
                _need(_fits_float32(stage[name]), f"{name} is {stage[name]!r:.40}, not a number of float32")
        elif kind in ("max_pool", "avg_pool"):
            _need(op.kind in ("real_conv", "binary_conv"), f"stage {kind} belongs to a convolution")
            _need(sum(s["op"] in ("max_pool", "avg_pool") for s in op.stages) == 1, "pools twice")
            for before in op.stages[: op.stages.index(stage)]:
                _need(before["op"] not in ("store", "sign", "residual"), f"stage {before['op']} stands before {kind}")
            shape = self._pooled(stage["size"], shape)
        elif kind == "residual":
            name = stage["slot"]
            _need(isinstance(name, str) and name in written, f"adds slot {name!r}, which is not written before")
            other = self.slots[name]
            _need(
                other.kind == "float32" and other.shape[:2] == (h, w) and c % other.shape[2] == 0,
                f"adds slot {name} of kind {other.kind} and shape {other.shape} to {shape}",
            )
        elif kind == "threshold":
            shape = self._pooled(stage["pool"], shape)
            self.constant(stage["threshold"], np.int32, ((c,),))
        if kind in ("threshold", "bits") and stage["flip"] is not None:
            flip = self.constant(stage["flip"], np.uint8, ((-(-c // 8),),))
            _need(c % 8 == 0 or flip[-1] >> (c % 8) == 0, "flips bits beyond the last channel")
        if writes:
            name = stage["slot"]
            _need(isinstance(name, str) and name in self.slots, f"writes {name!r}, which is no slot")
            _need(name not in written and name not in mine, f"writes slot {name}, which is written already")
            slot = self.slots[name]
            _need(
                slot.kind == writes and slot.shape == shape,
                f"writes slot {name}, {slot.kind} {slot.shape}, with {writes} {shape}",
            )
            mine.add(name)
        return shape

    @staticmethod
    def _pooled(size: Any, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        h, w, c = shape
        _need(_whole(size, 1) and size <= 8, f"pools {size!r} x {size!r} windows: it must be 1 to 8")
        _need(size <= h and size <= w, f"pools {size} x {size} windows of {h} x {w}")
        return h // size, w // size, c

    def constant(self, name: Any, dtype: Any, shapes: Iterable[tuple[int, ...]]) -> np.ndarray:
        """The tensor ``name``, if it has this type and one of these shapes. Raises :class:`GraphError`."""
        return _constant(self.tensors, name, dtype, shapes)


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise GraphError(what)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < LIMIT


def _fits_float32(value: Any) -> bool:
    """Infinities do; a NaN does not, nor what would become an infinity."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= float(np.finfo(np.float32).max) or value in (math.inf, -math.inf)


def _pair(attributes: Mapping[str, Any], name: str, least: int) -> tuple[int, int]:
    value = attributes[name]
    _need(
        isinstance(value, (list, tuple)) and len(value) == 2 and all(_whole(v, least) for v in value),
        f"{name} is {value!r}, not two whole numbers of at least {least}",
    )
    return value[0], value[1]


def _constant(tensors: Mapping[str, np.ndarray], name: Any, dtype: Any, shapes: Iterable[tuple[int, ...]]) -> np.ndarray:
    _need(isinstance(name, str) and name in tensors, f"the constant {name!r} is missing")
    value, shapes = tensors[name], tuple(shapes)
    _need(
        isinstance(value, np.ndarray) and value.dtype == dtype and value.shape in shapes,
        f"the constant {name} is {getattr(value, 'dtype', type(value).__name__)} {list(getattr(value, 'shape', ()))}, "
        f"not {np.dtype(dtype)} {' or '.join(str(list(shape)) for shape in shapes)}",
    )
    return value


def output_shape(
    op: Op, shape: tuple[int, int, int], tensors: Mapping[str, np.ndarray]
) -> tuple[int, int, int]:
    """What an operation gives before its stages for an input of ``shape``. Checks attributes and constants; raises
    :class:`GraphError`."""
    h, w, c = shape
    a = op.attributes
    if op.kind == "torch":
        _need(isinstance(a["module"], str), f"module is {a['module']!r}")
        return shape
    if op.kind == "map":
        _need(_whole(a["repeat"], 1), f"repeat is {a['repeat']!r}")
        return h, w, c * a["repeat"]
    if op.kind == "bit_pad":
        ph, pw = _pair(a, "padding", 0)
        _need(a["value"] in (-1, 1), f"value is {a['value']!r}, neither 1 nor -1")
        return h + 2 * ph, w + 2 * pw, c
    kernel, stride, padding = _pair(a, "kernel", 1), _pair(a, "stride", 1), _pair(a, "padding", 0)
    if op.kind in ("max_pool", "avg_pool", "bit_pool"):
        _need(isinstance(a["ceil"], bool), f"ceil is {a['ceil']!r}")
        if op.kind == "avg_pool":
            _need(isinstance(a["count_padding"], bool), f"count_padding is {a['count_padding']!r}")
        sizes = []
        for size, k, s, p in zip((h, w), kernel, stride, padding, strict=True):
            _need(2 * p <= k, f"pads {p}, more than half of the window {k}")
            _need(k <= size + 2 * p or a["ceil"], f"the window {k} is larger than the padded input {size + 2 * p}")
            sizes.append(pooled_size(size, k, s, p, a["ceil"]))
            _need(sizes[-1] >= 1, f"the window {k} leaves nothing of {size}")
        return sizes[0], sizes[1], c
    dilation, groups = _pair(a, "dilation", 1), a["groups"]
    _need(_whole(groups, 1) and c % groups == 0, f"{groups!r} groups do not divide {c} channels")
    weight = tensors.get(op.constants.get("weight", ""))
    _need(isinstance(weight, np.ndarray) and weight.ndim in (2, 4), "the weight is missing")
    o, k = weight.shape[0], c // groups * kernel[0] * kernel[1]
    _need(o >= 1 and o % groups == 0, f"{groups} groups do not divide {o} output channels")
    _need(k < LIMIT, f"the dot products are {k} long")
    kind = "bits" if op.kind == "binary_conv" else a["weights"]
    _need(isinstance(kind, str) and kind in WEIGHTS, f"weights is {kind!r}: it must be one of {', '.join(WEIGHTS)}")
    _need(
        set(op.constants) == ({"weight", "scale"} if kind == "int8" else {"weight"}),
        f"has constants {sorted(op.constants)}",
    )
    stored = (o, -(-k // 8)) if kind == "bits" else (o, *kernel, c // groups)
    _constant(tensors, op.constants["weight"], WEIGHTS[kind], (stored,))
    if kind == "int8":
        _constant(tensors, op.constants["scale"], np.float32, ((o,),))
    sizes = []
    for size, kk, s, p, d in zip((h, w), kernel, stride, padding, dilation, strict=True):
        _need(d * (kk - 1) + 1 <= size + 2 * p, f"the kernel {kk} is larger than the padded input {size + 2 * p}")
        sizes.append((size + 2 * p - d * (kk - 1) - 1) // s + 1)
    return sizes[0], sizes[1], o


def pooled_size(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    """How many windows there are along one side."""
    room = size + 2 * padding - kernel
    count = -(-room // stride) + 1 if ceil else room // stride + 1
    # a window that hangs over the end must still begin inside the input or its padding before it
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count
