"""From a trained model to a packed network: trace it, fold what lies between two binarisations, choose what runs where.

:func:`convert` takes every model that is built from this library's layers and PyTorch's standard modules. It traces the model with torch.fx,
and asks backwards from the result for what each value needs:

* the bits that a binary layer reads come from comparisons that replace batch norm, shift, bias, scale, activation and
  sign, and max-pools in between work on bits (:mod:`bnnlib.deploy.thresholds`);
* real values are computed by convolutions in float32 (see ``real``), and by stages fused into the operation before them;
* what the executor lacks stays a PyTorch module, and the network runs in parts around it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from bnnlib import layers
from bnnlib.deploy import layerkinds as known
from bnnlib.deploy import thresholds
from bnnlib.deploy.graph import Graph, Op, Slot, output_shape
from bnnlib.deploy.network import PackedNetwork
from bnnlib.packing import pack_bits

RealWeights = Literal["float32", "bfloat16", "int8", "1-bit"]


class ConvertError(ValueError):
    """A model that cannot be converted; the message says why and what to do."""


def convert(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    real: RealWeights | Mapping[str, RealWeights] = "float32",
    keep: Collection[str] = (),
) -> PackedNetwork:
    """The packed network of ``model`` in evaluation mode, for images of ``input_shape`` (channels, height, width); or (features,).

    ``real``: how the weights of real-valued layers are held, but for the layer that sees the images, which stays
    float32 (int8: symmetric, a scale to an output channel; 1-bit: mean|W| sign(W) of each output channel); a mapping
    from names of layers to types chooses for each, that one too. They multiply float32 activations; on a CPU that multiplies bf16, weights of bfloat16 and int8
    multiply activations rounded to bf16, twice as fast. Signs behind such layers can differ from the model's.
    ``keep``: names of modules to leave to PyTorch, with all inside
    them. The model itself is not changed, and the network does not follow its later changes. Raises
    :class:`ConvertError`.
    """
    chosen = real.values() if isinstance(real, Mapping) else [real]
    for kind in chosen:
        if kind not in get_args(RealWeights):
            raise ConvertError(f"unknown real {kind!r}: choose {', '.join(get_args(RealWeights))}")
    shape = tuple(input_shape)
    if len(shape) not in (1, 3) or not all(isinstance(s, int) and s >= 1 for s in shape):
        raise ConvertError(
            f"input_shape is {input_shape!r}: it must be (channels, height, width) or (features,), without the batch"
        )
    names = dict(model.named_modules())
    for name in real if isinstance(real, Mapping) else ():
        if not isinstance(names.get(name), (nn.Conv2d, nn.Linear)):
            raise ConvertError(f"real names {name!r}, which is no real-valued convolution or linear layer of the model")
    for name in keep:
        if name not in names or not name:
            raise ConvertError(f"keep names {name!r}, which is no module of the model")
    model = copy.deepcopy(model).eval().float().cpu().requires_grad_(False)
    with torch.no_grad():
        traced = _trace(model, set(keep))
        _measure(traced, shape)
        return _Converter(traced, shape, real, set(keep)).run()


# ------------------------------------------------------------------------------------------------ tracing


class _Tracer(torch.fx.Tracer):
    def __init__(self, whole: set[str]) -> None:
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return name in self.whole or isinstance(module, known.LEAVES) or super().is_leaf_module(module, name)


def _trace(model: nn.Module, keep: set[str]) -> torch.fx.GraphModule:
    if type(model).__module__.startswith("torch.nn") and not list(model.children()) or isinstance(model, known.LEAVES):
        model = nn.Sequential(model)  # a leaf has no inside to trace
    whole = set(keep)
    while True:
        tracer = _Tracer(whole)
        try:
            graph = tracer.trace(model)
            break
        except Exception as error:  # whatever a module's own code raises when it meets a proxy
            # the smallest modules that cannot be traced alone stay whole
            bad = [n for n, m in model.named_modules() if n and n not in whole and not _traceable(m)]
            bad = [n for n in bad if not any(other.startswith(f"{n}.") for other in bad)]
            if not bad:
                raise ConvertError(
                    f"the model cannot be traced: {error}; put what depends on the values of tensors into a module of its own"
                ) from error
            whole.update(bad)
    return torch.fx.GraphModule(model, graph)


def _traceable(module: nn.Module) -> bool:
    if isinstance(module, known.LEAVES) or (type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)):
        return True
    try:
        _Tracer(set()).trace(module)
        return True
    except Exception:
        return False


class _Shapes(torch.fx.Interpreter):
    def run_node(self, node: torch.fx.Node) -> Any:
        result = super().run_node(node)
        if isinstance(result, Tensor):
            node.meta["shape"] = tuple(result.shape)
        return result


def _measure(traced: torch.fx.GraphModule, shape: tuple[int, ...]) -> None:
    """Notes the shape of every node for a batch of 3; makes flattening views plain."""
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ConvertError(f"the model takes {len(inputs)} inputs, expected one")
    x = torch.zeros(3, *shape)
    try:
        _Shapes(traced).run(x)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ConvertError(f"the model does not take images of shape {shape}: {str(error).splitlines()[0]}") from error
    for node in list(traced.graph.nodes):
        views = node.op == "call_method" and node.target in ("flatten", "view", "reshape")
        if not views and node.target is not torch.flatten:
            continue
        before, after = node.args[0].meta.get("shape"), node.meta.get("shape")
        if not before or not after:
            continue
        plain = node.args[0] if after == before else None
        if len(before) == 4 and after == (3, int(np.prod(before[1:]))):
            with traced.graph.inserting_before(node):
                plain = traced.graph.call_function(torch.flatten, (node.args[0], 1))
            plain.meta["shape"] = after
        if plain is not None:
            node.replace_all_uses_with(plain)
            traced.graph.erase_node(node)
        elif not views:
            node.meta["shape"] = None  # some other flattening: PyTorch's
    traced.graph.eliminate_dead_code()
    traced.recompile()


# ----------------------------------------------------------------------------------------------- building


@dataclass
class _Draft:
    """An operation in the making: stages are dictionaries that are compared by identity."""

    op: Op
    shape: tuple[int, int, int]  # after the stages so far

    def position(self, stage: dict | None) -> int:
        return 0 if stage is None else next(i for i, s in enumerate(self.op.stages) if s is stage) + 1


@dataclass
class _Point:
    """A real value while it is in the cache: behind ``stage`` of ``draft`` (None: behind its source)."""

    draft: _Draft
    stage: dict | None


_SINKS = ("store", "sign", "threshold", "bits")


@dataclass
class _Converter:
    traced: torch.fx.GraphModule
    input_shape: tuple[int, ...]
    real: str | Mapping[str, str]
    keep: set[str]
    drafts: list[_Draft] = field(default_factory=list)
    slots: dict[str, Slot] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    points: dict[torch.fx.Node, _Point] = field(default_factory=dict)
    stored: dict[torch.fx.Node, str] = field(default_factory=dict)
    packed_inputs: dict[tuple, str] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)

    # ---- what a node is

    @cached_property
    def first(self) -> torch.fx.Node | None:
        """The first layer with weights."""
        return next((n for n in self.traced.graph.nodes if self.kind(n) in ("conv", "binary")), None)

    def kind(self, node: torch.fx.Node) -> str:
        if "kind" not in node.meta:
            kept = node.op == "call_module" and any(
                node.target == k or node.target.startswith(f"{k}.") for k in self.keep
            )
            node.meta["kind"] = "torch" if kept else known.kind(node, self.traced)
        return node.meta["kind"]

    def source(self, node: torch.fx.Node) -> torch.fx.Node:
        return node.args[0]

    def shape(self, node: torch.fx.Node) -> tuple[int, int, int]:
        """(h, w, c) of a node's slot; a flattened map keeps its own."""
        if "hwc" not in node.meta:
            full = node.meta.get("shape")
            if full is None or len(full) not in (2, 4):
                raise ConvertError(f"{self.label(node)} gives a tensor of shape {full}: the network carries [N, C, H, W] and [N, K]")
            carried = self.kind(node) in ("flatten", "identity", "elementwise", "add") and len(full) == 2
            if carried:
                node.meta["hwc"] = self.shape(self.source(node))
            elif len(full) == 2:
                node.meta["hwc"] = (1, 1, full[1])
            else:
                node.meta["hwc"] = (full[2], full[3], full[1])
        return node.meta["hwc"]

    def label(self, node: torch.fx.Node) -> str:
        return str(node.target) if node.op == "call_module" else node.name

    def spatial(self, node: torch.fx.Node) -> bool:
        """Whether the node is a flattened map, so that its parameters differ from pixel to pixel."""
        full = node.meta["shape"]
        return len(full) == 2 and self.shape(node)[:2] != (1, 1)

    def constant(self, name: str, value: Tensor | np.ndarray) -> str:
        array = value if isinstance(value, np.ndarray) else known.array(value)
        wanted, n = name, 1
        while wanted in self.tensors:
            if self.tensors[wanted].dtype == array.dtype and np.array_equal(self.tensors[wanted], array, equal_nan=array.dtype.kind == "f"):
                return wanted
            n += 1
            wanted = f"{name}.{n}"
        self.tensors[wanted] = np.ascontiguousarray(array)
        return wanted

    def slot(self, name: str, kind: str, shape: tuple[int, int, int]) -> str:
        wanted, n = name, 1
        while wanted in self.slots:
            n += 1
            wanted = f"{name}.{n}"
        self.slots[wanted] = Slot(kind, shape)
        return wanted

    def draft(self, op: Op) -> _Draft:
        draft = _Draft(op, output_shape(op, self.slots[op.inputs[0]].shape, self.tensors))
        self.drafts.append(draft)
        return draft

    # ---- real values

    def point(self, node: torch.fx.Node) -> _Point:
        """The node's value in real numbers, computed where it is still in the cache."""
        if node not in self.points:
            self.points[node] = getattr(self, f"_{self.kind(node)}")(node)
        return self.points[node]

    def store(self, node: torch.fx.Node) -> str:
        """The slot of the node's value, which is written if it was not yet."""
        if node not in self.stored:
            if self.kind(node) in ("identity", "flatten"):
                self.stored[node] = self.store(self.source(node))
            else:
                p = self.point(node)
                name = self.slot(self.label(node), "float32", self.shape(node))
                p.draft.op.stages.insert(p.draft.position(p.stage), {"op": "store", "slot": name})
                self.stored[node] = name
        return self.stored[node]

    def end(self, node: torch.fx.Node) -> _Point:
        """A point behind which stages may be added: the node's own if nothing follows it, else a new operation."""
        if node not in self.stored or node in self.points:
            p = self.point(node)
            behind = p.draft.op.stages[p.draft.position(p.stage) :]
            if p.draft.op.kind != "torch" and all(s["op"] in _SINKS for s in behind):
                return p
        return _Point(self.draft(Op("map", [self.store(node)], {"repeat": 1}, name=self.label(node))), None)

    def add(self, p: _Point, stage: dict[str, Any]) -> _Point:
        """The point behind a new stage."""
        p.draft.op.stages.append(stage)
        return _Point(p.draft, stage)

    def add_all(self, p: _Point, node: torch.fx.Node, stages: list[tuple[str, dict[str, Any]]]) -> _Point:
        h, w, c = self.shape(node)
        for name, fields in stages:
            stage: dict[str, Any] = {"op": name}
            for key, value in fields.items():
                if isinstance(value, Tensor):
                    if self.spatial(node):
                        value = value.reshape(c, h, w).permute(1, 2, 0)
                    value = self.constant(f"{self.label(node)}.{key}", value)
                stage[key] = value
            p = self.add(p, stage)
        p.draft.op.name = _joined(p.draft.op.name, self.label(node))
        return p

    def channels(self, node: torch.fx.Node) -> int:
        """As PyTorch counts them: of a flattened map, its values."""
        return node.meta["shape"][1]

    def _input(self, node: torch.fx.Node) -> _Point:
        name = self.store(node)
        return _Point(self.draft(Op("map", [name], {"repeat": 1}, name="input")), None)

    def _identity(self, node: torch.fx.Node) -> _Point:
        return self.point(self.source(node))

    _flatten = _identity

    def _elementwise(self, node: torch.fx.Node) -> _Point:
        stages = known.stages(node, self.traced, self.channels(node))
        return self.add_all(self.end(self.source(node)), node, stages)

    def _conv(self, node: torch.fx.Node) -> _Point:
        module = known.module_of(node, self.traced)
        source = self.source(node)
        weight = module.weight.detach()
        geometry = self.geometry(module, source)
        h, w = geometry["kernel"]
        weight = weight.reshape(weight.shape[0], -1, h, w).permute(0, 2, 3, 1).contiguous()
        return self.real_conv(node, source, weight, geometry, module.bias)

    def real_conv(self, node, source, weight: Tensor, geometry: dict, bias: Tensor | None) -> _Point:
        name = self.label(node)
        constants, stored = {}, known.array(weight)
        if isinstance(self.real, Mapping):
            kind = self.real.get(name, "float32")
        else:
            kind = "float32" if node is self.first else self.real
        note = {"layer": name, "as": kind}
        stages = [] if bias is None else [("bias", {"by": bias})]
        if kind == "bfloat16":
            stored = weight.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        elif kind == "int8":
            scale = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
            stored = (weight / scale.view(-1, 1, 1, 1)).round().to(torch.int8).numpy()
            constants["scale"] = self.constant(f"{name}.weight.scale", scale)
        elif kind == "1-bit":
            stored, kind = pack_bits(weight.permute(0, 3, 1, 2).flatten(1)).numpy(), "bits"
            stages.insert(0, ("scale", {"by": weight.flatten(1).abs().mean(1)}))
            note |= {"as": "1 bit", "how": "real-valued weights rounded to mean|W| sign(W)"}
        constants["weight"] = self.constant(f"{name}.weight", stored)
        op = Op("real_conv", [self.store(source)], {**geometry, "weights": kind}, constants, name=name)
        p = _Point(self.draft(op), None)
        self.notes.append({**note, "bytes": stored.nbytes, "values": weight.numel()})
        return self.add_all(p, node, stages)

    def geometry(self, module: nn.Module, source: torch.fx.Node) -> dict[str, Any]:
        if isinstance(module, (nn.Conv2d, layers.BinaryConv2d)):
            sizes = {name: known.pair(getattr(module, name)) for name in ("kernel_size", "stride", "padding", "dilation")}
            return {"kernel": sizes.pop("kernel_size"), **sizes, "groups": module.groups}
        h, w, _ = self.shape(source)
        return {"kernel": [h, w], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}

    def _binary(self, node: torch.fx.Node) -> _Point:
        module = known.module_of(node, self.traced)
        source, name = self.source(node), self.label(node)
        if not getattr(module, "binary_input", True):
            geometry = self.geometry(module, source)
            op = Op("real_conv", [self.store(source)], {**geometry, "weights": "bits"}, {"weight": self.weight(node)}, name=name)
            self.note_packed(node, "binary weights on a real-valued input, multiplied in float32")
        else:
            op = self.binary_conv(node)
            self.note_packed(node, "integers to real values")
        p = _Point(self.draft(op), None)
        scale = module.output_scale()
        if scale is not None:
            h, w, c = self.shape(node)
            scale = scale.detach()
            if scale.dim() == 3 and scale.shape[1:] != (1, 1):
                p = self.add(p, {"op": "scale", "by": self.constant(f"{name}.scale", scale.expand(c, h, w).permute(1, 2, 0))})
            else:
                p = self.add(p, {"op": "scale", "by": self.constant(f"{name}.scale", scale.reshape(-1))})
        if module.bias is not None:
            p = self.add(p, {"op": "bias", "by": self.constant(f"{name}.bias", module.bias)})
        return p

    def weight(self, node: torch.fx.Node, negate: Tensor | None = None) -> str:
        module = known.module_of(node, self.traced)
        rows = module.binary_weight().flatten(1)
        if negate is not None:
            rows = torch.where(negate[:, None], -rows, rows)
        return self.constant(f"{self.label(node)}.weight", pack_bits(rows).numpy())

    def binary_conv(self, node: torch.fx.Node, negate: Tensor | None = None) -> Op:
        module, source = known.module_of(node, self.traced), self.source(node)
        geometry = self.geometry(module, source)
        bits = self.bits(node)
        if getattr(module, "padding_value", 0) and geometry["padding"] != [0, 0]:
            pad = Op("bit_pad", [bits], {"padding": geometry["padding"], "value": module.padding_value}, name=self.label(node))
            geometry = {**geometry, "padding": [0, 0]}
            draft = self.draft(pad)
            bits = self.slot(f"{bits}.padded", "bits", draft.shape)
            pad.stages.append({"op": "bits", "flip": None, "slot": bits})
        return Op("binary_conv", [bits], geometry, {"weight": self.weight(node, negate)}, name=self.label(node))

    def note_packed(self, node: torch.fx.Node, how: str) -> None:
        module = known.module_of(node, self.traced)
        self.notes.append({"layer": self.label(node), "as": "1 bit", "how": how, "values": module.weight.numel(),
                           "bytes": module.weight.shape[0] * -(-module.weight[0].numel() // 8)})  # fmt: skip

    def _max_pool(self, node: torch.fx.Node) -> _Point:
        return self._pool(node, "max_pool")

    def _avg_pool(self, node: torch.fx.Node) -> _Point:
        return self._pool(node, "avg_pool")

    def _pool(self, node: torch.fx.Node, what: str) -> _Point:
        source, a = self.source(node), known.window(node, self.traced)
        size = _side_by_side(a, self.shape(source))
        if size and len(source.users) == 1 and source not in self.stored and self.is_conv(source):
            p = self.end(source)
            if p.draft.op.kind in ("real_conv", "binary_conv") and not any(
                s["op"] in (*_SINKS, "residual", "max_pool", "avg_pool") for s in p.draft.op.stages
            ):
                p.draft.op.name = _joined(p.draft.op.name, self.label(node))
                return self.add(p, {"op": what, "size": size})
        return _Point(self.draft(Op(what, [self.store(source)], a, name=self.label(node))), None)

    def is_conv(self, node: torch.fx.Node) -> bool:
        """Whether the node's value comes from a convolution through element-wise nodes alone."""
        while self.kind(node) in ("elementwise", "identity") and len(node.users) == 1:
            node = self.source(node)
        return self.kind(node) in ("conv", "binary") and len(node.users) == 1

    def _add(self, node: torch.fx.Node) -> _Point:
        # the operand that a binary layer gives last is kept in the cache, the other one is added from memory
        one, two = node.args
        rank = lambda n: (self.kind(n) not in ("repeat", "input", "torch")) + 2 * self.is_binary(n)  # noqa: E731
        other, host = sorted((one, two), key=rank)
        if self.kind(other) == "repeat":
            added = self.store(self.source(other))
        else:
            added = self.store(other)
        p = self.end(host)
        if self.writes_after(added, p.draft):
            # the host was computed before what is to be added: take its value from memory instead
            p = _Point(self.draft(Op("map", [self.store(host)], {"repeat": 1}, name=self.label(host))), None)
        p.draft.op.name = _joined(p.draft.op.name, self.label(node))
        return self.add(p, {"op": "residual", "slot": added})

    def is_binary(self, node: torch.fx.Node) -> bool:
        while self.kind(node) in ("elementwise", "identity", "max_pool", "avg_pool") and len(node.users) == 1:
            node = self.source(node)
        return self.kind(node) == "binary"

    def writes_after(self, slot: str, draft: _Draft) -> bool:
        """Whether ``slot`` is written by ``draft`` itself or by an operation behind it."""
        at = next(i for i, d in enumerate(self.drafts) if d is draft)
        return any(slot in d.op.writes() for d in self.drafts[at:])

    def _repeat(self, node: torch.fx.Node) -> _Point:
        source = self.source(node)
        count = self.shape(node)[2] // self.shape(source)[2]
        return _Point(self.draft(Op("map", [self.store(source)], {"repeat": count}, name=self.label(node))), None)

    def _torch(self, node: torch.fx.Node) -> _Point:
        sources = list(dict.fromkeys(n for n in node.all_input_nodes))
        if not sources:
            raise ConvertError(f"{self.label(node)} takes no activation: the network carries values that come from its input")
        # shapes as PyTorch has them, so that the network can hand over what the node expects
        for n in sources:
            self.shape(n)
        op = Op("torch", [self.store(n) for n in sources], {"module": self.label(node)}, name=self.label(node))
        draft = _Draft(op, self.shape(node))
        self.drafts.append(draft)
        self.notes.append({"layer": self.label(node), "as": "PyTorch", "how": "asked for" if self.kept(node) else known.why_not(node, self.traced)})
        self.torch_nodes = {**getattr(self, "torch_nodes", {}), self.label(node): node}
        return _Point(draft, None)

    def kept(self, node: torch.fx.Node) -> bool:
        return node.op == "call_module" and any(node.target == k or node.target.startswith(f"{k}.") for k in self.keep)

    # ---- bits

    def bits(self, layer: torch.fx.Node) -> str:
        """The slot of the bits that a binary layer reads."""
        module, read = known.module_of(layer, self.traced), self.source(layer)
        key = (read, module.sign_of_zero)
        if key not in self.packed_inputs:
            self.packed_inputs[key] = self._bits(layer, module, read)
        return self.packed_inputs[key]

    def _bits(self, layer: torch.fx.Node, module: nn.Module, read: torch.fx.Node) -> str:
        path: list[torch.fx.Node] = []
        node = read
        while self.kind(node) in ("identity", "flatten", "elementwise", "max_pool") and (node is read or len(node.users) == 1):
            if node is read and len(node.users) > 1 and not self._read_as_bits_alone(node):
                break
            path.insert(0, node)
            node = self.source(node)
        final = lambda x: module._binary_input(x) > 0  # noqa: E731
        name = f"{self.label(layer)}.input"
        if self.kind(node) == "binary" and len(node.users) == 1:
            slot = self._from_integers(node, path, final, name)
            if slot is not None:
                return slot
        return self._from_reals(node, path, final, name)

    def _read_as_bits_alone(self, node: torch.fx.Node) -> bool:
        return all(self.kind(user) == "binary" and getattr(known.module_of(user, self.traced), "binary_input", True) for user in node.users)

    def segments(self, path: list[torch.fx.Node]) -> tuple[list[list[torch.fx.Node]], list[torch.fx.Node]]:
        """The path cut at its max-pools: element-wise nodes before, between and behind them; the pools."""
        segments: list[list[torch.fx.Node]] = [[]]
        pools = []
        for node in path:
            if self.kind(node) == "max_pool":
                pools.append(node)
                segments.append([])
            else:
                segments[-1].append(node)
        return segments, pools

    def run_nodes(self, nodes: list[torch.fx.Node]) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            for node in nodes:
                x = known.evaluate(node, self.traced, x)
            return x

        return run

    def _from_integers(self, layer: torch.fx.Node, path: list[torch.fx.Node], final: Callable, name: str) -> str | None:
        """Bits from the integers of another binary layer; None where no threshold per channel describes them."""
        module = known.module_of(layer, self.traced)
        conv = isinstance(module, layers.BinaryConv2d)
        if not getattr(module, "binary_input", True) or (conv and module.scale_kind in layers.SPATIAL):
            return None
        if any(self.spatial(n) for n in path if self.kind(n) == "elementwise"):
            return None
        segments, pools = self.segments(path)

        def scaled(x: Tensor) -> Tensor:  # as the layer itself does it
            x = x if conv else x.flatten(1)
            shape = (-1, 1, 1) if conv else (-1,)
            scale = module.output_scale()
            x = x if scale is None else x * scale
            return x if module.bias is None else x + module.bias.view(shape)

        runs = [self.run_nodes(nodes) for nodes in segments]
        first = runs[0]
        runs[0] = lambda x: first(scaled(x))
        channels, k = module.weight.shape[0], module.weight[0].numel()
        try:
            threshold, falls, directions = thresholds.of_integers(runs, final, channels, k)
        except thresholds.NotMonotone:
            return None
        windows = [known.window(pool, self.traced) for pool in pools]
        size = _side_by_side(windows[0], self.shape(self.source(pools[0]))) if pools else None
        # the kernel itself takes the maximum of the integer: so the bit before its flip rises, as it must for OR
        negate = falls ^ directions[0] if size else None
        if negate is not None and not negate.any():
            negate = None
        if negate is not None:
            # (dot >= t) ^ f is (-dot >= 1 - t) ^ !f
            threshold, falls = torch.where(negate, 1 - threshold, threshold), falls ^ negate
        op = self.binary_conv(layer, negate)
        draft = self.draft(op)
        h, w, c = draft.shape
        if size:
            flips = [falls, *directions[1:]]
            shape, rest = (h // size, w // size, c), list(zip(pools[1:], windows[1:], strict=True))
            flip = falls ^ directions[1] if rest else falls
        else:
            flips, shape, rest = directions, (h, w, c), list(zip(pools, windows, strict=True))
            flip = falls ^ directions[0] if rest else falls
        slot = self.slot(name, "bits", shape)
        op.stages.append(
            {
                "op": "threshold",
                "threshold": self.constant(f"{self.label(layer)}.threshold", threshold.numpy()),
                "flip": self.flip(f"{self.label(layer)}.flip", flip),
                "pool": size or 1,
                "slot": slot,
            }
        )
        op.name = _joined(op.name, *(self.label(n) for n in path))
        self.note_packed(layer, "integers to bits, by a threshold to a channel")
        return self.bit_pools(slot, rest, flips[-len(rest) :] if rest else [], name)

    def bit_pools(self, slot: str, pools: list[tuple[torch.fx.Node, dict]], falls: list[Tensor], name: str) -> str:
        """Max-pools on bits that are flipped in the channels that fall, each flipped for the next."""
        for i, (node, window) in enumerate(pools):
            flip = falls[i] ^ falls[i + 1] if i + 1 < len(pools) else falls[i]
            draft = self.draft(Op("bit_pool", [slot], window, name=self.label(node)))
            slot = self.slot(name, "bits", draft.shape)
            draft.op.stages.append({"op": "bits", "flip": self.flip(f"{self.label(node)}.flip", flip), "slot": slot})
        return slot

    def flip(self, name: str, flip: Tensor) -> str | None:
        return self.constant(name, np.packbits(flip.numpy(), bitorder="little")) if flip.any() else None

    def _from_reals(self, node: torch.fx.Node, path: list[torch.fx.Node], final: Callable, name: str) -> str:
        """Bits from real values: of ``node``, or of the last node of the path behind which the chain is monotone."""
        directions: list[Tensor | None] = []
        for n in path:
            step = known.direction(n, self.traced, self.channels(n)) if self.kind(n) == "elementwise" else torch.ones(1)
            directions.append(step)
        start = max((i + 1 for i, d in enumerate(directions) if d is None), default=0)
        # parameters that differ from pixel to pixel meet no pool
        spatial = [i for i, n in enumerate(path) if self.kind(n) == "elementwise" and self.spatial(n)]
        if spatial:
            before = [i for i in range(start, spatial[-1]) if self.kind(path[i]) == "max_pool"]
            start = max([start, *(i + 1 for i in before)])
        node = path[start - 1] if start else node
        path, directions = path[start:], directions[start:]
        h, w, c = self.shape(node)
        pools = [n for n in path if self.kind(n) == "max_pool"]

        total, rest = torch.ones(c, 1, 1), []
        for n, step in reversed(list(zip(path, directions, strict=True))):
            if self.kind(n) == "max_pool":
                rest.insert(0, (total < 0).flatten())
            elif self.kind(n) == "elementwise":
                total = total * (step.reshape(c, h, w) if self.spatial(n) else step.reshape(-1, 1, 1))
        size = (1, 1) if pools else (h, w)
        total = total.expand(c, *size).contiguous()
        chain = [n for n in path if self.kind(n) != "max_pool"]
        run = self.run_nodes(chain)
        flat = len(node.meta["shape"]) == 2

        def bit(x: Tensor) -> Tensor:
            x = x[None] if not flat else x.reshape(1, -1)
            return final(run(x)).reshape(c, *size)

        low, high = thresholds.of_reals(bit, total)
        if rest and rest[0].any():
            low, high = thresholds.complement(low, high, rest[0].view(-1, 1, 1))
        label = path[-1] if path else node
        constants = {}
        for key, value in (("low", low), ("high", high)):
            per_channel = value[:, :1, :1]
            uniform = bool((value == per_channel).all())
            value = per_channel.flatten() if uniform else value.permute(1, 2, 0)
            constants[key] = self.constant(f"{name}.{key}", value)
        p = self.point(node)
        if p.draft.op.kind == "torch" or (p.draft.op.kind == "map" and self.kind(node) == "input"):
            p = self.end(node)
        slot = self.slot(name, "bits", (h, w, c))
        stages = p.draft.op.stages
        stages.insert(p.draft.position(p.stage), {"op": "sign", **constants, "slot": slot})
        p.draft.op.name = _joined(p.draft.op.name, *(self.label(n) for n in path))
        del label
        windows = [(n, known.window(n, self.traced)) for n in pools]
        return self.bit_pools(slot, windows, rest, name)

    # ---- all of it

    def run(self) -> PackedNetwork:
        nodes = list(self.traced.graph.nodes)
        node = next(n for n in nodes if n.op == "placeholder")
        c, h, w = self.input_shape if len(self.input_shape) == 3 else (*self.input_shape, 1, 1)
        self.slots["input"] = Slot("float32", (h, w, c))
        self.stored[node] = "input"
        result = next(n for n in nodes if n.op == "output").args[0]
        if not isinstance(result, torch.fx.Node):
            raise ConvertError(f"the model returns {type(result).__name__}, expected one tensor")
        output = self.store(result)
        graph = Graph(["input"], [output], self.slots, [d.op for d in self.drafts], self.tensors)
        if not graph.ops:
            raise ConvertError("the model does nothing with its input")
        self.used(graph)
        graph.validate()
        torch_nodes = getattr(self, "torch_nodes", {})
        calls = {}
        for label, n in torch_nodes.items():
            calls[label] = _TorchCall(self.traced, n)
        return PackedNetwork(graph, calls, self.notes, tuple(result.meta["shape"][1:]))

    def used(self, graph: Graph) -> None:
        """Drops constants that no operation names (of folds that were tried in vain)."""
        named = set()
        for op in graph.ops:
            named.update(op.constants.values())
            for stage in op.stages:
                named.update(v for k, v in stage.items() if isinstance(v, str) and k not in ("op", "slot"))
        for name in set(graph.tensors) - named:
            del graph.tensors[name]


class _TorchCall(nn.Module):
    """One traced node, run by PyTorch: takes the tensors of its inputs in the order of the operation's."""

    def __init__(self, traced: torch.fx.GraphModule, node: torch.fx.Node) -> None:
        super().__init__()
        self.module = known.module_of(node, traced)
        sources = list(dict.fromkeys(node.all_input_nodes))
        self.shapes = [tuple(n.meta["shape"][1:]) for n in sources]
        if node.op == "get_attr":
            raise ConvertError(f"{node.target} is read outside of a module: put it into one")
        # places instead of nodes, which hold the whole trace and cannot be pickled
        place = {n: _Place(i) for i, n in enumerate(sources)}
        self.op, self.target = node.op, node.target
        self.given = torch.fx.node.map_arg((node.args, node.kwargs), place.__getitem__)

    def forward(self, *tensors: Tensor) -> Tensor:
        args, kwargs = _filled(self.given, [t.reshape(t.shape[0], *s) for t, s in zip(tensors, self.shapes, strict=True)])
        if self.module is not None:
            return self.module(*args, **kwargs)
        if self.op == "call_method":
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


@dataclass(frozen=True)
class _Place:
    """Stands for the tensor of this number."""

    number: int


def _filled(value: Any, tensors: list[Tensor]) -> Any:
    """``value`` with tensors in their places."""
    if isinstance(value, _Place):
        return tensors[value.number]
    if isinstance(value, tuple | list):
        filled = [_filled(v, tensors) for v in value]
        return filled if isinstance(value, list) else tuple(filled)
    if isinstance(value, dict):
        return {k: _filled(v, tensors) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(_filled(v, tensors) for v in (value.start, value.stop, value.step)))
    return value


def _side_by_side(window: dict[str, Any], shape: tuple[int, int, int]) -> int | None:
    """The size of square windows that lie side by side without padding, if they do and the kernel takes them."""
    size = window["kernel"][0]
    plain = window["kernel"] == window["stride"] == [size, size] and window["padding"] == [0, 0]
    whole = not window["ceil"] or (shape[0] % size == 0 and shape[1] % size == 0)
    counted = window.get("count_padding", True) or True
    return size if plain and whole and counted and size <= 8 else None


def _joined(*names: str) -> str:
    return " ".join(dict.fromkeys(part for name in names for part in name.split(" ") if part))
