"""A small packed file that holds every way to store weights, and changes to it whose checksum is right."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bnnlib import deploy
from bnnlib.deploy import DeployError
from bnnlib.deploy.graph import Graph, Op, Slot


def conv(kernel=1, padding=0, **more):
    """Attributes of a convolution with a square kernel."""
    return {
        "kernel": [kernel] * 2, "stride": [1, 1], "padding": [padding] * 2, "dilation": [1, 1], "groups": 1, **more
    }  # fmt: skip


def tiny_graph(seed=0) -> Graph:
    """2x6x6 images -> 4 logits, every way to store weights: real conv - sign - binary conv with thresholds - binary conv
    - real layers in int8 and bf16."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    bits = lambda o, k: np.packbits(rng.random((o, k)) < 0.5, axis=1, bitorder="little")  # noqa: E731
    tensors = {
        "a.weight": normal(5, 3, 3, 2),
        "a.scale": normal(5),
        "a.bias": normal(5),
        "a.low": normal(5),
        "a.high": np.full(5, np.inf, np.float32),
        "b.weight": bits(7, 45),
        "b.threshold": rng.integers(-9, 9, 7).astype(np.int32),
        "b.flip": np.array([0b0100110], np.uint8),
        "c.weight": bits(9, 63),
        "c.by": normal(9),
        "d.weight": rng.integers(-127, 127, (4, 1, 1, 9)).astype(np.int8),
        "d.scale": normal(4) ** 2,
        "e.weight": (normal(4, 1, 1, 4).view(np.uint32) >> 16).astype(np.uint16),
    }
    slots = {
        "images": Slot("float32", (6, 6, 2)),
        "one": Slot("bits", (6, 6, 5)),
        "two": Slot("bits", (3, 3, 7)),
        "three": Slot("float32", (1, 1, 9)),
        "four": Slot("float32", (1, 1, 4)),
        "logits": Slot("float32", (1, 1, 4)),
    }
    threshold = {"op": "threshold", "threshold": "b.threshold", "flip": "b.flip", "pool": 2, "slot": "two"}
    ops = [
        Op("real_conv", ["images"], conv(3, 1, weights="float32"), {"weight": "a.weight"}, [
            {"op": "affine", "scale": "a.scale", "bias": "a.bias", "fused": False},
            {"op": "sign", "low": "a.low", "high": "a.high", "slot": "one"},
        ], "a"),
        Op("binary_conv", ["one"], conv(3, 1), {"weight": "b.weight"}, [threshold], "b"),
        Op("binary_conv", ["two"], conv(3), {"weight": "c.weight"}, [
            {"op": "scale", "by": "c.by"}, {"op": "relu"}, {"op": "store", "slot": "three"},
        ], "c"),
        Op("real_conv", ["three"], conv(weights="int8"), {"weight": "d.weight", "scale": "d.scale"}, [
            {"op": "clamp", "low": -1e9, "high": 1e9}, {"op": "store", "slot": "four"},
        ], "d"),
        Op("real_conv", ["four"], conv(weights="bfloat16"), {"weight": "e.weight"}, [
            {"op": "residual", "slot": "four"}, {"op": "store", "slot": "logits"},
        ], "e"),
    ]  # fmt: skip
    return Graph(["images"], ["logits"], slots, ops, tensors)


@pytest.fixture
def good(tmp_path):
    """The path of a file with :func:`tiny_graph`."""
    return deploy.save(tiny_graph(), tmp_path / "good.safetensors", about={"recipe": "net"})


def sealed(header: dict | str, data: bytes = b"") -> bytes:
    """A file with this header and its right checksum, whatever else is wrong with it."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    raw = bytearray(len(text.encode()).to_bytes(8, "little") + text.encode() + data)
    if match := re.search(rb'"sha256":"(0{64})"', raw):
        raw[slice(*match.span(1))] = hashlib.sha256(raw).hexdigest().encode()
    return bytes(raw)


def taken_apart(path: Path) -> tuple[dict, dict, bytes]:
    """(header, document, data)."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    return header, json.loads(header["__metadata__"]["bnnlib"]), raw[start:]


def changed(path: Path, change) -> Path:
    """The file with header and document changed by ``change(header, document)``, sealed anew."""
    header, document, data = taken_apart(path)
    change(header, document)
    header["__metadata__"] = {"bnnlib": json.dumps(document), "sha256": "0" * 64}
    bad = path.with_name("bad.safetensors")
    bad.write_bytes(sealed(header, data))
    return bad


def refuses(path, message=None):
    """The file is refused in a message that is short, names its path and matches ``message``."""
    with pytest.raises(DeployError, match=message) as caught:
        deploy.read_graph(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def with_graph(change):
    """A change for :func:`changed` that sees the graph alone."""
    return lambda header, document: change(document["graph"])
