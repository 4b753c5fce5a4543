"""``bnn bench gpu``: the binary kernels on the NVIDIA GPU of this machine, into ``results/bench/gpu-<name>-<date>.json``. It is
meant to take less than three minutes; the record says how long it took.

======================= ========================================================================================
peaks                   loops without memory: popcount, carry-save, binary tensor cores (``kernels/cuda/peaks.cu``)
products                square, 512 to 16384, bits in, bfloat16 out: S3's formulation, ours, and PyTorch's in bf16, fp16,
                        int8 and fp8, whose operands are of that type already
layers                  the convolutions of the sources' networks, batch 1 and 128: bits to bits, against ``F.conv2d`` in bf16 and fp16,
                        channels last
networks                packed files against their models in float32 and bfloat16, each a CUDA graph
======================= ========================================================================================
"""

from __future__ import annotations

import sys
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bnnlib import deploy
from bnnlib.benchmarks import BenchError, gpu_limits, machine_code
from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks.contenders import LAYERS, label
from bnnlib.benchmarks.gpu_cases import Bench, Clock
from bnnlib.ops import cuda
from bnnlib.ops.cuda.nvrtc import CudaError
from bnnlib.paths import folder_option

SIZES = (512, 1024, 2048, 4096, 8192, 16384)
BATCHES = (1, 128)
NETS = ("s3-mlp", "s4-lenet5", "s1-vgg", "s2-student", "ours-vgg-20ep")


def measure(bench: Bench, sizes=SIZES, layers=LAYERS, batches=BATCHES, nets=NETS, say=print) -> dict[str, Any]:
    """All of it. ``say``: called with a line for each part."""
    say("peaks")
    found: dict[str, Any] = {"peaks": bench.peaks(), "bandwidth": bench.bandwidth(), "products": [], "layers": [], "networks": []}
    for size in sizes:
        found["products"].append(bench.product(size, size, size))
        say(_line(f"{size}^3", found["products"][-1]["seconds"]))
    for layer in layers:
        for batch in batches:
            found["layers"].append(bench.layer(layer, batch))
            say(_line(f"{label(layer)}, batch {batch}", found["layers"][-1]["seconds"]))
    for name in nets:
        for batch in batches:
            if not deploy.path_of(name).exists():
                continue
            found["networks"].append(bench.network(name, batch))
            say(_line(f"{name}, batch {batch}", found["networks"][-1]["seconds"]))
    return found


def _line(what: str, seconds: dict[str, float]) -> str:
    return f"{what}: " + ", ".join(f"{name} {1e6 * s:.1f} us" for name, s in seconds.items())


def gpu_environment(device: torch.device) -> dict[str, Any]:
    """What is known of the GPU and its software."""
    about = torch.cuda.get_device_properties(device)
    return {
        "name": about.name,
        "capability": [about.major, about.minor],
        "multiprocessors": about.multi_processor_count,
        "clock_hz": 1e3 * about.clock_rate if hasattr(about, "clock_rate") else None,
        "memory_bytes": about.total_memory,
        "cuda": torch.version.cuda,
        "formulation": cuda.backend(device).formulation,
    }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[
        Path,
        folder_option("folder of the record", show_default="results/bench"),
    ] = bench_record.FOLDER,
    small: Annotated[bool, typer.Option("--quick", help="small sizes alone; the record says so, and no page shows it")] = False,
) -> None:
    """Time the binary kernels on the NVIDIA GPU of this machine against PyTorch's products in bf16, fp16, int8 and fp8: peaks,
    square products, convolutions and whole packed networks. Each result is first compared with PyTorch's."""
    if not torch.cuda.is_available():
        print("bnn bench gpu needs an NVIDIA GPU that PyTorch sees (torch.cuda.is_available() is false here)", file=sys.stderr)
        raise typer.Exit(1)
    device, began = torch.device("cuda", torch.cuda.current_device()), time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    try:
        driver = cuda.backend(device).device
        bench = Bench(device, {name: cuda.Cuda(driver, name) for name in cuda.FORMULATIONS}, Clock())
        quick = {"sizes": SIZES[:2], "layers": LAYERS[-1:], "batches": (1,), "nets": NETS[:1]} if small else {}
        found = measure(bench, **quick)
    except (CudaError, BenchError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    environment = bench_record.environment()
    gpu = gpu_environment(device)
    known = [g for g in gpu_limits.GPUS if g.name.split()[0] in gpu["name"]]
    record = {
        "date": date.today().isoformat(),
        "environment": environment | {"cpu": gpu["name"]},
        "host_cpu": environment["cpu"],
        "gpu": gpu,
        "documented": known[0].limits() if known else None,
        "machine_code": _machine_code(driver.target),
        "quick": small,
        "seconds": time.monotonic() - began,
        **found,
    }
    path = bench_record.write(record, out, "gpu-")
    print(f"{path}: measured in {record['seconds']:.0f} s")


def _machine_code(target: str) -> dict[str, dict[str, int]] | None:
    """The instructions of the binary ``mma`` for this GPU, or None where nothing can take code apart."""
    if machine_code.disassembler() is None or not target.startswith("sm_"):
        return None
    return {operation: dict(machine_code.binary_product(target, operation)) for operation in ("and", "xor")}


if __name__ == "__main__":
    app(prog_name="bnn bench gpu")
