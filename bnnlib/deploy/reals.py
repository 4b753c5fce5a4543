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
from bnnlib.deploy.builder import SINKS, Builder, Point, joined, makes
from bnnlib.deploy.graph import Op
from bnnlib.packing import pack_bits, round_to_int8


class Reals(Builder):
    @makes("input")
    def _input(self, node: torch.fx.Node) -> Point:
        return self.begin(Op("map", [self.store(node)], {"repeat": 1}, name="input"))

    @makes("identity", "flatten")
    def _identity(self, node: torch.fx.Node) -> Point:
        return self.point(self.source(node))

    @makes("elementwise")
    def _elementwise(self, node: torch.fx.Node) -> Point:
        stages = known.stages(node, self.model, self.channels(node))
        return self.add_all(self.end(self.source(node)), node, stages)

    @makes("apply", "scalar")
    def _apply(self, node: torch.fx.Node) -> Point:
        return self.add_values(self.end(self.source(node)), node, node.meta["stages"])

    @makes("conv")
    def _conv(self, node: torch.fx.Node) -> Point:
        module, source = self.module(node), self.source(node)
        geometry = self.geometry(node, source)
        if "turned" in node.meta:
            return self.real_conv(node, source, node.meta["turned"], geometry, module.bias)
        weight = module.weight.detach()
        h, w = geometry["kernel"]
        weight = weight.reshape(weight.shape[0], -1, h, w).permute(0, 2, 3, 1).contiguous()
        return self.real_conv(node, source, weight, geometry, module.bias)

    def real_conv(self, node, source, weight: Tensor, geometry: dict, bias: Tensor | None) -> Point:
        name = self.label(node)
        constants, stored = {}, known.array(weight)
        if isinstance(self.real, Mapping):
            kind = self.real.get(str(node.target), "float32")
        elif self.real == "1-bit" and node.target == getattr(self.first_layer, "target", None):
            kind = "float32"  # it sees the image: its rounding flips signs in all that follows
        else:
            kind = self.real
        note = {"layer": name, "as": kind}
        stages = [] if bias is None else [("bias", {"by": bias})]
        if kind == "bfloat16":
            stored = weight.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        elif kind == "int8":
            rounded, scale = round_to_int8(weight)
            stored = rounded.numpy()
            constants["scale"] = self.constant(f"{name}.weight.scale", scale)
        elif kind == "1-bit":
            stored, kind = pack_bits(weight.permute(0, 3, 1, 2).flatten(1)).numpy(), "bits"
            stages.insert(0, ("scale", {"by": weight.flatten(1).abs().mean(1)}))
            note |= {"as": "1 bit", "how": "real-valued weights rounded to mean|W| sign(W)"}
        constants["weight"] = self.constant(f"{name}.weight", stored)
        p = self.begin(Op("real_conv", [self.store(source)], {**geometry, "weights": kind}, constants, name=name))
        self.notes.append({**note, "bytes": stored.nbytes, "values": weight.numel()})
        return self.add_all(p, node, stages)

    def geometry(self, node: torch.fx.Node, source: torch.fx.Node) -> dict[str, Any]:
        if "geometry" in node.meta:
            return dict(node.meta["geometry"])
        module = self.module(node)
        if isinstance(module, (nn.Conv1d, nn.Conv2d, layers.BinaryConv2d)):
            names = ("kernel_size", "stride", "padding", "dilation")
            sizes = {n: node.meta["padding"] if n in node.meta else known.sized(module, n) for n in names}
            return {"kernel": sizes.pop("kernel_size"), **sizes, "groups": module.groups}
        h, w, _ = self.shape(source)
        return {"kernel": [h, w], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}

    @makes("binary")
    def _binary(self, node: torch.fx.Node) -> Point:
        module = self.module(node)
        source, name = self.source(node), self.label(node)
        if not module.binary_input:
            geometry = self.geometry(node, source)
            op = Op("real_conv", [self.store(source)], {**geometry, "weights": "bits"}, {"weight": self.weight(node)}, name=name)
            self.note_packed(node, "binary weights on a real-valued input, multiplied in float32")
        else:
            op = self.binary_conv(node)
            self.note_packed(node, "integers to real values")
        p, scale = self.begin(op), module.scaling_factors()
        if scale is not None:
            h, w, c = self.shape(node)
            by_pixel = scale.dim() == 3 and scale.shape[1:] != (1, 1)
            scale = scale.expand(c, h, w).permute(1, 2, 0) if by_pixel else scale.reshape(-1)
            p = self.add(p, {"op": "scale", "by": self.constant(f"{name}.scale", scale)})
        if module.bias is not None:
            p = self.add(p, {"op": "bias", "by": self.constant(f"{name}.bias", module.bias)})
        return p

    def weight(self, node: torch.fx.Node, negate: Tensor | None = None) -> str:
        module = self.module(node)
        rows = module.binary_weight().flatten(1)
        if negate is not None:
            rows = torch.where(negate[:, None], -rows, rows)
        return self.constant(f"{self.label(node)}.weight", pack_bits(rows).numpy())

    def binary_conv(self, node: torch.fx.Node, negate: Tensor | None = None) -> Op:
        module, source = self.module(node), self.source(node)
        geometry = self.geometry(node, source)
        bits = self.bits(node)
        if getattr(module, "padding_value", 0) and geometry["padding"] != [0, 0]:
            pad = Op("bit_pad", [bits], {"padding": geometry["padding"], "value": module.padding_value}, name=self.label(node))
            geometry = {**geometry, "padding": [0, 0]}
            draft = self.draft(pad)
            bits = self.slot(f"{bits}.padded", "bits", draft.shape)
            pad.stages.append({"op": "bits", "flip": None, "slot": bits})
        return Op("binary_conv", [bits], geometry, {"weight": self.weight(node, negate)}, name=self.label(node))

    def note_packed(self, node: torch.fx.Node, how: str) -> None:
        module = self.module(node)
        self.notes.append({"layer": self.label(node), "as": "1 bit", "how": how, "values": module.weight.numel(),
                           "bytes": module.weight.shape[0] * -(-module.weight[0].numel() // 8)})  # fmt: skip

    @makes("max_pool", "avg_pool")
    def _pool(self, node: torch.fx.Node) -> Point:
        what = self.kind(node)
        source, a = self.source(node), known.window(node, self.model)
        size = side_by_side(a, self.shape(source))
        if size and len(source.users) == 1 and source not in self.stored and self.is_conv(source):
            p = self.end(source)
            if p.draft.op.kind in ("real_conv", "binary_conv") and not any(
                s["op"] in (*SINKS, "residual", "max_pool", "avg_pool") for s in p.draft.op.stages
            ):
                p.draft.op.name = joined(p.draft.op.name, self.label(node))
                return self.add(p, {"op": what, "size": size})
        return self.begin(Op(what, [self.store(source)], a, name=self.label(node)))

    def is_conv(self, node: torch.fx.Node) -> bool:
        """Whether the node's value comes from a convolution through element-wise nodes alone."""
        while self.kind(node) in ("elementwise", "identity") and len(node.users) == 1:
            node = self.source(node)
        return self.kind(node) in ("conv", "binary") and len(node.users) == 1

    @makes("add")
    def _add(self, node: torch.fx.Node) -> Point:
        # the operand that a binary layer gives last is kept in the cache, the other one is added from memory
        rank = lambda n: (self.kind(n) not in ("repeat", "input", "torch")) + 2 * self.is_binary(n)  # noqa: E731
        other, host = sorted(node.args, key=rank)
        return self.with_slot("residual", host, self.source(other) if self.kind(other) == "repeat" else other, node)

    def is_binary(self, node: torch.fx.Node) -> bool:
        while self.kind(node) in ("elementwise", "identity", "max_pool", "avg_pool") and len(node.users) == 1:
            node = self.source(node)
        return self.kind(node) == "binary"

    @makes("repeat")
    def _repeat(self, node: torch.fx.Node) -> Point:
        source = self.source(node)
        count = self.shape(node)[2] // self.shape(source)[2]
        return self.begin(Op("map", [self.store(source)], {"repeat": count}, name=self.label(node)))


def side_by_side(window: dict[str, Any], shape: tuple[int, int, int]) -> int | None:
    """The size of square windows that lie side by side without padding, if they do and the kernel takes them."""
    size = window["kernel"][0]
    plain = window["kernel"] == window["stride"] == [size, size] and window["padding"] == [0, 0]
    whole = not window["ceil"] or (shape[0] % size == 0 and shape[1] % size == 0)
    return size if plain and whole and size <= 8 else None
