"""torch.fx's tracer, with values that know what they were on the trial images (:mod:`bnnlib.deploy.tracing`)."""

from __future__ import annotations

import inspect
import operator
import sys
import sysconfig
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from bnnlib.deploy import layerkinds as known
from bnnlib.deploy.functional import layer_of
from bnnlib.deploy.network import PackedNetwork
from bnnlib.deploy.preparing import hooked
from bnnlib.deploy.rewriting import module_rewritten, rewritten


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


@dataclass(frozen=True)
class Replay:
    """The nodes of two traces, of batches ``sizes``: a trace of ``batch`` images that must do the same computes nothing, its values are
    theirs, as if so many images were alike."""

    one: list[torch.fx.Node]
    two: list[torch.fx.Node]
    sizes: tuple[int, int]
    batch: int

    def value(self, a: Any, b: Any) -> Any:
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dim() == b.dim():
            shape = [scaled(m, n, self.sizes, self.batch) for m, n in zip(a.shape, b.shape, strict=True)]
            return a.new_zeros([1] * a.dim()).expand(shape)
        if isinstance(a, dict) and isinstance(b, dict):
            return {key: self.value(a[key], b[key]) for key in a}
        if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b):
            parts = [self.value(m, n) for m, n in zip(a, b, strict=True)]
            return type(a)(*parts) if hasattr(a, "_fields") else type(a)(parts)
        return a


def scaled(a: int, b: int, sizes: tuple[int, int], batch: int) -> int:
    """The number that is ``a`` for ``sizes[0]`` images and ``b`` for ``sizes[1]``, for ``batch`` of them."""
    return a // sizes[0] * batch if of_batch(a, b, sizes) else a


def of_batch(a: int, b: int, sizes: tuple[int, int]) -> bool:
    """Whether the number is so many times the number of images."""
    return a != b and a % sizes[0] == 0 and b % sizes[1] == 0 and a // sizes[0] == b // sizes[1]


class Differs(Exception):
    """A trace that should do the same does something else at the node of this number, or raises."""

    def __init__(self, number: int, node: torch.fx.Node | None) -> None:
        super().__init__()
        self.number, self.node = number, node


class Tracer(torch.fx.Tracer):
    def __init__(self, whole: Collection[str], inputs: list[Tensor], replay: Replay | None = None) -> None:
        super().__init__()
        self.whole, self.trials, self.replay = set(whole), list(inputs), replay
        self.places, self.owners = [""], [""]
        self.made: list[torch.fx.Node] = []
        self.failed_in: str | None = None
        self.running = False  # a node on the trial images
        self.layers: dict[str, nn.Module] = {}  # made of calls of functions
        # what was written over, and what stands there now, or why nothing does
        self.buried: dict[torch.fx.Node, torch.fx.Node | str] = {}

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> torch.fx.Graph:
        """The user's code is what runs below this call: :func:`_line` looks no further up."""
        return super().trace(root, concrete_args)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return name in self.whole or isinstance(module, (*known.LEAVES, PackedNetwork)) or hooked(module) or super().is_leaf_module(module, name)

    def call_module(self, module: nn.Module, forward: Any, args: tuple, kwargs: dict) -> Any:
        if self.running:
            return forward(*args, **kwargs)
        name = self.path_of_module(module)
        leaf = self.is_leaf_module(module, name)
        self.places.append(name)
        self.owners.append(self.owners[-1] if leaf else name)
        try:
            result = None
            if leaf and name not in self.whole and not hooked(module):
                result = module_rewritten(module, args, kwargs)
            if result is None:
                result = super().call_module(module, forward, args, kwargs)
        except Exception:
            if self.failed_in is None:
                # a whole module runs on plain tensors: what fails is what was handed to it
                self.failed_in = self.places[-2] if leaf else name
            raise
        self.places.pop()
        self.owners.pop()
        return result

    def getattr(self, attr: str, value: Any, cache: dict[str, Any]) -> Any:
        """Parameters as they are: what is done to them alone is done once, here."""
        return value

    def create_args_for_root(self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """``forward(self, *xs, **options)``: as many of ``xs`` as there are inputs, and no options."""
        code = inspect.unwrap(root_fn).__code__
        if not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        args: list[Any] = [self.root]
        for name in code.co_varnames[1 : code.co_argcount]:
            if self.trials:
                args.append(self.create_proxy("placeholder", name, (), {}))
        if code.co_flags & inspect.CO_VARARGS:
            rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
            args += [self.create_proxy("placeholder", f"{rest}_{i}", (), {}) for i in range(len(self.trials))]
        return root_fn, args

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return _Value(node, self)

    def create_arg(self, value: Any) -> Any:
        made = super().create_arg(value.item() if isinstance(value, np.generic) else value)
        while isinstance(made, torch.fx.Node) and made in self.buried:
            if isinstance(stands := self.buried[made], str):
                raise torch.fx.proxy.TraceError(stands)
            made = stands
        return made

    def create_node(self, kind: str, target: Any, args: tuple, kwargs: dict, name: Any = None, type_expr: Any = None) -> torch.fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        node.meta["place"], node.meta["owner"], node.meta["line"] = self.places[-1], self.owners[-1], _line()
        if kind == "get_attr":
            value: Any = self.root
            for part in target.split("."):
                value = getattr(value, part)
            node.meta["value"] = value
            node.meta["version"] = _version(value) if isinstance(value, Tensor) else 0
        if kind == "call_module":
            node.meta["whole"] = target in self.whole
        self._counted(node)
        if self.replay is not None:
            number = node.meta["number"]
            if number >= len(self.replay.one) or what(node) != what(self.replay.one[number]):
                raise Differs(number, node)
        return node

    def _counted(self, node: torch.fx.Node) -> None:
        node.meta["number"] = len(self.made)
        self.made.append(node)

    def create_proxy(self, kind: str, target: Any, args: tuple, kwargs: dict, name: Any = None, type_expr: Any = None, proxy_factory_fn: Any = None) -> Any:
        if kind == "placeholder" and not self.trials:
            if not args:
                raise torch.fx.proxy.TraceError(f"it takes an input {target!r}, for which no shape was given")
            return args[0]  # its default
        if kind == "call_method" and target in _NUMBERS:
            raise torch.fx.proxy.TraceError("it turns the value of a tensor into a number")
        if kind in ("call_function", "call_method") and (made := rewritten(target, args, kwargs)) is not None:
            return made
        if kind in ("call_function", "call_method") and (layer := layer_of(target, args, kwargs)) is not None:
            return self._as_module(str(getattr(target, "__name__", target)).strip("_"), *layer)
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

    def _as_module(self, name: str, layer: nn.Module, x: torch.fx.Proxy) -> Any:
        """A call of a function, as one of a module that the model has under a free name: as an attribute, since a Sequential runs its modules."""
        known_as, n = name, 1
        while hasattr(self.root, known_as):
            n += 1
            known_as = f"{name}_{n}"
        self.layers[known_as] = vars(self.root)[known_as] = layer
        made = self.create_proxy("call_module", known_as, (x,), {})
        made.node.meta["weights"] = [*layer.parameters(), *layer.buffers()]
        return made

    def _run(self, node: torch.fx.Node) -> Any:
        """The node on the trial images; notes what it wrote into."""
        if self.replay is not None:
            return self._replayed(node)
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

    def _replayed(self, node: torch.fx.Node) -> Any:
        number = node.meta["number"]
        one, two = self.replay.one[number], self.replay.two[number]
        if not _holds_tensors(one.meta.get("value")):
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["value"])
            return getattr(args[0], node.target)(*args[1:], **kwargs) if node.op == "call_method" else node.target(*args, **kwargs)
        value = self.replay.value(one.meta["value"], two.meta["value"])
        for buried, stands in one.meta.get("buries", []):
            other = self.made[buried.meta["number"]]
            if isinstance(stands, torch.fx.Node):
                stands = node if stands.meta["number"] == number else self._reshaped(node, other.meta["value"])
            self.buried[other] = stands
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
                self._bury(node, other, "it writes into a tensor, a part of which is used again")
                continue
            stands = node
            if old.shape != value.shape:
                stands = self._reshaped(node, old)
            self._bury(node, other, stands)

    def _reshaped(self, node: torch.fx.Node, old: Tensor) -> torch.fx.Node:
        new = self.graph.create_node("call_method", "reshape", (node, tuple(old.shape)), {})
        new.meta.update(value=old, **{key: node.meta[key] for key in ("place", "owner", "line")})
        self._counted(new)
        return new

    def _bury(self, node: torch.fx.Node, other: torch.fx.Node, stands: torch.fx.Node | str) -> None:
        self.buried[other] = stands
        node.meta.setdefault("buries", []).append((other, stands))


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


_STANDARD = sysconfig.get_path("stdlib") + "/"


def line_of_user(file: str, number: int) -> str:
    """``net.py:12``; an empty string for a line of PyTorch, of the converter or of Python's own library."""
    standard = file.startswith((_STANDARD, "<frozen ")) and "-packages/" not in file
    return "" if standard or "/torch/" in file or "/bnnlib/deploy/" in file else f"{file.rpartition('/')[2]}:{number}"


def _line() -> str:
    """Where in the user's code the operation stands; an empty string for what stands in none, such as a constant that is the output."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not Tracer.trace.__code__:
        if line := line_of_user(frame.f_code.co_filename, frame.f_lineno):
            return line
        frame = frame.f_back
    return ""


def at(line: str) -> str:
    """The line of an operation, to be put behind its name; nothing where there is none."""
    return f" ({line})" if line else ""


def what(node: torch.fx.Node) -> tuple[str, str]:
    """What a node does, by name: the same in every trace that does the same."""
    made_here = node.op == "get_attr" and node.target.startswith("_tensor_constant")
    return node.op, "a constant" if made_here else str(node.target)
