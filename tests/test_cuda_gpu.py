"""The CUDA kernels on a GPU: equality with the CPU, streams, graphs, compilation, devices. Skipped where there is none."""

from __future__ import annotations

import threading

import pytest
import torch
from slots import compare_slots
from torch import nn

from bnnlib import deploy, models, ops
from bnnlib.ops import _backend, cuda

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


@pytest.fixture(params=cuda.FORMULATIONS)
def formulation(request, monkeypatch):
    monkeypatch.setenv("BNN_CUDA_KERNEL", request.param)
    cuda.backend.cache_clear()
    yield request.param
    cuda.backend.cache_clear()


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(n=2, c=70, o=130, k=3, side=9, seed=0):
    x, w = randn(n, c, side, side, seed=seed), randn(o, c, k, k, seed=seed + 1)
    return x, w, ops.pack_weight(w)


@pytest.mark.parametrize("k", [1, 31, 64, 65, 129, 1000, 65281, 131_080])
@pytest.mark.parametrize("o", [1, 33, 129])
def test_linear_equals_the_cpu(formulation, k, o):
    x, w = randn(3, k, seed=k), randn(o, k, seed=o)
    assert torch.equal(ops.binary_linear(x.cuda(), w.cuda()).cpu(), ops.binary_linear(x, w))


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (3, 2, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_convolutions_equal_the_cpu(formulation, kernel, stride, dilation, groups, channels_last):
    x, w = randn(2, 20 * groups, 17, 15, seed=kernel), randn(37 * groups, 20, kernel, kernel, seed=stride)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    for padding in {0, kernel // 2, kernel - 1}:
        rest = stride, padding, dilation, groups
        y = ops.binary_conv2d(x.cuda(), w.cuda(), *rest)
        assert torch.equal(y.cpu(), ops.binary_conv2d(x, w, *rest))


@pytest.mark.parametrize("out", ["float32", "bfloat16", "int16", "bits"])
@pytest.mark.parametrize("size", [(1, 9), (8, 64)])
def test_epilogues_equal_the_cpu(formulation, out, size):
    n, side = size
    x, w, stored = case(n=n, side=side)
    real = out in ("float32", "bfloat16")
    given = {"scale": randn(130, seed=3), "bias": randn(130, seed=4)} if real else {}
    if out == "float32":
        given["residual"] = randn(n, 130, side, side, seed=5)
    if out == "bits":
        given |= {"threshold": torch.arange(130, dtype=torch.int32) - 65, "flip": ops.pack_words(torch.arange(130) % 3 == 0), "pool": 2}
    expected = ops.conv2d_packed(x, stored, w.shape, padding=1, out=out, **given)
    moved = {name: t.cuda() if isinstance(t, torch.Tensor) else t for name, t in given.items()}
    assert torch.equal(ops.conv2d_packed(x.cuda(), stored.cuda(), w.shape, padding=1, out=out, **moved).cpu(), expected)


def test_packing_and_pooling_equal_the_cpu():
    x = randn(2, 70, 9, 8)
    bits = ops.pack_activation(x)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        assert torch.equal(ops.pack_activation(x.to(dtype).cuda()).cpu(), ops.pack_activation(x.to(dtype)))
    assert torch.equal(ops.or_pool(bits.cuda(), 70, 3, 2, 1).cpu(), ops.or_pool(bits, 70, 3, 2, 1))


def test_gradients_equal_the_cpus():
    results = []
    for device in ("cpu", "cuda"):
        x, w = randn(2, 8, 6, 6).to(device).requires_grad_(), randn(5, 8, 3, 3, seed=1).to(device).requires_grad_()
        ops.binary_conv2d(x, w, padding=1).square().sum().backward()
        results.append((x.grad.cpu(), w.grad.cpu()))
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(*results, strict=True))


def test_the_current_stream_is_used():
    x, w, stored = case(n=64, c=128, o=128, side=32)
    ready = ops.prepack(stored.cuda(), w.shape)
    expected, stream = ops.conv2d_packed(x, stored, w.shape, padding=1), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros(x.shape, device="cuda")
        torch.cuda._sleep(50_000_000)  # what runs on another stream would read zeros
        late.copy_(x)
        y = ops.conv2d_packed(late, ready, w.shape, padding=1)
    stream.synchronize()
    assert torch.equal(y.cpu(), expected)


def test_a_cuda_graph_replays(formulation):
    x, w, stored = case()
    ready, static = ops.prepack(stored.cuda(), w.shape), x.cuda()
    ops.conv2d_packed(static, ready, w.shape, padding=1)  # loads code
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ops.conv2d_packed(static, ready, w.shape, padding=1)
    other = randn(*x.shape, seed=9)
    static.copy_(other)
    graph.replay()
    assert torch.equal(y.cpu(), ops.conv2d_packed(other, stored, w.shape, padding=1))


def test_compiled_by_torch():
    x, w, stored = case()

    def call(x, ready):
        return ops.conv2d_packed(x * 2, ready, w.shape, padding=1).relu()

    ready = ops.prepack(stored.cuda(), w.shape)
    assert torch.equal(torch.compile(call, fullgraph=True)(x.cuda(), ready).cpu(), ops.conv2d_packed(x, stored, w.shape, padding=1).relu())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here")
def test_another_device_than_the_current_one():
    x, w, stored = case()
    expected = ops.conv2d_packed(x, stored, w.shape, padding=1)
    with torch.cuda.device(0):
        y = ops.conv2d_packed(x.to("cuda:1"), stored.to("cuda:1"), w.shape, padding=1)
        assert torch.cuda.current_device() == 0
    assert y.device == torch.device("cuda:1") and torch.equal(y.cpu(), expected)


def test_calls_from_another_thread():
    x, w, stored = case()
    found, ready, here = [], ops.prepack(stored.cuda(), w.shape), x.cuda()
    thread = threading.Thread(target=lambda: found.append(ops.conv2d_packed(here, ready, w.shape, padding=1)))
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert torch.equal(found[0].cpu(), ops.conv2d_packed(x, stored, w.shape, padding=1))


def test_operands_on_different_devices_are_refused():
    x, w, stored = case()
    with pytest.raises(ValueError, match="x is on cuda:0 and weight on cpu: move one of them"):
        ops.conv2d_packed(x.cuda(), stored, w.shape)


def test_empty_batches():
    assert ops.binary_linear(torch.empty(0, 5, device="cuda"), torch.ones(3, 5, device="cuda")).shape == (0, 3)
    y = ops.binary_conv2d(torch.empty(0, 5, 4, 4, device="cuda"), torch.ones(3, 5, 3, 3, device="cuda"))
    assert y.shape == (0, 3, 2, 2) and y.is_cuda


def test_sizes_past_2_to_31_are_refused():
    x = torch.empty(1, device="cuda").expand(2**25, 64)
    with pytest.raises(ValueError, match="fewer than 2\\^31 values"):
        ops.pack_activation(x)
    geometry = [2**12, 2**11, 2**10, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]
    chosen = _backend.of(x)
    blob, bits = torch.empty(chosen.blob_bytes(geometry), dtype=torch.uint8, device="cuda"), torch.empty(1, 1, 1, 1, dtype=torch.int64, device="cuda")
    with pytest.raises(ValueError, match="split the batch"):
        chosen.convolution(geometry, torch.float32)(bits, blob, torch.empty(1, device="cuda"))


@pytest.mark.parametrize("name", ["lenet5", "mlp", "nin"])
def test_networks_equal_the_cpu(formulation, name):
    torch.manual_seed(0)
    shape = (3, 32, 32) if name == "nin" else (1, 28, 28)
    net, x = deploy.convert(models.build(name).eval(), shape), randn(16, *shape)
    slots = [slot for slot in net.graph.slots if slot not in net.graph.inputs]
    same = compare_slots(net.graph, net.values(x.cuda(), slots), net.values(x, slots))
    logits = net(x.cuda())
    assert logits.is_cuda and torch.allclose(logits.cpu()[same], net(x)[same], atol=2e-3, rtol=1e-4)
    assert net(x[:0].cuda()).shape == net(x[:0]).shape


def test_a_layer_in_training_and_evaluation():
    from bnnlib.layers import BinaryLinear

    layer, x = nn.Sequential(BinaryLinear(70, 33)), randn(5, 70)
    expected = layer.eval()(x)
    assert torch.allclose(layer.cuda()(x.cuda()).cpu(), expected, atol=1e-5)
