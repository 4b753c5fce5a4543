"""Binary layers in the place of a net's convolutions and linear layers, against nets built by hand."""

import copy

import pytest
import torch
from torch import nn

from bnnlib import layers
from bnnlib.layers import BinaryConv1d, BinaryConv2d, BinaryLinear, binarize_


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2), groups=2),
        nn.Sequential(nn.PReLU(), nn.Conv2d(8, 8, 3, padding="same", dilation=2, bias=False)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


@pytest.mark.parametrize("options", [{}, {"scale": "learned", "sign_of_zero": -1, "latent": "clip"}, {"scale": "none"}], ids=str)
def test_the_net_equals_one_built_by_hand(options):
    real = net()
    by_hand = copy.deepcopy(real)
    by_hand[2] = BinaryConv2d(4, 8, (3, 5), (2, 1), (1, 2), groups=2, bias=True, padding_value=1, **options)
    by_hand[3][1] = BinaryConv2d(8, 8, 3, padding=2, dilation=2, padding_value=1, **options)
    by_hand[6] = BinaryLinear(8, 8, **options)
    by_hand.load_state_dict(real.state_dict(), strict=False)
    for layer in layers.binary_layers(by_hand).values():
        layer.reset_scale()
    parameters = {id(p) for p in real.parameters()}
    assert binarize_(real, padding_value=1, **options) == ["2", "3.1", "6"]
    assert type(real[0]) is nn.Conv2d and type(real[8]) is nn.Linear
    assert parameters <= {id(p) for p in real.parameters()}
    x = torch.randn(5, 1, 8, 8)
    for training in (True, False):
        assert torch.equal(real.train(training)(x), by_hand.train(training)(x))
    assert repr(real) == repr(by_hand)


def test_what_stays_is_named_or_filtered():
    assert binarize_(net(), keep=()) == ["0", "2", "3.1", "6", "8"]
    assert binarize_(net(), keep=("first", "3")) == ["2", "6", "8"]
    assert binarize_(net(), filter_fn=lambda module, name: isinstance(module, nn.Conv2d)) == ["2", "3.1"]
    seen = []
    binarize_(net(), keep=("last", "6"), filter_fn=lambda module, name: seen.append(name) or True)
    assert seen == ["0", "2", "3.1"]
    twice = net()
    binarize_(twice)
    assert binarize_(twice, keep=()) == ["0", "8"]  # what is binary stays


def test_a_shared_layer_stays_shared():
    shared = nn.Conv2d(4, 4, 1)
    model = nn.ModuleDict({"first": nn.Conv2d(1, 4, 1), "a": shared, "b": nn.Sequential(shared), "last": nn.Linear(2, 2)})
    model["a"].register_module("inside", None)
    assert binarize_(model) == ["a"]
    assert type(model["a"]) is BinaryConv2d and model["a"] is model["b"][0]


def test_modules_among_the_options_are_copied():
    model = binarize_and_return(net(), weight_quantizer=layers.EDE())
    a, b = model[2].weight_quantizer, model[6].weight_quantizer
    assert type(a) is type(b) is layers.EDE and a is not b


def binarize_and_return(model, **options):
    binarize_(model, **options)
    return model


def test_type_mode_and_a_frozen_weight_are_kept():
    model = net().double().eval()
    model[2].weight.requires_grad_(False)
    binarize_(model, scale="learned")
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(m.training for m in model.modules())
    assert not model[2].weight.requires_grad and model[6].weight.requires_grad


def test_a_row_of_values():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 6, 3, padding=1, dilation=1, stride=2), nn.Conv1d(6, 2, 1))
    by_hand = BinaryConv1d(4, 6, 3, padding=1, stride=2, bias=True)
    by_hand.load_state_dict({"weight": model[1].weight.unsqueeze(2), "bias": model[1].bias})
    binarize_(model)
    x = torch.randn(2, 4, 9)
    assert torch.equal(model[1](x), by_hand(x))


def test_the_net_learns_and_is_packed():
    from bnnlib import deploy

    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 36, 3),
    )  # fmt: skip
    binarize_(model, sign_of_zero=-1)
    before = model[3].weight.detach().clone()
    x = torch.randn(16, 1, 6, 6)
    nn.functional.cross_entropy(model(x), torch.arange(16) % 3).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.equal(before, model[3].weight)
    packed = deploy.convert(model.eval(), (1, 6, 6))
    assert [op.kind for op in packed.graph.ops].count("binary_conv") == 1
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-4)


BAD = [
    (lambda: binarize_(nn.Linear(3, 4)), "the model itself is a Linear"),
    (lambda: binarize_(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))), "no layer would be replaced: .* are 0, 1"),
    (lambda: binarize_(nn.Sequential(nn.ReLU())), "no layer would be replaced: .* are none"),
    (
        lambda: binarize_(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 3, 3))),
        r"nn.Conv2d and nn.Linear are 0, 2; keep is .*\. Of other types, which stay: 1 \(ConvTranspose2d\)$",
    ),
    (
        lambda: binarize_(nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyLinear(3)), keep=()),
        r"are none; .*stay: 0 \(LazyConv2d\), 1 \(LazyLinear\); lazy layers have types of their own once the model has seen an image",
    ),
    (lambda: binarize_(net(), keep="first"), r"keep is 'first': give a list of names, such as \['first'\]"),
    (lambda: binarize_(net(), keep=("7.1",)), "keep names '7.1', which is no module of the model; .*: 0, 2, 3.1, 6, 8"),
    (lambda: binarize_(net(), keep=(), scale="xnorpp"), r"0, Conv2d\(.*needs output_size.*; leave it out by filter_fn or keep"),
    (lambda: binarize_(nn.Sequential(nn.Conv2d(1, 1, 1, padding_mode="circular")), keep=()), "0, Conv2d.*padding_mode is 'circular'"),
    (
        lambda: binarize_(nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 4), 2, enable_nested_tensor=False)),
        "layers.0.linear2 is part of layers.0, an nn.TransformerEncoderLayer",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_cannot_be_binary_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_weight_norm_and_hooks_are_not_lost_and_an_error_leaves_the_model():
    model = net()
    model[6].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="6 has hooks or parameters of its own"):
        binarize_(model)
    assert not layers.binary_layers(model)
    model = net()
    model[6].register_parameter("gate", nn.Parameter(torch.ones(8)))
    with pytest.raises(ValueError, match="6 has hooks or parameters of its own"):
        binarize_(model)
    model = net()
    model[6] = nn.utils.parametrizations.weight_norm(model[6])  # of a type of its own, which stays
    assert binarize_(model) == ["2", "3.1"]
