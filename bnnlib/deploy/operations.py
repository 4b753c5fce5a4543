"""The operations and stages of a packed network (:mod:`bnnlib.deploy.graph` says what each does): their fields, the shape that each
gives, and what their constants must be. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

VERSION = 2
"""Of what is written. Version 1 had neither ``takes`` and ``gives`` nor the operations and stages named below."""
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
    "move": (("float32",), ("shape", "sizes", "value")),
    "join": (("float32",), ("axis",)),
    "reduce": (("float32",), ("function", "axes")),
    "resample": (("float32",), ("axis",)),
    "torch": (("float32",), ("module",)),
}
REDUCTIONS = ("sum", "mean", "max", "min")
FUNCTIONS = (
    "abs", "square", "sqrt", "reciprocal", "exp", "log", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu", "hard_sigmoid",
    "hard_swish", "softplus", "elu",
)  # fmt: skip
"""Stages of one value; ``elu`` alone has a parameter, ``alpha``."""
PAIRS = ("plus", "minus", "minus_from", "times", "over", "over_from", "larger", "smaller")
"""Stages of a value x and a slot's value y: x + y, x - y, y - x, x y, x / y, y / x, the larger, the smaller."""
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
    "divide": (("by",), (), None),
    **{name: ((), ("alpha",) if name == "elu" else (), None) for name in FUNCTIONS},
    **{name: ((), ("slot",), None) for name in PAIRS},
    "store": ((), ("slot",), "float32"),
    "sign": (("low", "high"), ("slot",), "bits"),
    "threshold": ((), ("threshold", "flip", "pool", "slot"), "bits"),
    "bits": ((), ("flip", "slot"), "bits"),
}


TENSOR = ("move", "join", "reduce", "resample")
"""Operations on whole tensors, of any axis: the others read pixel by pixel."""
CONSTANTS = ("real_conv", "binary_conv", "move", "resample")
"""The operations that have some."""


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
        return [*self.inputs, *(stage["slot"] for stage in self.stages if stage["op"] in ("residual", *PAIRS))]

    def names(self) -> set[str]:
        """The constants that it and its stages name."""
        fields = (item for stage in self.stages for item in stage.items())
        return {*self.constants.values(), *(value for key, value in fields if isinstance(value, str) and key not in ("op", "slot"))}

    @property
    def one_bit(self) -> bool:
        """Whether it has weights of a bit each."""
        return self.kind == "binary_conv" or self.attributes.get("weights") == "bits"


def need(condition: bool, what: str) -> None:
    """Raises :class:`GraphError`, which says ``what``, unless the condition holds."""
    if not condition:
        raise GraphError(what)


def is_whole(value: Any, least: int) -> bool:
    """Whether the value is a whole number from ``least`` to below ``LIMIT``."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < LIMIT


def fits_float32(value: Any) -> bool:
    """Whether float32 holds the number: infinities count, a NaN does not, nor a finite number that becomes infinite."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= float(np.finfo(np.float32).max) or value in (math.inf, -math.inf)


def _pair(attributes: Mapping[str, Any], name: str, least: int) -> tuple[int, int]:
    value = attributes[name]
    need(
        isinstance(value, (list, tuple)) and len(value) == 2 and all(is_whole(v, least) for v in value),
        f"{name} is {value!r}, not two whole numbers of at least {least}",
    )
    return value[0], value[1]


def constant_of(tensors: Mapping[str, np.ndarray], name: Any, dtype: Any, shapes: Iterable[tuple[int, ...]]) -> np.ndarray:
    """The constant of that name, if it has the type and one of the shapes; else a :class:`GraphError` says what it is."""
    need(isinstance(name, str) and name in tensors, f"the constant {name!r} is missing")
    value, shapes = tensors[name], tuple(shapes)
    need(
        isinstance(value, np.ndarray) and value.dtype == dtype and value.shape in shapes,
        f"the constant {name} is {getattr(value, 'dtype', type(value).__name__)} {list(getattr(value, 'shape', ()))}, "
        f"not {np.dtype(dtype)} {' or '.join(str(list(shape)) for shape in shapes)}",
    )
    return value


def output_shape(
    op: Op, shapes: Sequence[tuple[int, int, int]], tensors: Mapping[str, np.ndarray]
) -> tuple[int, int, int]:
    """What an operation gives before its stages for inputs of ``shapes``. Checks attributes and constants; raises
    :class:`GraphError`."""
    shape = h, w, c = shapes[0]
    a = op.attributes
    if op.kind == "torch":
        need(isinstance(a["module"], str), f"module is {a['module']!r}")
        return shape
    if op.kind in ("move", "reduce", "resample"):
        return _tensor_shape(op, shape, tensors)
    if op.kind == "join":
        return _joined_shape(op, shapes)
    if op.kind == "map":
        need(is_whole(a["repeat"], 1), f"repeat is {a['repeat']!r}")
        return h, w, c * a["repeat"]
    if op.kind == "bit_pad":
        ph, pw = _pair(a, "padding", 0)
        need(a["value"] in (-1, 1), f"value is {a['value']!r}, neither 1 nor -1")
        return h + 2 * ph, w + 2 * pw, c
    kernel, stride, padding = _pair(a, "kernel", 1), _pair(a, "stride", 1), _pair(a, "padding", 0)
    if op.kind in ("max_pool", "avg_pool", "bit_pool"):
        need(isinstance(a["ceil"], bool), f"ceil is {a['ceil']!r}")
        if op.kind == "avg_pool":
            need(isinstance(a["count_padding"], bool), f"count_padding is {a['count_padding']!r}")
        sizes = []
        for size, k, s, p in zip((h, w), kernel, stride, padding, strict=True):
            need(2 * p <= k, f"pads {p}, more than half of the window {k}")
            need(k <= size + 2 * p or a["ceil"], f"the window {k} is larger than the padded input {size + 2 * p}")
            sizes.append(pooled_size(size, k, s, p, a["ceil"]))
            need(sizes[-1] >= 1, f"the window {k} leaves nothing of {size}")
        return sizes[0], sizes[1], c
    dilation, groups = _pair(a, "dilation", 1), a["groups"]
    need(is_whole(groups, 1) and c % groups == 0, f"{groups!r} groups do not divide {c} channels")
    weight = tensors.get(op.constants.get("weight", ""))
    need(isinstance(weight, np.ndarray) and weight.ndim in (2, 4), "the weight is missing")
    o, k = weight.shape[0], c // groups * kernel[0] * kernel[1]
    need(o >= 1 and o % groups == 0, f"{groups} groups do not divide {o} output channels")
    need(k < LIMIT, f"the dot products are {k} long")
    kind = "bits" if op.kind == "binary_conv" else a["weights"]
    need(isinstance(kind, str) and kind in WEIGHTS, f"weights is {kind!r}: it must be one of {', '.join(WEIGHTS)}")
    need(
        set(op.constants) == ({"weight", "scale"} if kind == "int8" else {"weight"}),
        f"has constants {sorted(op.constants)}",
    )
    stored = (o, -(-k // 8)) if kind == "bits" else (o, *kernel, c // groups)
    constant_of(tensors, op.constants["weight"], WEIGHTS[kind], (stored,))
    if kind == "int8":
        constant_of(tensors, op.constants["scale"], np.float32, ((o,),))
    sizes = []
    for size, kk, s, p, d in zip((h, w), kernel, stride, padding, dilation, strict=True):
        need(d * (kk - 1) + 1 <= size + 2 * p, f"the kernel {kk} is larger than the padded input {size + 2 * p}")
        sizes.append((size + 2 * p - d * (kk - 1) - 1) // s + 1)
    return sizes[0], sizes[1], o


def _joined_shape(op: Op, shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    axis = op.attributes["axis"]
    need(is_whole(axis, 0) and axis <= 2, f"axis is {axis!r:.40}, not 0, 1 or 2")
    rest = {tuple(size for i, size in enumerate(shape) if i != axis) for shape in shapes}
    need(len(rest) == 1, f"joins slots of shapes {shapes!r:.200} along axis {axis}")
    size = sum(shape[axis] for shape in shapes)
    need(size < LIMIT, "joins too much")
    first = list(shapes[0])
    first[axis] = size
    return first[0], first[1], first[2]


def _tensor_shape(op: Op, shape: tuple[int, int, int], tensors: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    a, wanted = op.attributes, {"move": {"tables"}, "resample": {"start", "weight"}, "reduce": set()}[op.kind]
    need(set(op.constants) == wanted, f"has constants {sorted(op.constants)}")
    if op.kind == "reduce":
        need(isinstance(a["function"], str) and a["function"] in REDUCTIONS, f"function is {a['function']!r:.40}")
        axes = a["axes"]
        need(isinstance(axes, (list, tuple)) and all(is_whole(i, 0) and i <= 2 for i in axes) and len(set(axes)) == len(axes), f"axes is {axes!r:.40}")
        h, w, c = (1 if i in axes else size for i, size in enumerate(shape))
        return h, w, c
    if op.kind == "move":
        result, sizes = a["shape"], a["sizes"]
        for name, value in (("shape", result), ("sizes", sizes)):
            need(isinstance(value, (list, tuple)) and 1 <= len(value) <= 32 and all(is_whole(s, 1) for s in value), f"{name} is {value!r:.80}")
        need(len(result) == 3 and math.prod(result) < LIMIT, f"shape is {result!r:.80}")
        need(math.prod(sizes) == math.prod(result), f"the sizes {sizes!r:.80} are not those of {result!r:.40}")
        need(fits_float32(a["value"]), f"value is {a['value']!r:.40}, not a number of float32")
        tables = constant_of(tensors, op.constants["tables"], np.int32, ((sum(sizes),),))
        at, reach = 0, 0
        for size in sizes:  # the largest place, without building any
            part, at = tables[at : at + size], at + size
            reach += max(0, int(part.max()))
        need(reach < math.prod(shape), f"takes place {reach} of {math.prod(shape)}")
        return result[0], result[1], result[2]
    axis = a["axis"]
    need(is_whole(axis, 0) and axis <= 1, f"axis is {axis!r:.40}, not 0 or 1")
    weight = tensors.get(op.constants["weight"]) if isinstance(op.constants["weight"], str) else None
    need(isinstance(weight, np.ndarray) and weight.ndim == 2 and weight.dtype == np.float32 and weight.size > 0, "the weight is missing")
    size, taps = weight.shape
    start = constant_of(tensors, op.constants["start"], np.int32, ((size,),))
    need(int(start.min()) >= 0 and int(start.max()) + taps <= shape[axis], f"takes places beyond {shape[axis]}")
    h, w, c = (size if i == axis else old for i, old in enumerate(shape))
    return h, w, c


def places(op: Op, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of ``move``: where each value of the result comes from, -1 for ``value``; int32, in the order of memory."""
    found, at, tables = np.zeros(1, np.int32), 0, tensors[op.constants["tables"]]
    for size in op.attributes["sizes"]:
        part, at = tables[at : at + size], at + size
        sums = found[:, None] + part[None, :]
        found = np.where((found[:, None] < 0) | (part[None, :] < 0), np.int32(-1), sums).ravel()
    return found


def pooled_size(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    """How many windows there are along one side."""
    room = size + 2 * padding - kernel
    count = -(-room // stride) + 1 if ceil else room // stride + 1
    # a window that hangs over the end must still begin inside the input or its padding before it
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count
