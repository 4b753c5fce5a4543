"""The route that a packed network takes on a GPU, run on the CPU: with the CPU's kernels against the native executor, and with the
CUDA kernels emulated (``tests/cuda_emulated.py``)."""

from __future__ import annotations

import random

import cuda_emulated
import numpy as np
import pytest
import torch
from slots import compare_slots
from small_net import images, trained_small
from torch import nn

from bnnlib import deploy, layers, models
from bnnlib.deploy import device, network, operations
from bnnlib.deploy.graph import Graph, Op, Slot
from bnnlib.deploy.interpreter import interpret
from bnnlib.deploy.randomgraphs import Maker
from bnnlib.ops import _backend
from bnnlib.ops.cuda import Cuda

CPU = torch.device("cpu")


library = cuda_emulated.library


@pytest.fixture(scope="module")
def small():
    return deploy.convert(trained_small(), (3, 22, 25))


def compare(net, x):
    """Every slot."""
    compare_slots(net.graph, values(net, x), net.values(x, list(net.graph.slots)))


def values(net, x):
    """Every slot, bits as booleans, as a GPU computes them."""
    slots = net.graph.slots
    found = device.DeviceRunner(net.graph, CPU, net.calls).values(x, list(slots))
    return {n: device.ops.unpack_activation(y, slots[n].shape[2]) > 0 if slots[n].kind == "bits" else y for n, y in found.items()}


@pytest.mark.parametrize("batch", [1, 3])
def test_every_operation_gives_what_the_executor_gives(small, batch):
    compare(small, images(batch))


@pytest.mark.parametrize("name", ["lenet5", "mlp", "nin"])
def test_whole_networks(name):
    torch.manual_seed(0)
    shape = (3, 32, 32) if name == "nin" else (1, 28, 28)
    net = deploy.convert(models.build(name).eval(), shape)
    compare(net, images(2, shape=shape))


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_weights_of_fewer_bits(weights):
    torch.manual_seed(0)
    net = deploy.convert(models.build("mlp-real").eval(), (1, 28, 28), real=weights)  # no sign makes more of a small difference
    x = images(4, shape=(1, 28, 28))
    found = device.DeviceRunner(net.graph, CPU).values(x, net.graph.outputs)[net.graph.outputs[0]]
    expected = net(x)  # where the CPU multiplies bfloat16, of activations rounded to it
    assert (found.flatten(1) - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("formulation", ["tensor", "carry-save"])
@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_networks_on_emulated_kernels(name, formulation, library, monkeypatch):
    torch.manual_seed(0)
    net = deploy.convert(models.build(name).eval(), (1, 28, 28))
    x = images(2, shape=(1, 28, 28))
    expected = device.DeviceRunner(net.graph, CPU).values(x, list(net.graph.slots))
    emulated = Cuda(cuda_emulated.Emulated(library), formulation)
    monkeypatch.setattr(_backend, "backend", lambda: emulated)
    found = device.DeviceRunner(net.graph, CPU).values(x, list(net.graph.slots))
    assert all(torch.equal(found[slot], expected[slot]) for slot in found)
    assert any(kernel.startswith("bnn_product") for kernel in emulated.device.launched)


def test_s3s_network_on_its_whole_test_set(bnn_data, library, monkeypatch):
    """Its binary layer on emulated CUDA kernels: the classes are those of the native kernels (the chapter on S3 says so)."""
    from bnnlib import data

    model = deploy.load(deploy.FOLDER / "s3-mlp.safetensors")
    net = deploy.convert(model, (1, 28, 28))
    try:
        images = data.load("mnist", download=False).test.images
    except data.DataNotFound:
        pytest.skip("no MNIST here")
    x = images.reshape(-1, 1, 28, 28).float() / 255
    expected = device.DeviceRunner(net.graph, CPU).values(x, net.graph.outputs)
    emulated = Cuda(cuda_emulated.Emulated(library), "tensor")
    monkeypatch.setattr(_backend, "backend", lambda: emulated)
    found = device.DeviceRunner(net.graph, CPU).values(x, net.graph.outputs)
    name = net.graph.outputs[0]
    assert len(x) == 10_000 and torch.equal(found[name], expected[name])
    agree = (found[name].flatten(1).argmax(1) == net(x).argmax(1)).double().mean()
    assert agree == 1  # sums of real-valued products have another order: were one class to differ, look at its bits


def test_an_affine_stage_rounds_once_where_it_says_so():
    x = torch.randn(2, 3, 4, 5)
    scale, bias = torch.randn(3), torch.randn(3)
    graph = Graph(
        ["x"], ["y"], {"x": Slot("float32", (4, 5, 3)), "y": Slot("float32", (4, 5, 3))},
        [Op("map", ["x"], {"repeat": 1}, {}, [{"op": "affine", "scale": "s", "bias": "b", "fused": True}, {"op": "store", "slot": "y"}])],
        {"s": scale.numpy(), "b": bias.numpy()},
    )  # fmt: skip
    graph.validate()
    expected = deploy.PackedNetwork(graph)(x)
    assert torch.equal(device.DeviceRunner(graph, CPU).values(x, ["y"])["y"], expected)


def test_slots_are_let_go_when_nothing_reads_them(small):
    runner = device.DeviceRunner(small.graph, CPU)
    assert set(runner.values(images(1), small.graph.outputs)) == set(small.graph.outputs)
    assert set(runner.last_reader) == {n for op in small.graph.ops for n in op.reads()} - set(small.graph.outputs)


def test_what_cannot_be_moved_is_refused():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.fc = nn.Softplus(), layers.BinaryLinear(20, 10)

        def forward(self, x):
            return self.fc(self.odd(x.flatten(1)) - 1)

    net = deploy.convert(Net().eval(), (5, 2, 2), keep=["odd"])
    assert list(net.calls) == ["odd"]
    compare(net, images(2, shape=(5, 2, 2)))
    with pytest.raises(ValueError, match="runs in PyTorch and is a function, no module, so it cannot be moved to cpu"):
        device.DeviceRunner(net.graph, CPU, {name: lambda x: x for name in net.calls})


def stage_alone(kind: str) -> Graph:
    """A stage of one value, or of two, on an input."""
    stage = {"op": kind, **({"alpha": 0.7} if kind == "elu" else {"slot": "y"} if kind in operations.PAIRS else {})}
    slots = dict.fromkeys(("x", "y", "z"), Slot("float32", (4, 3, 5)))
    graph = Graph(["x", "y"], ["z"], slots, [Op("map", ["x"], {"repeat": 1}, {}, [stage, {"op": "store", "slot": "z"}])], {})
    graph.validate()
    return graph


@pytest.mark.parametrize("kind", [*operations.FUNCTIONS, *operations.PAIRS])
def test_stages_of_values_are_the_executors(kind):
    net = deploy.PackedNetwork(stage_alone(kind))
    x, y = (torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    if kind in ("sqrt", "log", "over", "over_from", "reciprocal"):
        x, y = x.abs() + 0.1, y.abs() + 0.1
    torch.testing.assert_close(values(net, [x, y])["z"], net.values((x, y), ["z"])["z"], atol=1e-6, rtol=1e-5)


GRAPHS = [Maker(random.Random(seed)).graph for seed in range(60)]


@pytest.mark.parametrize("number", range(len(GRAPHS)))
def test_random_graphs_give_the_interpreters_values(number):
    """Their sums are exact, so every bit of every slot is."""
    graph = GRAPHS[number]
    h, w, c = graph.slots["x"].shape
    x = np.random.default_rng(number).integers(-4, 5, (3, c, h, w)).astype(np.float32)
    expected, found = interpret(graph, x), values(deploy.PackedNetwork(graph), torch.from_numpy(x))
    for name, y in found.items():
        y = y.numpy().transpose(0, 2, 3, 1)
        assert np.array_equal(2.0 * y - 1 if y.dtype == bool else y, expected[name]), name


def test_these_graphs_hold_every_operation_and_stage():
    ops = [op for graph in GRAPHS for op in graph.ops]
    known = {op.kind for op in ops} | {stage["op"] for op in ops for stage in op.stages} | {*operations.FUNCTIONS, *operations.PAIRS}
    assert known == {*operations.OPERATIONS, *operations.STAGES} - {"torch"}  # a part in PyTorch: the test before the last four


def test_real_valued_products_are_of_float32_and_settings_stay(monkeypatch):
    """Convolutions and linear layers, on a GPU, without TF32; and cuDNN as it was."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    seen = []

    def see(function):
        def call(*arguments):
            seen.append((matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.enabled, cudnn.benchmark))
            return function(*arguments)

        return call

    net = deploy.convert(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(27, 4)), (2, 5, 5))
    monkeypatch.setattr(device.F, "conv2d", see(nn.functional.conv2d))
    monkeypatch.setattr(torch.Tensor, "__matmul__", see(torch.Tensor.__matmul__))
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        for allowed in (False, True):
            matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = allowed
            values(net, images(2, shape=(2, 5, 5)))
            assert seen == [("ieee", "ieee", True, allowed)] * 2
            assert matmul.allow_tf32 == cudnn.allow_tf32 == cudnn.benchmark == allowed and cudnn.enabled
            seen.clear()
        with pytest.raises(ZeroDivisionError), device._without_tf32():
            raise ZeroDivisionError
        assert matmul.allow_tf32 and cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def test_inputs_are_what_they_are_on_the_cpu(small, monkeypatch):
    """float64 and halves are rounded, an image may come alone, and what is no image is named."""
    x = images(3)
    on_cpu = small(x)
    monkeypatch.setattr(network, "_elsewhere", lambda xs: True)
    want = small(x)
    torch.testing.assert_close(want, on_cpu, atol=2e-3, rtol=1e-4)
    assert torch.equal(small(x.double()), want)
    assert torch.equal(small(x.half()), small(x.half().float())) and torch.equal(small(x.bfloat16()), small(x.bfloat16().float()))
    alone = small(x[1])
    assert alone.shape == on_cpu[1].shape and torch.allclose(alone, want[1], atol=1e-4)
    assert small(x[:0]).shape == (0, 7) and set(small.values(x[0], small.graph.outputs)) == set(small.graph.outputs)
    for bad, message in (
        ((x * 9).byte(), "float32 images, got uint8: scale them"), (x[:, :2], r"images \[N, 3, 22, 25\], got \[3, 2, 22, 25\]"),
        (torch.where(x == x[1, 2, 3, 4], torch.nan, x), "image 1 holds a NaN"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            small(bad)
    with pytest.raises(ValueError, match="takes 1 inputs, got 2"):
        small(x, x)
    net = deploy.PackedNetwork(stage_alone("plus"))
    y = torch.randn(2, 5, 4, 3)
    assert torch.equal(net(y, y), 2 * y) and torch.equal(net(y[0], y[0]), 2 * y[0])
    for other, message in (
        (y[:1], "inputs are of different batches"), (y.numpy(), "tensors on cpu, as the first input is, got a ndarray"),
        (y.to("meta"), "got one on meta"), (torch.full_like(y, torch.nan), "input 1: image 0 holds a NaN"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            net(y, other)
