"""Nets that are compiled for training, beside themselves."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnnlib.training import compiling

CPU = torch.device("cpu")


class Pools(nn.Module):
    """Convolutions between poolings of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.overlapping = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1)
        self.uneven, self.again = nn.MaxPool2d((2, 1), (1, 2), ceil_mode=True), nn.Conv2d(4, 5, 3, dilation=1)

    def forward(self, x):
        x = self.again(self.overlapping(self.conv(x)))
        places = F.max_pool2d(x, 2, return_indices=True)[1]
        return F.max_pool2d(self.uneven(x), 2, dilation=2).flatten(1).sum(1) + places.sum()


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_a_compiled_net_is_the_net(form):
    torch.manual_seed(0)
    model = Pools().to(memory_format=form)
    x = torch.randint(-2, 3, (3, 3, 16, 20)).float().contiguous(memory_format=form)  # with ties, as sums of signs have
    compiled = compiling.compiled(model, CPU)
    found = {}
    for name, net in (("as it is", model), ("compiled", compiled)):
        a = x.clone().requires_grad_()
        y = net(a)
        found[name] = y, *torch.autograd.grad(y.square().sum(), [a, *model.parameters()])
    for mine, reference in zip(found["compiled"], found["as it is"], strict=True):
        assert mine.shape == reference.shape and torch.allclose(mine, reference, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(compiled(x), found["as it is"][0], rtol=1e-5)


def test_a_pooling_in_training_is_pytorchs_kernel_and_in_evaluation_the_compilers(monkeypatch):
    called = []
    kernel = compiling._pool
    monkeypatch.setattr(compiling, "_pool", lambda *given: called.append(given) or kernel(*given))
    torch._dynamo.reset()
    net = compiling.compiled(nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(2)), CPU)
    with torch.no_grad():
        net(torch.randn(2, 1, 4, 4))
    assert not called
    net(torch.randn(2, 1, 4, 4)).sum().backward()
    assert called


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_is_one_to_pytorch(dtype):
    x = torch.randn(2, 3, 7, 8).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    given = x, [3], [2], [1], [1], True
    torch.library.opcheck(torch.ops.bnn.max_pool2d.default, given)
    indices = torch.ops.bnn.max_pool2d(*given)[1]
    gradient = torch.randn(indices.shape).to(dtype)
    torch.library.opcheck(torch.ops.bnn.max_pool2d_backward.default, (gradient, x.detach(), *given[1:], indices))
