"""What ``bnn bench gpu`` times: peaks, products, layers and networks, each beside PyTorch's, by the clock of the GPU.

Before it is timed a result is compared with PyTorch's. Contenders take turns; a time is the median of the rounds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnlib import deploy, ops
from bnnlib.benchmarks import BenchError
from bnnlib.benchmarks.contenders import label
from bnnlib.deploy import images
from bnnlib.ops import cuda
from bnnlib.ops.cuda import arguments

ROUNDS, LEAST_S, STEPS = 5, 2e-3, 4096
Call = Callable[[], Any]


class Clock:
    """Seconds of calls on a GPU's current stream, by its events."""

    def __init__(self, rounds: int = ROUNDS) -> None:
        self.rounds = rounds

    def once(self, call: Call, times: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / times

    def in_turns(self, calls: dict[str, Call]) -> dict[str, float]:
        """The median of each over the rounds; a round repeats what is short."""
        times = {}
        for name, call in calls.items():
            call()
            times[name] = max(1, min(200, round(LEAST_S / max(self.once(call, 1), 1e-6))))
        found = {name: [] for name in calls}
        for _ in range(self.rounds):
            for name, call in calls.items():
                found[name].append(self.once(call, times[name]))
        return {name: statistics.median(seconds) for name, seconds in found.items()}


class Bench:
    """The measurements on one device. ``backends``: the formulations to measure, by name."""

    def __init__(self, device: torch.device, backends: dict[str, cuda.Cuda], clock: Clock) -> None:
        self.device, self.backends, self.clock = device, backends, clock
        self.random = torch.Generator(device).manual_seed(0)

    def signs(self, *shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=self.random, device=self.device).mul_(2).sub_(1).float()

    def peaks(self, steps: int = STEPS) -> dict[str, float]:
        """Multiply-adds per second of every unit, all multiprocessors busy."""
        one = next(iter(self.backends.values())).device
        blocks, to = 8 * one.multiprocessors, torch.zeros(1, dtype=torch.int32, device=self.device)
        given = arguments.PeakArgs(to.data_ptr(), steps, 1, 0x9E3779B9)
        each = {"popcount": 32 * 8 * 256, "carry-save": 32 * 8 * 256}
        if "tensor" in self.backends:
            each["tensor"] = 16 * 8 * 256 * 8 * 8
        calls = {
            name: lambda name=name: one.launch(f"bnn_peak_{name.replace('-', '_')}", (blocks, 1, 1), (256, 1, 1), given) for name in each
        }
        seconds = self.clock.in_turns(calls)
        return {name: each[name] * steps * blocks / seconds[name] for name in each}

    def bandwidth(self, values: int = 1 << 28) -> float:
        """Bytes per second of a copy, read and written."""
        x, y = (torch.empty(values, dtype=torch.float32, device=self.device) for _ in range(2))
        return 8 * values / self.clock.in_turns({"copy": lambda: y.copy_(x)})["copy"]

    def product(self, m: int, n: int, k: int) -> dict[str, Any]:
        """Seconds of (m, k) by (k, n) in every way that there is."""
        a, b = self.signs(m, k), self.signs(n, k)
        bits, stored = ops.pack_activation(a), ops.pack_weight(b)
        calls: dict[str, Call] = {}
        some = min(m, 256)
        expected = a[:some].double() @ b.double().t()
        geometry = [1, 1, m, k, n, 1, 1, 1, 1, 0, 0, 1, 1, 1]
        for name, backend in self.backends.items():
            ready = torch.empty(backend.blob_bytes(geometry), dtype=torch.uint8, device=self.device)
            backend.prepack(geometry, stored, ready)
            y = torch.empty(1, 1, m, n, dtype=torch.bfloat16, device=self.device)

            convolve = backend.convolution(geometry, y.dtype)

            def ours(convolve=convolve, ready=ready, y=y):
                convolve(bits[None, None], ready, y)
                return y[0, 0]

            calls[name] = ours
            compare(name, ours()[:some], expected)
        calls["tiles (S3)"] = self._tiles(bits, b, m, n, k)
        compare("tiles (S3)", calls["tiles (S3)"]()[:some], expected)
        calls["pack"] = partial(ops.pack_activation, a.bfloat16())
        calls |= self._peers(a, b)
        return {"m": m, "n": n, "k": k, "seconds": self.clock.in_turns(calls)}

    def _tiles(self, bits: Tensor, b: Tensor, m: int, n: int, k: int) -> Call:
        one = next(iter(self.backends.values())).device
        right, c = ops.pack_activation(b).view(torch.int32).t().contiguous(), torch.empty(m, n, device=self.device)
        given = arguments.TilesArgs(bits.data_ptr(), right.data_ptr(), c.data_ptr(), m, n, k, 2 * bits.shape[-1])

        def call(keep=(bits, right, c)):
            one.launch("bnn_product_tiles", (-(-n // 16), -(-m // 16), 1), (16, 16, 1), given)
            return keep[2]

        return call

    def _peers(self, a: Tensor, b: Tensor) -> dict[str, Call]:
        """PyTorch's products, of operands that are of the type already. Those that it refuses here are left out."""
        calls: dict[str, Call] = {}
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            calls[name] = partial(torch.matmul, a.to(dtype), b.to(dtype).t())
        calls["int8"] = partial(torch._int_mm, a.to(torch.int8), b.to(torch.int8).t())
        one = torch.ones((), device=self.device)
        fp8 = torch.float8_e4m3fn
        calls["fp8"] = partial(torch._scaled_mm, a.to(fp8), b.to(fp8).t(), one, one, out_dtype=torch.bfloat16)
        usable = {}
        for name, call in calls.items():
            try:
                call()
            except RuntimeError as error:
                print(f"  no {name} here: {str(error).splitlines()[0][:120]}", file=sys.stderr)
            else:
                usable[name] = call
        return usable

    def layer(self, layer: tuple[int, int, int, int], batch: int) -> dict[str, Any]:
        """Seconds of one convolution: bits to bits, and of its float twins."""
        c, o, k, side = layer
        x, w = self.signs(batch, c, side, side), self.signs(o, c, k, k)
        bits, stored, threshold = ops.pack_activation(x), ops.pack_weight(w), torch.zeros(o, dtype=torch.int32, device=self.device)
        geometry = [batch, side, side, c, o, k, k, 1, 1, k // 2, k // 2, 1, 1, 1]
        expected = F.conv2d(x.double(), w.double(), None, 1, k // 2) >= 0
        calls: dict[str, Call] = {}
        for name, backend in self.backends.items():
            ready = torch.empty(backend.blob_bytes(geometry), dtype=torch.uint8, device=self.device)
            backend.prepack(geometry, stored, ready)
            y = torch.empty(batch, side, side, -(-o // 64), dtype=torch.int64, device=self.device)

            convolve = backend.convolution(geometry, y.dtype)

            def ours(convolve=convolve, ready=ready, y=y):
                convolve(bits, ready, y, threshold=threshold)
                return y

            calls[name] = ours
            compare(name, ops.unpack_activation(ours(), o) > 0, expected)
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            form = {"dtype": dtype, "memory_format": torch.channels_last}
            calls[name] = partial(F.conv2d, x.to(**form), w.to(**form), None, 1, k // 2)
        return {"layer": label(layer), "batch": batch, "seconds": self.clock.in_turns(calls)}

    def network(self, name: str, batch: int) -> dict[str, Any]:
        """Seconds of a packed file and of its model, each captured once, and how many classes agree."""
        path = deploy.path_of(name)
        model, shape = deploy.load(path), images.expected(path, deploy.info(path)).shape
        net = deploy.convert(model, shape)
        model = model.eval().to(self.device)
        x = torch.randn(batch, *shape, generator=self.random, device=self.device)
        halved = torch.autocast(self.device.type, torch.bfloat16)

        def in_bf16(x):
            with halved:
                return model(x)

        with torch.no_grad():
            agree = int((net(x).argmax(1) == model(x).argmax(1)).sum())
            calls = {"packed": _captured(net, x), "fp32": _captured(model, x), "bf16": _captured(in_bf16, x)}
            seconds = self.clock.in_turns(calls)
        return {"net": name, "batch": batch, "agree": agree, "seconds": seconds}


def _captured(call: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    """``call(x)`` as a CUDA graph; as it is where there is no GPU."""
    if x.device.type != "cuda":
        return lambda: call(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(x)
    return graph.replay


def compare(name: str, found: Tensor, expected: Tensor) -> None:
    """Raises :class:`BenchError` unless ``found`` equals PyTorch's result ``expected`` in every element."""
    if not torch.equal(found, expected.to(found.dtype)):
        raise BenchError(f"{name} does not give PyTorch's result: nothing is measured")
