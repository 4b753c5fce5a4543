"""Layers that are given their quantizers, scales and constraints as modules, of ours and of a user's."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnnlib import deploy, layers, ops
from bnnlib.layers import BinaryConv1d, BinaryConv2d, BinaryLinear


def triangle(x):
    return (1 - x.abs()).clamp(min=0) * 3


class Triangle(layers.Sign):
    """A gradient that the library does not have."""

    def derivative(self, x):
        return triangle(x)


class Ternary(nn.Module):
    """Values in {-1, 0, 1}: no bits stand for them."""

    def forward(self, x):
        return x + (torch.sign(x) * (x.abs() > 0.5) - x).detach()


class MedianSign(layers.Quantizer):
    """Signs, though of another number: a threshold is needed that the converter does not know."""

    def forward(self, x):
        return x + (torch.where(x >= x.median(), 1.0, -1.0) - x).detach()


class Alternating(layers.Quantizer):
    """Weights of +-1 that no latent weight's sign is."""

    def forward(self, w):
        return w + (torch.where(torch.arange(w.numel()) % 2 == 0, 1.0, -1.0).view(w.shape) - w).detach()


class RowScale(nn.Module):
    """An output scale with a parameter of its own, to a row of the output."""

    def __init__(self, rows):
        super().__init__()
        self.row = nn.Parameter(torch.arange(1.0, rows + 1).view(1, rows, 1))

    def forward(self):
        return self.row


class Positive(nn.Module):
    def forward(self, weight):
        return weight.abs()


BY_NAME = [
    ({"scale": "none", "ste": "identity", "weight_ste": "polynomial"},
     {"input_quantizer": layers.IdentitySTE(), "weight_quantizer": layers.ApproxSign()}),
    ({"gradient": "s4", "gain": 3.0, "sign_of_zero": -1}, {"input_quantizer": layers.ClippedSTE(zero=-1), "weight_quantizer": layers.ScaledSign("s4", 3.0)}),
    ({"scale": "learned", "scale_init": 0.5, "transform": "center", "latent": "clip"},
     {"output_scale": layers.LearnedScale(5, init=0.5), "transform": layers.Center(), "latent": layers.Clip()}),
    ({"scale": "xnorpp", "output_size": (5, 4)}, {"output_scale": layers.OuterProductScale(5, (5, 4))}),
    ({"binary_input": False, "latent": "center-clip"}, {"input_quantizer": None, "latent": layers.CenterClip()}),
]  # fmt: skip


@pytest.mark.parametrize(("names", "modules"), BY_NAME, ids=str)
def test_a_module_does_what_its_name_does(names, modules):
    made = []
    for options in (names, modules):
        torch.manual_seed(0)
        layer = BinaryConv2d(6, 5, 3, **options)
        x = torch.randn(2, 6, 7, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        layers.project_(layer)
        made.append([y, x.grad, layer.weight, *(p.grad for p in layer.parameters())])
        assert list(layer.state_dict()) == list(BinaryConv2d(6, 5, 3, **names).state_dict())
    for a, b in zip(*made, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("zero", [1, -1])
def test_a_derivative_of_ones_own_is_the_gradient_of_input_and_weight(zero, monkeypatch):
    counted = []
    count = ops.conv2d_of_signs
    monkeypatch.setattr(ops, "conv2d_of_signs", lambda *args: counted.append(args) or count(*args))
    layer = BinaryConv2d(6, 5, 3, input_quantizer=Triangle(zero), weight_quantizer=Triangle())
    x = torch.randn(2, 6, 7, 6)
    x[0, 0] = 0
    a = x.clone().requires_grad_()
    given = torch.randn(2, 5, 5, 4)
    layer(a).backward(given)
    assert counted, "bits are counted"
    b = torch.where(x >= 0 if zero == 1 else x > 0, 1.0, -1.0).double().requires_grad_()
    w = torch.where(layer.weight >= 0, 1.0, -1.0).double().detach().requires_grad_()
    F.conv2d(b, w).backward(given.double())
    torch.testing.assert_close(a.grad.double(), b.grad * triangle(x).double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad.double(), w.grad * triangle(layer.weight.detach()).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_values_that_are_no_signs_are_multiplied_as_they_are(training):
    conv = BinaryConv2d(6, 5, 3, bias=True, input_quantizer=Ternary(), weight_quantizer=Ternary()).train(training)
    linear = BinaryLinear(20, 4, weight_quantizer=Ternary(), input_quantizer=Ternary()).train(training)
    for layer, function, x in ((conv, F.conv2d, torch.randn(2, 6, 7, 6)), (linear, F.linear, torch.randn(3, 20))):
        with torch.no_grad():
            layer.weight.mul_(4)
        by_hand = [torch.sign(t) * (t.abs() > 0.5) for t in (x, layer.weight.detach())]
        torch.testing.assert_close(layer(x), function(*by_hand, layer.bias))
        with layers.popcount_forward(layer):
            torch.testing.assert_close(layer(x), function(*by_hand, layer.bias))


@pytest.mark.parametrize("training", [True, False])
def test_an_output_scale_of_ones_own_keeps_its_parameter_and_multiplies_the_weights_scale(training):
    layer = BinaryConv2d(6, 5, 3, output_scale=RowScale(5), weight_quantizer=layers.ScaledSign()).train(training)
    assert "output_scale.row" in layer.state_dict()
    x = torch.randn(2, 6, 7, 6)
    alpha = layer.weight.detach().abs().mean((1, 2, 3))
    signs = [torch.where(t >= 0, 1.0, -1.0) for t in (x, layer.weight)]
    y = layer(x)
    want = F.conv2d(*signs) * alpha.view(5, 1, 1) * torch.arange(1.0, 6).view(5, 1)
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    y.sum().backward()
    by_row = (F.conv2d(*signs) * alpha.view(5, 1, 1)).sum((0, 1, 3))
    torch.testing.assert_close(layer.output_scale.row.grad.flatten(), by_row.detach(), rtol=1e-5, atol=1e-4)


def test_a_constraint_of_ones_own_holds_after_a_step():
    layer = BinaryLinear(20, 4, latent=Positive())
    before = layer.weight.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layers.project_after_steps(optimizer, layer)
    layer(torch.randn(3, 20)).sum().backward()
    optimizer.step()
    assert (before < 0).any()
    torch.testing.assert_close(layer.weight.detach(), (before - 0.1 * layer.weight.grad).abs())


def test_a_registered_estimator_has_a_name():
    layers.register_estimator("triangle")(Triangle)
    try:
        assert type(BinaryConv1d(3, 4, 3, ste="triangle").input_quantizer) is Triangle
        with pytest.raises(ValueError, match="'triangle' is taken by Triangle: choose another name"):
            layers.register_estimator("triangle")(layers.ClippedSTE)
    finally:
        del layers.ESTIMATORS["triangle"]


def net(**options):
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(2, 70, 3), nn.BatchNorm2d(70), BinaryConv2d(70, 9, 3, bias=True, **options), nn.BatchNorm2d(9), BinaryConv2d(9, 4, 1),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    with torch.no_grad():
        made(torch.randn(64, 2, 8, 8))  # statistics for the norms
    return made.eval()


CONVERTED = {
    "derivative": {"input_quantizer": Triangle(), "weight_quantizer": Triangle()},
    "derivative, zero": {"input_quantizer": Triangle(-1)},
    "weights": {"weight_quantizer": Alternating()},
    "row scale": {"output_scale": RowScale(4)},
    "both scales": {"output_scale": layers.LearnedScale(9), "weight_quantizer": layers.ScaledSign()},
    "transform": {"transform": Positive()},
}


@pytest.mark.parametrize("name", CONVERTED)
def test_what_computes_signs_is_packed(name):
    model, x = net(**CONVERTED[name]), torch.randn(3, 2, 8, 8)
    packed = deploy.convert(model, (2, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-4)
    assert "PyTorch" not in packed.report()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_quantizer": Ternary()}, "its input quantizer Ternary is not the sign of its input"),
        ({"input_quantizer": MedianSign()}, "its input quantizer MedianSign is not the sign of its input"),
        ({"weight_quantizer": Ternary()}, "its weight quantizer Ternary does not give +-1"),
    ],
)
def test_what_does_not_stays_in_pytorch_and_is_named(options, words):
    model, x = net(**options), torch.randn(3, 2, 8, 8)
    packed = deploy.convert(model, (2, 8, 8))
    assert words in packed.report()
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_hook_on_a_part_is_kept_with_its_layer():
    model, seen, x = net(), [], torch.randn(3, 2, 8, 8)
    model[2].input_quantizer.register_forward_hook(lambda *_: seen.append(1))
    packed = deploy.convert(model, (2, 8, 8))
    assert "its input_quantizer has a forward hook" in packed.report()
    seen.clear()
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-4)
    assert len(seen) == 2


def test_a_linear_layer_on_rows_is_named_too():
    model = nn.Sequential(BinaryLinear(20, 8, input_quantizer=Ternary()), nn.ReLU()).eval()
    packed, x = deploy.convert(model, (5, 20)), torch.randn(2, 5, 20)
    assert "its input quantizer Ternary" in packed.report()
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinaryLinear(3, 4, input_quantizer=layers.ClippedSTE(), ste="clipped"),
         "input_quantizer is given as a module: ste='clipped' would change nothing, leave it out"),
        (lambda: BinaryLinear(3, 4, weight_quantizer=layers.ClippedSTE(), gradient="s4"), "gradient='s4' would change nothing"),
        (lambda: BinaryLinear(3, 4, weight_quantizer=layers.ClippedSTE(), scale="mean"), "scale='mean' would change nothing"),
        (lambda: BinaryLinear(3, 4, output_scale=RowScale(3), scale="learned"), "scale='learned' would change nothing"),
        (lambda: BinaryLinear(3, 4, input_quantizer="clipped"), "input_quantizer is 'clipped': give a module, or a name by ste"),
        (lambda: BinaryLinear(3, 4, input_quantizer=layers.ClippedSTE), "give a module, or a name by ste"),
        (lambda: BinaryLinear(3, 4, weight_quantizer=None), "a layer of real-valued weights is PyTorch's own"),
        (lambda: layers.ClippedSTE(zero=0), "sign_of_zero is 0: it must be +1 or -1"),
        (lambda: layers.ScaledSign("exact"), "unknown gradient 'exact'"),
    ],
)  # fmt: skip
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_an_unknown_option_and_a_missing_derivative_are_named():
    with pytest.raises(TypeError, match="BinaryLinear has no option 'weight_scale': it takes scale, gradient, gain, ste"):
        BinaryLinear(3, 4, weight_scale="mean")
    with pytest.raises(NotImplementedError, match=r"Sign has no gradient: give it a method derivative\(x\)"):
        BinaryLinear(3, 4, input_quantizer=layers.Sign())(torch.randn(2, 3))

    class Flat(layers.Sign):
        def derivative(self, x):
            return torch.ones(())

    with pytest.raises(ValueError, match=r"the derivative is of shape \(\), the values are of \(2, 3\)"):
        BinaryLinear(3, 4, input_quantizer=Flat())(torch.randn(2, 3))


def test_a_derivative_of_ones_own_compiles_without_a_break():
    layer = BinaryLinear(20, 4, input_quantizer=Triangle(), weight_quantizer=Triangle())
    x = torch.randn(3, 20)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
