"""Gradients of binary layers against float64 autograd on their formulas."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from layers_reference import conv_loops, pm, scrambled
from torch import nn

from bnnlib import layers
from bnnlib.layers import BinaryConv2d, BinaryLinear
from bnnlib.quantizers import mean_scale, sign


def test_learned_scale_gets_its_gradient():
    """dC/dscale_o = sum of grad x (sums of +-1 products) over images and positions: no detach in between."""
    conv = scrambled(BinaryConv2d(3, 4, 3, padding=1, bias=True, scale="learned")).double()
    x, g = pm(2, 3, 5, 4).double(), torch.randn(2, 4, 5, 4, dtype=torch.float64)
    dot = conv_loops(sign(x), sign(conv.weight.detach()), padding=(1, 1))
    expected = [sum((g[n, o] * dot[n, o]).sum().item() for n in range(2)) for o in range(4)]
    for mode in (True, False):
        conv.train(mode).zero_grad()
        conv(x).backward(g)
        assert conv.scale.grad.flatten().tolist() == pytest.approx(expected, rel=1e-12)
        assert all(v != 0 for v in expected)
    linear = scrambled(BinaryLinear(6, 3, scale="learned")).double()
    x, g = pm(5, 6).double(), torch.randn(5, 3, dtype=torch.float64)
    linear(x).backward(g)
    dot = sign(x) @ sign(linear.weight.detach()).T
    assert linear.scale.grad.tolist() == pytest.approx(
        [(g[:, o] * dot[:, o]).sum().item() for o in range(3)], rel=1e-12
    )


def test_xnorpp_vectors_get_their_gradients():
    layer = scrambled(BinaryConv2d(3, 4, 3, padding=1, scale="xnorpp", output_size=(5, 6))).double()
    x, g = pm(2, 3, 5, 6).double(), torch.randn(2, 4, 5, 6, dtype=torch.float64)
    layer(x).backward(g)
    dot = conv_loops(sign(x), sign(layer.weight.detach()), padding=(1, 1))
    a, b, c = (
        p.detach().flatten().tolist() for p in (layer.scale_channel, layer.scale_height, layer.scale_width)
    )
    channel, height, width = [0.0] * 4, [0.0] * 5, [0.0] * 6
    for n, o, i, j in itertools.product(range(2), range(4), range(5), range(6)):
        value = (g[n, o, i, j] * dot[n, o, i, j]).item()
        channel[o] += value * b[i] * c[j]
        height[i] += value * a[o] * c[j]
        width[j] += value * a[o] * b[i]
    assert layer.scale_channel.grad.flatten().tolist() == pytest.approx(channel, rel=1e-11)
    assert layer.scale_height.grad.flatten().tolist() == pytest.approx(height, rel=1e-11)
    assert layer.scale_width.grad.flatten().tolist() == pytest.approx(width, rel=1e-11)


@pytest.mark.parametrize(
    ("scale", "shapes"), [("dense", [(4, 5, 6)]), ("channel-map", [(4, 1, 1), (1, 5, 6)])]
)
def test_other_spatial_scales_start_at_one_and_get_their_gradients(scale, shapes):
    layer = BinaryConv2d(3, 4, 3, padding=1, scale=scale, output_size=(5, 6)).double()
    factors = [p for name, p in layer.named_parameters() if name.startswith("scale")]
    assert [tuple(p.shape) for p in factors] == shapes
    assert all((p == 1).all() for p in factors)
    x, g = pm(2, 3, 5, 6).double(), torch.randn(2, 4, 5, 6, dtype=torch.float64)
    layer(x).backward(g)
    by_element = (g * conv_loops(sign(x), sign(layer.weight.detach()), padding=(1, 1))).sum(
        0
    )  # all factors are 1
    for p in factors:
        over = [d for d in range(3) if p.shape[d] == 1]
        torch.testing.assert_close(
            p.grad, by_element.sum(over, keepdim=True) if over else by_element, rtol=1e-11, atol=1e-11
        )


@pytest.mark.parametrize("training", [True, False])
def test_binary_weights_on_a_real_valued_input(training):
    layer = (
        scrambled(BinaryConv2d(6, 5, 1, stride=2, scale="mean", binary_input=False)).double().train(training)
    )
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    alpha = layer.weight.detach().abs().mean((1, 2, 3))
    expected = torch.einsum(
        "nchw,oc->nohw", x[:, :, ::2, ::2], sign(layer.weight.detach())[:, :, 0, 0]
    ) * alpha.view(1, 5, 1, 1)
    torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-12, atol=1e-12)
    assert "binary_input=False" in repr(layer)


@pytest.mark.parametrize("gradient", ["identity", "detached", "paper", "corrected", "s4"])
def test_gradient_of_the_latent_weight(gradient):
    """The layer hands the convolution's own gradient to the formulas that tests/test_quantizers.py checks."""
    layer = BinaryConv2d(4, 3, 3, scale="mean", gradient=gradient, gain=3.0).double()
    x, g = pm(2, 4, 6, 5).double(), torch.randn(2, 3, 4, 3, dtype=torch.float64)
    layer(x).backward(g)
    w = layer.weight.detach()
    alpha, s = mean_scale(w), sign(w)
    into = torch.nn.grad.conv2d_weight(sign(x), w.shape, g)
    expected = {
        "identity": into,
        "detached": alpha * into,
        "paper": into / 36 + alpha * into,
        "corrected": s * (into * s).mean((1, 2, 3), keepdim=True) + alpha * into,
    }
    expected["s4"] = expected["corrected"] * (1 - 1 / 4) * 36
    assert w.abs().max() < 1  # no mask here
    torch.testing.assert_close(layer.weight.grad, 3 * expected[gradient], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("transform", ["none", "center", "standardize"])
@pytest.mark.parametrize("weight_ste", ["identity", "clipped"])
def test_gradient_through_the_transform(transform, weight_ste):
    """Sign replaced by its surrogate, the layer's gradient is plain autograd's through the transform."""
    layer = BinaryConv2d(4, 3, 3, scale="none", transform=transform, weight_ste=weight_ste).double()
    x, g = pm(2, 4, 6, 5).double(), torch.randn(2, 3, 4, 3, dtype=torch.float64)
    layer(x).backward(g)
    w = layer.weight.detach().clone().requires_grad_()
    v = w
    if transform == "center":
        v = w - w.mean(1, keepdim=True)
    elif transform == "standardize":
        v = (w - w.mean((1, 2, 3), keepdim=True)) / (
            w.var((1, 2, 3), correction=0, keepdim=True) + 1e-5
        ).sqrt()
    into = torch.nn.grad.conv2d_weight(sign(x), w.shape, g)
    if weight_ste == "clipped":
        into = into * (v.detach().abs() <= 1)
    expected = torch.autograd.grad(v, w, into)[0]
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-9, atol=1e-10)


def test_real_valued_parts_pass_gradcheck():
    """The layer is smooth in its scales, its bias and the magnitude of its input (through K)."""
    layer = scrambled(
        BinaryConv2d(2, 3, 3, padding=1, bias=True, scale="xnorpp", output_size=(4, 4), input_scale=True)
    ).double()
    x = pm(1, 2, 4, 4).double()
    x = x + 10 * sign(
        x
    )  # beyond 1, where the clipped estimator passes nothing: finite differences do not see an estimator

    def run(channel, height, width, bias, size):
        parameters = {"scale_channel": channel, "scale_height": height, "scale_width": width, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x * size,))

    inputs = [
        p.detach().clone().requires_grad_()
        for p in (layer.scale_channel, layer.scale_height, layer.scale_width, layer.bias)
    ]
    assert torch.autograd.gradcheck(
        run, (*inputs, torch.tensor(1.0, dtype=torch.float64, requires_grad=True))
    )


def test_gradient_of_the_input():
    layer = BinaryLinear(6, 3, bias=False, scale="mean").double()
    x = torch.tensor([[0.5, -0.5, 1.5, -1.5, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    layer(x).backward(torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64))
    w = layer.weight.detach()
    through = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64) @ (
        w.abs().mean(1, keepdim=True) * sign(w)
    )
    mask = torch.tensor([[1.0, 1, 0, 0, 1, 1]], dtype=torch.float64)
    torch.testing.assert_close(x.grad, through * mask, rtol=1e-13, atol=0)


@pytest.mark.parametrize("scale", ["none", "mean", "learned"])
@pytest.mark.parametrize("transform", ["none", "standardize"])
def test_evaluation_gives_the_gradients_of_training_and_the_same_numbers_as_without_them(scale, transform):
    """So that a net with frozen batch norms learns."""
    torch.manual_seed(0)
    conv = BinaryConv2d(6, 3, 3, padding=1, bias=True, scale=scale, transform=transform, latent="clip")
    linear = BinaryLinear(6, 3, scale=scale, transform=transform)
    for layer, shape in ((conv, (2, 6, 4, 5)), (linear, (4, 6))):
        x = torch.randn(shape)
        found = []
        for training in (True, False):
            layer.train(training).zero_grad()
            at = x.clone().requires_grad_()
            y = layer(at)
            y.square().sum().backward()
            found.append([y.detach(), at.grad, *(p.grad for p in layer.parameters())])
        for in_training, in_evaluation in zip(*found, strict=True):
            torch.testing.assert_close(in_evaluation, in_training, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            assert torch.equal(layer(x), found[1][0])
        layer.weight.requires_grad_(False)
        assert torch.equal(layer(x).detach(), found[1][0])


def test_a_scale_of_zero_makes_no_nan_in_evaluation():
    layer = BinaryLinear(6, 3, scale="mean").eval()
    layer.weight.data[0] = 0
    layer(torch.randn(2, 6)).sum().backward()
    assert layer.weight.grad.isfinite().all() and layer.weight.grad[1:].any()


def test_a_frozen_weight_gets_no_gradient():
    layer = BinaryLinear(6, 3, scale="mean").eval()
    layer.weight.requires_grad_(False)
    layer(torch.randn(2, 6)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize("ste", ["identity", "clipped", "polynomial", "tanh"])
@pytest.mark.parametrize("scale", ["none", "mean"])
@pytest.mark.parametrize("training", [True, False])
def test_the_transforms_of_torch_func_give_the_gradients_of_autograd(ste, scale, training):
    torch.manual_seed(0)
    conv = BinaryConv2d(2, 3, 3, ste=ste, scale=scale, bias=True)
    net = nn.Sequential(conv, nn.Flatten(), BinaryLinear(12, 3, ste=ste, scale=scale)).train(training)
    parameters, x, y = dict(net.named_parameters()), torch.randn(4, 2, 4, 4), torch.tensor([0, 1, 2, 1])

    def loss(given, x, y):
        return F.cross_entropy(torch.func.functional_call(net, given, (x,)), y)

    def by_autograd(x, y):
        net.zero_grad()
        loss(parameters, x, y).backward()
        return {name: p.grad.clone() for name, p in parameters.items()}

    torch.testing.assert_close(torch.func.grad(loss)(parameters, x, y), by_autograd(x, y))
    per_image = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(
        parameters, x[:, None], y[:, None]
    )
    expected = [by_autograd(x[i : i + 1], y[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(
        per_image, {name: torch.stack([e[name] for e in expected]) for name in parameters}
    )


def test_a_derivative_of_ones_own_goes_through_the_transforms():
    class Slope(layers.Sign):
        def derivative(self, x):
            return 2 * x

    at = torch.tensor([0.5, -3.0])
    assert torch.func.grad(lambda x: Slope()(x).sum())(at).tolist() == [1, -6]


def test_one_layer_learns():
    """A binary layer with a learned scale fits another one's outputs: its gradients point the right way."""
    torch.manual_seed(0)
    target, layer = (
        BinaryLinear(31, 8, scale="learned", scale_init=0.5).eval(),
        BinaryLinear(31, 8, scale="learned"),
    )
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    x = torch.randn(512, 31)
    with torch.no_grad():
        y = target(x)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert (layer.binary_weight() == target.binary_weight()).float().mean() > 0.95
