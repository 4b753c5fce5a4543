"""``python -m bnnlib.bench`` (``make bench``; alone: ``make bench-kernels``): the binary kernels against PyTorch on this machine, into
``results/bench/<cpu>-<date>.json``.

Every number is a ratio of times taken in turns within one run: each round calls every contender once (or
often enough to last a few milliseconds), a ratio is the median over rounds of that round's ratio
(:func:`bnnlib.benchmarks.speed.paired`), so that a machine that slows down slows both sides. One process for each number of threads,
pinned to as many CPUs, which keeps the memory that it frees (:mod:`bnnlib.training.memory`): fresh pages would cost every
contender as much as its output is large. Nothing else should run. Written down: the environment, the peaks of one core
(``kernels/measure/peaks.h``) and its clock, every contender's time in every round, the ratios, and, on a CPU that
multiplies tiles, how fast they multiplied before and after each round (:class:`bnnlib.benchmarks.peaks.TileUnit`).

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

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Annotated

import torch
import typer

from bnnlib import ops
from bnnlib.benchmarks import BenchError, workers
from bnnlib.benchmarks import onnx_runtime as bench_onnx
from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks.cases import (
    measure_alternation,
    measure_gemm,
    measure_gradients,
    measure_ladder,
    measure_layer,
    measure_scaling,
)
from bnnlib.benchmarks.contenders import GEMMS, LADDER_LAYERS, LAYERS
from bnnlib.benchmarks.peaks import measure_peaks
from bnnlib.benchmarks.summary import summary
from bnnlib.ops import _backend
from bnnlib.paths import folder_option
from bnnlib.training import memory


def work(cpus: list[int], quick: bool, layer=LAYERS[-1], layers_only: bool = False) -> dict:
    """Everything on as many threads as ``cpus``, in this process; ``quick``: ``layer`` alone, few rounds; ``layers_only``: the
    peaks and the layers."""
    threads = len(cpus)
    memory.keep_freed()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rounds = 3 if quick else 21
    peaks = measure_peaks(3 if quick else 60)  # neighbours may share the unit for tiles: the best of many
    clock = peaks["clock_hz"] if threads == 1 else None
    result = {
        "threads": threads,
        "torch_threads": torch.get_num_threads(),
        "variant": ops.backend().variant,
        "choice": "measured",  # between multiplying bytes and counting bits: by the times of calls (kernels/conv/choice.h)
        "peaks": peaks,
    }
    cases = [(layer, 1)] if quick else [(one, batch) for batch in (1, 16) for one in LAYERS]

    with contextlib.ExitStack() as stack:
        missing = bench_onnx.missing()
        peer = None if missing else stack.enter_context(bench_onnx.Peer(cpus))
        result["onnxruntime"] = None if missing else peer.version()
        result["layers"] = [measure_layer(*case, rounds, clock, peer, not quick) for case in cases]
    if layers_only:
        return result
    trained = [case for case in cases if quick or case[1] > 1] if ops.backend().gradients else []
    result["gradients"] = [measure_gradients(*case, rounds) for case in trained]
    gemms = [(64, 256, 128)] if quick else GEMMS
    result["gemms"] = [measure_gemm(*sizes, 3 if sizes[0] > 1000 else rounds) for sizes in gemms]
    if threads == 1:
        ladders = [layer] if quick else LADDER_LAYERS
        result["ladders"] = [measure_ladder(one, rounds) for one in ladders]
    else:
        result["scaling"] = [measure_scaling(*case, rounds, threads) for case in cases]
    result["alternation"] = measure_alternation(layer if quick else LADDER_LAYERS[0], rounds)
    return result


def measure_import() -> dict[str, float]:
    """Seconds to load the kernels: the first time, when they are compiled, and later. Raises :class:`BenchError`."""
    program = (
        "import time\nfrom bnnlib import native\nstarted = time.perf_counter()\n"
        "native.load()\nprint(time.perf_counter() - started)"
    )
    with tempfile.TemporaryDirectory() as cache:
        command, settings = [sys.executable, "-c", program], {**os.environ, "BNN_KERNEL_CACHE": cache}
        try:
            first, later = (
                float(subprocess.run(command, env=settings, text=True, capture_output=True, check=True).stdout)
                for _ in range(2)
            )
        except subprocess.CalledProcessError as error:
            raise BenchError(f"the kernels cannot be built and loaded anew: {error.stderr.strip()[-500:]}") from error
    return {"first_s": round(first, 2), "later_s": round(later, 3)}


def measure(quick: bool = False, layers_only: bool = False) -> dict:
    """The record of this machine: one process for each number of threads, 1 and all. Raises :class:`BenchError`."""
    record = {
        "date": date.today().isoformat(),
        "environment": bench_record.environment(),
        "quick": quick,
        "import": None if quick or layers_only else measure_import(),
    }
    threads = sorted({1, len(os.sched_getaffinity(0))})
    options = [*(["--quick"] if quick else []), *(["--layers"] if layers_only else [])]
    return record | {"runs": [workers.on_threads("bnnlib.benchmarks.kernels", many, *options) for many in threads]}


def measure_one(layer) -> dict:
    """A small record made in this process: one layer, one thread, few rounds. For a first look."""
    return {
        "date": date.today().isoformat(),
        "environment": bench_record.environment(),
        "quick": True,
        "import": None,
        "runs": [work(sorted(os.sched_getaffinity(0))[:1], quick=True, layer=layer)],
    }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    quick: Annotated[bool, typer.Option("--quick", help="one small layer, few rounds: shows that it runs, measures nothing")] = False,
    out: Annotated[
        Path | None,
        folder_option("folder of the record", show_default="results/bench of the repository; with --quick or --layers: none"),
    ] = None,
    layers_only: Annotated[bool, typer.Option("--layers", help="peaks and layers alone; written only where --out says")] = False,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure the binary kernels on this machine."""
    if isinstance(ops.backend(), _backend.Fallback):
        print("there are no compiled kernels to measure; see python -m bnnlib.ops", file=sys.stderr)
        raise typer.Exit(1)
    if worker:
        print(json.dumps(work([int(cpu) for cpu in worker.split(",")], quick, layers_only=layers_only)))
        return
    try:
        record = measure(quick, layers_only)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(summary(record))
    folder = out or (None if quick or layers_only else bench_record.FOLDER)
    if folder:
        print(f"\nwritten: {bench_record.write(record, folder)}")


if __name__ == "__main__":
    app(prog_name="bnn bench kernels")
