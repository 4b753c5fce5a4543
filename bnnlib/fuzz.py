"""Attack the library with random input: ``python -m bnnlib.fuzz [--minutes M] [--seed S] [--only KIND]``.

=============== ==================================================================================================
kind            what a case is, and what must come of it
=============== ==================================================================================================
``file``        a packed file, changed: a network that runs, or ``DeployError``; a file whose checksum was not mended
                is never read
``graph``       a random network: on every kernel variant the values of an interpreter in float64, to the last bit;
                or tables for the executor with a number changed: refused, or nothing happens
``checkpoint``  a checkpoint, changed: ``CheckpointError``, or a dict
``data``        a file of a data set, changed: ``DataError``, or images
``yaml``        a recipe, changed: ``RecipeError``, or a recipe
``kernels``     ``tests/kernels/fuzz.cpp`` under the address and undefined-behaviour sanitizers; needs a checkout
=============== ==================================================================================================

Cases run in a child process that may take a gigabyte more than it begins with, and a minute a case; a case that ends it is
a finding, as is any exception that is not the one above. A case is a function of (seed, kind, number) alone: what is
printed with a finding reproduces it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bnnlib.deploy.randomgraphs import Maker, interpret

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 1 << 30  # bytes beyond what a child begins with
CASE_SECONDS = 60
KERNEL_CASES = 20  # of a process of the kernels' fuzz, for each variant
CHILD = [sys.executable, "-m", "bnnlib.fuzz"]


class Finding(Exception):
    """A result that must not be."""


# ------------------------------------------------------------------------------------------------ changed bytes


def flipped(draw: random.Random, raw: bytes) -> bytes:
    """``raw`` with bits flipped, bytes overwritten, a stretch removed, repeated or cut off; never ``raw`` itself."""
    changed = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(len(changed)) if changed else 0
        stretch = draw.choice((1, 4, 8, 100))
        how = draw.randrange(6)
        if how == 0 or not changed:
            changed[at : at + stretch] = draw.randbytes(stretch)
        elif how == 1:
            changed[at] ^= 1 << draw.randrange(8)
        elif how == 2:
            del changed[at : at + stretch]
        elif how == 3:
            changed[at:at] = changed[at : at + stretch] * draw.choice((1, 3))
        elif how == 4:
            number = draw.choice((0, 1, 0x7F, 0xFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            changed[at : at + 8] = number.to_bytes(8, draw.choice(("little", "big")))
        else:
            del changed[at:]
    return bytes(changed) if changed != raw else bytes(raw) + b"\0"


STRANGE = [
    None, -1, 0, 1, 2, 7, 2**16, 2**31 - 1, 2**31, 2**63, 2**70, 10**400, 0.5, 1e30, 1e308, "", "x", "\x1b[2J\r\n", "\ud800", "images",
    [], {}, True, False, [[]], [1], [1, 1], [0, 0], [2**20, 2**20], {"op": 1},
]  # fmt: skip


def places(node: Any, trail: tuple = ()):
    """Where values are in a JSON document."""
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield (*trail, key)
            yield from places(node[key], (*trail, key))


def disturbed(draw: random.Random, document: Any) -> Any:
    """A copy of a JSON document with some values changed, removed, doubled, or taken from elsewhere in it."""
    document = json.loads(json.dumps(document))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        known = list(places(document))
        if not known:
            break
        *way, key = draw.choice(known)
        node = document
        for step in way:
            node = node[step]
        how = draw.randrange(5)
        if how == 0 and isinstance(node, dict):
            del node[key]
        elif how == 1 and isinstance(node, list):
            node.insert(key, json.loads(json.dumps(node[key])))
        elif how == 2:
            other = document
            for step in draw.choice(known):
                with contextlib.suppress(KeyError, IndexError, TypeError):
                    other = other[step]
            node[key] = json.loads(json.dumps(other)) if len(json.dumps(other)) < 5000 else None
        elif how == 3 and type(node[key]) is int:
            node[key] = draw.choice((node[key] - 1, node[key] + 1, 2 * node[key], node[key] // 2))
        else:
            node[key] = json.loads(json.dumps(draw.choice(STRANGE)))
    return document


# ------------------------------------------------------------------------------------------------ the cases


def graph_case(draw: random.Random, folder: Path) -> None:
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
        made.executor(module, variant, tables=tables)


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
        deploy.save(_small_model(), path, about={**about, "model": {"name": "convnet", "options": options}}, real=draw.choice(("float32", "bfloat16", "int8")), whitening=before)
    else:
        graph = Maker(draw).graph
        h, w, c = graph.slots["x"].shape
        before = ZCAWhitening((c, h, w)) if white and c * h * w <= whitened.LARGEST else None
        deploy.save(graph, path, about={**about, "images": {**seen, "shape": [c, h, w]}}, whitening=before)
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
        words = "&a *a << : - [ ] { } ! !!bool !!int !!float !!timestamp !!binary !!set !!omap !!python/name:os | > ? ' \" # % @ 1:2 .inf .nan 0x 1e9 ~ = \n".split(" ")
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


# ------------------------------------------------------------------------------------------------ child and parent


def child(kind: str, seed: int, first: int, count: int, until: float) -> None:
    """Run cases, a line before each; the line after a finding ends with what it is."""
    case = CASES[kind]
    said = os.fdopen(os.dup(1), "w", buffering=1)
    with tempfile.TemporaryDirectory(prefix="bnn-fuzz-") as base:
        for number in range(first, first + count):
            if time.monotonic() > until:
                break
            said.write(f"case {number}\n")
            folder = Path(base) / str(number)
            folder.mkdir()
            draw = random.Random(f"{seed} {kind} {number}")
            if number == first:
                with contextlib.suppress(Exception):
                    case(random.Random("warm"), folder)  # what the first case imports is not its memory
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                limit = pages * resource.getpagesize() + MEMORY
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(CASE_SECONDS)  # which ends the process
            try:
                case(draw, folder)
            except (Exception, SystemExit) as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                said.write("finding " + json.dumps(f"{type(error).__name__}: {str(error)[:1500]} ({place})") + "\n")
            signal.alarm(0)
            shutil.rmtree(folder, ignore_errors=True)
        said.write("end\n")


def hunt(kind: str, seed: int, first: int, count: int, seconds: float, program: list[str] | None = None) -> tuple[int, list[tuple[int, str]]]:
    """(number of cases, findings as (number, what)) of one kind, in child processes one after another."""
    tried, findings, until = 0, [], time.monotonic() + seconds
    while tried < count and time.monotonic() < until:
        arguments = ["--child", kind, "--seed", seed, "--case", first + tried, "--cases", count - tried, "--seconds", until - time.monotonic()]
        with tempfile.TemporaryFile("w+") as errors:
            done = subprocess.run([*(program or CHILD), *map(str, arguments)], stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment())
            errors.seek(0)
            complaint = errors.read()[-1500:]
        lines = [line for line in done.stdout.splitlines() if line.startswith(("case ", "finding ", "end"))]
        number = first + tried
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "case":
                number, tried = int(rest), int(rest) - first + 1
            elif word == "finding":
                findings.append((number, json.loads(rest)))
        if not lines:
            findings.append((number, f"no case was begun, exit status {done.returncode}: {complaint}"))
            break
        if lines[-1] != "end":
            name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
            findings.append((number, f"the process ended by {name}{' (more than a minute)' if name == 'SIGALRM' else ''}: {complaint}"))
        elif done.returncode == 0:
            break
    return tried, findings


def _environment() -> dict[str, str]:
    """As ours, with the library found from any folder, and few threads: each takes address space."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2", "PYTHONFAULTHANDLER": "1"}


def hunt_kernels(seed: int, count: int, seconds: float) -> tuple[int, list[tuple[int, str]]]:
    """The same of ``tests/kernels/fuzz.cpp``; a case is one process of it."""
    source, until = ROOT / "tests" / "kernels" / "fuzz.cpp", time.monotonic() + seconds
    if not source.is_file() or shutil.which("g++") is None:
        print("kernels: left out, for it needs g++ and a checkout", flush=True)
        return 0, []
    with tempfile.TemporaryDirectory(prefix="bnn-fuzz-") as folder:
        program = Path(folder) / "fuzz"
        flags = "-std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined".split()
        made = subprocess.run(["g++", *flags, f"-I{ROOT / 'kernels'}", str(source), "-o", str(program)], capture_output=True, text=True)
        if made.returncode:
            return 0, [(0, f"it does not compile: {made.stderr[-1500:]}")]
        tried, findings = 0, []
        while tried < count and (time.monotonic() < until or not tried):
            done = subprocess.run([str(program), str(KERNEL_CASES), str(seed + tried)], capture_output=True, text=True)
            if done.returncode:
                findings.append((tried, (done.stdout + done.stderr)[-1500:]))
            tried += 1
    return tried, findings


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(min=0, help="shared by the kinds")] = 10,
    seed: Annotated[int | None, typer.Option(help="of all cases; without it a new one, which is printed")] = None,
    only: Annotated[list[str] | None, typer.Option(help="a kind; may be repeated")] = None,
    cases: Annotated[int, typer.Option(min=1, help="at most so many of each kind")] = 10**9,
    case: Annotated[int, typer.Option(min=0, help="the first case's number; with --cases 1 to reproduce a finding")] = 0,
    child_: Annotated[str | None, typer.Option("--child", hidden=True)] = None,
    seconds: Annotated[float, typer.Option(hidden=True)] = 0,
) -> None:
    """Attack the library with random input; exit status 1 where something is found."""
    seed = secrets.randbits(31) if seed is None else seed
    if child_ is not None:
        child(child_, seed, case, cases, time.monotonic() + seconds)
        return
    kinds = only or [*CASES, "kernels"]
    if unknown := set(kinds) - {*CASES, "kernels"}:
        raise typer.BadParameter(f"no kind {sorted(unknown)[0]!r}: choose of {', '.join([*CASES, 'kernels'])}", param_hint="--only")
    print(f"seed {seed}", flush=True)
    total, found = 0, 0
    for kind in kinds:
        started, share = time.monotonic(), 60 * minutes / len(kinds)
        tried, findings = hunt_kernels(seed + case, cases, share) if kind == "kernels" else hunt(kind, seed, case, cases, share)
        spent = time.monotonic() - started
        print(f"{kind}: {tried} cases, {60 * tried / max(spent, 1e-9):.0f} a minute, {len(findings)} findings", flush=True)
        for number, what in findings:
            print(f"  python -m bnnlib.fuzz --only {kind} --seed {seed} --case {number} --cases 1\n    {what}", flush=True)
        total, found = total + tried, found + len(findings)
    print(f"{total} cases, {found} findings", flush=True)
    if found:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
