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
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from bnnlib.deploy.preparing import ConvertError, same_values
from bnnlib.deploy.tracer import Differs, Replay, Tracer, at, depends, line_of_user, of_batch, scaled, what

BATCH = 3
OTHER_BATCH = 2
"""A second trace at this size shows which numbers are the batch's."""
FURTHER = (1, 257)
"""Batches for which the model's code must do the same; no value is computed for them."""
_NO_FILE = "which then stays in PyTorch as a whole (a network with such a part runs, and cannot be saved as a file)"


class Untraceable(Exception):
    """The code of the module ``place`` cannot be traced, by the words ``why``."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(why)
        self.place, self.why = place, why


@dataclass
class Trace:
    """The traced model; ``result``: the arguments of its output; ``kept``: modules left whole by themselves, and why; ``layers``: what
    stands for calls of functions, by the names of attributes that the model must be given."""

    model: nn.Module
    graph: torch.fx.Graph
    result: Any
    kept: dict[str, str]
    layers: dict[str, nn.Module]


def _once(model: nn.Module, whole: Collection[str], inputs: list[Tensor], replay: Replay | None = None) -> tuple[torch.fx.Graph, dict[str, nn.Module]]:
    """One trace, and the layers that were made of calls of functions in it. Raises :class:`Untraceable`, of a replay :class:`Differs`."""
    with torch.inference_mode(False):  # whose tensors do not count how often they were written
        tracer = Tracer(whole, [x.clone() for x in inputs] if replay is None else inputs, replay)
    try:
        with torch.inference_mode(False):
            return tracer.trace(model), tracer.layers
    except Differs:
        raise
    except Exception as error:  # whatever a module's own code raises when it meets a proxy
        if replay is not None and not isinstance(error, torch.fx.proxy.TraceError):
            raise _Refused from error
        lines = [line for f in traceback.extract_tb(error.__traceback__) if (line := line_of_user(f.filename, f.lineno or 0))]
        words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Untraceable(tracer.failed_in or "", re.sub(r"\s+", " ", words) + at(lines[-1] if lines else "")) from error
    finally:
        for name in tracer.layers:
            del vars(model)[name]


class _Refused(Exception):
    """The model takes no batch of this size."""


def trace(model: nn.Module, keep: Collection[str], inputs: list[Tensor], others: list[Tensor], reasons: dict[str, str]) -> Trace:
    """The trace of ``model`` on the trial images ``inputs`` (a batch of :data:`BATCH`; ``others``: of :data:`OTHER_BATCH`). ``keep`` and ``reasons``
    name modules to leave whole, the second by themselves; it grows. Raises :class:`ConvertError`."""
    while True:
        whole = {*keep, *reasons}
        try:
            graph, layers = _once(model, whole, inputs)
            other, _ = _once(model, whole, others)
            one, two = list(graph.nodes), list(other.nodes)
            _same_steps(one, two, OTHER_BATCH)
            for a, b in zip(one, two, strict=True):
                _compare(a, b)
            for batch in FURTHER:
                _further(model, whole, inputs, one, two, batch)
            plain_calls(graph)
            for node in list(reversed(graph.nodes)):
                if not node.users and node.op not in ("output", "placeholder"):
                    graph.erase_node(node)
            for node in graph.nodes:
                if "differs" in node.meta:
                    raise Untraceable(node.meta["owner"], node.meta["differs"] + at(node.meta["line"]))
            return Trace(model, graph, next(n for n in graph.nodes if n.op == "output").args[0], dict(reasons), layers)
        except Untraceable as failure:
            if not failure.place or failure.place in whole:
                inside = f"the module {failure.place}" if failure.place else "the model's own forward"
                raise ConvertError(
                    f"the model cannot be traced: in {inside}, {failure.why}; put that into a module of its own, {_NO_FILE}"
                ) from failure.__cause__
            reasons[failure.place] = failure.why


def _further(model: nn.Module, whole: Collection[str], inputs: list[Tensor], one: list[torch.fx.Node], two: list[torch.fx.Node], batch: int) -> None:
    """Follows the model's code for a batch of another size. Raises :class:`Untraceable` where it does something else."""
    replay = Replay(one, two, (BATCH, OTHER_BATCH), batch)
    try:
        graph, _ = _once(model, whole, [x[:1].expand(batch, *x.shape[1:]) for x in inputs], replay)
    except Differs as other:
        raise _other_steps(one[other.number] if other.number < len(one) else None, other.node, batch) from None
    except _Refused:
        return
    further = list(graph.nodes)
    _same_steps(one, further, batch)
    for a, c in zip(one, further, strict=True):
        here, there, now = _numbers(a), a.meta.get("batched_numbers"), _numbers(c)
        if len(here) != len(now) or any(not _equal(n, scaled(h, t, replay.sizes, batch) if _whole(h) and _whole(t) else h)
                                        for h, t, n in zip(here, there or here, now, strict=True)):  # fmt: skip
            a.meta.setdefault("differs", f"a number is another for a batch of {batch} images than {BATCH} images let expect: {_list(here)} and {_list(now)}")
        why = _constants_differ(a, c) if a.op == "get_attr" else _weights_differ(a, c)
        if why:
            a.meta.setdefault("differs", why)


def _same_steps(one: list[torch.fx.Node], two: list[torch.fx.Node], batch: int) -> None:
    """Raises :class:`Untraceable` unless both traces do the same with the same values."""
    for i in range(max(len(one), len(two))):
        a, b = (nodes[i] if i < len(nodes) else None for nodes in (one, two))
        if a is None or b is None or what(a) != what(b) or [n.meta["number"] for n in a.all_input_nodes] != [n.meta["number"] for n in b.all_input_nodes]:
            raise _other_steps(a, b, batch)


def _other_steps(a: torch.fx.Node | None, b: torch.fx.Node | None, batch: int) -> Untraceable:
    said = [n.name + at(n.meta["line"]) if n is not None and n.op != "output" else "nothing more" for n in (a, b)]
    places = [n.meta["owner"] for n in (a, b) if n is not None]
    told = f"what it does hangs on the number of images: for {BATCH} it goes on with {said[0]}, for {batch} with {said[1]}"
    return Untraceable(max(places, key=lambda p: p.count(".") + bool(p)), told)


def _compare(a: torch.fx.Node, b: torch.fx.Node) -> None:
    """Notes where two traces that do the same differ: in numbers and constants that are the batch's, or that are others at each call."""
    value = b.meta.get("value")
    a.meta["other_shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
    if a.op in ("placeholder", "output"):
        return
    here, there = _numbers(a), _numbers(b)
    if len(here) != len(there):
        a.meta["differs"] = f"its arguments are others for a batch of {OTHER_BATCH} images than for one of {BATCH}"
    elif any(not _equal(m, n) for m, n in zip(here, there, strict=True)):
        a.meta["batched"], a.meta["batched_numbers"] = (b.args, b.kwargs), there
        wrong = [(m, n) for m, n in zip(here, there, strict=True)
                 if not _equal(m, n) and not (_whole(m) and _whole(n) and of_batch(m, n, (BATCH, OTHER_BATCH)))]  # fmt: skip
        if wrong:
            m, n = wrong[0]
            a.meta["differs"] = (
                f"a number is {m!r:.40} and then {n!r:.40}: it is another at every call, or hangs on the number of images in a way that cannot be converted"
            )
    why = _constants_differ(a, b) if not depends(a) and isinstance(a.meta.get("value"), Tensor) else _weights_differ(a, b)
    if why:
        a.meta.setdefault("differs", why)


def _constants_differ(a: torch.fx.Node, b: torch.fx.Node) -> str | None:
    """Why two values that hang on no input are no constant; a row for each image, all alike, is one."""
    one, two = a.meta["value"], b.meta["value"]
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return None
    if one is two:
        return None if a.meta.get("version") == b.meta.get("version") else f"it changes {a.target} at every call"
    if one.shape == two.shape:
        same = same_values(one, two)
    else:  # a row for each image
        rows = one.dim() > 0 and one.shape[1:] == two.shape[1:] and len(one) == BATCH
        same = rows and same_values(one[:1], two[:1]) and all(same_values(t, t[:1].expand(t.shape)) for t in (one, two))
    if same:
        return None
    which = f"{a.target} is" if a.op == "get_attr" and not a.target.startswith("_tensor_constant") else "a tensor that it makes is"
    return f"{which} another at every call (random numbers, a counter), or hangs on the number of images in a way that cannot be converted"


def _weights_differ(a: torch.fx.Node, b: torch.fx.Node) -> str | None:
    """The same of weights that were handed to a function."""
    one, two = a.meta.get("weights", []), b.meta.get("weights", [])
    if all(m.shape == n.shape and same_values(m, n) for m, n in zip(one, two, strict=True)):
        return None
    return f"what {a.name} multiplies by is another at every call (random numbers, a counter), or hangs on the number of images"


def _equal(a: Any, b: Any) -> bool:
    return a == b or a != a and b != b


def _whole(value: Any) -> bool:
    return type(value) is int


def _numbers(node: torch.fx.Node) -> list[Any]:
    """The plain arguments of a node."""
    return [v for v in _flat((node.args, node.kwargs)) if v is None or isinstance(v, (bool, int, float, complex, str))]


def _list(numbers: list[Any]) -> str:
    return ", ".join(str(n) for n in numbers)[:60]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, slice):
        value = [value.start, value.stop, value.step]
    if isinstance(value, (list, tuple)):
        return [one for part in value for one in _flat(part)]
    return [value]


def plain_calls(graph: torch.fx.Graph) -> None:
    """``torch.flatten(input=x)``, ``module(x=x)``, ``torch.add(x, other=y)``: what all that follows reads by its place stands there."""
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and len(node.args) == 1 and node.kwargs.keys() == {"other"}:  # torch.add(x, other=y)
            node.args, node.kwargs = (*node.args, node.kwargs["other"]), {}
        if node.op in ("call_function", "call_module") and not node.args and node.kwargs:
            first = next((name for name in ("input", "x", "tensors", "self") if name in node.kwargs), next(iter(node.kwargs)))
            node.args, node.kwargs = (node.kwargs[first],), {k: v for k, v in node.kwargs.items() if k != first}
