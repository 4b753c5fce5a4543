"""The converter's binary layers and the bits that they read: what stands between two binarisations, as comparisons
(:mod:`bnnlib.deploy.thresholds`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from bnnlib import layers
from bnnlib.deploy import layerkinds as known
from bnnlib.deploy import reals, thresholds
from bnnlib.deploy.builder import Builder, Point, joined
from bnnlib.deploy.graph import Op
from bnnlib.packing import pack_bits


def binary(b: Builder, node: torch.fx.Node) -> Point:
    module = b.module(node)
    source, name = b.source(node), b.label(node)
    if not module.binary_input:
        geometry = reals.geometry_of(b, node, source)
        op = Op("real_conv", [b.store(source)], {**geometry, "weights": "bits"}, {"weight": weight_of(b, node)}, name=name)
        note_packed(b, node, "binary weights on a real-valued input, multiplied in float32")
    else:
        op = binary_conv(b, node)
        note_packed(b, node, "integers to real values")
    p, scale = b.begin(op), module.scaling_factors()
    if scale is not None:
        h, w, c = b.shape(node)
        by_pixel = scale.dim() == 3 and scale.shape[1:] != (1, 1)
        scale = scale.expand(c, h, w).permute(1, 2, 0) if by_pixel else scale.reshape(-1)
        p = b.add(p, {"op": "scale", "by": b.constant(f"{name}.scale", scale)})
    if module.bias is not None:
        p = b.add(p, {"op": "bias", "by": b.constant(f"{name}.bias", module.bias)})
    return p


def weight_of(b: Builder, node: torch.fx.Node, negate: Tensor | None = None) -> str:
    module = b.module(node)
    rows = module.binary_weight().flatten(1)
    if negate is not None:
        rows = torch.where(negate[:, None], -rows, rows)
    return b.constant(f"{b.label(node)}.weight", pack_bits(rows).numpy())


def binary_conv(b: Builder, node: torch.fx.Node, negate: Tensor | None = None) -> Op:
    module, source = b.module(node), b.source(node)
    geometry = reals.geometry_of(b, node, source)
    bits = bits_read(b, node)
    if getattr(module, "padding_value", 0) and geometry["padding"] != [0, 0]:
        pad = Op("bit_pad", [bits], {"padding": geometry["padding"], "value": module.padding_value}, name=b.label(node))
        geometry = {**geometry, "padding": [0, 0]}
        draft = b.draft(pad)
        bits = b.slot(f"{bits}.padded", "bits", draft.shape)
        pad.stages.append({"op": "bits", "flip": None, "slot": bits})
    return Op("binary_conv", [bits], geometry, {"weight": weight_of(b, node, negate)}, name=b.label(node))


def note_packed(b: Builder, node: torch.fx.Node, how: str) -> None:
    module = b.module(node)
    size = module.weight.shape[0] * -(-module.weight[0].numel() // 8)
    b.notes.append({"layer": b.label(node), "as": "1 bit", "how": how, "values": module.weight.numel(), "bytes": size})


def bits_read(b: Builder, layer: torch.fx.Node) -> str:
    """The slot of the bits that a binary layer reads."""
    module, read = known.module_of(layer, b.model), b.source(layer)
    key = (read, module.input_quantizer.zero)
    if key not in b.packed_inputs:
        b.packed_inputs[key] = _bits(b, layer, module, read)
    return b.packed_inputs[key]


def _bits(b: Builder, layer: torch.fx.Node, module: nn.Module, read: torch.fx.Node) -> str:
    path: list[torch.fx.Node] = []
    node = read
    while node.op != "placeholder" and b.kind(node) in ("identity", "flatten", "elementwise", "max_pool") and (node is read or len(node.users) == 1):
        if node is read and len(node.users) > 1 and not _read_as_bits_alone(b, node):
            break
        path.insert(0, node)
        node = b.source(node)
    final = lambda x: module.binarize_input(x) > 0  # noqa: E731
    name = f"{b.label(layer)}.input"
    if b.kind(node) == "binary" and len(node.users) == 1:
        slot = _from_integers(b, node, path, final, name)
        if slot is not None:
            return slot
    return _from_reals(b, node, path, final, name)


def _read_as_bits_alone(b: Builder, node: torch.fx.Node) -> bool:
    return all(b.kind(user) == "binary" and known.module_of(user, b.model).binary_input for user in node.users)


def cut_at_pools(b: Builder, path: list[torch.fx.Node]) -> tuple[list[list[torch.fx.Node]], list[torch.fx.Node]]:
    """The path cut at its max-pools: element-wise nodes before, between and behind them; the pools."""
    segments: list[list[torch.fx.Node]] = [[]]
    pools = []
    for node in path:
        if b.kind(node) == "max_pool":
            pools.append(node)
            segments.append([])
        else:
            segments[-1].append(node)
    return segments, pools


def run_nodes(b: Builder, nodes: list[torch.fx.Node]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for node in nodes:
            if b.kind(node) in ("flatten", "identity"):
                x = x.flatten(1) if b.kind(node) == "flatten" and len(node.meta["shape"]) == 2 else x
            elif len(node.meta["shape"]) == 3:  # [N, C, L], which lies in one row
                x = known.evaluate(node, b.model, x.flatten(2)).reshape(x.shape)
            else:
                x = known.evaluate(node, b.model, x)
        return x

    return run


def _from_integers(b: Builder, layer: torch.fx.Node, path: list[torch.fx.Node], final: Callable, name: str) -> str | None:
    """Bits from the integers of another binary layer; None where no threshold per channel describes them."""
    module = known.module_of(layer, b.model)
    conv = isinstance(module, layers.BinaryConv2d)
    scale = module.scaling_factors()
    if not module.binary_input or (scale is not None and scale.numel() != module.weight.shape[0]):
        return None
    if any(b.spatial(n) for n in path if b.kind(n) == "elementwise"):
        return None
    segments, pools = cut_at_pools(b, path)

    def scaled(x: Tensor) -> Tensor:  # as the layer itself does it
        x = x if conv else x.flatten(1)
        shape = (-1, 1, 1) if conv else (-1,)
        x = x if scale is None else x * scale
        return x if module.bias is None else x + module.bias.view(shape)

    runs = [run_nodes(b, nodes) for nodes in segments]
    first = runs[0]
    runs[0] = lambda x: first(scaled(x))
    channels, k = module.weight.shape[0], module.weight[0].numel()
    try:
        threshold, falls, directions = thresholds.of_integers(runs, final, channels, k)
    except thresholds.NotMonotone:
        return None
    windows = [known.window(pool, b.model) for pool in pools]
    size = reals.side_by_side(windows[0], b.shape(b.source(pools[0]))) if pools else None
    # the kernel itself takes the maximum of the integer: so the bit before its flip rises, as it must for OR
    negate = falls ^ directions[0] if size else None
    if negate is not None and not negate.any():
        negate = None
    if negate is not None:
        # (dot >= t) ^ f is (-dot >= 1 - t) ^ !f
        threshold, falls = torch.where(negate, 1 - threshold, threshold), falls ^ negate
    op = binary_conv(b, layer, negate)
    draft = b.draft(op)
    h, w, c = draft.shape
    if size:
        flips = [falls, *directions[1:]]
        shape, rest = (h // size, w // size, c), list(zip(pools[1:], windows[1:], strict=True))
        flip = falls ^ directions[1] if rest else falls
    else:
        flips, shape, rest = directions, (h, w, c), list(zip(pools, windows, strict=True))
        flip = falls ^ directions[0] if rest else falls
    slot = b.slot(name, "bits", shape)
    op.stages.append(
        {
            "op": "threshold",
            "threshold": b.constant(f"{b.label(layer)}.threshold", threshold.numpy()),
            "flip": flip_of(b, f"{b.label(layer)}.flip", flip),
            "pool": size or 1,
            "slot": slot,
        }
    )
    op.name = joined(op.name, *(b.label(n) for n in path))
    note_packed(b, layer, "integers to bits, by a threshold to a channel")
    return bit_pools(b, slot, rest, flips[-len(rest) :] if rest else [], name)


def bit_pools(b: Builder, slot: str, pools: list[tuple[torch.fx.Node, dict]], falls: list[Tensor], name: str) -> str:
    """Max-pools on bits that are flipped in the channels that fall, each flipped for the next."""
    for i, (node, window) in enumerate(pools):
        flip = falls[i] ^ falls[i + 1] if i + 1 < len(pools) else falls[i]
        draft = b.draft(Op("bit_pool", [slot], window, name=b.label(node)))
        slot = b.slot(name, "bits", draft.shape)
        draft.op.stages.append({"op": "bits", "flip": flip_of(b, f"{b.label(node)}.flip", flip), "slot": slot})
    return slot


def flip_of(b: Builder, name: str, flip: Tensor) -> str | None:
    return b.constant(name, np.packbits(flip.numpy(), bitorder="little")) if flip.any() else None


def _from_reals(b: Builder, node: torch.fx.Node, path: list[torch.fx.Node], final: Callable, name: str) -> str:
    """Bits from real values: of ``node``, or of the last node of the path behind which the chain is monotone."""
    directions: list[Tensor | None] = []
    for n in path:
        step = known.direction(n, b.model, b.channels(n)) if b.kind(n) == "elementwise" else torch.ones(1)
        directions.append(step)
    start = max((i + 1 for i, d in enumerate(directions) if d is None), default=0)
    # parameters that differ from pixel to pixel meet no pool
    spatial = [i for i, n in enumerate(path) if b.kind(n) == "elementwise" and b.spatial(n)]
    if spatial:
        before = [i for i in range(start, spatial[-1]) if b.kind(path[i]) == "max_pool"]
        start = max([start, *(i + 1 for i in before)])
    node = path[start - 1] if start else node
    path, directions = path[start:], directions[start:]
    h, w, c = b.shape(node)
    pools = [n for n in path if b.kind(n) == "max_pool"]

    total, rest = torch.ones(c, 1, 1), []
    for n, step in reversed(list(zip(path, directions, strict=True))):
        if b.kind(n) == "max_pool":
            rest.insert(0, (total < 0).flatten())
        elif b.kind(n) == "elementwise":
            total = total * (step.reshape(c, h, w) if b.spatial(n) else step.reshape(-1, 1, 1))
    size = (1, 1) if pools else (h, w)
    total = total.expand(c, *size).contiguous()
    chain = [n for n in path if b.kind(n) != "max_pool"]
    run = run_nodes(b, chain)
    flat = len(node.meta["shape"]) == 2

    def bit(x: Tensor) -> Tensor:
        x = x[None] if not flat else x.reshape(1, -1)
        return final(run(x)).reshape(c, *size)

    low, high = thresholds.of_reals(bit, total)
    if rest and rest[0].any():
        low, high = thresholds.complement(low, high, rest[0].view(-1, 1, 1))
    constants = {}
    for key, value in (("low", low), ("high", high)):
        per_channel = value[:, :1, :1]
        uniform = bool((value == per_channel).all())
        value = per_channel.flatten() if uniform else value.permute(1, 2, 0)
        constants[key] = b.constant(f"{name}.{key}", value)
    p = b.point(node)
    if p.draft.op.kind == "torch" or (p.draft.op.kind == "map" and b.kind(node) == "input"):
        p = b.end(node)
    slot = b.slot(name, "bits", (h, w, c))
    stages = p.draft.op.stages
    stages.insert(p.draft.position(p.stage), {"op": "sign", **constants, "slot": slot})
    p.draft.op.name = joined(p.draft.op.name, *(b.label(n) for n in path))
    windows = [(n, known.window(n, b.model)) for n in pools]
    return bit_pools(b, slot, windows, rest, name)
