"""``python -m bnnlib.bench`` (``make bench``; alone: ``make bench-kernels``): the binary kernels against PyTorch on this machine, into
``results/bench/<cpu>-<date>.json``.

Every number is a ratio of times taken in turns within one run: each round calls every contender once (or
often enough to last a few milliseconds), a ratio is the median over rounds of that round's ratio
(:func:`bnnlib.benchmarks.speed.paired`), so that a machine that slows down slows both sides. One process for each number of threads,
pinned to as many CPUs; nothing else should run. Written down: the environment, the peaks of one core
(``kernels/measure/peaks.h``) and its clock, every contender's time in every round, the ratios.

What is measured, for each layer, batch and number of threads:

=================== ========================================================================================
``fp32``            ``F.conv2d``, the faster of NCHW and channels_last weights and inputs
``bf16``, ``int8``  ``F.conv2d`` in bfloat16; PyTorch's quantised convolution, every engine; channels_last
``fp32-compile``    ``torch.compile`` with freezing, channels_last; ``bf16-compile`` likewise
``onnx-fp32``, ...  ONNX Runtime, where it is installed (the extra ``bench``), in a process of its own
``bits``            prepacked weights, packed activations in, packed bits out (threshold epilogue)
``bits-counted``    that, by the best variant that only counts bits, where the default may multiply bytes
                    (on operands that ``bits`` left in the caches, and without the checks of the public call)
``channels_last``   float in, float out, packing included; ``nchw`` likewise
=================== ========================================================================================

Beside the layers: their gradients in training, where the kernels look them up, against PyTorch's in bfloat16 and
float32; matrix products, the ladder of variants on two layers, all threads against one, what taking turns with PyTorch
costs, and how long the first import takes (it compiles).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F

from bnnlib import ops
from bnnlib.benchmarks import onnx_runtime as bench_onnx
from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks import speed
from bnnlib.ops import _backend, _build
from bnnlib.paths import RESULTS
from bnnlib.quantizers import sign

# channels in, channels out, kernel, side: the layers of the sources' networks, as shared by all comparisons
# of the book.
LAYERS = [
    (128, 128, 3, 32),
    (256, 256, 3, 16),
    (512, 512, 3, 8),
    (64, 64, 3, 56),
    (96, 192, 5, 16),
    (192, 160, 1, 32),
]
LADDER_LAYERS = [LAYERS[0], LAYERS[-1]]
# rows, length, outputs: S3's benchmark, and the binary layer of its MLP at its training batch and at one image
GEMMS = [(4096, 4096, 4096), (100, 768, 512), (1, 768, 512)]
Contenders = dict[str, Callable[[], object] | bench_onnx.Remote]
LONG_S = 0.2


def label(layer) -> str:
    c, o, k, side = layer
    return f"{c}->{o} {k}x{k} @{side}"


def macs(layer, batch: int = 1) -> int:
    c, o, k, side = layer
    return c * o * k * k * side * side * batch


# ------------------------------------------------------------------------------------------------ measuring


def alternate(contenders: Contenders, rounds: int, slice_s: float = 0.004) -> dict[str, list[float]]:
    """Seconds a call, a list over rounds for each contender; all take turns within a round. A contender that takes more than
    :data:`LONG_S` and four times the fastest one's time has its turn in the first three rounds only."""
    once = {}
    for name, call in contenders.items():
        first = timed(call, 1)
        once[name] = first if first > 1 else timed(call, 1)  # the first call of a short one may be slow
    behind = {name for name, s in once.items() if s > max(LONG_S, 4 * min(once.values()))}
    calls = {name: max(1, math.ceil(slice_s / s)) for name, s in once.items()}
    seconds = {name: [] for name in contenders}
    for i in range(rounds):
        for name, call in contenders.items():
            if i < 3 or name not in behind:
                seconds[name].append(timed(call, calls[name]) / calls[name])
    return seconds


def timed(call: Callable[[], object] | bench_onnx.Remote, calls: int) -> float:
    """Seconds that ``calls`` calls take; another process times its own."""
    if isinstance(call, bench_onnx.Remote):
        return call.seconds(calls)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - started


def ratio(slow: list[float], fast: list[float]) -> float:
    return round(speed.paired(slow, fast).median, 3)


def faster(a: list[float], b: list[float]) -> list[float]:
    return a if statistics.median(a) <= statistics.median(b) else b


def times(seconds: dict[str, list[float]]) -> dict[str, dict]:
    """For a record: the median and the best, and each round's, from which :func:`bnnlib.benchmarks.speed.ratio` has its ratios."""
    return {
        name: {
            "median_us": round(1e6 * statistics.median(s), 2),
            "best_us": round(1e6 * min(s), 2),
            "rounds_us": [float(f"{1e6 * one:.5g}") for one in s],
        }
        for name, s in seconds.items()
    }


# ----------------------------------------------------------------------------------------------- contenders


def multiplies_bf16() -> bool:
    """Whether this CPU has a unit for bfloat16. Without one PyTorch's convolution in it takes ages."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def compiled(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The module on ``x`` as ``torch.compile`` makes it for inference: weights are constants, packed once."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch._dynamo.reset()
    fast = torch.compile(module.eval())

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return fast(x)

    call()
    return call


def int8_contenders(x: torch.Tensor, w: torch.Tensor, padding: int) -> Contenders:
    """PyTorch's quantised convolution in every engine of this build."""
    found: Contenders = {}
    for engine in ("x86", "fbgemm", "onednn"):
        if engine not in torch.backends.quantized.supported_engines:
            continue
        torch.backends.quantized.engine = engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weight = torch.quantize_per_tensor(w, 0.02, 0, torch.qint8)
            image = torch.quantize_per_tensor(x, 0.05, 64, torch.quint8).contiguous(
                memory_format=torch.channels_last
            )
            packed = torch.ops.quantized.conv2d_prepack(weight, None, [1, 1], [padding, padding], [1, 1], 1)
        found[f"int8-{engine}"] = lambda image=image, packed=packed: torch.ops.quantized.conv2d(
            image, packed, 0.1, 0
        )
    return found


def compiled_contenders(xl: torch.Tensor, wl: torch.Tensor, padding: int) -> Contenders:
    o, c, *kernel = wl.shape
    found: Contenders = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if dtype is torch.float32 or multiplies_bf16():
            module = torch.nn.Conv2d(c, o, kernel, padding=padding, bias=False)
            module.weight.data = wl
            found[f"{name}-compile"] = compiled(module.to(dtype), xl.to(dtype))
    return found


def layer_contenders(layer, batch: int, *, compile: bool = True) -> Contenders:
    """``compile``: PyTorch's compiler too, which needs seconds to start."""
    c, o, k, side = layer
    generator = torch.Generator().manual_seed(0)
    x, w, p = (
        torch.randn(batch, c, side, side, generator=generator),
        torch.randn(o, c, k, k, generator=generator),
        k // 2,
    )
    xl, wl = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
    xb, wb = xl.bfloat16(), wl.bfloat16()
    bits, ready = ops.pack_activation(x), ops.prepack(ops.pack_weight(w), w.shape)
    threshold, shape = torch.zeros(o, dtype=torch.int32), tuple(w.shape)
    return {
        "fp32-nchw": lambda: F.conv2d(x, w, padding=p),
        "fp32-channels_last": lambda: F.conv2d(xl, wl, padding=p),
        **({"bf16": lambda: F.conv2d(xb, wb, padding=p)} if batch == 1 or multiplies_bf16() else {}),
        **(compiled_contenders(xl, wl, p) if compile else {}),
        **int8_contenders(x, w, p),
        "bits": lambda: ops.conv2d_packed(bits, ready, shape, 1, p, threshold=threshold, out="bits"),
        **counted(bits, ops.pack_weight(w), shape, p, threshold),
        "channels_last": lambda: ops.conv2d_packed(xl, ready, shape, 1, p),
        "nchw": lambda: ops.conv2d_packed(x, ready, shape, 1, p),
        "pack-channels_last": lambda: ops.pack_activation(xl),
        "pack-nchw": lambda: ops.pack_activation(x),
    }


COUNTS_BITS = "avx512vpopcnt"  # what the variant that multiplies bytes counts bits with, where that is faster


def counted(bits: torch.Tensor, weight: torch.Tensor, shape: tuple[int, ...], p: int, threshold: torch.Tensor) -> Contenders:
    """``bits`` without the choice between multiplying bytes and counting bits; nothing where there is no such choice."""
    if _backend.backend().variant != "amx":
        return {}
    kernels = _backend.Native(_build.load(), COUNTS_BITS)
    (n, h, w), (o, c, *kernel) = bits.shape[:3], shape
    geometry = [n, h, w, c, o, *kernel, 1, 1, p, p, 1, 1, 1]
    blob = torch.empty(kernels.blob_bytes(geometry), dtype=torch.uint8)
    kernels.prepack(geometry, weight, blob)

    def run() -> torch.Tensor:
        to = torch.empty(n, h + 2 * p - kernel[0] + 1, w + 2 * p - kernel[1] + 1, -(-o // 64), dtype=torch.int64)
        kernels.conv2d(geometry, bits, blob, to, False, None, None, None, threshold, None, 1)
        return to

    return {"bits-counted": run}


def measure_layer(
    layer, batch: int, rounds: int, clock: float | None, peer: bench_onnx.Peer | None = None, compile: bool = True
) -> dict:
    others = peer.contenders(layer, batch) if peer else {}
    seconds = alternate(layer_contenders(layer, batch, compile=compile) | others, rounds)
    result = {"layer": label(layer), "batch": batch, "macs": macs(layer, batch), "times": times(seconds)}
    if clock:
        result["bits_macs_per_cycle"] = round(
            macs(layer, batch) / statistics.median(seconds["bits"]) / clock, 1
        )
        result["bits_macs_per_cycle_best"] = round(macs(layer, batch) / min(seconds["bits"]) / clock, 1)
    return result


PEERS_OF_GRADIENTS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def measure_gradients(layer, batch: int, rounds: int) -> dict:
    """Both gradients of a convolution of signs, channels_last: ours of bfloat16, packing included, and PyTorch's of bfloat16
    and of float32."""
    c, o, k, side = layer
    generator = torch.Generator().manual_seed(0)
    form, p = {"memory_format": torch.channels_last}, k // 2
    x = sign(torch.randn(batch, c, side, side, generator=generator)).bfloat16().contiguous(**form)
    w = sign(torch.randn(o, c, k, k, generator=generator)).contiguous(**form)
    dy = torch.randn(batch, o, side, side, generator=generator).bfloat16().contiguous(**form)
    geometry = ([1, 1], [p, p], [1, 1])
    contenders: Contenders = {}
    for name, needed in (("input", [True, False]), ("weight", [False, True])):
        for dtype in PEERS_OF_GRADIENTS:
            peer = [t.to(PEERS_OF_GRADIENTS[dtype]) for t in (dy, x, w)]
            contenders[f"{name}-{dtype}"] = lambda needed=needed, peer=peer: torch.ops.aten.convolution_backward(
                *peer, None, *geometry, False, [0, 0], 1, [*needed, False]
            )
        contenders[name] = lambda needed=needed: torch.ops.bnn.conv2d_of_signs_backward(dy, x, w, ops.pack_activation(x)[None], *geometry, 1, 0.0, needed)
    seconds = alternate(contenders, rounds)
    return {
        "layer": label(layer), "batch": batch, "macs": macs(layer, batch), "times": times(seconds),
        **{
            f"{dtype}_over": {name: ratio(seconds[f"{name}-{dtype}"], seconds[name]) for name in ("input", "weight")}
            for dtype in PEERS_OF_GRADIENTS
        },
    }  # fmt: skip


def measure_gemm(m: int, k: int, n: int, rounds: int) -> dict:
    """``[m, k]`` by ``[n, k]`` transposed: floats, 8-bit integers, packed bits, and the one-word loop."""
    a, b = torch.randn(m, k), torch.randn(n, k)
    ab, bb = a.bfloat16(), b.bfloat16()
    bits, stored = ops.pack_activation(a), ops.pack_weight(b)
    ready, rows = ops.prepack(stored, b.shape), ops.pack_activation(b)[:, None]
    module, floats = _build.load(), torch.empty(1, 1, m, n)
    geometry = [1, 1, m, k, n, 1, 1, 1, 1, 0, 0, 1, 1, 1]
    seconds = alternate(
        {
            "fp32": lambda: a @ b.t(),
            **({"bf16": lambda: ab @ bb.t()} if multiplies_bf16() else {}),
            **int8_linear(a, b),
            "bits-in": lambda: ops.linear_packed(bits, ready, b.shape),
            "float-in": lambda: ops.linear_packed(a, ready, b.shape),
            "one-word": lambda: module.one_word(
                geometry, bits[None, None].numpy(), rows.numpy(), floats.numpy()
            ),
        },
        rounds,
    )
    if not torch.equal(floats[0, 0], ops.linear_packed(bits, ready, b.shape)):
        raise RuntimeError("the one-word loop and the kernels disagree on a matrix product")
    return {"m": m, "k": k, "n": n, "times": times(seconds)}


def int8_linear(a: torch.Tensor, b: torch.Tensor) -> Contenders:
    """PyTorch's quantised linear layer, if this build has it."""
    if "x86" not in torch.backends.quantized.supported_engines:
        return {}
    torch.backends.quantized.engine = "x86"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, w = (
            torch.quantize_per_tensor(a, 0.05, 64, torch.quint8),
            torch.quantize_per_tensor(b, 0.02, 0, torch.qint8),
        )
        packed = torch.ops.quantized.linear_prepack(w, None)
    return {"int8": lambda: torch.ops.quantized.linear(x, packed, 1.0, 128)}


def measure_ladder(layer, rounds: int) -> dict:
    """From the one-word-at-a-time loop to the best variant, bits in and out (the loop: floats out), against
    FP32.
    """
    c, o, k, side = layer
    x, w, p = torch.randn(1, c, side, side), torch.randn(o, c, k, k), k // 2
    xl, wl = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
    module, bits, stored = _build.load(), ops.pack_activation(x), ops.pack_weight(w)
    geometry = [1, side, side, c, o, k, k, 1, 1, p, p, 1, 1, 1]
    rows = ops.pack_words(w.permute(0, 2, 3, 1).reshape(o, k * k, c) >= 0)
    floats, y = torch.empty(1, side, side, o), torch.empty(1, side, side, (o + 63) // 64, dtype=torch.int64)
    contenders: Contenders = {
        "fp32-nchw": lambda: F.conv2d(x, w, padding=p),
        "fp32-channels_last": lambda: F.conv2d(xl, wl, padding=p),
        "one-word": lambda: module.one_word(geometry, bits.numpy(), rows.numpy(), floats.numpy()),
    }
    names = [name for name, _, supported in module.variants() if supported]
    for name in names:
        native = _backend.Native(module, name)
        blob = torch.empty(native.blob_bytes(geometry), dtype=torch.uint8)
        native.prepack(geometry, stored, blob)
        contenders[name] = lambda native=native, blob=blob: native.conv2d(
            geometry, bits, blob, y, False, *[None] * 5, 1
        )
    seconds = alternate(contenders, rounds)
    if not torch.equal(floats.permute(0, 3, 1, 2), ops.conv2d_packed(bits, stored, w.shape, 1, p)):
        raise RuntimeError("the one-word loop and the kernels disagree")
    fp32 = faster(seconds["fp32-nchw"], seconds["fp32-channels_last"])
    return {
        "layer": label(layer), "times": times(seconds),
        "fp32_over": {n: ratio(fp32, seconds[n]) for n in ("one-word", *names)},
        "one_word_over": {n: ratio(seconds["one-word"], seconds[n]) for n in names},
    }  # fmt: skip


def measure_scaling(layer, batch: int, rounds: int, threads: int) -> dict:
    """How many times faster all threads are than one, both in this process; bits in, bits out."""
    c, o, k, side = layer
    x, w, p = torch.randn(batch, c, side, side), torch.randn(o, c, k, k), k // 2
    module, variant, bits = _build.load(), ops.backend().variant, ops.pack_activation(x)
    ready, y = ops.prepack(ops.pack_weight(w), w.shape), torch.empty(batch, side, side, (o + 63) // 64).long()
    geometry = [batch, side, side, c, o, k, k, 1, 1, p, p, 1, 1, 1]

    def on(many: int):
        arrays = [t.numpy() for t in (bits, ready, y)]
        return lambda: module.conv2d(variant, geometry, *arrays, False, *[None] * 5, 1, many)

    xl, wl = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
    seconds = alternate(
        {"one": on(1), "all": on(threads), "fp32": lambda: F.conv2d(xl, wl, padding=p)}, rounds
    )
    return {
        "layer": label(layer), "batch": batch, "times": times(seconds),
        "one_over_all": ratio(seconds["one"], seconds["all"]),
    }  # fmt: skip


def measure_alternation(layer, rounds: int) -> dict:
    """What it costs that PyTorch's operators and ours take turns: time of pairs over the sum of each alone.
    1.0 is nothing.
    """
    c, o, k, side = layer
    x, w = torch.randn(1, c, side, side), torch.randn(o, c, k, k)
    bits, ready = ops.pack_activation(x), ops.prepack(ops.pack_weight(w), w.shape)
    ours, theirs = (
        (lambda: ops.conv2d_packed(bits, ready, w.shape, 1, k // 2, out="bits")),
        (lambda: F.conv2d(x, w, padding=k // 2)),
    )

    def pair():
        ours()
        theirs()

    seconds = alternate({"ours": ours, "theirs": theirs, "pair": pair}, rounds, slice_s=0.02)
    alone = [a + b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {"layer": label(layer), "times": times(seconds), "pair_over_sum": ratio(seconds["pair"], alone)}


def system_clock() -> float | None:
    """The frequency of the first CPU of this process in Hz, as the system tells it; a virtual machine's tells the nominal one."""
    first = min(os.sched_getaffinity(0))
    with contextlib.suppress(OSError):
        return 1e3 * float(Path(f"/sys/devices/system/cpu/cpu{first}/cpufreq/scaling_cur_freq").read_text())
    with contextlib.suppress(OSError, IndexError):
        told = re.findall(r"^processor\s*: (\d+)$|^cpu MHz\s*: ([\d.]+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        numbers = [number for number, _ in told if number]
        return 1e6 * [float(mhz) for _, mhz in told if mhz][numbers.index(str(first))]
    return None


def measure_peaks(rounds: int) -> dict:
    """Products a second and a cycle of one core in registers; its clock in Hz by a chain of dependent instructions, and what a
    second chain, the time stamp counter and the system say it is."""
    module = _build.load()
    usable = {name: what for name, what, supported in module.limits() if supported}
    best = dict.fromkeys(usable, 0.0)
    system = []
    for _ in range(rounds):
        for name in usable:
            started = time.perf_counter()
            products = module.run_limit(name, 200_000)
            best[name] = max(best[name], products / (time.perf_counter() - started))
            if name == "clock":
                system.append(system_clock())
    clock = best.pop("clock")
    others = {name.removeprefix("clock-"): best.pop(name) for name in usable if name.startswith("clock-")}
    if all(system):
        others["system"] = max(system)
    source = torch.ones(8 << 20)  # 32 MB: beyond the cache that one core has
    target = torch.empty_like(source)
    copied = alternate({"copy": lambda: target.copy_(source)}, rounds)["copy"]
    return {
        "clock_hz": round(clock),
        "other_clocks_hz": {name: round(hz) for name, hz in others.items()},
        "memory_bytes_per_second": round(2 * 4 * source.numel() / min(copied)),
        "units": {
            n: {"what": usable[n], "per_second": round(r), "per_cycle": round(r / clock, 1)}
            for n, r in best.items()
        },
    }


# -------------------------------------------------------------------------------------------- the whole run


def work(cpus: list[int], quick: bool, layer=LAYERS[-1], layers_only: bool = False) -> dict:
    """Everything on as many threads as ``cpus``, in this process; ``quick``: ``layer`` alone, few rounds; ``layers_only``: the
    peaks and the layers."""
    threads = len(cpus)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rounds = 3 if quick else 21
    peaks = measure_peaks(3 if quick else 60)  # neighbours may share the unit for tiles: the best of many
    clock = peaks["clock_hz"] if threads == 1 else None
    result = {
        "threads": threads,
        "torch_threads": torch.get_num_threads(),
        "variant": ops.backend().variant,
        "peaks": peaks,
    }
    cases = [(layer, 1)] if quick else [(one, batch) for batch in (1, 16) for one in LAYERS]

    def fewer(batch: int) -> int:
        return rounds if batch == 1 else max(3, rounds // 2)

    with contextlib.ExitStack() as stack:
        missing = bench_onnx.missing()
        peer = None if missing else stack.enter_context(bench_onnx.Peer(cpus))
        result["onnxruntime"] = None if missing else peer.version()
        result["layers"] = [measure_layer(*case, fewer(case[1]), clock, peer, not quick) for case in cases]
    if layers_only:
        return result
    trained = [case for case in cases if quick or case[1] > 1] if ops.backend().gradients else []
    result["gradients"] = [measure_gradients(*case, fewer(case[1])) for case in trained]
    gemms = [(64, 256, 128)] if quick else GEMMS
    result["gemms"] = [measure_gemm(*sizes, 3 if sizes[0] > 1000 else rounds) for sizes in gemms]
    if threads == 1:
        ladders = [layer] if quick else LADDER_LAYERS
        result["ladders"] = [measure_ladder(one, rounds) for one in ladders]
    else:
        result["scaling"] = [measure_scaling(*case, fewer(case[1]), threads) for case in cases]
    result["alternation"] = measure_alternation(layer if quick else LADDER_LAYERS[0], rounds)
    return result


def measure_import() -> dict[str, float]:
    """Seconds to load the kernels: the first time, when they are compiled, and later."""
    program = (
        "import time\nfrom bnnlib.ops import _build\nstarted = time.perf_counter()\n"
        "_build.load()\nprint(time.perf_counter() - started)"
    )
    with tempfile.TemporaryDirectory() as cache:
        command, settings = [sys.executable, "-c", program], {**os.environ, "BNN_KERNEL_CACHE": cache}
        first, later = (
            float(subprocess.run(command, env=settings, text=True, capture_output=True, check=True).stdout)
            for _ in range(2)
        )
    return {"first_s": round(first, 2), "later_s": round(later, 3)}


def measure(quick: bool = False, layers_only: bool = False) -> dict:
    """The record of this machine: one process for each number of threads, 1 and all."""
    record = {
        "date": date.today().isoformat(),
        "environment": bench_record.environment(),
        "quick": quick,
        "import": None if quick or layers_only else measure_import(),
    }
    threads = sorted({1, len(os.sched_getaffinity(0))})
    options = [*(["--quick"] if quick else []), *(["--layers"] if layers_only else [])]
    return record | {"runs": [bench_record.work("bnnlib.benchmarks.kernels", many, *options) for many in threads]}


def measure_one(layer) -> dict:
    """A small record made in this process: one layer, one thread, few rounds. For a first look."""
    return {
        "date": date.today().isoformat(),
        "environment": bench_record.environment(),
        "quick": True,
        "import": None,
        "runs": [work(sorted(os.sched_getaffinity(0))[:1], quick=True, layer=layer)],
    }


def summary(record: dict) -> str:
    """What the record says, for the terminal: of each layer the best rival first, and its time over ours."""
    lines = []
    for run in record["runs"]:
        peaks = run["peaks"]
        lines.append(
            f"\n{run['threads']} thread(s), variant {run['variant']}, clock "
            + ", ".join(f"{hz / 1e9:.2f} GHz ({name})" for name, hz in speed.clocks(peaks).items())
        )
        lines += [f"  the clock by {n} differs: {f:.2f} of the chain's" for n, f in speed.clocks_that_differ(peaks).items()]
        lines += [f"  {unit['per_cycle']:7.1f} a cycle: {unit['what']}" for unit in peaks["units"].values()]
        lines.append("times over those of bits (best rival, then the best of each kind) and of floats, channels_last:")
        for r in run["layers"]:
            best = speed.best_rival(r)
            found = {one: speed.best_rival(r, one) for one in speed.RIVALS}
            lines.append(
                f"  {r['layer']:18} x{r['batch']:<3}{best:>14} {speed.ratio(r, best, 'bits')!s:22}"
                + "".join(f"{one} {speed.ratio(r, name, 'bits').median:.2f}  " for one, name in found.items() if name)
                + f"floats {speed.ratio(r, best, 'channels_last')!s:22}{r.get('bits_macs_per_cycle', '')} MAC/cycle"
            )
        if "gemms" not in run:
            continue
        for g in run["gradients"]:
            over = g["bf16_over"]
            lines.append(
                f"gradients, {g['layer']} x{g['batch']}: bf16 over ours {over['input']:.2f} (input), {over['weight']:.2f} (weight)"
            )
        for gemm in run["gemms"]:
            lines.append(
                f"GEMM {gemm['m']} x {gemm['k']} x {gemm['n']}: "
                + ", ".join(f"{name} over bits {speed.ratio(gemm, name, 'bits-in')}" for name in gemm["times"] if speed.kind(name))
            )
        for ladder in run.get("ladders", []):
            lines.append(
                f"ladder, {ladder['layer']}: "
                + ", ".join(f"{n} {r:.2f}x" for n, r in ladder["fp32_over"].items())
                + "; over the one-word loop: "
                + ", ".join(f"{n} {r:.1f}x" for n, r in ladder["one_word_over"].items())
            )
        if "scaling" in run:
            lines.append(
                "all threads over one: "
                + ", ".join(f"{s['layer']} x{s['batch']} {s['one_over_all']:.2f}" for s in run["scaling"])
            )
        onnx = run["onnxruntime"]
        lines.append(f"ONNX Runtime {onnx}" if onnx else "ONNX Runtime is not installed: not measured")
        lines.append(f"taking turns with PyTorch costs a factor of {run['alternation']['pair_over_sum']:.3f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bnn bench kernels", description="Measure the binary kernels on this machine."
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one small layer, few rounds: shows that it runs, measures nothing",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the record (default: results/bench of the repository; with --quick or --layers: none)",
    )
    parser.add_argument("--layers", action="store_true", help="peaks and layers alone; written only where --out says")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if isinstance(ops.backend(), _backend.Fallback):
        print("there are no compiled kernels to measure; see python -m bnnlib.ops", file=sys.stderr)
        return 1
    if options.worker:
        cpus = [int(cpu) for cpu in options.worker.split(",")]
        print(json.dumps(work(cpus, options.quick, layers_only=options.layers)))
        return 0
    record = measure(options.quick, options.layers)
    print(summary(record))
    folder = options.out or (
        None if options.quick or options.layers else RESULTS / "bench"
    )
    if folder:
        print(f"\nwritten: {bench_record.write(record, folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
