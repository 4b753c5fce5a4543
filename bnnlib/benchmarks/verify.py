"""``python -m bnnlib.verify [RECIPE ...]`` (part of ``make bench``): what packed networks compute and the memory they take,
against PyTorch, into ``results/verified/<recipe>.json``.

* ``agreement``, of a trained network whose test images are here: how many bits differ from PyTorch's, layer by layer, how
  many predictions, and the accuracies, also with real-valued layers of fewer bits;
* ``predictions``: what its file answers on the whole test set, into ``results/predictions/``;
* ``memory``: peaks of loading a network and running it once, in fresh processes.

Neither is a time, so the machine need not be quiet.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from bnnlib import data, deploy, layers, recipes
from bnnlib.benchmarks import BenchError, workers
from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks.nets import (
    full_precision_twin,
    model_of,
    nets,
    shape_of,
    shipped,
    topology,
)
from bnnlib.benchmarks.networks import BATCHES, REALS
from bnnlib.data import evaluate
from bnnlib.deploy import images, whitened
from bnnlib.experiments import predictions
from bnnlib.paths import RESULTS, folder_option
from bnnlib.storage import write_atomically

FOLDER = RESULTS / "verified"
MEMORY = ("fp32-eager", "packed", "packed-alone", "packed-alone-int8")


# ----------------------------------------------------------------------------------------------------- memory


def write_forms(name: str, folder: Path) -> None:
    """The files that :mod:`bnnlib.benchmarks.memory` loads: the FP32 twin's weights and the packed network of the recipe
    ``name``, its real-valued weights as float32 and as int8."""
    import safetensors.torch

    model, _ = model_of(name)
    state = {key: value.contiguous() for key, value in full_precision_twin(model).state_dict().items()}
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
                    settings = {"OMP_NUM_THREADS": "1"}
                    peak = workers.answer("bnnlib.benchmarks.memory", kind, name, shape, scratch, settings=settings)
                    found.append({"net": name, "batch": batch, "kind": kind, **peak})
    return found


# -------------------------------------------------------------------------------------------------- agreement


def _shipped_with_images(name: str) -> tuple[Path, data.Dataset, tuple[int, int, int], Callable[[Tensor], Tensor]] | None:
    """The shipped file of ``name``, its data set, and the shape and the transform of its images; None where the file or the
    images are not here."""
    path = deploy.path_of(name)
    if not path.is_file():
        return None
    about = deploy.info(path)
    try:
        dataset = data.load(about["dataset"], download=False)
        expected = images.expected(path, about)
        return path, dataset, expected.shape, expected.transform()
    except (data.DataNotFound, deploy.DeployError):
        return None


@torch.inference_mode()
def measure_agreement(name: str, limit: int | None = None) -> dict | None:
    """The packed network of a shipped file against PyTorch's evaluation mode on the test set (its first ``limit``
    images): bits that differ at the input of every binary layer, predictions, accuracies; these also with real-valued
    weights of fewer bits: ``int8``, ``1-bit``: all behind the first layer, ``first 1-bit``:
    that one alone. None where the file or the images are not here."""
    found = _shipped_with_images(name)
    if found is None:
        return None
    path, dataset, shape, transform = found
    model = deploy.load(path)
    networks = {real: deploy.convert(model, shape, real=real) for real in (*REALS, "1-bit")}
    first = next(k for k, m in model.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)))
    networks["first 1-bit"] = deploy.convert(model, shape, real={first: "1-bit"})
    seen: dict[str, Tensor] = {}
    binary = {k: m for k, m in layers.binary_layers(model).items() if m.binary_input}
    small = data.Batches(dataset.test.take(torch.arange(1)), 1, seed=0, transform=transform, shuffle=False)
    packed = networks["float32"].bits(next(small.epoch(0))[1])
    binary = {key: module for key, module in binary.items() if key in packed}
    for key, module in binary.items():
        module.register_forward_pre_hook(
            lambda module, args, key=key: seen.__setitem__(key, module.binarize_input(args[0]) > 0)
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
        "net": name, "images": count, "recorded_top1": deploy.info(path)["top1"], "largest_logit_difference": difference,
        "top1": {key: 100 * n / count for key, n in right.items()},
        "agreement": {key: 100 * n / count for key, n in agree.items()},
        "bits": [{"layer": key, "bits": total[key], "flipped": flipped[key]} for key in binary],
        **_of_whitening(path, dataset, split, networks["float32"]),
    }  # fmt: skip


def _of_whitening(path: Path, dataset: data.Dataset, split: data.Split, network: Callable[[Tensor], Tensor]) -> dict:
    """Where the file of ``network`` holds the whitening of its images: the bytes that takes, and the accuracy with it, with the
    one that is fitted on the training images, and with its convolution alone."""
    seen = images.expected(path, deploy.info(path))
    if seen.whitening is None:
        return {}
    kinds = {
        "file": seen.transform(),
        "fitted": evaluate.input_transform("gcn-zca", dataset),
        "convolution": whitened.unpack(seen.whitening, seen.shape, seen.scale, rest=False),
    }
    top1 = {name: evaluate.top1(evaluate.logits(network, split, kind, 100), split.labels) for name, kind in kinds.items()}
    return {"whitening": {"bytes": sum(tensor.nbytes for tensor in seen.whitening.values()), "top1": top1}}


@torch.inference_mode()
def write_predictions(name: str, folder: Path = predictions.FOLDER) -> Path | None:
    """Keep what the packed file of ``name`` answers on the whole test set: on the bits, or, for a file without binary
    layers, in PyTorch. None where the file or the images are not here."""
    found = _shipped_with_images(name)
    if found is None:
        return None
    path, dataset, shape, transform = found
    model = deploy.load(path)
    net = deploy.convert(model, shape) if layers.binary_layers(model) else model
    scores = evaluate.logits(net, dataset.test, transform, 100)
    return predictions.write(name, path, scores, dataset.test.labels, dataset.fingerprint, folder)


# ------------------------------------------------------------------------------------------------- the records


def measure(name: str, quick: bool = False, environment: dict | None = None) -> dict:
    """The record of the recipe ``name``. ``quick``: batch 1 and a few images; ``environment``: as found before, by default as it is."""
    return {
        "net": name, "date": date.today().isoformat(), "environment": environment or bench_record.environment(), "quick": quick,
        "agreement": measure_agreement(name, 200 if quick else None),
        "memory": measure_memory([name], BATCHES[:1] if quick else BATCHES),
    }  # fmt: skip


def names() -> list[str]:
    """The recipes of the networks that the book compares, and of every packed file that comes with it: a net
    that is shipped stands for an untrained one of its topology."""
    trained = shipped()
    covered = set(map(topology, trained))
    return list(dict.fromkeys([*(name for name in nets() if name in trained or topology(name) not in covered), *trained]))


def read(folder: Path = FOLDER) -> list[dict]:
    """The records, in the order of :func:`names`. Raises :class:`BenchError` for a damaged file."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        record = bench_record.read(path)
        wanted = ("net", "date", "environment", "agreement", "memory")
        if missing := [key for key in wanted if key not in record]:
            raise BenchError(f"{path} is no record of a packed network (no {missing[0]!r}): run make bench again")
        found[record["net"]] = {key: record[key] for key in wanted}
    order = {name: at for at, name in enumerate(names())}
    return sorted(found.values(), key=lambda record: (order.get(record["net"], len(order)), record["net"]))


def summary(record: dict) -> str:
    """What a record says, in a few lines."""
    lines, agreement = [], record["agreement"]
    if agreement:
        flipped, compared = (sum(row[key] for row in agreement["bits"]) for key in ("flipped", "bits"))
        lines.append(
            f"{record['net']}: {flipped} of {compared} bits flipped, agreement {agreement['agreement']['float32']:.2f} % of "
            f"{agreement['images']} images, top-1 {agreement['top1']['float32']:.2f} % ({agreement['top1']['pytorch']:.2f} % in PyTorch)"
        )
    else:
        lines.append(f"{record['net']}: no packed file with its test images here, so no accuracy")
    lines += [f"  peak memory above the libraries' own, batch {row['batch']}, {row['kind']}: {row['above'] / 2**20:.1f} MiB" for row in record["memory"]]
    return "\n".join(lines)


class Only(StrEnum):
    """What can be done alone."""

    predictions = "predictions"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    nets: Annotated[list[str] | None, typer.Argument(help="recipes", show_default="those that the book compares")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="LeNet-5 alone, a few images: shows that it runs")] = False,
    out: Annotated[
        Path | None, folder_option("folder of the records", show_default="results/verified; with --quick: none")
    ] = None,
    only: Annotated[Only | None, typer.Option(help="write what the nets answer on their test sets, and measure nothing")] = None,
) -> None:
    """Compare packed networks with PyTorch."""
    if quick and only:
        raise typer.BadParameter("--quick writes no predictions: leave --only or --quick out", param_hint="--only")
    try:
        recipes.check_names(nets or [])
        environment = bench_record.environment()  # of before: what is written here changes the tree
        if not quick:
            for name in nets or [path.stem for path in sorted(deploy.FOLDER.glob("*.safetensors"))]:
                wrote = write_predictions(name, out or predictions.FOLDER)
                print(f"{name}: {f'answers in {wrote.name}' if wrote else 'no packed file with its test images here, so no answers'}", flush=True)
        if only:
            return
        folder = out or (None if quick else FOLDER)
        for name in nets or (["s4-lenet5"] if quick else names()):
            record = measure(name, quick, environment)
            print(summary(record), flush=True)
            if folder:
                write_atomically(folder / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())
    except (recipes.RecipeError, BenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app(prog_name="bnn verify")
