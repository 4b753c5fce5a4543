"""What a case of each kind is, and what must come of it (:mod:`bnnlib.fuzz`)."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import typer

from bnnlib.deploy.interpreter import interpret
from bnnlib.deploy.randomgraphs import Maker
from bnnlib.fuzz.changes import STRANGE, disturbed, flipped
from bnnlib.fuzz.guards import guarded


class Finding(Exception):
    """A result that must not be."""


def graph_case(draw: random.Random, folder: Path) -> None:
    """A random network, on every kernel variant; or its tables with a number changed, as the executor takes them."""
    from bnnlib.deploy import program
    from bnnlib.deploy.run import Runner, kernels

    graph = Maker(draw).graph
    graph.validate()
    variants = [name for name, _, supported in kernels().variants() if supported]
    if draw.random() < 0.3:
        _tables(draw, program.assemble(graph), kernels(), draw.choice(variants))
        return
    h, w, c = graph.slots["x"].shape
    x = np.random.default_rng(draw.getrandbits(64)).integers(-4, 5, (draw.choice((1, 2, 5)), c, h, w)).astype(np.float32)
    wanted = interpret(graph, x)
    for variant in variants:
        for threads in (1, 2):
            got = Runner(graph, threads, variant, take=False).arrays([x])
            for name, values in zip(graph.outputs, got, strict=True):
                if graph.slots[name].kind == "bits":
                    count = graph.slots[name].shape[2]
                    bits = np.unpackbits(np.ascontiguousarray(values).view(np.uint8), axis=-1, bitorder="little")
                    if bits[..., count:].any():
                        raise Finding(f"{variant}: slot {name} has bits beyond the last channel")
                    values = 2.0 * bits[..., :count] - 1
                if not np.array_equal(values, wanted[name]):
                    worst = np.abs(values - wanted[name]).max()
                    raise Finding(f"{variant} on {threads} threads: slot {name} differs by up to {worst}: {json.dumps(graph.to_json())}")


def _tables(draw: random.Random, made: Any, module: Any, variant: str) -> None:
    tables = made.tables(module)
    for _ in range(draw.choice((1, 1, 2))):
        what = draw.choice((*tables, "micro_bytes", "chunk_bytes"))
        number = draw.choice((-1, 0, 1, 2, 7, 63, 2**20, 2**31, 2**40, -(2**40), 2**62, 2**63 - 1))
        if what not in tables:
            setattr(made, what, number)
        elif tables[what].size:
            tables[what][draw.choice(tables[what].dtype.names)][draw.randrange(len(tables[what]))] = number
    with contextlib.suppress(ValueError, MemoryError):
        run_guarded(made, made.executor(module, variant, tables=tables), tables["slots"], draw.choice((1, 2, 5)), draw.choice((1, 2)))


def run_guarded(made: Any, executor: Any, slots: np.ndarray, images: int, threads: int) -> None:
    """Runs what was loaded from tables, with these ``slots``, on arrays that end where memory does."""
    arrays = []
    for name in made.outside:
        slot = slots[made.numbers[name]]
        h, w, c = (int(slot[side]) for side in "hwc")
        bits = int(slot["kind"]) != 0
        array = guarded((images, h, w, -(-c // 64) if bits else c), np.int64 if bits else np.float32)
        arrays.append(array if bits else array.transpose(0, 3, 1, 2))
    executor.run(arrays, threads)


def _small_model() -> Any:
    from bnnlib import models

    return models.build("convnet", widths=[3, 4], depth=1, in_channels=1, classes=3)


def file_case(draw: random.Random, folder: Path) -> None:
    """A packed network or a trained model: its bytes changed, or what it says, with the checksum mended."""
    import torch

    from bnnlib import deploy
    from bnnlib.data import ZCAWhitening
    from bnnlib.deploy import commands, container, images, whitened

    path = folder / "net"
    seen = {"shape": [1, 12, 12], "classes": ["a", "b", "c"], "mean": [0.5], "std": [0.5], "view": None}
    white = draw.random() < 0.3
    about = {"images": seen, "input": "gcn-zca" if white else "unit", "dataset": "digits", "recipe": "r", "seed": 1, "top1": 9.5}
    before = ZCAWhitening((1, 12, 12)) if white else None
    if draw.random() < 0.3:
        options = {"widths": [3, 4], "depth": 1, "in_channels": 1, "classes": 3}
        about, real = {**about, "model": {"name": "convnet", "options": options}}, draw.choice(("float32", "bfloat16", "int8"))
        deploy.save(_small_model(), path, about=about, real=real, whitening=before)
    else:
        graph = Maker(draw).graph
        h, w, c = graph.slots["x"].shape
        pictures = c in (1, 3)  # others have no images, grey or coloured
        before = ZCAWhitening((c, h, w)) if white and pictures and c * h * w <= whitened.LARGEST else None
        about["images"] = {**seen, "shape": [c, h, w]} if pictures else None
        deploy.save(graph, path, about=about, whitening=before)
    raw = path.read_bytes()
    if mended := draw.random() < 0.8:
        document, tensors = container.read(path)
        if draw.random() < 0.9 or not tensors:  # a net of no weights has none
            document = disturbed(draw, document)
        else:
            name = draw.choice(list(tensors))
            tensors[name] = tensors[name].ravel()[: draw.randrange(tensors[name].size + 1)]
        with contextlib.suppress(ValueError, OverflowError, AttributeError, TypeError):
            document = document if isinstance(document, dict) else {}
            container.write(path, document, tensors)
    else:
        path.write_bytes(flipped(draw, raw))
    try:
        loaded = deploy.load(path)
    except deploy.DeployError as error:
        if "fit into memory" in str(error):
            raise Finding(f"a small file takes all memory: {error}") from None
        loaded = None
    if loaded is not None and not mended:
        raise Finding("a file whose bytes were changed was read")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), contextlib.suppress(typer.Exit):
        commands.info(path)
    if any(not c.isprintable() and c != "\n" for c in shown.getvalue()):
        raise Finding(f"info prints what a terminal obeys: {shown.getvalue()!r}")
    if loaded is None:
        return
    with contextlib.suppress(deploy.DeployError):
        takes = images.expected(path, deploy.info(path))
        if takes.whitening is not None:
            takes.transform()(torch.zeros(1, *takes.shape, dtype=torch.uint8))
    if isinstance(loaded, deploy.PackedNetwork):
        from bnnlib.deploy.run import Runner, empty

        runner = Runner(loaded.graph)
        given = [empty(loaded.graph, name, 2) for name in loaded.graph.inputs]
        for array in given:
            array.fill(1)
        runner.arrays([a.transpose(0, 3, 1, 2) if a.dtype == np.float32 else a for a in given])


def checkpoint_case(draw: random.Random, folder: Path) -> None:
    """A checkpoint with bytes changed, read."""
    import torch

    from bnnlib.training import checkpoint

    path = folder / "checkpoint.pt"
    state = {"seed": 1, "w": torch.arange(float(draw.choice((1, 40, 4000)))), "o": {"state": {0: [1.5, "x"]}}, "curve": [{"a": 1}]}
    checkpoint.save(path, state)
    raw = path.read_bytes()
    how = draw.randrange(4)
    if how == 0:  # with the digest: no change may pass
        path.write_bytes(flipped(draw, raw))
    elif how == 1:  # without it, as earlier versions wrote it
        path.write_bytes(flipped(draw, raw[: raw.rindex(b"\nbnnlib")]))
    else:  # a stranger's: other parts, all sums right
        import hashlib
        import zipfile

        made = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w", draw.choice((0, 0, 0, 8))) as new:
            for name in old.namelist():
                part = old.read(name)
                new.writestr(name, flipped(draw, part) if part and draw.random() < 0.5 else part)
        content = made.getvalue()
        path.write_bytes(content + b"\nbnnlib sha256 " + hashlib.sha256(content).hexdigest().encode())
    try:
        found = checkpoint.load(path, {"seed": 1})
    except checkpoint.CheckpointError as error:
        if "memory" in str(error).lower():
            raise Finding(f"a small checkpoint takes all memory: {error}") from None
        return
    if how == 0:
        raise Finding("a checkpoint whose bytes were changed was read")
    if not isinstance(found, dict):
        raise Finding(f"a checkpoint gave a {type(found).__name__}")


def data_case(draw: random.Random, folder: Path) -> None:
    """A file of MNIST or CIFAR-10, or an image, with bytes changed, read."""
    import gzip
    import pickle

    from PIL import Image

    from bnnlib.data import DataError, cifar10, folders, mnist

    rng = np.random.default_rng(draw.getrandbits(64))
    kind = draw.choice(("idx", "gz", "cifar", "cifar", "image", "image", "image"))
    if kind in ("idx", "gz"):
        pixels = rng.integers(0, 256, (5, 28, 28), np.uint8)
        raw = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in pixels.shape) + pixels.tobytes()
        raw = flipped(draw, raw) if draw.random() < 0.7 else raw
        path = folder / ("x.gz" if kind == "gz" else "x")
        if kind == "gz":
            raw = gzip.compress(raw * draw.choice((1, 1, 20_000)), 1)
            raw = flipped(draw, raw) if draw.random() < 0.5 else raw
        path.write_bytes(raw)
        with contextlib.suppress(DataError):
            mnist.idx(path, 3)
    elif kind == "cifar":
        table = rng.integers(0, 256, (4, 3072), np.uint8)
        raw = pickle.dumps({b"data": table, b"labels": [1, 2, 3, 4], b"names": [b"a", b"b"]}, protocol=draw.choice((2, 3, 4)))
        at = raw.index(table.tobytes()[:3]) if table.tobytes()[:3] in raw else len(raw)
        if draw.random() < 0.6:  # the structure, not the pixels
            raw = flipped(draw, raw[:at]) + raw[at:] if draw.random() < 0.5 else raw[:at] + raw[at:-60] + flipped(draw, raw[-60:])
        elif draw.random() < 0.5:
            codes = b"(.0123]}lteqahsujrVUTKMJINb\x85\x86\x87\x88\x89\x8c\x90\x93\x94\x95" + b"cnumpy\ndtype\nU\x02u1"
            raw = b"\x80\x02" + bytes(draw.choice(codes) for _ in range(draw.choice((5, 50, 5000)))) + b"."
        (folder / "b").write_bytes(raw)
        for name in cifar10.BATCHES["train"]:
            shutil.copyfile(folder / "b", folder / name)
        with contextlib.suppress(DataError):
            images, labels = cifar10.read_pickles(folder, "train")
            if images.shape[1:] != (3, 32, 32) or len(images) != len(labels) or images.element_size() != 1:
                raise Finding(f"CIFAR-10 of shape {images.shape}")
    else:
        mode = draw.choice(("RGB", "L", "P", "RGBA", "1", "I;16", "F", "CMYK"))
        wide, high = draw.choice(((9, 6), (1, 1), (64, 64)))
        suffix = draw.choice(("png", "jpeg", "bmp", "tiff", "webp", "ppm"))
        made = io.BytesIO()
        with contextlib.suppress(OSError, KeyError, ValueError):
            Image.fromarray(rng.integers(0, 256, (high, wide, 3), np.uint8)).convert(mode).save(made, suffix)
        path = folder / f"x.{suffix}"
        path.write_bytes(flipped(draw, made.getvalue()))
        with contextlib.suppress(DataError):
            image = folders.open_image(path)
            if image.mode.startswith(("I", "F")):
                raise Finding(f"pixels of mode {image.mode} were accepted")
            image.convert("RGB")


def yaml_case(draw: random.Random, folder: Path) -> None:
    """The text of a recipe, changed, read."""
    import yaml

    from bnnlib import recipes

    path = draw.choice(sorted(recipes.FOLDER.rglob("*.yaml")))
    text = path.read_text()
    how = draw.randrange(4)
    if how == 0:
        raw = flipped(draw, text.encode())
    elif how == 1:
        with contextlib.suppress(yaml.YAMLError, ValueError):
            text = yaml.safe_dump(disturbed(draw, yaml.safe_load(text)))
        raw = text.encode("utf-8", "surrogatepass")
    elif how == 2:
        words = "&a *a << : - [ ] { } ! !!bool !!int !!float !!timestamp !!binary !!set !!omap !!python/name:os".split(" ")
        words += "| > ? ' \" # % @ 1:2 .inf .nan 0x 1e9 ~ = \n".split(" ")
        raw = " ".join(draw.choice(words) for _ in range(draw.choice((3, 20, 300)))).encode()
    else:
        raw = draw.choice((b"a: " + b"[" * 9000, b"[" * 60_000, b"? " * 9000, b"- " * 20_000, b"a: " + b"1" * 5000, b"a: " + b"1:" * 20_000 + b"1"))
    (folder / "r.yaml").write_bytes(raw)
    with contextlib.suppress(recipes.RecipeError):
        recipes.load(folder / "r.yaml").hash()
    with contextlib.suppress(recipes.RecipeError):
        recipes.parse_value(raw.decode("utf-8", "replace"))
    field = draw.choice(("epochs", "model.name", "optimizer.lr", "augment.crop", "temperature", "model", "a.b.c", ""))
    with contextlib.suppress(recipes.RecipeError):
        recipes.load("s4-lenet5", {field: draw.choice(STRANGE)}).hash()


CASES: dict[str, Callable[[random.Random, Path], None]] = {
    "file": file_case, "graph": graph_case, "checkpoint": checkpoint_case, "data": data_case, "yaml": yaml_case,
}  # fmt: skip
