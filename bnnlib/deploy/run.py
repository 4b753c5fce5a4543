"""Run a packed network without PyTorch in the process: NumPy arrays in, NumPy arrays out.

    from bnnlib.deploy import run
    logits = run.load("net.bnn")(images)        # float32 [N, C, H, W] -> float32 [N, classes]
    logits = run.Runner(graph)(images)

A ``graph`` (:class:`bnnlib.deploy.graph.Graph`) is what :func:`bnnlib.deploy.convert` makes. The kernel variant is the best
that the CPU supports, or ``BNN_KERNEL``'s. Whoever has PyTorch uses :class:`bnnlib.deploy.PackedNetwork`, which also runs what a graph
leaves to it.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnnlib import native
from bnnlib.deploy import container, files, program
from bnnlib.deploy.graph import Graph
from bnnlib.native import kernels


def variant() -> str:
    """The kernel variant of this process: ``BNN_KERNEL``'s, else the best that this CPU supports. Raises
    ``RuntimeError`` for one that cannot run, ``ImportError`` without kernels."""
    return native.choose(os.environ.get("BNN_KERNEL", ""))


def usable(kernel: str) -> str:
    """``kernel``, where it can run here. Raises ``ValueError``."""
    names = [name for name, _, supported in kernels().variants() if supported]
    if kernel not in names:
        raise ValueError(f"kernel is {kernel!r}, which is unknown or cannot run here: choose one of {', '.join(names)}")
    return kernel


def _count(threads: int) -> int:
    """``threads`` as an ``int``. Raises ``ValueError``."""
    try:
        found = operator.index(threads)
    except TypeError:
        found = 0
    if found < 1 or isinstance(threads, bool):
        raise ValueError(f"threads is {threads!r}: it must be a whole number >= 1")
    return found


def load(path: Path, threads: int = 1, kernel: str | None = None) -> Runner:
    """The packed network in ``path``, ready to run. Its large weights are held once: the executor takes them over as they
    were read. Raises :class:`~bnnlib.deploy.files.DeployError`, and ``ValueError`` for threads or a kernel that cannot be."""
    threads = _count(threads)  # before a large file is read
    runner = Runner(files.read_graph(path)[0], threads, kernel, take=True)
    runner._source = Path(path).resolve(), container.digest(path)
    return runner


def _load_again(path: Path, digest: str, threads: int, kernel: str | None) -> Runner:
    """What a pickled runner of a file becomes. Raises ``DeployError`` where the file is another by now."""
    runner = load(path, threads, kernel)
    if runner._source[1] != digest:
        raise container.DeployError(f"{path} has changed since the runner was made that was pickled or copied")
    return runner


class Runner:
    """A packed network of native operations alone, on ``threads`` threads. Safe to call from several Python threads.
    ``take``: the graph's arrays become the runner's, to rearrange where they lie; the graph cannot be used again.

    It can be pickled and copied: with its graph, or, if :func:`load` made it, as the file's path."""

    def __init__(self, graph: Graph, threads: int = 1, kernel: str | None = None, take: bool = False) -> None:
        graph.validate()
        threads = _count(threads)
        left = [op.attributes["module"] for op in graph.ops if op.kind == "torch"]
        if left:
            raise ValueError(f"{', '.join(left)} run in PyTorch: use bnnlib.deploy.PackedNetwork")
        # the executor holds the weights as it likes them: those that were taken may go
        self.graph = Graph(graph.inputs, graph.outputs, graph.slots, graph.ops, {} if take else graph.tensors, graph.takes, graph.gives)
        self.threads, self._kernel, self._taken = threads, kernel, take
        self._source: tuple[Path, str] | None = None
        kernel = variant() if kernel is None else usable(kernel)
        self._executor = program.assemble(graph).executor(kernels(), kernel, take)
        self._new_outputs = [name for name in graph.outputs if name not in graph.inputs]

    def __reduce__(self) -> tuple:
        if self._source is not None:
            return _load_again, (*self._source, self.threads, self._kernel)
        if self._taken:
            raise TypeError("a runner that took over its graph's arrays cannot be pickled or copied: make it without take")
        return Runner, (self.graph, self.threads, self._kernel)

    def arrays(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The output slots, float32 ``[N, H, W, C]`` or int64 ``[N, H, W, words]``, for input slots given as float32
        ``[N, C, H, W]`` with any strides, or int64 ``[N, H, W, words]``. Raises ``ValueError`` for any other."""
        if len(inputs) != len(self.graph.inputs):
            raise ValueError(f"the network takes {len(self.graph.inputs)} inputs, got {len(inputs)}")
        outputs = {name: empty(self.graph, name, len(inputs[0])) for name in self._new_outputs}
        given = dict(zip(self.graph.inputs, inputs, strict=True))
        written = [out.transpose(0, 3, 1, 2) if out.dtype == np.float32 else out for out in outputs.values()]
        self._executor.run([*inputs, *written], self.threads)
        back = {name: x.transpose(0, 2, 3, 1) if x.dtype == np.float32 else x for name, x in given.items()}
        return [outputs[name] if name in outputs else back[name] for name in self.graph.outputs]

    def __call__(self, *x: np.ndarray) -> Any:
        """What the model gives for images ``[N, C, H, W]``, float32; an image without a batch gives a result without one."""
        inputs, alone = given(x, self.graph)
        return result(self.graph, [y.transpose(0, 3, 1, 2) for y in self.arrays(inputs)], alone, np.asarray)

    def memory_bytes(self, batch: int) -> tuple[int, int]:
        """(what the loaded network holds, what a call with this batch needs beside its input and output)."""
        return self._executor.memory_bytes(batch, self.threads)


def empty(graph: Graph, name: str, count: int) -> np.ndarray:
    """An array for slot ``name`` of ``count`` images."""
    h, w, c = graph.slots[name].shape
    if graph.slots[name].kind == "bits":
        return np.empty((count, h, w, -(-c // 64)), np.int64)
    return np.empty((count, h, w, c), np.float32)


_SCALE = (
    "scale them as the network was trained to see them, for pixels x / 255 less the mean by the standard deviation: "
    "bnnlib.deploy.images.expected(path, deploy.info(path)).transform() does it, and `bnn deploy run`"
)


def given(xs: Sequence[np.ndarray], graph: Graph) -> tuple[list[np.ndarray], bool]:
    """(the inputs as the network's, float32 ``[N, C, H, W]``; whether one image alone was given, without a batch). float64 and float16 are
    rounded to float32. Raises ``ValueError`` for any other type and shape, and for a NaN, whose bits would mean nothing."""
    for i, x in enumerate(xs):
        if not isinstance(x, np.ndarray):
            raise ValueError(f"{_which(i, xs)}the network takes float32 arrays or tensors, got {type(x).__name__}")
    found, alone = shaped(xs, graph)
    found = [x.astype(np.float32, copy=False) for x in found]
    for i, x in enumerate(found):
        if kernels().has_nan(x):
            refuse_nan(int(np.isnan(x).reshape(len(x), -1).any(1).argmax()), i, xs)
    return found, alone


def shaped(xs: Sequence[Any], graph: Graph) -> tuple[list[Any], bool]:
    """What :func:`given` says but for rounding and NaNs, of arrays or of tensors: ``[N, C, H, W]``, of the type that they have."""
    shapes = graph.input_shapes()
    if len(xs) != len(shapes):
        raise ValueError(f"the network takes {len(shapes)} inputs, got {len(xs)}")
    found, alone = [], []
    for i, (x, shape) in enumerate(zip(xs, shapes, strict=True)):
        # in either order of bytes; words cost as much as a small layer
        dtype = "" if x.dtype == np.float32 else getattr(x.dtype, "name", str(x.dtype).removeprefix("torch."))
        if dtype not in ("", "float32", "float64", "float16", "bfloat16"):
            how = f": {_SCALE}" if dtype.startswith(("int", "uint")) else ""
            raise ValueError(f"{_which(i, xs)}the network takes float32 images, got {dtype}{how}")
        h, w, c = graph.slots[graph.inputs[i]].shape
        slot_shape = (c, h, w)
        if tuple(x.shape) == shape and tuple(x.shape[1:]) != shape:
            x = x[None]
            alone.append(i)
        if x.ndim < 2 or tuple(x.shape[1:]) not in (shape, slot_shape):
            other = x.ndim == len(shape) + 1 and x.shape[1] == shape[0] and len(shape) > 1
            way = ": it is for images of one size; convert the model for these" if other else ""
            raise ValueError(f"{_which(i, xs)}the network takes images [N, {', '.join(map(str, shape))}], got {list(x.shape)}{way}")
        found.append(x if x.ndim == 4 else x.reshape(len(x), *slot_shape))
    if alone and len(alone) != len(xs) or len({len(x) for x in found}) != 1:
        raise ValueError(f"the inputs are of different batches: {', '.join(str(list(x.shape)) for x in xs)}")
    return found, bool(alone)


def refuse_nan(image: int, i: int, xs: Sequence[Any]) -> None:
    """Raises the ``ValueError`` for a NaN in an image of input ``i``."""
    raise ValueError(f"{_which(i, xs)}image {image} holds a NaN, of which no sign can be taken")


def _which(i: int, xs: Sequence[Any]) -> str:
    """What an error about input ``i`` begins with."""
    return "" if len(xs) == 1 else f"input {i}: "


def result(graph: Graph, outputs: Sequence[np.ndarray], alone: bool, make: Callable[[np.ndarray], Any]) -> Any:
    """What the model gives: ``outputs`` (``[N, C, H, W]``) in the form and the shapes that the graph says, each through ``make``."""

    def built(node: dict[str, Any]) -> Any:
        if "tensor" in node:
            y = outputs[node["tensor"]]
            y = y.reshape(len(y), *node["shape"])
            return make(y[0] if alone else y)
        kind, inside = next(iter(node.items()))
        if kind == "dict":
            return {key: built(one) for key, one in inside}
        return (list if kind == "list" else tuple)(built(one) for one in inside)

    return built(graph.result())
