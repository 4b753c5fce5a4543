"""``python -m bnnlib.bench_deploy`` (part of ``make bench``): whole networks on packed bits against the same topologies in
FP32, bfloat16 and int8 on this machine, into ``results/bench/deploy-<cpu>-<date>.json``.

Times are taken as in :mod:`bnnlib.benchmarks.kernels`: in turns within one run, ratios are medians over rounds; one pinned process
for each number of threads, which keeps the memory that it frees; nothing else should run. For each network, batch and number of threads:

======================== =====================================================================================
``fp32-eager``           the network with every binary layer replaced by a real-valued one (:func:`full_precision_twin`)
``fp32-channels_last``   the same, weights and images channels last
``bf16-channels_last``   likewise in bfloat16, where the CPU has a unit for it
``bf16-compile``         that, ``torch.compile`` with freezing; ``fp32-compile`` where the CPU has no such unit
``int8-eager``           PyTorch's static quantisation (``quantize_fx``, random calibration), channels last
``fake-quantised``       the binary network in PyTorch, +-1 as floats: how it was trained and evaluated
``onnx-fp32``, ...       ONNX Runtime, FP32 and int8 (static, random calibration), in a process of its own
``packed-float32``, ...  :func:`bnnlib.deploy.convert`, real-valued weights in float32, bfloat16, int8
======================== =====================================================================================

Beside the times: where they go, operation by operation. What a network computes, and the memory it takes, do not depend on
how quiet the machine is: :mod:`bnnlib.benchmarks.verify` has them.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Annotated

import torch
import typer

from bnnlib import deploy, layers, recipes
from bnnlib.benchmarks import BenchError, speed, workers
from bnnlib.benchmarks import onnx_runtime as bench_onnx
from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks.contenders import compiled, multiplies_bf16
from bnnlib.benchmarks.nets import full_precision_twin, int8_twin, model_of, nets, shape_of, topology
from bnnlib.benchmarks.peaks import TileUnit
from bnnlib.benchmarks.record import FOLDER
from bnnlib.benchmarks.turns import Contenders, alternate, times
from bnnlib.deploy import onnx_export
from bnnlib.paths import folder_option
from bnnlib.training import memory

BATCHES = (1, 128)
REALS = ("float32", "bfloat16", "int8")


# ------------------------------------------------------------------------------------------------------- time


def contenders(
    name: str, batch: int, *, compile: bool = True, peer: bench_onnx.Peer | None = None, scratch: Path | None = None
) -> Contenders:
    """Who takes turns; see the module's table. ``peer``: with ONNX Runtime, for which files go to ``scratch``."""
    model, _ = model_of(name)
    twin, shape = full_precision_twin(model), shape_of(name)
    last = copy.deepcopy(twin).to(memory_format=torch.channels_last)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    xl = x.contiguous(memory_format=torch.channels_last)
    found: Contenders = {
        "fp32-eager": lambda: twin(x),
        "fp32-channels_last": lambda: last(xl),
        "fake-quantised": lambda: model(x),
    }
    narrow = {"fp32": (last, xl)}
    if multiplies_bf16():
        half, xh = copy.deepcopy(last).bfloat16(), xl.bfloat16()
        found["bf16-channels_last"] = lambda: half(xh)
        narrow = {"bf16": (half, xh)}
    if "x86" in torch.backends.quantized.supported_engines:
        small = int8_twin(twin, shape)
        found["int8-eager"] = lambda: small(xl)
    if compile:  # takes up to a minute, so only in the narrower type
        for kind, (module, images_) in narrow.items():
            found[f"{kind}-compile"] = compiled(module, images_)
    for real in REALS:
        network = deploy.convert(model, shape, real=real)
        found[f"packed-{real}"] = lambda network=network: network(x)
    if peer is not None and scratch is not None:
        path = scratch / f"{name}.onnx"
        if not path.exists():
            onnx_export.write(twin, shape, path)
        found |= peer.network(path, shape, batch)
    return found


def measure_net(name: str, batch: int, rounds: int, **more) -> dict:
    """One case: times of all contenders."""
    tiles = TileUnit()
    with torch.inference_mode():
        seconds = alternate(contenders(name, batch, **more), rounds, between=tiles.look)
    return {"net": name, "batch": batch, "times": times(seconds), **tiles.rounds()}


def measure_profile(name: str, batch: int, rounds: int) -> dict:
    """Where the time goes on one thread, microseconds: each operation of the packed network, each layer of its FP32
    twin (``binary``: 1 bit in the network; what is no layer of its own stands under ``rest``)."""
    model, _ = model_of(name)
    x = torch.randn(batch, *shape_of(name), generator=torch.Generator().manual_seed(0))
    network, twin = deploy.convert(model, shape_of(name)), full_precision_twin(model)
    one_bit = set(layers.binary_layers(model))
    runs = [network.profile(x) for _ in range(rounds + 1)][1:]
    packed = [
        {"kind": kind, "layers": names, "us": round(1e6 * statistics.median(run[i][2] for run in runs), 2)}
        for i, (kind, names, _) in enumerate(runs[0])
    ]
    seconds: dict[str, list[float]] = {}
    started: dict[str, float] = {}
    hooks = []
    for key, module in twin.named_modules():
        if next(module.children(), None) is None:
            hooks += [
                module.register_forward_pre_hook(lambda *_, key=key: started.__setitem__(key, time.perf_counter())),
                module.register_forward_hook(
                    lambda *_, key=key: seconds.setdefault(key, []).append(time.perf_counter() - started[key])
                ),
            ]
    whole = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            twin(x)
            whole.append(time.perf_counter() - begin)
    for hook in hooks:
        hook.remove()
    per_call = {key: len(times) // (rounds + 1) for key, times in seconds.items()}  # a pool may serve twice
    fp32 = [
        {"layer": key, "binary": key in one_bit, "us": round(1e6 * per_call[key] * statistics.median(times[per_call[key] :]), 2)}
        for key, times in seconds.items()
    ]
    rest = 1e6 * statistics.median(whole[1:]) - sum(row["us"] for row in fp32)
    fp32.append({"layer": "rest", "binary": False, "us": round(max(rest, 0.0), 2)})
    return {"net": name, "batch": batch, "packed": packed, "fp32": fp32}


def work(cpus: list[int], names: list[str], quick: bool) -> dict:
    """All that is timed on one number of threads, in this process."""
    memory.keep_freed()
    torch.set_num_threads(len(cpus))
    result: dict = {"threads": len(cpus), "cases": [], "profiles": [], "onnxruntime": ""}
    with contextlib.ExitStack() as stack:
        peer, scratch = None, Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not quick and not bench_onnx.missing():
            peer = stack.enter_context(bench_onnx.Peer(cpus))
            result["onnxruntime"] = peer.version()
        for name in names:
            for batch in BATCHES[:1] if quick else BATCHES:
                rounds = 3 if quick else 15 if batch == 1 else 9
                if sys.stderr.isatty():  # not into a notebook
                    print(f"{name}, batch {batch}, {len(cpus)} thread(s)", file=sys.stderr, flush=True)
                result["cases"].append(
                    measure_net(name, batch, rounds, compile=not quick, peer=peer, scratch=scratch)
                )
                if len(cpus) == 1:
                    result["profiles"].append(measure_profile(name, batch, rounds))
    return result


# ---------------------------------------------------------------------------------------------- the whole run


def measure(names: list[str] | None = None, quick: bool = False) -> dict:
    """The record of this machine. ``quick``: LeNet-5 alone, one thread, batch 1, few rounds."""
    names = names or (["s4-lenet5"] if quick else nets())
    threads = [1] if quick else sorted({1, len(os.sched_getaffinity(0))})
    record: dict = {
        "date": date.today().isoformat(), "environment": bench_record.environment(), "quick": quick,
        "int8": "weights and activations",  # of packed-int8; records without it stored weights alone in 8 bits
        "nets": {name: describe(name) for name in names},
    }  # fmt: skip
    options = [*names, *(["--quick"] if quick else [])]
    record["runs"] = [workers.on_threads("bnnlib.benchmarks.networks", many, *options) for many in threads]
    return record


def describe(name: str) -> dict:
    """What a record says of a network: title, source, topology, data, shape of an image, and whether it is trained."""
    recipe = recipes.load(name)
    return {
        "title": recipe.title, "source": recipe.source, "topology": topology(name), "trained": deploy.path_of(name).is_file(),
        "dataset": recipe.dataset, "shape": list(shape_of(name)),
    }  # fmt: skip


def newest_of_each(folder: Path = FOLDER) -> list[dict]:
    """The newest record of the networks of each CPU, newest first. Raises :class:`BenchError` for a damaged file."""
    return [one for one in bench_record.newest_of_each(list(folder.glob("deploy-*.json"))) if one.get("nets") is not None]


def case(record: dict, net: str, batch: int, threads: int) -> dict | None:
    """The case of a record, or None where it was not measured."""
    for run in record["runs"]:
        for row in run["cases"]:
            if (run["threads"], row["net"], row["batch"]) == (threads, net, batch):
                return row
    return None


def packed(row: dict) -> list[str]:
    """The packed contenders of a case."""
    return [name for name in row["times"] if name.startswith("packed")]


def summary(record: dict) -> str:
    """What the record says, for the terminal: of each case the best rival first, and its time over ours."""
    lines = []
    for run in record["runs"]:
        lines.append(f"\n{run['threads']} thread(s): the best rival's time over ours; milliseconds")
        for row in run["cases"]:
            best = speed.best_rival(row)
            over = ", ".join(f"{speed.ratio(row, best, name)} {name}" for name in packed(row))
            shown = ", ".join(f"{name} {t['median_us'] / 1000:.2f}" for name, t in row["times"].items())
            lines.append(f"  {row['net']}, batch {row['batch']}: {best} over ours {over}\n    {shown}")
        if not run["onnxruntime"]:
            lines.append("  ONNX Runtime: not measured")
    return "\n".join(lines)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    nets: Annotated[list[str] | None, typer.Argument(help="recipes to measure", show_default="those that the book compares")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="LeNet-5, few rounds: shows that it runs, measures nothing")] = False,
    out: Annotated[
        Path | None, folder_option("folder of the record", show_default="results/bench; with --quick or chosen nets: none")
    ] = None,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure packed networks on this machine."""
    try:
        recipes.check_names(nets or [])
        if worker:
            print(json.dumps(work([int(cpu) for cpu in worker.split(",")], nets or [], quick)))
            return
        record = measure(nets, quick)
    except (recipes.RecipeError, BenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(summary(record))
    folder = out or (None if quick or nets else FOLDER)
    if folder:
        print(f"\nwritten: {bench_record.write(record, folder, 'deploy-')}")


if __name__ == "__main__":
    app(prog_name="bnn bench networks")
