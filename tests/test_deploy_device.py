"""The route that a packed network takes on a GPU, run on the CPU: with the CPU's kernels against the native executor, and with the
CUDA kernels emulated (``tests/cuda_emulated.py``)."""

from __future__ import annotations

from pathlib import Path

import cuda_emulated
import pytest
import torch
from small_net import images, trained_small
from torch import nn

from bnnlib import deploy, layers, models
from bnnlib.deploy import device, operations
from bnnlib.deploy.graph import Graph, Op, Slot
from bnnlib.ops import _backend
from bnnlib.ops.cuda import Cuda

CPU = torch.device("cpu")


library = cuda_emulated.library


@pytest.fixture(scope="module")
def small():
    return deploy.convert(trained_small(), (3, 22, 25))


def compare(net, x):
    """Every slot. Sums of real-valued products differ in their last bits, so a bit behind one may."""
    names = list(net.graph.slots)
    expected = net.values(x, names)
    runner = device.DeviceRunner(net.graph, CPU, net.calls)
    found = runner.values(x, names)
    for name in names:
        slot = net.graph.slots[name]
        if slot.kind == "bits":
            bits = device.ops.unpack_activation(found[name], slot.shape[2]) > 0
            assert (bits != expected[name]).float().mean() < 1e-3, name
        else:
            assert torch.allclose(found[name].reshape(expected[name].shape), expected[name], atol=2e-3, rtol=1e-4), name


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

    net = deploy.convert(Net().eval(), (5, 2, 2))
    if not net.calls:
        pytest.skip("nothing is left to PyTorch")
    compare(net, images(2, shape=(5, 2, 2)))
    with pytest.raises(ValueError, match="runs in PyTorch and is a function, no module, so it cannot be moved to cpu"):
        device.DeviceRunner(net.graph, CPU, {name: lambda x: x for name in net.calls})


def test_all_operations_and_stages_are_known():
    source = Path(device.__file__).read_text()
    kinds = {*operations.OPERATIONS, *operations.STAGES} - {"bits", "move"}  # `move`: what of TENSOR is no other kind
    assert all(f'"{kind}"' in source for kind in kinds) and "move" in operations.TENSOR
