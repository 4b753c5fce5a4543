"""A packed network in the making: operations, slots and constants, and where each traced value lies.

Every value lies in a slot of ``(height, width, channels)`` so that reading the slot in the order (channels, height, width) gives the values
in PyTorch's order: a reshaping costs nothing. The *settled* place of a shape is the usual one: ``[N, K]`` channels, ``[N, C, L]`` one row,
``[N, C, H, W]``; more dimensions, all of them channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from bnnlib import layers
from bnnlib.deploy import layerkinds as known
from bnnlib.deploy.operations import Op, Slot, output_shape
from bnnlib.deploy.places import Shape, places_of
from bnnlib.deploy.tensorkinds import Stages
from bnnlib.deploy.torch_parts import TorchPart


def settled_shape(shape: tuple[int, ...]) -> Shape:
    """Where a value of this shape (without the batch) usually lies."""
    if len(shape) == 3:
        return shape[1], shape[2], shape[0]
    if len(shape) == 2:
        return 1, shape[1], shape[0]
    return 1, 1, math.prod(shape)


@dataclass
class Draft:
    """An operation in the making: stages are dictionaries that are compared by identity."""

    op: Op
    shape: tuple[int, int, int]  # after the stages so far

    def position(self, stage: dict | None) -> int:
        return 0 if stage is None else next(i for i, s in enumerate(self.op.stages) if s is stage) + 1


@dataclass
class Point:
    """A real value while it is in the cache: behind ``stage`` of ``draft`` (None: behind its source)."""

    draft: Draft
    stage: dict | None


SINKS = ("store", "sign", "threshold", "bits")


@dataclass
class Builder:
    """What all parts of the converter share.

    real, keep: as :func:`bnnlib.deploy.convert` takes them. reasons: why modules are kept whole, by name. find_kind: what a node is, one
    of the keys of ``makers``, whose functions give the point behind the value of a node of their kind.
    """

    model: nn.Module
    graph: torch.fx.Graph
    real: str | Mapping[str, str]
    keep: set[str]
    reasons: Mapping[str, str]
    find_kind: Callable[[Builder, torch.fx.Node], str]
    makers: Mapping[str, Callable[[Builder, torch.fx.Node], Point]]
    drafts: list[Draft] = field(default_factory=list)
    slots: dict[str, Slot] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    points: dict[torch.fx.Node, Point] = field(default_factory=dict)
    stored: dict[torch.fx.Node, str] = field(default_factory=dict)
    packed_inputs: dict[tuple, str] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[torch.fx.Node, str] = field(default_factory=dict)
    torch_parts: dict[str, TorchPart] = field(default_factory=dict)

    # ---- what a node is

    def kind(self, node: torch.fx.Node) -> str:
        if "kind" not in node.meta:
            node.meta["kind"] = "torch"  # while it is being found
            node.meta["kind"] = self.find_kind(self, node)
        return node.meta["kind"]

    def kept(self, node: torch.fx.Node) -> bool:
        return node.op == "call_module" and self.why_kept(node) is not None

    def why_kept(self, node: torch.fx.Node) -> str | None:
        inside = lambda name: node.target == name or str(node.target).startswith(f"{name}.")  # noqa: E731
        if any(map(inside, self.keep)):
            return "asked for"
        return next((f"kept whole: {why}" for name, why in self.reasons.items() if inside(name)), None)

    @cached_property
    def first_layer(self) -> torch.fx.Node | None:
        """The first layer with weights."""
        kinds = (nn.modules.conv._ConvNd, nn.Linear, layers.BinaryLayer)
        return next((n for n in self.graph.nodes if isinstance(self.module(n), kinds)), None)

    def module(self, node: torch.fx.Node) -> nn.Module | None:
        return known.module_of(node, self.model)

    def source(self, node: torch.fx.Node) -> torch.fx.Node:
        """The value that the node reads, where it needs it to lie."""
        if "source" not in node.meta:
            kind, read = self.kind(node), node.args[0]
            if kind in ("conv", "binary", "max_pool", "avg_pool", "elementwise", "repeat") and len(read.meta["shape"]) != 2:
                read = self.settled(read)
            node.meta["source"] = read
        return node.meta["source"]

    def shape(self, node: torch.fx.Node) -> Shape:
        """(h, w, c) of a node's slot."""
        if "hwc" not in node.meta:
            kind = self.kind(node)
            if "hwc" in node.meta:  # found with the kind
                return node.meta["hwc"]
            if kind in ("flatten", "identity", "elementwise", "apply", "scalar"):
                node.meta["hwc"] = self.shape(self.source(node))
            elif kind == "add":
                node.meta["hwc"] = self.shape(node.args[0])
            else:
                node.meta["hwc"] = settled_shape(node.meta["shape"][1:])
        return node.meta["hwc"]

    def settled(self, node: torch.fx.Node) -> torch.fx.Node:
        """The node, or a copy of its value in the settled place."""
        if self.shape(node) == settled_shape(node.meta["shape"][1:]):
            return node
        if "settled" not in node.meta:
            node.meta["settled"] = self.moved(node, lambda x: x)
        return node.meta["settled"]

    def label(self, node: torch.fx.Node) -> str:
        if node not in self.labels:
            named = known.whole_of(node)
            wanted = str(named.target) if named.op == "call_module" else named.name
            taken, n, label = set(self.labels.values()), 1, wanted
            while label in taken:  # a module that is used again
                n += 1
                label = f"{wanted}:{n}"
            self.labels[node] = label
        return self.labels[node]

    def spatial(self, node: torch.fx.Node) -> bool:
        """Whether the node is a flattened map, so that its parameters differ from pixel to pixel."""
        return len(node.meta["shape"]) == 2 and self.shape(node)[:2] != (1, 1)

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

    def draft(self, op: Op) -> Draft:
        shapes = [self.slots[name].shape for name in op.inputs]
        draft = Draft(op, output_shape(op, shapes, self.tensors))
        self.drafts.append(draft)
        return draft

    # ---- real values

    def point(self, node: torch.fx.Node) -> Point:
        """The node's value in real numbers, computed where it is still in the cache."""
        if node not in self.points:
            self.points[node] = self.makers[self.kind(node)](self, node)
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

    def end(self, node: torch.fx.Node) -> Point:
        """A point behind which stages may be added: the node's own if nothing follows it, else a new operation."""
        if node not in self.stored or node in self.points:
            p = self.point(node)
            behind = p.draft.op.stages[p.draft.position(p.stage) :]
            if p.draft.op.kind != "torch" and all(s["op"] in SINKS for s in behind):
                return p
        return self.from_memory(node)

    def begin(self, op: Op) -> Point:
        """The point behind a new operation, before its stages."""
        return Point(self.draft(op), None)

    def from_memory(self, node: torch.fx.Node) -> Point:
        """A point of a new operation that reads the node's value from its slot."""
        return self.begin(Op("map", [self.store(node)], {"repeat": 1}, name=self.label(node)))

    def with_slot(self, kind: str, host: torch.fx.Node, other: torch.fx.Node, node: torch.fx.Node) -> Point:
        """The point behind a stage of ``node`` that takes the value ``host`` in the cache with that of ``other`` in memory."""
        slot, p = self.store(other), self.end(host)
        if self.writes_after(slot, p.draft):  # the host was computed before it: take its value from memory instead
            p = self.from_memory(host)
        p.draft.op.name = joined(p.draft.op.name, self.label(node))
        return self.add(p, {"op": kind, "slot": slot})

    def add(self, p: Point, stage: dict[str, Any]) -> Point:
        """The point behind a new stage."""
        p.draft.op.stages.append(stage)
        return Point(p.draft, stage)

    def add_all(self, p: Point, node: torch.fx.Node, stages: Stages) -> Point:
        """The point behind stages whose parameters are numbers, or tensors of a value for each channel as PyTorch counts them."""
        h, w, c = self.shape(node)
        spatial = self.spatial(node)
        return self._added(p, node, stages, lambda value: value.reshape(c, h, w).permute(1, 2, 0) if spatial else value)

    def channels(self, node: torch.fx.Node) -> int:
        """As PyTorch counts them: of a flattened map, its values."""
        return node.meta["shape"][1]

    def add_values(self, p: Point, node: torch.fx.Node, stages: Stages) -> Point:
        """The point behind stages whose parameters are numbers, or tensors that broadcast to the node's value."""
        h, w, c = self.shape(node)

        def spread(value: Tensor) -> Tensor:
            if value.numel() == 1:
                return value.detach().float().reshape(1).expand(c)
            full = value.detach().float().expand(node.meta["shape"][1:]).reshape(c, h, w)
            return full[:, 0, 0] if bool((full == full[:, :1, :1]).all()) else full.permute(1, 2, 0)

        return self._added(p, node, stages, spread)

    def _added(self, p: Point, node: torch.fx.Node, stages: Stages, spread: Callable[[Tensor], Tensor]) -> Point:
        """``spread``: a parameter as the constant ``[C]`` or ``[H, W, C]`` of a stage."""
        for name, fields in stages:
            stage: dict[str, Any] = {"op": name}
            for key, value in fields.items():
                if isinstance(value, Tensor):
                    value = self.constant(f"{self.label(node)}.{key}", spread(value))
                stage[key] = value
            p = self.add(p, stage)
        p.draft.op.name = joined(p.draft.op.name, self.label(node))
        return p

    def emit(
        self, kind: str, slots: list[str], attributes: dict[str, Any], stages: list[dict[str, Any]], name: str,
        constants: dict[str, str] | None = None,
    ) -> str:  # fmt: skip
        """An operation of its own with these stages, and the slot of its result."""
        draft = self.draft(Op(kind, slots, attributes, constants or {}, name=name))
        made = self.slot(name, "float32", draft.shape)
        draft.op.stages = [*stages, {"op": "store", "slot": made}]
        return made

    def writes_after(self, slot: str, draft: Draft) -> bool:
        """Whether ``slot`` is written by ``draft`` itself or by an operation behind it."""
        at = next(i for i, d in enumerate(self.drafts) if d is draft)
        return any(slot in d.op.writes() for d in self.drafts[at:])

    # ---- values that only move

    def moved(self, node: torch.fx.Node, move: Callable[[Tensor], Tensor]) -> torch.fx.Node:
        """A new value: those of ``node``, where ``move`` puts them."""
        found = places_of(move, node.meta["shape"])
        trial = move(torch.empty(node.meta["shape"]))
        return self.made("move", (node,), tuple(trial.shape), origin=(node, *found))

    def made(self, kind: str, args: tuple, shape: tuple[int, ...], op: str = "call_function", target: Any = None, **meta: Any) -> torch.fx.Node:
        """A node that stands in no trace."""
        new = self.graph.create_node(op, target or _made, args)
        new.meta.update(kind=kind, shape=shape, made=True, depends=True, value=torch.empty(0), **meta)
        return new


def _made(*_: Any) -> None:
    """Stands in the graph for operations that no trace has."""


def joined(*names: str) -> str:
    """The names of layers in ``names``, each once, in their order, with spaces between."""
    return " ".join(dict.fromkeys(part for name in names for part in name.split(" ") if part))
