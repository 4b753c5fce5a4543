"""The kernels as WebAssembly, run by wasmtime: the same logits as the native engine, and the module as small as a page wants it."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bnnlib import data, deploy, layers
from bnnlib.book.live import module as live_module
from bnnlib.data import evaluate
from bnnlib.deploy import files, program, run
from bnnlib.deploy.graph import Graph

wasmtime = pytest.importorskip("wasmtime")
pytest.importorskip("ziglang")
VARIANTS = ("wasm", "scalar", "reference")


class Host:
    """A network in an instance of the module, for ``room`` images at a time."""

    def __init__(self, module: wasmtime.Module, graph: Graph, room: int, variant: str = "wasm") -> None:
        self.store = wasmtime.Store(module.engine)
        self.exports = wasmtime.Instance(self.store, module, []).exports(self.store)
        self.graph, self.room = graph, room
        made = program.assemble(graph)
        for number, slot in enumerate(made.slots):  # every slot has memory of its own, which a host may read after a run
            slot["area"], slot["offset"] = "outside", number
        self.numbers = made.numbers
        pairs = [number for array in made.constants for number in (self.put(array.tobytes()), array.nbytes)]
        tables = [x for rows in made.tables(run.kernels()).values() for x in (self.put(rows.tobytes()), len(rows))]
        constants = self.put(struct.pack(f"<{len(pairs)}i", *pairs))
        self.loaded = self.call("load", self.put(variant.encode() + b"\0"), *tables, constants, len(made.constants), room)

    def call(self, name: str, *values: int) -> int:
        return self.exports[name](self.store, *values)

    def put(self, content: bytes) -> int:
        at = self.call("allocate", max(1, len(content)))
        assert at
        self.exports["memory"].write(self.store, content, at)
        return at

    def error(self) -> str:
        start = self.call("error")
        return bytes(self.exports["memory"].read(self.store, start, start + 200)).split(b"\0")[0].decode()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits ``[N, classes]`` of images ``[N, C, H, W]``."""
        done = []
        for first in range(0, len(images), self.room):
            some = np.ascontiguousarray(images[first : first + self.room].transpose(0, 2, 3, 1), "<f4")
            self.exports["memory"].write(self.store, some.tobytes(), self.call("slot", self.numbers[self.graph.inputs[0]]))
            assert self.call("run", len(some)) == 1, self.error()
            done.append(self.slot(self.graph.outputs[0], len(some)))
        return np.concatenate(done).reshape(len(images), -1)

    def slot(self, name: str, count: int) -> np.ndarray:
        """The values of a slot after a run: float32 ``[N, H, W, C]``, or booleans."""
        slot, at = self.graph.slots[name], self.call("slot", self.numbers[name])
        raw = np.frombuffer(bytes(self.exports["memory"].read(self.store, at, at + count * slot.bytes)), np.uint8)
        h, w, c = slot.shape
        if slot.kind == "float32":
            return raw.view("<f4").reshape(count, h, w, c).copy()
        return np.unpackbits(raw.reshape(count, h, w, -1), axis=-1, count=c, bitorder="little").astype(bool)


@pytest.fixture(scope="module")
def module():
    made = wasmtime.Module(engine := wasmtime.Engine(), live_module.build())
    made.engine = engine
    return made


def packed(recipe: str) -> tuple[deploy.PackedNetwork, dict]:
    path = files.FOLDER / f"{recipe}.safetensors"
    about = deploy.info(path)
    return deploy.convert(deploy.load(path), about["images"]["shape"]), about


@pytest.fixture(scope="module")
def lenet():
    return packed("ours-lenet5")


def seen_by(about: dict, images: torch.Tensor) -> np.ndarray:
    """Images as the net wants them."""
    return evaluate.input_transform(about["input"], SimpleNamespace(**about["images"]))(images).numpy()


def plain(graph: Graph, images: np.ndarray, at_once: int) -> np.ndarray:
    """Logits of the engine without instruction sets. The order of a float sum depends on how many images run at once."""
    runner = run.Runner(graph, kernel="scalar")
    return np.concatenate([runner(images[i : i + at_once]) for i in range(0, len(images), at_once)])


def test_the_module_is_small_and_imports_nothing(module):
    assert len(live_module.build()) < 200_000
    assert not module.imports
    assert {export.name for export in module.exports} == {"memory", "allocate", "names", "load", "slot", "run", "error"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_100_images_give_the_plain_engine_s_logits_to_the_bit(module, lenet, variant):
    net, about = lenet
    images = seen_by(about, data.load("digits").test.images[:100])
    host = Host(module, net.graph, 7, variant)
    assert np.array_equal(host(images), plain(net.graph, images, 7))
    shown = ["conv2.layer.input", "fc1.layer.input", "fc1.act"]
    native = deploy.PackedNetwork(net.graph, kernel="scalar").values(torch.from_numpy(images[98:]), shown)
    for name in shown:  # of the last two, which are in memory still
        assert np.array_equal(host.slot(name, 2), native[name].numpy().transpose(0, 2, 3, 1))


def test_the_net_for_pictures_too(module):
    net, about = packed("ours-vgg-20ep")
    images = seen_by(about, torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 3, 32, 32), np.uint8)))
    assert np.array_equal(Host(module, net.graph, 1)(images), plain(net.graph, images, 1))


def test_the_whole_test_set_of_mnist(module, lenet, bnn_data):
    """The plain engine's logits to the bit; and every answer of the kernels that this CPU likes best."""
    net, about = lenet
    split = data.load("mnist", bnn_data).test
    images = seen_by(about, split.images)
    host = Host(module, net.graph, 50)(images)
    assert np.array_equal(host, plain(net.graph, images, 50))
    assert 100 * (host.argmax(1) == split.labels.numpy()).mean() == pytest.approx(about["top1"], abs=0.02)
    assert (host.argmax(1) != run.Runner(net.graph)(images).argmax(1)).sum() <= 1


def layer(channels: int, outputs: int, groups: int = 1) -> torch.nn.Module:
    torch.manual_seed(channels)
    conv = layers.BinaryConv2d(channels, outputs, 3, padding=1, groups=groups)
    return torch.nn.Sequential(torch.nn.Conv2d(2, channels, 1), conv, torch.nn.BatchNorm2d(outputs)).eval()


@pytest.mark.parametrize("channels, outputs, groups", [(1, 1, 1), (9, 17, 1), (64, 65, 1), (129, 130, 1), (66, 34, 2)])
def test_awkward_layers(module, channels, outputs, groups):
    """Long rows too: a count of 8 bits widens after 31 bytes."""
    net = deploy.convert(layer(channels, outputs, groups), (2, 5, 6))
    images = np.random.default_rng(channels).standard_normal((3, 2, 5, 6), np.float32)
    expected = plain(net.graph, images, 2).transpose(0, 2, 3, 1)
    assert np.array_equal(Host(module, net.graph, 2)(images), expected.reshape(3, -1))


@pytest.mark.parametrize(
    "room, variant, says",
    [(0, "wasm", "images is below 1"), (1, "avx2", "variant is unknown"), (2**27, "wasm", "not enough memory for the activations")],
)
def test_what_cannot_be_loaded_is_refused(module, lenet, room, variant, says):
    host = Host(module, lenet[0].graph, room, variant)
    assert not host.loaded and says in host.error()
    assert not host.call("run", 1) and not host.call("slot", 0)


def test_more_images_than_there_is_room_for_are_refused(module, lenet):
    host = Host(module, lenet[0].graph, 2)
    for count in (3, 0, -1):
        assert not host.call("run", count) and "no room for so many" in host.error()
    assert host.call("run", 2) and not host.call("slot", 99) and not host.call("slot", -1)


def test_a_missing_compiler_and_sources_that_do_not_compile_get_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "wasm").mkdir()
    (tmp_path / "wasm" / "module.cpp").write_text("int broken(")
    monkeypatch.setenv("BNN_KERNEL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(live_module.ModuleError, match="do not compile to WebAssembly: .*expected"):
        live_module.build(tmp_path)
    monkeypatch.setattr(live_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(live_module.ModuleError, match="need the package ziglang"):
        live_module.build()
