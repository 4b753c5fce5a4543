"""A model as a list of operations on values: traced with torch.fx, while each operation is also run on trial images.

The trial makes sizes known (``x.shape[1]``, ``x.size(0)``, an ``assert`` on them, an ``if`` on them are plain Python), and shows what a
module writes into: an in-place operation becomes one that gives a new value, which all later uses read.

Every node's ``meta["value"]`` is what it gave for a batch of :data:`BATCH` trial images; ``meta["place"]`` is the module it is in.
What cannot be traced stays whole, as one node of its module (:attr:`Trace.kept` says why).
"""

from __future__ import annotations

import copy
import operator
import re
import traceback
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bnnlib.deploy import layerkinds as known

BATCH = 3
OTHER_BATCH = 2
"""A second trace at this size shows which numbers are the batch's."""
_RECOMPUTES = (WeightNorm, SpectralNorm, prune.BasePruningMethod)


class ConvertError(ValueError):
    """A model that cannot be converted; the message says why and what to do."""


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


# ------------------------------------------------------------------------------------------------ the model itself


def prepared(model: Any) -> nn.Module:
    """A copy of ``model`` in evaluation mode on the CPU in float32, out of its wrappers, its weights as plain tensors."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ConvertError("the model is a TorchScript module: convert the model that it was scripted or traced from")
    if isinstance(model, torch.export.ExportedProgram):
        raise ConvertError("the model is an exported program: convert the model that it was exported from")
    if not isinstance(model, nn.Module):
        raise ConvertError(f"the model is a {type(model).__name__}, expected an nn.Module")
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # what torch.compile gives
            model = model._orig_mod
        else:
            break
    with torch.no_grad():
        made = copy.deepcopy(model, _leaves(model))
        made.eval().float().cpu().requires_grad_(False)
        for module in list(made.modules()):
            if parametrize.is_parametrized(module):
                for name in list(module.parametrizations):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for number, hook in list(hooks.items()):
                    if isinstance(hook, _RECOMPUTES):  # what it computes stays, as a plain tensor
                        hook(module, ())
                        del hooks[number]
    return made.requires_grad_(False)


def _leaves(model: nn.Module) -> dict[int, Tensor]:
    """Copies of the tensors that deepcopy refuses, since a gradient leads to them: a kept activation, a pruned weight."""
    found: dict[int, Tensor] = {}

    def visit(value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            if value.requires_grad and not value.is_leaf:
                found[id(value)] = value.detach().clone()
        elif isinstance(value, dict) and depth < 4:
            for one in value.values():
                visit(one, depth + 1)
        elif isinstance(value, (list, tuple)) and depth < 4:
            for one in value:
                visit(one, depth + 1)

    for module in model.modules():
        visit({k: v for k, v in vars(module).items() if k != "_modules"}, 0)
    return found


def hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its ``forward``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


# ------------------------------------------------------------------------------------------------ tracing


class _Value(torch.fx.Proxy):
    """A traced value that knows what it was on the trial images."""

    @property
    def _trial(self) -> Any:
        return self.node.meta["value"]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        trial = self._trial
        found = getattr(trial, name)
        if isinstance(found, Tensor):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name) if callable(found) else found

    def __len__(self) -> int:
        return len(self._trial)

    def __iter__(self):
        return iter([self[i] for i in range(len(self._trial))])

    def __bool__(self) -> bool:
        raise torch.fx.proxy.TraceError("what it does depends on the values of tensors (an `if`, `while` or `assert` on them)")

    def _of_values(self, *_: Any) -> Any:
        raise torch.fx.proxy.TraceError("it turns the value of a tensor into a number")

    def _in_place(self, function: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    __iadd__, __isub__, __imul__, __itruediv__, __ipow__ = (
        lambda self, other, function=function: self._in_place(function, other)
        for function in (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow)
    )
    __int__ = __float__ = __index__ = _of_values

    def __contains__(self, _: Any) -> bool:
        return self._of_values()


_NUMBERS = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__"}


class _Tracer(torch.fx.Tracer):
    def __init__(self, whole: Collection[str], inputs: list[Tensor]) -> None:
        super().__init__()
        self.whole, self.trials = set(whole), list(inputs)
        self.places = [""]
        self.failed_in: str | None = None
        self.running = False  # a node on the trial images
        # what was written over, and what stands there now, or why nothing does
        self.buried: dict[torch.fx.Node, torch.fx.Node | str] = {}

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return name in self.whole or isinstance(module, known.LEAVES) or hooked(module) or super().is_leaf_module(module, name)

    def call_module(self, module: nn.Module, forward: Any, args: tuple, kwargs: dict) -> Any:
        if self.running:
            return forward(*args, **kwargs)
        name = self.path_of_module(module)
        self.places.append(name)
        try:
            result = super().call_module(module, forward, args, kwargs)
        except Exception:
            if self.failed_in is None:
                # a whole module runs on plain tensors: what fails is what was handed to it
                self.failed_in = self.places[-2] if self.is_leaf_module(module, name) else name
            raise
        self.places.pop()
        return result

    def getattr(self, attr: str, value: Any, cache: dict[str, Any]) -> Any:
        """Parameters as they are: what is done to them alone is done once, here."""
        return value

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return _Value(node, self)

    def create_arg(self, value: Any) -> Any:
        made = super().create_arg(value)
        while isinstance(made, torch.fx.Node) and made in self.buried:
            if isinstance(stands := self.buried[made], str):
                raise torch.fx.proxy.TraceError(stands)
            made = stands
        return made

    def create_node(self, kind: str, target: Any, args: tuple, kwargs: dict, name: Any = None, type_expr: Any = None) -> torch.fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        node.meta["place"], node.meta["line"] = self.places[-1], _line()
        if kind == "get_attr":
            value: Any = self.root
            for part in target.split("."):
                value = getattr(value, part)
            node.meta["value"] = value
        return node

    def create_proxy(self, kind: str, target: Any, args: tuple, kwargs: dict, name: Any = None, type_expr: Any = None, proxy_factory_fn: Any = None) -> Any:
        if kind == "placeholder" and not self.trials:
            if not args:
                raise torch.fx.proxy.TraceError(f"it takes an input {target!r}, for which no shape was given")
            return args[0]  # its default
        if kind == "call_method" and target in _NUMBERS:
            raise torch.fx.proxy.TraceError("it turns the value of a tensor into a number")
        made = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        node = made.node
        if kind == "placeholder":
            value: Any = self.trials.pop(0)
        elif kind in ("output", "get_attr"):
            return made
        else:
            self.running = True
            try:
                value = self._run(node)
            finally:
                self.running = False
        node.meta["value"] = value
        if _holds_tensors(value):
            return made
        if value is None or isinstance(value, (bool, int, float, str, torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format)):
            return value  # a plain number from here on
        if isinstance(value, (tuple, list)) and all(isinstance(v, (bool, int, float)) for v in value):
            return value
        raise torch.fx.proxy.TraceError(f"it makes a {type(value).__name__} of a tensor")

    def _run(self, node: torch.fx.Node) -> Any:
        """The node on the trial images; notes what it wrote into."""
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["value"])
        before = [(n, n.meta["value"], _version(n.meta["value"])) for n in self.graph.nodes if isinstance(n.meta.get("value"), Tensor)]
        if node.op == "call_module":
            value = self.root.get_submodule(node.target)(*args, **kwargs)
        elif node.op == "call_method":
            value = getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            value = node.target(*args, **kwargs)
        written = [(n, v) for n, v, version in before if _version(v) != version and n is not node]
        if written:
            self._overwritten(node, value, [n for n, _ in written])
            node.meta["writes"] = True
        return value

    def _overwritten(self, node: torch.fx.Node, value: Any, written: list[torch.fx.Node]) -> None:
        """Uses from here on of what the node wrote into are uses of the node. Tensors that share memory share a version."""
        for other in written:
            old = other.meta["value"]
            if other.op == "get_attr" or not _depends(other):
                raise torch.fx.proxy.TraceError("it writes into a parameter or a buffer")
            whole = isinstance(value, Tensor) and value.data_ptr() == old.data_ptr() and value.numel() == old.numel()
            dense = whole and value.is_contiguous() == old.is_contiguous() and (value.stride() == old.stride() or value.is_contiguous())
            if not dense:
                if not old.numel():
                    continue
                self.buried[other] = "it writes into a tensor, a part of which is used again"
                continue
            stands = node
            if old.shape != value.shape:
                stands = self.graph.create_node("call_method", "reshape", (node, tuple(old.shape)), {})
                stands.meta.update(value=old, place=node.meta["place"], line=node.meta["line"])
            self.buried[other] = stands


def _depends(node: torch.fx.Node) -> bool:
    """Whether the node's value hangs on an input's."""
    if "depends" not in node.meta:
        read = node.all_input_nodes
        if node.target in SHAPE_ALONE:
            read = [node.args[0]] if node.target in ("expand_as", "view_as", "reshape_as", "type_as") and isinstance(node.args[0], torch.fx.Node) else []
        node.meta["depends"] = node.op == "placeholder" or any(_depends(n) for n in read)
    return node.meta["depends"]


depends = _depends
SHAPE_ALONE = {
    "expand_as", "view_as", "reshape_as", "type_as", "new_zeros", "new_ones", "new_full", torch.zeros_like, torch.ones_like, torch.full_like,
}  # fmt: skip
"""They read the shape of their last tensor, not its values."""


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(_holds_tensors, value)))


def _version(tensor: Tensor) -> int:
    """How often the tensor was written; a tensor of inference mode does not count, and is a model's own parameter here."""
    return 0 if tensor.is_inference() else tensor._version


def _line() -> str:
    """Where in the user's code the operation stands."""
    for frame in reversed(traceback.extract_stack(limit=40)):
        if "/torch/" not in frame.filename and not frame.filename.endswith("deploy/tracing.py") and "/bnnlib/deploy/" not in frame.filename:
            return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return ""


def _once(model: nn.Module, whole: Collection[str], inputs: list[Tensor]) -> tuple[torch.fx.Graph, nn.Module]:
    """One trace. Raises :class:`Untraceable`."""
    with torch.inference_mode(False):  # whose tensors do not count how often they were written
        tracer = _Tracer(whole, [x.clone() for x in inputs])
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
