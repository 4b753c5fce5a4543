"""The converter's operations that move values and compute none: views, transpositions, cuts, borders, joins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor

from bnnlib.deploy import tensorkinds
from bnnlib.deploy.builder import Builder, Point
from bnnlib.deploy.graph import Op
from bnnlib.deploy.places import digits, places_of
from bnnlib.deploy.torch_parts import alike, carried
from bnnlib.deploy.tracer import SHAPE_ALONE, depends
from bnnlib.deploy.tracing import BATCH, OTHER_BATCH

AXES = {1: {1: 2}, 2: {1: 2, 2: 1}, 3: {1: 2, 2: 0, 3: 1}}
"""By the number of dimensions without the batch: the axis of the settled slot of each."""


def origin(b: Builder, node: torch.fx.Node) -> tuple[torch.fx.Node, np.ndarray, float] | None:
    """(the value that the node moves, where each value comes from in it, what stands where nothing does); None if it does more than move.
    Places count PyTorch's order in one image; -1: the constant."""
    if "origin" not in node.meta:
        chain, root = [node], node.args[0] if node.args else None
        while isinstance(root, torch.fx.Node) and root.op != "placeholder" and moves(b, root):
            chain.insert(0, root)
            root = root.args[0] if root.args else None
        found = None
        if isinstance(root, torch.fx.Node) and (carried(root) or "shape" in root.meta and root.meta.get("made")):
            shape = root.meta["shape"]
            found = places_of(lambda x: _rerun(b, chain, x), shape)
            if found is not None and any("batched" in n.meta for n in chain):  # a number that moves as the batch grows
                other = places_of(lambda x: _rerun(b, chain, x), (OTHER_BATCH, *shape[1:]))
                if other is None or other[1] != found[1] or not np.array_equal(other[0], found[0]):
                    found = None
        node.meta["origin"] = None if found is None or found[0].size != math.prod(node.meta["shape"][1:]) else (root, *found)
    return node.meta["origin"]


def moves(b: Builder, node: torch.fx.Node) -> bool:
    return node.op in ("call_function", "call_method", "call_module") and not b.kept(node) and tensorkinds.moves(node, b.module(node))


def _rerun(b: Builder, chain: list[torch.fx.Node], x: Any) -> Any:
    for n in chain:
        x = again(b, n, x)
    return x


def again(b: Builder, node: torch.fx.Node, x: Any) -> Any:
    """The node's operation on another first argument. Raises ``ValueError`` where it reads another value, too."""
    if node.op == "call_method" and node.target in ("contiguous", "float", *tensorkinds.CASTS):
        return x  # types and memory are the model's: here are numbers of places
    fewer = isinstance(x, Tensor) and x.dim() > 0 and len(x) == OTHER_BATCH

    def given(other: torch.fx.Node) -> Any:
        if depends(other) and node.target not in SHAPE_ALONE:
            raise ValueError("it reads two values")
        value = other.meta["value"]
        return value[:OTHER_BATCH] if fewer and isinstance(value, Tensor) and (carried(other) or alike(other)) else value

    args, kwargs = node.meta["batched"] if fewer and "batched" in node.meta else (node.args, node.kwargs)
    args, kwargs = torch.fx.node.map_arg((tuple(args)[1:], kwargs), given)
    if node.op == "call_module":
        return b.module(node)(x, *args, **kwargs)
    if node.op == "call_method":
        return getattr(x, "reshape" if node.target == "view" else node.target)(*args, **kwargs)
    return node.target(x, *args, **kwargs)


def move(b: Builder, node: torch.fx.Node) -> Point:
    root, places, value = origin(b, node)
    (h, w, c), (rh, rw, rc) = b.shape(node), b.shape(root)
    place = places.reshape(c, h, w).transpose(1, 2, 0).ravel()
    inside = place // (rh * rw) + (place // rw % rh * rw + place % rw) * rc  # from (c, h, w) to (h, w, c)
    sizes, tables = digits(np.where(place < 0, -1, inside), (h, w, c))
    constants = {"tables": b.constant(f"{b.label(node)}.tables", tables)}
    return b.begin(Op("move", [b.store(root)], {"shape": [h, w, c], "sizes": sizes, "value": value}, constants, name=b.label(node)))


def spread(b: Builder, value: Tensor) -> torch.fx.Node:
    """A constant, alike for every image, as a value that the network carries."""
    return b.made("constant", (), (BATCH, *value.shape), constant=value.detach().float())


def constant(b: Builder, node: torch.fx.Node) -> Point:
    (h, w, c), name = b.shape(node), b.label(node)
    value = node.meta["constant"].reshape(c, h, w).permute(1, 2, 0)
    value = value[0, 0] if h == w == 1 else value
    sizes, tables = digits(np.full(h * w * c, -1, np.int64), (h, w, c))
    first = next(n for n in b.graph.nodes if n.op == "placeholder")  # of which nothing is read
    constants = {"tables": b.constant(f"{name}.tables", tables)}
    p = b.begin(Op("move", [b.store(first)], {"shape": [h, w, c], "sizes": sizes, "value": 0.0}, constants, name=name))
    return b.add(p, {"op": "bias", "by": b.constant(f"{name}.value", value)})


def carried_parts(b: Builder, node: torch.fx.Node) -> bool:
    """Whether the network carries all that a concatenation joins; constants among it become such values."""
    parts, dim = tensorkinds.join(node)
    if dim == 0 or not all(isinstance(p, torch.fx.Node) for p in parts):
        return False
    known = [p for p in parts if carried(p) or p.meta.get("made")]
    if not known or not all(p in known or alike(p) for p in parts):
        return False
    if len(known) < len(parts):
        parts = [p if p in known else spread(b, p.meta["value"][0]) for p in parts]
        node.args = (parts, *node.args[1:])
    return True


def expanded(b: Builder, node: torch.fx.Node, shape: tuple[int, ...]) -> torch.fx.Node:
    return node if node.meta["shape"] == shape else b.moved(node, lambda x: x.expand(x.shape[0], *shape[1:]))


def join(b: Builder, node: torch.fx.Node) -> Point:
    parts, dim = tensorkinds.join(node)
    axis = AXES[len(node.meta["shape"]) - 1][dim]
    return b.begin(Op("join", [b.store(b.settled(p)) for p in parts], {"axis": axis}, name=b.label(node)))


def join_as_rows(b: Builder, node: torch.fx.Node) -> None:
    """Any other concatenation, as a move: all values one behind the other, then in their places."""
    parts, dim = tensorkinds.join(node)
    flat = [b.moved(p, lambda x: x.flatten(1)) for p in parts]
    total = sum(p.meta["shape"][1] for p in flat)
    rows = b.made("rows_joined", tuple(flat), (BATCH, total))
    sizes = [p.meta["shape"] for p in parts]
    counts = [math.prod(s[1:]) for s in sizes]

    def move(x: Tensor) -> Tensor:
        cut = [part.reshape(x.shape[0], *s[1:]) for part, s in zip(x.split(counts, 1), sizes, strict=True)]
        return node.target(cut, dim)

    found = places_of(move, rows.meta["shape"])
    node.meta["origin"] = (rows, *found)


def rows_joined(b: Builder, node: torch.fx.Node) -> Point:
    return b.begin(Op("join", [b.store(p) for p in node.args], {"axis": 2}, name=b.label(node)))
