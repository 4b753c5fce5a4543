"""torch.fx's tracer, with values that know what they were on the trial images (:mod:`bnnlib.deploy.tracing`)."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Collection
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from bnnlib.deploy import layerkinds as known
from bnnlib.deploy.preparing import hooked


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


class Tracer(torch.fx.Tracer):
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
            if other.op == "get_attr" or not depends(other):
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


def depends(node: torch.fx.Node) -> bool:
    """Whether the node's value depends on an input."""
    if "depends" not in node.meta:
        read = node.all_input_nodes
        if node.target in SHAPE_ALONE:
            read = [node.args[0]] if node.target in ("expand_as", "view_as", "reshape_as", "type_as") and isinstance(node.args[0], torch.fx.Node) else []
        node.meta["depends"] = node.op == "placeholder" or any(depends(n) for n in read)
    return node.meta["depends"]


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
        if "/torch/" not in frame.filename and "/bnnlib/deploy/" not in frame.filename:
            return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return ""
