"""From a trained model to a packed network: trace it, fold what lies between two binarisations, choose what runs where.

:func:`convert` takes every model that is built from this library's layers and PyTorch's. It traces the model
(:mod:`bnnlib.deploy.tracing`), and asks backwards from the result for what each value needs:

* the bits that a binary layer reads come from comparisons that replace batch norm, shift, bias, scale, activation and
  sign, and max-pools in between work on bits (:mod:`bnnlib.deploy.bits`);
* real values are computed by convolutions in float32 (see ``real``), and by stages fused into the operation before them
  (:mod:`bnnlib.deploy.reals`);
* values are moved, joined, summed, resized (:mod:`bnnlib.deploy.tensors`);
* what the executor lacks stays in PyTorch, and the network runs in parts around it (:mod:`bnnlib.deploy.torch_parts`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.fx
from torch import Tensor, nn

from bnnlib import layers
from bnnlib.deploy import layerkinds as known
from bnnlib.deploy import tensorkinds
from bnnlib.deploy.bits import Bits
from bnnlib.deploy.builder import Draft, Point
from bnnlib.deploy.graph import Graph, Op, Slot
from bnnlib.deploy.network import PackedNetwork
from bnnlib.deploy.preparing import ConvertError, hooked, prepared
from bnnlib.deploy.tensors import AXES, Tensors, settled_shape
from bnnlib.deploy.torch_parts import TorchPart, carried
from bnnlib.deploy.tracer import depends
from bnnlib.deploy.tracing import BATCH, OTHER_BATCH, Trace, trace

RealWeights = Literal["float32", "bfloat16", "int8", "1-bit"]


def convert(
    model: nn.Module,
    input_shape: Sequence[int] | Sequence[Sequence[int]],
    *,
    real: RealWeights | Mapping[str, RealWeights] = "float32",
    keep: Collection[str] = (),
) -> PackedNetwork:
    """The packed network of ``model`` in evaluation mode, for images of ``input_shape``: (channels, height, width), (channels, length) or
    (features,), without the batch; for a model of several inputs, a list of such.

    ``real``: how the weights of real-valued layers are held (int8: symmetric, a scale to an output channel; 1-bit:
    mean|W| sign(W) of each output channel). Of the layer that sees the images they are then bfloat16 and float32, as its
    rounding flips signs in all that follows; a mapping from names of layers to types chooses for each, that one too. They
    multiply float32 activations; on a CPU that multiplies bf16, weights of bfloat16 and int8 multiply activations rounded
    to bf16, several times as fast. Signs behind such layers can differ from the model's.
    ``keep``: names of modules to leave to PyTorch, with all inside them. A module whose code cannot be traced, or that has a
    forward hook, is left to PyTorch by itself; :meth:`PackedNetwork.report` says which and why.
    The model itself is not changed, and the network does not follow its later changes. Raises :class:`ConvertError`.
    """
    for kind in real.values() if isinstance(real, Mapping) else [real]:
        if kind not in get_args(RealWeights):
            raise ConvertError(f"unknown real {kind!r}: choose {', '.join(get_args(RealWeights))}")
    shapes = _shapes(input_shape)
    model = prepared(model)
    names = dict(model.named_modules())
    for name in real if isinstance(real, Mapping) else ():
        if not isinstance(names.get(name), (nn.modules.conv._ConvNd, nn.Linear)):
            raise ConvertError(f"real names {name!r}, which is no real-valued convolution or linear layer of the model")
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
    with torch.no_grad():
        try:
            model(*(x.clone() for x in inputs))
        except Exception as error:
            raise ConvertError(
                f"the model does not take images of shape {' and '.join(map(str, shapes))}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error
        return _Converter.of(trace(model, set(keep), inputs, others, reasons), real, set(keep)).run(shapes)


def _shapes(given: Any) -> list[tuple[int, ...]]:
    try:
        several = [tuple(one) for one in given] if not all(isinstance(s, int) for s in given) else [tuple(given)]
        good = bool(several) and all(1 <= len(s) <= 3 and all(type(n) is int and n >= 1 for n in s) for s in several)
    except TypeError:
        good = False
    if not good:
        raise ConvertError(
            f"input_shape is {given!r}: it must be (channels, height, width), (channels, length) or (features,), without the batch; "
            "for several inputs, a list of such"
        )
    return several


class _Converter(Bits, Tensors):
    @classmethod
    def of(cls, made: Trace, real: str | Mapping[str, str], keep: set[str]) -> _Converter:
        self = cls(made.model, made.graph, real, keep, made.kept)
        self.result = made.result
        self.torch_parts: dict[str, TorchPart] = {}
        for node in made.graph.nodes:
            node.meta["shape"] = tuple(node.meta["value"].shape) if carried(node) else None
        return self

    # ---- what a node is

    def kept(self, node: torch.fx.Node) -> bool:
        return node.op == "call_module" and self.why_kept(node) is not None

    def why_kept(self, node: torch.fx.Node) -> str | None:
        inside = lambda name: node.target == name or str(node.target).startswith(f"{name}.")  # noqa: E731
        if any(map(inside, self.keep)):
            return "asked for"
        return next((f"kept whole: {why}" for name, why in self.reasons.items() if inside(name)), None)

    def first_layer(self) -> torch.fx.Node | None:
        """The first layer with weights."""
        if not hasattr(self, "_first"):
            kinds = (nn.modules.conv._ConvNd, nn.Linear, layers.BinaryLayer)
            self._first = next((n for n in self.graph.nodes if isinstance(self.module(n), kinds)), None)
        return self._first

    def kind(self, node: torch.fx.Node) -> str:
        if "kind" not in node.meta:
            node.meta["kind"] = "torch"  # while it is being found
            node.meta["kind"] = found = self._kind(node)
            if found in ("join_as_rows", "by_rows"):
                getattr(self, found)(node, *([node.meta["layer"]] if found == "by_rows" else []))
        return node.meta["kind"]

    def _kind(self, node: torch.fx.Node) -> str:
        if node.op == "placeholder":
            return "input"
        if not carried(node) or self.kept(node) or node.op not in ("call_module", "call_function", "call_method"):
            return "torch"
        module, full = self.module(node), node.meta["shape"]
        rank = len(full) - 1
        if tensorkinds.join(node) is not None:
            parts, dim = tensorkinds.join(node)
            if dim == 0 or not all(isinstance(p, torch.fx.Node) and carried(p) for p in parts):
                return "torch"
            return "join" if node.target is not torch.stack and rank in AXES else "join_as_rows"
        if known.kind(node, self.model) == "repeat":
            return "repeat"
        reduction = tensorkinds.reduction(node, module, self._rank_read(node))
        if reduction is not None and 0 not in reduction[1]:
            node.meta["function"], node.meta["dims"] = reduction
            if carried(node.args[0]) or carried(node.args[0].args[0]):
                self.reduced(node)
                return "reduce"
        if tensorkinds.moves(node, module) and (found := self.origin(node)) is not None:
            root, places, _ = found
            same = places.size == self._values(root) and bool((places[1:] > places[:-1]).all() and places[0] == 0)
            if same and (rank == 1 or self.shape(root) == settled_shape(full[1:])):
                node.meta["source"] = root
                return "identity" if root.meta["shape"] == full else "flatten"
            return "move"
        sources = [a for a in node.all_input_nodes if depends(a)]
        twice = len(sources) == 1 and len(node.args) == 2 and node.args[0] is node.args[1]
        if twice or len(sources) != 1 or not all(carried(a) for a in sources):
            return self._kind_of_two(node)
        if (old := known.kind(node, self.model)) != "torch":
            return old
        return self._kind_of_one(node, module, sources[0])

    @staticmethod
    def _values(node: torch.fx.Node) -> int:
        return torch.Size(node.meta["shape"][1:]).numel()

    @staticmethod
    def _rank_read(node: torch.fx.Node) -> int:
        """Dimensions of the first tensor that a node reads."""
        first = node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else None
        value = first.meta.get("value") if first is not None else None
        if isinstance(value, tuple) and first.args and isinstance(first.args[0], torch.fx.Node):
            value = first.args[0].meta.get("value")
        return value.dim() if isinstance(value, Tensor) else 1

    def _kind_of_two(self, node: torch.fx.Node) -> str:
        sources = [a for a in node.args if isinstance(a, torch.fx.Node) and depends(a)]
        if len(node.args) == 2 and len(sources) == 2 and tensorkinds.two_values(node) and all(carried(a) for a in sources):
            full = node.meta["shape"]
            if known.kind(node, self.model) == "add" and self.shape(sources[0]) == self.shape(sources[1]):
                return "add"
            if all(len(a.meta["shape"]) == len(full) for a in sources):
                self.pair_of(node)
                return "pair"
        return "torch"

    def _kind_of_one(self, node: torch.fx.Node, module: nn.Module | None, read: torch.fx.Node) -> str:
        rank = len(node.meta["shape"]) - 1
        if (stages := tensorkinds.one_value(node, module)) is not None:
            node.meta["stages"] = stages
            return "apply"
        if (stages := self._with_constant(node, read)) is not None:
            node.meta["stages"], node.meta["source"] = stages, read
            return "scalar"
        if node.args[0] is not read:
            return "torch"
        if rank > 1 and known.by_rows(module):
            node.meta["layer"] = "conv" if type(module) is nn.Linear else "binary"
            return "by_rows"
        if type(module) in (nn.ConvTranspose1d, nn.ConvTranspose2d) and len(node.args) == 1 and rank == (3 if type(module) is nn.ConvTranspose2d else 2):
            self.transposed(node)
            return "conv"
        if type(module) in (nn.Conv1d, nn.Conv2d) and rank == (3 if type(module) is nn.Conv2d else 2):
            self.padded(node)
            return "conv"
        softmax = tensorkinds.softmax(node, module, rank + 1)
        if softmax is not None and rank in AXES and softmax[1] > 0:
            node.meta["softmax"] = softmax
            return "softmax"
        norm = tensorkinds.norm(node, module)
        if norm is not None and rank in AXES and norm.get("dims", 0) <= rank:
            node.meta["norm"] = norm
            return "normalise"
        if tensorkinds.resamples(node, module) and (lines := self.weights_along(node)) is not None:
            node.meta["lines"] = lines
            return "resample"
        return "torch"

    def _with_constant(self, node: torch.fx.Node, read: torch.fx.Node) -> list | None:
        """The stages of arithmetic with a number, a parameter or a buffer."""
        stage = tensorkinds.two_values(node)
        if stage is None or read.meta["shape"] != node.meta["shape"]:
            return None
        turned = node.args[1] is read
        other = node.args[0] if turned else node.args[1]
        if isinstance(other, torch.fx.Node):
            if depends(other):
                return None
            other = other.meta["value"]
            if isinstance(other, Tensor) and other.dim() == len(read.meta["shape"]):
                if other.shape[0] not in (1, BATCH) or not bool((other == other[:1]).all()):
                    return None
                other = other[0]
        if isinstance(other, bool) or not isinstance(other, (int, float, Tensor)):
            return None
        return tensorkinds.with_constant(stage[turned], torch.as_tensor(other, dtype=torch.float32))

    # ---- what is left to PyTorch

    def _torch(self, node: torch.fx.Node) -> Point:
        if not carried(node):
            value = node.meta.get("value")
            what = f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            where = f"{self.label(node)} ({node.meta.get('line', '')})"
            if isinstance(value, Tensor) and not depends(node):
                raise ConvertError(f"{where} gives the same whatever the images are: a network carries what comes from its input")
            raise ConvertError(f"{where} gives {what} for {BATCH} images: a network carries float32 with the batch in front")
        label, part = self.label(node), TorchPart(node, self.model)
        if not part.sources:
            raise ConvertError(f"{label} takes no activation: the network carries values that come from its input")
        op = Op("torch", [self.store(n) for n in part.sources], {"module": label}, name=label)
        draft = Draft(op, self.shape(node))
        self.drafts.append(draft)
        how = self.why_kept(node) if node.op == "call_module" else None
        line = node.meta.get("line", "")
        self.notes.append({"layer": label, "as": "PyTorch", "how": how or known.why_not(node, self.model), "line": line})
        self.torch_parts[label] = part
        return Point(draft, None)

    # ---- all of it

    def run(self, shapes: list[tuple[int, ...]]) -> PackedNetwork:
        inputs = [n for n in self.graph.nodes if n.op == "placeholder"]
        names, takes = [], []
        for i, (node, shape) in enumerate(zip(inputs, shapes, strict=False)):
            if not carried(node):
                node.meta["shape"] = (BATCH, *shape)
            name = "input" if len(shapes) == 1 else self.slot(f"input {i}", "float32", settled_shape(shape))
            self.slots[name] = Slot("float32", settled_shape(shape))
            self.stored[node], node.meta["kind"] = name, "input"
            names.append(name)
            takes.append({"name": str(node.target), "shape": list(shape)})
        if len(inputs) < len(shapes):
            raise ConvertError(f"the model takes {len(inputs)} inputs, and {len(shapes)} shapes were given")
        outputs: list[str] = []
        gives = self._result(self.result, outputs)
        graph = Graph(names, outputs, self.slots, [d.op for d in self.drafts], self.tensors, takes, gives)
        if not graph.ops:
            raise ConvertError("the model does nothing with its input")
        self.used(graph)
        graph.validate()
        for part in self.torch_parts.values():
            part.sources = []
        return PackedNetwork(graph, self.torch_parts, self.notes)

    def _result(self, value: Any, outputs: list[str]) -> dict[str, Any]:
        """``gives`` of the graph; ``outputs`` grows."""
        if isinstance(value, torch.fx.Node):
            held = value.meta.get("value")
            if isinstance(held, (tuple, list)):  # of a module that stayed whole
                raise ConvertError(f"{self.label(value)} gives a {type(held).__name__}: name its parts in the model's forward")
            slot = self.store(value)
            if slot not in outputs:
                outputs.append(slot)
            return {"tensor": outputs.index(slot), "shape": list(value.meta["shape"][1:])}
        if isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
            return {"dict": [[key, self._result(one, outputs)] for key, one in value.items()]}
        if isinstance(value, (tuple, list)) and value:
            return {"list" if type(value).__name__ in ("list", "immutable_list") else "tuple": [self._result(one, outputs) for one in value]}
        raise ConvertError(f"the model returns {value!r:.80}, expected tensors, or tuples, lists, dictionaries of them")

    def used(self, graph: Graph) -> None:
        """Drops constants that no operation names (of folds that were tried in vain)."""
        named = set()
        for op in graph.ops:
            named.update(op.constants.values())
            for stage in op.stages:
                named.update(v for k, v in stage.items() if isinstance(v, str) and k not in ("op", "slot"))
        for name in set(graph.tensors) - named:
            del graph.tensors[name]


__all__ = ["ConvertError", "RealWeights", "convert"]
