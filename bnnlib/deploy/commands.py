"""The commands: ``python -m bnnlib.deploy info|run|export``."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from bnnlib import data, deploy, printable
from bnnlib.deploy import container, files, images, onnx_export
from bnnlib.deploy.container import DeployError
from bnnlib.deploy.run import variant
from bnnlib.storage import in_words

BATCH = 64  # maps that the allocator keeps, where those of larger batches are pages to be cleared anew

app = typer.Typer(
    help="Look into packed files, classify images with them, and export trained models.",
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True,
)  # fmt: skip


def _checked(command: Callable) -> Callable:
    """What a user can do something about is a line on stderr and exit status 1, not a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:  # a reader that stops early (`| head`) is no error
            raise
        except (ValueError, OSError, data.DataNotFound, data.DataError) as error:
            print(printable(f"error: {in_words(error)}"), file=sys.stderr)
            raise typer.Exit(1) from None

    return run


@app.command()
@_checked
def info(path: Path) -> None:
    """Show what the packed file PATH holds, and what takes how much of it."""
    about, tensors = container.read(path)
    kind = "a packed network, to run" if "graph" in about else "a trained model"
    _echo(f"{path}: {kind}, format {about['format']}")
    if about["format"] < 2:
        _echo("it has no checksum, so that damage goes unnoticed: write it anew with python -m bnnlib.deploy export")
    for key in ("recipe", "seed", "dataset", "top1", "input", "real", "model"):
        if about.get(key) is not None:
            _echo(f"{key}: {about[key]}")
    said = about.get("images")
    if isinstance(said, dict) and all(isinstance(said.get(key), list) for key in ("shape", "classes")):
        _echo(f"images: {'x'.join(map(str, said['shape']))}, {len(said['classes'])} classes")
    one_bit = {name for name in tensors if name.endswith(".weight.bits")}
    if "graph" in about:
        one_bit = _show_graph(path)
    bits = sum(tensors[name].nbytes for name in one_bit)
    white = sum(array.nbytes for name, array in tensors.items() if name in files.WHITENING)
    rest = sum(array.nbytes for array in tensors.values()) - bits - white
    size, said = path.stat().st_size, f"{white} whitening of the images, " if white else ""
    _echo(f"size: {size} bytes: {bits} binary weights, {said}{rest} other constants, {size - bits - white - rest} header")


def _echo(line: str) -> None:
    """Print what may come from a file: without what a terminal would obey."""
    print(printable(line))


def _show_graph(path: Path) -> set[str]:
    """Prints the operations; gives the names of the weights of a bit each."""
    graph, _ = deploy.read_graph(path)
    for op in graph.ops:
        source, target = graph.slots[op.inputs[0]], [f"{n} {graph.slots[n].kind}" for n in op.writes()]
        stages = ", ".join(stage["op"] for stage in op.stages)
        _echo(f"  {op.kind:12}{'x'.join(map(str, source.shape)):>12} {source.kind:8}-> {stages} -> {', '.join(target)}")
    return {op.constants["weight"] for op in graph.ops if op.one_bit}


@app.command()
@_checked
def run(
    file: Path,
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="image files, or folders of them")] = None,
    dataset: Annotated[str | None, typer.Option(help="run the test images of this data set instead")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first N images alone")] = None,
    top: Annotated[int, typer.Option(min=1, help="so many classes of each image")] = 3,
    resize: Annotated[bool, typer.Option("--resize", help="scale images of another size")] = False,
    module: Annotated[bool, typer.Option("--module", help="run the trained model in PyTorch, not on bits")] = False,
    invert: Annotated[str, typer.Option(help="exchange black and white: no, yes, or auto: where the border is bright")] = "no",
) -> None:
    """Classify images with the network in FILE: classes with their probabilities."""
    if bool(paths) == bool(dataset):
        raise DeployError("give image files or folders, or --dataset NAME" + (", not both" if paths else ""))
    about = deploy.info(file)
    expects = images.expected(file, about)
    net = _runner(file, about, module)
    transform = expects.transform()
    if dataset:
        _run_dataset(net, transform, expects, dataset, limit, top)
        return
    names = images.files(paths)[:limit]
    width = max(len(str(name)) for name in names)
    for start in range(0, len(names), BATCH):
        part = names[start : start + BATCH]
        pixels = images.invert(images.read(part, expects, resize=resize), expects, invert)
        bright = images.on_bright_ground(pixels, expects).tolist()
        scores = net(transform(pixels))
        for name, row, wrong in zip(part, scores, bright, strict=True):
            _echo(f"{str(name):{width}}  {_said(row, expects.classes, top)}")
            if wrong:
                said = f"{name} has a bright border; the network was trained on light strokes on a dark ground"
                print(f"warning: {printable(said)}: try --invert auto", file=sys.stderr)


def _run_dataset(net, transform, expects: images.Images, name: str, limit: int | None, top: int) -> None:
    split = data.load(name, download=False).test
    count = min(limit or len(split), len(split))
    if count < len(split):
        split = split.take(torch.arange(count))
    batches = data.Batches(split, BATCH, seed=0, transform=transform, shuffle=False)
    right, at = 0, 0
    for _, x, y in batches.epoch(0):
        if tuple(x.shape[1:]) != expects.shape:
            raise DeployError(f"{name} has images of {tuple(x.shape[1:])}, the network takes {expects.shape}")
        scores = net(x)
        right += int((scores.argmax(1) == y).sum())
        for row, label in zip(scores, y.tolist(), strict=True):
            if limit:
                true = _named(label, expects.classes)
                _echo(f"{name} test {at:<6}{true:>12}:  {_said(row, expects.classes, top)}")
            at += 1
    print(f"{right} of {count} right: {100 * right / count:.2f} %")


def _runner(file: Path, about: dict[str, Any], module: bool) -> Callable[[Tensor], Tensor]:
    if "graph" in about and module:
        raise DeployError(f"{file} holds a packed network, from which no module can be made: leave out --module")
    if not module:
        _check_kernel()
    loaded = deploy.load(file)
    net = loaded if module or "graph" in about else deploy.convert(loaded, images.expected(file, about).shape)

    @torch.no_grad()
    def call(x: Tensor) -> Tensor:
        scores = net(x)
        if not isinstance(scores, Tensor):
            raise DeployError(f"the network gives a {type(scores).__name__}; `run` needs one score a class")
        if scores.dim() != 2:
            raise DeployError(f"the network gives {list(scores.shape[1:])} an image; `run` needs one score a class")
        return scores.float()

    return call


def _check_kernel() -> None:
    """Raises :class:`DeployError` for a BNN_KERNEL that cannot run here."""
    try:
        variant()
    except RuntimeError as error:
        raise DeployError(str(error)) from None


def _named(label: int, classes: tuple[str, ...]) -> str:
    return classes[label] if label < len(classes) else str(label)


def _said(scores: Tensor, classes: tuple[str, ...], top: int) -> str:
    share = scores.double().softmax(0)
    best = share.topk(min(top, len(share)))
    return ", ".join(
        f"{_named(i, classes)} {100 * p:.1f} %" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )


@app.command()
@_checked
def export(
    path: Path,
    out: Path,
    real: Annotated[str, typer.Option(help="real-valued weights as float32, bfloat16, int8; --packed: also 1-bit, behind the first layer")] = "float32",
    packed: Annotated[bool, typer.Option("--packed", help="a packed network, not the trained model again")] = False,
) -> None:
    """Write the trained model in PATH to OUT in another form: OUT.onnx, for comparison, with binary weights as floats;
    else a packed file with its real-valued weights as REAL, and what that costs where the test images are here."""
    about = deploy.info(path)
    if "graph" in about:
        raise DeployError(f"{path} holds a packed network; export the trained model that it was made from")
    if out.exists() and out.samefile(path):
        raise DeployError(f"{out} is the trained model itself, which would be lost: name another file")
    model = deploy.load(path)
    before = images.expected(path, about).whitening if files.tells_of_whitening(about) else None
    if out.suffix == ".onnx":
        if packed or real != "float32":
            raise DeployError("an ONNX file holds floats: leave out --packed and --real")
        takes = images.expected(path, about)
        onnx_export.write(model, takes.shape, out, _metadata(takes))
        print(f"{out}: {out.stat().st_size} bytes, inputs 'images' (n, C, H, W), outputs 'logits'")
        return
    if packed:
        _check_kernel()
        net = deploy.convert(model, images.expected(path, about).shape, real=real)
        deploy.save(net, out, about=about, whitening=before)
    else:
        deploy.save(model, out, real=real, about=about, whitening=before)
    print(f"{out}: {out.stat().st_size} bytes, was {path.stat().st_size}")
    if real != "float32":  # of what the file now holds
        print(cost(path, about, model, deploy.load(out)))


def _metadata(takes: images.Images) -> dict[str, str]:
    """What whoever runs an ONNX file must do to an image first: (pixel / 255 - mean) / std for `normalized`."""
    return {
        "input": takes.input, "mean": json.dumps(takes.mean), "std": json.dumps(takes.std),
        "classes": json.dumps(takes.classes), "dataset": takes.dataset,
    }  # fmt: skip


def cost(path: Path, about: dict[str, Any], before: nn.Module, after: Callable[[Tensor], Tensor]) -> str:
    """What rounding the real-valued weights did to the accuracy on the test set, in a sentence; modules run packed."""
    try:
        dataset = data.load(about["dataset"], download=False)
        expected = images.expected(path, about)
        transform = expected.transform()
        nets = [net if isinstance(net, deploy.PackedNetwork) or not isinstance(net, nn.Module) else deploy.convert(net, expected.shape)
                for net in (before, after)]  # fmt: skip
        batches = data.Batches(dataset.test, BATCH, seed=0, transform=transform, shuffle=False)
        right, differ, count = [0, 0], 0, 0
        with torch.no_grad():
            for _, x, y in batches.epoch(0):
                said = [net(x).argmax(1) for net in nets]
                right = [r + int((s == y).sum()) for r, s in zip(right, said, strict=True)]
                differ, count = differ + int((said[0] != said[1]).sum()), count + len(y)
    except data.DataNotFound as error:
        return f"what this costs in accuracy was not measured: {str(error).partition(':')[0]}"
    except (KeyError, ValueError, RuntimeError) as error:  # a model of something else than its images
        return f"what this costs in accuracy could not be measured: {type(error).__name__}: {error}"
    now, was = (100 * r / count for r in reversed(right))
    return f"top-1 {now:.2f} %, was {was:.2f} %; {differ} of {count} predictions differ"
