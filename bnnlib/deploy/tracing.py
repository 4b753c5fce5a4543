"""A model as a list of operations on values: traced with torch.fx, while each operation is also run on trial images.

The trial makes sizes known (``x.shape[1]``, ``x.size(0)``, an ``assert`` on them, an ``if`` on them are plain Python), and shows what a
module writes into: an in-place operation becomes one that gives a new value, which all later uses read.

Every node's ``meta["value"]`` is what it gave for a batch of :data:`BATCH` trial images; ``meta["place"]`` is the module it is in.
What cannot be traced stays whole, as one node of its module (:attr:`Trace.kept` says why).
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from bnnlib.deploy.preparing import ConvertError
from bnnlib.deploy.tracer import Tracer

BATCH = 3
OTHER_BATCH = 2
"""A second trace at this size shows which numbers are the batch's."""


class Untraceable(Exception):
    """The code of the module ``place`` cannot be traced, by the words ``why``."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(why)
        self.place, self.why = place, why


@dataclass
class Trace:
    """The traced model; ``inputs``: the names of what it takes; ``kept``: modules left whole by themselves, and why."""

    model: nn.Module
    graph: torch.fx.Graph
    result: Any
    kept: dict[str, str] = field(default_factory=dict)


def _once(model: nn.Module, whole: Collection[str], inputs: list[Tensor]) -> tuple[torch.fx.Graph, nn.Module]:
    """One trace. Raises :class:`Untraceable`."""
    with torch.inference_mode(False):  # whose tensors do not count how often they were written
        tracer = Tracer(whole, [x.clone() for x in inputs])
    try:
        with torch.inference_mode(False):
            return tracer.trace(model), tracer.root
    except Exception as error:  # whatever a module's own code raises when it meets a proxy
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename and "/bnnlib/deploy/" not in f.filename]
        where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
        words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Untraceable(tracer.failed_in or "", re.sub(r"\s+", " ", words) + where) from error


def trace(model: nn.Module, keep: Collection[str], inputs: list[Tensor], others: list[Tensor], reasons: dict[str, str]) -> Trace:
    """The trace of ``model`` on the trial images ``inputs`` (a batch of :data:`BATCH`; ``others``: of :data:`OTHER_BATCH`). ``keep`` and ``reasons``
    name modules to leave whole, the second by themselves; it grows. Raises :class:`ConvertError`."""
    while True:
        whole = {*keep, *reasons}
        try:
            graph, root = _once(model, whole, inputs)
            other, _ = _once(model, whole, others)
        except Untraceable as failure:
            if not failure.place or failure.place in whole:
                inside = f"the module {failure.place}" if failure.place else "the model's own forward"
                raise ConvertError(
                    f"the model cannot be traced: in {inside}, {failure.why}; put that into a module of its own, which then stays in "
                    "PyTorch as a whole"
                ) from failure.__cause__
            reasons[failure.place] = failure.why
            continue
        made = Trace(root, graph, None, dict(reasons))
        _compare(made, other)
        plain_calls(graph)
        made.result = next(n for n in graph.nodes if n.op == "output").args[0]
        for node in list(reversed(graph.nodes)):
            if not node.users and node.op not in ("output", "placeholder"):
                graph.erase_node(node)
        return made


def _compare(made: Trace, other: torch.fx.Graph) -> None:
    """Notes where the two traces differ: in numbers that are multiples of the batch."""
    one, two = list(made.graph.nodes), list(other.nodes)
    if [_what(n) for n in one] != [_what(n) for n in two]:
        raise ConvertError("the model does other operations for a batch of 3 images than for one of 2: it cannot be converted")
    for a, b in zip(one, two, strict=True):
        value = b.meta.get("value")
        a.meta["other_shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
        if a.op in ("placeholder", "output"):
            continue
        here = [v for v in _flat((a.args, a.kwargs)) if not isinstance(v, torch.fx.Node)]
        there = [v for v in _flat((b.args, b.kwargs)) if not isinstance(v, torch.fx.Node)]
        if here != there and len(here) == len(there):
            a.meta["batched"] = (b.args, b.kwargs)


def _what(node: torch.fx.Node) -> tuple[str, str]:
    made_here = node.op == "get_attr" and node.target.startswith("_tensor_constant")
    return node.op, "a constant" if made_here else str(node.target)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, slice):
        value = [value.start, value.stop, value.step]
    if isinstance(value, (list, tuple)):
        return [one for part in value for one in _flat(part)]
    return [value]


def plain_calls(graph: torch.fx.Graph) -> None:
    """``torch.flatten(input=x)``, ``module(x=x)``: the first argument by its place, as all that follows reads it."""
    for node in graph.nodes:
        if node.op in ("call_function", "call_module") and not node.args and node.kwargs:
            first = next((name for name in ("input", "x", "tensors", "self") if name in node.kwargs), next(iter(node.kwargs)))
            node.args, node.kwargs = (node.kwargs[first],), {k: v for k, v in node.kwargs.items() if k != first}
