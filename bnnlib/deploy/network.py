"""A packed network as a callable: float32 images in, logits out, as the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnnlib.deploy import program
from bnnlib.deploy.device import DeviceRunner
from bnnlib.deploy.graph import Graph, Op
from bnnlib.deploy.run import empty, given, kernels, refuse_nan, result, shaped, usable, variant
from bnnlib.ops import unpack_activation


class PackedNetwork(nn.Module):
    """Runs a :class:`~bnnlib.deploy.graph.Graph` with the native executor, and what it leaves to PyTorch with PyTorch.

    ``network(x)``: float32 ``(N, C, H, W)``, any strides, to what the model gives, float32 and without a gradient. On the CPU or,
    if ``x`` lies on a GPU, there (:mod:`bnnlib.deploy.device`). An array of NumPy
    serves as well, and gives a tensor; float64 is rounded; one image may come without the batch; a NaN is refused, but not while a CUDA
    graph is captured. Several inputs: ``network(x, y)``.
    As in PyTorch, an image's real values may differ in their last places with the number of images that come with it and with the number of
    threads: sums are rounded elsewhere. Bits behind whole numbers do not.
    Threads follow ``torch.set_num_threads``; the kernel variant is ``kernel``, else ``BNN_KERNEL``'s, else this CPU's best. Calls from several
    threads at once are safe. ``graph``, ``report()`` and ``memory_bytes()`` tell what it is.

    A module without parameters, always in evaluation mode: it may be a part of other modules. ``to(device)`` changes nothing, it runs where its
    input lies. ``torch.save`` of it, or :func:`bnnlib.deploy.save`, keeps it; a ``state_dict`` holds nothing of it.
    """

    def __init__(
        self,
        graph: Graph,
        calls: Mapping[str, Callable[..., Tensor]] | None = None,
        notes: list[dict[str, Any]] | None = None,
        kernel: str | None = None,
    ) -> None:
        super().__init__()
        self.training = False
        graph.validate()
        self.graph, self.calls, self.notes = graph, dict(calls or {}), notes or []
        self.kernel = variant() if kernel is None else usable(kernel)
        self._made_of = graph, calls, notes, kernel
        self._runners: dict[torch.device, DeviceRunner] = {}
        missing = [op.attributes["module"] for op in graph.ops if op.kind == "torch" and op.attributes["module"] not in self.calls]
        if missing:
            raise ValueError(f"the graph leaves {', '.join(missing)} to PyTorch, and no such modules were given")
        self.parts: list[tuple[Graph, program.Program, Any] | Op] = []
        for part in program.split(graph):
            if isinstance(part, Op):
                self.parts.append(part)
            else:
                made = program.assemble(part)
                self.parts.append((part, made, made.executor(kernels(), self.kernel)))
                made.constants.clear()  # the executor holds its own

    def __reduce__(self) -> tuple:
        """Pickled and copied as what it was made of; another machine chooses a kernel of its own."""
        return PackedNetwork, self._made_of

    def train(self, mode: bool = True) -> PackedNetwork:
        """The network itself, which has no training mode: to train, train the model and convert it again."""
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Nothing, as part of another module's. Raises ``RuntimeError`` for the network alone."""
        if not args and not kwargs:
            raise RuntimeError("a packed network has no state_dict: keep it with deploy.save(network, path), and read it with deploy.load(path)")
        return super().state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        """What it takes and gives, and of what it is made."""
        takes = ", ".join(f"[N, {', '.join(map(str, shape))}]" for shape in self.graph.input_shapes())
        binary, outside = sum(op.one_bit for op in self.graph.ops), sum(op.kind == "torch" for op in self.graph.ops)
        parts = f", {outside} in PyTorch" if outside else ""
        size = sum(t.nbytes for t in self.graph.tensors.values())
        return f"takes {takes}, gives {_form(self.graph.result())}; {len(self.graph.ops)} operations, {binary} of 1-bit weights{parts}; {size} bytes"

    def forward(self, *xs: Tensor | np.ndarray) -> Any:
        if torch.jit.is_tracing() or torch.compiler.is_exporting():  # its results would be constants
            raise RuntimeError("a packed network runs in bnnlib's executor and cannot be traced or exported: export the model that it was converted from")
        if _elsewhere(xs):
            held, alone = self._on(xs, self.graph.outputs)
            return result(self.graph, [held[name] for name in self.graph.outputs], alone, lambda y: y)
        arrays, alone = given([_array(x) for x in xs], self.graph)
        held = self._run(arrays, self.parts)
        return result(self.graph, [held[name] for name in self.graph.outputs], alone, torch.from_numpy)

    def bits(self, x: Tensor) -> dict[str, Tensor]:
        """What every binary layer reads, by the layer's name: booleans ``(N, C, H, W)``, true for +1, before any border of
        +-1. For comparisons with the model."""
        padded = {op.writes()[0]: op.inputs[0] for op in self.graph.ops if op.kind == "bit_pad"}
        read = {
            op.name.split()[0]: padded.get(op.inputs[0], op.inputs[0])
            for op in self.graph.ops
            if op.kind == "binary_conv"
        }
        values = self.values(x, list(dict.fromkeys(read.values())))
        return {layer: values[slot] for layer, slot in read.items()}

    def values(self, x: Tensor, names: list[str]) -> dict[str, Tensor]:
        """The values of any slots, ``(N, C, H, W)``, for inspection."""
        unknown = [name for name in names if name not in self.graph.slots]
        if unknown:
            raise ValueError(f"no slot {unknown[0]!r}: there are {', '.join(self.graph.slots)}")
        xs = x if isinstance(x, (tuple, list)) else [x]
        if _elsewhere(xs):
            found, _ = self._on(xs, names)
            kinds = {name: self.graph.slots[name] for name in names}
            return {n: unpack_activation(y, kinds[n].shape[2]) > 0 if kinds[n].kind == "bits" else y for n, y in found.items()}
        arrays, _ = given([_array(one) for one in xs], self.graph)
        same = set(names) == set(self.graph.outputs)
        held = self._run(arrays, self.parts if same else self._instrumented(set(names)))
        return {name: self._tensor(held[name], name) for name in names}

    def _on(self, xs: Sequence[Tensor], names: list[str]) -> tuple[dict[str, Tensor], bool]:
        """(slots' values on the device of the inputs; whether one image alone was given, without a batch)."""
        device = xs[0].device
        for x in xs:
            if not isinstance(x, Tensor) or x.device != device:
                where = f"one on {x.device}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
                raise ValueError(f"the network takes tensors on {device}, as the first input is, got {where}")
        inputs, alone = shaped([x.detach() for x in xs], self.graph)
        inputs = [x.float() for x in inputs]
        for i, x in enumerate(inputs):
            if x.is_cuda and torch.cuda.is_current_stream_capturing():
                continue  # a CUDA graph cannot ask for a value
            bad = x.isnan().flatten(1).any(1)
            if bad.any():
                refuse_nan(int(bad.int().argmax()), i, xs)
        if device not in self._runners:
            self._runners[device] = DeviceRunner(self.graph, device, self.calls)
        return self._runners[device].values(inputs, names), alone

    def _instrumented(self, names: set[str]):
        parts = []
        for part in self.parts:
            if not isinstance(part, Op):
                written = {name for op in part[0].ops for name in op.writes()}
                outputs = list(dict.fromkeys([*part[0].outputs, *sorted(names & written)]))
                wider = Graph(part[0].inputs, outputs, part[0].slots, part[0].ops, part[0].tensors)
                made = program.assemble(wider)
                part = (wider, made, made.executor(kernels(), self.kernel))
            parts.append(part)
        return parts

    def _run(self, arrays: list[np.ndarray], parts) -> dict[str, np.ndarray]:
        held, threads, count = dict(zip(self.graph.inputs, arrays, strict=True)), torch.get_num_threads(), len(arrays[0])
        for part in parts:
            if isinstance(part, Op):
                self._torch(part, held, count)
            else:
                part[2].run(self._arrays(part, held, count), threads)
        return held

    def _torch(self, op: Op, held: dict[str, np.ndarray], count: int) -> None:
        with torch.no_grad():
            y = self.calls[op.attributes["module"]](*(torch.from_numpy(held[name]) for name in op.inputs))
        for name in op.writes():
            h, w, c = self.graph.slots[name].shape
            held[name] = y.detach().float().reshape(count, c, h, w).numpy()  # that reading gives PyTorch's order

    @staticmethod
    def _arrays(part, held: dict[str, np.ndarray], count: int) -> list[np.ndarray]:
        """What a part reads, as it is held, and new arrays for what it writes, which are held then."""
        graph, made, _ = part
        for name in made.outside[len(graph.inputs) :]:
            out = empty(graph, name, count)
            held[name] = out.transpose(0, 3, 1, 2) if out.dtype == np.float32 else out
        return [held[name] for name in made.outside]

    def _tensor(self, array: np.ndarray, name: str) -> Tensor:
        slot = self.graph.slots[name]
        if slot.kind == "bits":
            bits = np.unpackbits(np.ascontiguousarray(array).view(np.uint8), axis=-1, count=slot.shape[2], bitorder="little")
            return torch.from_numpy(bits.astype(bool)).permute(0, 3, 1, 2)
        return torch.from_numpy(array)

    def profile(self, x: Tensor) -> list[tuple[str, str, float]]:
        """(kind, layers, seconds) of every native operation for the images ``x``, on one thread, in order."""
        arrays, _ = given([_array(one) for one in (x if isinstance(x, (tuple, list)) else [x])], self.graph)
        held, rows, count = dict(zip(self.graph.inputs, arrays, strict=True)), [], len(arrays[0])
        for part in self.parts:
            if isinstance(part, Op):
                self._torch(part, held, count)
            else:
                seconds = part[2].profile(self._arrays(part, held, count))
                rows += [(op.kind, op.name, s) for op, s in zip(part[0].ops, seconds, strict=True)]
        return rows

    def memory_bytes(self, batch: int, threads: int | None = None) -> tuple[int, int]:
        """(what the loaded network holds, what a call with ``batch`` images needs beside its input and output), PyTorch's own parts not
        counted."""
        parts = [part for part in self.parts if not isinstance(part, Op)]
        both = [executor.memory_bytes(batch, threads or torch.get_num_threads()) for _, _, executor in parts]
        return sum(held for held, _ in both), max((needed for _, needed in both), default=0)

    def report(self) -> str:
        """What was packed, what stayed real-valued, what was fused, and the bytes of it, as text."""
        rows = []
        for note in sorted(self.notes, key=lambda n: {"1 bit": 0, "PyTorch": 2}.get(n["as"], 1)):
            size = f"{note['values']:>9} weights {note['bytes']:>9} bytes" if "bytes" in note else " " * 33
            rows.append(f"  {note['layer']:<28} {note['as']:<9}{size}  {note.get('how', '')}".rstrip())
        bits = sum(n["bytes"] for n in self.notes if n["as"] == "1 bit")
        real = sum(n["bytes"] for n in self.notes if n["as"] not in ("1 bit", "PyTorch"))
        total = sum(t.nbytes for t in self.graph.tensors.values())
        values = sum(n["values"] for n in self.notes if "values" in n)
        fused = [f"  {op.kind:<12} {' + '.join(s['op'] for s in op.stages):<40} {op.name}" for op in self.graph.ops]
        lines = [
            "layers",
            *rows,
            "operations, with what is fused into them",
            *fused,
            f"bytes: {bits} of binary weights, {real} of real-valued ones, {total - bits - real} of thresholds, scales, shifts; "
            f"{total} in all, {4 * values} as float32 weights",
        ]
        if not any(op.one_bit for op in self.graph.ops):
            lines.insert(0, _NOTHING_BINARY)
        return "\n".join(lines)


_NOTHING_BINARY = (
    "nothing is binary here: the converter packs bnnlib's layers (layers.BinaryConv2d, BinaryConv1d, BinaryLinear) alone. Weights that a net "
    "binarises by itself (an autograd.Function and F.linear) are real-valued to it: put these layers in their place\n"
)


def _form(node: dict[str, Any]) -> str:
    if "tensor" in node:
        return f"[N{''.join(f', {n}' for n in node['shape'])}]"
    kind, inside = next(iter(node.items()))
    parts = [f"{one[0]!r}: {_form(one[1])}" if kind == "dict" else _form(one) for one in inside]
    ends = {"dict": "{}", "list": "[]", "tuple": "()"}[kind]
    return f"{ends[0]}{', '.join(parts)}{ends[1]}"


def _elsewhere(xs: Sequence[Any]) -> bool:
    """Whether the network runs on the device of these inputs, which is a GPU."""
    return bool(xs) and isinstance(xs[0], Tensor) and xs[0].device.type == "cuda"


def _array(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    if x.device.type != "cpu":
        raise ValueError(f"the network takes float32 tensors on the CPU, got one on {x.device}: give x.cpu()")
    x = x.detach()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
