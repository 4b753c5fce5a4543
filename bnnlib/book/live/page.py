"""The page on which a 1-bit net answers in the reader's browser, and its small version on the landing page.

What a page needs is made from the repository: the kernels as WebAssembly (:mod:`bnnlib.book.live.module`), the packed networks of
``results/models``, and the still pictures that stand there until, or unless, scripts run. The scripts are in ``book/live``. They are
loaded by ``start.js`` when the reader comes near, data and all, as scripts, since a page opened from a folder may fetch nothing else.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from bnnlib import deploy
from bnnlib.book import tables
from bnnlib.book.live import digits, pictures
from bnnlib.book.live import module as kernels
from bnnlib.book.live.still import bars, drawing, maps
from bnnlib.data import evaluate
from bnnlib.deploy import sizes
from bnnlib.paths import ROOT

DIGIT, PICTURE = "ours-lenet5", "ours-vgg-20ep"
EXAMPLE, SHOWN = 3, "frog"
"""The digit and the picture that a page begins with."""
FOLDER = "live"
"""Of the book's sources: scripts and data. In the site it lies in ``_static``, where Jupyter Book would name each script on every page."""


def parts(root: Path = ROOT) -> tuple[dict[str, str], dict[str, bytes], str]:
    """(the pages' parts by name, files of data by path, what went wrong or an empty text) of the sources below ``root``.

    Where the kernels cannot be compiled for a browser the parts stand still, there is no data, and a sentence says why.
    """
    nets = {kind: net_of(root, name) for kind, name in (("digit", DIGIT), ("picture", PICTURE))}
    try:
        module = kernels.build()
    except kernels.ModuleError as error:
        module, wrong = b"", str(error)
    else:
        wrong = ""
    pages = {kind: _filled(root, kind, nets, len(module)) for kind in ("page", "hero", "picture")}
    files = {}
    if module:
        start = f'<script defer src="_static/{FOLDER}/start.js"></script>'
        pages = {name: f"{page}{start if name != 'picture' else ''}\n" for name, page in pages.items()}
        examples = {
            "digit": {digit: digits.drawing(digit) for digit in range(10)},
            "picture": {name: _base64(picture.tobytes()) for name, picture in pictures.drawn().items()},
        }
        files[f"{FOLDER}/data-module.js"] = f"bnnLive.data.module = {json.dumps(_base64(module))};\n".encode()
        for kind, net in nets.items():
            data = {"packed": _base64(net.packed), "examples": examples[kind]}
            files[f"{FOLDER}/data-{kind}.js"] = f"bnnLive.data.{kind} = {json.dumps(data, separators=(',', ':'))};\n".encode()
    raw = {f"live-{name}": "```{raw} html\n" + page + "```\n" for name, page in pages.items()}
    return raw | {"live-preparation": preparation(nets["digit"]), "live-file": _file_said(root, nets["digit"])}, files, wrong


def copy_scripts(source: Path, site: Path) -> None:
    """Put scripts and data from the staged sources into the site, where there is data."""
    if (source / FOLDER / "data-module.js").is_file():
        (site / "_static" / FOLDER).mkdir()
        for path in (source / FOLDER).glob("*.js"):
            shutil.copy(path, site / "_static" / FOLDER)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@cache
def net_of(root: Path, name: str) -> SimpleNamespace:
    """The packed network of a trained one: ``net``, what the file says ``about`` it, the bytes of its own file, and of the float32
    file with the same weights."""
    path = root / "results" / "models" / f"{name}.safetensors"
    about, model = deploy.info(path), deploy.load(path)
    net = deploy.convert(model, about["images"]["shape"])
    with tempfile.TemporaryDirectory() as folder:
        packed = deploy.save(net, Path(folder) / name, about=about).read_bytes()
    return SimpleNamespace(net=net, about=about, packed=packed, fp32=sizes.of_model(model).fp32)


def seen(net: SimpleNamespace, images: np.ndarray) -> torch.Tensor:
    """uint8 images ``(N, C, H, W)`` as the net wants them."""
    return evaluate.input_transform(net.about["input"], SimpleNamespace(**net.about["images"]))(torch.from_numpy(images))


def logits(net: SimpleNamespace, images: np.ndarray) -> np.ndarray:
    """``(N, 10)`` of uint8 images ``(N, C, H, W)``, by the engine without instruction sets: it rounds as the page's does."""
    return deploy.PackedNetwork(net.net.graph, kernel="scalar")(seen(net, images)).numpy()


def _file_said(root: Path, net: SimpleNamespace) -> str:
    """Why the digit's net is of another size here than in its chapter, in a sentence."""
    own = (root / "results" / "models" / f"{DIGIT}.safetensors").stat().st_size
    return (
        f"The page carries the net of digits in another form of the file, as the operations that the executor runs: {tables.file_size(len(net.packed))}. "
        f"The file of the chapter LeNet-5 on MNIST, as the layers of PyTorch, has {tables.file_size(own)}.\n"
    )


# --------------------------------------------------------------------------------------------- still pictures


def _filled(root: Path, kind: str, nets: dict[str, SimpleNamespace], module: int) -> str:
    """The template ``book/live/KIND.html`` with its places filled."""
    template = (root / "book" / "live" / f"{kind}.html").read_text(encoding="utf-8")
    net = nets["picture" if kind == "picture" else "digit"]
    values = _picture_values(net) if kind == "picture" else _digit_values(net, kind)
    values |= {
        "packed": tables.file_size(len(net.packed)),
        "fp32": tables.file_size(net.fp32),
        "ratio": f"{net.fp32 / len(net.packed):.1f} ×",
        "module": tables.file_size(module) if module else "the page",
        "still": "A still picture; the net itself runs where JavaScript does." if module else "A still picture of what the net does.",
    }
    return re.sub(r"\{\{([\w-]+)\}\}", lambda found: values[found[1]], template)


def _digit_values(net: SimpleNamespace, kind: str) -> dict[str, str]:
    strokes = digits.drawing(EXAMPLE)
    image = digits.image(strokes)
    slots = ["conv2.layer.input", "fc1.layer.input", "fc1.act", "fc2"]
    held = net.net.values(seen(net, image[None, None]), slots)
    first, second, third, scores = (held[name][0].numpy() for name in slots)
    first, second = first.transpose(1, 2, 0), second.transpose(1, 2, 0)
    third = third.reshape(10, 50, 1)
    shares = torch.from_numpy(scores.reshape(-1)).softmax(0).numpy()
    answer = int(shares.argmax())
    place, bits = strongest(net, first)
    same = int(bits["equal"].sum())
    small = kind == "hero"
    return {
        "pad": drawing(strokes, f"A hand-drawn {EXAMPLE}"),
        "examples": "".join(f'<button type="button" data-example="{d}" aria-label="Draw a {d}">{d}</button>' for d in range(10)),
        "first": str(EXAMPLE),
        "answer": f"<b>{answer}</b> <span>{_percent(shares[answer])} sure</span>",
        "digit": str(answer),
        "bars": bars([str(d) for d in range(10)], shares, _percent),
        "seen": maps(image[:, :, None] / 255, 1, "The digit as 28 by 28 grey pixels", "What the net sees of your digit"),
        "layer1": maps(
            first, 5 if small else 10, "Twenty maps of 12 by 12 bits: the digit, its edges and strokes", "The 20 maps of bits that layer 2 reads",
            None if small else [(None, place[1], place[2], 5, 5)],
        ),
        "layer2": maps(second, 10, "Fifty maps of 4 by 4 bits", "The 50 maps of bits that layer 3 reads",
                       None if small else [(place[0], place[1] // 2, place[2] // 2, 1, 1)]),
        "layer3": maps((third - third.min()) / (third.max() - third.min()), 1, "Five hundred values as shades of grey", "The 500 values of layer 3"),
        **{
            f"bits-{name}": maps(bits[key].reshape(20, 25).T.reshape(5, 5, 20), 20, label, label)
            for name, key, label in (
                ("in", "input", "500 input bits"),
                ("weight", "weight", "500 weight bits"),
                ("equal", "equal", "Where input and weight bits are equal"),
            )
        },
        "sum": f"<b>{same}</b> of 500 bits are equal, so the sum is 2 × {same} − 500 = <b>{2 * same - 500}</b>. It is the largest of this "
        "layer for the digit above.",
    }  # fmt: skip


def strongest(net: SimpleNamespace, first: np.ndarray) -> tuple[tuple[int, int, int], dict[str, np.ndarray]]:
    """((filter, row, column), its 500 input bits, weight bits and where they are equal) of the largest sum of the first binary
    convolution; ``first``: the bits that it reads, ``(12, 12, 20)``."""
    from numpy.lib.stride_tricks import sliding_window_view

    weights = np.unpackbits(net.net.graph.tensors["conv2.layer.weight"], axis=1, count=500, bitorder="little").astype(bool)
    windows = sliding_window_view(first.transpose(2, 0, 1), (5, 5), axis=(1, 2)).transpose(1, 2, 0, 3, 4).reshape(8, 8, 500)
    equal = windows == weights[:, None, None]
    place = np.unravel_index(equal.sum(-1).argmax(), (50, 8, 8))
    f, y, x = (int(i) for i in place)
    return (f, y, x), {"input": windows[y, x], "weight": weights[f], "equal": equal[f, y, x]}


def _picture_values(net: SimpleNamespace) -> dict[str, str]:
    examples, classes = pictures.drawn(), net.about["images"]["classes"]
    name = next(op.inputs[0] for op in net.net.graph.ops if op.kind == "binary_conv")
    held = net.net.values(seen(net, examples[SHOWN].transpose(2, 0, 1)[None].copy()), [name, net.net.graph.outputs[0]])
    bits = held[name][0].numpy().transpose(1, 2, 0)
    shares = held[net.net.graph.outputs[0]][0].flatten().softmax(0).numpy()
    best = int(shares.argmax())

    def image(what: str, label: str) -> str:
        file = io.BytesIO()
        Image.fromarray(examples[what]).save(file, "PNG", optimize=True)
        return f'<img src="data:image/png;base64,{_base64(file.getvalue())}" width="32" height="32" alt="{label}">'

    return {
        "photo": image(SHOWN, f"A drawn {SHOWN}, 32 by 32 pixels"),
        "drawn": "".join(f'<button type="button" data-picture="{what}" disabled>{image(what, f"drawn {what}")}</button>' for what in examples),
        "answer": f"<b>{classes[best]}</b> <span>{_percent(shares[best])} sure</span>",
        "first": SHOWN,
        "class": classes[best],
        "bars": bars(classes, shares, _percent),
        "maps": maps(bits[:, :, :16], 8, "The first 16 maps of bits that binary layer 1 reads", "The maps of bits that the chosen layer reads"),
        "maps-said": f"Binary layer 1 reads {bits.shape[2]} maps of {bits.shape[0]} × {bits.shape[1]} bits; the first 16 are shown.",
    }


def _percent(share: float) -> str:
    """
    >>> _percent(0.9874), _percent(0.99996), _percent(0.0001)
    ('98.7 %', '100 %', '0 %')
    """
    return "100 %" if share >= 0.9995 else "0 %" if share < 0.0005 else f"{100 * share:.1f} %"


# ----------------------------------------------------------------------------------------------- preparation

PENS = {"thin": 0.025, "medium": 0.07, "thick": 0.15}
"""Widths, as shares of the pad's side."""
FRESH = range(11, 19)
"""Seeds of drawings on which nothing was chosen."""


def preparation(net: SimpleNamespace) -> str:
    """How many of the written digits the net reads, by what is done to a drawing before the net sees it: a Markdown table, and how
    many of others, which had no part in the choice."""

    first = [style for style in digits.STYLES if style not in digits.LATER]

    def right(seeds: Iterable[int], styles: Iterable[str] = first, **how) -> tuple[int, int]:
        wanted = [(digit, style, seed) for style in styles for digit in range(10) for seed in seeds]
        answers = logits(net, np.stack([digits.image(digits.drawing(*one), **how) for one in wanted])[:, None]).argmax(1)
        return int((answers == [digit for digit, _, _ in wanted]).sum()), len(wanted)

    found, count = right([0])
    rows = [f"| what the net is shown, right of {count} | {' | '.join(f'{name} pen' for name in PENS)} |", "|---|" + "---:|" * len(PENS)]
    ways = {
        "the whole pad, scaled to 28 × 28": {"box": False, "mass": False},
        "the same, centre of mass in the middle": {"box": False},
        "longer side scaled to 20 pixels": {"mass": False},
        "both": {},
    }
    for said, how in ways.items():
        rows.append(f"| {said} | {' | '.join(str(right([0], pen=pen, **how)[0]) for pen in PENS.values())} |")
    rows.append(f"| both, and the line {digits.LINE} pixels wide whatever the pen: this page | {' | '.join([str(found)] * len(PENS))} |")
    others, of = right(FRESH)
    later, of_later = right(range(25), digits.LATER)
    return "\n".join(rows) + (
        f"\n\nOf {of} other drawings in the same styles, which had no part in the choice, the page's net reads {others}. Of {of_later} "
        f"drawings in two styles that were added after the choice ({' and '.join(digits.LATER)}), it reads {later}. There the pen is slow "
        "in bends and fast between them, drifts, and begins and ends too early or too late. The same program wrote all of these digits, from "
        "a few strokes for each."
        + (" So for its hand the answer is yes; for yours, the pad above tells." if others + later > 0.9 * (of + of_later) else "")
        + "\n"
    )
