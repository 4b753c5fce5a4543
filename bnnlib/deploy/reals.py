"""The converter's layers of real values: convolutions, pools, sums of two, element-wise modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from bnnlib import layers
from bnnlib.deploy import layerkinds as known
from bnnlib.deploy.builder import SINKS, Builder, Point, joined
from bnnlib.deploy.graph import Op
from bnnlib.packing import pack_bits, round_to_int8


def given(b: Builder, node: torch.fx.Node) -> Point:
    return b.begin(Op("map", [b.store(node)], {"repeat": 1}, name="input"))


def same(b: Builder, node: torch.fx.Node) -> Point:
    return b.point(b.source(node))


def elementwise(b: Builder, node: torch.fx.Node) -> Point:
    stages = known.stages(node, b.model, b.channels(node))
    return b.add_all(b.end(b.source(node)), node, stages)


def apply(b: Builder, node: torch.fx.Node) -> Point:
    return b.add_values(b.end(b.source(node)), node, node.meta["stages"])


def conv(b: Builder, node: torch.fx.Node) -> Point:
    module, source = b.module(node), b.source(node)
    geometry = geometry_of(b, node, source)
    if "turned" in node.meta:
        return real_conv(b, node, source, node.meta["turned"], geometry, module.bias)
    weight = module.weight.detach()
    h, w = geometry["kernel"]
    weight = weight.reshape(weight.shape[0], -1, h, w).permute(0, 2, 3, 1).contiguous()
    return real_conv(b, node, source, weight, geometry, module.bias)


def real_conv(b: Builder, node, source, weight: Tensor, geometry: dict, bias: Tensor | None) -> Point:
    name = b.label(node)
    constants, stored = {}, known.array(weight)
    if isinstance(b.real, Mapping):
        kind = b.real.get(str(node.target), "float32")
    elif b.real == "1-bit" and node.target == getattr(b.first_layer, "target", None):
        kind = "float32"  # it sees the image: its rounding flips signs in all that follows
    else:
        kind = b.real
    note = {"layer": name, "as": kind}
    stages = [] if bias is None else [("bias", {"by": bias})]
    if kind == "bfloat16":
        stored = weight.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    elif kind == "int8":
        rounded, scale = round_to_int8(weight)
        stored = rounded.numpy()
        constants["scale"] = b.constant(f"{name}.weight.scale", scale)
    elif kind == "1-bit":
        stored, kind = pack_bits(weight.permute(0, 3, 1, 2).flatten(1)).numpy(), "bits"
        stages.insert(0, ("scale", {"by": weight.flatten(1).abs().mean(1)}))
        note |= {"as": "1 bit", "how": "real-valued weights rounded to mean|W| sign(W)"}
    constants["weight"] = b.constant(f"{name}.weight", stored)
    p = b.begin(Op("real_conv", [b.store(source)], {**geometry, "weights": kind}, constants, name=name))
    b.notes.append({**note, "bytes": stored.nbytes, "values": weight.numel()})
    return b.add_all(p, node, stages)


def geometry_of(b: Builder, node: torch.fx.Node, source: torch.fx.Node) -> dict[str, Any]:
    if "geometry" in node.meta:
        return dict(node.meta["geometry"])
    module = b.module(node)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, layers.BinaryConv2d)):
        names = ("kernel_size", "stride", "padding", "dilation")
        sizes = {n: node.meta["padding"] if n in node.meta else known.sized(module, n) for n in names}
        return {"kernel": sizes.pop("kernel_size"), **sizes, "groups": module.groups}
    h, w, _ = b.shape(source)
    return {"kernel": [h, w], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}


def pool(b: Builder, node: torch.fx.Node) -> Point:
    what = b.kind(node)
    source, a = b.source(node), known.window(node, b.model)
    size = side_by_side(a, b.shape(source))
    if size and len(source.users) == 1 and source not in b.stored and is_conv(b, source):
        p = b.end(source)
        if p.draft.op.kind in ("real_conv", "binary_conv") and not any(
            s["op"] in (*SINKS, "residual", "max_pool", "avg_pool") for s in p.draft.op.stages
        ):
            p.draft.op.name = joined(p.draft.op.name, b.label(node))
            return b.add(p, {"op": what, "size": size})
    return b.begin(Op(what, [b.store(source)], a, name=b.label(node)))


def is_conv(b: Builder, node: torch.fx.Node) -> bool:
    """Whether the node's value comes from a convolution through element-wise nodes alone."""
    while b.kind(node) in ("elementwise", "identity") and len(node.users) == 1:
        node = b.source(node)
    return b.kind(node) in ("conv", "binary") and len(node.users) == 1


def add(b: Builder, node: torch.fx.Node) -> Point:
    # the operand that a binary layer gives last is kept in the cache, the other one is added from memory
    rank = lambda n: (b.kind(n) not in ("repeat", "input", "torch")) + 2 * is_binary(b, n)  # noqa: E731
    other, host = sorted(node.args, key=rank)
    return b.with_slot("residual", host, b.source(other) if b.kind(other) == "repeat" else other, node)


def is_binary(b: Builder, node: torch.fx.Node) -> bool:
    while b.kind(node) in ("elementwise", "identity", "max_pool", "avg_pool") and len(node.users) == 1:
        node = b.source(node)
    return b.kind(node) == "binary"


def repeat(b: Builder, node: torch.fx.Node) -> Point:
    source = b.source(node)
    count = b.shape(node)[2] // b.shape(source)[2]
    return b.begin(Op("map", [b.store(source)], {"repeat": count}, name=b.label(node)))


def side_by_side(window: dict[str, Any], shape: tuple[int, int, int]) -> int | None:
    """The size of square windows that lie side by side without padding, if they do and the kernel takes them."""
    size = window["kernel"][0]
    plain = window["kernel"] == window["stride"] == [size, size] and window["padding"] == [0, 0]
    whole = not window["ceil"] or (shape[0] % size == 0 and shape[1] % size == 0)
    return size if plain and whole and size <= 8 else None
