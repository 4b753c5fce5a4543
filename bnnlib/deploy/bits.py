"""The converter's bits: what stands between two binarisations, as comparisons (:mod:`bnnlib.deploy.thresholds`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from bnnlib import layers
from bnnlib.deploy import layerkinds as known
from bnnlib.deploy import thresholds
from bnnlib.deploy.builder import joined
from bnnlib.deploy.graph import Op
from bnnlib.deploy.reals import Reals, side_by_side


class Bits(Reals):
    def bits(self, layer: torch.fx.Node) -> str:
        """The slot of the bits that a binary layer reads."""
        module, read = known.module_of(layer, self.model), self.source(layer)
        key = (read, module.input_quantizer.zero)
        if key not in self.packed_inputs:
            self.packed_inputs[key] = self._bits(layer, module, read)
        return self.packed_inputs[key]

    def _bits(self, layer: torch.fx.Node, module: nn.Module, read: torch.fx.Node) -> str:
        path: list[torch.fx.Node] = []
        node = read
        while node.op != "placeholder" and self.kind(node) in ("identity", "flatten", "elementwise", "max_pool") and (node is read or len(node.users) == 1):
            if node is read and len(node.users) > 1 and not self._read_as_bits_alone(node):
                break
            path.insert(0, node)
            node = self.source(node)
        final = lambda x: module.binarize_input(x) > 0  # noqa: E731
        name = f"{self.label(layer)}.input"
        if self.kind(node) == "binary" and len(node.users) == 1:
            slot = self._from_integers(node, path, final, name)
            if slot is not None:
                return slot
        return self._from_reals(node, path, final, name)

    def _read_as_bits_alone(self, node: torch.fx.Node) -> bool:
        return all(self.kind(user) == "binary" and known.module_of(user, self.model).binary_input for user in node.users)

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
                if self.kind(node) in ("flatten", "identity"):
                    x = x.flatten(1) if self.kind(node) == "flatten" and len(node.meta["shape"]) == 2 else x
                elif len(node.meta["shape"]) == 3:  # [N, C, L], which lies in one row
                    x = known.evaluate(node, self.model, x.flatten(2)).reshape(x.shape)
                else:
                    x = known.evaluate(node, self.model, x)
            return x

        return run

    def _from_integers(self, layer: torch.fx.Node, path: list[torch.fx.Node], final: Callable, name: str) -> str | None:
        """Bits from the integers of another binary layer; None where no threshold per channel describes them."""
        module = known.module_of(layer, self.model)
        conv = isinstance(module, layers.BinaryConv2d)
        scale = module.scaling_factors()
        if not module.binary_input or (scale is not None and scale.numel() != module.weight.shape[0]):
            return None
        if any(self.spatial(n) for n in path if self.kind(n) == "elementwise"):
            return None
        segments, pools = self.segments(path)

        def scaled(x: Tensor) -> Tensor:  # as the layer itself does it
            x = x if conv else x.flatten(1)
            shape = (-1, 1, 1) if conv else (-1,)
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
        windows = [known.window(pool, self.model) for pool in pools]
        size = side_by_side(windows[0], self.shape(self.source(pools[0]))) if pools else None
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
        op.name = joined(op.name, *(self.label(n) for n in path))
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
            step = known.direction(n, self.model, self.channels(n)) if self.kind(n) == "elementwise" else torch.ones(1)
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
        p.draft.op.name = joined(p.draft.op.name, *(self.label(n) for n in path))
        windows = [(n, known.window(n, self.model)) for n in pools]
        return self.bit_pools(slot, windows, rest, name)
