"""``python -m bnnlib.bench_deploy`` (part of ``make bench``): whole networks on packed bits against the same topologies in
FP32 on this machine, into ``results/bench/deploy-<cpu>-<date>.json``.

Times are taken as in :mod:`bnnlib.bench`: in turns within one run, ratios are medians over rounds; one pinned process
for each number of threads; nothing else should run. For each network, batch and number of threads:

======================== =====================================================================================
``fp32-eager``           the network with every binary layer replaced by a real-valued one (:func:`real_twin`)
``fp32-channels_last``   the same, weights and images channels last
``fp32-compile``         the same, ``torch.compile`` with freezing
``fake-quantised``       the binary network in PyTorch, +-1 as floats: how it was trained and evaluated
``onnx-fp32``, ...       ONNX Runtime, FP32 and int8 (static, random calibration), in a process of its own
``packed-float32``, ...  :func:`bnnlib.deploy.convert`, real-valued layers behind the first in float32, bfloat16, int8
======================== =====================================================================================

Beside the times: where they go, operation by operation; peak memory in fresh processes; for trained networks whose
test images are here, how many bits differ from PyTorch's, layer by layer, and what that does to the accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnlib import bench, bench_onnx, data, deploy, layers, models, recipes
from bnnlib.deploy import images, onnx_export
from bnnlib.records import ROOT, write_atomically

FOLDER = ROOT / "results" / "bench"
# the topologies that the book compares, by a recipe that builds them; and whatever else comes with the book
NETS = ("s2-student", "s4-lenet5", "s4-nin", "tiny-s5-resnet18-xnorpp", "s1-vgg", "s3-mlp")
BATCHES = (1, 128)
REALS = ("float32", "bfloat16", "int8")
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "tiny-imagenet": (3, 64, 64), "imagenet": (3, 224, 224)}
MEMORY = ("fp32-eager", "packed", "packed-alone", "packed-alone-int8")


class BenchError(Exception):
    """A record that cannot be used, or a measurement that failed; the message says what to do."""


# --------------------------------------------------------------------------------------------------- networks


def shape_of(name: str) -> tuple[int, int, int]:
    """(C, H, W) of the images of the recipe ``name``."""
    dataset = recipes.load(name).dataset
    return SHAPES[dataset] if dataset in SHAPES else images.describe(data.load(dataset))["shape"]


def model_of(name: str) -> tuple[nn.Module, bool]:
    """The packed file's model of the recipe ``name`` and True, or an untrained one and False."""
    path = deploy.FOLDER / f"{name}.safetensors"
    if path.is_file():
        return deploy.load(path), True
    recipe = recipes.load(name)
    torch.manual_seed(0)
    return models.build(recipe.model.name, **recipe.model.options).eval(), False


def real_twin(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with every binary layer replaced by the real-valued one of its shape, and every learned sign
    left out: the same topology in FP32. The weights mean nothing."""
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, layers.BinaryConv2d):
                sizes = child.kernel_size, child.stride, child.padding, child.dilation, child.groups
                real = nn.Conv2d(child.in_channels, child.out_channels, *sizes, bias=child.bias is not None)
            elif isinstance(child, layers.BinaryLinear):
                real = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)
            elif isinstance(child, layers.RSign):
                real = nn.Identity()
            else:
                continue
            setattr(module, name, real)
    return twin.eval()


def shipped() -> list[str]:
    """The recipes of the packed files that come with the book and have binary layers."""
    paths = sorted(deploy.FOLDER.glob("*.safetensors"))
    return [path.stem for path in paths if deploy.info(path)["packed"] and path.stem in recipes.names()]


def nets() -> list[str]:
    """:data:`NETS`, and those that are shipped and of another topology."""
    found = list(NETS)
    for name in shipped():
        if topology(name) not in map(topology, found):
            found.append(name)
    return found


def topology(name: str) -> str:
    """What decides the speed of the recipe's network; recipes that agree in it are as fast as one another."""
    recipe = recipes.load(name)
    return json.dumps([recipe.model.name, recipe.model.options, recipe.dataset], sort_keys=True)


# ------------------------------------------------------------------------------------------------------- time


def contenders(
    name: str, batch: int, *, compiled: bool = True, peer: bench_onnx.Peer | None = None, scratch: Path | None = None
) -> bench.Contenders:
    """Who takes turns; see the module's table. ``peer``: with ONNX Runtime, for which files go to ``scratch``."""
    model, _ = model_of(name)
    twin, shape = real_twin(model), shape_of(name)
    last = real_twin(model).to(memory_format=torch.channels_last)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    xl = x.contiguous(memory_format=torch.channels_last)
    found: bench.Contenders = {
        "fp32-eager": lambda: twin(x),
        "fp32-channels_last": lambda: last(xl),
        "fake-quantised": lambda: model(x),
    }
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True
        torch._dynamo.reset()
        fast = torch.compile(real_twin(model))
        found["fp32-compile"] = lambda: fast(x)
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
    """One case: times of all contenders, and over each packed one the others' ratios."""
    with torch.inference_mode():
        seconds = bench.alternate(contenders(name, batch, **more), rounds)
    others = [n for n in seconds if not n.startswith("packed")]
    over = {
        packed: {other: bench.ratio(seconds[other], seconds[packed]) for other in others}
        for packed in seconds
        if packed.startswith("packed")
    }
    return {"net": name, "batch": batch, "times": bench.times(seconds), "over": over}


def measure_profile(name: str, batch: int, rounds: int) -> dict:
    """Where the time goes on one thread, microseconds: each operation of the packed network, each layer of its FP32
    twin (``binary``: 1 bit in the network; what is no layer of its own stands under ``rest``)."""
    model, _ = model_of(name)
    x = torch.randn(batch, *shape_of(name), generator=torch.Generator().manual_seed(0))
    network, twin = deploy.convert(model, shape_of(name)), real_twin(model)
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
    torch.set_num_threads(len(cpus))
    result: dict = {"threads": len(cpus), "cases": [], "profiles": [], "onnxruntime": ""}
    with contextlib.ExitStack() as stack:
        peer, scratch = None, Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not quick and not bench_onnx.missing():
            peer = stack.enter_context(bench_onnx.Peer(cpus))
            result["onnxruntime"] = peer.version()
        for name in names:
            for batch in BATCHES[:1] if quick else BATCHES:
                rounds = 3 if quick else 15 if batch == 1 else 5
                print(f"{name}, batch {batch}, {len(cpus)} thread(s)", file=sys.stderr, flush=True)
                result["cases"].append(
                    measure_net(name, batch, rounds, compiled=not quick, peer=peer, scratch=scratch)
                )
                if len(cpus) == 1:
                    result["profiles"].append(measure_profile(name, batch, rounds))
    return result


# ----------------------------------------------------------------------------------------------------- memory


def write_forms(name: str, folder: Path) -> None:
    """The files that :mod:`bnnlib.bench_memory` loads: the FP32 twin's weights and the packed network of the recipe
    ``name``, its real-valued weights as float32 and as int8."""
    import safetensors.torch

    model, _ = model_of(name)
    state = {key: value.contiguous() for key, value in real_twin(model).state_dict().items()}
    safetensors.torch.save_file(state, folder / f"{name}.fp32")
    deploy.save(deploy.convert(model, shape_of(name)), folder / f"{name}.packed")
    deploy.save(deploy.convert(model, shape_of(name), real="int8"), folder / f"{name}.packed-int8")


def measure_memory(names: Iterable[str], batches: Iterable[int] = BATCHES) -> list[dict]:
    """Peak memory of loading a network from its file and running it once, each in a fresh process on one thread: bytes
    above what the process held when its libraries were imported, and of the whole process. Linux alone."""
    found: list[dict] = []
    if not Path("/proc/self/clear_refs").exists():
        return found
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            write_forms(name, Path(scratch))
            for batch in batches:
                for kind in MEMORY:
                    shape = ",".join(map(str, (batch, *shape_of(name))))
                    command = [sys.executable, "-m", "bnnlib.bench_memory", kind, name, shape, scratch]
                    done = subprocess.run(
                        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, cwd=ROOT
                    )
                    if done.returncode:
                        raise BenchError(f"{' '.join(command[1:])} failed: {done.stderr.strip()[-500:]}")
                    found.append({"net": name, "batch": batch, "kind": kind, **json.loads(done.stdout)})
    return found


# -------------------------------------------------------------------------------------------------- agreement


@torch.inference_mode()
def measure_agreement(name: str, limit: int | None = None) -> dict | None:
    """The packed network of a shipped file against PyTorch's evaluation mode on the test set (its first ``limit``
    images): bits that differ at the input of every binary layer, predictions, accuracies; these also with real-valued
    layers of fewer bits, ``1-bit``: all behind the first, ``first 1-bit``: that one alone. None where the file or the
    images are not here."""
    path = deploy.FOLDER / f"{name}.safetensors"
    if not path.is_file():
        return None
    about = deploy.info(path)
    try:
        dataset = data.load(about["dataset"], download=False)
        transform = images.expected(path, about).transform()
    except (data.DataNotFound, deploy.DeployError):
        return None
    model, shape = deploy.load(path), images.expected(path, about).shape
    networks = {real: deploy.convert(model, shape, real=real) for real in (*REALS, "1-bit")}
    first = next(k for k, m in model.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)))
    networks["first 1-bit"] = deploy.convert(model, shape, real={first: "1-bit"})
    seen: dict[str, Tensor] = {}
    binary = {k: m for k, m in layers.binary_layers(model).items() if getattr(m, "binary_input", True)}
    small = data.Batches(dataset.test.take(torch.arange(1)), 1, seed=0, transform=transform, shuffle=False)
    packed = networks["float32"].bits(next(small.epoch(0))[1])
    binary = {key: module for key, module in binary.items() if key in packed}
    for key, module in binary.items():
        module.register_forward_pre_hook(
            lambda module, args, key=key: seen.__setitem__(key, module._binary_input(args[0]) > 0)
        )
    flipped, total = dict.fromkeys(binary, 0), dict.fromkeys(binary, 0)
    right, agree, count, difference = {"pytorch": 0, **dict.fromkeys(networks, 0)}, dict.fromkeys(networks, 0), 0, 0.0
    split = dataset.test if limit is None else dataset.test.take(torch.arange(min(limit, len(dataset.test))))
    for _, x, y in data.Batches(split, 100, seed=0, transform=transform, shuffle=False).epoch(0):
        expected = model(x)
        held = networks["float32"].bits(x)
        for key, theirs in seen.items():
            ours = held[key].reshape(theirs.shape)
            flipped[key] += int((ours != theirs).sum())
            total[key] += theirs.numel()
        right["pytorch"] += int((expected.argmax(1) == y).sum())
        for real, network in networks.items():
            logits = network(x)
            right[real] += int((logits.argmax(1) == y).sum())
            agree[real] += int((logits.argmax(1) == expected.argmax(1)).sum())
            if real == "float32":
                difference = max(difference, float((logits - expected).abs().max()))
        count += len(y)
    return {
        "net": name, "images": count, "recorded_top1": about["top1"], "largest_logit_difference": difference,
        "top1": {key: 100 * n / count for key, n in right.items()},
        "agreement": {key: 100 * n / count for key, n in agree.items()},
        "bits": [{"layer": key, "bits": total[key], "flipped": flipped[key]} for key in binary],
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- the whole run


def measure(names: list[str] | None = None, quick: bool = False, say: Callable[[str], None] | None = None) -> dict:
    """The record of this machine. ``quick``: LeNet-5 alone, one thread, batch 1, few rounds, a few images."""
    given = bool(names or quick)
    names = names or (["s4-lenet5"] if quick else nets())
    say = say or (lambda line: None)
    threads = [1] if quick else sorted({1, len(os.sched_getaffinity(0))})
    record: dict = {
        "date": date.today().isoformat(), "environment": bench.environment(), "quick": quick,
        "nets": {name: describe(name) for name in names},
    }  # fmt: skip
    record["runs"] = [_worker(many, names, quick) for many in threads]
    say("memory")
    record["memory"] = measure_memory(names, BATCHES[:1] if quick else BATCHES)
    say("agreement")
    trained = [name for name in (names if given else dict.fromkeys([*names, *shipped()])) if is_shipped(name)]
    record["agreement"] = [a for name in trained if (a := measure_agreement(name, 200 if quick else None))]
    return record


def is_shipped(name: str) -> bool:
    return (deploy.FOLDER / f"{name}.safetensors").is_file()


def describe(name: str) -> dict:
    recipe = recipes.load(name)
    return {
        "title": recipe.title, "source": recipe.source, "topology": topology(name), "trained": is_shipped(name),
        "dataset": recipe.dataset, "shape": list(shape_of(name)),
    }  # fmt: skip


def _worker(threads: int, names: list[str], quick: bool) -> dict:
    """A process of its own, pinned, as :func:`bnnlib.bench.run_worker` does it."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    settings = {"OMP_NUM_THREADS": str(threads), "OMP_PROC_BIND": "true", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, "-m", "bnnlib.bench_deploy", "--worker", ",".join(map(str, cpus)), *names]
    done = subprocess.run(
        [*command, *(["--quick"] if quick else [])],
        env={**os.environ, **settings},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quick else None,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    if done.returncode:
        raise BenchError(f"the measurement on {threads} thread(s) failed: {(done.stderr or '').strip()[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def newest(folder: Path = FOLDER) -> dict | None:
    """The newest whole record, or None. Raises :class:`BenchError` for a damaged file."""
    found = []
    for path in sorted(folder.glob("deploy-*.json")):
        try:
            record = json.loads(path.read_text())
            if not record["quick"] and {"nets", "runs", "memory", "agreement"} <= set(record):
                found.append((record["date"], path.name, record))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BenchError(f"{path} is no benchmark record ({error!r}): run make bench again") from None
    return max(found, key=lambda row: row[:2])[2] if found else None


def case(record: dict, net: str, batch: int, threads: int) -> dict | None:
    """The case of a record, or None where it was not measured."""
    for run in record["runs"]:
        for row in run["cases"]:
            if (run["threads"], row["net"], row["batch"]) == (threads, net, batch):
                return row
    return None


def summary(record: dict) -> str:
    lines = []
    for run in record["runs"]:
        lines.append(f"\n{run['threads']} thread(s): milliseconds (and how many times packed-float32 is faster)")
        for row in run["cases"]:
            over = row["over"]["packed-float32"]
            shown = [
                f"{name} {t['median_us'] / 1000:.2f}" + (f" ({over[name]:.1f}x)" if name in over else "")
                for name, t in row["times"].items()
            ]
            lines.append(f"  {row['net']}, batch {row['batch']}: " + ", ".join(shown))
        if not run["onnxruntime"]:
            lines.append("  ONNX Runtime: not measured")
    lines.append("\npeak memory above the libraries' own, MiB")
    for row in record["memory"]:
        lines.append(f"  {row['net']}, batch {row['batch']}, {row['kind']}: {row['above'] / 2**20:.1f}")
    for row in record["agreement"]:
        bits = sum(r["flipped"] for r in row["bits"]), sum(r["bits"] for r in row["bits"])
        lines.append(
            f"{row['net']}: {bits[0]} of {bits[1]} bits flipped, agreement {row['agreement']['float32']:.2f} % of "
            f"{row['images']} images, top-1 {row['top1']['float32']:.2f} % ({row['top1']['pytorch']:.2f} % in PyTorch)"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bnnlib.bench_deploy", description="Measure packed networks on this machine."
    )
    parser.add_argument("nets", nargs="*", help="recipes to measure (default: those that the book compares)")
    parser.add_argument("--quick", action="store_true", help="LeNet-5, few rounds: shows that it runs, measures nothing")
    parser.add_argument(
        "--out", type=Path, help="folder of the record (default: results/bench; with --quick or chosen nets: none)"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.nets) - set(recipes.names()))
    if unknown:
        print(f"error: no recipe {unknown[0]!r}: choose from {', '.join(recipes.names())}", file=sys.stderr)
        return 1
    if options.worker:
        print(json.dumps(work([int(cpu) for cpu in options.worker.split(",")], options.nets, options.quick)))
        return 0
    try:
        record = measure(options.nets or None, options.quick, lambda line: print(line, file=sys.stderr))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(summary(record))
    folder = options.out or (None if options.quick or options.nets else FOLDER)
    if folder:
        path = folder / f"deploy-{bench.slug(record['environment']['cpu'])}-{record['date']}.json"
        write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
        print(f"\nwritten: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
