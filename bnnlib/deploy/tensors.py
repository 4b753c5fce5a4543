"""The converter's operations on whole tensors: moving, joining, arithmetic of two, sums, norms, resizing, transposed convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from bnnlib.deploy import layerkinds as known
from bnnlib.deploy import tensorkinds
from bnnlib.deploy.builder import Builder, Point, Shape, joined, settled_shape
from bnnlib.deploy.graph import Op
from bnnlib.deploy.places import digits, places_of
from bnnlib.deploy.torch_parts import carried
from bnnlib.deploy.tracer import SHAPE_ALONE, depends
from bnnlib.deploy.tracing import BATCH

AXES = {1: {1: 2}, 2: {1: 2, 2: 1}, 3: {1: 2, 2: 0, 3: 1}}
"""By the number of dimensions without the batch: the axis of the settled slot of each."""


class Tensors(Builder):
    # ---- moving

    def origin(self, node: torch.fx.Node) -> tuple[torch.fx.Node, np.ndarray, float] | None:
        """(the value that the node moves, where each value comes from in it, what stands where nothing does); None if it does more than move.
        Places count PyTorch's order in one image; -1: the constant."""
        if "origin" not in node.meta:
            chain, root = [node], node.args[0] if node.args else None
            while isinstance(root, torch.fx.Node) and root.op != "placeholder" and self.moves(root):
                chain.insert(0, root)
                root = root.args[0] if root.args else None
            found = None
            if isinstance(root, torch.fx.Node) and (carried(root) or "shape" in root.meta and root.meta.get("made")):
                found = places_of(lambda x: self._rerun(chain, x), root.meta["shape"])
            node.meta["origin"] = None if found is None or found[0].size != math.prod(node.meta["shape"][1:]) else (root, *found)
        return node.meta["origin"]

    def moves(self, node: torch.fx.Node) -> bool:
        return node.op in ("call_function", "call_method", "call_module") and not self.kept(node) and tensorkinds.moves(node, self.module(node))

    def kept(self, node: torch.fx.Node) -> bool:
        raise NotImplementedError

    def _rerun(self, chain: list[torch.fx.Node], x: Any) -> Any:
        for n in chain:
            x = self.again(n, x)
        return x

    def again(self, node: torch.fx.Node, x: Any) -> Any:
        """The node's operation on another first argument. Raises ``ValueError`` where it reads another value, too."""

        def given(other: torch.fx.Node) -> Any:
            if depends(other) and node.target not in SHAPE_ALONE:
                raise ValueError("it reads two values")
            return other.meta["value"]

        args, kwargs = torch.fx.node.map_arg((node.args[1:], node.kwargs), given)
        if node.op == "call_module":
            return self.module(node)(x, *args, **kwargs)
        if node.op == "call_method":
            return x if node.target in ("contiguous", "clone", "detach", "float") else getattr(x, node.target)(*args, **kwargs)
        return node.target(x, *args, **kwargs)

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

    def _move(self, node: torch.fx.Node) -> Point:
        root, places, value = self.origin(node)
        (h, w, c), (rh, rw, rc) = self.shape(node), self.shape(root)
        place = places.reshape(c, h, w).transpose(1, 2, 0).ravel()
        inside = place // (rh * rw) + (place // rw % rh * rw + place % rw) * rc  # from (c, h, w) to (h, w, c)
        sizes, tables = digits(np.where(place < 0, -1, inside), (h, w, c))
        constants = {"tables": self.constant(f"{self.label(node)}.tables", tables)}
        op = Op("move", [self.store(root)], {"shape": [h, w, c], "sizes": sizes, "value": value}, constants, name=self.label(node))
        return Point(self.draft(op), None)

    def expanded(self, node: torch.fx.Node, shape: tuple[int, ...]) -> torch.fx.Node:
        return node if node.meta["shape"] == shape else self.moved(node, lambda x: x.expand(x.shape[0], *shape[1:]))

    def _join(self, node: torch.fx.Node) -> Point:
        parts, dim = tensorkinds.join(node)
        rank = len(node.meta["shape"]) - 1
        if rank in AXES and node.target is not torch.stack:
            slots = [self.store(self.settled(p)) for p in parts]
            return Point(self.draft(Op("join", slots, {"axis": AXES[rank][dim]}, name=self.label(node))), None)
        return self.point(node.meta["source"])

    def join_as_rows(self, node: torch.fx.Node) -> None:
        """Any other concatenation: all values one behind the other, then in their places."""
        parts, dim = tensorkinds.join(node)
        flat = [self.moved(p, lambda x: x.flatten(1)) for p in parts]
        total = sum(p.meta["shape"][1] for p in flat)
        rows = self.made("rows_joined", tuple(flat), (BATCH, total))
        sizes = [p.meta["shape"] for p in parts]
        counts = [math.prod(s[1:]) for s in sizes]

        def move(x: Tensor) -> Tensor:
            cut = [part.reshape(x.shape[0], *s[1:]) for part, s in zip(x.split(counts, 1), sizes, strict=True)]
            return node.target(cut, dim)

        found = places_of(move, rows.meta["shape"])
        node.meta.update(origin=(rows, *found), kind="move")

    def _rows_joined(self, node: torch.fx.Node) -> Point:
        return Point(self.draft(Op("join", [self.store(p) for p in node.args], {"axis": 2}, name=self.label(node))), None)

    # ---- two values

    def pair_of(self, node: torch.fx.Node) -> tuple[torch.fx.Node, torch.fx.Node, str]:
        """(the value kept in the cache, the other one, the stage): shapes that a stage can take."""
        if "pair" not in node.meta:
            (one, two), (stage, turned) = node.args, tensorkinds.two_values(node)
            full = node.meta["shape"]
            if one.meta["shape"] != full and two.meta["shape"] == full:
                one, two, stage = two, one, turned
            one = self.expanded(one, full)
            alike = two.meta["shape"] == full and self.shape(one) == self.shape(two)
            if not alike:
                one = self.settled(one)
                same = len(two.meta["shape"]) == len(full) and len(full) - 1 in AXES
                two = self.settled(two if same else self.expanded(two, full))
            node.meta["pair"], node.meta["hwc"] = (one, two, stage), self.shape(one)
        return node.meta["pair"]

    def _pair(self, node: torch.fx.Node) -> Point:
        one, two, stage = self.pair_of(node)
        other = self.store(two)
        p = self.end(one)
        if self.writes_after(other, p.draft):
            p = Point(self.draft(Op("map", [self.store(one)], {"repeat": 1}, name=self.label(one))), None)
        p.draft.op.name = joined(p.draft.op.name, self.label(node))
        return self.add(p, {"op": stage, "slot": other})

    # ---- sums, softmax, norms

    def reduced(self, node: torch.fx.Node) -> tuple[torch.fx.Node, list[int]]:
        """(the value to sum, axes of its slot)."""
        if "reduced" not in node.meta:
            read = node.args[0] if node.meta["dims"] is not None and carried(node.args[0]) else node.args[0].args[0]
            rank, dims = len(read.meta["shape"]) - 1, node.meta["dims"]
            if rank in AXES:
                read = self.settled(read)
                axes = sorted(AXES[rank][d] for d in dims)
            else:
                rest = [d for d in range(1, rank + 1) if d not in dims]
                kept = math.prod(read.meta["shape"][d] for d in rest)
                read = self.moved(read, lambda x: x.permute(0, *rest, *dims).reshape(x.shape[0], kept, -1))
                axes = [1]
            h, w, c = (1 if i in axes else s for i, s in enumerate(self.shape(read)))
            node.meta["reduced"], node.meta["hwc"] = (read, axes), (h, w, c)
        return node.meta["reduced"]

    def _reduce(self, node: torch.fx.Node) -> Point:
        read, axes = self.reduced(node)
        return Point(self.draft(Op("reduce", [self.store(read)], {"function": node.meta["function"], "axes": axes}, name=self.label(node))), None)

    def _softmax(self, node: torch.fx.Node) -> Point:
        logarithm, dim = node.meta["softmax"]
        read, name = self.settled(node.args[0]), self.label(node)
        axes = [AXES[len(read.meta["shape"]) - 1][dim]]
        x = self.store(read)
        top = self.emit("reduce", [x], {"function": "max", "axes": axes}, [], name)
        if not logarithm:
            raised = self.emit("map", [x], {"repeat": 1}, [{"op": "minus", "slot": top}, {"op": "exp"}], name)
            total = self.emit("reduce", [raised], {"function": "sum", "axes": axes}, [], name)
            return self.add(Point(self.draft(Op("map", [raised], {"repeat": 1}, name=name)), None), {"op": "over", "slot": total})
        low = self.emit("map", [x], {"repeat": 1}, [{"op": "minus", "slot": top}], name)
        raised = self.emit("map", [low], {"repeat": 1}, [{"op": "exp"}], name)
        total = self.emit("reduce", [raised], {"function": "sum", "axes": axes}, [{"op": "log"}], name)
        return self.add(Point(self.draft(Op("map", [low], {"repeat": 1}, name=name)), None), {"op": "minus", "slot": total})

    def _normalise(self, node: torch.fx.Node) -> Point:
        a, read, name = node.meta["norm"], self.settled(node.args[0]), self.label(node)
        rank, x = len(read.meta["shape"]) - 1, self.store(read)
        channels = self.shape(read)[2]
        groups = a.get("groups")
        axes = sorted(i for i in AXES[rank].values() if i != 2) if groups else sorted(AXES[rank][d] for d in range(rank - a["dims"] + 1, rank + 1))

        def mean(slot: str, stages: list[dict[str, Any]]) -> str:
            if not groups or groups == channels:
                return self.emit("reduce", [slot], {"function": "mean", "axes": axes}, stages, name)
            each = self.emit("reduce", [slot], {"function": "mean", "axes": axes}, [], name) if axes else slot
            size = channels // groups
            beside = self.rearranged(each, np.arange(channels).reshape(groups, size).T.ravel(), (1, size, groups), name)
            one = self.emit("reduce", [beside], {"function": "mean", "axes": [1]}, stages, name)
            return self.rearranged(one, np.arange(channels) // size, (1, 1, channels), name)

        centred = self.emit("map", [x], {"repeat": 1}, [{"op": "minus", "slot": mean(x, [])}], name)
        squares = self.emit("map", [centred], {"repeat": 1}, [{"op": "square"}], name)
        eps = self.constant(f"{name}.eps", torch.full((groups if groups and groups != channels else self._left(self.shape(read), axes),), a["eps"]))
        spread = mean(squares, [{"op": "bias", "by": eps}, {"op": "sqrt"}])
        p = self.add(Point(self.draft(Op("map", [centred], {"repeat": 1}, name=name)), None), {"op": "over", "slot": spread})
        wide = (-1, *[1] * (rank - 1)) if groups else node.meta["shape"][rank + 1 - a["dims"] :]
        stages = [(op, {"by": a[key].detach().reshape(wide)}) for op, key in (("scale", "weight"), ("bias", "bias")) if a[key] is not None]
        return self.add_values(p, node, stages)

    @staticmethod
    def _left(shape: Shape, axes: list[int]) -> int:
        return 1 if 2 in axes else shape[2]

    def rearranged(self, slot: str, places: np.ndarray, shape: Shape, name: str) -> str:
        """A slot's values in other places of memory."""
        sizes, tables = digits(places.astype(np.int64), shape)
        constants = {"tables": self.constant(f"{name}.tables", tables)}
        return self.emit("move", [slot], {"shape": list(shape), "sizes": sizes, "value": 0.0}, [], name, constants)

    # ---- resizing

    def weights_along(self, node: torch.fx.Node) -> list[tuple[int, np.ndarray]] | None:
        """(axis of the slot, weights [places of the result, places of the input]) of a resizing; None where it is no such sum."""
        read, full = node.args[0], node.meta["shape"]
        rank, before = len(full) - 1, read.meta["shape"]
        if rank not in (2, 3) or len(before) != len(full) or before[1] != full[1]:
            return None
        found, x = [], read.meta["value"]
        try:
            for dim in range(2, rank + 1):
                size = before[dim]
                basis = torch.eye(size).reshape(size, 1, *[size if d == dim else 1 for d in range(2, rank + 1)])
                made = self.again(node, basis.expand(size, 1, *before[2:]).contiguous())
                line = made[(slice(None), 0, *[slice(None) if d == dim else 0 for d in range(2, rank + 1)])]
                found.append((AXES[rank][dim], line.T.contiguous()))
                x = torch.movedim(torch.movedim(x, dim, -1) @ line, -1, dim)
            if x.shape != full or not torch.allclose(x, self.again(node, read.meta["value"]), rtol=1e-4, atol=1e-4):
                return None
        except (RuntimeError, ValueError, IndexError, NotImplementedError):
            return None
        return [(axis, line.numpy()) for axis, line in found]

    def _resample(self, node: torch.fx.Node) -> Point:
        read, name = self.settled(node.args[0]), self.label(node)
        slot, lines = self.store(read), node.meta["lines"]
        lines = [(a, m) for a, m in lines if m.shape[0] != m.shape[1] or not np.array_equal(m, np.eye(len(m)))] or lines[-1:]
        for axis, line in lines[:-1]:
            slot = self.emit("resample", [slot], {"axis": axis}, [], name, self.taps(name, line))
        axis, line = lines[-1]
        return Point(self.draft(Op("resample", [slot], {"axis": axis}, self.taps(name, line), name=name)), None)

    def taps(self, name: str, line: np.ndarray) -> dict[str, str]:
        first = np.array([np.flatnonzero(row)[0] if row.any() else 0 for row in line])
        last = np.array([np.flatnonzero(row)[-1] if row.any() else 0 for row in line])
        count = int((last - first).max()) + 1
        start = np.minimum(first, line.shape[1] - count)
        weight = np.stack([row[s : s + count] for row, s in zip(line, start, strict=True)])
        return {"start": self.constant(f"{name}.start", start.astype(np.int32)), "weight": self.constant(f"{name}.weight", weight.astype(np.float32))}

    # ---- convolutions in other forms: what they read is moved before, what they give behind

    def padded(self, node: torch.fx.Node) -> None:
        """A convolution with borders that are no zeros, or of another width on each side: the border is moved in before."""
        module = self.module(node)
        mode = module.padding_mode if module.padding_mode != "zeros" else "constant"
        border = list(module._reversed_padding_repeated_twice)
        node.meta["source"] = self.moved(self.settled(node.args[0]), lambda x: F.pad(x, border, mode=mode))
        node.meta["padding"] = [0, 0]

    def transposed(self, node: torch.fx.Node) -> None:
        """A transposed convolution: zeros between and around, then the convolution with the kernel turned."""
        module = self.module(node)
        two = isinstance(module, nn.ConvTranspose2d)
        stride, dilation, padding, extra, kernel = (
            known.sized(module, n) for n in ("stride", "dilation", "padding", "output_padding", "kernel_size")
        )

        def spread(x: Tensor) -> Tensor:
            x = x if two else x.unsqueeze(2)
            h, w = ((s - 1) * t + 1 for s, t in zip(x.shape[2:], stride, strict=True))
            wide = x.new_zeros(*x.shape[:2], h, w)
            wide[:, :, :: stride[0], :: stride[1]] = x
            around = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
            return F.pad(wide, (around[1], around[1] + extra[1], around[0], around[0] + extra[0]))

        inner = self.moved(self.settled(node.args[0]), spread)
        weight, groups = module.weight.detach(), module.groups
        weight = weight if two else weight.unsqueeze(2)  # (C, O / groups, kh, kw)
        weight = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flip(2, 3)
        node.meta.update(
            source=inner, turned=weight.permute(0, 2, 3, 1).contiguous(),
            geometry={"kernel": kernel, "stride": [1, 1], "padding": [0, 0], "dilation": dilation, "groups": groups},
        )  # fmt: skip

    def by_rows(self, node: torch.fx.Node, kind: str) -> None:
        """A linear layer on the last of several dimensions: a convolution of one pixel to a row."""
        full = node.meta["shape"]
        first = self.moved(node.args[0], lambda x: x.movedim(-1, 1).flatten(2))
        point = {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
        inner = self.made(kind, (first,), (full[0], full[-1], first.meta["shape"][2]), "call_module", node.target, source=first, geometry=point)
        found = places_of(lambda x: x.movedim(1, -1).reshape(x.shape[0], *full[1:]), inner.meta["shape"])
        node.meta.update(kind="move", origin=(inner, *found))


def _made(*_: Any) -> None:
    """Stands in the graph for operations that no trace has."""


__all__ = ["AXES", "Tensors", "digits", "places_of", "settled_shape"]
