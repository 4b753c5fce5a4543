"""What the executor lacks, run by PyTorch: one value of a trace, computed from the values that the network carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from bnnlib.deploy.preparing import ConvertError
from bnnlib.deploy.tracer import depends
from bnnlib.deploy.tracing import BATCH, OTHER_BATCH


def carried(node: torch.fx.Node) -> bool:
    """Whether a network can carry the node's value: one float32 tensor with the batch in front, of at least one value an image."""
    return _of_images(node) and depends(node)


def alike(node: torch.fx.Node) -> bool:
    """Whether the node's value is a constant of float32 with a row for each image, all alike: a parameter expanded to the batch."""
    if not _of_images(node) or depends(node):
        return False
    value = node.meta["value"]
    return value.dim() > 1 and torch.equal(value, value[:1].expand(value.shape))


def _of_images(node: torch.fx.Node) -> bool:
    """Whether the node's value is one float32 tensor, not empty, with the batch in front."""
    value = node.meta.get("value")
    if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.dim() < 1 or not value.numel():
        return False
    shape = tuple(value.shape)
    return shape[0] == BATCH and node.meta.get("other_shape") == (OTHER_BATCH, *shape[1:])


@dataclass(frozen=True)
class _Place:
    """Stands for the value of this step; negative: of input -1 - number."""

    number: int


@dataclass(frozen=True)
class _Batch:
    """So many times the number of images."""

    times: int


class TorchPart(nn.Module):
    """One carried value, and all that it needs beyond other carried values (``sources``, in the order of the arguments)."""

    def __init__(self, node: torch.fx.Node, model: nn.Module) -> None:
        super().__init__()
        self.sources: list[torch.fx.Node] = []
        self.modules_, self.steps = nn.ModuleList(), []
        places: dict[torch.fx.Node, _Place] = {}

        def visit(n: torch.fx.Node) -> None:
            if n in places:
                return
            if n is not node and carried(n):
                self.sources.append(n)
                places[n] = _Place(-len(self.sources))
                return
            if not depends(n) and isinstance(n.meta.get("value"), Tensor) and n.meta["other_shape"] == tuple(n.meta["value"].shape):
                self.steps.append(("constant", n.meta["value"].detach().clone(), (), {}))
            elif alike(n):
                self.steps.append(("row", n.meta["value"][:1].detach().clone(), (), {}))
            elif n.op == "placeholder":
                raise ConvertError(f"the input {n.target} is not float32")
            else:
                for before in n.all_input_nodes:
                    visit(before)
                args, kwargs = _encoded((n.args, n.kwargs), n.meta.get("batched", (n.args, n.kwargs)), places, n)
                target: Any = n.target
                if n.op == "call_module":
                    self.modules_.append(model.get_submodule(n.target))
                    target = len(self.modules_) - 1
                elif n.op == "get_attr":
                    raise ConvertError(f"{n.target} ({n.meta.get('line', '')}) is another for another batch: it cannot be converted")
                self.steps.append((n.op, target, args, kwargs))
            places[n] = _Place(len(self.steps) - 1)

        visit(node)
        self.shapes = [tuple(n.meta["value"].shape[1:]) for n in self.sources]
        self.writes = any(n.meta.get("writes") for n in places)

    def forward(self, *tensors: Tensor) -> Tensor:
        """From the slots' values, ``(N, C, H, W)``."""
        given = [t.reshape(t.shape[0], *s) for t, s in zip(tensors, self.shapes, strict=True)]
        if self.writes:
            given = [t.clone() for t in given]
        count, values = len(given[0]), []
        for op, target, args, kwargs in self.steps:
            args, kwargs = _filled((args, kwargs), given, values, count)
            if op == "constant":
                values.append(target)
            elif op == "row":
                values.append(target.expand(count, *target.shape[1:]))
            elif op == "call_module":
                values.append(self.modules_[target](*args, **kwargs))
            elif op == "call_method":
                values.append(getattr(args[0], target)(*args[1:], **kwargs))
            else:
                values.append(target(*args, **kwargs))
        return values[-1]

    def __getstate__(self) -> dict[str, Any]:
        """Without the trace, which cannot be pickled and is needed no more."""
        return {**self.__dict__, "sources": []}


def _encoded(one: Any, two: Any, places: dict[torch.fx.Node, _Place], node: torch.fx.Node) -> Any:
    """Arguments with places for nodes, and the batch's number where both traces differ."""
    if isinstance(one, torch.fx.Node):
        return places[one]
    if isinstance(one, dict):
        return {key: _encoded(value, two[key], places, node) for key, value in one.items()}
    if isinstance(one, slice):
        return slice(*(_encoded(getattr(one, n), getattr(two, n), places, node) for n in ("start", "stop", "step")))
    if isinstance(one, (tuple, list)):
        parts = [_encoded(a, b, places, node) for a, b in zip(one, two, strict=True)]
        return parts if isinstance(one, list) else tuple(parts)
    if type(one) is int and one != two:
        if one % BATCH or two % OTHER_BATCH or one // BATCH != two // OTHER_BATCH:
            raise ConvertError(f"{node.name} ({node.meta.get('line', '')}) hangs on the number of images in a way that cannot be converted")
        return _Batch(one // BATCH)
    return one


def _filled(value: Any, given: list[Tensor], values: list[Any], count: int) -> Any:
    fill: Callable[[Any], Any] = lambda v: _filled(v, given, values, count)  # noqa: E731
    if isinstance(value, _Place):
        return values[value.number] if value.number >= 0 else given[-1 - value.number]
    if isinstance(value, _Batch):
        return value.times * count
    if isinstance(value, (tuple, list)):
        return [fill(v) for v in value] if isinstance(value, list) else tuple(fill(v) for v in value)
    if isinstance(value, dict):
        return {k: fill(v) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(fill(value.start), fill(value.stop), fill(value.step))
    return value
