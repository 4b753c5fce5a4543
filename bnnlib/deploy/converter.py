"""From a trained model to a packed network: trace it, fold what lies between two binarisations, choose what runs where.

:func:`convert` takes every model that is built from this library's layers and PyTorch's. It traces the model
(:mod:`bnnlib.deploy.tracing`), and asks backwards from the result for what each value needs:

* the bits that a binary layer reads come from comparisons that replace batch norm, shift, bias, scale, activation and
  sign, and max-pools in between work on bits (:mod:`bnnlib.deploy.bits`);
* real values are computed by convolutions in float32 (see ``real``), and by stages fused into the operation before them
  (:mod:`bnnlib.deploy.reals`);
* values are moved and joined (:mod:`bnnlib.deploy.moves`), added, summed, normalised, resized (:mod:`bnnlib.deploy.tensors`);
* what the executor lacks stays in PyTorch, and the network runs in parts around it (:mod:`bnnlib.deploy.torch_parts`).
"""

from __future__ import annotations

import contextlib
import operator
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from bnnlib.deploy import bits, kinds, moves, reals, tensors
from bnnlib.deploy import layerkinds as known
from bnnlib.deploy.builder import Builder, Draft, Point, settled_shape
from bnnlib.deploy.graph import Graph, Op, Slot
from bnnlib.deploy.network import PackedNetwork
from bnnlib.deploy.preparing import ConvertError, State, finite, hooked, prepared
from bnnlib.deploy.torch_parts import TorchPart, carried
from bnnlib.deploy.tracer import at, depends, what
from bnnlib.deploy.tracing import BATCH, OTHER_BATCH, trace

RealWeights = Literal["float32", "bfloat16", "int8", "1-bit"]


@contextlib.contextmanager
def _room_for_calls(nodes: int) -> Iterator[None]:
    """Within, Python takes as many calls within calls as a graph of so many nodes may need: each asks for what it reads. Python's usual limit
    ends at some twenty blocks. Conversions in several threads share the room; the last one gives it back."""
    with _ROOM.lock:
        _ROOM.before = sys.getrecursionlimit() if not _ROOM.users else _ROOM.before
        _ROOM.users += 1
        sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + 30 * nodes))
    try:
        yield
    finally:
        with _ROOM.lock:
            _ROOM.users -= 1
            if not _ROOM.users:
                sys.setrecursionlimit(_ROOM.before)


@dataclass
class _Room:
    users: int = 0
    before: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_ROOM = _Room()


@contextlib.contextmanager
def _new_tensors_as_usual() -> Iterator[None]:
    """Within, new tensors are float32 and on the CPU, whatever ``torch.set_default_dtype`` and ``set_default_device`` were told."""
    dtype, elsewhere = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu") if elsewhere else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(dtype)


@_new_tensors_as_usual()
def convert(
    model: nn.Module,
    input_shape: Sequence[int] | Sequence[Sequence[int]],
    *,
    real: RealWeights | Mapping[str, RealWeights] = "float32",
    keep: Collection[str] = (),
) -> PackedNetwork:
    """The packed network of ``model`` in evaluation mode, for images of ``input_shape``: (channels, height, width), (channels, length) or
    (features,), without the batch; for a model of several inputs, a list of such.

    ``real``: how the weights of real-valued layers are held. ``float32``: as trained. ``bfloat16``: on a CPU that multiplies
    bf16 their activations are rounded to it, too. ``int8``: symmetric, a scale to an output channel; their activations have
    8 bits, with a scale and a zero point to an image, which :func:`bnnlib.packing.quantize_activations` tells. ``1-bit``:
    mean|W| sign(W) of each output channel; the layer that sees the images stays float32, as its rounding flips signs in all
    that follows. A mapping from names of layers to types chooses for each. Signs behind layers of fewer bits can differ from
    the model's.
    ``keep``: names of modules to leave to PyTorch, with all inside them. A module whose code cannot be traced, is another at every call
    (random numbers, a counter) or for another number of images, or that has a forward hook, is left to PyTorch by itself;
    :meth:`PackedNetwork.report` says which and why.
    The model itself is not changed, and the network does not follow its later changes. Raises :class:`ConvertError`.
    """
    for kind in real.values() if isinstance(real, Mapping) else [real]:
        if kind not in get_args(RealWeights):
            raise ConvertError(f"unknown real {kind!r}: choose {', '.join(get_args(RealWeights))}")
    if isinstance(model, PackedNetwork):
        raise ConvertError("the model is a packed network already: run it, or convert the model that it was made of")
    shapes = _shapes(input_shape)
    model = prepared(model)
    finite(model)
    names = dict(model.named_modules())
    for name in real if isinstance(real, Mapping) else ():
        if not isinstance(names.get(name), (nn.modules.conv._ConvNd, nn.Linear)):
            raise ConvertError(f"real names {name!r}, which is no real-valued convolution or linear layer of the model")
    if isinstance(keep, str):
        raise ConvertError(f"keep is {keep!r}: give a list of names, such as [{keep!r}]")
    for name in keep:
        if name not in names or not name:
            raise ConvertError(f"keep names {name!r}, which is no module of the model")
    if hooked(model):
        raise ConvertError("the model itself has a forward hook, which no packed network can hold: remove it (handle.remove())")
    if type(model).__module__.startswith("torch.nn") and not list(model.children()) or isinstance(model, known.LEAVES):
        model = nn.Sequential(model)  # a leaf has no inside to trace
    random = torch.Generator().manual_seed(0)
    inputs, others = ([torch.rand(n, *shape, generator=random) for shape in shapes] for n in (BATCH, OTHER_BATCH))
    reasons = {name: "it has a forward hook" for name, module in model.named_modules() if name and hooked(module)}
    state = State(model)
    with torch.no_grad():
        try:
            try:
                model(*(x.clone() for x in inputs))
            except Exception as error:
                said = str(error).splitlines()[0] if str(error) else ""
                raise ConvertError(
                    f"the model does not take images of shape {' and '.join(map(str, shapes))}: {type(error).__name__}: {said}"
                ) from error
            made = trace(model, set(keep), inputs, others, reasons)
        finally:
            state.restore()
        vars(model).update(made.layers)
        for node in made.graph.nodes:
            node.meta["shape"] = tuple(node.meta["value"].shape) if carried(node) else None
        builder = Builder(made.model, made.graph, real, set(keep), made.kept, kinds.find, MAKERS)
        with _room_for_calls(len(made.graph.nodes)):
            return _converted(builder, made.result, shapes)


def _shapes(given: Any) -> list[tuple[int, ...]]:
    arrays = [given] if isinstance(given, Tensor) else [x for x in given if isinstance(x, Tensor)] if isinstance(given, (tuple, list)) else []
    if arrays and any(x.dim() != 0 for x in arrays):
        way = "give tuple(x.shape[1:]) of it" if isinstance(given, Tensor) else "give [tuple(x.shape[1:]) for x in them]"
        raise ConvertError(f"input_shape is a tensor of shape {list(arrays[0].shape)}, expected a shape without the batch: {way}")
    try:
        given = given.tolist() if isinstance(given, np.ndarray) else given
        several = [given] if all(_size(s) is not None for s in given) else given
        shapes = [tuple(_size(n) for n in (one.tolist() if isinstance(one, np.ndarray) else one)) for one in several]
        good = bool(shapes) and all(1 <= len(s) <= 3 and all(n is not None and n >= 1 for n in s) for s in shapes)
    except TypeError:
        good = False
    if not good:
        raise ConvertError(
            f"input_shape is {given!r:.120}: it must be (channels, height, width), (channels, length) or (features,), without the batch; "
            "for several inputs, a list of such"
        )
    return shapes


def _size(value: Any) -> int | None:
    """A whole number of any kind; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def torch_part(b: Builder, node: torch.fx.Node) -> Point:
    if not carried(node):
        value, line = node.meta.get("value"), at(node.meta.get("line", ""))
        if isinstance(value, Tensor) and not depends(node):
            name = "a tensor that the model makes" if what(node)[1] == "a constant" else node.target if node.op == "get_attr" else b.label(node)
            raise ConvertError(f"{name}{line} is the same whatever the images are: a network carries what comes from its input")
        given = f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConvertError(
            f"{b.label(node)}{line} gives {given} for {BATCH} images: a network carries float32 with the batch in front; convert what comes before, "
            "and do this with the network's result"
        )
    label, part = b.label(node), TorchPart(node, b.model)
    if not part.sources:
        raise ConvertError(f"{label} takes no activation: the network carries values that come from its input")
    op = Op("torch", [b.store(n) for n in part.sources], {"module": label}, name=label)
    draft = Draft(op, b.shape(node))
    b.drafts.append(draft)
    how = b.why_kept(node) if node.op == "call_module" else None
    line = node.meta.get("line", "")
    b.notes.append({"layer": label, "as": "PyTorch", "how": how or known.why_not(node, b.model), "line": line})
    b.torch_parts[label] = part
    return Point(draft, None)


MAKERS = {
    "input": reals.given, "identity": reals.same, "flatten": reals.same, "elementwise": reals.elementwise, "apply": reals.apply,
    "scalar": reals.apply, "conv": reals.conv, "max_pool": reals.pool, "avg_pool": reals.pool, "add": reals.add, "repeat": reals.repeat,
    "binary": bits.binary,
    "move": moves.move, "constant": moves.constant, "join": moves.join, "rows_joined": moves.rows_joined,
    "pair": tensors.pair, "reduce": tensors.reduce, "softmax": tensors.softmax, "normalise": tensors.normalise,
    "resample": tensors.resample,
    "torch": torch_part,
}  # fmt: skip
"""By kind of node: what computes its value."""


def _converted(b: Builder, result: Any, shapes: list[tuple[int, ...]]) -> PackedNetwork:
    """``result``: what the model returns, as nodes."""
    inputs = [n for n in b.graph.nodes if n.op == "placeholder"]
    names, takes = [], []
    for i, (node, shape) in enumerate(zip(inputs, shapes, strict=False)):
        if not carried(node):
            node.meta["shape"] = (BATCH, *shape)
        name = "input" if len(shapes) == 1 else b.slot(f"input {i}", "float32", settled_shape(shape))
        b.slots[name] = Slot("float32", settled_shape(shape))
        b.stored[node], node.meta["kind"] = name, "input"
        names.append(name)
        takes.append({"name": str(node.target), "shape": list(shape)})
    if len(inputs) < len(shapes):
        raise ConvertError(f"the model takes {len(inputs)} inputs, and {len(shapes)} shapes were given")
    outputs: list[str] = []
    gives = _result(b, result, outputs)
    graph = Graph(names, outputs, b.slots, [d.op for d in b.drafts], b.tensors, takes, gives)
    if not graph.ops:
        raise ConvertError("the model does nothing with its input")
    for name in set(graph.tensors) - graph.named():  # of folds that were tried in vain
        del graph.tensors[name]
    graph.validate()
    for part in b.torch_parts.values():
        part.sources = []
    return PackedNetwork(graph, b.torch_parts, b.notes)


def _result(b: Builder, value: Any, outputs: list[str]) -> dict[str, Any]:
    """``gives`` of the graph; ``outputs`` grows."""
    if isinstance(value, torch.fx.Node):
        held = value.meta.get("value")
        if isinstance(held, (tuple, list)):  # of a module that stayed whole
            raise ConvertError(f"{b.label(value)} gives a {type(held).__name__}: name its parts in the model's forward")
        slot = b.store(value)
        if slot not in outputs:
            outputs.append(slot)
        return {"tensor": outputs.index(slot), "shape": list(value.meta["shape"][1:])}
    if isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
        return {"dict": [[key, _result(b, one, outputs)] for key, one in value.items()]}
    if isinstance(value, (tuple, list)) and value:
        return {"list" if type(value).__name__ in ("list", "immutable_list") else "tuple": [_result(b, one, outputs) for one in value]}
    raise ConvertError(f"the model returns {value!r:.80}, expected tensors, or tuples, lists, dictionaries of them")
